"""How a request looks before its release, and what would become of a cell that is not sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.markup import CARD, MUTED, plain_table, table, tag
from privnb.rendering import QUIET_BANNER, banner
from privnb.unseen import brief, clean

if TYPE_CHECKING:
    from privnb.preview import Preview
    from privnb.request import Request

__all__ = ["preview_html", "preview_text", "request_html", "request_text"]

_COLUMNS = ("site", "state", "who decides", "waiting since (UTC)", "expires (UTC)", "reason")
_DRY_RUN = "Dry run: nothing was sent to run, the data was not touched, nothing was spent."
_SMALL = f"font-size:12px;{MUTED}"


def request_html(request: Request) -> str:
    """Draw where a request stands at each of its sites, and how to get what it gives."""
    columns, rows = _filled(request)
    return tag(
        "section",
        table(_title(request), columns, rows),
        tag("div", _advice(request), style=f"padding:8px 10px 0;{_SMALL}"),
        class_="pn-request",
        aria_label=_title(request),
        style=f"{CARD};padding:8px 2px 8px",
    )


def request_text(request: Request) -> str:
    """Write where a request stands at each of its sites as plain text."""
    columns, rows = _filled(request)
    return f"{_title(request)}\n{plain_table(columns, rows)}\n{_advice(request)}"


def _title(request: Request) -> str:
    return f"Request {request.id[:8]}"


def _filled(request: Request) -> tuple[list[str], list[list[str]]]:
    """List what there is to say per site, without columns that say nothing."""
    rows = [
        [s.site, s.state, s.deciders, _minute(s.since), _minute(s.until or ""), s.reason]
        for s in request.standings
    ]
    kept = [i for i, _ in enumerate(_COLUMNS) if any(row[i] for row in rows)]
    return [_COLUMNS[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _advice(request: Request) -> str:
    if request.done:
        return f"digest {request.digest[:16]}"
    return (
        "This turns into the result once it is released: show it again, or run "
        f"%privnb result {request.id[:8]} · digest {request.digest[:16]}"
    )


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def preview_html(preview: Preview) -> str:
    """Draw what would become of a Python cell at each site."""
    title, facts = _facts(preview)
    blocks = [table(title, ("what", "how", "where")[: len(facts[0])], facts)] if facts else []
    return tag(
        "section",
        banner(_DRY_RUN, QUIET_BANNER),
        *blocks,
        *(tag("div", line, style=f"padding:6px 14px;{_SMALL}") for line in _unknown(preview)),
        tag("div", _question(preview), style=f"padding:6px 14px 10px;{_SMALL}"),
        class_="pn-estimate",
        aria_label="What would become of this cell",
        style=CARD,
    )


def preview_text(preview: Preview) -> str:
    """Write what would become of a Python cell at each site as plain text."""
    blocks = [_DRY_RUN]
    title, facts = _facts(preview)
    if facts:
        columns = ("what", "how", "where")[: len(facts[0])]
        blocks.append(f"{clean(title)}\n{plain_table(columns, facts)}")
    return "\n\n".join([*blocks, *map(clean, _unknown(preview)), _question(preview)])


def _facts(preview: Preview) -> tuple[str, list[tuple[str, ...]]]:
    """List what the sites would do, once, with a title: what differs is told with where it is so.

    Before any site has said what it offers there are none.
    """
    sites: dict[tuple[str, str], list[str]] = {}
    for site in preview.sites:
        for what, how in preview.facts(site):
            sites.setdefault((what, brief(how)), []).append(site)
    subjects = list(dict.fromkeys(what for what, _ in sites))
    facts = sorted(sites, key=lambda fact: subjects.index(fact[0]))
    title = f"At {', '.join(preview.sites)}"
    everywhere = len(preview.sites)
    if all(len(where) == everywhere for where in sites.values()):
        return title, list(facts)
    return title, [
        (*fact, "all" if len(sites[fact]) == everywhere else ", ".join(sites[fact]))
        for fact in facts
    ]


def _unknown(preview: Preview) -> list[str]:
    return [f"{site} has not said yet what it offers." for site in preview.silent]


def _question(preview: Preview) -> str:
    return f"digest {preview.computation.digest[:16]}"
