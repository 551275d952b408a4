"""Frames that list sites, columns, budgets and requests for a person to read.

A terminal prints them as they are, so every text that a site chose is cleaned here.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pandas as pd

from privnb.errors import PrivnbError, UnknownName
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from privnb.audit import Proved
    from privnb.datasite.ports import SiteCard
    from privnb.dp.schema import Bounds, Column, TableSchema, UnitBounds
    from privnb.messages import Budget, SiteDescription, TemplateOffer
    from privnb.standing import Standing

__all__ = [
    "ago",
    "audit_frame",
    "budgets_frame",
    "requests_frame",
    "schema_frame",
    "sites_frame",
    "templates_frame",
]

_STATES = {
    "unknown": "not asked",
    "asked": "waiting for the owner",
    "accepted": "accepted",
    "key changed": "KEY CHANGED: do not use",
}
_AUDIT_KEY_CHANGED = "AUDIT KEY CHANGED: do not use"
_AUDIT_COLUMNS = [
    *("site", "event", "when (UTC)", "what", "decision", "rule", "epsilon", "table", "purpose"),
    *("request", "digest", "verified"),
]
_LONGEST_WORD = 200
_HEARTBEATS = 30
"""An agent shows itself every ten seconds; seen within three of them is seen now."""


def sites_frame(
    cards: Mapping[str, SiteCard],
    described: Mapping[str, SiteDescription],
    distrusted: Collection[str] = (),
) -> pd.DataFrame:
    """One row per site: owner, state, tables, purposes, budget left, agent last seen.

    Sites in ``distrusted`` sign their audit log with another key than they did first.
    """
    rows = []
    for name, card in sorted(cards.items()):
        site = described.get(name)
        tables = site.tables if site else ()
        budgets = site.budgets if site else ()
        left = (f"{b.table}: {b.epsilon_left} of {b.epsilon_granted}" for b in budgets)
        rows.append(
            {
                "site": name,
                "owner": card.owner,
                "state": _AUDIT_KEY_CHANGED if name in distrusted else _STATES[card.state],
                "tables": brief(", ".join(table.name for table in tables)),
                "purposes": brief(", ".join(sorted({p for t in tables for p in t.purposes}))),
                "budget left": brief(", ".join(left)),
                "agent last seen": ago(card.last_seen),
                "fingerprint": card.fingerprint or "",
            }
        )
    columns = ["site", "owner", "state", "tables", "purposes", "budget left"]
    return pd.DataFrame(rows, columns=[*columns, "agent last seen", "fingerprint"])


def schema_frame(described: Mapping[str, SiteDescription], table: str) -> pd.DataFrame:
    """One row per site and column: type, bounds, public values, privacy unit, description.

    The privacy unit's entry also says which columns have one value per unit: groups over those
    need less noise. Raises `UnknownName` (E_NO_TABLE) when no site has the table.
    """
    rows = [
        {
            "site": name,
            "column": brief(column.name),
            "type": column.type,
            "nullable": column.nullable,
            "bounds": _interval(column.bounds),
            "unit bounds": _interval(column.unit_bounds),
            "values": brief(", ".join(map(str, column.values or ()))),  # noqa: PD011 - not pandas
            "privacy unit": brief(_unit_note(column, offered)),
            "description": brief(column.description),
        }
        for name, site in described.items()
        for offered in site.tables
        if offered.name == table
        for column in offered.columns
    ]
    if not rows:
        known = {offered.name for site in described.values() for offered in site.tables}
        raise UnknownName.among("table", table, known, code="E_NO_TABLE")
    return pd.DataFrame(rows)


def budgets_frame(budgets: Iterable[tuple[str, Budget]]) -> pd.DataFrame:
    """One row per grant: site, table, purpose, epsilon granted, spent and left, until when.

    ``charges`` counts what was paid for, whether or not something came of it.
    """
    rows = [
        {
            "site": site,
            "table": brief(budget.table),
            "purpose": brief(budget.purpose),
            "granted": _number(budget.epsilon_granted),
            "spent": _number(budget.epsilon_spent),
            "left": _number(budget.epsilon_left),
            "until": brief(budget.until or ""),
            "charges": len(budget.history),
        }
        for site, budget in budgets
    ]
    columns = ["site", "table", "purpose", "granted", "spent", "left", "until", "charges"]
    return pd.DataFrame(rows, columns=columns)


def requests_frame(standings: Iterable[Standing]) -> pd.DataFrame:
    """One row per request, in the order given: how far it is at each site, who decides, until when.

    What differs between the sites of one request is said with the site's name.
    """
    by_request: dict[str, list[Standing]] = {}
    for standing in standings:
        by_request.setdefault(standing.request, []).append(standing)
    rows = [
        {
            "request": request[:8],
            "asked (UTC)": _minute(sites[0].asked_at),
            "state": ", ".join(f"{s.site}: {_state(s)}" for s in sites),
            "who decides": _said(sites, {s.site: s.deciders for s in sites}),
            "waiting since (UTC)": _said(sites, {s.site: _minute(s.since) for s in sites}),
            "expires (UTC)": _said(sites, {s.site: _minute(s.until or "") for s in sites}),
            "epsilon": sites[0].epsilon,
            "purpose": sites[0].purpose,
            "question": " ".join(sites[0].question.split())[:80],
        }
        for request, sites in by_request.items()
    ]
    columns = ["request", "asked (UTC)", "state", "who decides", "waiting since (UTC)"]
    columns += ["expires (UTC)", "epsilon", "purpose", "question"]
    return pd.DataFrame(rows, columns=columns)


def _state(standing: Standing) -> str:
    return f"{standing.state} {standing.code}".rstrip()


def _said(sites: Sequence[Standing], words: Mapping[str, str]) -> str:
    told = {site: said for site, said in words.items() if said}
    if len(sites) == 1:
        return next(iter(told.values()), "")
    return ", ".join(f"{site}: {said}" for site, said in told.items())


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def audit_frame(trails: Mapping[str, tuple[Proved, ...] | PrivnbError]) -> pd.DataFrame:
    """One row per event, newest first: when, what, about which request, by which rule, verified.

    A site whose trail does not hold, or that did not answer, has one row that says so.
    """
    problems, events = [], []
    for site, trail in trails.items():
        if isinstance(trail, PrivnbError):
            nothing = dict.fromkeys(_AUDIT_COLUMNS, "")
            problems.append({**nothing, "site": site, "rule": brief(trail), "verified": False})
            continue
        events += [(site, proved, _words(proved.event)) for proved in trail]
    events.sort(key=lambda each: (each[2].get("at", ""), each[1].index), reverse=True)
    rows = [
        {
            "site": site,
            "event": str(proved.index),
            "when (UTC)": _minute(said.get("at", "")),
            "what": " ".join(said.get(name, "") for name in ("kind", "stage")).strip(),
            "decision": said.get("decision") or said.get("verdict", ""),
            "rule": said.get("rule", ""),
            "epsilon": said.get("epsilon", ""),
            "table": said.get("table", ""),
            "purpose": said.get("purpose", ""),
            "request": said.get("request", "")[:8],
            "digest": said.get("digest", "")[:16],
            "verified": True,
        }
        for site, proved, said in events
    ]
    return pd.DataFrame([*problems, *rows], columns=_AUDIT_COLUMNS)


def _words(event: Mapping[str, object]) -> dict[str, str]:
    """Write an event's fields; what is committed to, or a list of things, is left out."""
    return {
        name: brief(value, _LONGEST_WORD)
        for name, value in event.items()
        if isinstance(value, str | int)
    }


def templates_frame(offers: Iterable[tuple[str, TemplateOffer]]) -> pd.DataFrame:
    """One row per site and template: what it is for, its tables, purposes and parameters."""
    rows = [
        {
            "site": site,
            "template": brief(offer.name),
            "description": brief(offer.description),
            "tables": brief(", ".join(offer.tables)),
            "purposes": brief(", ".join(offer.purposes)),
            "parameters": brief("; ".join(f"{name}: {x}" for name, x in offer.parameters.items())),
        }
        for site, offer in offers
    ]
    columns = ["site", "template", "description", "tables", "purposes", "parameters"]
    return pd.DataFrame(rows, columns=columns)


def ago(moment: float | None) -> str:
    """Say how long ago something was, by this machine's clock.

    >>> ago(None)
    'never'
    """
    if moment is None:
        return "never"
    seconds = int(time.time() - moment)
    if seconds < _HEARTBEATS:
        return "now"
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{seconds} seconds ago"


def _number(text: str) -> float:
    """Read what a site calls a number; NaN when it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _unit_note(column: Column, table: TableSchema) -> str:
    if column.name == table.privacy_unit:
        return f"one {table.unit_name}; cannot be read"
    return f"same in all rows of a {table.unit_name}" if column.constant else ""


def _interval(bounds: Bounds | UnitBounds | None) -> str:
    return "" if bounds is None else f"{bounds.lower:g} … {bounds.upper:g}"
