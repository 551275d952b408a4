"""How budgets look: a table of grants with meters, as HTML and as plain text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privnb.markup import ACCENT, CARD, MUTED, Html, plain_table, table, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.messages import Budget

__all__ = ["budgets_html", "budgets_text", "share_left"]

_CAPTION = "Privacy budget (epsilon)"
_COLUMNS = ("site", "table", "purpose", "granted", "spent", "left", "until", "charges")
_HEADINGS = ("site", "table, purpose", "granted", "spent", "left", "until", "charges")
_SMALL = f"font-size:12px;{MUTED}"
_MEANING = (
    "left: the largest epsilon that one more question may cost. "
    "It is seldom what was granted less what was spent: the site adds up exactly."
)
_LOW = 0.2
"""Below this share of the grant, a meter says so."""

_MOVE = (
    "@keyframes pn-move{from{width:var(--pn-from)}}"
    ".pn-fill{animation:pn-move .9s ease-out}"
    "@media(prefers-reduced-motion:reduce){.pn-fill{animation:none}}"
)


def budgets_html(
    budgets: Sequence[tuple[str, Budget]],
    *,
    before: Mapping[tuple[str, str, str], float] | None = None,
) -> str:
    """Draw each grant with what is left of it as a meter, and its history.

    Parameters
    ----------
    budgets
        Pairs of site and budget.
    before
        Shares left at the last drawing, as `share_left` gives them, by (site, table, purpose):
        the meters then move from there, unless the reader asked for reduced motion.
    """
    rows = [
        (
            site,
            Html(tag("div", budget.table) + tag("div", budget.purpose, style=_SMALL)),
            budget.epsilon_granted,
            budget.epsilon_spent,
            _meter(budget, site, before),
            budget.until or "no end",
            _history(budget),
        )
        for site, budget in budgets
    ]
    empty = tag(
        "div",
        "No site has granted a budget yet. %privnb sites shows whom to ask.",
        style="padding:4px 14px 0",
    )
    return tag(
        "section",
        tag("style", Html(_MOVE)) if before else "",
        table(_CAPTION, _HEADINGS, rows, numeric=(2, 3)) if rows else empty,
        tag("div", _MEANING, style=f"padding:8px 10px 0;{_SMALL}") if rows else "",
        class_="pn-budget",
        aria_label=_CAPTION,
        style=f"{CARD};padding:8px 2px 8px",
    )


def budgets_text(budgets: Sequence[tuple[str, Budget]]) -> str:
    """Write each grant, and what is left of it, as plain text."""
    rows = [
        [
            site,
            budget.table,
            budget.purpose,
            budget.epsilon_granted,
            budget.epsilon_spent,
            budget.epsilon_left,
            budget.until or "no end",
            str(len(budget.history)),
        ]
        for site, budget in budgets
    ]
    if not rows:
        return "No site has granted a budget yet. %privnb sites shows whom to ask."
    return f"{_CAPTION}\n{plain_table(_COLUMNS, rows)}\n{_MEANING}"


def share_left(budget: Budget) -> float:
    """Which part of a grant is left, from 0 to 1; 0 when the numbers make no sense."""
    try:
        share = float(budget.epsilon_left) / float(budget.epsilon_granted)
    except (ValueError, ZeroDivisionError, OverflowError):
        return 0.0
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0


def _meter(budget: Budget, site: str, before: Mapping[tuple[str, str, str], float] | None) -> Html:
    share = share_left(budget)
    start = (before or {}).get((site, budget.table, budget.purpose), share)
    words = f"{budget.epsilon_left} of {budget.epsilon_granted} left"
    low = share < _LOW
    fill = tag(
        "div",
        class_="pn-fill",
        style=f"--pn-from:{start:.1%};width:{share:.1%};height:100%;border-radius:4px;"
        f"background:{'var(--jp-warn-color0,#c77700)' if low else ACCENT}",
    )
    bar = tag(
        "div",
        fill,
        role="meter",
        aria_label=f"Epsilon left at {site} for {budget.table}",
        aria_valuemin=0,
        aria_valuemax=budget.epsilon_granted,
        aria_valuenow=budget.epsilon_left,
        aria_valuetext=words,
        style="width:120px;height:8px;border-radius:4px;margin:5px 0 2px;"
        "background:rgba(128,128,128,.25)",
    )
    return Html(bar + tag("div", words, " · running low" if low else "", style="font-size:12px"))


def _history(budget: Budget) -> Html:
    count = len(budget.history)
    if not count:
        return tag("span", "none yet", style=MUTED)
    items = [
        tag(
            "li",
            f"{entry.at.replace('T', ' ')[:16]} · epsilon {entry.epsilon} · "
            f"request {entry.request[:8]}",
            style="margin:0",
        )
        for entry in reversed(budget.history)
    ]
    return tag(
        "details",
        tag("summary", f"{count} charge{'s' if count > 1 else ''}", style="cursor:pointer"),
        tag(
            "ol",
            *items,
            reversed="",
            style="margin:4px 0 0;padding-left:2em;font-size:12px;white-space:normal",
        ),
    )
