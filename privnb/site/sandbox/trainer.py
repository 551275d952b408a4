"""Trainings that go on step by step, over fewer workers than there may be trainings."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privnb.site.sandbox.cell import Failed, SandboxLimits
from privnb.site.sandbox.conversation import Conversation
from privnb.site.sandbox.steps import Trained, TrainingCell

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from privnb.federated.messages import Work
    from privnb.site.sandbox.pool import Pool
    from privnb.site.sandbox.process import Worker

__all__ = ["Trainer", "Trainers"]

_GOES_ON = {"error", "output"}


class Trainer:
    """One training at this site, for as long as its run takes; safe to use from several threads.

    Tables and code go in once and stay. What the code keeps between steps can be lost at any time:
    a worker that died, overran its limits or had to make room is replaced at the next step.
    """

    def __init__(self, cell: TrainingCell, *, limits: SandboxLimits, trainers: Trainers) -> None:
        self._cell = cell
        self._limits = limits
        self._trainers = trainers
        self._turn = threading.Lock()
        self._closed = False
        self._worker: Worker | None = None
        self._conversation: Conversation | None = None

    def step(self, work: Work, arrays: Sequence[NDArray[Any]]) -> Trained | Failed:
        """Do the work for one round: ``train`` or ``evaluate``, at the arrays that come with it.

        The limits count from here, and the first step is also the one that runs the code.
        """
        if work.kind not in {"train", "evaluate"}:
            raise ValueError(f"{work.kind!r} is no work for an app")
        with self._turn:
            if self._closed or not self._trainers.enter(self):
                return Failed(reason="lock")
            try:
                return self._ask(work, arrays)
            finally:
                self._trainers.leave(self)

    def close(self) -> None:
        """End the training; its worker goes, and a step that runs with it."""
        self._closed = True
        worker = self._worker
        if worker is not None:
            worker.interrupt()
        with self._turn:
            self._trainers.forget(self)

    def _ask(self, work: Work, arrays: Sequence[NDArray[Any]]) -> Trained | Failed:
        if self._worker is not None and not self._worker.alive:  # it ended while nobody asked
            self.let_go()
        if self._worker is None:
            self._worker = self._trainers.pool.take()
        if self._worker is None or self._closed:
            self.let_go()
            return Failed(reason="lock")
        ended: Trained | Failed | None = None
        try:
            if self._conversation is None:
                self._conversation = Conversation(self._worker, self._cell, limits=self._limits)
            ended = self._conversation.ask(work, arrays)
        finally:
            if ended is None or (isinstance(ended, Failed) and ended.reason not in _GOES_ON):
                self.let_go()
        return ended

    def let_go(self) -> None:
        """End the worker; only while no step runs, or by the step itself."""
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()
            self._trainers.pool.done(worker)


class Trainers:
    """All trainings of a site; at most so many have a worker at a time.

    Attributes
    ----------
    pool
        Training workers that wait.
    """

    def __init__(self, pool: Pool, *, limits: SandboxLimits, most: int) -> None:
        self.pool = pool
        self._limits = limits
        self._most = most
        self._changed = threading.Condition()
        self._waiting: deque[Trainer] = deque()  # who came first goes first
        self._with_worker: dict[Trainer, None] = {}  # who stepped last comes last
        self._in_step: set[Trainer] = set()
        self._closed = False

    def begin(self, cell: TrainingCell) -> Trainer:
        """Return a training; its worker is taken at the first step."""
        return Trainer(cell, limits=self._limits, trainers=self)

    def enter(self, trainer: Trainer) -> bool:
        """Make room for a step: whoever has not stepped for longest loses its worker.

        First come, first served: who still has a worker waits behind those who came before as well,
        or trainings that follow each other closely could keep another out for ever.
        """
        with self._changed:
            self._waiting.append(trainer)
            try:
                while not self._closed:
                    if self._waiting[0] is trainer and self._has_place(trainer):
                        self._with_worker.pop(trainer, None)
                        self._with_worker[trainer] = None
                        self._in_step.add(trainer)
                        return True
                    self._changed.wait()
                return False
            finally:
                self._waiting.remove(trainer)
                self._changed.notify_all()

    def _has_place(self, trainer: Trainer) -> bool:
        """Tell whether a training has a place, or has one now that another rests."""
        if trainer in self._with_worker:
            return True
        while len(self._with_worker) >= self._most:
            resting = next((t for t in self._with_worker if t not in self._in_step), None)
            if resting is None:
                return False
            del self._with_worker[resting]
            resting.let_go()
        return True

    def leave(self, trainer: Trainer) -> None:
        """Let others have the place."""
        with self._changed:
            self._in_step.discard(trainer)
            self._changed.notify_all()

    def forget(self, trainer: Trainer) -> None:
        """End the worker of a training that is over."""
        with self._changed:
            self._with_worker.pop(trainer, None)
            trainer.let_go()
            self._changed.notify_all()

    def close(self) -> None:
        """End all trainings."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            trainers = list(self._with_worker)
        for trainer in trainers:
            trainer.close()
        self.pool.close()
