"""How a worker is started: its command line, its environment, and bubblewrap around it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from privnb.site.sandbox.offer import Offer
from privnb.site.sandbox.users import NOBODY, pick_user

__all__ = ["Launch", "find_bubblewrap"]

_ROOT = Path(__file__).resolve().parents[3]
# Importing a package of ours brings the agent's and the analyst's side along. A worker needs
# neither: it takes only its own modules from these packages, and starts a fifth sooner.
_START = """
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
root, *numbers = sys.argv[1:]
sys.path.append(root)
for name in ("privnb", "privnb.site", "privnb.site.sandbox"):
    package = ModuleSpec(name, None, is_package=True)
    package.submodule_search_locations.append(root + "/" + name.replace(".", "/"))
    sys.modules[name] = module_from_spec(package)
from privnb.site.sandbox.worker import main
main(root, *map(int, numbers))
"""
_INSIDE = "/scratch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Everything that all workers of a pool have in common when they start.

    Attributes
    ----------
    bubblewrap
        The program, None to do without.
    lock
        Whether workers lock themselves; False only where the owner allowed no sandbox.
    trains
        Whether workers take a training, step by step, instead of one cell.
    """

    offer: Offer
    bubblewrap: str | None
    lock: bool
    scratch_bytes: int
    trains: bool = False

    @property
    def drops_user(self) -> bool:
        """Whether workers become a user other than the agent's."""
        return self.lock and os.getuid() == 0

    def new_user(self) -> int | None:
        """Return a user id that nobody else has, None to stay the agent's user."""
        return pick_user() if self.drops_user else None

    def inside(self, scratch: str | None) -> str:
        """Return the scratch folder as the worker sees it."""
        return _INSIDE if self.bubblewrap else scratch or os.devnull

    def boot(self, *, user: int | None, scratch: str | None) -> dict[str, object]:
        """Return what a worker must know to prepare itself."""
        return {
            **dataclasses.asdict(self.offer),
            "scratch": self.inside(scratch),
            "scratch_bytes": self.scratch_bytes,
            "user": user,
            "shared_user": user is None and not self.bubblewrap,
            "lock": self.lock,
            "trains": self.trains,
        }

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a worker; nothing of the agent's is in it."""
        alone = ("OPENBLAS", "OMP", "MKL", "NUMEXPR", "VECLIB", "BLIS")
        return {
            **{f"{library}_NUM_THREADS": "1" for library in alone},
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "LC_ALL": "C.UTF-8",
            "MALLOC_ARENA_MAX": "2",  # arenas count as address space
            "MPLBACKEND": "Agg",
            "MPL_IGNORE_SYSTEM_FONTS": "1",  # pictures alike on every machine
            "TZ": "UTC",
        }

    def command(self, *arguments: str, info: int | None) -> list[str]:
        """Return the command line that starts a worker with some arguments to its main."""
        python = [_interpreter(), "-I", "-S", "-B", "-c", _START, str(_ROOT), *arguments]
        return [*self._around(info), *python] if self.bubblewrap else python

    def try_bubblewrap(self) -> str | None:
        """Return why bubblewrap does not work here, None when it does."""
        tried = subprocess.run(  # noqa: S603 - our own interpreter
            [*self._around(None), _interpreter(), "-I", "-S", "-c", ""],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
        )
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        return (
            None if tried.returncode == 0 else (said or [f"it ended with {tried.returncode}"])[-1]
        )

    def _around(self, info: int | None) -> list[str]:
        """Bubblewrap: no network, no other process, and no file but those of the interpreter."""
        if os.getuid() == 0:  # the worker drops the user itself, once its files are mounted
            user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            user = ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
            user += ["--cap-drop", "ALL"]
        return [
            str(self.bubblewrap),
            *user,
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
            *("--unshare-cgroup-try", "--die-with-parent", "--new-session"),
            *_system_mounts(),
            *_mount(self._mounted()),
            *("--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--size", str(self.scratch_bytes), "--tmpfs", _INSIDE),
            *("--remount-ro", "/", "--chdir", _INSIDE),
            *(() if info is None else ("--info-fd", str(info))),
        ]

    def _mounted(self) -> list[str]:
        """Files and folders outside /usr that a worker's interpreter is made of."""
        wanted = {
            _interpreter(),
            _shared_library(),
            str(_ROOT / "privnb"),
            *self.offer.search,
            *self.offer.read,
        }
        kept: list[str] = []
        for path in sorted(filter(None, wanted)):
            above = ["/usr", *kept]
            if Path(path).exists() and not any(path.startswith(a + "/") for a in above):
                kept.append(path)
        return kept


def find_bubblewrap() -> str | None:
    """Return the program bubblewrap, None where it is not installed."""
    return shutil.which("bwrap")


def _interpreter() -> str:
    """Return the interpreter itself: a virtual environment adds only a search path to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _shared_library() -> str | None:
    name, folder = sysconfig.get_config_var("INSTSONAME"), sysconfig.get_config_var("LIBDIR")
    return str(Path(folder, name)) if name and folder else None


def _system_mounts() -> list[str]:
    mounts = ["--ro-bind", "/usr", "/usr"]
    for path in ("/lib", "/lib32", "/lib64", "/bin", "/sbin"):
        if Path(path).is_symlink():
            mounts += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            mounts += ["--ro-bind", path, path]
    for path in ("/etc/ld.so.cache", "/etc/alternatives"):  # how libraries are found
        mounts += ["--ro-bind-try", path, path]
    return mounts


def _mount(paths: list[str]) -> list[str]:
    """Mount paths where they are; bubblewrap alone would close the folders above to other users."""
    above = {str(parent): None for path in paths for parent in reversed(Path(path).parents)}
    folders = [part for path in list(above)[1:] for part in ("--perms", "0755", "--dir", path)]
    return [*folders, *(part for path in paths for part in ("--ro-bind", path, path))]
