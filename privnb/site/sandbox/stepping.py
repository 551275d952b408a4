"""Inside a training worker: run the code once, then its app for one step after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.federated.client import Client
from privnb.federated.faults import Faulty
from privnb.federated.messages import ArrayForm, Work
from privnb.site.sandbox.running import (
    CELL,
    as_frame,
    error_class,
    error_line,
    limit_memory,
    map_tables,
    new_main,
)
from privnb.site.sandbox.steps import (
    LENGTH,
    Answer,
    TrainingJob,
    as_bytes,
    byte_count,
    forms_of_answer,
    read_arrays,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["take_steps"]

_MOST_PARTS = 1024
"""How many parts Linux takes in one write."""


def take_steps(fields: dict[str, Any], descriptors: list[int], *, mapped_bytes: int | None) -> None:
    """Answer requests until there are no more; the descriptors are two pipes and the tables."""
    job = TrainingJob(**fields)
    asks, answers, *tables = descriptors
    limit_memory(job.memory_bytes, tables, mapped_bytes=mapped_bytes)
    mapped = map_tables(job.tables, tables)
    client: Client | None = None
    while True:
        number, work = _next_request(asks)
        values: list[memoryview] = []
        try:
            arrays = read_arrays(work.arrays, _read(asks, byte_count(work.arrays)))
            client = client or _load(job, mapped)
            replied = client.step(work, arrays)
            values = as_bytes(forms_of_answer(work), replied.arrays)
            said = Answer(
                number=number, status="done", metrics=replied.metrics, weight=replied.weight
            )
        except Faulty as problem:
            said = Answer(number=number, status="fault", fault=problem.fault)
        except MemoryError:
            said = Answer(number=number, status="memory")
        except BaseException as problem:  # noqa: BLE001 - an app may raise anything
            raised, line = error_class(problem), error_line(problem)
            said = Answer(number=number, status="raised", error=raised, line=line)
        head = wire.encode(said)
        _write(answers, [memoryview(LENGTH.pack(len(head)) + head), *values])


def _load(job: TrainingJob, tables: dict[str, pa.Table]) -> Client:
    """Run the code for the app that it leaves."""
    import numpy as np  # noqa: PLC0415 - a worker imports it once it can reach it
    import pandas as pd  # noqa: PLC0415 - as above

    names = new_main({"np": np, "numpy": np, "pd": pd, "pandas": pd} | job.parameters)
    code = compile(job.source, CELL, "exec", dont_inherit=True)
    exec(code, names)  # noqa: S102 - what a sandbox is for
    frames = {name: as_frame(table) for name, table in tables.items()}
    return Client(names.get("app"), tables=frames, parameters=job.parameters)


def _next_request(asks: int) -> tuple[str, Work]:
    (size,) = LENGTH.unpack(_read(asks, LENGTH.size))
    fields = json.loads(_read(asks, size))
    work = fields["work"]
    forms = tuple(ArrayForm(**{**f, "shape": tuple(f["shape"])}) for f in work["arrays"])
    return fields["number"], Work(**{**work, "arrays": forms})


def _read(pipe: int, size: int) -> bytearray:
    """Read so many bytes; ends the process when nobody asks any more."""
    heard = bytearray(size)
    rest = memoryview(heard)
    while rest:
        count = os.readv(pipe, [rest])
        if not count:
            os._exit(0)
        rest = rest[count:]
    return heard


def _write(pipe: int, parts: Sequence[memoryview]) -> None:
    """Write all parts; a short answer goes in one piece that no other thread comes between."""
    parts = [part for part in parts if part.nbytes]
    while parts:
        written = os.writev(pipe, parts[:_MOST_PARTS])
        while parts and written >= parts[0].nbytes:
            written -= parts.pop(0).nbytes
        if written:
            parts[0] = parts[0][written:]
