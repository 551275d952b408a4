"""A cell's way through a worker of its own: hand it over, hear the answer, believe its form."""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import BadMessage, QueryRefused, StateError
from privnb.output import Output, check
from privnb.site.sandbox.cell import Cell, Failed, Finished, Job, Reply, SandboxLimits
from privnb.site.sandbox.known import KNOWN_TYPES
from privnb.site.sandbox.sealed import sealed, sealed_table
from privnb.site.sandbox.watch import Watch

if TYPE_CHECKING:
    from privnb.site.sandbox.process import Worker

__all__ = ["MOST_TABLES", "run_cell"]

MOST_TABLES = 32
_LAST_SECONDS = 2.0
_ENVELOPE_BYTES = 1024


def run_cell(worker: Worker, cell: Cell, *, limits: SandboxLimits) -> Finished | Failed:
    """Let a worker that waits run a cell, and end it whatever happens."""
    start = time.monotonic()
    answer, theirs = os.pipe()
    descriptors: list[int] = [theirs]
    try:
        descriptors.append(sealed(wire.encode(_job(cell, limits))))
        descriptors += map(sealed_table, cell.tables.values())
        worker.hand_over([descriptors[1], theirs, *descriptors[2:]])
    except BaseException:
        os.close(answer)
        worker.end()
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    heard: bytes | Failed = b""
    try:
        heard = _hear(answer, Watch(worker, limits), most=limits.output_bytes + _ENVELOPE_BYTES)
    finally:
        os.close(answer)
        status = worker.end(grace=0.0 if heard else _LAST_SECONDS)
    if isinstance(heard, Failed):
        return heard
    if not heard:
        timed_out = status == 128 + signal.SIGXCPU
        return Failed(reason="time" if timed_out else "killed")
    return _judge(heard, cell, most=limits.output_bytes, seconds=time.monotonic() - start)


def _job(cell: Cell, limits: SandboxLimits) -> Job:
    if len(cell.tables) > MOST_TABLES:
        raise StateError(
            f"A cell cannot have more than {MOST_TABLES} tables.", hint="Name fewer tables."
        )
    return Job(
        source=cell.source,
        parameters=dict(cell.parameters),
        tables=tuple(cell.tables),
        output=cell.output,
        cpu_seconds=limits.cpu_seconds,
        memory_bytes=limits.memory_mb << 20,
        output_bytes=limits.output_bytes,
    )


def _hear(answer: int, watch: Watch, *, most: int) -> bytes | Failed:
    """Read all that the worker writes, for as long and as much as it may."""
    heard = bytearray()
    while True:
        if overrun := watch.wait(answer, select.POLLIN):
            return overrun
        more = os.read(answer, 1 << 16)
        if not more:
            return bytes(heard)
        heard += more
        if len(heard) > most:
            return Failed(reason="size")


def _judge(heard: bytes, cell: Cell, *, most: int, seconds: float) -> Finished | Failed:
    """Believe nothing of an answer but its form."""
    try:
        reply = wire.decode(Reply, heard, what="A reply", limit=most + _ENVELOPE_BYTES)
    except BadMessage:
        return Failed(reason="killed")
    if reply.status == "done":
        return _accept(reply.output, most=most, seconds=seconds)
    if reply.status == "error":
        return Failed.raised(reply.error, reply.line, source=cell.source)
    if reply.status == "output":
        known = reply.output_type in KNOWN_TYPES
        return Failed(reason="output", output_type=reply.output_type if known else "another type")
    return Failed(reason=reply.status)


def _accept(output: Output | None, *, most: int, seconds: float) -> Finished | Failed:
    if output is None:
        return Failed(reason="killed")
    try:
        check(output, max_rows=most, max_bytes=most)
    except BadMessage:
        return Failed(reason="killed")
    except QueryRefused:
        return Failed(reason="size")
    return Finished(output=output, seconds=seconds)
