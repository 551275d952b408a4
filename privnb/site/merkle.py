"""The audit log's Merkle tree in the site's database: appended to, and proved from (RFC 6962).

Only complete subtrees are stored, each once and for good; what a proof needs beyond them is hashed
from at most one of each level. So an append adds two rows on average, and a proof takes one query
per level.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import sqlalchemy as sa

from privnb.audit import Tree, leaf_hash, node_hash
from privnb.errors import StateError
from privnb.site.database import audit_nodes, events

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["append", "consistency", "hashes", "inclusion", "size"]

Range: TypeAlias = tuple[int, int]
"""Leaves from the first to before the second, of which the subtrees that make it up are stored."""

_SIZE = sa.select(sa.func.coalesce(sa.func.max(events.c.seq), 0))
_ADD_EVENT = sa.insert(events)
_ADD_NODES = sa.insert(audit_nodes)
_NODE = sa.select(audit_nodes.c.hash).where(
    audit_nodes.c.level == sa.bindparam("level"), audit_nodes.c.position == sa.bindparam("position")
)
_NODES = sa.select(audit_nodes.c.position, audit_nodes.c.hash).where(
    audit_nodes.c.level == sa.bindparam("level"),
    audit_nodes.c.position.in_(sa.bindparam("positions", expanding=True)),
)


def size(connection: sa.Connection) -> int:
    """Return the number of events, as this transaction sees it."""
    return int(connection.execute(_SIZE).scalar_one())


def append(connection: sa.Connection, body: str) -> int:
    """Add an event with all the subtrees it completes; return its place, from 0.

    The transaction must be one that excludes other writers, as those of `Database.write` do.
    """
    index = size(connection)
    connection.execute(_ADD_EVENT, {"seq": index + 1, "body": body})
    level, position, made = 0, index, leaf_hash(body.encode())
    rows = [{"level": 0, "position": index, "hash": made}]
    while position & 1:
        left = connection.execute(_NODE, {"level": level, "position": position - 1}).scalar()
        if left is None:
            raise _damaged(level, position - 1)
        level, position, made = level + 1, position >> 1, node_hash(left, made)
        rows.append({"level": level, "position": position, "hash": made})
    connection.execute(_ADD_NODES, rows)
    return index


def inclusion(index: int, size: int) -> list[Range]:
    """Return what the audit path of a leaf is made of, from the leaf up.

    >>> inclusion(2, 7)
    [(3, 4), (0, 2), (4, 7)]
    """
    low, high, path = 0, size, list[Range]()
    while high - low > 1:
        middle = low + _split(high - low)
        path.append((middle, high) if index < middle else (low, middle))
        low, high = (low, middle) if index < middle else (middle, high)
    return path[::-1]


def consistency(old: int, size: int) -> list[Range]:
    """Return what the proof is made of that the tree of ``old`` leaves is the beginning of another.

    >>> consistency(3, 7)
    [(2, 3), (3, 4), (0, 2), (4, 7)]
    """
    low, high, path = 0, size, list[Range]()
    while old != high:
        middle = low + _split(high - low)
        path.append((middle, high) if old <= middle else (low, middle))
        low, high = (low, middle) if old <= middle else (middle, high)
    return ([(low, high)] if low else []) + path[::-1]


def hashes(connection: sa.Connection, ranges: Sequence[Range]) -> dict[Range, bytes]:
    """Return the hash of each range: of `inclusion`, of `consistency`, or the root, (0, size)."""
    covers = {each: _cover(*each) for each in ranges}
    wanted = sorted({node for cover in covers.values() for node in cover})
    found: dict[tuple[int, int], bytes] = {}
    # By level, as SQLite would read the whole table for pairs of level and position.
    for level, nodes in itertools.groupby(wanted, key=lambda node: node[0]):
        positions = [position for _, position in nodes]
        rows = connection.execute(_NODES, {"level": level, "positions": positions})
        found |= {(level, row.position): row.hash for row in rows}
    for node in wanted:
        if node not in found:
            raise _damaged(*node)
    return {each: _joined([found[node] for node in cover]) for each, cover in covers.items()}


def _split(width: int) -> int:
    """Return the largest power of two below a width."""
    return 1 << (width - 1).bit_length() - 1


def _cover(low: int, high: int) -> list[tuple[int, int]]:
    """Return the complete subtrees that make up a range, from left to right."""
    nodes = []
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append((level, low >> level))
        low += 1 << level
    return nodes


def _joined(subtrees: list[bytes]) -> bytes:
    if not subtrees:
        return Tree().root
    *rest, joined = subtrees
    for left in reversed(rest):
        joined = node_hash(left, joined)
    return joined


def _damaged(level: int, position: int) -> StateError:
    return StateError(
        f"The site's audit log is damaged: its tree lacks node {position} of level {level}.",
        hint="Restore the site's database from a backup; privnb audit verify checks it.",
    )
