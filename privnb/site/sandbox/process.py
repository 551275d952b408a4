"""One worker from the agent's side: start it, hand it a cell, hear its answer, end it."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.errors import BadMessage, QueryRefused, StateError
from privnb.output import Output, check
from privnb.site.sandbox.cell import Cell, Failed, Finished, Job, Reply
from privnb.site.sandbox.cell import SandboxLimits as Limits
from privnb.site.sandbox.known import KNOWN_ERRORS, KNOWN_TYPES
from privnb.site.sandbox.launch import Launch
from privnb.site.sandbox.scratch import Scratch

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Worker"]

_BOOT_SECONDS = 120.0
_END_SECONDS = 5.0
_LAST_SECONDS = 2.0
_WATCH_SECONDS = 0.1
_ENVELOPE_BYTES = 1024
_MOST_TABLES = 32


class Worker:
    """A worker that prepares itself; `wait_ready` first, then `run` once, then `end`.

    Its parent is the thread that makes it: when that thread ends, the kernel ends the worker.

    Attributes
    ----------
    report
        After `wait_ready`: what holds, in the worker's own words, from before it saw any cell.
    """

    def __init__(self, launch: Launch, *, limits: Limits, folder: Path | None) -> None:
        self._limits = limits
        self.report: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._inner: int | None = None
        self._ending = threading.Lock()
        user = launch.new_user()
        self._scratch = None if launch.bubblewrap else Scratch(folder, user=user)
        place = str(self._scratch.path) if self._scratch else None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `_drop`
        self._channel, theirs = socket.socketpair()
        boot = _sealed(json.dumps(launch.boot(user=user, scratch=place)).encode())
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
            self._inner = _inner_process(information)
        os.close(information)

    def wait_ready(self) -> None:
        """Wait until the worker is locked and waits. `StateError` when it says why it cannot."""
        self._channel.settimeout(_BOOT_SECONDS)
        line = b""
        with contextlib.suppress(OSError):
            while not line.endswith(b"\n") and (more := self._channel.recv(65536)):
                line += more
        self._channel.settimeout(None)
        report = json.loads(line) if line.endswith(b"\n") else {"failed": self._last_words()}
        if "failed" in report:
            self.end()
            raise StateError(
                f"A sandbox worker cannot prepare itself: {report['failed']}",
                hint="See that the offered packages import, and that the kernel has Landlock.",
            )
        self.report = report

    @property
    def alive(self) -> bool:
        """Whether the worker still waits."""
        return self._process is not None and self._process.poll() is None

    def run(self, cell: Cell) -> Finished | Failed:
        """Let the worker run a cell, and end it whatever happens."""
        start = time.monotonic()
        answer, theirs = os.pipe()
        descriptors: list[int] = []
        try:
            descriptors += [_sealed(wire.encode(self._job(cell))), theirs]
            for table in cell.tables.values():
                descriptors.append(_sealed_table(table))
            numbers = array.array("i", descriptors)
            with contextlib.suppress(OSError):  # it has ended while it waited: no answer comes
                self._channel.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
        except BaseException:
            os.close(answer)
            self.end()
            raise
        finally:
            for descriptor in {*descriptors, theirs}:
                os.close(descriptor)
        self._channel.close()
        heard: bytes | Failed = b""
        try:
            heard = self._hear(answer, until=start + self._limits.wall_seconds)
        finally:
            os.close(answer)
            status = self.end(grace=0.0 if heard else _LAST_SECONDS)
        if isinstance(heard, Failed):
            return heard
        return self._judge(heard, cell, status=status, seconds=time.monotonic() - start)

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
        """End the worker from another thread than the one that waits in `run`."""
        with self._ending:
            if self.alive:
                self._kill()

    def _job(self, cell: Cell) -> Job:
        if len(cell.tables) > _MOST_TABLES:
            raise StateError(
                f"A cell cannot have more than {_MOST_TABLES} tables.", hint="Name fewer tables."
            )
        return Job(
            source=cell.source,
            parameters=dict(cell.parameters),
            tables=tuple(cell.tables),
            output=cell.output,
            cpu_seconds=self._limits.cpu_seconds,
            memory_bytes=self._limits.memory_mb << 20,
            output_bytes=self._limits.output_bytes,
        )

    def _hear(self, answer: int, *, until: float) -> bytes | Failed:
        """Read all that the worker writes, for as long and as much as it may."""
        most = self._limits.output_bytes + _ENVELOPE_BYTES
        watched = self._scratch
        ready = select.poll()
        ready.register(answer, select.POLLIN)
        heard = bytearray()
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return Failed(reason="time")
            wait = min(left, _WATCH_SECONDS) if watched else left
            if ready.poll(wait * 1000 + 1):
                more = os.read(answer, 1 << 16)
                if not more:
                    return bytes(heard)
                heard += more
                if len(heard) > most:
                    return Failed(reason="size")
            if watched and watched.is_over(self._limits.scratch_mb << 20):
                return Failed(reason="size")

    def _judge(self, heard: bytes, cell: Cell, *, status: int, seconds: float) -> Finished | Failed:
        """Believe nothing of an answer but its form."""
        if not heard:
            timed_out = status == 128 + signal.SIGXCPU
            return Failed(reason="time" if timed_out else "killed")
        most = self._limits.output_bytes
        try:
            reply = wire.decode(Reply, heard, what="A reply", limit=most + _ENVELOPE_BYTES)
        except BadMessage:
            return Failed(reason="killed")
        if reply.status == "done":
            return self._accept(reply.output, seconds=seconds)
        if reply.status == "error":
            lines = cell.source.count("\n") + 1
            known = reply.line is not None and 1 <= reply.line <= lines
            return Failed(
                reason="error",
                error=reply.error if reply.error in KNOWN_ERRORS else "Error",
                line=reply.line if known else None,
            )
        if reply.status == "output":
            known_type = reply.output_type in KNOWN_TYPES
            return Failed(
                reason="output", output_type=reply.output_type if known_type else "another type"
            )
        return Failed(reason=reply.status)

    def _accept(self, output: Output | None, *, seconds: float) -> Finished | Failed:
        most = self._limits.output_bytes
        if output is None:
            return Failed(reason="killed")
        try:
            check(output, max_rows=most, max_bytes=most)
        except BadMessage:
            return Failed(reason="killed")
        except QueryRefused:
            return Failed(reason="size")
        return Finished(output=output, seconds=seconds)

    def _kill(self) -> None:
        """End the process inside first: bubblewrap then ends by itself, and leaves no orphan."""
        if self._process is None:
            return
        if self._inner is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _drop(self) -> None:
        self._channel.close()
        self._errors.close()
        inner, self._inner = self._inner, None
        if inner is not None:
            os.close(inner)
        if self._scratch is not None:
            self._scratch.remove()

    def _last_words(self) -> str:
        """Return what was said before the worker could speak, or how it ended."""
        self._errors.seek(0)
        said = self._errors.read(4000).decode(errors="replace").strip().splitlines()
        ended = self._process.wait() if self._process else 0
        return said[-1] if said else f"it ended with {ended} and without a word."


def _inner_process(information: int) -> int | None:
    """Read from bubblewrap which process it runs, and hold on to it."""
    said = b""
    with contextlib.suppress(ValueError, OSError, KeyError):
        while more := os.read(information, 4096):
            said += more
            if b"}" in more:
                break
        return os.pidfd_open(int(json.loads(said)["child-pid"]))
    return None


def _sealed(data: bytes) -> int:
    """Return a descriptor of an anonymous file that nobody can change any more."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("privnb", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    return _seal(descriptor)


def _sealed_table(table: pa.Table) -> int:
    from pyarrow import OSFile, ipc  # noqa: PLC0415 - stays out of start-up

    if sys.platform != "linux":
        import pyarrow as pa  # noqa: PLC0415 - stays out of start-up

        sink = pa.BufferOutputStream()
        with ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return _sealed(sink.getvalue().to_pybytes())
    descriptor = os.memfd_create("privnb", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with (
        OSFile(f"/proc/self/fd/{descriptor}", "wb") as sink,
        ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    return _seal(descriptor)


def _seal(descriptor: int) -> int:
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
