"""How estimates look: what a question would cost, and how precise its answers would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import BudgetExceeded, PrivnbError
from privnb.markup import CARD, LINE, MUTED, Html, plain_table, tag
from privnb.rendering import (
    FULL_TABLE,
    KEY,
    MOST_ROWS,
    NUMBER,
    QUIET_BANNER,
    aggregate_text,
    banner,
    block_heading,
    first_lines,
    heading,
    problems_html,
    scalar_text,
)
from privnb.unseen import brief, clean

if TYPE_CHECKING:
    from privnb.release import Estimate, Estimates

__all__ = ["estimates_html", "estimates_text"]


def estimates_html(estimates: Estimates) -> str:
    """Draw what a question would cost at each site, and how precise its answers would be."""
    remarks = list(
        dict.fromkeys(
            remark
            for estimate in estimates.by_site.values()
            for remark in (estimate.mechanism, *estimate.clamps, *estimate.notes)
        )
    )
    blocks = [
        _estimate_block(site, each, estimates.refusals.get(site))
        for site, each in estimates.by_site.items()
    ]
    if _all_unknown(estimates):
        what = [heading("Price", " · how precise an answer gets is told with it")]
    else:
        what = [heading("Expected error", " · ± is half of a 95 % interval"), _head()]
    return tag(
        "section",
        banner("Dry run: the data was not touched, nothing was spent.", QUIET_BANNER),
        tag("table", *what, *blocks, style=FULL_TABLE),
        *(
            tag("div", why, role="note", style=f"padding:8px 14px;{QUIET_BANNER}")
            for why in estimates.why_refused
        ),
        *problems_html(estimates.problems),
        tag(
            "div",
            *(tag("div", remark) for remark in first_lines(remarks)),
            style=f"padding:6px 14px 10px;font-size:12px;border-top:1px solid {LINE};{MUTED}",
        ),
        class_="pn-estimate",
        aria_label="Price and expected error",
        style=CARD,
    )


def _head() -> Html:
    columns = zip(_ESTIMATE_COLUMNS, (KEY, NUMBER, KEY), strict=True)
    names = (
        tag("th", name, scope="col", style=f"{style};font-weight:600;{MUTED}")
        for name, style in columns
    )
    return tag("thead", tag("tr", *names), style=f"border-bottom:1px solid {LINE}")


def _all_unknown(estimates: Estimates) -> bool:
    shown = list(estimates.by_site.values())
    return bool(shown) and all(map(_tells_nothing, shown))


def _tells_nothing(estimate: Estimate) -> bool:
    """Tell whether no line has an error: a table would say the same in each, as of a model."""
    return len(estimate.lines) > 1 and all(line.half_width is None for line in estimate.lines)


def _unknown_lines(estimate: Estimate) -> str:
    names = ", ".join(scalar_text(line.name) for line in estimate.lines[:MOST_ROWS])
    notes = dict.fromkeys(brief(line.note) for line in estimate.lines[:MOST_ROWS] if line.note)
    return f"{names}: how precise {'; '.join(notes) or _UNKNOWN}"


def _estimate_block(site: str, estimate: Estimate, refusal: PrivnbError | None) -> Html:
    price = tag("span", f" · {_price(estimate, refusal)}", style=f"font-weight:400;{MUTED}")
    width = len(_ESTIMATE_COLUMNS)
    if _tells_nothing(estimate):
        words = tag("td", _unknown_lines(estimate), colspan=width, style=f"{KEY};max-width:46em")
        row = tag("tr", words, style="background:transparent")
        return tag("tbody", block_heading(width, site, price), row)
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row", style=KEY),
            tag("td", expected, style=NUMBER),
            tag("td", note, style=f"{KEY};{MUTED}"),
            style="background:transparent",
        )
        for name, expected, note in _lines(estimate)
    ]
    return tag("tbody", block_heading(width, site, price), *rows)


def estimates_text(estimates: Estimates) -> str:
    """Write what a question would cost as plain text."""
    blocks = []
    for site, estimate in estimates.by_site.items():
        refusal = estimates.refusals.get(site)
        title = clean(f"{site} · {_price(estimate, refusal)}")
        why = [clean(f"{refusal.message} {refusal.hint}".strip())] if refusal else []
        shown = (
            clean(_unknown_lines(estimate))
            if _tells_nothing(estimate)
            else plain_table(_ESTIMATE_COLUMNS, _lines(estimate))
        )
        blocks.append("\n".join([title, shown, *why]))
    blocks += [clean(f"Nothing from {site}: {p}") for site, p in estimates.problems.items()]
    return "\n\n".join(blocks)


def _lines(estimate: Estimate) -> list[list[str]]:
    return [
        [scalar_text(line.name), _expected(line.half_width), brief(line.note)]
        for line in estimate.lines[:MOST_ROWS]
    ]


def _price(estimate: Estimate, refusal: PrivnbError | None) -> str:
    price = brief(f"price: epsilon {estimate.epsilon}, delta {estimate.delta}")
    if refusal is not None and not isinstance(refusal, BudgetExceeded):
        return f"{price} · would be refused"
    return price + _AFFORDABLE[estimate.affordable]


_ESTIMATE_COLUMNS = ("aggregate", "± expected", "where")
_UNKNOWN = "depends on the data"
_AFFORDABLE = {True: " · your budget covers it", False: " · more than your budget", None: ""}


def _expected(half_width: float | None) -> str:
    if half_width is None:
        return _UNKNOWN
    return aggregate_text(half_width, half_width)[1] or f"± {half_width:g}"
