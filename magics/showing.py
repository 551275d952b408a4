"""Put something into the output of the running cell, as text and as HTML at once."""

# IPython's display functions have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.display import display

from privnb.markup import CARD, plain_table, table, tag
from privnb.rendering import lines_html, lines_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pandas import DataFrame

__all__ = ["show", "show_bundle", "show_frame", "show_lines"]

_MOST_ROWS = 1000


def show(html: str, text: str) -> None:
    """Display one thing in both forms; the notebook takes HTML, a terminal takes text."""
    show_bundle({"text/html": html, "text/plain": text})


def show_bundle(forms: Mapping[str, object]) -> None:
    """Display one thing in all its forms, by mime type; those that no front end knows are kept."""
    display(dict(forms), raw=True)


def show_lines(first: str, *more: str) -> None:
    """Display a sentence, and further ones below it in a quieter colour."""
    show(lines_html(first, *more), lines_text(first, *more))


def show_frame(caption: str, frame: DataFrame, *, merge_sites: bool = False) -> None:
    """Display a frame as a card; rows that differ in nothing but the site may be merged."""
    if len(frame) > _MOST_ROWS:
        caption = f"{caption} · the first {_MOST_ROWS:,} of {len(frame):,} rows"
        frame = frame.head(_MOST_ROWS)
    columns = [str(column) for column in frame.columns]
    rows = [[_words(cell) for cell in row] for row in frame.itertuples(index=False)]
    if merge_sites:
        rows = _merged(rows)
        everywhere = ", ".join(dict.fromkeys(str(site) for site in frame.iloc[:, 0]))
        caption = f"{caption} · {everywhere}"
        rows = [["all" if row[0] == everywhere else row[0], *row[1:]] for row in rows]
        # what a row is about comes first; where it holds, last
        columns, rows = [*columns[1:], columns[0]], [[*row[1:], row[0]] for row in rows]
    filled = [i for i, _ in enumerate(columns) if any(row[i] for row in rows)] if rows else []
    columns = [columns[i] for i in filled] or columns
    rows = [[row[i] for i in filled] for row in rows]
    card = tag(
        "section",
        table(caption, columns, rows),
        class_="pn-listing",
        aria_label=caption,
        style=f"{CARD};padding:8px 2px 8px",
    )
    show(card, f"{caption}\n{plain_table(columns, rows)}")


def _merged(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    sites: dict[tuple[str, ...], list[str]] = {}
    for site, *rest in rows:
        sites.setdefault(tuple(rest), []).append(site)
    subjects = list(dict.fromkeys(row[1] for row in rows))
    merged = [[", ".join(names), *rest] for rest, names in sites.items()]
    return sorted(merged, key=lambda row: subjects.index(row[1]))


def _words(cell: object) -> str:
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN
        return ""
    if isinstance(cell, bool) or type(cell).__name__ == "bool":
        return "yes" if cell else "no"
    return str(cell)
