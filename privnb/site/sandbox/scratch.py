"""The one folder a worker may write to where bubblewrap gives it none of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["Scratch"]

_MOST_ENTRIES = 10_000


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
        self.path = Path(tempfile.mkdtemp(prefix="privnb-", dir=folder))
        if user is not None:
            os.chown(self.path, user, user)

    def is_over(self, most_bytes: int) -> bool:
        """Whether it holds more than some bytes, or more than 10,000 entries."""
        size = entries = 0
        with contextlib.suppress(OSError):  # it changes while we look
            for _, folders, files, place in os.fwalk(self.path, follow_symlinks=False):
                entries += len(folders) + len(files)
                for name in files:
                    with contextlib.suppress(OSError):
                        status = os.stat(name, dir_fd=place, follow_symlinks=False)
                        size += status.st_blocks * 512
                if size > most_bytes or entries > _MOST_ENTRIES:
                    return True
        return False

    def remove(self) -> None:
        """Remove the folder; its worker has ended. Deep chains are lifted to the top first."""
        number = 0
        with contextlib.suppress(FileNotFoundError):
            os.chmod(self.path, 0o700, follow_symlinks=False) if os.chmod in (
                os.supports_follow_symlinks
            ) else self.path.chmod(0o700)
            while entries := list(os.scandir(self.path)):
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.path)
                        continue
                    os.chmod(entry.path, 0o700)
                    for inner in list(os.scandir(entry.path)):
                        number += 1
                        os.rename(inner.path, self.path / f".privnb-{number}-{os.urandom(8).hex()}")
                    os.rmdir(entry.path)
            os.rmdir(self.path)
