"""Frames of what sites released: pandas is imported here, and so only when a frame is wanted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from privnb.errors import PrivnbError

if TYPE_CHECKING:
    from privnb.output import Output
    from privnb.release import Answer, SiteRelease

__all__ = ["answer_frame", "part_frame"]


def part_frame(part: SiteRelease) -> pd.DataFrame:
    """Make the table of what one site released; see `Release.df`."""
    if part.answer is not None:
        return answer_frame(part.answer)
    if part.output is None or part.output.kind == "figure":
        raise PrivnbError(
            f"{part.site} released a figure, which has no table.",
            hint="Look at it with .plot(), or take the bytes of its PNG from .value.",
            code="E_OUTPUT",
        )
    return _output_frame(part.output)


def answer_frame(answer: Answer) -> pd.DataFrame:
    """Make the table of a noisy answer: after each aggregate comes its ``± `` column."""
    columns: dict[str, object] = {}
    for position, column in enumerate(answer.columns):
        columns[column.name] = [row[position] for row in answer.rows]
        if column.role == "aggregate":
            errors = [row[position] for row in answer.half_widths]
            columns[f"± {column.name}"] = pd.array(errors, dtype="Float64")
    return pd.DataFrame(columns)


def _output_frame(output: Output) -> pd.DataFrame:
    value: Any = output.value()
    if output.kind == "frame":
        frame: pd.DataFrame = value.copy()
    elif output.kind == "series":
        frame = value.to_frame(name=_column_of_values(output))
    elif output.kind == "array":
        shape = output.shape or ()
        frame = pd.DataFrame(value.reshape(shape[0], math.prod(shape[1:])))
        frame.columns = pd.Index(["value"] if len(shape) == 1 else map(str, frame.columns))
    else:
        return pd.DataFrame({"value": [value]})
    index = [column.name for column in output.columns if column.role == "index"]
    return frame.reset_index(names=index) if index else frame.reset_index(drop=True)


def _column_of_values(output: Output) -> str:
    return next(column.name for column in output.columns if column.role == "value")
