"""How requests look to who made them: where each stands, who decides, and what to do next."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from privnb.markup import CARD, MUTED, Html, plain_table, table, tag
from privnb.widgets.moments import minute
from privnb.widgets.states import Look, look, state_html, state_text
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.standing import Standing

__all__ = ["RequestRow", "next_step", "requests_html", "requests_text", "state_look"]

_CAPTION = "Your requests"
_HEADINGS = ("request", "site", "state", "who decides, what now")
_COLUMNS = ("request", "asked (UTC)", "site", "state", "since", "who decides, what now")
_LOOKS: dict[str, Look] = {
    "waiting for an answer": ("…", "quiet"),
    "waiting for review": ("◇", "warn"),
    "approved": ("✓", "good"),
    "joined": ("✓", "good"),
    "running": ("…", "quiet"),
    "output in review": ("◆", "warn"),
    "released": ("✓", "good"),
    "nothing given": ("–", "quiet"),  # noqa: RUF001 - a dash
    "refused": ("✗", "bad"),
    "failed": ("✗", "bad"),
    "cancelled": ("–", "quiet"),  # noqa: RUF001 - a dash
}
_EMPTY = "You have asked nothing yet."
_SMALL = f"font-size:12px;{MUTED}"
_CODE = (
    "font-family:var(--jp-code-font-family,monospace);max-width:20em;"
    "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
)
_WRAPPED = "white-space:normal;max-width:30em;overflow-wrap:break-word"
_LONGEST_QUESTION = 120
_NOT_TELLING = ("import ", "from ", "#", "--")


@dataclass(frozen=True, kw_only=True)
class RequestRow:
    """One request at one site, as text to be shown."""

    request: str
    asked: str
    """When: UTC, ISO 8601."""
    site: str
    state: str
    """In words: 'waiting for review', 'released', …"""
    since: str = ""
    """Since when it is in that state: UTC, ISO 8601."""
    deciders: str = ""
    until: str = ""
    """When waiting ends by itself: UTC, ISO 8601."""
    purpose: str = ""
    question: str = ""
    """The text of the cell."""
    reason: str = ""
    """Why it was refused or failed, or nothing was given to it."""

    @classmethod
    def of(cls, standing: Standing) -> Self:
        """Take over what a session knows of one request at one site."""
        return cls(
            request=standing.request,
            asked=standing.asked_at,
            site=standing.site,
            state=standing.state,
            since=standing.since,
            deciders=standing.deciders,
            until=standing.until or "",
            purpose=standing.purpose,
            question=_question(standing),
            reason=standing.reason,
        )

    @property
    def first_words(self) -> str:
        """The question on one line, shortened, from where it begins to tell one from another."""
        lines = self.question.splitlines()
        telling = itertools.dropwhile(
            lambda line: line.startswith(_NOT_TELLING) or not line.strip(), lines
        )
        words = " ".join(" ".join(telling).split()) or " ".join(self.question.split())
        cut = len(words) > _LONGEST_QUESTION
        return visible(words[:_LONGEST_QUESTION] + (" …" if cut else ""))


def state_look(state: str) -> Look:
    """Return how a state looks.

    >>> state_look("released, on its way here")
    ('✓', 'good')
    """
    return look(_LOOKS, state.partition(",")[0])


def next_step(row: RequestRow) -> str:
    """Say what its analyst can do about a request: get it, or read why there is nothing to get.

    >>> next_step(RequestRow(request="ab" * 16, asked="", site="lakeside", state="released"))
    '%privnb result abababab'
    """
    if row.state in ("released", "joined"):  # who joined a run waits for its analyst to go on
        return f"%privnb result {row.request[:8]}"
    if row.state == "nothing given":
        why = f"{row.reason}; " if row.reason else ""
        return visible(f"{why}%privnb result {row.request[:8]} tells more")
    return visible(row.reason)


def requests_html(rows: Sequence[RequestRow]) -> Html:
    """Draw one row per request and site: its state, who decides until when, what can be done."""
    drawn = [
        (
            _heading(row),
            visible(row.site),
            _state(row),
            _next(row),
        )
        for row in rows
    ]
    return tag(
        "section",
        table(_CAPTION, _HEADINGS, drawn)
        if drawn
        else tag("div", _EMPTY, style=f"padding:4px 10px;{MUTED}"),
        class_="pn-requests",
        aria_label=_CAPTION,
        style=f"{CARD};padding:8px 2px 8px",
    )


def requests_text(rows: Sequence[RequestRow]) -> str:
    """Write one line per request and site, as plain text."""
    if not rows:
        return _EMPTY
    lines = [
        [
            row.request[:8],
            minute(row.asked),
            visible(row.site),
            state_text(state_look(row.state), visible(row.state)),
            minute(row.since),
            "; ".join(filter(None, _said(row))),
        ]
        for row in rows
    ]
    return f"{_CAPTION}\n{plain_table(_COLUMNS, lines)}"


def _question(standing: Standing) -> str:
    """Return the text of a cell; of a model, which has none, what it explains and by what."""
    if standing.kind != "model":
        return standing.question
    try:
        said = json.loads(standing.question)
        return f"{said['model']} regression: {said['target']} by {', '.join(said['features'])}"
    except (ValueError, TypeError, KeyError):
        return standing.question


def _state(row: RequestRow) -> Html:
    since = tag("div", f"since {minute(row.since)}", style=_SMALL) if row.since else ""
    return Html(state_html(state_look(row.state), visible(row.state)) + since)


def _heading(row: RequestRow) -> Html:
    quiet = f"{_SMALL};font-weight:400"
    name = tag("div", row.request[:8], tag("span", f" · {minute(row.asked)}", style=quiet))
    about = tag("div", visible(row.purpose), style=f"{quiet};white-space:normal")
    return Html(name + about + tag("div", row.first_words, style=f"{quiet};{_CODE}"))


def _next(row: RequestRow) -> Html:
    deciders, until, step = _said(row)
    styled = ((deciders, _WRAPPED), (until, _SMALL), (step, _WRAPPED))
    return Html("".join(tag("div", words, style=style) for words, style in styled if words))


def _said(row: RequestRow) -> tuple[str, str, str]:
    """Tell who decides, until when, and what the analyst can do; each may be empty."""
    until = f"until {minute(row.until)}" if row.until else ""
    return visible(row.deciders), until, next_step(row)
