"""How consents look: for what each table may be used, as HTML and as plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from privnb.markup import CARD, MUTED, Html, plain_table, table, tag
from privnb.widgets.moments import minute
from privnb.widgets.states import Look, look, state_html, state_text
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from privnb.messages import ConsentEntry

__all__ = ["STATES", "ConsentRow", "Offer", "consent_rows", "consents_html", "consents_text"]

Offer: TypeAlias = tuple[str, str, str]
"""A site, a table of its, and a purpose for which its policy lets the table be used."""

ConsentRow: TypeAlias = tuple[str, str, str, str, str, str, str]
"""Site, table, purpose, state, since, until, reason: plain text, escapes for what is not seen."""

STATES: dict[str, Look] = {
    "granted": ("✓", "good"),
    "pending": ("…", "warn"),
    "refused": ("✗", "bad"),
    "expired": ("∅", "quiet"),
    "withdrawn": ("⊘", "bad"),
    "not asked": ("○", "quiet"),
}
"""How each state looks."""

_CAPTION = "Consent: which table, for what purpose"
_COLUMNS = ("site", "table", "purpose", "state", "since", "until", "reason")
_EMPTY = "No site has said anything about consent yet. %privnb sites shows whom to ask."
_NEXT = "%privnb request-access --site S --table T --purpose P --reason … asks an owner for one."


def consent_rows(
    entries: Iterable[tuple[str, ConsentEntry]], *, offered: Iterable[Offer] = ()
) -> list[ConsentRow]:
    """Lay out consents by site, table and purpose, and what sites offer that was not asked for.

    Parameters
    ----------
    entries
        Pairs of site and consent.
    offered
        What sites have; where there is no consent about it, it is ``not asked``.
    """
    rows: dict[Offer, tuple[str, str, str, str]] = {
        (site, entry.table, entry.purpose): (
            entry.state,
            minute(entry.since)[:10],
            _until(entry),
            entry.reason,
        )
        for site, entry in entries
    }
    for offer in offered:
        rows.setdefault(offer, ("not asked", "", "", ""))
    found: list[ConsentRow] = []
    for (site, name, purpose), (state, since, until, reason) in sorted(rows.items()):
        cells = (site, name, purpose, state, since, until, reason)
        a, b, c, d, e, f, g = (visible(cell) for cell in cells)
        found.append((a, b, c, d, e, f, g))
    return found


def consents_html(
    entries: Sequence[tuple[str, ConsentEntry]], *, offered: Sequence[Offer] = ()
) -> Html:
    """Draw one row per site, table and purpose: its state, since and until when, and why."""
    rows = [
        (site, name, purpose, state_html(look(STATES, state), state), since, until, reason)
        for site, name, purpose, state, since, until, reason in consent_rows(
            entries, offered=offered
        )
    ]
    return tag(
        "section",
        table(_CAPTION, _COLUMNS, rows) if rows else _quiet(_EMPTY),
        _quiet(_NEXT) if rows else "",
        class_="pn-consent",
        aria_label=_CAPTION,
        style=f"{CARD};padding:8px 2px 8px",
    )


def consents_text(
    entries: Sequence[tuple[str, ConsentEntry]], *, offered: Sequence[Offer] = ()
) -> str:
    """Write one line per site, table and purpose, as plain text."""
    rows = [
        [*row[:3], state_text(look(STATES, row[3]), row[3]), *row[4:]]
        for row in consent_rows(entries, offered=offered)
    ]
    if not rows:
        return _EMPTY
    return f"{_CAPTION}\n{plain_table(_COLUMNS, rows)}\n{_NEXT}"


def _until(entry: ConsentEntry) -> str:
    return entry.until or ("no end" if entry.state == "granted" else "")


def _quiet(words: str) -> Html:
    return tag("div", words, style=f"padding:6px 10px 0;font-size:12px;{MUTED}")
