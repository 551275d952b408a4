"""Files that are there whole or not at all, whatever is killed when.

They and their folders are handed to the disk before anything goes on; what survives a loss of
power then is up to the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["file_name", "make_folder", "replace_file", "sync_folder"]

_PART = ".privnb-part-"
_LEFT_OVER_SECONDS = 3600.0
"""A part that is older was left by a process that was killed."""
_LONGEST_NAME = 100
_READABLE = 60


def replace_file(path: Path, data: Iterable[bytes]) -> None:
    """Replace a file in one step, durably, readable by its owner only (0600).

    On failure the old content stays, and nothing else. Raises `OSError`; the folder must exist.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_file(Path(folder) / "note", [b"yes"])
    ...     (Path(folder) / "note").read_bytes()
    b'yes'
    """
    # Its name does not grow with that of the file, which may be as long as names can be.
    handle, name = tempfile.mkstemp(prefix=_PART, dir=path.parent)
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
    sync_folder(path.parent)
    _sweep(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder of its owner's alone (0700), and those above it, durably. Raises `OSError`."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the disk know which files a folder has."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def file_name(text: str) -> str:
    """Return a name for a file that belongs to an address: readable, harmless, at most 125 bytes.

    >>> file_name("ana@uni.example"), len(file_name("%" * 300))
    ('ana@uni.example', 125)
    """
    name = urllib.parse.quote(text, safe="@+")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_READABLE]}-{hashlib.sha256(text.encode()).hexdigest()}"


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left."""
    old = time.time() - _LEFT_OVER_SECONDS
    with contextlib.suppress(OSError):
        for part in folder.glob(f"{_PART}*"):
            if part.stat().st_mtime < old:
                part.unlink(missing_ok=True)
