"""A site's part in one sum: checked, computed beside the agent's thread, written down, then sent.

::

    check ─▶ compute + mask (a thread) ─▶ [check again + write down] ─▶ (sent by the agent)

What is in square brackets is one transaction. Where noise is drawn for a round, the vector that has
it is written down before it leaves: whatever is killed when, and however often the round is asked
for, it is this vector that leaves, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.errors import BadMessage, PrivnbError, RequestRefused
from privnb.federated.messages import work_digest
from privnb.site.parts import Computed, read_arrays
from privnb.site.run_book import Input, RunBook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from privnb.federated.member import Member
    from privnb.federated.messages import Ask, Form, Work
    from privnb.site.database import Database
    from privnb.site.joined import JoinedRun
    from privnb.site.requests import RequestBook
    from privnb.site.run_checks import RunChecks

__all__ = ["Contributing", "Contribution", "Objection"]


_KEPT_BYTES = 16 * 1024 * 1024
"""The largest vector that is kept for another attempt; a larger one is computed again."""


class Objection(Exception):
    """The run may not go on at this site, for a reason that its analyst is told."""

    def __init__(self, problem: PrivnbError) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A masked vector, ready to be written down and sent."""

    ask: Ask
    work: Work
    digest: str
    computed: Computed
    masked: bytes
    confirmed: str
    new: bool
    """Whether it was computed just now."""

    @property
    def form(self) -> Form | None:
        """How to read the sum."""
        return self.computed.form


class Contributing:
    """Lets what a site computes leave under masks, as often as is allowed and no oftener."""

    def __init__(self, *, database: Database, book: RequestBook, checks: RunChecks) -> None:
        self._database = database
        self._book = book
        self._checks = checks

    def prepare(self, run: JoinedRun, ask: Ask, blob: bytes) -> Callable[[], Contribution]:
        """Check what is asked for, and return what computes it, to be called in any thread.

        Raises
        ------
        Objection
            The run may not go on.
        PrivnbError
            This ask cannot be answered.
        """
        work, federation = ask.work, run.computation.federation
        if work is None or federation is None:
            raise BadMessage("There is nothing to contribute to.")
        member = run.rounds.member(ask.attempt)
        if not 1 <= work.round <= federation.rounds:
            raise RequestRefused(
                f"There is no round {work.round}: the run has {federation.rounds}.",
                hint="Ask anew for a run of more rounds.",
                code="E_WORK",
            )
        arrays = read_arrays(work.arrays, blob)
        run.part.check(work, arrays)
        digest = work_digest(work, blob)
        analyst, request = run.key
        with self._database.read() as snapshot:
            problem = self._checks.objection(snapshot, run.record, run.computation, table=run.table)
            inputs = RunBook.inputs_of(
                snapshot, analyst, request, round_=work.round, kind=work.kind
            )
        if problem is not None:
            raise Objection(problem)
        known = next((each for each in inputs if each.work == digest), None)
        # What failed is not written down, but is a try as well: that it fails may tell about rows.
        tried = run.tried.setdefault((work.kind, work.round), set())
        tried |= {each.work for each in inputs}
        if digest not in tried and len(tried) >= run.part.tries:
            raise RequestRefused(
                f"This site gave its part to round {work.round} before, at another input.",
                hint="Go on with the next round.",
                code="E_SPENT_ROUND",
            )
        tried.add(digest)
        return partial(
            _contribute,
            run,
            member,
            ask=ask,
            work=work,
            arrays=arrays,
            digest=digest,
            known=known,
            parties=len(federation.sites),
        )

    def write_down(self, run: JoinedRun, made: Contribution) -> bool:
        """Note what is about to leave; False if the run is not this agent's any more.

        Raises
        ------
        Objection
            The run may not go on: what was computed must not leave.
        """
        analyst, request = run.key
        vector = made.computed.vector.astype("<u8").tobytes() if run.part.once else None
        new = Input(
            round=made.work.round,
            kind=made.work.kind,
            work=made.digest,
            vector=vector,
            summed=None,
        )
        with self._database.write() as transaction:
            if not self._book.is_ours(transaction, run.record, agent=run.record.agent):
                return False
            problem = self._checks.objection(
                transaction, run.record, run.computation, table=run.table
            )
            if problem is None:
                RunBook.contribute(
                    transaction,
                    analyst,
                    request,
                    attempt=made.ask.attempt,
                    new=new if made.new else None,
                )
        if problem is not None:
            raise Objection(problem)
        small = not run.part.once and made.computed.vector.nbytes <= _KEPT_BYTES
        run.last = (made.digest, made.computed) if small else None
        run.rounds.masked(made.ask.attempt, made.digest)
        return True

    def settle(self, run: JoinedRun, attempt: int, survivors: Sequence[str]) -> None:
        """Settle over which sites what was given may be summed.

        Raises
        ------
        RosterRefused
            It may be summed over others only.
        Objection
            The run may not go on: the sum must not open.
        """
        analyst, request = run.key
        work = run.rounds.work_of(attempt)
        with self._database.write() as transaction:
            problem = self._checks.objection(
                transaction, run.record, run.computation, table=run.table
            )
            if problem is None:
                RunBook.settle(transaction, analyst, request, work=work, sites=survivors)
        if problem is not None:
            raise Objection(problem)


def _contribute(  # noqa: PLR0913 - keywords, all of one ask
    run: JoinedRun,
    member: Member,
    *,
    ask: Ask,
    work: Work,
    arrays: Sequence[NDArray[Any]],
    digest: str,
    known: Input | None,
    parties: int,
) -> Contribution:
    computed = _computed_before(run, digest, known)
    if computed is None:
        computed = run.part.compute(work, arrays, parties=parties)
    masked, confirmed = member.mask(computed.vector, ask.shares or {}, work=digest)
    return Contribution(
        ask=ask,
        work=work,
        digest=digest,
        computed=computed,
        masked=masked.astype("<u8", copy=False).tobytes(),
        confirmed=confirmed,
        new=known is None,
    )


def _computed_before(run: JoinedRun, digest: str, known: Input | None) -> Computed | None:
    if known is not None and known.vector is not None:
        return Computed(vector=np.frombuffer(known.vector, "<u8").astype(np.uint64))
    if run.last is not None and run.last[0] == digest:
        return run.last[1]
    return None
