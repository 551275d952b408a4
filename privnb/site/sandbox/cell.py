"""A cell to run, how much it may use, and how it ended; and what travels to and from a worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from privnb import wire
from privnb.computation import Parameters, Scalar
from privnb.federated.faults import Fault
from privnb.output import Output
from privnb.site.sandbox.known import KNOWN_ERRORS

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Cell", "Failed", "Finished", "Job", "Reply", "SandboxLimits"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SandboxLimits:
    """What one cell, or one step of a training, may use.

    Seconds; megabytes beyond the worker's own; bytes of a cell's output.
    """

    wall_seconds: float = 60
    cpu_seconds: int = 60
    memory_mb: int = 2048
    output_bytes: int = 1_000_000
    scratch_mb: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """The code of a cell with what it is bound to.

    Attributes
    ----------
    tables
        Each is a pandas frame under its name. Dates arrive as datetimes, decimals as floats.
    parameters
        Each is a plain value, or a list of them, under its name.
    output
        The variable that is declared; None for the value of the last expression.
    """

    source: str
    tables: Mapping[str, pa.Table]
    parameters: Mapping[str, Scalar | list[Scalar]]
    output: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A cell ended and declared an output, well formed and within the limit."""

    output: Output
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """A cell gave no output, or a step of a training nothing that may go on.

    Attributes
    ----------
    reason
        ``error``: it raised; ``output``: what it declares cannot leave; ``time``, ``memory``,
        ``size``: it used more than its limits; ``killed``: its worker ended without an answer;
        ``lock``: no worker could be locked, nothing ran.
    error
        The class of the exception, from a fixed list, else ``Error``. Never its text: that can
        carry rows.
    line
        The line of the cell that failed, from 1.
    output_type
        With the reason ``output``, the type that was declared: from a fixed list, else
        ``another type``.
    fault
        With a training's ``error`` or ``output``: what its app lacks, or what is wrong with its
        reply; see `privnb.federated.faults`.
    """

    reason: Literal["error", "output", "time", "memory", "size", "killed", "lock"]
    error: str | None = None
    line: int | None = None
    output_type: str | None = None
    fault: Fault | None = None

    @classmethod
    def raised(cls, error: str | None, line: int | None, *, source: str) -> Self:
        """Say that code raised, as far as its worker's word on that may be passed on."""
        known = line is not None and 1 <= line <= source.count("\n") + 1
        return cls(
            reason="error",
            error=error if error in KNOWN_ERRORS else "Error",
            line=line if known else None,
        )


@wire.message
class Job:
    """What the agent sends a worker, with one descriptor for each table."""

    source: str
    parameters: Parameters
    tables: tuple[str, ...]
    output: str | None
    cpu_seconds: int
    memory_bytes: int
    output_bytes: int


@wire.message
class Reply:
    """What a worker, or the code that has taken it over, sends back."""

    status: Literal["done", "error", "output", "memory", "size"]
    output: Output | None = None
    error: str | None = None
    line: int | None = None
    output_type: str | None = None
