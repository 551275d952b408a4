"""A model of ours, trained over several sites under differential privacy: one site's part in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from privnb.errors import QueryRefused
from privnb.federated import ring
from privnb.site.engine import budget_in_words
from privnb.site.federated.labels import mock_run_label, noisy_label
from privnb.site.federated.parts import Computed, require_open, same_consents
from privnb.site.ledger import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from privnb.computation import Computation, Federation
    from privnb.dp.design import Rows
    from privnb.federated.messages import Work
    from privnb.messages import Budget
    from privnb.release import PrivacyLabel
    from privnb.site.engine import Engine, Priced
    from privnb.site.federated.parts import Consents

__all__ = ["Model"]


class Model:
    """Noisy sums of what each person adds to a round; see `privnb.dp.training`.

    Rows are read at the first round and kept, until the people who consent are others.
    """

    tries = 1

    def __init__(self, engine: Engine, computation: Computation, *, mock: bool) -> None:
        plan = engine.plan_model(computation, free=mock)
        self.plan: Priced | None = plan
        self.form = plan.form
        self._planned = plan
        self._federation: Federation = plan.federation
        self._engine = engine
        self._purpose = computation.purpose or ""
        self._mock = mock
        self.once = not mock
        self._closed = False
        self._rows: Rows | None = None
        self._consents: Consents = ()

    def check(self, work: Work, arrays: Sequence[NDArray[Any]]) -> None:
        """Refuse all but a round at some parameters."""
        start = self._planned.start
        fitting = [(start.dtype, start.shape)] == [(each.dtype, each.shape) for each in arrays]
        if work.kind != "gradient" or not fitting or work.config:
            raise QueryRefused("A model is trained round by round at parameters.", code="E_WORK")

    def length(self, work: Work) -> int:
        """As many for each round."""
        del work
        return self._planned.length

    def consents(self) -> Consents:
        """Say who consents now."""
        if self._mock:
            return ()
        return (self._engine.consenting(self._planned.schema.name, self._purpose),)

    def compute(self, work: Work, arrays: Sequence[NDArray[Any]], *, parties: int) -> Computed:
        """Add up what each person adds at the parameters, and the noise of this round."""
        require_open(closed=self._closed)
        (parameters,) = arrays
        integers = self._planned.gradient(self._current(), parameters, round=work.round)
        return Computed(vector=ring.from_integers(integers, parties=parties))

    def label(self, *, budget: Budget | None, approved_by: tuple[str, ...]) -> PrivacyLabel:
        """Describe the noise at this site and in the sums."""
        del approved_by
        plan = self._planned
        if self._mock:
            return mock_run_label(self._federation, mechanism=plan.mechanism, noisy=True)
        return noisy_label(
            self._federation,
            mechanism=plan.mechanism,
            epsilon=in_words(plan.price.epsilon),
            delta=plan.delta,
            schema=plan.schema,
            clamps=tuple(plan.clamps),
            budget=budget_in_words(plan.schema, budget) if budget else "the grant is gone",
            population=self._engine.restriction(plan.schema.name, self._purpose),
        )

    def close(self) -> None:
        """Let go of the rows, and read none any more."""
        self._closed = True
        self._rows = None

    def _current(self) -> Rows:
        """Return the rows of those who consent now."""
        consents = self.consents()
        rows = self._rows
        if rows is None or not same_consents(consents, self._consents):
            found = self._engine.rows(self._planned.sql, purpose=self._purpose, mock=self._mock)
            rows = self._rows = self._planned.prepare(found)
            self._consents = consents
        return rows
