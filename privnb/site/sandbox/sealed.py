"""What goes into a worker: anonymous files that nobody can change any more."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["sealed", "sealed_table"]


def sealed(data: bytes) -> int:
    """Return a descriptor of a file that has some bytes."""
    if sys.platform != "linux":
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            return os.dup(file.fileno())
    descriptor = os.memfd_create("privnb", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    return _seal(descriptor)


def sealed_table(table: pa.Table) -> int:
    """Return a descriptor of an Arrow file that has the rows of a table."""
    from pyarrow import OSFile, ipc  # noqa: PLC0415 - stays out of start-up

    if sys.platform != "linux":
        import pyarrow as pa  # noqa: PLC0415 - stays out of start-up

        sink = pa.BufferOutputStream()
        with ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return sealed(sink.getvalue().to_pybytes())
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
