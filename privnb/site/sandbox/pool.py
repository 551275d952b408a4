"""The sandbox: a pool of workers that wait, one for each cell, never used twice."""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from privnb.errors import ConfigError, PrivnbError, StateError
from privnb.site.sandbox.cell import Cell, Failed, Finished, SandboxLimits
from privnb.site.sandbox.launch import Launch, find_bubblewrap
from privnb.site.sandbox.offer import find_offer
from privnb.site.sandbox.process import Worker
from privnb.site.sandbox.scratch import Scratch
from privnb.site.sandbox.selftest import attack_ourselves
from privnb.site.sandbox.syscalls import this_machine

__all__ = ["Sandbox"]

_RETRY_SECONDS = 2.0
_PATIENCE_SECONDS = 0.5
_NO_SANDBOX = "NO SANDBOX"


class Sandbox:
    """Runs cells of analysts; safe to use from several threads.

    At most ``workers`` cells run at once, while as many workers wait for the next. Each worker
    takes about as much memory as importing the offered packages does.

    Attributes
    ----------
    level
        What holds the workers, for the log and the privacy label: for example ``bubblewrap,
        Landlock (ABI 7), seccomp, limits, own user``.
    without_bubblewrap
        Why bubblewrap is not part of the level; None when it is.
    """

    @classmethod
    def open(
        cls,
        *,
        packages: Sequence[str],
        limits: SandboxLimits,
        workers: int = 2,
        allow_unsandboxed: bool = False,
        scratch: Path | None = None,
        _bubblewrap: bool = True,
    ) -> Self:
        """Start the workers and attack them once; returns only when every attack failed.

        Parameters
        ----------
        packages
            Distributions that cells may import, with all they depend on.
        allow_unsandboxed
            Whether to go on without any sandbox where the system has none.
        scratch
            Where folders for the workers' temporary files are made; used without bubblewrap only.

        Raises `ConfigError` for a package that is not installed, and `StateError` when there is no
        sandbox to be had, or when it does not hold.
        """
        offer = find_offer(packages)
        Scratch.sweep(scratch)
        launch = Launch(
            offer=offer,
            bubblewrap=None,
            lock=sys.platform == "linux" and this_machine() is not None,
            scratch_bytes=limits.scratch_mb << 20,
        )
        program = find_bubblewrap() if launch.lock and _bubblewrap else None
        reason = "it is not installed" if _bubblewrap else "it is not wanted"
        if program is not None:
            wrapped = Launch(
                offer=offer,
                bubblewrap=program,
                lock=True,
                scratch_bytes=launch.scratch_bytes,
            )
            reason = wrapped.try_bubblewrap() or ""
            launch = launch if reason else wrapped
        if not launch.lock and not allow_unsandboxed:
            raise ConfigError(
                "This system has no sandbox for Python computations.",
                hint="Run the agent on Linux (x86_64 or aarch64), or set allow_unsandboxed = true "
                "for code that you trust as much as your own.",
            )
        try:
            return cls(launch, limits=limits, workers=workers, scratch=scratch, reason=reason)
        except StateError:
            if not (launch.lock and allow_unsandboxed):
                raise
        open_launch = Launch(
            offer=offer, bubblewrap=None, lock=False, scratch_bytes=launch.scratch_bytes
        )
        return cls(open_launch, limits=limits, workers=workers, scratch=scratch, reason=reason)

    def __init__(
        self,
        launch: Launch,
        *,
        limits: SandboxLimits,
        workers: int,
        scratch: Path | None,
        reason: str,
    ) -> None:
        self._launch = launch
        self._limits = limits
        self._scratch = scratch
        self._wanted = workers
        self._waiting: collections.deque[Worker] = collections.deque()
        self._running: set[Worker] = set()
        self._changed = threading.Condition()
        self._places = threading.BoundedSemaphore(workers)
        self._closed = False
        self._problem: PrivnbError | None = None
        # Workers end with the thread that starts them, so one thread lives as long as the pool.
        self._starter = threading.Thread(target=self._keep_started, name="sandbox", daemon=True)
        self._starter.start()
        self.without_bubblewrap = None if launch.bubblewrap else reason
        try:
            self.warm()
            self.level = self._describe(self._waiting[0])
            if launch.lock:
                attack_ourselves(self.run)
        except BaseException:
            self.close()
            raise

    def run(self, cell: Cell) -> Finished | Failed:
        """Run a cell in a worker of its own and wait for the end."""
        with self._places:
            worker = self._take()
            if worker is None:
                return Failed(reason="lock")
            try:
                return worker.run(cell)
            finally:
                with self._changed:
                    self._running.discard(worker)
                    self._changed.notify_all()

    def warm(self) -> None:
        """Wait until a worker waits. `StateError` when none can be prepared."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._problem or self._closed)
            if not self._waiting:
                raise self._problem or StateError("The sandbox is closed.")

    def close(self) -> None:
        """End all workers, also those that run a cell."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            running = list(self._running)
        for worker in running:
            worker.interrupt()
        self._starter.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> Worker | None:
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
                worker = Worker(self._launch, limits=self._limits, folder=self._scratch)
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
        if not self._launch.lock:
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
