"""The folders that a worker uses, also where they lie below a folder that is closed to others.

An agent that runs as root may have its Python in root's own home. Its workers are another user, who
cannot go there by name; so the folders are opened before the user is dropped, and used through
their descriptors from then on. No right over any other folder comes with that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from privnb.site.sandbox.limits import drop_user

__all__ = ["Places"]

_DESCRIPTORS = "/proc/self/fd/"


class Places:
    """Folders, by ways that this process can go. Drops the user on the way.

    Parameters
    ----------
    folders
        Those of the interpreter, and the one for temporary files.
    user
        Whom to become, None to stay.
    """

    def __init__(self, folders: Sequence[str], *, user: int | None) -> None:
        self._ways: dict[str, str] = {}
        if user is not None:
            opened = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in folders}
            drop_user(user)
            for path, descriptor in opened.items():
                self._keep_if_needed(path, descriptor)
        if self._ways:
            self._lead_modules_there()

    def way_to(self, path: str) -> str:
        """Return a path by which a file or folder of the interpreter can be reached."""
        for place in sorted(self._ways, key=len, reverse=True):
            if path == place or path.startswith(place + "/"):
                return self._ways[place] + path[len(place) :]
        return path

    def give_up(self, path: str) -> None:
        """Close the way to a folder that is needed no more."""
        way = self._ways.pop(path, None)
        if way is not None:
            os.close(int(way.removeprefix(_DESCRIPTORS)))

    def _keep_if_needed(self, path: str, descriptor: int) -> None:
        if os.access(path, os.R_OK | os.X_OK):
            os.close(descriptor)
        else:
            self._ways[path] = f"{_DESCRIPTORS}{descriptor}"

    def _lead_modules_there(self) -> None:
        """Let what is loaded already find its parts, and keep libraries from resolving the way."""
        sys.path_importer_cache.clear()
        for module in list(sys.modules.values()):
            parts = getattr(module, "__path__", None)
            if isinstance(parts, list):
                parts[:] = [self.way_to(path) for path in parts]
        resolve = os.path.realpath

        def realpath(path: str, *, strict: bool = False) -> str:
            text = os.fspath(path)
            if isinstance(text, str) and text.startswith(_DESCRIPTORS):
                return os.path.normpath(text)
            return resolve(path, strict=strict)

        os.path.realpath = realpath  # type: ignore[assignment]
