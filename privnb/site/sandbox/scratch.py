"""The one folder a worker may write to where bubblewrap gives it none of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from pathlib import Path

from privnb.site.sandbox.users import is_ours

__all__ = ["Scratch"]

_PREFIX = "privnb-scratch-"
_MOST_ENTRIES = 10_000
_MOST_DEPTH = 100


class Scratch:
    """A private folder for one worker, watched while its cell runs and removed afterwards.

    What lies in it was made by hostile code: links are never followed, and a chain of folders may
    be deeper than Python or a path can go.

    Parameters
    ----------
    folder
        Where to make it; None for the system's folder for temporary files. The worker's user must
        be able to pass through.
    user
        Whose it becomes; None for the agent's own user.
    """

    def __init__(self, folder: Path | None, *, user: int | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        # The lock ends with this process, however that ends: what is left over can be told.
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if user is not None:
            os.fchown(self._lock, user, user)

    @staticmethod
    def sweep(folder: Path | None) -> None:
        """Remove what agents that were killed have left in a folder."""
        for path in Path(folder or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # Another person's folder could be exchanged for a link under our hands.
                    if is_ours(os.fstat(lock).st_uid):
                        _remove(path)
                finally:
                    os.close(lock)

    def is_over(self, most_bytes: int) -> bool:
        """Whether it holds more than some bytes or 10,000 entries, or what cannot be looked at.

        A folder that is too deep or closed to us counts as too much, as files could lie in it.
        """
        size = entries = 0
        folders = [(self.path, 0)]
        while folders:
            folder, depth = folders.pop()
            try:
                inside = list(os.scandir(folder))
            except FileNotFoundError:
                continue
            except OSError:
                return True
            for entry in inside:
                with contextlib.suppress(FileNotFoundError):  # it changes while we look
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((Path(entry.path), depth + 1))
            entries += len(inside)
            if size > most_bytes or entries > _MOST_ENTRIES or depth > _MOST_DEPTH:
                return True
        return False

    def remove(self) -> None:
        """Remove the folder; its worker has ended."""
        _remove(self.path)
        os.close(self._lock)


def _remove(folder: Path) -> None:
    """Remove a folder with all that is in it; deep chains of folders are lifted to the top."""
    with contextlib.suppress(FileNotFoundError):
        folder.chmod(0o700)
        while entries := list(folder.iterdir()):
            for entry in entries:
                if entry.is_symlink() or not entry.is_dir():
                    entry.unlink()
                else:
                    entry.chmod(0o700)
                    for inner in list(entry.iterdir()):
                        inner.rename(folder / secrets.token_hex(16))
                    entry.rmdir()
        folder.rmdir()
