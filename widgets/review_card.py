"""How a review inbox looks where nothing can be decided: in a saved notebook and in a terminal.

Neither form holds code, results of mock runs or outputs. A reviewer's notebook may be saved and
passed on, and what has not been released must not leave the site with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.markup import CARD, MUTED, Html, plain_table, table, tag
from privnb.widgets.moments import minute
from privnb.widgets.states import state_html, state_text
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.review_item import ReviewItem
    from privnb.widgets.states import Look

__all__ = ["review_html", "review_text", "standing"]

_CAPTION = "Review inbox"
_COLUMNS = ("request", "analyst", "purpose", "tables", "state", "approvals", "since", "expires")
_HEADINGS = ("request", "analyst, purpose", "tables", "state", "waiting since")
_SMALL = f"font-size:12px;{MUTED}"
_EMPTY = "Nothing waits for review."
_MORE = "Code and outputs are not kept in a notebook; privnb review show DIR ID has them."
_STANDINGS: dict[str, tuple[str, Look]] = {
    "waiting": ("code to review", ("◇", "warn")),
    "approved": ("code approved", ("✓", "good")),
    "running": ("running", ("…", "quiet")),
    "held": ("output to review", ("◆", "warn")),
    "cleared": ("output cleared", ("✓", "good")),
    "answered": ("released", ("✓", "good")),
    "ended": ("nothing given", ("–", "quiet")),  # noqa: RUF001 - a dash
    "denied": ("denied", ("✗", "bad")),
    "refused": ("refused", ("✗", "bad")),
    "failed": ("gave no output", ("✗", "bad")),
}


def standing(state: str) -> tuple[Look, str]:
    """Say where a request stands, as its state at the site tells.

    >>> standing("held")
    (('◆', 'warn'), 'output to review')
    """
    word, look = _STANDINGS.get(state, (visible(state), ("·", "quiet")))
    return look, word


def review_html(items: Sequence[ReviewItem]) -> Html:
    """Draw one row per request: who asks for what, how far it is, since when."""
    return tag(
        "section",
        table(_CAPTION, _HEADINGS, map(_cells, items)) if items else _quiet(_EMPTY),
        _quiet(_MORE) if items else "",
        class_="pn-review",
        aria_label=_CAPTION,
        style=f"{CARD};padding:8px 2px 8px",
    )


def review_text(items: Sequence[ReviewItem]) -> str:
    """Write one line per request, as plain text."""
    if not items:
        return _EMPTY
    return f"{_CAPTION}\n{plain_table(_COLUMNS, _rows(items))}\n{_MORE}"


def _rows(items: Sequence[ReviewItem]) -> list[list[str]]:
    return [
        [
            item.request[:8],
            visible(item.analyst),
            visible(item.purpose),
            visible(", ".join(item.tables)),
            state_text(*standing(item.state)),
            f"{len(item.approvals)} of {item.needed}",
            minute(item.since),
            minute(item.expires),
        ]
        for item in items
    ]


def _cells(item: ReviewItem) -> tuple[object, ...]:
    def two(first: object, second: str) -> Html:
        return Html(tag("div", first) + tag("div", second, style=_SMALL))

    state = state_html(*standing(item.state))
    return (
        item.request[:8],
        two(visible(item.analyst), visible(item.purpose)),
        visible(", ".join(item.tables)),
        two(state, f"{len(item.approvals)} of {item.needed} approvals"),
        two(minute(item.since), f"expires {minute(item.expires)}"),
    )


def _quiet(words: str) -> Html:
    return tag("div", words, style=f"padding:6px 10px 0;{_SMALL}")
