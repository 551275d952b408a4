"""Workers that wait for code, one for each, never used twice."""

from __future__ import annotations

import collections
import threading
from pathlib import Path

from privnb.errors import PrivnbError, StateError
from privnb.site.sandbox.launch import Launch
from privnb.site.sandbox.process import Worker

__all__ = ["Pool"]

_RETRY_SECONDS = 2.0
_PATIENCE_SECONDS = 0.5
_NO_SANDBOX = "NO SANDBOX"


class Pool:
    """Keeps some workers waiting; safe to use from several threads.

    Parameters
    ----------
    waiting
        How many; each takes about as much memory as importing the offered packages does.
    scratch
        Where folders for the workers' temporary files are made; used without bubblewrap only.

    Attributes
    ----------
    locks
        Whether there is a sandbox at all.
    """

    def __init__(self, launch: Launch, *, waiting: int, scratch: Path | None) -> None:
        self.locks = launch.lock
        self._launch = launch
        self._scratch = scratch
        self._wanted = waiting
        self._waiting: collections.deque[Worker] = collections.deque()
        self._running: set[Worker] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._problem: PrivnbError | None = None
        # Workers end with the thread that starts them, so one thread lives as long as the pool.
        self._starter = threading.Thread(target=self._keep_started, name="sandbox", daemon=True)
        self._starter.start()

    def warm(self) -> str:
        """Wait until a worker waits, and say what holds it. `StateError` when there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._problem or self._closed)
            if not self._waiting:
                raise self._problem or StateError("The sandbox is closed.")
            return self._describe(self._waiting[0])

    def take(self) -> Worker | None:
        """Return a worker that waited, to give back with `done`; None when there is none."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._problem or self._closed)
                if self._closed or not self._waiting:
                    return None
                worker = self._waiting.popleft()
                self._changed.notify_all()
                if worker.alive:
                    self._running.add(worker)
                    return worker
                worker.end()

    def done(self, worker: Worker) -> None:
        """Forget a worker that has ended."""
        with self._changed:
            self._running.discard(worker)
            self._changed.notify_all()

    def close(self) -> None:
        """End all workers, also those that run; returns once all were given back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            running = list(self._running)
        for worker in running:
            worker.interrupt()
        self._starter.join()

    def _keep_started(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._wanted)
                if self._waiting:  # no hurry: leave the processors to the cell that runs
                    self._changed.wait_for(
                        lambda: self._closed or not self._running, timeout=_PATIENCE_SECONDS
                    )
                if self._closed:
                    break
            try:
                worker = Worker(self._launch, folder=self._scratch)
                worker.wait_ready()
            except PrivnbError as problem:
                with self._changed:
                    self._problem = problem
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed, timeout=_RETRY_SECONDS)
                continue
            with self._changed:
                self._problem = None
                self._waiting.append(worker)
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            while self._waiting:
                self._waiting.pop().end()

    def _describe(self, worker: Worker) -> str:
        if not self.locks:
            return _NO_SANDBOX
        parts = ["bubblewrap"] if self._launch.bubblewrap else []
        parts += [f"Landlock (ABI {worker.report['landlock']})", "seccomp", "limits"]
        if self._launch.drops_user:
            parts.append("own user")
        elif self._launch.bubblewrap:
            parts.append("own user namespace")
        else:
            parts.append("the agent's user")
        return ", ".join(parts)
