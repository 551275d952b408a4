"""What became of every request, so that none is lost, answered twice or paid twice.

A request is named by its sender and the sender's name for it. Its states::

    (nothing) ─┬─▶ served      describe, estimate, mock, …: repeated freely, nothing kept
               ├─▶ refused     the reply is stored with the refusal
               ├─▶ reserved ──▶ answered   the reply is stored with the ledger's entry
               │        └─────▶ failed     charged, without an answer; the reply says so
               ├─▶ interrupted  an agent died over it before deciding; tried once more
               ├─▶ joined ────▶ answered, ended, refused, failed
               └─▶ waiting ──▶ approved ──▶ running ──▶ held ──▶ cleared ──▶ answered
                      │            │            │         │
                      └▶ denied    └▶ joined    └▶ failed └──▶ denied ──▶ refused

A request that is ``joined`` takes part in a federated run, for as long as that goes on: see
`privnb.site.federated.federating`; it is ``ended`` where the run was over before anything was given
to it, and else answered. The last two lines are Python computations: see
`privnb.site.approving`. Reviewers move them from waiting and held
(`privnb.site.reviewing.review`), the agent does all else.

A row belongs to one agent, which alone works on it while it lives (`privnb.site.liveness`). A reply
is *owed* from the moment it is stored, or its price reserved, until the exchange has taken it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from privnb.site.database import Database, requests, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Record", "RequestBook", "Standing"]

_COLUMNS = (
    requests.c.sender,
    requests.c.name,
    requests.c.action,
    requests.c.state,
    requests.c.agent,
    requests.c.attempts,
    requests.c.submission,
    requests.c.reply,
    requests.c.succeeded,
)


_FIND = sa.select(*_COLUMNS).where(
    requests.c.sender == sa.bindparam("sender"), requests.c.name == sa.bindparam("request")
)
_ADD = sa.insert(requests)
_STORE_REPLY = sa.update(requests).where(
    requests.c.sender == sa.bindparam("whose"), requests.c.name == sa.bindparam("which")
)
_DELIVERED = (
    sa.update(requests)
    .where(requests.c.sender == sa.bindparam("whose"), requests.c.name == sa.bindparam("which"))
    .values(owed=False)
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One request as the database has it."""

    sender: str
    name: str
    action: str
    state: str
    agent: str
    attempts: int
    submission: bytes | None
    reply: bytes | None
    succeeded: bool


class Standing(NamedTuple):
    """How far a request is, and with whom; without all that was sent."""

    sender: str
    name: str
    state: str
    agent: str


class RequestBook:
    """The requests of one site; also the `SeenJobs` of its datasite."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, sender: str, name: str) -> bool:
        """Tell whether this sender's request was taken in before."""
        return self.find(sender, name) is not None

    def find(self, sender: str, name: str) -> Record | None:
        """Return what became of a request, or None if it is new."""
        with self._database.read() as connection:
            row = connection.execute(_FIND, {"sender": sender, "request": name}).first()
        return None if row is None else _record(row)

    def owed(self) -> Sequence[Record]:
        """Return the requests whose reply has not gone out, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(*_COLUMNS).where(requests.c.owed.is_(True)).order_by(requests.c.seq)
            ).all()
        return [_record(row) for row in rows]

    def enter(
        self,
        connection: sa.Connection,
        record: Record,
        *,
        previous: Record | None,
        owed: bool,
    ) -> bool:
        """Add a request, or replace what ``previous`` said; False if another was faster."""
        values = {
            "at": utc_now(),
            "action": record.action,
            "state": record.state,
            "agent": record.agent,
            "attempts": record.attempts,
            "submission": record.submission,
            "reply": record.reply,
            "succeeded": record.succeeded,
            "owed": owed,
        }
        if previous is not None:
            changed = connection.execute(
                sa.update(requests).where(*_unchanged(previous)).values(**values)
            )
            return changed.rowcount == 1
        key = {"sender": record.sender, "request": record.name}
        if connection.execute(_FIND, key).first() is not None:
            return False
        connection.execute(_ADD, {"sender": record.sender, "name": record.name, **values})
        return True

    def take_over(self, record: Record, *, agent: str) -> bool:
        """Count one more attempt, in the name of ``agent``; False if another was faster."""
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(requests)
                .where(*_unchanged(record))
                .values(agent=agent, attempts=record.attempts + 1)
            )
        return changed.rowcount == 1

    @staticmethod
    def is_ours(connection: sa.Connection, record: Record, *, agent: str) -> bool:
        """Tell whether ``agent`` still has the request, in the state that ``record`` says."""
        row = connection.execute(_FIND, {"sender": record.sender, "request": record.name}).first()
        return row is not None and (row.state, row.agent) == (record.state, agent)

    def store_reply(
        self,
        connection: sa.Connection,
        record: Record,
        *,
        reply: bytes,
        succeeded: bool,
        state: str,
    ) -> None:
        """Store the one reply of a request that `is_ours`, in the same transaction."""
        connection.execute(
            _STORE_REPLY,
            {
                "whose": record.sender,
                "which": record.name,
                "state": state,
                "reply": reply,
                "succeeded": succeeded,
                "owed": True,
                "at": utc_now(),
            },
        )

    def in_states(self, connection: sa.Connection, states: Sequence[str]) -> Sequence[Standing]:
        """Return which requests are in these states, oldest first."""
        rows = connection.execute(
            sa.select(requests.c.sender, requests.c.name, requests.c.state, requests.c.agent)
            .where(requests.c.state.in_(states))
            .order_by(requests.c.seq)
        ).all()
        return [Standing(*row) for row in rows]

    def move(
        self, connection: sa.Connection, record: Record, *, state: str, agent: str, attempts: int
    ) -> bool:
        """Give a request another state; False if it is no longer as ``record`` says."""
        changed = connection.execute(
            sa.update(requests)
            .where(*_unchanged(record))
            .values(state=state, agent=agent, attempts=attempts, at=utc_now())
        )
        return changed.rowcount == 1

    def interrupted(self, connection: sa.Connection, *, sender: str, name: str, agent: str) -> None:
        """Record that ``agent`` died over a request before it decided anything."""
        row = connection.execute(
            sa.select(requests.c.state, requests.c.attempts).where(
                requests.c.sender == sender, requests.c.name == name
            )
        ).first()
        if row is None:
            connection.execute(
                sa.insert(requests).values(
                    at=utc_now(),
                    sender=sender,
                    name=name,
                    action="",
                    state="interrupted",
                    agent=agent,
                    attempts=1,
                    succeeded=False,
                    owed=False,
                )
            )
        elif row.state in {"interrupted", "served"}:
            self._update(connection, sender, name, agent=agent, attempts=row.attempts + 1)

    def delivered(self, connection: sa.Connection, keys: Iterable[tuple[str, str]]) -> None:
        """Note that the exchange has taken these replies."""
        connection.execute(_DELIVERED, [{"whose": sender, "which": name} for sender, name in keys])

    @staticmethod
    def _update(connection: sa.Connection, sender: str, name: str, **values: Any) -> None:
        connection.execute(
            sa.update(requests)
            .where(requests.c.sender == sender, requests.c.name == name)
            .values(**values)
        )


def _unchanged(record: Record) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        requests.c.sender == record.sender,
        requests.c.name == record.name,
        requests.c.agent == record.agent,
        requests.c.attempts == record.attempts,
        requests.c.state == record.state,
    )


def _record(row: Any) -> Record:
    return Record(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
