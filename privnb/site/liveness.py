"""Which agents of a site are alive, told by locks the kernel releases when a process ends.

Neither clocks nor process numbers are trusted: a clock jumps and a number is given out again, but
an advisory lock ends with its process, however that ends. The lock file also names the request its
agent works on, so that a request which kills agents is noticed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from privnb.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AgentLock"]

_JOURNAL_BYTES = 4096


class AgentLock:
    """The sign of life of one agent, in a folder that all agents of the site share.

    Attributes
    ----------
    name
        The agent's name, 16 random hexadecimal digits; never used twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = secrets.token_hex(8)
        self._path = folder / f"{self.name}.lock"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            hidden = folder / f".{self.name}"
            self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._descriptor, b" " * _JOURNAL_BYTES, 0)  # later notes need no new room
            # Visible only once it is locked: nobody may find it and take us for dead.
            hidden.rename(self._path)
        except OSError as problem:
            raise StateError(
                f"The site's state folder {folder} cannot be written: {problem.strerror}.",
                hint="Look at the folder's permissions and free space.",
            ) from None

    @contextlib.contextmanager
    def working_on(self, sender: str, name: str) -> Iterator[None]:
        """Leave a note of the request at hand; it outlives the process, not the machine."""
        note = json.dumps([sender, name]).encode()
        if len(note) <= _JOURNAL_BYTES:
            os.pwrite(self._descriptor, note.ljust(_JOURNAL_BYTES), 0)
        try:
            yield
        finally:
            os.pwrite(self._descriptor, b" " * _JOURNAL_BYTES, 0)

    def is_other_alive(self, name: str) -> bool:
        """Tell whether ``name`` is another agent, and one that still runs."""
        return name != self.name and _alive(self._folder, name)

    def dead_agents(self) -> Iterator[tuple[str, tuple[str, str] | None]]:
        """Yield each dead agent's name and the request it died over, then forget that agent.

        Only one process is given each; a process that dies over it leaves it for the next.
        """
        for path in sorted(self._folder.glob("*.lock")):
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists():
                    yield path.stem, _note(os.pread(descriptor, _JOURNAL_BYTES, 0))
                    path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)

    def release(self) -> None:
        """End this agent."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _alive(folder: Path, name: str) -> bool:
    try:
        descriptor = os.open(folder / f"{name}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _note(data: bytes) -> tuple[str, str] | None:
    try:
        sender, name = json.loads(data)
    except ValueError:
        return None
    return str(sender), str(name)
