"""What a site keeps for its reviewers about each computation, from its arrival to its end."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sqlalchemy as sa

from privnb import wire
from privnb.computation import Computation
from privnb.errors import BadMessage, PrivnbError, StateError
from privnb.output import Output
from privnb.site.database import requests, reviews

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DENIED",
    "PASSED",
    "TO_DECIDE",
    "MockRun",
    "Review",
    "Stage",
    "drop_output",
    "find",
    "hold",
    "keep_mock",
    "open_review",
    "stamp",
    "stored",
]

Stage: TypeAlias = Literal["code", "output"]

TO_DECIDE: dict[Stage, str] = {"code": "waiting", "output": "held"}
"""The state of a request in which each stage is decided on."""
PASSED: dict[Stage, str] = {"code": "approved", "output": "cleared"}
"""The state that enough approvals of a stage lead to."""
DENIED = "denied"
"""The state that one denial leads to."""


@wire.message
class MockRun:
    """What came of a cell on the mock twin: its output, or why there is none."""

    output: Output | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Review:
    """What is stored about one computation, and the state of its request."""

    analyst: str
    request: str
    digest: str
    computation: bytes
    purpose: str
    rule: str
    since: str
    expires: str
    mock: bytes | None
    output: bytes | None
    output_digest: str | None
    gate: bytes | None
    state: str
    changed: str
    """When the request came into its state."""

    @property
    def stage(self) -> Stage | None:
        """What is to be decided now, if anything."""
        return next((stage for stage, state in TO_DECIDE.items() if state == self.state), None)

    @property
    def gate_findings(self) -> tuple[str, ...]:
        """Why the gate holds the output back, in words."""
        return tuple(json.loads(self.gate)) if self.gate else ()

    def read_computation(self) -> Computation | None:
        """Rebuild the computation; None if the stored bytes are not those of its digest."""
        try:
            computation = wire.decode(Computation, self.computation, what="The computation")
        except PrivnbError:
            return None
        return computation if computation.digest == self.digest else None

    def read_output(self) -> Output | None:
        """Rebuild the held output; None if there is none, or not the one that was held."""
        if self.output is None or wire.sha256_hex(self.output) != self.output_digest:
            return None
        try:
            return wire.decode(Output, self.output, what="The output")
        except BadMessage:
            return None


_REVIEW = sa.select(
    *(c for c in reviews.c if c.name not in {"seq", "at"}),
    requests.c.state,
    requests.c.at.label("changed"),
).join(
    requests,
    sa.and_(requests.c.sender == reviews.c.analyst, requests.c.name == reviews.c.request),
)
_ONE = _REVIEW.where(
    reviews.c.analyst == sa.bindparam("analyst"), reviews.c.request == sa.bindparam("request")
)


def stamp(moment: dt.datetime) -> str:
    """Write a moment as UTC, ISO 8601, seconds: later moments are later texts."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone")
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def open_review(  # noqa: PLR0913 - a row has many columns
    connection: sa.Connection,
    *,
    analyst: str,
    request: str,
    computation: Computation,
    rule: str,
    now: dt.datetime,
    expires: dt.datetime,
) -> None:
    """Store what reviewers look at; the request's row is the caller's, in the same transaction."""
    connection.execute(
        sa.insert(reviews).values(
            at=stamp(now),
            analyst=analyst,
            request=request,
            digest=computation.digest,
            computation=wire.encode(computation),
            purpose=computation.purpose or "",
            rule=rule,
            since=stamp(now),
            expires=stamp(expires),
        )
    )


def keep_mock(connection: sa.Connection, *, analyst: str, request: str, run: MockRun) -> None:
    """Store what came of the cell on the mock twin, for reviewers."""
    _update(connection, analyst, request, mock=wire.encode(run))


def hold(
    connection: sa.Connection,
    *,
    analyst: str,
    request: str,
    output: bytes,
    gate: tuple[str, ...],
) -> None:
    """Store an encoded `Output` for reviewers to look at, and what the gate says of it.

    An output that is held is never replaced by another: what is decided on stays what it was.
    """
    held = _update(
        connection,
        analyst,
        request,
        output=output,
        output_digest=wire.sha256_hex(output),
        gate=wire.canonical_json(list(gate)),
        only=reviews.c.output_digest.is_(None),
    )
    if not held:
        raise StateError(f"Request {request:.8} holds an output already, or is not in review.")


def drop_output(connection: sa.Connection, *, analyst: str, request: str) -> None:
    """Erase an output that was released or refused; its digest stays, for the decisions on it."""
    _update(connection, analyst, request, output=None)


def _update(
    connection: sa.Connection,
    analyst: str,
    request: str,
    *,
    only: sa.ColumnElement[bool] | None = None,
    **values: Any,
) -> bool:
    statement = sa.update(reviews).where(reviews.c.analyst == analyst, reviews.c.request == request)
    if only is not None:
        statement = statement.where(only)
    return connection.execute(statement.values(**values)).rowcount == 1


def find(connection: sa.Connection, *, analyst: str, request: str) -> Review | None:
    """Return what is stored about one computation."""
    row = connection.execute(_ONE, {"analyst": analyst, "request": request}).first()
    return None if row is None else _review(row)


def stored(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool], newest: int | None = None
) -> Iterator[Review]:
    """Go through what is stored, oldest first; or through the ``newest``, the newest first."""
    order = reviews.c.seq.asc() if newest is None else reviews.c.seq.desc()
    statement = _REVIEW.where(*conditions).order_by(order).limit(newest)
    return (_review(row) for row in connection.execute(statement))


def _review(row: Any) -> Review:
    return Review(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
