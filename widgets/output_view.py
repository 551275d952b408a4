"""A declared output as a widget draws it: a table of exact values, or the pixels of a figure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from privnb.unseen import has_clear_edges, in_quotes
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.computation import Scalar
    from privnb.output import Output

__all__ = ["drawable_output"]

_PNG = b"\x89PNG\r\n\x1a\n"
_GRID = 2


def drawable_output(output: Output) -> dict[str, Any]:
    """Describe an output for the front end: plain text and nothing else, or a PNG in base64.

    Values keep all their digits: what a computation wants to smuggle out may sit in the last ones,
    or in blanks at the ends of text, which is then in quotes.
    """
    if output.kind == "figure":
        return _figure(output)
    columns = [
        {"name": _cell(c.name), "type": c.type, "index": c.role == "index"} for c in output.columns
    ]
    rows = [[_cell(value) for value in row] for row in output.rows]
    numeric = [c.type in ("integer", "float") for c in output.columns]
    if output.kind == "array" and output.shape is not None:
        columns, rows, numeric = _array(output.shape, columns, rows, numeric)
    return {
        "caption": _caption(output),
        "columns": [{**c, "number": n} for c, n in zip(columns, numeric, strict=True)],
        "rows": rows,
    }


def _figure(output: Output) -> dict[str, Any]:
    try:
        pixels = base64.b64decode(output.png or "", validate=True)
    except (binascii.Error, ValueError):
        pixels = b""
    if not pixels.startswith(_PNG):
        return {"caption": "a figure that is no PNG", "columns": [], "rows": []}
    width, height = (int.from_bytes(pixels[at : at + 4], "big") for at in (16, 20))
    caption = f"figure, {width} × {height} pixels"  # noqa: RUF001 - a multiplication sign
    return {"caption": caption, "png": base64.b64encode(pixels).decode("ascii")}


def _caption(output: Output) -> str:
    count = len(output.rows)
    rows = f"{count:,} row{'' if count == 1 else 's'}"
    if output.kind == "scalar":
        return f"one {output.columns[0].type}" if output.columns else "one value"
    if output.kind == "array" and output.shape is not None:
        return f"array, {' × '.join(f'{n:,}' for n in output.shape)}"  # noqa: RUF001 - a multiplication sign
    return f"{output.kind}, {rows}, {len(output.columns)} columns"


def _array(
    shape: Sequence[int],
    columns: list[dict[str, Any]],
    rows: list[list[str | None]],
    numeric: list[bool],
) -> tuple[list[dict[str, Any]], list[list[str | None]], list[bool]]:
    """Lay an array out as a grid if it has two dimensions; otherwise as a numbered list."""
    cells = [row[0] for row in rows]
    position = {"name": "position", "type": "", "index": True}
    width = shape[1] if len(shape) == _GRID else 1
    if not cells or width < 1 or len(cells) % width:
        width = 1
    if width == 1:
        numbered: list[list[str | None]] = [
            [str(number), cell] for number, cell in enumerate(cells)
        ]
        return [position, *columns], numbered, [False, *numeric]
    grid: list[list[str | None]] = [
        [str(n // width), *cells[n : n + width]] for n in range(0, len(cells), width)
    ]
    across = [{**columns[0], "name": str(number)} for number in range(width)]
    return [position, *across], grid, [False, *(numeric * width)]


def _cell(value: Scalar) -> str | None:
    if value is None:
        return None  # drawn unlike any text
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    text = visible(value)
    return text if has_clear_edges(text) else in_quotes(text)
