"""What one site gives to a sum, as the vector that will be masked.

A part is computed in a thread of its own, from what the analyst chose for the round and from the
data; nothing of it leaves but under masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import pyarrow.compute as pc

from privnb.errors import BadMessage, QueryRefused, SiteFailure
from privnb.federated import ring
from privnb.federated.messages import MAX_ROUND_BYTES
from privnb.site.engine import budget_in_words
from privnb.site.federated.labels import mock_run_label, noisy_label
from privnb.site.ledger import in_words
from privnb.site.reporting import failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from privnb.computation import Computation, Federation
    from privnb.federated.messages import ArrayForm, Form, Work
    from privnb.messages import Budget
    from privnb.release import PrivacyLabel
    from privnb.site.engine import Engine, Priced

__all__ = [
    "MOST_NUMBERS",
    "Computed",
    "Consents",
    "OnTwin",
    "Outage",
    "Part",
    "Totals",
    "read_arrays",
    "require_fitting",
    "require_open",
    "same_consents",
    "unsummed",
]

Consents: TypeAlias = "tuple[pa.Table | None, ...]"
"""By table, who consents; None where nobody is asked."""

MOST_NUMBERS = MAX_ROUND_BYTES // 8 - 2**17
"""How many numbers a vector may have: so many that the message around it fits as well."""
_MOST_ARRAYS = 10_000
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Computed:
    """One site's part in a sum, not yet masked: it is as secret as the data."""

    vector: NDArray[np.uint64]
    form: Form | None = None
    """How to read it, where the computation does not say so."""


class Outage(SiteFailure):
    """The site cannot compute now, whatever the rows are: the same may be computed later."""

    def __init__(self) -> None:
        said = failure()
        super().__init__(said.message, hint=said.hint)


class OnTwin(QueryRefused):
    """An app failed on the mock twin, before it saw a row: that tells of none."""


class Part(Protocol):
    """How a site computes its part in the sums of one run. `compute` is called from any thread.

    Attributes
    ----------
    form
        What the plan made of the question, with all that the others must have the same for their
        noise to protect; empty where there is no noise.
    once
        Whether noise is drawn for a round that protects somebody: then this happens once, whatever
        is asked for again.
    tries
        For how many different inputs one round may be asked for.
    plan
        What is paid for; None where nothing is.
    """

    form: str
    once: bool
    tries: int
    plan: Priced | None

    def check(self, work: Work, arrays: Sequence[NDArray[Any]]) -> None:
        """Refuse work that is not this computation's, before any data is touched."""
        ...

    def consents(self) -> Consents:
        """Say who consents now to what is computed; nothing where that is nobody's data."""
        ...

    def length(self, work: Work) -> int:
        """Return about how many numbers the vector has, if the work turns out to be right."""
        ...

    def compute(self, work: Work, arrays: Sequence[NDArray[Any]], *, parties: int) -> Computed:
        """Compute the vector, such that the sum over so many sites stays in range."""
        ...

    def label(self, *, budget: Budget | None, approved_by: tuple[str, ...]) -> PrivacyLabel:
        """Describe what was given; by whose leave, and what is left of what paid for it."""
        ...

    def close(self) -> None:
        """End what runs for it."""
        ...


class Totals:
    """A site's part of a total, with its piece of the noise: see `privnb.dp.sharing`."""

    tries = 1

    def __init__(self, engine: Engine, computation: Computation, *, mock: bool) -> None:
        from privnb.dp.sharing import form  # noqa: PLC0415 - OpenDP takes seconds

        if computation.federation is None:
            raise ValueError("totals of one site")
        self.federation: Federation = computation.federation
        plan = engine.plan(computation, free=mock)
        require_fitting(plan.share_length)
        self.form = form(plan)
        self.plan: Priced | None = plan
        self._planned = plan
        self._engine = engine
        self._purpose = computation.purpose or ""
        self._mock = mock
        self.once = not mock
        self._closed = False

    def check(self, work: Work, arrays: Sequence[NDArray[Any]]) -> None:
        """Refuse all but the question, which says everything."""
        if work.kind != "totals" or arrays or work.config:
            raise QueryRefused("Totals are asked for without anything beside.", code="E_WORK")

    def consents(self) -> Consents:
        """Say who consents now."""
        if self._mock:
            return ()
        return (self._engine.consenting(self._planned.schema.name, self._purpose),)

    def length(self, work: Work) -> int:
        """One number for each aggregate of each group, known beforehand."""
        del work
        return self._planned.share_length

    def compute(self, work: Work, arrays: Sequence[NDArray[Any]], *, parties: int) -> Computed:
        """Ask the data, and add the noise."""
        del work, arrays
        require_open(closed=self._closed)
        rows = self._engine.rows(self._planned.sql, purpose=self._purpose, mock=self._mock)
        integers = self._planned.share(rows, pieces=self.federation.pieces)
        return Computed(vector=ring.from_integers(integers, parties=parties))

    def label(self, *, budget: Budget | None, approved_by: tuple[str, ...]) -> PrivacyLabel:
        """Describe the noise at this site and in the sum."""
        from privnb.dp.sharing import mechanism  # noqa: PLC0415 - OpenDP takes seconds

        del approved_by
        plan, federation = self._planned, self.federation
        told = mechanism(plan, sites=len(federation.sites), pieces=federation.pieces)
        if self._mock:
            return mock_run_label(federation, mechanism=told, noisy=True)
        return noisy_label(
            federation,
            mechanism=told,
            epsilon=in_words(plan.price.epsilon),
            delta=plan.delta,
            schema=plan.schema,
            clamps=tuple(plan.clamps),
            budget=budget_in_words(plan.schema, budget) if budget else "the grant is gone",
            population=self._engine.restriction(plan.schema.name, self._purpose),
        )

    def close(self) -> None:
        """Read nothing more."""
        self._closed = True


def require_open(*, closed: bool) -> None:
    """Refuse to compute for a run that is over: it waited behind others."""
    if closed:
        raise QueryRefused("The run is over.", code="E_WORK")


def same_consents(one: Consents, other: Consents) -> bool:
    """Tell whether the same people consent; a register in a file gives the same object for that."""
    return len(one) == len(other) and all(
        a is b
        or (a is not None and b is not None and len(a) == len(b) and _within(a["unit"], b["unit"]))
        for a, b in zip(one, other, strict=True)
    )


def _within(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_in(one, value_set=other)).as_py())


def unsummed() -> QueryRefused:
    """Say that a part on data failed: always so, since why it did may tell about rows."""
    return QueryRefused(
        "The app gave nothing that can be summed.",
        hint="Try it with --mock, which says why: on real data, more would tell about rows.",
        code="E_OUTPUT",
    )


def require_fitting(numbers: int) -> None:
    """Refuse a computation whose vector would not fit into a message."""
    if numbers > MOST_NUMBERS:
        raise QueryRefused(
            f"The sum would have {numbers:,} numbers; at most {MOST_NUMBERS:,} are summed.",
            hint="Group more coarsely, or ask for fewer aggregates.",
        )


def read_arrays(forms: Sequence[ArrayForm], blob: bytes) -> list[NDArray[Any]]:
    """Read the arrays that follow a message, exactly those that it names; raises `BadMessage`.

    They are views of ``blob``, and cannot be written to.
    """
    if len(forms) > _MOST_ARRAYS or any(len(each.name) > _LONGEST_NAME for each in forms):
        raise BadMessage("The round names more arrays, or longer names, than are read.")
    if len({each.name for each in forms}) < len(forms):
        raise BadMessage("The round names an array twice.")
    arrays, start = [], 0
    for form in forms:
        if any(length < 0 for length in form.shape):
            raise BadMessage("An array of the round has an impossible shape.")
        kind = np.dtype(form.dtype).newbyteorder("<")
        size = math.prod(form.shape)
        end = start + size * kind.itemsize
        if end > len(blob):
            raise BadMessage("The arrays of the round are cut short.")
        arrays.append(np.frombuffer(blob, kind, count=size, offset=start).reshape(form.shape))
        start = end
    if start != len(blob):
        raise BadMessage("The round has more bytes than its arrays.")
    return arrays
