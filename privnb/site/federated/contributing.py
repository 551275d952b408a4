"""A site's part in one sum: checked, computed beside the agent's thread, written down, then sent.

::

    with noise   check ─▶ compute + mask ─▶ [check again + write down] ─▶ (sent by the agent)
    without      check ─▶ [write down] ─▶ compute + mask ─▶ check again ─▶ (sent by the agent)

What is in square brackets is one transaction. Where noise is drawn for a round, the vector that has
it is written down before it leaves: whatever is killed when, and however often the round is asked
for, it is this vector that leaves, or none.

Where approved code gives its part without noise, what it is to be computed on is written down
before any row is read: so it counts, though the code fails or the site is killed. What failed is
not computed again, and fails in the same words; after a few failures on rows, in all runs, the site
takes part no more. What was cut off may be computed again, as the same try and a few times only: an
app that draws noise of its own must not be averaged. Nothing is computed among other sites than it
was summed over before.

Neither is given again once other people consent: it would be of those who do not. Without noise the
run is over then, as what the same parameters give afterwards would tell these people's part.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb import wire
from privnb.errors import (
    BadMessage,
    ConfigError,
    ExchangeUnavailable,
    PrivnbError,
    QueryRefused,
    RequestRefused,
    StateError,
)
from privnb.federated.messages import work_digest
from privnb.site.consent import in_order
from privnb.site.federated.book import Input, RunBook, exact_input
from privnb.site.federated.parts import Computed, OnTwin, Outage, read_arrays, unsummed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import sqlalchemy as sa
    from numpy.typing import NDArray

    from privnb.federated.member import Member
    from privnb.federated.messages import Ask, Form, Work
    from privnb.site.audit import AuditLog
    from privnb.site.database import Database
    from privnb.site.federated.checks import RunChecks
    from privnb.site.federated.ending import RunEndings
    from privnb.site.federated.joined import JoinedRun
    from privnb.site.requests import RequestBook

__all__ = ["Contributing", "Contribution", "Objection"]

logger = logging.getLogger("privnb.site")

_KEPT_BYTES = 16 * 1024 * 1024
"""The largest vector that is kept for another attempt; a larger one is computed again."""
_MOST_TIMES = 5
"""How often the same is computed without noise, whatever kept it from being sent."""


class Objection(Exception):
    """The run may not go on at this site, for a reason that its analyst is told."""

    def __init__(self, problem: PrivnbError) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A masked vector, ready to be written down, if it is not yet, and sent."""

    ask: Ask
    work: Work
    digest: str
    computed: Computed
    masked: bytes
    confirmed: str
    new: Input | None
    """What is to be written down; None where that was done."""
    label: bytes | None
    """What is said of the run, if nothing was given to it before."""

    @property
    def form(self) -> Form | None:
        """How to read the sum."""
        return self.computed.form


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked for, once that is checked, and all that computing it takes."""

    run: JoinedRun
    member: Member
    ask: Ask
    work: Work
    arrays: Sequence[NDArray[Any]]
    blob: bytes
    digest: str
    known: Input | None
    """What was computed for it before, if it was."""
    label: bytes | None
    parties: int


class Contributing:
    """Lets what a site computes leave under masks, as often as is allowed and no oftener.

    Parameters
    ----------
    fixed_sites
        Whether all that approved code gives is summed over the same sites, whatever the parameters.
    """

    def __init__(  # noqa: PLR0913 - keywords, each collaborator can be replaced in tests
        self,
        *,
        database: Database,
        book: RequestBook,
        checks: RunChecks,
        endings: RunEndings,
        audit: AuditLog,
        fixed_sites: bool,
    ) -> None:
        self._database = database
        self._book = book
        self._checks = checks
        self._endings = endings
        self._audit = audit
        self._fixed = fixed_sites

    def prepare(self, run: JoinedRun, ask: Ask, blob: bytes) -> Callable[[], Contribution | None]:
        """Check what is asked for, and return what computes it, to be called in any thread.

        That gives None if the run is not this agent's any more.

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
            self._require_leave(snapshot, run)
            inputs = RunBook.inputs_of(
                snapshot, analyst, request, round_=work.round, kind=work.kind
            )
            label = self._first_label(snapshot, run)
        known = next((each for each in inputs if each.work == digest), None)
        if known is not None and known.failed is not None:
            raise known.failed
        if known is None and len(inputs) >= run.part.tries:
            raise _spent(work.round)
        asked = _Asked(
            run=run,
            member=member,
            ask=ask,
            work=work,
            arrays=arrays,
            blob=blob,
            digest=digest,
            known=known,
            label=label,
            parties=len(federation.sites),
        )
        return partial(self._made, asked)

    def write_down(self, run: JoinedRun, made: Contribution | None) -> bool:
        """Ask anew whether it may leave, and note that it does, where that is not noted yet.

        Returns False if the run is not this agent's any more.

        Raises
        ------
        Objection
            The run may not go on: what was computed must not leave.
        """
        if made is None:
            return False
        analyst, request = run.key
        transaction = self._database.read() if run.exact else self._database.write()
        try:
            with transaction as connection:
                if not self._book.is_ours(connection, run.record, agent=run.record.agent):
                    return False
                self._require_leave(connection, run)
                if not run.exact:
                    RunBook.contribute(
                        connection,
                        analyst,
                        request,
                        attempt=made.ask.attempt,
                        new=made.new,
                        label=made.label,
                    )
        except Objection:
            self._take_back(run)
            raise
        run.counted = False
        small = not run.part.once and made.computed.vector.nbytes <= _KEPT_BYTES
        run.last = (made.digest, made.computed) if small else None
        run.rounds.masked(made.ask.attempt, made.digest)
        return True

    def objection(self, run: JoinedRun) -> PrivnbError | None:
        """Return why a run may not go on, as things stand."""
        with self._database.read() as snapshot:
            return self._checks.objection(snapshot, run)

    def settle(
        self, run: JoinedRun, attempt: int, survivors: Sequence[str], *, opens: bool
    ) -> None:
        """Settle over which sites what was given is summed, where the sum is opened now.

        Raises
        ------
        RosterRefused
            It may be summed over others only.
        Objection
            The run may not go on: the sum must not open.
        """
        analyst, request = run.key
        work = run.rounds.work_of(attempt)
        with self._database.write() if opens else self._database.read() as transaction:
            self._require_leave(transaction, run)
            RunBook.settle(
                transaction,
                analyst,
                request,
                work=work,
                sites=survivors,
                fixed=self._fixed,
                opens=opens,
            )

    def _require_leave(self, connection: sa.Connection, run: JoinedRun) -> None:
        problem = self._checks.objection(connection, run)
        if problem is not None:
            raise Objection(problem)

    def _first_label(self, snapshot: sa.Connection, run: JoinedRun) -> bytes | None:
        """Return what is said of a run, should it be cut off, before anything is given to it."""
        stored = RunBook.find(snapshot, *run.key)
        if stored is None or stored.label is not None:
            return None
        said = self._endings.label_of(snapshot, run.record, run.computation, run.part)
        return wire.encode(said)

    # What follows runs beside the agent's thread

    def _made(self, asked: _Asked) -> Contribution | None:
        run, known, number = asked.run, asked.known, asked.work.round
        given = known or self._new(asked)
        if known is not None:
            self._require_consents(run, known.consents, number)
        kept = self._kept(asked)
        if run.exact and not self._begin(asked, given, computes=kept is None):
            return None
        try:
            computed = kept or self._computed(asked)
            self._require_consents(run, given.consents, number)
            shares = asked.ask.shares or {}
            masked, confirmed = asked.member.mask(computed.vector, shares, work=asked.digest)
        except Exception:
            self._take_back(run)
            raise
        if known is None and run.part.once and not run.mock:
            given = replace(given, vector=computed.vector.astype("<u8").tobytes())
        return Contribution(
            ask=asked.ask,
            work=asked.work,
            digest=asked.digest,
            computed=computed,
            masked=masked.astype("<u8", copy=False).tobytes(),
            confirmed=confirmed,
            new=given if known is None else None,
            label=asked.label,
        )

    def _new(self, asked: _Asked) -> Input:
        run, work = asked.run, asked.work
        exact = exact_input(run.computation.digest, work, asked.arrays) if run.exact else None
        return Input(
            round=work.round,
            kind=work.kind,
            work=asked.digest,
            input=exact,
            consents=self._consents(run),
        )

    def _kept(self, asked: _Asked) -> Computed | None:
        """Return what was computed before, where it is kept."""
        known, last = asked.known, asked.run.last
        if known is not None and known.vector is not None:
            return Computed(vector=np.frombuffer(known.vector, "<u8").astype(np.uint64))
        return last[1] if last is not None and last[0] == asked.digest else None

    def _computed(self, asked: _Asked) -> Computed:
        """Compute; what is told of a failure depends on no row."""
        run = asked.run
        try:
            return run.part.compute(asked.work, asked.arrays, parties=asked.parties)
        except Exception as problem:
            if not run.exact:
                raise
            if isinstance(problem, _OUTAGES):
                raise  # in the same words, and it may be computed again
            told = problem if isinstance(problem, QueryRefused) else unsummed()
            if told is not problem:
                logger.exception("run %s of %s", run.record.name, run.record.sender)
            self._fail(asked, told)
            raise told from None

    def _fail(self, asked: _Asked, told: PrivnbError) -> None:
        """Note that code failed; what is ended from outside, as runs are that are over, did not."""
        run = asked.run
        if run.closed:
            return
        with self._database.write() as transaction:
            if run.claim():
                RunBook.take_back(transaction, *run.key)
            RunBook.fail(
                transaction,
                *run.key,
                work=asked.digest,
                problem=told,
                on_data=not isinstance(told, OnTwin),
            )

    def _begin(self, asked: _Asked, given: Input, *, computes: bool) -> bool:
        """Write down what is about to be computed; raises why it must not be.

        Returns False if the run is not this agent's any more.
        """
        run = asked.run
        if computes and given.times >= _MOST_TIMES:
            raise _spent(asked.work.round)
        with self._database.write() as transaction:
            if not self._book.is_ours(transaction, run.record, agent=run.record.agent):
                return False
            self._require_leave(transaction, run)
            first = RunBook.first_consents(transaction, *run.key)
            if first is not None and first != (given.consents,):
                raise Objection(_others_consent())
            if given.input is not None:
                RunBook.require_same_sites(
                    transaction,
                    given.input,
                    computation=run.computation.digest,
                    roster=[*(asked.ask.shares or {}), self._audit.verifier_key],
                    fixed=self._fixed,
                )
            RunBook.contribute(
                transaction,
                *run.key,
                attempt=asked.ask.attempt,
                new=given if asked.known is None else None,
                label=asked.label,
                computed=asked.digest if computes else "",
            )
        run.counted = True
        return True

    def _take_back(self, run: JoinedRun) -> None:
        """Note that what was counted is not sent; where the site is being stopped, that is not."""
        if not run.closed and run.claim():
            with self._database.write() as transaction:
                RunBook.take_back(transaction, *run.key)

    def _require_consents(self, run: JoinedRun, before: str | None, number: int) -> None:
        if self._consents(run) == before:
            return
        if run.exact:
            raise Objection(_others_consent())
        raise _spent(number)

    def _consents(self, run: JoinedRun) -> str | None:
        """Return what stands for who consents now; None where nobody is asked."""
        found, known = run.part.consents(), run.consents
        if known is None or len(known[0]) != len(found) or not all(map(is_, known[0], found)):
            stands = None
            if any(each is not None for each in found):
                hashes = (hashlib.sha256(in_order(each)).hexdigest() for each in found)
                stands = self._audit.keyed_hash(" ".join(hashes).encode(), use="consents")
            known = run.consents = (found, stands)
        return known[1]


_OUTAGES = (Outage, StateError, ExchangeUnavailable, ConfigError)
"""What says nothing of the app, or of rows."""


def _others_consent() -> RequestRefused:
    return RequestRefused(
        "Who consents has changed since this run began here.",
        hint="Ask for a new run.",
        code="E_CONSENT",
    )


def _spent(number: int) -> RequestRefused:
    """Say that a round is over; it is not told whether that is for what was asked, or for whom."""
    return RequestRefused(
        f"This site gave its part to round {number} before, and gives no other.",
        hint="Go on with the next round.",
        code="E_SPENT_ROUND",
    )
