"""A BPF machine: enough of it to run a system call filter for an architecture we are not on."""

from __future__ import annotations

import struct

ALLOW, KILL = 0x7FFF0000, 0x80000000


def fails_with(errno):
    return 0x00050000 | errno


def run(program, *, audit, number, arguments=()):
    """Return what a filter says to a call."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, audit, 0, *padded)
    instructions = list(struct.iter_unpack("HBBI", program))
    accumulator = position = 0
    while True:
        code, then, otherwise, value = instructions[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                position += then if accumulator == value else otherwise
            case 0x35:
                position += then if accumulator >= value else otherwise
            case 0x45:
                position += then if accumulator & value else otherwise
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")
