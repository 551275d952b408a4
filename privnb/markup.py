"""HTML that is escaped by construction, and aligned plain text: what every rendering is made of.

Nothing here knows what it shows. Styles are inline and name JupyterLab's theme colours with
fallbacks that work on light and on dark paper, because saved notebooks are read in many places
and most of them drop style sheets.
"""

from __future__ import annotations

from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from privnb.unseen import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ACCENT",
    "CARD",
    "LINE",
    "MUTED",
    "TINT",
    "Html",
    "clean",
    "counted",
    "plain_table",
    "table",
    "tag",
]

MUTED = "color:var(--jp-ui-font-color2,inherit)"
LINE = "var(--jp-border-color2,rgba(128,128,128,.35))"
TINT = "rgba(128,128,128,.09)"
ACCENT = "var(--jp-brand-color1,#1976d2)"

CARD = (
    f"border:1px solid {LINE};border-radius:8px;overflow-x:auto;width:fit-content;"
    "max-width:100%;box-sizing:border-box;"  # what is wider would scroll in its cell as well
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45;"
    "margin:2px 0;color:var(--jp-ui-font-color1,inherit)"
)

_SHORT = 16
"""Characters up to which a cell is never broken into lines."""
_LONG = 40
"""Characters from which on a cell stays wide where space is scarce: it would be very tall."""

_CELL = "padding:5px 10px;text-align:left;vertical-align:top;white-space:normal"
_HEAD = f"{_CELL};font-weight:600;{MUTED};border-bottom:1px solid {LINE}"
_TABLE = (
    "border-collapse:collapse;margin:0;width:100%;table-layout:auto;"
    "font-variant-numeric:tabular-nums"
)
_CAPTION = "caption-side:top;text-align:left;padding:2px 10px 6px;font-weight:600;color:inherit"


class Html(str):
    """Text that is HTML already; everything else is escaped when it is put into a `tag`."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Build one element. Children and attribute values are cleaned and escaped, but for `Html`.

    A trailing underscore in an attribute's name is dropped, others become hyphens; an attribute
    that is None is left out.

    >>> tag("td", "1 < 2", class_="pn-value")
    '<td class="pn-value">1 &lt; 2</td>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(clean(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(c if isinstance(c, Html) else escape(clean(c)) for c in children)
    return Html(f"<{name}{written}>{inner}</{name}>")


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric: Sequence[int] = (),
) -> Html:
    """Build a table with a caption and scoped headers; the first cell of a row heads the row.

    Parameters
    ----------
    caption
        What the table shows, in words.
    columns
        The column headings.
    rows
        Cells, as text or as `Html`.
    numeric
        Positions of columns whose cells are aligned to the right.
    """

    def align(position: int) -> str:
        return ";text-align:right" if position in numeric else ""

    head = tag(
        "tr",
        *(tag("th", c, scope="col", style=_HEAD + align(i)) for i, c in enumerate(columns)),
    )
    body = [
        tag(
            "tr",
            *(
                tag(
                    "th", cell, scope="row", style=f"{_CELL};font-weight:600{align(0)}{_wrap(cell)}"
                )
                if position == 0
                else tag("td", cell, style=_CELL + align(position) + _wrap(cell))
                for position, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption, style=_CAPTION),
        tag("thead", head),
        tag("tbody", *body),
        style=_TABLE,
    )


def _wrap(cell: object) -> str:
    if isinstance(cell, Html) or len(str(cell)) <= _SHORT:
        return ";white-space:nowrap"
    return ";min-width:14em" if len(str(cell)) > _LONG else ""


def counted(number: int, what: str) -> str:
    """Say how many there are of something whose plural has an s.

    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns with spaces, two apart; headings are underlined.

    >>> print(plain_table(["site", "left"], [["northside", "3"]]))
    site       left
    ─────────  ────
    northside  3
    """
    lines = [[clean(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip_longest(*lines, fillvalue="")]
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(
        "  ".join(cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(line)).rstrip()
        for line in lines
    )


def _width(text: str) -> int:
    return sum(2 if east_asian_width(c) in "FW" else 1 for c in text)
