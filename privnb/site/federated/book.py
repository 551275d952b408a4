"""What a site remembers of the federated runs that it takes part in.

It is what a restart must not forget, since all keys are lost in one: until a run ends, which rounds
were computed, on whose data and with which noise, which failed, and over which sites each may be
summed. Of what is exact, the sites that it was summed over are remembered for good, whoever asked.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb import wire
from privnb.errors import PrivnbError, RosterRefused, error_from_code
from privnb.federated.attempt import name_of
from privnb.messages import Participation, Problem
from privnb.site.database import run_inputs, run_sums, runs, utc_now
from privnb.site.reporting import problem_of
from privnb.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from privnb.federated.messages import Work

__all__ = ["Input", "Run", "RunBook", "exact_input"]

# Statements are built once: building one takes longer than running it.
_RUN = (runs.c.analyst == sa.bindparam("whose"), runs.c.request == sa.bindparam("which"))
_INPUTS = (
    run_inputs.c.analyst == sa.bindparam("whose"),
    run_inputs.c.request == sa.bindparam("which"),
)
_OF_WORK = (*_INPUTS, run_inputs.c.work == sa.bindparam("digest"))
_FIND = sa.select(
    runs.c.digest, runs.c.attempt, runs.c.contributions, runs.c.label, runs.c.failures
).where(*_RUN)
_OF_ROUND = (
    sa.select(run_inputs)
    .where(
        *_INPUTS,
        run_inputs.c.round == sa.bindparam("number"),
        run_inputs.c.kind == sa.bindparam("what"),
    )
    .order_by(run_inputs.c.seq)
)
_NEWEST: sa.BindParameter[int] = sa.bindparam("newest")
_COUNT = (
    sa.update(runs)
    .where(*_RUN)
    .values(
        contributions=runs.c.contributions + 1,
        attempt=sa.case((runs.c.attempt < _NEWEST, _NEWEST), else_=runs.c.attempt),
    )
)
_DISCOUNT = sa.update(runs).where(*_RUN).values(contributions=runs.c.contributions - 1)
_LABEL = sa.update(runs).where(*_RUN, runs.c.label.is_(None)).values(label=sa.bindparam("said"))
_ADD = sa.insert(run_inputs)
_COMPUTED = sa.update(run_inputs).where(*_OF_WORK).values(times=run_inputs.c.times + 1)
_FAIL = sa.update(run_inputs).where(*_OF_WORK).values(failed=sa.bindparam("problem"))
_COUNT_FAILURE = sa.update(runs).where(*_RUN).values(failures=runs.c.failures + 1)
_FAILURES = sa.select(sa.func.coalesce(sa.func.sum(runs.c.failures), 0)).where(
    runs.c.analyst == sa.bindparam("whose"), runs.c.digest == sa.bindparam("computation")
)
_FIRST = sa.select(run_inputs.c.consents).where(*_INPUTS).order_by(run_inputs.c.seq).limit(1)
_SUMMED = sa.select(run_inputs.c.summed, run_inputs.c.input, runs.c.digest).where(
    *_OF_WORK,
    runs.c.analyst == run_inputs.c.analyst,
    runs.c.request == run_inputs.c.request,
)
_SETTLE = sa.update(run_inputs).where(*_OF_WORK).values(summed=sa.bindparam("sites"))
_SUM = sa.select(run_sums.c.sites).where(run_sums.c.input == sa.bindparam("exact"))
_SUMS = (
    sa.select(run_sums.c.sites).distinct().where(run_sums.c.digest == sa.bindparam("computation"))
)
_REMEMBER = sa.insert(run_sums)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How far a run is."""

    digest: str
    """Of its computation."""
    attempt: int
    """The newest attempt that something was sent for."""
    contributions: int
    """How often, at most: where the site was cut off before it could send, that counts too."""
    label: bytes | None
    """What was said of it when something was first sent, as it travels."""
    failures: int
    """How often its code failed on data."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """What was computed for one round, or was begun to be."""

    round: int
    kind: str
    work: str
    """The digest of all that the analyst chose for it; see `privnb.federated.messages`."""
    input: str | None = None
    """See `exact_input`; None where noise protects it, or no data is in it."""
    vector: bytes | None = None
    """With its noise, where the noise of a round is drawn once: unsigned 64-bit, little-endian."""
    consents: str | None = None
    """Stands for who consented; None where nobody is asked."""
    failed: PrivnbError | None = None
    """What its analyst is told, where there is nothing to give."""
    times: int = 0
    """How often it was computed, or begun to be; kept where it has no noise."""


_AT_ONCE = 2**16
"""How many numbers are made comparable at a time."""


def exact_input(computation: str, work: Work, arrays: Sequence[NDArray[Any]]) -> str:
    """SHA-256 of all that a sum without noise depends on, hexadecimal, whoever asks in which run.

    It is the computation, by its digest, the kind of work, and the arrays in order, by shapes and
    numbers. Round, configuration, and what arrays are called and stored as are left out: the
    analyst may choose others, and have the same computed.

    >>> import numpy as np
    >>> from privnb.federated.messages import Work
    >>> once = exact_input("d1", Work(kind="train", round=1, config={"lr": 0.1}), [np.zeros(2)])
    >>> once == exact_input("d1", Work(kind="train", round=2), [-np.zeros(2, "float32")])
    True
    """
    shapes = [list(array.shape) for array in arrays]
    found = hashlib.sha256(json.dumps([computation, work.kind, shapes]).encode())
    for array in arrays:
        numbers = array.reshape(-1)
        for start in range(0, numbers.size, _AT_ONCE):
            alike = numbers[start : start + _AT_ONCE].astype("<f8")
            found.update((alike + 0.0).tobytes())  # there is one zero
    return found.hexdigest()


class RunBook:
    """The runs of one site, within the caller's transactions.

    A row is named by the run's analyst and request.
    """

    @staticmethod
    def open_run(connection: sa.Connection, analyst: str, request: str, *, digest: str) -> None:
        """Begin a run; the request's row is the caller's, in the same transaction."""
        connection.execute(
            sa.insert(runs).values(at=utc_now(), analyst=analyst, request=request, digest=digest)
        )

    @staticmethod
    def find(connection: sa.Connection, analyst: str, request: str) -> Run | None:
        """Return how far a run is; None if there is none."""
        row = connection.execute(_FIND, {"whose": analyst, "which": request}).first()
        return None if row is None else Run(**row._mapping)  # noqa: SLF001 - SQLAlchemy's name

    @staticmethod
    def inputs_of(
        connection: sa.Connection, analyst: str, request: str, *, round_: int, kind: str
    ) -> tuple[Input, ...]:
        """Return what was computed for a round, oldest first."""
        rows = connection.execute(
            _OF_ROUND, {"whose": analyst, "which": request, "number": round_, "what": kind}
        )
        return tuple(
            Input(
                round=row.round,
                kind=row.kind,
                work=row.work,
                input=row.input,
                vector=row.vector,
                consents=row.consents,
                failed=None if row.failed is None else _read_problem(row.failed),
                times=row.times,
            )
            for row in rows
        )

    @staticmethod
    def contribute(  # noqa: PLR0913 - keywords, what is written in one go
        connection: sa.Connection,
        analyst: str,
        request: str,
        *,
        attempt: int,
        new: Input | None,
        label: bytes | None,
        computed: str = "",
    ) -> None:
        """Count what is about to be sent, or to be computed to be sent.

        Parameters
        ----------
        new
            What it is, if it is not written down yet.
        label
            What is said of the run, if nothing was sent for it before.
        computed
            The digest of what is about to be computed without noise; empty if nothing is.
        """
        mine = {"whose": analyst, "which": request}
        connection.execute(_COUNT, mine | {"newest": attempt})
        if label is not None:
            connection.execute(_LABEL, mine | {"said": label})
        if new is not None:
            connection.execute(
                _ADD,
                {
                    "at": utc_now(),
                    "analyst": analyst,
                    "request": request,
                    "round": new.round,
                    "kind": new.kind,
                    "work": new.work,
                    "input": new.input,
                    "vector": new.vector,
                    "consents": new.consents,
                },
            )
        if computed:
            connection.execute(_COMPUTED, mine | {"digest": computed})

    @staticmethod
    def take_back(connection: sa.Connection, analyst: str, request: str) -> None:
        """Note that what was counted is not sent."""
        connection.execute(_DISCOUNT, {"whose": analyst, "which": request})

    @staticmethod
    def fail(  # noqa: PLR0913 - keywords, how it did
        connection: sa.Connection,
        analyst: str,
        request: str,
        *,
        work: str,
        problem: PrivnbError,
        on_data: bool,
    ) -> None:
        """Note that code failed: it is not run on this work again.

        Parameters
        ----------
        on_data
            Whether it did on rows, so that this tells something of them. That stays on record.
        """
        mine = {"whose": analyst, "which": request}
        said = wire.encode(problem_of(problem))
        connection.execute(_FAIL, mine | {"digest": work, "problem": said})
        if on_data:
            connection.execute(_COUNT_FAILURE, mine)

    @staticmethod
    def failures(connection: sa.Connection, analyst: str, *, computation: str) -> int:
        """Return how often a computation failed on data, in all runs of one analyst."""
        asked = {"whose": analyst, "computation": computation}
        return int(connection.execute(_FAILURES, asked).scalar_one())

    @staticmethod
    def first_consents(
        connection: sa.Connection, analyst: str, request: str
    ) -> tuple[str | None] | None:
        """Return what stands for who consented to a run's first work; None before there is one."""
        row = connection.execute(_FIRST, {"whose": analyst, "which": request}).first()
        return None if row is None else (row.consents,)

    @staticmethod
    def require_same_sites(
        connection: sa.Connection,
        exact: str,
        *,
        computation: str,
        roster: Iterable[str],
        fixed: bool,
    ) -> None:
        """Refuse what cannot be summed among these sites: it was over some that are not there.

        Parameters
        ----------
        exact
            See `exact_input`.
        fixed
            Whether all that the computation gives is summed over the same sites, at whichever
            parameters.

        Raises
        ------
        RosterRefused
            It names the sites.
        """
        there = set(roster)
        for sites in _earlier(connection, exact, computation=computation, fixed=fixed):
            if not there.issuperset(sites):
                raise _other_sites(sites, fixed=fixed)

    @staticmethod
    def settle(  # noqa: PLR0913 - keywords, what is settled
        connection: sa.Connection,
        analyst: str,
        request: str,
        *,
        work: str,
        sites: Sequence[str],
        fixed: bool = False,
        opens: bool = True,
    ) -> None:
        """Settle over which sites something is summed, before the first word that opens it.

        Of 2t > n + c sites that open two sums, one is honest and in both: so the same work of one
        run is summed over one set of sites: two would differ by single sites' parts. So is what has
        no noise, by its `exact_input`, in all runs of all analysts. With ``fixed`` that holds for
        everything without noise that a computation gives.

        Parameters
        ----------
        opens
            Whether the sum is opened now. Else it is only asked whether it might be: what opens
            nothing settles nothing, or an analyst could have each site agree to another sum, and
            none be opened any more.

        Raises
        ------
        RosterRefused
            It may be summed over other sites, and no others.
        """
        mine = {"whose": analyst, "which": request, "digest": work}
        row = connection.execute(_SUMMED, mine).first()
        ordered = sorted(sites)
        told = json.dumps(ordered)
        if row is None:
            raise RosterRefused(
                "This site gave nothing to that sum, so it opens none.",
                hint="Begin the round anew.",
            )
        if row.summed is not None and row.summed != told:
            raise _other_sites(json.loads(row.summed), fixed=False)
        if row.input is not None:
            for earlier in _earlier(connection, row.input, computation=row.digest, fixed=fixed):
                if earlier != ordered:
                    raise _other_sites(earlier, fixed=fixed)
        if not opens or row.summed is not None:
            return
        connection.execute(_SETTLE, mine | {"sites": told})
        exact = {"exact": row.input}
        if row.input is not None and connection.execute(_SUM, exact).first() is None:
            connection.execute(
                _REMEMBER,
                {"input": row.input, "at": utc_now(), "digest": row.digest, "sites": told},
            )

    @staticmethod
    def close_run(  # noqa: PLR0913 - keywords, all that is said of it
        connection: sa.Connection,
        analyst: str,
        request: str,
        *,
        me: str,
        ended: str,
        unsent: bool = False,
    ) -> Participation:
        """End a run: say what was given to it, and forget what only it needed.

        Parameters
        ----------
        unsent
            Whether something is counted that was not sent, and is not any more.
        """
        if unsent:
            RunBook.take_back(connection, analyst, request)
        run = RunBook.find(connection, analyst, request)
        mine = {"whose": analyst, "which": request}
        rows = connection.execute(
            sa.select(run_inputs.c.round, run_inputs.c.summed).where(
                *_INPUTS, run_inputs.c.failed.is_(None)
            ),
            mine,
        ).all()
        given = 0 if run is None else run.contributions
        sites = {site for row in rows if row.summed for site in json.loads(row.summed)}
        connection.execute(sa.delete(run_inputs).where(*_INPUTS), mine)
        return Participation(
            rounds=len({row.round for row in rows}) if given else 0,
            contributions=given,
            sites=tuple(sorted(sites | ({me} if given else set()))),
            ended=ended,
            failures=0 if run is None else run.failures,
        )


def _earlier(
    connection: sa.Connection, exact: str, *, computation: str, fixed: bool
) -> list[list[str]]:
    """Return over which sites something was summed before that must be over the same now."""
    found = (
        connection.execute(_SUMS, {"computation": computation})
        if fixed
        else connection.execute(_SUM, {"exact": exact})
    )
    return [json.loads(sites) for sites in found.scalars()]


def _other_sites(sites: Sequence[str], *, fixed: bool) -> RosterRefused:
    names = listed(sorted(_name(site) for site in sites))
    if fixed:
        return RosterRefused(
            f"This computation was summed over {names} before, and here all its sums are over the"
            " same sites: over others, the difference of two sums could be single sites' parts.",
            hint="Wait until these sites are all there, or ask this site's owner.",
            only=sites,
        )
    return RosterRefused(
        f"The same was summed over {names} before: over others, the difference of both sums would"
        " be single sites' parts.",
        hint="Wait until these sites are all there, or begin from other initial values.",
        only=sites,
    )


def _name(site: str) -> str:
    """Return the short name of a site from its verifier key."""
    return urllib.parse.unquote(name_of(site).split("/")[1])


def _read_problem(stored: bytes) -> PrivnbError:
    problem = wire.decode(Problem, stored, what="why a part failed")
    return error_from_code(problem.code, problem.message, problem.hint)
