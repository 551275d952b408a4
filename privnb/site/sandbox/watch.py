"""How long a worker may go on: until a time, while its processor time and scratch are in bounds."""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from privnb.site.sandbox.cell import Failed, SandboxLimits

if TYPE_CHECKING:
    from privnb.site.sandbox.process import Worker

__all__ = ["Watch"]

_LOOK_SECONDS = 0.1


class Watch:
    """Waits for a worker's pipes for as long as it keeps within its limits, from now on."""

    def __init__(self, worker: Worker, limits: SandboxLimits) -> None:
        self._worker = worker
        self._limits = limits
        self._until = time.monotonic() + limits.wall_seconds
        self._cpu_until = worker.cpu_seconds() + limits.cpu_seconds
        self._next_look = 0.0

    def wait(self, descriptor: int, event: int) -> Failed | None:
        """Wait until a pipe can be read or written, or has ended; returns what is overrun."""
        ready = select.poll()
        ready.register(descriptor, event)
        while True:
            now = time.monotonic()
            if now >= self._next_look:
                self._next_look = now + _LOOK_SECONDS
                if overrun := self._overrun(now):
                    return overrun
            if ready.poll(max(0.0, self._next_look - now) * 1000 + 1):
                return None

    def _overrun(self, now: float) -> Failed | None:
        if now >= self._until or self._worker.cpu_seconds() > self._cpu_until:
            return Failed(reason="time")
        scratch = self._worker.scratch
        if scratch is not None and scratch.is_over(self._limits.scratch_mb << 20):
            return Failed(reason="size")
        return None
