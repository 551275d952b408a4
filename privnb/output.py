"""The declared output of an approved computation, as it crosses process boundaries."""

from __future__ import annotations

from typing import Literal

from privnb import wire
from privnb.computation import Scalar

__all__ = ["Output", "OutputColumn"]


@wire.message
class OutputColumn:
    """A column of an output: part of its index, or a value."""

    name: str
    type: Literal["integer", "float", "string", "boolean", "date", "timestamp", "duration"]
    role: Literal["index", "value"]


@wire.message
class Output:
    """What a computation declared: a scalar, array, series, frame, or a figure as PNG."""

    kind: Literal["scalar", "array", "series", "frame", "figure"]
    columns: tuple[OutputColumn, ...] = ()
    rows: tuple[tuple[Scalar, ...], ...] = ()
    shape: tuple[int, ...] | None = None
    png: str | None = None
