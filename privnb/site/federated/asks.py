"""What an analyst asks in the channel of a run, and the site's answers, as they are sent.

Keys and shares are answered at once; a part is computed beside the agent's thread, and sent when it
is there. Nothing here is durable but what `privnb.site.federated.contributing` writes down.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, ExchangeUnavailable, NotAPeer, RosterRefused, StateError
from privnb.federated.messages import MAX_ROUND_BYTES, Told, pack
from privnb.site.federated.contributing import Objection
from privnb.site.federated.joined import require_room
from privnb.site.federated.parts import MOST_NUMBERS
from privnb.site.federated.steps import Steps, read_ask, step_of
from privnb.site.refusing import public
from privnb.site.reporting import failure, problem_of
from privnb.site.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.datasite.ports import OwnerPort
    from privnb.errors import PrivnbError
    from privnb.federated.messages import Ask
    from privnb.site.federated.contributing import Contributing, Contribution
    from privnb.site.federated.joined import JoinedRun
    from privnb.site.runs import Key

__all__ = ["JOIN", "Asks", "Over"]

logger = logging.getLogger("privnb.site")

JOIN = "000000-join"
"""The name under which a site tells that it takes part."""
_ACTIVE_SECONDS = 5.0
"""For how long after an ask the next one is looked for quickly."""
_RESTING_SECONDS = 600.0
_MOST_AT_ONCE = 4
"""How many asks of one run are answered in one go, so that others get a turn."""
_AROUND = 64 * 1024
"""What a file in the exchange may have beside the message in it."""
_SMALL_BYTES = 4 * 1024 * 1024 + _AROUND
"""No ask without arrays is larger: it is one line of JSON, see `privnb.federated.messages`."""
_COPIES = 3
"""A large ask of so many bytes becomes a vector, and one under masks; they are about as large."""
_COPIES_OF_VECTOR = 2
_BYTES_OF_NUMBER = 8
_THREADS = 2
"""For parts of noisy sums; apps train in threads of their own, since they may take long."""


@dataclass(frozen=True, kw_only=True)
class Over:
    """A run that is over at this site."""

    problem: PrivnbError | None = None
    """Why it may not go on."""
    ended: str = ""
    """Why it ended before all rounds were done, in words."""
    by_analyst: bool = False
    """Whether its analyst ended it, so that nothing in the channel is waited for."""
    moved: bool = False
    """Whether another agent has it now, and ends it."""


class Asks:
    """Answers the asks of all runs of one agent, in its thread.

    Parameters
    ----------
    runs
        Those of the agent, by sender and name.
    pace
        How often the channel of a run is looked at while it is active, and while it rests; seconds.
    trainings
        How many apps may train at a time.
    """

    def __init__(
        self,
        *,
        runs: dict[tuple[str, str], JoinedRun],
        port: OwnerPort,
        contributing: Contributing,
        pace: tuple[float, float],
        trainings: int,
    ) -> None:
        self.pace = pace
        self._runs = runs
        self._port = port
        self._contributing = contributing
        self._steps = Steps(contributing)
        self._noisy = Runs(threads=_THREADS)
        self._trainings = Runs(threads=max(trainings, 1))
        self._twins = Runs(threads=1)  # what is free is in nobody's way who pays
        self._all_threads = (self._noisy, self._trainings, self._twins)
        self._read_large = False

    def rest(self) -> float | None:
        """For how many seconds there is nothing to do; None: there are no runs."""
        runs = self._runs.values()
        if not runs:
            return None
        if any(run.working for run in runs):
            return self.pace[0]
        return max(min(run.next_look for run in runs) - time.monotonic(), 0.0)

    def close(self) -> None:
        """Start nothing more."""
        for threads in self._all_threads:
            threads.close()

    def wait(self, *, seconds: float) -> None:
        """Wait until the parts that are being computed are there, at most so long."""
        for threads in self._all_threads:
            threads.wait(seconds=seconds)

    def collect(self) -> None:
        """Begin another look at all runs: give them the parts that were computed for them."""
        self._read_large = False
        for threads in self._all_threads:
            for key in threads.done():
                run, future = self._runs.get(key[:2]), threads.take(key)
                if run is not None and run.working:
                    run.computed = future

    def cancel(self, run: JoinedRun) -> None:
        """Compute nothing more for a run that is over."""
        self._threads_of(run).cancel(*run.key)
        run.work_done()

    def look(self, run: JoinedRun) -> Over | None:
        """Answer what is asked; return how the run is over, if it is."""
        self._send(run)
        for name in _in_turn(self._port.asked(*run.key)):
            if not _waits_for_part(run, name):
                ended = self._answer(run, name)
                if ended is not None:
                    return ended
        quick, slow = self.pace
        now = time.monotonic()
        silent = now - run.heard
        pause = quick if silent < _ACTIVE_SECONDS else min(10 * quick, slow)
        run.next_look = now + (pause if silent < _RESTING_SECONDS else slow)
        return None

    def finish(self, run: JoinedRun) -> Over | None:
        """Write down and send a part that was computed; return how the run is over, if it is."""
        future, name = run.computed, run.working
        if future is None:
            return None
        try:
            made: Contribution = future.result()
            ours = self._contributing.write_down(run, made)
        except StateError:
            if future.exception() is None:
                raise  # it is written down later
            return self._tell_failed(run, name, failure())
        except Exception as problem:  # noqa: BLE001 - it concerns this part alone
            return self._tell_failed(run, name, problem)
        run.work_done()
        if not ours:
            return Over(moved=True)
        self.tell(run, name, self._steps.contributed(run, made), made.masked)
        return None

    def tell(self, run: JoinedRun, name: str, told: Told, blob: bytes = b"") -> None:
        """Send an answer now, or, should the exchange not take it, when it is next looked at."""
        run.unsent[name] = pack(told, blob)
        self._send(run)

    def _answer(self, run: JoinedRun, name: str) -> Over | None:
        try:
            limit = self._limit(run, name)
            data = self._hear(run, name, limit) if limit else None
            if data is None:
                return None
            ask, blob = read_ask(name, data)
            if ask.step == "end":
                ended = "" if ask.finished else "its analyst gave it up"
                return Over(ended=ended, by_analyst=True)
            if ask.step == "contribute":
                self._begin_part(run, ask, blob)
                run.heard = time.monotonic()
                return None
            told = self._steps.told(run, ask)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception as problem:  # noqa: BLE001 - it concerns this ask alone
            return self._tell_problem(run, name, problem)
        run.heard = time.monotonic()
        self.tell(run, name, told)
        return None

    def _limit(self, run: JoinedRun, name: str) -> int:
        """Return how large an ask may be, before it is read; 0: it waits; raises why it is refused.

        Whoever can write to the storage can put a large file there, which takes long to decrypt.
        """
        attempt, step = step_of(name)
        if step is None:
            raise BadMessage("What was asked is no step of a run.")
        if step != "contribute":
            return _SMALL_BYTES
        run.rounds.require_unmasked(attempt)
        size = self._port.size(*run.key, name)
        if size > MAX_ROUND_BYTES + _AROUND:
            raise BadMessage(f"An ask has more than {MAX_ROUND_BYTES} bytes.")
        if size <= _SMALL_BYTES:
            limit = _SMALL_BYTES
        elif self._read_large:
            return 0
        else:
            limit = size
            require_room(run, _COPIES * size, runs=self._runs.values())
        return limit if self._threads_of(run).has_room(_part_of(run)) else 0

    def _hear(self, run: JoinedRun, name: str, limit: int) -> bytes | None:
        if limit > _SMALL_BYTES:
            self._read_large = True
            self._runs[run.key] = self._runs.pop(run.key)  # the next large one is another run's
        try:
            return self._port.hear(*run.key, name, limit=limit)
        except BadMessage as bad:
            logger.warning("%s", bad)
            return None

    def _begin_part(self, run: JoinedRun, ask: Ask, blob: bytes) -> None:
        """Have a part computed; raises why it is not."""
        numbers = run.part.length(ask.work) if ask.work is not None else 0
        size = len(blob) + _COPIES_OF_VECTOR * _BYTES_OF_NUMBER * min(numbers, MOST_NUMBERS)
        require_room(run, size, runs=self._runs.values())
        work = self._contributing.prepare(run, ask, blob)
        if self._threads_of(run).start(_part_of(run), work):
            run.work_on(f"{ask.attempt:06d}-{ask.step}", size=size)

    def _threads_of(self, run: JoinedRun) -> Runs:
        if run.mock:
            return self._twins
        return self._trainings if run.part.plan is None else self._noisy

    def _tell_failed(self, run: JoinedRun, name: str, problem: Exception) -> Over | None:
        """Say why a part is not there, unless the run may not go on: then not even this leaves."""
        objection = self._contributing.objection(run)
        return self._tell_problem(run, name, Objection(objection) if objection else problem)

    def _tell_problem(self, run: JoinedRun, name: str, problem: Exception) -> Over | None:
        """Say why an ask is not answered; an objection is also the end of the run."""
        if run.working == name:
            run.work_done()
        over = isinstance(problem, Objection)
        told = problem.problem if isinstance(problem, Objection) else public(problem)
        attempt, step = step_of(name)
        answer = Told(
            step=step or "end",
            attempt=attempt,
            problem=problem_of(told),
            only=told.only if isinstance(told, RosterRefused) else (),
        )
        self.tell(run, name, answer)
        return Over(problem=told) if over else None

    def _send(self, run: JoinedRun) -> None:
        for name, data in list(run.unsent.items()):
            try:
                self._port.tell(*run.key, name, data)
            except (NotAPeer, BadMessage) as problem:  # there is nobody to tell
                logger.warning("run %s: %s", run.record.name, problem)
            del run.unsent[name]


def _part_of(run: JoinedRun) -> Key:
    """Name what is computed for a run; one part at a time is."""
    return (*run.key, "part")


def _in_turn(names: Sequence[str]) -> list[str]:
    """Choose which asks are answered now: the end before all else, what is no step at last."""
    steps = {name: step_of(name)[1] for name in names}
    ends = [name for name, step in steps.items() if step == "end"]
    return ends[:1] or sorted(names, key=lambda name: steps[name] is None)[:_MOST_AT_ONCE]


def _waits_for_part(run: JoinedRun, name: str) -> bool:
    """Tell whether an ask comes after what is still computed: the same, or another part."""
    if not run.working:
        return False
    attempt, step = step_of(name)
    return step != "end" and (step == "contribute" or attempt == step_of(run.working)[0])
