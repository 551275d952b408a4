"""The system call filter of each architecture, run in a BPF machine of our own."""

from __future__ import annotations

import errno

import pytest
from attacks import REFUSED
from bpf import ALLOW, KILL, fails_with, run

from privnb.site.sandbox.seccomp import assemble
from privnb.site.sandbox.syscalls import ARCHITECTURES

THREAD, FORK, NAMESPACE = 0x3D0F00, 0x1200011, 0x10000011
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE = 0, 1, 2, 0o100, 0o1000, 0o20200000
F_SETOWN, F_SETSIG, F_GETFL, F_DUPFD_CLOEXEC = 8, 10, 3, 1030
TIOCSTI, TCGETS = 0x5412, 0x5401

machines = pytest.mark.parametrize("machine", ARCHITECTURES.values(), ids=list(ARCHITECTURES))


def answer(machine, number, *arguments):
    return run(assemble(machine), audit=machine.audit, number=number, arguments=arguments)


@machines
def test_every_call_on_the_list_is_allowed(machine):
    refused = {n for n, number in machine.allowed.items() if answer(machine, number) != ALLOW}
    assert refused == set()


@machines
def test_every_other_call_is_refused(machine):
    special = {machine.clone, machine.clone3, machine.fcntl, machine.ioctl, machine.openat}
    known = {*machine.allowed.values(), *special, machine.prlimit64}
    others = set(range(1024)) - known
    assert {answer(machine, number) for number in others} == {fails_with(errno.EPERM)}


@machines
def test_no_call_that_must_be_refused_is_on_the_list(machine):
    column = list(ARCHITECTURES).index(machine.name)
    numbers = {names[column] for names in REFUSED.values()}
    assert numbers & set(machine.allowed.values()) == set()


@machines
def test_both_lists_name_no_number_twice(machine):
    special = [machine.clone, machine.clone3, machine.fcntl, machine.ioctl, machine.openat]
    numbers = [*machine.allowed.values(), *special, machine.prlimit64]
    assert len(set(numbers)) == len(numbers)


@machines
def test_only_threads_are_made(machine):
    assert answer(machine, machine.clone, THREAD) == ALLOW
    assert answer(machine, machine.clone, FORK) == fails_with(errno.EPERM)
    assert answer(machine, machine.clone, NAMESPACE) == fails_with(errno.EPERM)
    assert answer(machine, machine.clone, THREAD | 0x20000) == fails_with(errno.EPERM)
    assert answer(machine, machine.clone3) == fails_with(errno.ENOSYS)


@machines
def test_limits_are_read_and_set_of_this_process_only(machine):
    assert answer(machine, machine.prlimit64, 0, 9) == ALLOW
    assert answer(machine, machine.prlimit64, 1, 9) == fails_with(errno.EPERM)


@machines
def test_devices_and_signals_are_not_controlled(machine):
    assert answer(machine, machine.ioctl, 0, TCGETS) == ALLOW
    assert answer(machine, machine.ioctl, 0, TIOCSTI) == fails_with(errno.EPERM)
    assert answer(machine, machine.fcntl, 3, F_GETFL) == ALLOW
    assert answer(machine, machine.fcntl, 3, F_DUPFD_CLOEXEC) == ALLOW
    assert answer(machine, machine.fcntl, 3, F_SETOWN) == fails_with(errno.EPERM)
    assert answer(machine, machine.fcntl, 3, F_SETSIG) == fails_with(errno.EPERM)


@machines
def test_files_are_opened_but_none_without_a_name_and_none_emptied_by_a_reader(machine):
    for flags in (O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC, O_RDWR | O_TRUNC):
        assert answer(machine, machine.openat, 0, 0, flags) == ALLOW
    for flags in (O_RDONLY | O_TRUNC, O_RDWR | O_TMPFILE):
        assert answer(machine, machine.openat, 0, 0, flags) == fails_with(errno.EPERM)


@machines
def test_the_numbers_of_another_architecture_kill(machine):
    others = {other.audit for other in ARCHITECTURES.values()} - {machine.audit} | {0x40000003}
    for audit in others:
        assert run(assemble(machine), audit=audit, number=0) == KILL


def test_the_second_set_of_numbers_of_x86_64_kills():
    machine = ARCHITECTURES["x86_64"]
    assert answer(machine, 0x40000000) == KILL
    assert answer(machine, 0xFFFFFFFF) == KILL


@machines
def test_jumps_stay_within_the_filter(machine):
    assert len(assemble(machine)) // 8 <= 4096
    assert {answer(machine, number, 2**32 - 1, 2**32 - 1, 2**32 - 1) for number in range(500)} <= {
        ALLOW,
        fails_with(errno.EPERM),
        fails_with(errno.ENOSYS),
    }
