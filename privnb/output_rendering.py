"""How an approved output looks: a table of exact values, one value, or a figure.

Pure functions of what a site sent, which is hostile: text is escaped and cleaned, a picture is
shown from base64 that was read before, and only the first rows and columns of a table are drawn,
with the beginnings of long text.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING

from privnb.markup import LINE, MUTED, Html, plain_table, tag
from privnb.rendering import (
    CELL,
    FULL_TABLE,
    KEY,
    MOST_COLUMNS,
    MOST_ROWS,
    NUMBER,
    heading,
    left_out,
    scalar_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.computation import Scalar
    from privnb.output import Output
    from privnb.release import SiteRelease

__all__ = ["output_html", "output_text"]

_LONGEST_VALUE = 2000
"""Characters that are shown of one value that stands alone."""
_HEADER_BYTES = 24
"""Of a PNG: its signature, and where width and height are."""


def output_html(part: SiteRelease, *, title: str) -> Html:
    """Draw what one site let out; ``title`` is its caption."""
    output = part.output
    if output is None:
        return Html("")
    if output.kind == "figure":
        return _figure_html(output, site=part.site, title=title)
    names, roles, rows = _grid(output)
    if output.kind == "scalar":
        exact = rows[0][0] if rows else None
        shown = tag("td", _exact_text(exact), style=f"{CELL};text-align:left;font-size:16px")
        body = [tag("tr", shown, style="background:transparent")]
        return tag("table", heading(title, ""), tag("tbody", *body), style=FULL_TABLE)
    styles = [KEY if role == "text" else NUMBER for role in roles]
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", style=f"{style};font-weight:600;{MUTED}")
            for name, style in zip(names, styles, strict=True)
        ),
    )
    body = [
        tag(
            "tr",
            *(tag("td", _cell_text(v), style=s) for v, s in zip(row, styles, strict=True)),
            style="background:transparent",
        )
        for row in rows
    ]
    rest = _left_out(output)
    if rest:
        note = tag("td", rest, colspan=len(names), style=f"{KEY};font-size:12px;{MUTED}")
        body.append(tag("tr", note, style="background:transparent"))
    return tag(
        "table",
        heading(title, ""),
        tag("thead", head, style=f"border-bottom:1px solid {LINE}"),
        tag("tbody", *body),
        style=FULL_TABLE,
    )


def output_text(output: Output) -> str:
    """Write what one site let out as plain text; of a figure, its size."""
    if output.kind == "figure":
        return f"(a figure of {_size(output)}; .plot() draws it)"
    names, _, rows = _grid(output)
    if output.kind == "scalar":
        return _exact_text(rows[0][0] if rows else None)
    table = plain_table(names, [[_cell_text(value) for value in row] for row in rows])
    rest = _left_out(output)
    return f"{table}\n{rest}" if rest else table


def _figure_html(output: Output, *, site: str, title: str) -> Html:
    alternative = f"Figure from {site}, {_size(output)}"
    picture = tag(
        "img",
        src=f"data:image/png;base64,{output.png}",
        alt=alternative,
        style="display:block;max-width:100%;background:white;border-radius:4px",
    )
    return tag(
        "figure",
        tag("figcaption", title, style="font-weight:600;padding:8px 14px 6px"),
        tag("div", Html(picture.removesuffix("</img>")), style="padding:0 14px 10px"),
        style="margin:0",
    )


def _size(output: Output) -> str:
    """Read the size of a PNG from its first bytes."""
    pixels = base64.b64decode((output.png or "")[: _HEADER_BYTES * 4 // 3])
    width, height = (int.from_bytes(pixels[at : at + 4], "big") for at in (16, 20))
    return f"{width:,} by {height:,} pixels"


def _grid(output: Output) -> tuple[list[str], list[str], list[Sequence[Scalar]]]:
    """Lay an output out as names, kinds ("text" or "number") and the first rows."""
    kinds = ["number" if c.type in ("integer", "float") else "text" for c in output.columns]
    if output.kind != "array":
        names = [scalar_text(c.name) for c in output.columns[:MOST_COLUMNS]]
        rows = [row[:MOST_COLUMNS] for row in output.rows[:MOST_ROWS]]
        return names, kinds[:MOST_COLUMNS], list(rows)
    length, width = _array_shape(output)
    shown = min(width, MOST_COLUMNS)
    flat = [row[0] for row in output.rows[: MOST_ROWS * width]]
    rows = [
        tuple(flat[start * width : start * width + shown])
        for start in range(min(length, MOST_ROWS))
    ]
    names = ["value"] if len(output.shape or ()) == 1 else [str(n) for n in range(shown)]
    return names, kinds * len(names), list(rows)


def _array_shape(output: Output) -> tuple[int, int]:
    shape = output.shape or (0,)
    return shape[0], math.prod(shape[1:])


def _left_out(output: Output) -> str:
    length, width = len(output.rows), len(output.columns)
    if output.kind == "array":
        length, width = _array_shape(output)
    return left_out(length, width)


def _cell_text(value: Scalar) -> str:
    if value is None:
        return "—"
    return f"{value:.6g}" if isinstance(value, float) else scalar_text(value)


def _exact_text(value: Scalar) -> str:
    return "—" if value is None else scalar_text(value, most=_LONGEST_VALUE)
