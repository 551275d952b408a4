"""Which files a process may open, kept by the kernel: Landlock (see landlock(7)).

Rights that a kernel does not know yet cannot be restricted by it; the other walls cover them. Paths
can still be looked at with ``stat``: Landlock hides contents and listings, not existence.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import os
import stat
import struct
from collections.abc import Iterable

from privnb.site.sandbox.kernel import prctl, syscall

__all__ = ["Access", "Rule", "abi", "handled", "restrict"]

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_ASK_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVILEGES = 38
_EVERY_PORT, _SOCKETS_AND_SIGNALS = 0b11, 0b11


class Access(enum.IntFlag):
    """Rights over files and folders, as the kernel numbers them."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15

    LIST = READ_DIR
    READ = READ_FILE | READ_DIR
    SCRATCH = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | TRUNCATE


_OF_A_FILE = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is allowed at a path and below it; a path that cannot be reached allows nothing."""

    path: str
    access: Access


def abi() -> int:
    """Return the version of Landlock that this kernel has switched on, 0 for none."""
    try:
        return syscall(_CREATE, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def handled(version: int) -> tuple[int, int, int]:
    """Return the rights over files, ports and scopes that a version can take away.

    >>> handled(1)
    (8191, 0, 0)
    """
    files = (1 << 13) - 1
    for since, right in ((2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV)):
        files |= right if version >= since else 0
    ports = _EVERY_PORT if version >= 4 else 0  # noqa: PLR2004 - TCP ports since Linux 6.7
    scopes = _SOCKETS_AND_SIGNALS if version >= 6 else 0  # noqa: PLR2004 - since Linux 6.12
    return files, ports, scopes


def restrict(rules: Iterable[Rule]) -> int:
    """Take every right away from this process that no rule gives it, for ever.

    Returns the version of Landlock. `OSError` when the kernel refuses or has none.
    """
    version = abi()
    files, ports, scopes = handled(version)
    sizes = {0: 8, 1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
    attributes = struct.pack("QQQ", files, ports, scopes)[: sizes.get(version, 24)]
    ruleset = syscall(_CREATE, _buffer(attributes), len(attributes), 0)
    try:
        for rule in rules:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                _add(ruleset, rule, files)
        prctl(_NO_NEW_PRIVILEGES, 1)
        syscall(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _add(ruleset: int, rule: Rule, files: int) -> None:
    place = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    try:
        folder = stat.S_ISDIR(os.fstat(place).st_mode)
        access = int(rule.access) & files & (-1 if folder else int(_OF_A_FILE))
        beneath = struct.pack("=Qi", access, place)
        if access:
            syscall(_ADD_RULE, ruleset, _PATH_BENEATH, _buffer(beneath), 0)
    finally:
        os.close(place)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))
