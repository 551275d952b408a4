"""The site's persistent account of privacy loss, in exact integers.

Losses are in the unit of the table's accounting, rho or epsilon (see `privnb.dp.accounting`): both
add up over adaptively chosen releases of the same table, by whomever. What single releases spend on
hiding rare groups adds up to at most the part of the table's delta that the accounting leaves for
it. Charges are rounded up, and caps down, so that rounding never favours a release.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from privnb.dp import accounting
from privnb.errors import AccessRefused, BudgetExceeded, StateError
from privnb.messages import Budget, BudgetEntry
from privnb.site.database import ledger, utc_now
from privnb.site.grants import Grant, current_grant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.dp.accounting import Accounting
    from privnb.site.config import SiteConfig

__all__ = [
    "DELTA_UNIT",
    "LOSS_UNIT",
    "Charge",
    "Standing",
    "TableStanding",
    "Terms",
    "budget",
    "charged",
    "charges",
    "history",
    "in_words",
    "reserve",
    "settle",
    "standing",
    "table_standing",
    "terms_of",
    "units_up",
]

LOSS_UNIT = accounting.LOSS_GRAIN
"""The unit in which losses are counted."""
DELTA_UNIT = accounting.DELTA_GRAIN
"""The unit in which delta is counted."""


def units_up(value: float, unit: Fraction) -> int:
    """Count a loss in whole units, rounded up.

    >>> units_up(0.5, LOSS_UNIT), units_up(1e-16, LOSS_UNIT)
    (500000000000000, 1)
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"not a loss: {value}")
    return math.ceil(Fraction(value) / unit)


def in_words(epsilon: Decimal) -> str:
    """Write an epsilon for people: no exponent, no trailing zeros.

    >>> in_words(Decimal("4.0000"))
    '4'
    """
    return f"{epsilon.normalize():f}"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the owner set for one table, for all its releases together."""

    table: str
    total_epsilon: Decimal
    accounting: Accounting

    @property
    def loss_cap(self) -> int:
        """What all analysts together may spend, in `LOSS_UNIT`."""
        return self.accounting.cap(self.total_epsilon)

    @property
    def delta_cap(self) -> int:
        """What all releases together may spend on hiding rare groups, in `DELTA_UNIT`."""
        return self.accounting.delta_cap


def terms_of(config: SiteConfig) -> dict[str, Terms]:
    """Return the terms of every table of a site, by name."""
    return {
        table.schema.name: Terms(
            table=table.schema.name,
            total_epsilon=table.total_epsilon,
            accounting=accounting.accounting_of(table.schema),
        )
        for table in config.tables
    }


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one release costs, and who pays for it.

    Parameters
    ----------
    request
        The analyst's name of the request; one request is charged at most once.
    loss, delta
        In `LOSS_UNIT` of ``accounting``, the table's, and in `DELTA_UNIT`; see `units_up`.
    epsilon
        The loss as shown to people, decimal text, rounded up.
    """

    table: str
    analyst: str
    purpose: str
    request: str
    digest: str
    accounting: str
    loss: int
    delta: int
    epsilon: str

    def covers(self, other: Charge) -> bool:
        """Tell whether what was paid pays for the same as another charge, and for all of it."""
        same = (self.table, self.digest, self.accounting)
        return (
            same == (other.table, other.digest, other.accounting)
            and other.loss <= self.loss
            and other.delta <= self.delta
        )


@dataclass(frozen=True, kw_only=True)
class TableStanding:
    """What all analysts together have spent of one table."""

    terms: Terms
    loss_spent: int
    delta_spent: int

    @property
    def loss_left(self) -> int:
        """Loss units left, never negative, even after the owner lowered the total."""
        return max(self.terms.loss_cap - self.loss_spent, 0)

    @property
    def epsilon_spent(self) -> Decimal:
        """What is known of one privacy unit if all analysts put their releases together."""
        return self.terms.accounting.epsilon_of(self.loss_spent)

    @property
    def epsilon_left(self) -> Decimal:
        """The largest epsilon one more release could have."""
        return self.terms.accounting.epsilon_fitting(self.loss_left)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A grant (None if there never was one), the table it is for, and what is left of both."""

    grant: Grant | None
    loss_spent: int
    table: TableStanding

    @property
    def loss_left(self) -> int:
        """Loss units that one more release may cost, given grant and table."""
        if self.grant is None:
            return 0
        cap = self.table.terms.accounting.cap(self.grant.epsilon)
        return max(min(cap - self.loss_spent, self.table.loss_left), 0)

    @property
    def epsilon_spent(self) -> Decimal:
        """What the releases under the grant reveal together."""
        return self.table.terms.accounting.epsilon_of(self.loss_spent)

    @property
    def epsilon_left(self) -> Decimal:
        """The largest epsilon one more release could have."""
        return self.table.terms.accounting.epsilon_fitting(self.loss_left)

    def epsilon_needed(self, loss: int) -> Decimal:
        """Return the epsilon of a grant that would pay for ``loss`` units more."""
        return self.table.terms.accounting.epsilon_of(self.loss_spent + loss)

    def shortfall(self, *, loss: int, delta: int) -> Literal["grant", "table", "delta"] | None:
        """Tell which cap a further charge would break, or None when all hold."""
        if self.table.delta_spent + delta > self.table.terms.delta_cap:
            return "delta"
        if loss <= self.loss_left:
            return None
        return "table" if loss > self.table.loss_left else "grant"


# Statements are built once: building one takes longer than running it.
_TABLE_SUMS = sa.select(
    sa.func.coalesce(sa.func.sum(ledger.c.loss), 0),
    sa.func.coalesce(sa.func.sum(ledger.c.delta), 0),
    sa.func.max(sa.func.nullif(ledger.c.accounting, sa.bindparam("accounting"))),
).where(ledger.c.table_name == sa.bindparam("table"))
_ALL_SUMS = _TABLE_SUMS.add_columns(
    sa.func.coalesce(
        sa.func.sum(
            sa.case(
                (
                    sa.and_(
                        ledger.c.analyst == sa.bindparam("analyst"),
                        ledger.c.purpose == sa.bindparam("purpose"),
                    ),
                    ledger.c.loss,
                ),
                else_=0,
            )
        ),
        0,
    )
)
_CHARGE = sa.select(
    ledger.c.table_name.label("table"),
    ledger.c.analyst,
    ledger.c.purpose,
    ledger.c.request,
    ledger.c.digest,
    ledger.c.accounting,
    ledger.c.loss,
    ledger.c.delta,
    ledger.c.epsilon,
).where(ledger.c.analyst == sa.bindparam("analyst"), ledger.c.request == sa.bindparam("request"))
_ENTER = sa.insert(ledger)
_SETTLE = (
    sa.update(ledger)
    .where(ledger.c.analyst == sa.bindparam("whose"), ledger.c.request == sa.bindparam("which"))
    .values(state="spent")
)
_HISTORY = (
    sa.select(ledger.c.at, ledger.c.request, ledger.c.digest, ledger.c.epsilon)
    .where(
        ledger.c.table_name == sa.bindparam("table"),
        ledger.c.analyst == sa.bindparam("analyst"),
        ledger.c.purpose == sa.bindparam("purpose"),
    )
    .order_by(ledger.c.seq.desc())
    .limit(sa.bindparam("newest"))
)


def table_standing(connection: sa.Connection, terms: Terms) -> TableStanding:
    """Add up all charges of a table, reserved and spent alike.

    Raises
    ------
    StateError
        The table was charged under another accounting: such losses cannot be added.
    """
    which = {"table": terms.table, "accounting": terms.accounting.name}
    loss, delta, other = connection.execute(_TABLE_SUMS, which).one()
    _refuse_mixture(terms, other)
    return TableStanding(terms=terms, loss_spent=int(loss), delta_spent=int(delta))


def standing(connection: sa.Connection, terms: Terms, *, analyst: str, purpose: str) -> Standing:
    """Add up all charges of an analyst for a table and purpose; errors as in `table_standing`."""
    which = {"table": terms.table, "accounting": terms.accounting.name}
    loss, delta, other, mine = connection.execute(
        _ALL_SUMS, which | {"analyst": analyst, "purpose": purpose}
    ).one()
    _refuse_mixture(terms, other)
    return Standing(
        grant=current_grant(connection, analyst=analyst, table=terms.table, purpose=purpose),
        loss_spent=int(mine),
        table=TableStanding(terms=terms, loss_spent=int(loss), delta_spent=int(delta)),
    )


def _refuse_mixture(terms: Terms, other: str | None) -> None:
    if other is not None:
        raise StateError(
            f"Table {terms.table!r} was charged under accounting = {other!r}, and site.toml now"
            f" says {terms.accounting.name!r}: its losses cannot be added up.",
            hint=f'Write accounting = "{other}" in [tables.{terms.table}] again. It can be chosen'
            " only before the first charge.",
        )


def charged(connection: sa.Connection, *, analyst: str, request: str) -> Charge | None:
    """Return what a request was charged, or None."""
    row = connection.execute(_CHARGE, {"analyst": analyst, "request": request}).first()
    return None if row is None else Charge(**row._mapping)  # noqa: SLF001 - a documented name


def reserve(
    connection: sa.Connection, charge: Charge, terms: Terms, *, today: dt.date
) -> Standing | None:
    """Charge a release before data is touched. A reservation is never taken back.

    Must run inside `Database.write`, so that nobody else charges between check and entry.

    Returns
    -------
    Standing or None
        What is left after the charge; None when this very request was charged before, and
        nothing was entered.

    Raises
    ------
    AccessRefused
        No grant covers the charge today.
    BudgetExceeded
        The grant, the table's total or its delta would be exceeded; nothing was entered.
    StateError
        As in `table_standing`.
    """
    if charge.loss <= 0:
        raise ValueError("a release without a price")
    if charge.accounting != terms.accounting.name:
        raise ValueError("a price in another unit than the table's")
    if charged(connection, analyst=charge.analyst, request=charge.request) is not None:
        return None
    now = standing(connection, terms, analyst=charge.analyst, purpose=charge.purpose)
    if now.grant is None or now.grant.withdrawn or now.grant.expired(today):
        raise AccessRefused(f"No grant covers {charge.table!r} for {charge.purpose!r}.")
    if now.shortfall(loss=charge.loss, delta=charge.delta) is not None:
        raise BudgetExceeded(f"Epsilon {charge.epsilon} is more than what is left.")
    connection.execute(
        _ENTER,
        {
            "at": utc_now(),
            "table_name": charge.table,
            "analyst": charge.analyst,
            "purpose": charge.purpose,
            "request": charge.request,
            "digest": charge.digest,
            "accounting": charge.accounting,
            "loss": charge.loss,
            "delta": charge.delta,
            "epsilon": charge.epsilon,
            "state": "reserved",
        },
    )
    table = dataclasses.replace(
        now.table,
        loss_spent=now.table.loss_spent + charge.loss,
        delta_spent=now.table.delta_spent + charge.delta,
    )
    return dataclasses.replace(now, loss_spent=now.loss_spent + charge.loss, table=table)


def settle(connection: sa.Connection, *, analyst: str, request: str) -> None:
    """Mark a reservation as spent: its answer, or its failure, is stored."""
    connection.execute(_SETTLE, {"whose": analyst, "which": request})


def history(
    connection: sa.Connection, terms: Terms, *, analyst: str, purpose: str, newest: int
) -> Sequence[BudgetEntry]:
    """Return the ``newest`` charges under a grant, oldest of them first."""
    rows = connection.execute(
        _HISTORY,
        {"table": terms.table, "analyst": analyst, "purpose": purpose, "newest": newest},
    ).all()
    return [
        BudgetEntry(at=row.at, request=row.request, digest=row.digest, epsilon=row.epsilon)
        for row in reversed(rows)
    ]


def charges(connection: sa.Connection) -> Sequence[tuple[object, ...]]:
    """Return all charges in order, each from its number and time to its state and request."""
    rows = connection.execute(
        sa.select(
            ledger.c.seq,
            ledger.c.at,
            ledger.c.analyst,
            ledger.c.table_name,
            ledger.c.purpose,
            ledger.c.epsilon,
            ledger.c.state,
            ledger.c.request,
        ).order_by(ledger.c.seq)
    )
    return [tuple(row) for row in rows]


def budget(connection: sa.Connection, now: Standing, *, newest: int = 200) -> Budget | None:
    """Describe a grant as its analyst may see it, with the ``newest`` charges of its history."""
    grant = now.grant
    if grant is None:
        return None
    entries = history(
        connection,
        now.table.terms,
        analyst=grant.analyst,
        purpose=grant.purpose,
        newest=newest,
    )
    return Budget(
        table=grant.table,
        purpose=grant.purpose,
        epsilon_granted=in_words(grant.epsilon),
        epsilon_spent=in_words(now.epsilon_spent),
        epsilon_left=in_words(now.epsilon_left),
        until=grant.until.isoformat() if grant.until else None,
        history=tuple(entries),
    )
