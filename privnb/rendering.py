"""How releases, estimates and budgets look: pure functions to HTML and to plain text.

Everything a site sent is treated as hostile: escaped, and stripped of characters that could hide
or reverse text. The HTML is static, so that it reads the same in a live notebook, in a saved one
and on paper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privnb.markup import ACCENT, LINE, MUTED, TINT, Html, clean, plain_table, table, tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.computation import Scalar
    from privnb.errors import PrivnbError
    from privnb.messages import Budget
    from privnb.release import Estimates, PrivacyLabel, Release, SiteRelease

__all__ = [
    "budgets_html",
    "budgets_text",
    "estimates_html",
    "estimates_text",
    "label_text",
    "listing_html",
    "listing_text",
    "release_html",
    "release_text",
    "scalar_text",
    "share_left",
]

_CARD = (
    f"border:1px solid {LINE};border-radius:8px;overflow-x:auto;width:fit-content;max-width:100%;"
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45;"
    "margin:2px 0;color:var(--jp-ui-font-color1,inherit)"
)
_CELL = "padding:4px 14px;vertical-align:top;background:transparent"
_KEY = f"{_CELL};text-align:left;font-weight:400"
_NUMBER = f"{_CELL};text-align:right;white-space:nowrap"
_MOCK = "MOCK: synthetic rows of the mock twin. Nothing real was read, nothing was spent."
_LOW = 0.2
"""Below this share of the grant, a meter says so."""

_MOVE = (
    "@keyframes pn-move{from{width:var(--pn-from)}}"
    ".pn-fill{animation:pn-move .9s ease-out}"
    "@media(prefers-reduced-motion:reduce){.pn-fill{animation:none}}"
)


def scalar_text(value: Scalar) -> str:
    """Write one group key: text as it is, numbers as in SQL, NULL as ``(none)``.

    >>> scalar_text(None), scalar_text(True), scalar_text(1977)
    ('(none)', 'true', '1977')
    """
    if value is None:
        return "(none)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def aggregate_text(value: Scalar, half_width: float | None) -> tuple[str, str]:
    """Write an aggregate and its error with the digits that the error leaves meaningful.

    >>> aggregate_text(3.14159, 0.2), aggregate_text(48120.4, 312.7), aggregate_text(None, None)
    (('3.14', '± 0.20'), ('48,120', '± 313'), ('—', ''))
    """
    if value is None:
        return "—", ""
    if isinstance(value, bool | str):
        return scalar_text(value), ""
    if half_width is None or not half_width > 0 or not math.isfinite(half_width):
        return (f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"), ""
    decimals = max(0, min(6, 1 - math.floor(math.log10(half_width))))
    return f"{value:,.{decimals}f}", f"± {half_width:,.{decimals}f}"


# Releases


def release_html(release: Release) -> str:
    """Draw the card of a release: one block of rows per site, then the privacy label in words."""
    columns = list(dict.fromkeys(c.name for part in release.parts for c in part.answer.columns))
    aggregates = {c.name for p in release.parts for c in p.answer.columns if c.role == "aggregate"}
    head = tag(
        "tr",
        *(
            tag(
                "th",
                name,
                scope="col",
                style=f"{_NUMBER if name in aggregates else _KEY};font-weight:600;{MUTED}",
            )
            for name in columns
        ),
    )
    where = f"{len(release.parts)} sites" if len(release.parts) > 1 else release.parts[0].site
    caption = f"{'Mock' if release.mock else 'Protected'} answer from {where}"
    card = [
        _mock_banner() if release.mock else "",
        tag(
            "table",
            tag(
                "caption",
                caption,
                tag("span", " · ± is half of a 95 % interval", style=f"font-weight:400;{MUTED}"),
                style="caption-side:top;text-align:left;padding:10px 14px 6px;font-weight:600;"
                "color:inherit",
            ),
            tag("thead", head, style=f"border-bottom:1px solid {LINE}"),
            *(_site_block(part, len(columns)) for part in release.parts),
            style="border-collapse:collapse;margin:0;width:100%;font-size:13px;border:none;"
            "font-variant-numeric:tabular-nums;table-layout:auto",
        ),
        *_problems_html(release.problems),
        _label_html(release),
    ]
    return tag(
        "section",
        *card,
        class_="pn-release",
        aria_label=caption,
        style=_CARD,
    )


def _site_block(part: SiteRelease, width: int) -> Html:
    heading = tag(
        "tr",
        tag(
            "th",
            part.site,
            scope="rowgroup",
            colspan=width,
            style=f"{_CELL};text-align:left;font-weight:600;padding-top:6px;background:{TINT}",
        ),
        style="background:transparent",
    )
    rows = [
        tag(
            "tr",
            *(
                _value_cell(value, half, is_key=column.role == "key")
                for column, value, half in zip(part.answer.columns, row, halves, strict=True)
            ),
            style="background:transparent",
        )
        for row, halves in zip(part.answer.rows, part.answer.half_widths, strict=True)
    ]
    if not rows:
        rows = [tag("tr", tag("td", "No groups.", colspan=width, style=f"{_KEY};{MUTED}"))]
    notes = [
        tag(
            "tr",
            tag("td", note, colspan=width, style=f"{_KEY};font-size:12px;{MUTED}"),
            style="background:transparent",
        )
        for note in part.answer.notes
    ]
    return tag("tbody", heading, *rows, *notes)


def _value_cell(value: Scalar, half_width: float | None, *, is_key: bool) -> Html:
    if is_key:
        return tag("th", scalar_text(value), scope="row", style=_KEY)
    shown, error = aggregate_text(value, half_width)
    if not error:
        return tag("td", shown, style=_NUMBER)
    return tag("td", shown, " ", tag("span", error, style=MUTED), style=_NUMBER)


def _mock_banner() -> Html:
    return tag(
        "div",
        _MOCK,
        role="note",
        style="padding:8px 14px;font-weight:600;background:rgba(240,173,0,.18);"
        "border-bottom:2px dashed rgba(240,173,0,.9)",
    )


def _problems_html(problems: Mapping[str, PrivnbError]) -> list[Html]:
    return [
        tag(
            "div",
            tag("strong", f"Nothing from {site}: "),
            str(problem),
            f" {problem.hint}" if problem.hint else "",
            role="note",
            style="padding:8px 14px;background:rgba(211,47,47,.12);"
            "border-left:4px solid rgba(211,47,47,.8)",
        )
        for site, problem in problems.items()
    ]


def _label_html(release: Release) -> Html:
    rows = [
        tag(
            "tr",
            tag(
                "th",
                heading,
                scope="row",
                style=f"{_CELL};text-align:left;white-space:nowrap;font-weight:400;{MUTED}",
            ),
            tag(
                "td",
                *(tag("div", line) for line in lines),
                style=f"{_CELL};text-align:left;max-width:46em;white-space:normal",
            ),
            style="background:transparent",
        )
        for heading, lines in _label_lines(release.labels)
    ]
    return tag(
        "table",
        tag(
            "caption",
            "Privacy label",
            style="caption-side:top;text-align:left;padding:8px 14px 2px;font-weight:600;"
            "color:inherit",
        ),
        tag("tbody", *rows),
        style=f"border-collapse:collapse;margin:0;width:100%;font-size:12px;border:none;"
        f"border-top:1px solid {LINE};table-layout:auto",
    )


def _label_lines(labels: Mapping[str, PrivacyLabel]) -> list[tuple[str, list[str]]]:
    """Each line of the label once if all sites agree on it, else once per differing site."""
    mock = any(label.mock for label in labels.values())
    parts: list[tuple[str, dict[str, tuple[str, ...]]]] = [
        ("Mechanism", {site: (label.mechanism,) for site, label in labels.items()}),
        (
            "Privacy loss",
            {site: (f"epsilon {x.epsilon}, delta {x.delta}",) for site, x in labels.items()},
        ),
        ("Protects", {site: (label.unit,) for site, label in labels.items()}),
        ("Limited first", {site: label.clamps for site, label in labels.items()}),
        ("Budget left", {site: (label.budget,) for site, label in labels.items()}),
        ("Does not protect", {site: label.not_protected for site, label in labels.items()}),
    ]
    if mock:
        parts = [part for part in parts if part[0] in ("Mechanism", "Limited first")]
    return [(heading, lines) for heading, by_site in parts if (lines := _agreed(by_site))]


def _agreed(by_site: Mapping[str, tuple[str, ...]]) -> list[str]:
    same: dict[tuple[str, ...], list[str]] = {}
    for site, lines in by_site.items():
        same.setdefault(lines, []).append(site)
    if len(same) == 1:
        return [line for line in next(iter(same)) if line]
    return [f"{', '.join(sites)}: {line}" for lines, sites in same.items() for line in lines]


def label_text(release: Release) -> str:
    """Write the privacy label of a release as lines of text."""
    listed = _label_lines(release.labels)
    return "\n".join(
        f"{heading if number == 0 else '':<17}{clean(line)}"
        for heading, lines in listed
        for number, line in enumerate(lines)
    )


def release_text(release: Release) -> str:
    """Write a release as plain text: a table per site, then the privacy label."""
    blocks = [_MOCK] if release.mock else []
    for part in release.parts:
        rows = [
            [
                scalar_text(value)
                if column.role == "key"
                else " ".join(aggregate_text(value, half)).rstrip()
                for column, value, half in zip(part.answer.columns, row, halves, strict=True)
            ]
            for row, halves in zip(part.answer.rows, part.answer.half_widths, strict=True)
        ]
        lines = [clean(part.site), plain_table([c.name for c in part.answer.columns], rows)]
        blocks.append("\n".join([*lines, *map(clean, part.answer.notes)]))
    blocks += [f"Nothing from {site}: {clean(p)}" for site, p in release.problems.items()]
    blocks.append("Privacy label\n" + label_text(release))
    return "\n\n".join(blocks)


# Estimates


def estimates_html(estimates: Estimates) -> str:
    """Draw what a question would cost at each site, and how precise its answers would be."""
    rows = [
        (
            site,
            line.name,
            _expected(line.half_width),
            line.note,
            f"epsilon {estimate.epsilon}, delta {estimate.delta}",
            _AFFORDABLE[estimate.affordable],
        )
        for site, estimate in estimates.by_site.items()
        for line in estimate.lines
    ]
    remarks = list(
        dict.fromkeys(
            remark
            for estimate in estimates.by_site.values()
            for remark in (estimate.mechanism, *estimate.clamps, *estimate.notes)
        )
    )
    return tag(
        "section",
        tag(
            "div",
            "Dry run: nothing was asked of the data and nothing was spent.",
            role="note",
            style=f"padding:8px 14px;font-weight:600;border-bottom:1px solid {LINE};"
            f"background:{TINT};margin-bottom:6px",
        ),
        table("Expected error, half of a 95 % interval", _ESTIMATE_COLUMNS, rows, numeric=(2,)),
        *(tag("div", remark, style=f"padding:2px 14px;{MUTED}") for remark in remarks),
        *_problems_html(estimates.problems),
        class_="pn-estimate",
        aria_label="Price and expected error",
        style=f"{_CARD};padding-bottom:8px",
    )


def estimates_text(estimates: Estimates) -> str:
    """Write what a question would cost as plain text."""
    rows = [
        [
            site,
            line.name,
            _expected(line.half_width),
            line.note,
            f"epsilon {estimate.epsilon}, delta {estimate.delta}",
            _AFFORDABLE[estimate.affordable],
        ]
        for site, estimate in estimates.by_site.items()
        for line in estimate.lines
    ]
    problems = [f"Nothing from {site}: {clean(p)}" for site, p in estimates.problems.items()]
    return "\n".join([plain_table(_ESTIMATE_COLUMNS, rows), *problems])


_ESTIMATE_COLUMNS = ("site", "aggregate", "± expected", "where", "price", "within budget")
_AFFORDABLE = {True: "yes", False: "no", None: "not checked"}


def _expected(half_width: float | None) -> str:
    if half_width is None:
        return "depends on the data"
    return aggregate_text(half_width, half_width)[1] or f"± {half_width:g}"


# Budgets


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
            budget.table,
            budget.purpose,
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
        table(_BUDGET_CAPTION, _BUDGET_COLUMNS, rows, numeric=(3, 4)) if rows else empty,
        class_="pn-budget",
        aria_label=_BUDGET_CAPTION,
        style=f"{_CARD};padding:8px 2px 8px",
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
    return f"{_BUDGET_CAPTION}\n{plain_table(_BUDGET_COLUMNS, rows)}"


_BUDGET_CAPTION = "Privacy budget (epsilon)"
_BUDGET_COLUMNS = ("site", "table", "purpose", "granted", "spent", "left", "until", "releases")


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
        style="width:150px;height:8px;border-radius:4px;margin:5px 0 2px;"
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
        tag("summary", f"{count} release{'s' if count > 1 else ''}", style="cursor:pointer"),
        tag("ol", *items, reversed="", style="margin:4px 0 0;padding-left:2em;font-size:12px"),
    )


# Listings


def listing_html(caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Draw any list of a few things, as a card like the others."""
    return tag(
        "section",
        table(caption, columns, [[str(cell) for cell in row] for row in rows]),
        class_="pn-listing",
        aria_label=caption,
        style=f"{_CARD};padding:8px 2px 8px",
    )


def listing_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write any list of a few things, with aligned columns."""
    return plain_table(columns, [[str(cell) for cell in row] for row in rows])
