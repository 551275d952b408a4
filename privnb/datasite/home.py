"""The private home of one party on this machine: its folders, its locks, its quarantine.

::

    home/                 mode 0700, never on the exchange
    ├── keys.json         our own keys, mode 0600
    ├── peers.json        whom we asked or decided on, with their pinned keys
    ├── box/              PySyft's folder: jobs that are not retired yet
    ├── quarantine/       what was refused, bounded
    ├── staging/ trash/   being made, being removed
    └── *.lock
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING

from privnb.durable import replace_file
from privnb.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Home", "make_durable", "write_private"]

log = logging.getLogger("privnb.datasite")

_LOCK_PATIENCE = 30.0
"""Seconds; nobody holds the lock for longer than one message takes."""
_LOCK_PAUSE = 0.002
_STALE_AFTER = 3600.0
"""Seconds after which what is being made must have been left by a crash."""
_QUARANTINE_FILES = 200
_QUARANTINE_BYTES = 64 * 1024 * 1024


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, durably, with mode 0600."""
    replace_file(path, [data])


def make_durable(path: Path) -> None:
    """Have what was written into a file reach the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Home:
    """A party's private folder.

    Raises `StateError` when it cannot be made or is not ours alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.is_new = not self.keys.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            for folder in (self.box, self._quarantine, self._staging, self._trash):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise StateError(
                f"The folder {self.path} cannot be used ({error.strerror}).",
                hint="Choose a folder that you own, with free space.",
            ) from error
        self._sweep()

    @property
    def keys(self) -> Path:
        """The key file."""
        return self.path / "keys.json"

    @property
    def peers(self) -> Path:
        """The file of pins."""
        return self.path / "peers.json"

    @property
    def box(self) -> Path:
        """PySyft's folder."""
        return self.path / "box"

    @property
    def _quarantine(self) -> Path:
        return self.path / "quarantine"

    @property
    def _staging(self) -> Path:
        return self.path / "staging"

    @property
    def _trash(self) -> Path:
        return self.path / "trash"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude every other thread and process that uses this home; short, not re-entrant.

        Raises `StateError` when another one keeps it for half a minute, and for whatever the disk
        does not allow meanwhile.
        """
        # A new open file each time: that is what excludes the threads of one process.
        fd = os.open(self.path / "box.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_PATIENCE
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise StateError(
                        f"{self.path} is locked by another process.",
                        hint="End or resume the process that uses it, then try again.",
                    )
                time.sleep(_LOCK_PAUSE)
            yield
        except OSError as error:
            raise StateError(
                f"{self.path} cannot be written ({error.strerror}).",
                hint="Free space there, or mend its permissions; then try again.",
            ) from error
        finally:
            os.close(fd)

    def try_to_serve(self) -> int | None:
        """Become the one process that serves this home, or return None when another one is.

        Returns the descriptor whose closing, or whose process's end, makes room for another.
        """
        fd = os.open(self.path / "serving.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _try_lock(fd):
            return fd
        os.close(fd)
        return None

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder that is removed afterwards."""
        folder = self._staging / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self, *folders: Path) -> None:
        """Remove folders, each as a whole: a crash leaves it complete or gone."""
        for folder in folders:
            aside = self._trash / uuid.uuid4().hex
            with contextlib.suppress(FileNotFoundError):
                folder.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)

    def quarantine(self, sender: str, reason: str, data: bytes) -> None:
        """Keep what was refused for an inspection, and log one line without its content.

        The oldest is dropped when there are too many or too much. Never raises.
        """
        log.warning("refused a message that claims to come from %s: %s", sender, reason)
        name = f"{time.time_ns():020d}-{sender}-{uuid.uuid4().hex[:8]}"
        try:
            write_private(self._quarantine / name, data)
            self._bound_quarantine()
        except OSError as error:
            log.warning("the refused message could not be kept: %s", error.strerror)

    def _bound_quarantine(self) -> None:
        kept = sorted(entry for entry in self._quarantine.iterdir() if entry.name[0] != ".")
        sizes = [entry.stat().st_size for entry in kept]
        total = sum(sizes)
        excess = len(kept) - _QUARANTINE_FILES
        for entry, size in zip(kept, sizes, strict=True):
            if excess <= 0 and total <= _QUARANTINE_BYTES:
                return
            entry.unlink(missing_ok=True)
            excess -= 1
            total -= size

    def _sweep(self) -> None:
        """Remove what a crash left behind."""
        for entry in self._trash.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
        before = time.time() - _STALE_AFTER
        for entry in self._staging.iterdir():
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < before:
                    shutil.rmtree(entry, ignore_errors=True)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
