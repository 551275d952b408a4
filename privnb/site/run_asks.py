"""What an analyst asks in the channel of a run, and the site's answers, as they are sent.

Keys and shares are answered at once; a part is computed beside the agent's thread, and sent when it
is there. Nothing here is durable but what `privnb.site.contributing` writes down.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, ExchangeUnavailable, NotAPeer, StateError
from privnb.federated.messages import Told, pack
from privnb.site.contributing import Objection
from privnb.site.refusing import public
from privnb.site.reporting import failure, problem_of
from privnb.site.run_steps import Steps, read_ask, step_of
from privnb.site.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from privnb.datasite.ports import OwnerPort
    from privnb.errors import PrivnbError
    from privnb.site.contributing import Contributing, Contribution
    from privnb.site.joined import JoinedRun

__all__ = ["JOIN", "Asks", "Over"]

logger = logging.getLogger("privnb.site")

JOIN = "000000-join"
"""The name under which a site tells that it takes part."""
_ACTIVE_SECONDS = 5.0
"""For how long after an ask the next one is looked for quickly."""
_RESTING_SECONDS = 600.0
_MOST_AT_ONCE = 4
"""How many asks of one run are answered in one go, so that others get a turn."""
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
    pace
        How often the channel of a run is looked at while it is active, and while it rests; seconds.
    trainings
        How many apps may train at a time.
    """

    def __init__(
        self,
        *,
        port: OwnerPort,
        contributing: Contributing,
        pace: tuple[float, float],
        trainings: int,
    ) -> None:
        self.pace = pace
        self._port = port
        self._contributing = contributing
        self._steps = Steps(contributing)
        self._noisy = Runs(threads=_THREADS)
        self._trainings = Runs(threads=max(trainings, 1))

    def rest(self, runs: Collection[JoinedRun]) -> float | None:
        """For how many seconds there is nothing to do for these runs; None: there are none."""
        if not runs:
            return None
        if any(run.working for run in runs):
            return self.pace[0]
        return max(min(run.next_look for run in runs) - time.monotonic(), 0.0)

    def close(self) -> None:
        """Start nothing more."""
        self._noisy.close()
        self._trainings.close()

    def wait(self, *, seconds: float) -> None:
        """Wait until the parts that are being computed are there, at most so long."""
        self._noisy.wait(seconds=seconds)
        self._trainings.wait(seconds=seconds)

    def collect(self, runs: Mapping[tuple[str, str], JoinedRun]) -> None:
        """Give the runs the parts that were computed for them."""
        for threads in (self._noisy, self._trainings):
            for key in threads.done():
                run, future = runs.get(key[:2]), threads.take(key)
                if run is not None and run.working == key[2]:
                    run.computed = future

    def look(self, run: JoinedRun) -> Over | None:
        """Answer what is asked; return how the run is over, if it is."""
        self._send(run)
        names = self._port.asked(*run.key)
        now = time.monotonic()
        if any(name != run.working for name in names):
            run.heard = now
        over = [name for name in names if step_of(name)[1] == "end"]
        for name in over[:1] or names[:_MOST_AT_ONCE]:
            if not _waits_for_part(run, name):
                ended = self._answer(run, name)
                if ended is not None:
                    return ended
        quick, slow = self.pace
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
            return self._tell_problem(run, name, failure())
        except Exception as problem:  # noqa: BLE001 - it concerns this part alone
            return self._tell_problem(run, name, problem)
        run.computed, run.working = None, ""
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
            data = self._port.hear(*run.key, name)
        except BadMessage as bad:
            logger.warning("%s", bad)
            return None
        if data is None:
            return None
        try:
            ask, blob = read_ask(name, data)
            if ask.step == "end":
                ended = "" if ask.finished else "its analyst gave it up"
                return Over(ended=ended, by_analyst=True)
            if ask.step == "contribute":
                work = self._contributing.prepare(run, ask, blob)
                threads = self._trainings if run.part.plan is None else self._noisy
                if threads.start((*run.key, name), work):
                    run.working = name
                return None
            told = self._steps.told(run, ask)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception as problem:  # noqa: BLE001 - it concerns this ask alone
            return self._tell_problem(run, name, problem)
        self.tell(run, name, told)
        return None

    def _tell_problem(self, run: JoinedRun, name: str, problem: Exception) -> Over | None:
        """Say why an ask is not answered; an objection is also the end of the run."""
        if run.working == name:
            run.computed, run.working = None, ""
        over = isinstance(problem, Objection)
        told = problem.problem if isinstance(problem, Objection) else public(problem)
        attempt, step = step_of(name)
        self.tell(run, name, Told(step=step, attempt=attempt, problem=problem_of(told)))
        return Over(problem=told) if over else None

    def _send(self, run: JoinedRun) -> None:
        for name, data in list(run.unsent.items()):
            try:
                self._port.tell(*run.key, name, data)
            except (NotAPeer, BadMessage) as problem:  # there is nobody to tell
                logger.warning("run %s: %s", run.record.name, problem)
            del run.unsent[name]


def _waits_for_part(run: JoinedRun, name: str) -> bool:
    """Tell whether an ask comes after what is still computed: the same, or another part."""
    if not run.working:
        return False
    attempt, step = step_of(name)
    return step != "end" and (step == "contribute" or attempt == step_of(run.working)[0])
