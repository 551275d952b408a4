"""How releases look: pure functions to HTML and to plain text.

Everything a site sent is treated as hostile: escaped, kept to its own line, without controls and
characters that are not seen. The HTML is static, so that it reads the same in a live notebook, in a
saved one and on paper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privnb.markup import CARD, LINE, MUTED, TINT, Html, counted, plain_table, tag
from privnb.unseen import brief, clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from privnb.computation import Scalar
    from privnb.errors import PrivnbError
    from privnb.release import Answer, Release, SiteRelease

__all__ = [
    "CELL",
    "FULL_TABLE",
    "KEY",
    "MOCK",
    "MOCK_BANNER",
    "MOST_COLUMNS",
    "MOST_ROWS",
    "NUMBER",
    "QUIET_BANNER",
    "aggregate_text",
    "answer_text",
    "banner",
    "block_heading",
    "first_lines",
    "heading",
    "label_html",
    "label_lines",
    "label_text",
    "left_out",
    "lines_by_heading_text",
    "lines_html",
    "lines_text",
    "noisy_table",
    "problems_html",
    "release_html",
    "release_text",
    "scalar_text",
    "summary_lines",
]

CELL = "padding:4px 14px;vertical-align:top;background:transparent"
KEY = f"{CELL};text-align:left;font-weight:400"
NUMBER = f"{CELL};text-align:right;white-space:nowrap"
FULL_TABLE = (
    "border-collapse:collapse;margin:0;width:100%;font-size:13px;border:none;"
    "font-variant-numeric:tabular-nums;table-layout:auto"
)
MOCK_BANNER = "background:rgba(240,173,0,.18);border-bottom:2px dashed rgba(240,173,0,.9)"
_HANGING = "padding-left:1em;text-indent:-1em"
QUIET_BANNER = f"background:{TINT};border-bottom:1px solid {LINE}"
MOCK = "MOCK: synthetic rows of the mock twin. Nothing real was read, nothing was spent."

MOST_ROWS, MOST_COLUMNS = 200, 40
"""What is drawn of a table; ``.df`` has all of it."""
_LONGEST_CELL = 200
"""Characters that are drawn of one cell."""
_MOST_LINES = 40
"""Lines that are drawn below one heading of a label, or of remarks on a table."""


def scalar_text(value: Scalar, *, most: int = _LONGEST_CELL) -> str:
    """Write one group key: text up to ``most`` characters, numbers as in SQL, NULL as ``(none)``.

    >>> scalar_text(None), scalar_text(True), scalar_text(1977)
    ('(none)', 'true', '1977')
    """
    if value is None:
        return "(none)"
    return str(value).lower() if isinstance(value, bool) else brief(value, most)


def left_out(rows: int, columns: int) -> str:
    """Say what is not drawn of a table of this size; nothing if all of it is.

    >>> left_out(201, 3)
    '… and 1 more rows: see .df'
    """
    said = []
    if rows > MOST_ROWS:
        said.append(f"{rows - MOST_ROWS:,} more rows")
    if columns > MOST_COLUMNS:
        said.append(f"{columns - MOST_COLUMNS:,} more columns")
    return f"… and {' and '.join(said)}: see .df" if said else ""


def _remarks(answer: Answer) -> list[str]:
    """Say what is not drawn of a table, and what its site says of it."""
    rest = left_out(len(answer.rows), len(answer.columns))
    return [*([rest] if rest else []), *first_lines(answer.notes)]


def first_lines(lines: Sequence[str]) -> list[str]:
    """Keep the first lines, and of each its beginning; say how many more there are."""
    more = [f"… and {len(lines) - _MOST_LINES:,} more"] if len(lines) > _MOST_LINES else []
    return [*map(brief, lines[:_MOST_LINES]), *more]


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
    """Draw the card of a release: what each site let out, then the privacy label in words."""
    from privnb.output_rendering import output_html  # noqa: PLC0415 - it uses what is here

    outputs = [part for part in release.parts if part.output is not None]
    caption = _title(release)
    tables = [output_html(part, title=_title(release, part)) for part in outputs]
    if not outputs:
        noisy = [(part.site, part.answer) for part in release.parts if part.answer is not None]
        tables = [noisy_table(noisy, caption)]
    return tag(
        "section",
        banner(MOCK, MOCK_BANNER) if release.mock else "",
        *tables,
        *problems_html(release.problems),
        label_html(label_lines(release)),
        class_="pn-release",
        aria_label=caption,
        style=CARD,
    )


def _title(release: Release, part: SiteRelease | None = None) -> str:
    parts = release.parts if part is None else (part,)
    where = f"{len(parts)} sites" if len(parts) > 1 else parts[0].site
    if parts[0].output is None:
        return f"{'Mock' if release.mock else 'Protected'} answer from {where}"
    return f"{'Mock' if release.mock else 'Approved'} output from {where}"


def noisy_table(noisy: Sequence[tuple[str, Answer]], title: str) -> Html:
    """Draw noisy answers, each under the name of whom it is from."""
    named = dict.fromkeys(c.name for _, answer in noisy for c in answer.columns)
    columns = list(named)[:MOST_COLUMNS]
    aggregates = {c.name for _, answer in noisy for c in answer.columns if c.role == "aggregate"}
    head = tag(
        "tr",
        *(
            tag(
                "th",
                scalar_text(name),
                scope="col",
                style=f"{NUMBER if name in aggregates else KEY};font-weight:600;{MUTED}",
            )
            for name in columns
        ),
    )
    return tag(
        "table",
        heading(title, " · ± is half of a 95 % interval"),
        tag("thead", head, style=f"border-bottom:1px solid {LINE}"),
        *(_site_block(site, answer, len(columns)) for site, answer in noisy),
        style=FULL_TABLE,
    )


def _site_block(site: str, answer: Answer, width: int) -> Html:
    rows = [
        tag(
            "tr",
            *(
                _value_cell(value, half, is_key=column.role == "key")
                for column, value, half in zip(
                    answer.columns[:MOST_COLUMNS], row, halves, strict=False
                )
            ),
            style="background:transparent",
        )
        for row, halves in _first_rows(answer)
    ]
    if not rows:
        rows = [tag("tr", tag("td", "No groups.", colspan=width, style=f"{KEY};{MUTED}"))]
    notes = [
        tag(
            "tr",
            tag("td", note, colspan=width, style=f"{KEY};font-size:12px;{MUTED}"),
            style="background:transparent",
        )
        for note in _remarks(answer)
    ]
    return tag("tbody", block_heading(width, site), *rows, *notes)


def _first_rows(
    answer: Answer,
) -> Iterator[tuple[tuple[Scalar, ...], tuple[float | None, ...]]]:
    return zip(answer.rows[:MOST_ROWS], answer.half_widths[:MOST_ROWS], strict=True)


def _value_cell(value: Scalar, half_width: float | None, *, is_key: bool) -> Html:
    if is_key:
        return tag("th", scalar_text(value), scope="row", style=KEY)
    shown, error = aggregate_text(value, half_width)
    if not error:
        return tag("td", shown, style=NUMBER)
    return tag("td", shown, " ", tag("span", error, style=MUTED), style=NUMBER)


def heading(title: str, explanation: str) -> Html:
    """Caption a table that fills a card."""
    return tag(
        "caption",
        title,
        tag("span", explanation, style=f"font-weight:400;{MUTED}") if explanation else "",
        style="caption-side:top;text-align:left;padding:10px 14px 4px;font-weight:600;"
        "font-size:13px;color:inherit",
    )


def block_heading(width: int, *words: object) -> Html:
    """Name the site above its rows."""
    style = f"{CELL};text-align:left;font-weight:600;padding-top:6px;background:{TINT}"
    heading = tag("th", *words, scope="rowgroup", colspan=width, style=style)
    return tag("tr", heading, style="background:transparent")


def banner(words: str, look: str) -> Html:
    """Say one thing across the top of a card; ``look`` is its style."""
    return tag("div", words, role="note", style=f"padding:8px 14px;font-weight:600;{look}")


def problems_html(problems: Mapping[str, PrivnbError]) -> list[Html]:
    """Say which sites gave nothing, and why."""
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


def label_html(lines_by_heading: Sequence[tuple[str, Sequence[str]]]) -> Html:
    """Draw a privacy label: lines of text, each under a heading of its own."""
    rows = [
        tag(
            "tr",
            tag(
                "th",
                heading,
                scope="row",
                style=f"{CELL};text-align:left;white-space:nowrap;font-weight:400;{MUTED}",
            ),
            tag(
                "td",
                *(tag("div", line, style=_HANGING) for line in lines),
                style=f"{CELL};text-align:left;max-width:46em;white-space:normal",
            ),
            style="background:transparent",
        )
        for heading, lines in lines_by_heading
    ]
    label = tag(
        "table",
        heading("Privacy label", ""),
        tag("tbody", *rows),
        style=f"{FULL_TABLE};font-size:12px",
    )
    return tag("div", label, style=f"border-top:1px solid {LINE};padding-bottom:6px")


def label_lines(release: Release) -> list[tuple[str, list[str]]]:
    """List the lines of the labels by heading; where not all sites say one, with their names."""
    labels = release.labels
    prices: dict[str, tuple[str, ...]] = {
        site: (f"epsilon {x.epsilon}, delta {x.delta}",) if x.route == "noise" else ()
        for site, x in labels.items()
    }
    if len(prices) > 1 and len(set(prices.values())) == 1:  # it is paid at every one of them
        prices = {
            site: tuple(f"{line} at each site" for line in price) for site, price in prices.items()
        }
    parts: list[tuple[str, dict[str, tuple[str, ...]]]] = [
        ("Released by", {site: label.approved_by for site, label in labels.items()}),
        ("Privacy loss", prices),
        ("Protects", {site: (label.unit,) for site, label in labels.items()}),
        ("Mechanism", {site: (label.mechanism,) for site, label in labels.items()}),
        ("Values limited", {site: label.clamps for site, label in labels.items()}),
        ("Sandbox", {site: (label.sandbox,) for site, label in labels.items()}),
        ("Counted", {site: (label.population,) for site, label in labels.items()}),
        ("Budget left", {s: (x.budget,) for s, x in labels.items() if x.route == "noise"}),
        ("Budget", {s: (x.budget,) for s, x in labels.items() if x.route == "approval"}),
        ("Does not protect", {site: label.not_protected for site, label in labels.items()}),
        ("Audit", {part.site: _audited(part) for part in release.parts}),
    ]
    if release.mock:
        parts = [part for part in parts if part[0] in ("Mechanism", "Values limited", "Sandbox")]
    listed = [(heading, lines) for heading, by_site in parts if (lines := _agreed(by_site))]
    question = f"digest {release.digest[:16]}"
    if not release.mock:  # nothing is kept of a mock answer that could be taken up again
        question = f"{question} · request {release.request[:8]}"
    return [*listed, ("Question", [question])]


def _audited(part: SiteRelease) -> tuple[str, ...]:
    """Say where the receipt, which was checked when the reply came in, has its event."""
    if part.receipt is None:
        return ()
    _, size, *_ = [*part.receipt.checkpoint.split("\n"), ""]
    said = f"event {part.receipt.index} in the site's log of {size} events; proof checked"
    later = "" if part.linked else "; that later answers are of the same log is still to be proved"
    return (f"{said}{later}",)


def _agreed(by_site: Mapping[str, tuple[str, ...]]) -> list[str]:
    said_by: dict[str, list[str]] = {}
    for site, lines in by_site.items():
        for line in first_lines([*dict.fromkeys(filter(None, lines))]):
            said_by.setdefault(line, []).append(site)
    return [
        line if len(sites) == len(by_site) else f"{', '.join(sites)}: {line}"
        for line, sites in said_by.items()
    ]


def label_text(release: Release) -> str:
    """Write the privacy label of a release as lines of text."""
    return lines_by_heading_text(label_lines(release))


def lines_by_heading_text(listed: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Write lines of text, each under a heading of its own."""
    return "\n".join(
        f"{heading if number == 0 else '':<18}{clean(line)}"
        for heading, lines in listed
        for number, line in enumerate(lines)
    )


def release_text(release: Release) -> str:
    """Write a release as plain text: a table per site, then the privacy label."""
    from privnb.output_rendering import output_text  # noqa: PLC0415 - it uses what is here

    blocks = [MOCK] if release.mock else []
    for part in release.parts:
        if part.output is not None:
            blocks.append(f"{clean(_title(release, part))}\n{output_text(part.output)}")
        if part.answer is not None:
            blocks.append(f"{clean(part.site)}\n{answer_text(part.answer)}")
    blocks += [clean(f"Nothing from {site}: {p}") for site, p in release.problems.items()]
    blocks.append("Privacy label\n" + label_text(release))
    return "\n\n".join(blocks)


def answer_text(answer: Answer) -> str:
    """Write a noisy answer as plain text."""
    rows = [
        [
            scalar_text(value)
            if column.role == "key"
            else " ".join(aggregate_text(value, half)).rstrip()
            for column, value, half in zip(answer.columns[:MOST_COLUMNS], row, halves, strict=False)
        ]
        for row, halves in _first_rows(answer)
    ]
    names = [scalar_text(column.name) for column in answer.columns[:MOST_COLUMNS]]
    return "\n".join([plain_table(names, rows), *_remarks(answer)])


# One line, where a release is stored and not shown


def summary_lines(release: Release, name: str) -> list[str]:
    """Say what is now in the variable ``name``: what, from where, what protects it, its proof."""
    first = f"{name}: {_what(release)} from {', '.join(release.sites)} · {_paid(release)}"
    missing = [f"Nothing from {s}: {p}  {p.hint}" for s, p in release.problems.items()]
    return [first, *missing, f"digest {release.digest[:16]} · request {release.request[:8]}"]


def lines_html(first: str, *more: str) -> Html:
    """Draw a sentence, and further ones below it in a quieter colour."""
    quiet = [tag("div", line, style=f"font-size:12px;{MUTED}") for line in more]
    style = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px"
    return tag("div", first, *quiet, style=style)


def lines_text(*lines: str) -> str:
    """Write sentences as plain text, one a line."""
    return "\n".join(map(clean, lines))


def _what(release: Release) -> str:
    """Say in two words what came back."""
    kinds = {part.output.kind for part in release.parts if part.output is not None}
    if kinds == {"figure"}:
        return "a figure" if len(release.parts) == 1 else f"{len(release.parts)} figures"
    rows = sum(part.rows for part in release.parts)
    if kinds == {"scalar"}:
        return "one value" if rows == 1 else f"{rows} values"
    return counted(rows, "row")


def _paid(release: Release) -> str:
    """Say what protects a release and what it cost."""
    if release.mock:
        return "MOCK: nothing real, nothing spent"
    approved = sorted({name for label in release.labels.values() for name in label.approved_by})
    if any(part.output is not None for part in release.parts):
        return f"approved output, released by {', '.join(approved) or 'the site'}"
    price = {site: label.epsilon for site, label in release.labels.items()}
    if len(set(price.values())) == 1:
        return f"epsilon {next(iter(price.values()))}{' each' if len(price) > 1 else ''}"
    return ", ".join(f"epsilon {epsilon} at {site}" for site, epsilon in price.items())
