"""Drives a run from the analyst's side: one secure aggregation after the other, whoever drops out.

The sites trust nobody here. What this does wrong costs an attempt, and shows nothing.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from privnb.errors import (
    BadMessage,
    PrivnbError,
    RoundLost,
    RunStalled,
    SiteFailure,
    error_from_code,
)
from privnb.federated.aggregator import Aggregator
from privnb.federated.asking import BUSY, Asking, Channel, Pace, Party, RunStopped, step_name
from privnb.federated.hearing import Hearing
from privnb.federated.messages import Ask, Form, Work, pack, work_digest
from privnb.federated.presence import Presence
from privnb.federated.trial import Task, Trial, TrialFailed
from privnb.unseen import brief
from privnb.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from privnb.computation import Federation
    from privnb.federated.progress import Board

__all__ = ["Conductor", "Memory", "RoundSpent", "Summed"]

_PAUSE_SECONDS = 0.01
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS = 2.0, 60.0
"""How long until sites are asked how far they are, and how long at most between two times."""
_LONGEST_PAUSE = 1.0
_MOST_ATTEMPTS = 10
"""How often one sum is begun."""
_MOST_FAULTS = 3
"""Attempts that the same site may spoil, one after the other, before it is left out."""
_SPENT = "E_SPENT_ROUND"


class RoundSpent(RoundLost):
    """So many sites give nothing more to a round that it is lost; the next one may be done."""


class Memory(Protocol):
    """What a run must remember, whatever becomes of the kernel: `RunFiles` does."""

    def next_attempt(self) -> int:
        """Return a number that no attempt of this run had before."""
        ...

    def joined(self) -> frozenset[str]:
        """Return the names of the sites that are known to have joined."""
        ...

    def note_joined(self, site: str) -> None:
        """Remember that a site has joined."""
        ...

    def opening(self, work: str) -> frozenset[str]:
        """Return over which sites the sum of some work was being opened; empty if over none."""
        ...

    def note_opening(self, work: str, survivors: Collection[str]) -> None:
        """Remember over which sites the sum of some work is being opened."""
        ...


@dataclass(frozen=True, kw_only=True)
class Summed:
    """What one secure aggregation gave."""

    total: NDArray[np.uint64]
    """The sum of the vectors of all sites in it, in Z_2^64."""
    form: Form | None
    """How to read it, where the sites said so."""
    sites: tuple[str, ...]
    """Names of the sites in it."""
    seconds: float


class Conductor:
    """Brings the sites of one run together. One thread uses it at a time.

    Parameters
    ----------
    run
        The id of the request that started it at the sites.
    bound
        What keys and signatures are bound to beside the run: see `privnb.federated.aggregator`.
    parties
        The sites, in the order in which they were named.
    min_sites
        How many sites have to be in every round; the strictest of them says so.
    memory
        What must not be forgotten between kernels: numbers of attempts, who has joined, over whom
        a sum is being opened.
    replies
        What sites replied for good: an error, or None for one that ended its part.
    stop
        Set by whoever wants `RunStopped` to be raised.
    alive
        By owner, when a site last showed that it lives, by `time.monotonic`.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one thing that a run depends on
        self,
        *,
        run: str,
        bound: str,
        federation: Federation,
        parties: Sequence[Party],
        channel: Channel,
        min_sites: int,
        memory: Memory,
        board: Board,
        replies: Callable[[], Mapping[str, PrivnbError | None]],
        stop: threading.Event,
        pace: Pace | None = None,
        alive: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self.federation = federation
        self.board = board
        self._run = run
        self._bound = bound
        self._parties = {party.key: party for party in parties}
        self._channel = channel
        self._min_sites = min_sites
        self._needed = max(min_sites, federation.threshold)
        self._memory = memory
        self._stop = stop
        self._pace = pace or Pace()
        self._faults: Counter[Party] = Counter()
        self._doubted: frozenset[str] = frozenset()
        self._ready: Trial | None = None
        self.presence = Presence(
            parties,
            channel=channel,
            run=run,
            board=board,
            replies=replies,
            joined=memory.note_joined,
        )
        self._asking = Asking(
            channel=channel,
            run=run,
            parties=parties,
            pace=self._pace,
            stop=stop,
            rejoined=self.presence.has_rejoined,
            alive=alive,
        )

    # Joining and leaving

    def gather(self, *, people_decide: bool, says: Callable[[], Mapping[str, str]]) -> None:
        """Wait until the sites have decided whether they take part.

        Parameters
        ----------
        people_decide
            Whether that may take days at any of them. Who has not joined some time after enough
            others have is left out, until it does: minutes where people decide, else seconds.
        says
            Asks the sites how far they are, and returns their states by name, as far as they say.
            Used now and then where people decide.

        Raises
        ------
        PrivnbError
            So many refuse that it cannot be done: the error of the first.
        RunStopped
            As it was asked to.
        """
        pause, settled = _PAUSE_SECONDS, math.inf
        look, looks = time.monotonic() + _FIRST_LOOK_SECONDS, 0
        self.presence.expect(self._memory.joined())
        while True:
            self.presence.listen()
            self._require_possible()
            now = time.monotonic()
            if people_decide and now >= look:
                self.presence.told(says())
                looks += 1
                look = time.monotonic() + min(_FIRST_LOOK_SECONDS * 2**looks, _LAST_LOOK_SECONDS)
            there, missing = self.presence.there, self.presence.missing
            if len(there) < self._needed:
                settled = math.inf
            elif not missing or now >= settled:
                break
            elif settled is math.inf:
                wait = self._pace.deadline if people_decide else self._pace.settle
                settled = now + wait
            self._sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE if people_decide else 0.1)
        for party in self.presence.missing:
            self.board.remark(f"{party.name} has not joined, so it begins without it.")

    def end(self, *, finished: bool) -> None:
        """Tell all sites that have not replied for good that the run is over."""
        last = self._memory.next_attempt()
        for party in self._parties.values():
            if party not in self.presence.out:
                ask = Ask(step="end", attempt=last, finished=finished)
                with contextlib.suppress(PrivnbError):  # it will notice by itself, in time
                    self._channel.tell(party.owner, self._run, step_name(last, "end"), pack(ask))

    def close(self) -> None:
        """Let go of the threads."""
        self._asking.close()

    # Sums

    def sum(
        self,
        work: Work,
        blob: bytes = b"",
        *,
        length: int | None = None,
        more: bool = True,
        replaceable: bool = False,
    ) -> Summed:
        """Have the sites compute, and return the sum of what they give.

        A site that is silent, late or wrong is left out of the sum, which has at least
        ``federation.threshold`` sites; if it could not be had at all it is asked for again. Sites
        give the same part then, under new masks. Once it was being opened, here or in an earlier
        run as sites may say, it is over the same sites or over none.

        Parameters
        ----------
        work, blob
            What to compute, and the arrays that belong to it.
        length
            How many numbers a vector has, where that is known; otherwise the sites say it.
        more
            Whether another sum will follow: keys for it are made along the way.
        replaceable
            Whether another round can be done instead, so that nobody is waited for for long who was
            in this sum.

        Raises
        ------
        RunStalled
            Too few sites are left, or not those who were in the sum when it was being opened, and
            do not come back in time, or are busy all the time. It can be taken up again.
        RoundLost
            The sum can never be opened any more; or not soon, where it is replaceable. It is a
            `RoundSpent` where the sites say that they would go on with the next round.
        RosterRefused
            Sites sum the same only with ones that are not in this run.
        SiteFailure, BadMessage
            What the sites send cannot be used.
        RunStopped
            As it was asked to.
        """
        begun = time.monotonic()
        task = Task(
            work=work,
            blob=blob,
            digest=work_digest(work, blob),
            length=length,
            wanted=frozenset(),
            replaceable=replaceable,
        )
        task = replace(task, wanted=self._memory.opening(task.digest))
        pause, reason = _PAUSE_SECONDS, ""
        for _ in range(_MOST_ATTEMPTS):
            trial = self._prepared(task)
            try:
                total = self._tried(trial, task, more=more)
            except TrialFailed as failed:
                self._doubt(failed)
                task = replace(task, wanted=failed.survivors or task.wanted)
                reason = failed.reason or reason
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            return Summed(
                total=total,
                form=trial.form,
                sites=tuple(p.name for k, p in self._parties.items() if k in trial.survivors),
                seconds=time.monotonic() - begun,
            )
        raise self._stalled(task, reason)

    def _prepared(self, task: Task) -> Trial:
        """Return an attempt whose roster has everybody who is there; asks until enough are.

        Whose shares did not fit is left out, where enough others are there.
        """
        ready, pause = self._ready, _PAUSE_SECONDS
        until = time.monotonic() + self._pace.deadline
        self._ready = None
        self.presence.listen()
        there = {party.key for party in self._trusted(task)}
        if ready is not None and ready.roster == there and task.wanted <= there:
            return ready
        while True:
            self._await_enough(task, until)
            trial = self._trial()
            trial.advertise(self._trusted(task))
            trial.share()
            if trial.roster and task.wanted <= trial.roster:
                return trial
            self._count_faults(trial)
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _tried(self, trial: Trial, task: Task, *, more: bool) -> NDArray[np.uint64]:
        """Do one attempt whose keys are there; raises `TrialFailed`."""
        following = self._trial() if more else None
        try:
            survivors = trial.contribute(task, following)
        except TrialFailed:
            self._raise_if_settled(trial, task)
            self._raise_if_hopeless(trial, task)
            raise
        self._memory.note_opening(task.digest, survivors)
        try:
            total = trial.open(survivors, following)
        except TrialFailed:
            self._raise_if_settled(trial, task)
            raise
        if following is not None and following.roster:
            self._ready = following
        for key in trial.roster:
            self._faults.pop(self._parties[key], None)
        self._doubted = frozenset()
        return total

    def _trial(self) -> Trial:
        number = self._memory.next_attempt()
        aggregator = Aggregator(
            run=self._run,
            computation=self._bound,
            attempt=number,
            federation=self.federation,
            min_sites=self._min_sites,
        )
        hearing = Hearing(self._asking, presence=self.presence, board=self.board, pace=self._pace)
        return Trial(
            number,
            aggregator,
            hearing=hearing,
            parties=self._parties,
            board=self.board,
            least=self._needed,
            threshold=self.federation.threshold,
        )

    # Who is left

    def _trusted(self, task: Task) -> tuple[Party, ...]:
        """Return who is there, without those whose shares did not fit if enough others are."""
        there = self.presence.there
        doubted = self._doubted - task.wanted
        left = tuple(party for party in there if party.key not in doubted)
        return left if len(left) >= self._needed else there

    def _doubt(self, failed: TrialFailed) -> None:
        """Leave out whose shares did not fit: of the next sum, and for good in the end."""
        self._doubted |= failed.doubted
        for key in failed.doubted:
            self._count_fault(self._parties[key], BadMessage(failed.reason))
        self._require_possible()

    def _count_faults(self, trial: Trial) -> None:
        """Leave out for good who spoils one attempt after the other before it has begun."""
        for party, error in trial.hearing.spoiled.items():
            self._count_fault(party, error)
        self._require_possible()

    def _count_fault(self, party: Party, error: PrivnbError) -> None:
        self._faults[party] += 1
        if self._faults[party] >= _MOST_FAULTS:
            self.presence.leave(party, error)

    def _raise_if_settled(self, trial: Trial, task: Task) -> None:
        """Raise over which sites it has to be, if it cannot be done without those who say so."""
        said = trial.hearing.only
        for only, count in Counter(said.values()).most_common(1):
            if len(trial.roster) - count >= self.federation.threshold:
                return
            if only <= self._parties.keys():
                raise TrialFailed(survivors=only)
            parties = [party for party, sites in said.items() if sites == only]
            raise self._failed_at(parties, trial.hearing.spoiled[parties[0]], task.work.round)

    def _require_possible(self) -> None:
        """Raise why, if so many sites are out for good that too few can ever be left."""
        out = self.presence.out
        if len(self._parties) - len(out) >= self._needed:
            return
        party, error = next(
            ((party, error) for party, error in out.items() if error is not None),
            (next(iter(out)), SiteFailure("it ended its part before the run was over.")),
        )
        names = ", ".join(party.name for party in out)
        others = f" Out are: {names}; {self._needed} sites are needed." if len(out) > 1 else ""
        raise error_from_code(
            error.code,
            f"{party.name} takes no part: {brief(error.message)}{others}",
            error.hint,
        )

    def _raise_if_hopeless(self, trial: Trial, task: Task) -> None:
        """Raise what sites say, if so many say something that it would be the same again."""
        spoiled = trial.hearing.spoiled
        for party, error in spoiled.items():
            if party.key in task.wanted and error.code == _SPENT:
                raise self._lost(task, f"{party.name} gives no part again: {brief(error.message)}")
        busy = [party for party, error in spoiled.items() if error.code == BUSY]
        failed = [party for party in spoiled if party not in busy]
        left = len(trial.roster) - len(failed)
        if left - len(busy) >= self.federation.threshold and task.wanted.isdisjoint(
            party.key for party in busy
        ):
            return
        if busy and left >= self.federation.threshold:  # they were waited for as long as late ones
            raise self._stalled(task, busy=[party.name for party in busy])
        if not failed:
            return
        error = self._failed_at(failed, spoiled[failed[0]], task.work.round)
        if error.code == _SPENT:
            last = task.work.round >= self.federation.rounds
            raise RoundSpent(error.message, hint="Ask for a new run." if last else error.hint)
        raise error

    def _failed_at(self, parties: Sequence[Party], error: PrivnbError, number: int) -> PrivnbError:
        names = ", ".join(party.name for party in parties)
        said = f"Round {number} failed at {names}: {brief(error.message)}"
        return error_from_code(error.code, said, error.hint)

    def _await_enough(self, task: Task, until: float) -> None:
        """Wait for sites that have gone, while too few are left, or others than are wanted.

        Raises `RunStalled`, or `RoundLost` where it is of no use to wait for a site.
        """
        pause, begun = _PAUSE_SECONDS, time.monotonic()
        while True:
            self.presence.listen()
            self._require_possible()
            for party, error in self.presence.out.items():
                if party.key in task.wanted:
                    why = f": {brief(error.message)}" if error is not None else "."
                    raise self._lost(task, f"{party.name} takes no part any more{why}")
            now = time.monotonic()
            if now >= until:
                raise self._stalled(task)
            there = {party.key for party in self.presence.there}
            if len(there) >= self._needed:
                if task.wanted <= there:
                    return
                if task.replaceable and now - begun >= self._pace.late:
                    raise self._lost(task, f"{_and(self._gone(task))} gone.")
            self._sleep(pause)
            pause = min(pause * 1.2, 0.1)

    def _gone(self, task: Task) -> list[str]:
        """Name those whom the sum waits for."""
        there = self.presence.there
        missing = [party for party in self._parties.values() if party not in there]
        wanted = [party for party in missing if party.key in task.wanted]
        return [party.name for party in wanted or missing]

    def _lost(self, task: Task, why: str) -> RoundLost:
        return RoundLost(
            f"Round {task.work.round} can only be summed over {self._names(task)}, and {why}",
            hint="Begin a new run without that site"
            + (", from other initial arrays." if task.blob else "."),
        )

    def _stalled(self, task: Task, reason: str = "", *, busy: Sequence[str] = ()) -> RunStalled:
        number, gone = task.work.round, self._gone(task)
        if busy:
            said = f"Round {number} could not be done: {', '.join(busy)} had no room for it."
        elif not gone:
            said = f"Round {number} could not be done, however often it was begun. {reason}".strip()
        elif task.wanted <= {party.key for party in self.presence.there}:
            said = f"Round {number} needs {self._needed} sites, and {_and(gone)} gone."
        else:
            only = self._names(task)
            said = f"Round {number} can only be summed over {only}, and {_and(gone)} gone."
        other = (
            " A new run from other initial arrays needs fewer." if task.wanted and task.blob else ""
        )
        return RunStalled(
            said,
            hint=f"Once enough are back, %privnb result {self._run[:8]} goes on from there;"
            f" %privnb cancel {self._run[:8]} gives it up.{other}",
        )

    def _names(self, task: Task) -> str:
        names = [party.name for key, party in self._parties.items() if key in task.wanted]
        return listed(names)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RunStopped


def _and(gone: Sequence[str]) -> str:
    """Say who has gone, up to the verb.

    >>> _and(["northside"]), _and(["northside", "lakeside"])
    ('northside has', 'northside, lakeside have')
    """
    return f"{', '.join(gone)} {'has' if len(gone) == 1 else 'have'}"
