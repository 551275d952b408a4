"""The system call filter: a small BPF program that the kernel runs at each call.

What is not on the list fails with ``EPERM``; calls of another architecture or of x32 kill the
process, as their numbers mean something else. See seccomp(2) and linux/filter.h.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from privnb.site.sandbox.kernel import prctl, syscall
from privnb.site.sandbox.syscalls import Architecture

__all__ = ["assemble", "restrict"]

_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_NO_NEW_PRIVILEGES = 38
_SET_FILTER, _ALL_THREADS = 1, 1

# What the C libraries pass to start a thread, and nothing else: glibc, musl.
_THREADS = (0x3D0F00, 0x7D0F00)
# isatty, non-blocking, close-on-exec; everything else an ioctl can do is left to other programs.
_IOCTLS = (0x5401, 0x5421, 0x5450, 0x5451)
# Duplicate, flags, seals. F_SETOWN and F_SETSIG would be a way to send signals.
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1034)
_TRUNCATE, _UNNAMED = 0o1000, 0o20000000


def assemble(machine: Architecture) -> bytes:
    """Return the filter of an architecture as BPF instructions of 8 bytes each."""
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, machine.audit, then=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine.other_abi_from is not None:
        program += [
            _instruction(_AT_LEAST, machine.other_abi_from, otherwise=1),
            _instruction(_RETURN, _KILL),
        ]
    # glibc falls back to clone, whose flags can be read; those of clone3 lie in memory.
    program += _when(machine.clone3, [_fail(errno.ENOSYS)])
    program += _when(machine.clone, _one_of(0, _THREADS))
    program += _when(machine.fcntl, _one_of(1, _FCNTLS))
    program += _when(machine.ioctl, _one_of(1, _IOCTLS))
    program += _when(machine.prlimit64, _one_of(0, (0,)))  # of this process only
    program += _when(
        machine.openat,
        [
            # A file without a name escapes the watch on the scratch folder; and O_RDONLY|O_TRUNC
            # empties files that Landlock before its third version only lets be read.
            _argument(2),
            _instruction(_ANY_BIT, _UNNAMED, then=5),
            _instruction(_ANY_BIT, _TRUNCATE, otherwise=3),
            _instruction(_AND, 0b11),
            _instruction(_EQUAL, 0, then=2),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _ALLOW),
            _fail(errno.EPERM),
        ],
    )
    for number in sorted(machine.allowed.values()):
        program += _when(number, [_instruction(_RETURN, _ALLOW)])
    program.append(_fail(errno.EPERM))
    return b"".join(program)


def restrict(machine: Architecture) -> None:
    """Put all threads of this process under the filter, for ever. `OSError` when refused."""
    program = assemble(machine)
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    prctl(_NO_NEW_PRIVILEGES, 1)
    refused = syscall(
        machine.seccomp,
        _SET_FILTER,
        _ALL_THREADS,
        ctypes.create_string_buffer(header, len(header)),
    )
    if refused:  # the number of a thread that could not be put under it
        raise OSError(errno.EAGAIN, "a thread cannot be put under the system call filter")


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; ``then`` and ``otherwise`` say how many to skip."""
    return struct.pack("HBBI", code, then, otherwise, value)


def _fail(number: int) -> bytes:
    return _instruction(_RETURN, _FAIL | number)


def _argument(position: int) -> bytes:
    """Load the lower half of an argument; the upper is ignored by the calls that are looked at."""
    return _instruction(_LOAD, 16 + 8 * position)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    return [_instruction(_EQUAL, number, otherwise=len(body)), *body]


def _one_of(position: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow when an argument has one of some values, else fail."""
    tests = [_instruction(_EQUAL, value, then=len(values) - n) for n, value in enumerate(values)]
    return [_argument(position), *tests, _fail(errno.EPERM), _instruction(_RETURN, _ALLOW)]
