"""System calls that Python does not wrap."""

from __future__ import annotations

import ctypes
import os

__all__ = ["cpu_clock", "prctl", "syscall"]

_libc = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call; `OSError` when the kernel refuses."""
    _libc.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))
    return result


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process; `OSError` when the kernel refuses."""
    unused = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), unused, unused, unused) != 0:
        problem = ctypes.get_errno()
        raise OSError(problem, os.strerror(problem))


def cpu_clock(process: int) -> int | None:
    """Return the clock that counts the CPU time of a process; None where there is none.

    It is read with `time.clock_gettime`, also of a process of another user.
    """
    clock = ctypes.c_int()
    ask = getattr(_libc, "clock_getcpuclockid", None)
    if ask is None or ask(ctypes.c_int(process), ctypes.byref(clock)) != 0:
        return None
    return clock.value
