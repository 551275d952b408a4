"""Consent between owner and analyst: who may spend how much on which table, for what purpose."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb.errors import AccessRefused
from privnb.site.audit import record_event
from privnb.site.database import access_asks, grants, utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Grant", "all_grants", "current_grant", "grants_of", "record_grant", "still_granted"]


_NEWEST = (
    sa.select(grants)
    .where(
        grants.c.analyst == sa.bindparam("analyst"),
        grants.c.table_name == sa.bindparam("table"),
        grants.c.purpose == sa.bindparam("purpose"),
    )
    .order_by(grants.c.seq.desc())
    .limit(1)
)


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One consent as it stands now.

    ``epsilon`` bounds what all releases under it reveal together, at the delta of the table.
    """

    analyst: str
    table: str
    purpose: str
    epsilon: Decimal
    until: dt.date | None = None
    """The last day on which it may be used, by the site's calendar (UTC)."""
    withdrawn: bool = False
    since: str = field(default="", compare=False)
    """When the owner said so: UTC, ISO 8601, seconds. Set when it is read."""

    def expired(self, today: dt.date) -> bool:
        """Tell whether its last day is over."""
        return self.until is not None and today > self.until


def record_grant(connection: sa.Connection, grant: Grant) -> None:
    """Let ``grant`` replace what was granted before for the same analyst, table and purpose.

    What was spent stays spent: the ledger counts by analyst, table and purpose, not by grant. An
    ask for it that waits is answered thereby, unless the grant is withdrawn.
    """
    now = utc_now()
    connection.execute(
        sa.insert(grants).values(
            at=now,
            analyst=grant.analyst,
            table_name=grant.table,
            purpose=grant.purpose,
            epsilon=str(grant.epsilon),
            until=grant.until.isoformat() if grant.until else None,
            withdrawn=grant.withdrawn,
        )
    )
    if not grant.withdrawn:
        connection.execute(
            sa.update(access_asks)
            .where(
                access_asks.c.analyst == grant.analyst,
                access_asks.c.table_name == grant.table,
                access_asks.c.purpose == grant.purpose,
                access_asks.c.state == "pending",
            )
            .values(state="granted", answered_at=now)
        )
    record_event(
        connection,
        "withdrawal" if grant.withdrawn else "grant",
        private={"analyst": grant.analyst},
        table=grant.table,
        purpose=grant.purpose,
        epsilon=str(grant.epsilon),
        until=grant.until.isoformat() if grant.until else None,
    )


def current_grant(
    connection: sa.Connection, *, analyst: str, table: str, purpose: str
) -> Grant | None:
    """Return the newest grant, be it expired or withdrawn, or None if there never was one."""
    row = connection.execute(
        _NEWEST, {"analyst": analyst, "table": table, "purpose": purpose}
    ).first()
    return None if row is None else _grant(row)


def still_granted(
    connection: sa.Connection, *, analyst: str, table: str, purpose: str, today: dt.date
) -> AccessRefused | None:
    """Return why the grant does not hold now; None while it does."""
    grant = current_grant(connection, analyst=analyst, table=table, purpose=purpose)
    ask = "Ask the owner: %privnb request-access."
    if grant is None or grant.withdrawn:
        state = "no grant" if grant is None else "no grant any more"
        return AccessRefused(
            f"You have {state} for table {table!r} and purpose {purpose!r}.", hint=ask
        )
    if grant.expired(today):
        return AccessRefused(
            f"Your grant for table {table!r} and purpose {purpose!r} ended on {grant.until}.",
            hint=ask,
        )
    return None


def grants_of(connection: sa.Connection, analyst: str) -> Sequence[Grant]:
    """Return the newest grant of each table and purpose, without those withdrawn."""
    return [grant for grant in all_grants(connection, analyst=analyst) if not grant.withdrawn]


def all_grants(connection: sa.Connection, *, analyst: str | None = None) -> Sequence[Grant]:
    """Return the newest grant of each analyst, table and purpose, in that order."""
    newest = sa.select(sa.func.max(grants.c.seq)).group_by(
        grants.c.analyst, grants.c.table_name, grants.c.purpose
    )
    if analyst is not None:
        newest = newest.where(grants.c.analyst == analyst)
    rows = connection.execute(
        sa.select(grants)
        .where(grants.c.seq.in_(newest))
        .order_by(grants.c.table_name, grants.c.analyst, grants.c.purpose)
    )
    return [_grant(row) for row in rows]


def _grant(row: sa.Row[Any]) -> Grant:
    return Grant(
        analyst=row.analyst,
        table=row.table_name,
        purpose=row.purpose,
        epsilon=Decimal(row.epsilon),
        until=dt.date.fromisoformat(row.until) if row.until else None,
        withdrawn=row.withdrawn,
        since=row.at,
    )
