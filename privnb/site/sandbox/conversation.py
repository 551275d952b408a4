"""Asking one training worker for one step after the other; of an answer its form is believed.

Its app may be hostile, and it goes on living. Between two steps the kernel lets no thread of it
run, so what it writes while nobody asks, or beyond the length that an answer must have, shows at
the next step, and ends it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.errors import BadMessage, StateError
from privnb.federated.faults import OF_THE_CODE
from privnb.site.sandbox.cell import Failed, SandboxLimits
from privnb.site.sandbox.one_cell import MOST_TABLES
from privnb.site.sandbox.sealed import sealed, sealed_table
from privnb.site.sandbox.steps import (
    LENGTH,
    Answer,
    Request,
    Trained,
    TrainingCell,
    TrainingJob,
    as_bytes,
    byte_count,
    forms_of_answer,
    read_arrays,
)
from privnb.site.sandbox.watch import Watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from privnb.federated.faults import Fault
    from privnb.federated.messages import Work
    from privnb.site.sandbox.process import Worker

__all__ = ["Conversation"]

_MOST_HEAD_BYTES = 1 << 16
_MOST_METRICS = 64
_NAME = re.compile(r"[A-Za-z_][ -~]{0,99}")
_PIPE_BYTES = 1 << 20


class Conversation:
    """What one worker is asked, from its first step to its end.

    Parameters
    ----------
    worker
        One that waits, of a pool of training workers. Ending it stays the caller's.
    """

    def __init__(self, worker: Worker, cell: TrainingCell, *, limits: SandboxLimits) -> None:
        if len(cell.tables) > MOST_TABLES:
            raise StateError(
                f"A cell cannot have more than {MOST_TABLES} tables.", hint="Name fewer tables."
            )
        self._worker = worker
        self._source = cell.source
        self._limits = limits
        job = TrainingJob(
            source=cell.source,
            parameters=dict(cell.parameters),
            tables=tuple(cell.tables),
            memory_bytes=limits.memory_mb << 20,
        )
        with contextlib.ExitStack() as passed:

            def pass_on(descriptor: int) -> int:
                passed.callback(os.close, descriptor)
                return descriptor

            theirs, self._asks = os.pipe()
            pass_on(theirs)
            self._answers, theirs_too = os.pipe()
            pass_on(theirs_too)
            for pipe in (self._asks, self._answers):
                os.set_blocking(pipe, False)
                with contextlib.suppress(OSError, AttributeError):  # a user may have too many
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            try:
                tables = [pass_on(sealed_table(table)) for table in cell.tables.values()]
                said = pass_on(sealed(wire.encode(job)))
                worker.hand_over([said, theirs, theirs_too, *tables])
            except BaseException:
                self.close()
                raise

    def ask(self, work: Work, arrays: Sequence[NDArray[Any]]) -> Trained | Failed:
        """Let the worker do some work, and let it rest until the next.

        After a failure other than ``error`` and ``output`` there is no next.
        """
        start = time.monotonic()
        if self._has_spoken():
            return Failed(reason="killed")
        number = secrets.token_hex(8)
        head = wire.encode(Request(number=number, work=work))
        request = [memoryview(LENGTH.pack(len(head)) + head), *as_bytes(work.arrays, arrays)]
        self._worker.resume()
        watch = Watch(self._worker, self._limits)
        try:
            answer = self._send(request, watch) or self._hear(number, work, watch)
        except OSError:  # it has closed its end
            return Failed(reason="killed")
        finally:
            self._worker.pause()
        if isinstance(answer, Failed):
            return answer
        said, values = answer
        return self._judge(said, values, work, seconds=time.monotonic() - start)

    def close(self) -> None:
        """Say no more; a worker that waits for a step then ends by itself."""
        os.close(self._asks)
        os.close(self._answers)

    def _has_spoken(self) -> bool:
        """Whether the worker has said something that nobody asked for, or closed its end."""
        ready = select.poll()
        ready.register(self._answers, select.POLLIN)
        return bool(ready.poll(0))

    def _send(self, parts: list[memoryview], watch: Watch) -> Failed | None:
        parts = [part for part in parts if part.nbytes]
        while parts:
            if overrun := watch.wait(self._asks, select.POLLOUT):
                return overrun
            written = os.write(self._asks, parts[0])
            parts[0] = parts[0][written:]
            if not parts[0].nbytes:
                del parts[0]
        return None

    def _hear(self, number: str, work: Work, watch: Watch) -> tuple[Answer, bytearray] | Failed:
        length = self._read(LENGTH.size, watch)
        if isinstance(length, Failed):
            return length
        (size,) = LENGTH.unpack(length)
        if size > _MOST_HEAD_BYTES:
            return Failed(reason="size")
        head = self._read(size, watch)
        if isinstance(head, Failed):
            return head
        try:
            answer = wire.decode(Answer, bytes(head), what="An answer")
        except BadMessage:
            return Failed(reason="killed")
        if answer.number != number:
            return Failed(reason="killed")
        follows = byte_count(forms_of_answer(work)) if answer.status == "done" else 0
        values = self._read(follows, watch)
        return values if isinstance(values, Failed) else (answer, values)

    def _read(self, size: int, watch: Watch) -> bytearray | Failed:
        """Read so many bytes and not one more."""
        heard = bytearray(size)
        rest = memoryview(heard)
        while rest:
            if overrun := watch.wait(self._answers, select.POLLIN):
                return overrun
            count = os.readv(self._answers, [rest])
            if not count:
                return Failed(reason="killed")
            rest = rest[count:]
        return heard

    def _judge(
        self, answer: Answer, values: bytearray, work: Work, *, seconds: float
    ) -> Trained | Failed:
        if answer.status == "memory":
            return Failed(reason="memory")
        if answer.status == "raised":
            return Failed.raised(answer.error, answer.line, source=self._source)
        fault = answer.fault or "reply" if answer.status == "fault" else None
        metrics = dict(sorted((answer.metrics or {}).items()))
        arrays = read_arrays(forms_of_answer(work), values) if fault is None else []
        fault = fault or self._fault(arrays, metrics, answer.weight)
        if fault is not None:
            return Failed(reason="error" if fault in OF_THE_CODE else "output", fault=fault)
        return Trained(
            arrays=tuple(zip(forms_of_answer(work), arrays, strict=True)),
            metrics=metrics,
            weight=answer.weight,
            seconds=seconds,
        )

    def _fault(
        self, arrays: list[NDArray[Any]], metrics: dict[str, float], weight: float
    ) -> Fault | None:
        """Find what is wrong with numbers that claim to be right."""
        import numpy as np  # noqa: PLC0415 - workers import this package before they can reach it

        if not weight > 0:
            return "weight"
        if len(metrics) > _MOST_METRICS or not all(map(self._is_in_source, metrics)):
            return "metrics"
        return None if all(np.isfinite(array).all() for array in arrays) else "not finite"

    def _is_in_source(self, name: str) -> bool:
        """Whether whoever approved the code could read this name: one made from rows is none."""
        word = rf"(?<!\w){re.escape(name)}(?!\w)"
        return _NAME.fullmatch(name) is not None and re.search(word, self._source) is not None
