"""One worker from the agent's side: start it, hand it what it works on, watch it, end it."""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privnb.errors import StateError
from privnb.site.sandbox.kernel import cpu_clock
from privnb.site.sandbox.launch import Launch
from privnb.site.sandbox.scratch import Scratch
from privnb.site.sandbox.sealed import sealed

__all__ = ["Worker"]

_BOOT_SECONDS = 120.0
_END_SECONDS = 5.0
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Worker:
    """A worker that prepares itself; `wait_ready` first, then `hand_over` once, then `end`.

    Its parent is the thread that makes it: when that thread ends, the kernel ends the worker.

    Attributes
    ----------
    report
        After `wait_ready`: what holds, in the worker's own words, from before it saw any cell.
    scratch
        Its folder for temporary files; None where bubblewrap gives it one of its own.
    """

    def __init__(self, launch: Launch, *, folder: Path | None) -> None:
        self.report: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._outer: int | None = None
        self._inner: int | None = None
        self._clock: int | None = None
        self._ending = threading.Lock()
        user = launch.new_user()
        self.scratch = None if launch.bubblewrap else Scratch(folder, user=user)
        place = str(self.scratch.path) if self.scratch else None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `_drop`
        self._channel, theirs = socket.socketpair()
        if sys.platform == "linux":  # then the kernel says which process it hears
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        boot = sealed(json.dumps(launch.boot(user=user, scratch=place)).encode())
        information, theirs_too = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                launch.command(str(theirs.fileno()), str(boot), info=theirs_too),
                env=launch.environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), boot, theirs_too),
                start_new_session=True,
            )
        except OSError as problem:
            os.close(information)
            self._drop()
            raise StateError(
                f"No sandbox worker can be started: {problem.strerror}.",
                hint="Look at the permissions of the Python that runs the agent.",
            ) from None
        finally:
            theirs.close()
            os.close(boot)
            os.close(theirs_too)
        if launch.bubblewrap:
            self._outer = _first_process(information)
        os.close(information)

    def wait_ready(self) -> None:
        """Wait until the worker is locked and waits. `StateError` when it says why it cannot."""
        self._channel.settimeout(_BOOT_SECONDS)
        line, process = b"", 0
        with contextlib.suppress(OSError):
            while not line.endswith(b"\n"):
                more, ancillary, _, _ = self._channel.recvmsg(
                    65536, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
                if not more:
                    break
                line += more
                process = _sender(ancillary) or process
        self._channel.settimeout(None)
        report = json.loads(line) if line.endswith(b"\n") else {"failed": self._last_words()}
        if "failed" in report:
            self.end()
            raise StateError(
                f"A sandbox worker cannot prepare itself: {report['failed']}",
                hint="See that the offered packages import, and that the kernel has Landlock.",
            )
        self.report = report
        if process:
            self._clock = cpu_clock(process)
            self._inner = os.pidfd_open(process)

    @property
    def alive(self) -> bool:
        """Whether the worker still waits."""
        return self._process is not None and self._process.poll() is None

    def hand_over(self, descriptors: Sequence[int]) -> None:
        """Give the worker what it works on; the descriptors stay the caller's to close."""
        numbers = array.array("i", descriptors)
        with contextlib.suppress(OSError):  # it has ended while it waited: no answer comes
            self._channel.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        self._channel.close()

    def cpu_seconds(self) -> float:
        """Return how much processor time it has used; 0 where the system does not say."""
        if self._clock is None:
            return 0.0
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # it has ended
            return 0.0

    def pause(self) -> None:
        """Let none of its threads run any more, whatever they do; only `resume` lets them."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def end(self, *, grace: float = 0.0) -> int:
        """End the worker and all that is its; returns its exit status as a shell would say it.

        Parameters
        ----------
        grace
            Seconds for it to end by itself, so that its status tells why.
        """
        status = 0
        with self._ending:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(grace)
                if self._process.poll() is None:
                    self._kill()
                status = self._process.wait()
            self._drop()
        return status if status >= 0 else 128 - status

    def interrupt(self) -> None:
        """End the worker from another thread than the one that waits for its answer."""
        with self._ending:
            if self.alive:
                self._kill()

    def _signal(self, number: signal.Signals) -> None:
        with self._ending, contextlib.suppress(ProcessLookupError):
            if self._inner is not None:
                signal.pidfd_send_signal(self._inner, number)
            elif self._process is not None:
                self._process.send_signal(number)

    def _kill(self) -> None:
        """End the process inside first: bubblewrap then ends by itself, and leaves no orphan."""
        if self._process is None:
            return
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._outer, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _drop(self) -> None:
        self._channel.close()
        self._errors.close()
        held, self._outer, self._inner = (self._outer, self._inner), None, None
        for process in held:
            if process is not None:
                os.close(process)
        if self.scratch is not None:
            self.scratch.remove()

    def _last_words(self) -> str:
        """Return what was said before the worker could speak, or how it ended."""
        self._errors.seek(0)
        said = self._errors.read(4000).decode(errors="replace").strip().splitlines()
        ended = self._process.wait() if self._process else 0
        return said[-1] if said else f"it ended with {ended} and without a word."


def _first_process(information: int) -> int | None:
    """Read from bubblewrap which is the first process in its namespace, and hold on to it."""
    said = b""
    with contextlib.suppress(ValueError, OSError, KeyError):
        while more := os.read(information, 4096):
            said += more
            if b"}" in more:
                break
        return os.pidfd_open(int(json.loads(said)["child-pid"]))
    return None


def _sender(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the process that a message came from, as the kernel says; 0 where it does not."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, getattr(socket, "SCM_CREDENTIALS", None)):
            return int(_CREDENTIALS.unpack(data)[0])
    return 0
