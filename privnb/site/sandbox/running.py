"""Inside a worker: bind the tables, run the cell, declare what it ends with."""

from __future__ import annotations

import ast
import mmap
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.errors import BadMessage, QueryRefused
from privnb.output import Undeclarable, check, declare
from privnb.site.sandbox import limits
from privnb.site.sandbox.cell import Job, Reply
from privnb.site.sandbox.known import KNOWN_ERRORS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "CELL",
    "as_frame",
    "error_class",
    "error_line",
    "limit_memory",
    "map_tables",
    "new_main",
    "run_one_cell",
]

CELL = "<cell>"
"""The file that code of a cell counts as, by which its lines are told from those of packages."""


def run_one_cell(
    fields: dict[str, Any], descriptors: list[int], *, mapped_bytes: int | None
) -> None:
    """Run the cell of a job and write the reply; the descriptors are a pipe and the tables."""
    job = Job(**fields)
    answer, *tables = descriptors
    limits.limit_processor(seconds=job.cpu_seconds)
    limit_memory(job.memory_bytes, tables, mapped_bytes=mapped_bytes)
    reply = memoryview(_run(job, map_tables(job.tables, tables)))
    while reply:
        reply = reply[os.write(answer, reply) :]


def limit_memory(most: int, tables: Sequence[int], *, mapped_bytes: int | None) -> None:
    """Set how much memory there is beyond that of the worker and of the tables."""
    if mapped_bytes is not None:
        limits.limit_addresses(mapped_bytes + sum(os.fstat(t).st_size for t in tables) + most)


def map_tables(names: Sequence[str], descriptors: Sequence[int]) -> dict[str, pa.Table]:
    """Map the tables that came with a job, without copying them, and close their descriptors."""
    import pyarrow as pa  # noqa: PLC0415 - a worker imports it once it can reach it
    from pyarrow import ipc  # noqa: PLC0415 - as above

    tables = {}
    for name, descriptor in zip(names, descriptors, strict=True):
        size = os.fstat(descriptor).st_size
        mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        os.close(descriptor)
        tables[name] = ipc.open_file(pa.py_buffer(mapped)).read_all()
    return tables


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Turn a table into an ordinary frame that the cell may change."""
    import pyarrow as pa  # noqa: PLC0415 - as above

    for position, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type):
            floats = table.column(position).cast(pa.float64())
            table = table.set_column(position, field.name, floats)
    frame: pd.DataFrame = table.to_pandas(date_as_object=False, use_threads=False)
    return frame


def new_main(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of a fresh main module, which has some already."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    vars(main).update(names)
    return vars(main)


def error_class(problem: BaseException) -> str:
    """Return the nearest class of an exception that may be named."""
    names = (ancestor.__name__ for ancestor in type(problem).__mro__)
    return next((name for name in names if name in KNOWN_ERRORS), "Error")


def error_line(problem: BaseException) -> int | None:
    """Return the line of the cell where an exception was raised, or passed through last."""
    if isinstance(problem, SyntaxError) and problem.filename == CELL:
        return problem.lineno
    line = None
    trace = problem.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == CELL:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _run(job: Job, tables: dict[str, pa.Table]) -> bytes:
    """Run a job's cell and return the reply; never raises."""
    value: Any = None
    try:
        value = _evaluate(job, tables)
        if _cells(value) > job.output_bytes // 2:  # each takes two bytes or more
            return wire.encode(Reply(status="size"))
        output = declare(value)
        check(output, max_rows=job.output_bytes, max_bytes=job.output_bytes)
        reply = wire.encode(Reply(status="done", output=output))
    except Undeclarable as problem:
        reply = wire.encode(Reply(status="output", output_type=_short(problem.type_name)))
    except (BadMessage, QueryRefused):  # wider or longer than any output may be
        reply = wire.encode(Reply(status="size"))
    except MemoryError:
        value = None  # leaves room for the answer
        reply = wire.encode(Reply(status="memory"))
    except BaseException as problem:  # noqa: BLE001 - a cell may raise anything
        said = Reply(status="error", error=error_class(problem), line=error_line(problem))
        reply = wire.encode(said)
    return reply if len(reply) <= job.output_bytes else wire.encode(Reply(status="size"))


def _evaluate(job: Job, tables: dict[str, pa.Table]) -> Any:
    tree = ast.parse(job.source, CELL)
    result = None
    if job.output is None and tree.body and isinstance(tree.body[-1], ast.Expr):
        result = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    names = new_main({name: as_frame(table) for name, table in tables.items()} | job.parameters)
    tables.clear()
    exec(compile(tree, CELL, "exec", dont_inherit=True), names)  # noqa: S102 - what a sandbox is for
    if job.output is not None:
        if job.output not in names:
            raise NameError(job.output)
        return names[job.output]
    if result is None:
        return None
    return eval(compile(result, CELL, "eval", dont_inherit=True), names)  # noqa: S307 - as above


def _cells(value: Any) -> int:
    import numpy as np  # noqa: PLC0415 - as above
    import pandas as pd  # noqa: PLC0415 - as above

    sized = (np.ndarray, pd.Series, pd.DataFrame, pd.api.extensions.ExtensionArray)
    return int(value.size) if isinstance(value, sized) else 0


def _short(name: str) -> str:
    return name[:100].encode("utf-8", "replace").decode()
