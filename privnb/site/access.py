"""What analysts ask access to, what the owner answers, and where each consent of theirs stands.

An ask waits until the owner accepts it, which is a grant like any other, or refuses it. Asking
again for the same table and purpose replaces the ask that waits; it then has another number, so
that an owner who accepts a number accepts what they have seen.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb.computation import parse_epsilon
from privnb.errors import RequestRefused, UnknownName
from privnb.messages import AccessAsk, ConsentEntry
from privnb.site.audit import record_event
from privnb.site.database import access_asks, utc_now
from privnb.site.grants import Grant, all_grants, record_grant
from privnb.site.policy import wrong_purpose

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.site.config import SiteConfig

__all__ = ["PendingAsk", "accept", "ask", "entries", "pending", "refuse"]

_MOST_PENDING = 5
_LONGEST_REASON = 1000


@dataclass(frozen=True, kw_only=True)
class PendingAsk:
    """An ask that waits for the owner."""

    number: int
    """Names it for good; an ask that replaces it has another."""
    at: str
    """UTC, ISO 8601, seconds."""
    analyst: str
    table: str
    purpose: str
    epsilon: Decimal | None
    """The budget hoped for; None where the analyst leaves it to the owner."""
    reason: str
    """The analyst's own words."""


def ask(
    connection: sa.Connection, *, site: SiteConfig, analyst: str, ask: AccessAsk
) -> ConsentEntry:
    """Let an ask wait for the owner, in place of one for the same table and purpose.

    Raises
    ------
    UnknownName
        There is no such table.
    RequestRefused
        The table may not be used for the purpose, the reason is empty or too long, or too many
        asks of this analyst wait already.
    QueryRefused
        The epsilon is none.
    """
    reason = _checked(ask, site)
    epsilon = None if ask.epsilon is None else str(parse_epsilon(ask.epsilon))
    same = (
        access_asks.c.analyst == analyst,
        access_asks.c.table_name == ask.table,
        access_asks.c.purpose == ask.purpose,
        access_asks.c.state == "pending",
    )
    connection.execute(sa.delete(access_asks).where(*same))
    waiting = pending(connection, analyst=analyst)
    if len(waiting) >= _MOST_PENDING:
        known = "; ".join(f"{each.table} for {each.purpose}" for each in waiting)
        raise RequestRefused(
            f"{len(waiting)} of your asks wait for the owner already.",
            hint=f"Wait for an answer, or ask anew for one of them: {known}.",
        )
    now = utc_now()
    connection.execute(
        sa.insert(access_asks).values(
            at=now,
            analyst=analyst,
            table_name=ask.table,
            purpose=ask.purpose,
            epsilon=epsilon,
            reason=reason,
            state="pending",
        )
    )
    record_event(
        connection,
        "access-ask",
        private={"analyst": analyst, "reason": reason},
        table=ask.table,
        purpose=ask.purpose,
        epsilon=epsilon,
    )
    return ConsentEntry(
        table=ask.table, purpose=ask.purpose, state="pending", since=now, reason=reason
    )


def pending(connection: sa.Connection, *, analyst: str | None = None) -> tuple[PendingAsk, ...]:
    """Return the asks that wait, oldest first; of one analyst or of all."""
    query = sa.select(access_asks).where(access_asks.c.state == "pending")
    if analyst is not None:
        query = query.where(access_asks.c.analyst == analyst)
    return tuple(
        PendingAsk(
            number=row.seq,
            at=row.at,
            analyst=row.analyst,
            table=row.table_name,
            purpose=row.purpose,
            epsilon=None if row.epsilon is None else Decimal(row.epsilon),
            reason=row.reason,
        )
        for row in connection.execute(query.order_by(access_asks.c.seq))
    )


def accept(
    connection: sa.Connection, asked: PendingAsk, *, epsilon: Decimal, until: dt.date | None
) -> Grant:
    """Grant what was asked, or less: the owner's epsilon counts, and the last day.

    Raises
    ------
    UnknownName
        The ask does not wait any more: it was answered, or replaced by another.
    """
    _require_pending(connection, asked)
    grant = Grant(
        analyst=asked.analyst,
        table=asked.table,
        purpose=asked.purpose,
        epsilon=epsilon,
        until=until,
    )
    record_grant(connection, grant)  # which answers the ask
    return grant


def refuse(connection: sa.Connection, asked: PendingAsk, *, reason: str) -> None:
    """Refuse an ask, with a reason that the analyst reads; raises as `accept` does."""
    _require_pending(connection, asked)
    connection.execute(
        sa.update(access_asks)
        .where(access_asks.c.seq == asked.number)
        .values(state="refused", answered_at=utc_now(), answer=reason)
    )
    record_event(
        connection,
        "access-refusal",
        private={"analyst": asked.analyst, "reason": reason},
        table=asked.table,
        purpose=asked.purpose,
    )


def entries(connection: sa.Connection, *, analyst: str, today: dt.date) -> tuple[ConsentEntry, ...]:
    """Return where each of an analyst's consents stands, by table and purpose.

    A grant in force is *granted*, whatever was asked since; its reason then tells what became of
    that ask. Otherwise an ask that waits is *pending*, and of a refusal, a withdrawal and an expiry
    the newest counts.
    """
    granted = {(g.table, g.purpose): g for g in all_grants(connection, analyst=analyst)}
    asked = _newest_asks(connection, analyst)
    return tuple(
        _entry(table, purpose, granted.get((table, purpose)), asked.get((table, purpose)), today)
        for table, purpose in sorted({*granted, *asked})
    )


def _entry(
    table: str, purpose: str, grant: Grant | None, asked: Any, today: dt.date
) -> ConsentEntry:
    waits = asked is not None and asked.state == "pending"
    refused = asked is not None and asked.state == "refused"
    if grant is not None and not grant.withdrawn and not grant.expired(today):
        reason = ""
        if waits:
            reason = f"A change is pending: {asked.reason}"
        elif refused and asked.answered_at >= grant.since:
            reason = f"A change was refused: {asked.answer}"
        return ConsentEntry(
            table=table,
            purpose=purpose,
            state="granted",
            since=grant.since,
            until=grant.until.isoformat() if grant.until else None,
            reason=reason,
        )
    if waits:
        return ConsentEntry(
            table=table, purpose=purpose, state="pending", since=asked.at, reason=asked.reason
        )
    ended = "" if grant is None else _ended(grant)
    if grant is None or (refused and asked.answered_at >= ended):
        return ConsentEntry(
            table=table,
            purpose=purpose,
            state="refused",
            since=asked.answered_at,
            reason=asked.answer,
        )
    return ConsentEntry(
        table=table,
        purpose=purpose,
        state="withdrawn" if grant.withdrawn else "expired",
        since=ended,
        until=grant.until.isoformat() if grant.until else None,
    )


def _ended(grant: Grant) -> str:
    """Return when a grant that does not hold ended: by withdrawal, or with its last day."""
    if grant.withdrawn or grant.until is None:
        return grant.since
    return f"{grant.until + dt.timedelta(days=1)}T00:00:00Z"


def _newest_asks(connection: sa.Connection, analyst: str) -> Mapping[tuple[str, str], Any]:
    newest = (
        sa.select(sa.func.max(access_asks.c.seq))
        .where(access_asks.c.analyst == analyst)
        .group_by(access_asks.c.table_name, access_asks.c.purpose)
    )
    query = sa.select(access_asks).where(
        access_asks.c.seq.in_(newest), access_asks.c.state != "granted"
    )
    return {(row.table_name, row.purpose): row for row in connection.execute(query)}


def _require_pending(connection: sa.Connection, asked: PendingAsk) -> None:
    if asked not in pending(connection, analyst=asked.analyst):
        raise UnknownName(
            f"Ask {asked.number} does not wait for an answer any more.",
            hint="See what waits: privnb consent list",
        )


def _checked(ask: AccessAsk, site: SiteConfig) -> str:
    """Refuse what the public schema does not have; return the reason as it is kept."""
    schemas = {table.schema.name: table.schema for table in site.tables}
    if ask.table not in schemas:
        raise UnknownName.among("table", ask.table, schemas, code="E_NO_TABLE")
    if ask.purpose not in schemas[ask.table].purposes:
        raise wrong_purpose(ask.purpose, schemas[ask.table])
    reason = ask.reason.encode(errors="replace").decode().strip()
    if not 0 < len(reason) <= _LONGEST_REASON:
        raise RequestRefused(
            f"A reason has 1 to {_LONGEST_REASON:,} characters, not {len(reason):,}.",
            hint='Say why you need the table: --reason "…".',
        )
    return reason
