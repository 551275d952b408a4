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
    head = tag(
        "tr",
        *(
            tag("th", name, scope="col", style=f"{style};font-weight:600;{MUTED}")
            for name, style in zip(_ESTIMATE_COLUMNS, (KEY, NUMBER, KEY), strict=True)
        ),
    )
    return tag(
        "section",
        banner("Dry run: the data was not touched, nothing was spent.", QUIET_BANNER),
        tag(
            "table",
            heading("Expected error", " · ± is half of a 95 % interval"),
            tag("thead", head, style=f"border-bottom:1px solid {LINE}"),
            *(
                _estimate_block(site, each, estimates.refusals.get(site))
                for site, each in estimates.by_site.items()
            ),
            style=FULL_TABLE,
        ),
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


def _estimate_block(site: str, estimate: Estimate, refusal: PrivnbError | None) -> Html:
    price = tag("span", f" · {_price(estimate, refusal)}", style=f"font-weight:400;{MUTED}")
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
    return tag("tbody", block_heading(len(_ESTIMATE_COLUMNS), site, price), *rows)


def estimates_text(estimates: Estimates) -> str:
    """Write what a question would cost as plain text."""
    blocks = []
    for site, estimate in estimates.by_site.items():
        refusal = estimates.refusals.get(site)
        title = clean(f"{site} · {_price(estimate, refusal)}")
        why = [clean(f"{refusal.message} {refusal.hint}".strip())] if refusal else []
        table = plain_table(_ESTIMATE_COLUMNS, _lines(estimate))
        blocks.append("\n".join([title, table, *why]))
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
_AFFORDABLE = {True: " · your budget covers it", False: " · more than your budget", None: ""}


def _expected(half_width: float | None) -> str:
    if half_width is None:
        return "depends on the data"
    return aggregate_text(half_width, half_width)[1] or f"± {half_width:g}"
