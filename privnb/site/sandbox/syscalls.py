"""Which system calls a cell may make, and their numbers on each architecture.

An allow-list: what numpy, pandas, scipy, scikit-learn, statsmodels and matplotlib need once they
are imported, and no more. No call here makes a process, a socket, a namespace or shared memory,
reaches another process, or changes an owner, a mode or a link. Five more are allowed with
conditions that `seccomp` writes down: ``clone``, ``fcntl``, ``ioctl``, ``openat``, ``prlimit64``.
"""

from __future__ import annotations

import dataclasses
import platform

__all__ = ["ARCHITECTURES", "Architecture", "this_machine"]

_COMMON = {  # name: (x86_64, aarch64); numbers never change, they are the kernel's promise
    # reading and writing what is open
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "dup": (32, 23),
    "dup3": (292, 24),
    "ftruncate": (77, 46),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fadvise64": (221, 223),
    "sendfile": (40, 71),
    "recvmsg": (47, 212),  # takes the cell; no socket is left afterwards
    # finding files; Landlock decides which may be opened
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents64": (217, 61),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "unlinkat": (263, 35),
    "mkdirat": (258, 34),
    "renameat2": (316, 276),
    "umask": (95, 166),
    # memory
    "brk": (12, 214),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    # threads and signals of its own
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "gettid": (186, 178),
    "set_tid_address": (218, 96),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    # waiting
    "ppoll": (271, 73),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "pipe2": (293, 59),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "times": (100, 153),
    "getrusage": (98, 165),
    # who and where it is
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
}

_ONLY_X86_64 = {  # older forms of the above, which older C libraries still use
    "stat": 4,
    "lstat": 6,
    "poll": 7,
    "access": 21,
    "pipe": 22,
    "select": 23,
    "dup2": 33,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "unlink": 87,
    "readlink": 89,
    "time": 201,
    "epoll_wait": 232,
    "renameat": 264,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of one kind of machine.

    Attributes
    ----------
    audit
        How the kernel names the architecture to a seccomp filter (``AUDIT_ARCH_*``).
    allowed
        Calls without conditions, by name.
    other_abi_from
        The first number of a second set of calls (x32) that must not be a way around the list.
    """

    name: str
    audit: int
    allowed: dict[str, int]
    clone: int
    clone3: int
    fcntl: int
    ioctl: int
    openat: int
    prlimit64: int
    seccomp: int
    capset: int
    other_abi_from: int | None = None


ARCHITECTURES = {
    "x86_64": Architecture(
        name="x86_64",
        audit=0xC000003E,
        allowed={name: numbers[0] for name, numbers in _COMMON.items()} | _ONLY_X86_64,
        clone=56,
        clone3=435,
        fcntl=72,
        ioctl=16,
        openat=257,
        prlimit64=302,
        seccomp=317,
        capset=126,
        other_abi_from=0x40000000,
    ),
    "aarch64": Architecture(
        name="aarch64",
        audit=0xC00000B7,
        allowed={name: numbers[1] for name, numbers in _COMMON.items()},
        clone=220,
        clone3=435,
        fcntl=25,
        ioctl=29,
        openat=56,
        prlimit64=261,
        seccomp=277,
        capset=91,
    ),
}


def this_machine() -> Architecture | None:
    """Return the architecture that this process runs on, None when it is not known here."""
    return ARCHITECTURES.get(platform.machine())
