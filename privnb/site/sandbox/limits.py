"""How much a worker may use, and what it gives up for good before it sees any data."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from pathlib import Path

from privnb.site.sandbox.kernel import prctl, syscall
from privnb.site.sandbox.syscalls import Architecture

__all__ = [
    "drop_user",
    "give_up_capabilities",
    "limit_addresses",
    "limit_always",
    "limit_processor",
    "mapped_bytes",
]

_DIES_WITH_PARENT, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITIES_VERSION = 0x20080522
_THREADS = 64
_OPEN_FILES = 64


def drop_user(user: int) -> None:
    """Become a user who owns nothing, with no group besides its own. For root only."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def limit_always(*, scratch_bytes: int, user_is_shared: bool) -> None:
    """Set the limits that are the same for each cell, and let nobody read this process.

    The number of threads is counted by user: a user who has other processes is given what they
    have and 64 more.
    """
    threads = _THREADS + (_tasks_of_this_user() if user_is_shared else 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, scratch_bytes)
    _lower(resource.RLIMIT_NPROC, threads)
    prctl(_DUMPABLE, 0)
    prctl(_NO_NEW_PRIVILEGES, 1)
    prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def limit_processor(*, seconds: int) -> None:
    """Set how long this process may still use a processor, for the rest of its life."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime) + 1 + seconds
    _lower(resource.RLIMIT_CPU, cpu, most=cpu + 1)


def limit_addresses(most: int) -> None:
    """Set how many bytes of address space this process may have in all."""
    _lower(resource.RLIMIT_AS, most)


def mapped_bytes() -> int | None:
    """Return how much address space this process has now, None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * resource.getpagesize()


def give_up_capabilities(machine: Architecture) -> None:
    """Do without every right beyond those of any user. `OSError` when the kernel refuses."""
    header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
    none = ctypes.create_string_buffer(24)
    syscall(machine.capset, ctypes.create_string_buffer(header, len(header)), none)


def _lower(which: int, limit: int, *, most: int | None = None) -> None:
    """Set a limit without asking for more than this process has already."""
    hard = resource.getrlimit(which)[1]
    ceiling = limit if most is None else most
    if hard != resource.RLIM_INFINITY:
        limit, ceiling = min(limit, hard), min(ceiling, hard)
    resource.setrlimit(which, (limit, ceiling))


def _tasks_of_this_user() -> int:
    found, user = 0, os.getuid()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if process.stat().st_uid == user:
                    found += sum(1 for _ in (process / "task").iterdir())
            except OSError:
                continue  # it has ended meanwhile
    return found
