"""Files that are there whole or not at all, whatever is killed when, and that survive the power."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["replace_file"]


def replace_file(path: Path, data: Iterable[bytes]) -> None:
    """Replace a file in one step, durably, readable by its owner only (0600).

    On failure the old content stays, and nothing else. Raises `OSError`; the folder must exist.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder) / "note", [b"yes"])
    ...     (Path(folder) / "note").read_bytes()
    b'yes'
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
