"""The worker: an interpreter that prepares, locks itself, waits for code, runs it, and ends.

It imports, drops its user and locks itself while it knows no data; a step that fails ends it. Only
then does it take code, a cell or a training, and from its first line on it counts as hostile.
"""

from __future__ import annotations

import array
import importlib
import importlib.abc
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from privnb.output import declare
from privnb.site.sandbox import landlock, limits, seccomp
from privnb.site.sandbox.landlock import Access, Rule
from privnb.site.sandbox.places import Places
from privnb.site.sandbox.running import run_one_cell
from privnb.site.sandbox.syscalls import this_machine

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["main"]

_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom", "/dev/random")
_MOST_DESCRIPTORS = 250
_TO_SCRATCH = ("HOME", "MPLCONFIGDIR", "TMPDIR")


class Run(Protocol):
    """What a worker does with the code that it is handed."""

    def __call__(
        self, fields: dict[str, Any], descriptors: list[int], *, mapped_bytes: int | None
    ) -> None:
        """Run it, given the fields of its job and the descriptors that came with them."""


def main(root: str, channel_number: int, boot_number: int) -> None:
    """Live the worker's whole life; ends the process."""
    channel = socket.socket(fileno=channel_number)
    with os.fdopen(boot_number, "rb") as file:
        boot = json.load(file)
    try:
        run, report = _prepare(boot, root, keep=channel_number)
    except BaseException as problem:  # noqa: BLE001 - whatever it is, no code may run after it
        failed = {"failed": f"{type(problem).__name__}: {problem}"[:2000]}
        os.write(channel_number, json.dumps(failed).encode() + b"\n")
        os._exit(1)
    os.write(channel_number, json.dumps(report).encode() + b"\n")
    fields, descriptors = _take(channel)
    channel.close()
    run(fields, descriptors, mapped_bytes=report["mapped_bytes"])
    os._exit(0)


def _prepare(boot: dict[str, Any], root: str, *, keep: int) -> tuple[Run, dict[str, Any]]:
    """Get ready and give up every right that a cell must not have.

    Returns what will run the code, and what holds it.
    """
    os.closerange(3, keep)
    os.closerange(keep + 1, 65536)
    places = Places([*boot["search"], boot["scratch"], root], user=boot["user"])
    sys.path[:] = map(places.way_to, boot["search"])
    os.environ.update(dict.fromkeys(_TO_SCRATCH, places.way_to(boot["scratch"])))
    _import_ahead(boot["ahead"])
    run = _find_run(trains=boot["trains"])
    _hide_ourselves(root, places)
    sys.meta_path.insert(0, _Gate(boot["names"]))
    _silence()
    report: dict[str, Any] = {"mapped_bytes": limits.mapped_bytes()}
    if boot["lock"]:
        report |= _lock(boot, places)
    return run, report


def _find_run(*, trains: bool) -> Run:
    """Return what runs the code that will come; for a training, that brings Flower with it."""
    if not trains:
        return run_one_cell
    from privnb.federated.client import rehearse  # noqa: PLC0415 - only where there is Flower
    from privnb.site.sandbox.stepping import take_steps  # noqa: PLC0415 - as above

    rehearse()
    return take_steps


def _import_ahead(modules: Sequence[str]) -> None:
    """Import what most cells need, and use each part once, so that nothing is loaded late."""
    import pyarrow as pa  # noqa: PLC0415 - only once the search path is set
    import pyarrow.ipc  # noqa: PLC0415 - as above

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for name in ("encodings.idna", "decimal", "zoneinfo", "concurrent.futures.thread", *modules):
        importlib.import_module(name)
    table = pa.table({"g": ["a", "b"], "y": [1.0, None], "d": pa.array([0, 1], pa.date32())})
    frame = table.to_pandas(date_as_object=False, use_threads=False)
    declare(frame)
    declare(frame.groupby("g").agg(n=("y", "size"), y=("y", "mean")).describe())
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - only where it is offered

        declare(plt.subplots()[0])
        plt.close("all")


def _hide_ourselves(root: str, places: Places) -> None:
    """Take privnb out of what a cell can import; its code is no secret, only no business of it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "privnb"]:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    places.give_up(root)
    sys.argv[:] = sys.orig_argv[:] = [""]


class _Gate(importlib.abc.MetaPathFinder):
    """Says no to packages that are not offered, at once and by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {*names, *sys.stdlib_module_names}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        top = fullname.partition(".")[0]
        if top in self._names or top.startswith("_sysconfigdata"):
            return None  # the next finder looks for it
        raise ModuleNotFoundError(f"The package {top!r} is not offered here.", name=top)


def _silence() -> None:
    """Let the standard streams lead nowhere; they are not a way out."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _lock(boot: Mapping[str, Any], places: Places) -> dict[str, Any]:
    machine = this_machine()
    if machine is None:
        raise OSError("there is no system call filter for this architecture")
    limits.limit_always(scratch_bytes=boot["scratch_bytes"], user_is_shared=boot["shared_user"])
    limits.give_up_capabilities(machine)
    version = landlock.restrict(_rules(boot, places))
    seccomp.restrict(machine)
    return {"landlock": version, "seccomp": True}


def _rules(boot: Mapping[str, Any], places: Places) -> list[Rule]:
    libraries = [
        str(entry)
        for folder in map(Path, _SYSTEM_LIBRARIES)
        if folder.is_dir()
        for entry in folder.iterdir()
        # A link may lead out of here; python3* may hold packages that are not offered.
        if not entry.is_symlink() and not entry.name.startswith("python")
    ]
    return [
        *(Rule(places.way_to(path), Access.LIST) for path in boot["listed"]),
        *(Rule(places.way_to(path), Access.READ) for path in boot["read"]),
        *(Rule(path, Access.READ) for path in (*libraries, *_SYSTEM_FILES)),
        Rule(os.devnull, Access.READ_FILE | Access.WRITE_FILE),
        Rule(places.way_to(boot["scratch"]), Access.SCRATCH),
    ]


def _take(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for the code; ends the process when the agent goes away first."""
    numbers = array.array("i")
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(_MOST_DESCRIPTORS * numbers.itemsize))
    for _, _, data in ancillary:
        numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    if not numbers:
        os._exit(0)
    with os.fdopen(numbers[0], "rb") as file:
        fields = json.load(file)
    return {**fields, "tables": tuple(fields["tables"])}, list(numbers[1:])
