"""What an owner does with the audit log: look at it, check it, hand it to an auditor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb import wire
from privnb.audit import (
    Checkpoint,
    Tree,
    Unproved,
    VerifierKey,
    check_openings,
    open_checkpoint,
    read_event,
)
from privnb.errors import AuditBroken, BadMessage
from privnb.messages import Reply
from privnb.site.database import audit_nodes, audit_openings, events, requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ShownEvent", "check_log", "exported", "given_out", "shown_events"]

_AT_ONCE = 4096
_NEWEST_REPLIES = 20
_ERASED = "(erased)"
_SHOW = "Keep a copy of the site's folder as it is, and show it to your auditor."

_EVENTS = (
    sa.select(events.c.seq, events.c.body)
    .where(events.c.seq > sa.bindparam("after"))
    .order_by(events.c.seq)
    .limit(_AT_ONCE)
)
_OPENINGS = (
    sa.select(audit_openings)
    .where(audit_openings.c.event > sa.bindparam("after"))
    .where(audit_openings.c.event <= sa.bindparam("last"))
    .order_by(audit_openings.c.event, audit_openings.c.field)
)
_NODES = sa.select(audit_nodes.c.position, audit_nodes.c.hash).where(
    audit_nodes.c.level == sa.bindparam("level"),
    audit_nodes.c.position >= sa.bindparam("low"),
    audit_nodes.c.position < sa.bindparam("high"),
)


@dataclass(frozen=True, kw_only=True)
class ShownEvent:
    """One event as its owner may see it."""

    index: int
    at: str
    kind: str
    people: dict[str, str]
    """What the commitments stand for, by field: names, and words."""
    facts: dict[str, Any]
    """All other fields."""


def shown_events(
    connection: sa.Connection, *, analyst: str | None = None, kind: str | None = None, last: int
) -> list[ShownEvent]:
    """Return the newest events, oldest first, with what their commitments stand for."""
    query = sa.select(events.c.seq, events.c.body).order_by(events.c.seq.desc()).limit(last)
    if kind is not None:
        query = query.where(_says("kind", kind))
    if analyst is not None:
        named = sa.select(audit_openings.c.event).where(
            audit_openings.c.field == "analyst", audit_openings.c.value == analyst
        )
        # Events from before there were commitments name their analyst in plain.
        query = query.where(sa.or_(events.c.seq.in_(named), _says("analyst", analyst)))
    rows = connection.execute(query).all()[::-1]
    if not rows:
        return []
    openings = _openings(connection, after=rows[0].seq - 1, last=rows[-1].seq)
    return [_shown(row.seq, row.body, openings.get(row.seq, {})) for row in rows]


def exported(connection: sa.Connection, *, names: bool) -> Iterator[bytes]:
    """Write every event as a line that `privnb.audit.verify_export` reads.

    Parameters
    ----------
    names
        Whether what opens the commitments goes along: names of people, and their words.
    """
    for rows in _batches(connection):
        openings = _openings(connection, after=rows[0].seq - 1, last=rows[-1].seq) if names else {}
        for seq, body in rows:
            opened = wire.canonical_json(openings.get(seq, {})).decode()
            yield f'{{"event":{body},"openings":{opened}}}\n'.encode()


def given_out(connection: sa.Connection, key: VerifierKey) -> list[Checkpoint]:
    """Return the checkpoints in the newest answers of the site, which analysts hold too."""
    newest = (
        sa.select(requests.c.reply)
        .where(requests.c.reply.is_not(None), requests.c.succeeded.is_(True))
        .order_by(requests.c.seq.desc())
        .limit(_NEWEST_REPLIES)
    )
    found = []
    for data in connection.execute(newest).scalars():
        try:
            receipt = wire.decode(Reply, data, what="A stored reply").receipt
            if receipt is not None:
                found.append(open_checkpoint(receipt.checkpoint, key))
        except (BadMessage, Unproved) as problem:
            raise AuditBroken(
                f"The receipt of an answer that went out does not hold: {problem}", hint=_SHOW
            ) from None
    return found


def check_log(connection: sa.Connection, *, checkpoints: Sequence[Checkpoint] = ()) -> Checkpoint:
    """Compute the whole tree again, and compare it with what is stored and with checkpoints.

    Returns the log's size and root, under an empty origin.

    Raises
    ------
    AuditBroken
        Something does not fit: the error names the event.
    """
    tree = Tree()
    expected = {(each.size, each.root) for each in checkpoints}
    _compare(tree, expected)
    sizes = {size for size, _ in expected}
    for rows in _batches(connection):
        start = tree.size
        made: dict[tuple[int, int], bytes] = {}
        openings = _openings(connection, after=start, last=rows[-1].seq)
        for seq, body in rows:
            if seq != tree.size + 1:
                raise _broken(f"event {tree.size} is missing")
            try:
                check_openings(read_event(body), openings.pop(seq, {}))
            except Unproved as problem:
                raise _broken(f"event {tree.size}: {problem}") from None
            index = tree.size
            for level, node in enumerate(tree.add(body.encode())):
                made[level, index >> level] = node
            if tree.size in sizes:
                _compare(tree, expected)
        _compare_nodes(connection, made, low=start, high=tree.size)
    if any(size > tree.size for size in sizes):
        raise _broken(
            f"it has {tree.size} events, and had {max(sizes)} when a checkpoint was signed: it "
            "was shortened"
        )
    stored = connection.execute(sa.select(sa.func.count()).select_from(audit_nodes)).scalar_one()
    if stored != sum(tree.size >> level for level in range(tree.size.bit_length())):
        raise _broken("its tree has nodes of events that are not there")
    return Checkpoint(origin="", size=tree.size, root=tree.root)


def _compare(tree: Tree, expected: set[tuple[int, bytes]]) -> None:
    root = tree.root
    if any(size == tree.size and other != root for size, other in expected):
        raise _broken(
            f"its first {tree.size} events are not those of the checkpoint of that size: it was "
            "rewritten"
        )


def _compare_nodes(
    connection: sa.Connection, made: dict[tuple[int, int], bytes], *, low: int, high: int
) -> None:
    """Compare the stored nodes that the events from ``low`` to before ``high`` completed."""
    stored: dict[tuple[int, int], bytes] = {}
    for level in range(high.bit_length()):
        between = {"level": level, "low": low >> level, "high": high >> level}
        rows = connection.execute(_NODES, between)
        stored |= {(level, position): node for position, node in rows}
    for (level, position), node in sorted(made.items()):
        if stored.get((level, position)) != node:
            where = f"event {position}" if level == 0 else f"the events from {position << level} on"
            raise _broken(f"{where}: changed since the tree was made, or its nodes were")


def _batches(connection: sa.Connection) -> Iterator[Sequence[Any]]:
    after = 0
    while rows := connection.execute(_EVENTS, {"after": after}).all():
        yield rows
        after = rows[-1].seq


def _openings(
    connection: sa.Connection, *, after: int, last: int
) -> dict[int, dict[str, dict[str, str]]]:
    """Return what opens commitments, by seq of the event and by field."""
    found: dict[int, dict[str, dict[str, str]]] = {}
    for row in connection.execute(_OPENINGS, {"after": after, "last": last}):
        found.setdefault(row.event, {})[row.field] = {"salt": row.salt, "value": row.value}
    return found


def _says(field: str, value: str) -> sa.ColumnElement[bool]:
    written = wire.canonical_json({field: value}).decode()[1:-1]
    return events.c.body.contains(written, autoescape=True)


def _shown(seq: int, body: str, openings: dict[str, dict[str, str]]) -> ShownEvent:
    event = json.loads(body)
    committed = {
        field
        for field, value in event.items()
        if isinstance(value, dict) and value.keys() == {"commitment"}
    }
    people = {f: openings[f]["value"] if f in openings else _ERASED for f in sorted(committed)}
    facts = {f: v for f, v in event.items() if f not in committed | {"at", "kind"}}
    return ShownEvent(
        index=seq - 1,
        at=str(event.get("at", "")),
        kind=str(event.get("kind", "")),
        people=people,
        facts=facts,
    )


def _broken(problem: str) -> AuditBroken:
    return AuditBroken(f"The audit log does not hold: {problem}.", hint=_SHOW)
