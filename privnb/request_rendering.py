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
    blocks = [table(f"At {site}", ("what", "how"), _facts(preview, site)) for site in preview.sites]
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
    for site in preview.sites:
        table_of_facts = plain_table(("what", "how"), _facts(preview, site))
        blocks.append(f"{clean(site)}\n{table_of_facts}")
    return "\n\n".join([*blocks, *map(clean, _unknown(preview)), _question(preview)])


def _facts(preview: Preview, site: str) -> list[tuple[str, str]]:
    return [(what, brief(how)) for what, how in preview.facts(site)]


def _unknown(preview: Preview) -> list[str]:
    return [f"{site} has not said yet what it offers." for site in preview.silent]


def _question(preview: Preview) -> str:
    return f"digest {preview.computation.digest[:16]}"
