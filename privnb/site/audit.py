"""The audit log: a Merkle tree over events, each added in the transaction that acts on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb.site.database import events, utc_now
from privnb.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["record_event"]

_ADD_EVENT = sa.insert(events)


def record_event(
    connection: sa.Connection, kind: str, *, private: Mapping[str, str] | None = None, **fields: Any
) -> int:
    """Append one event to the transaction, and return its place in the log, from 0.

    Parameters
    ----------
    private
        Fields that name people or hold their words: in the event they are salted commitments.
    fields
        Everything else. Numbers about privacy are given as decimal text.
    """
    body = canonical_json({"kind": kind, "at": utc_now(), **fields, **(private or {})}).decode()
    (seq,) = connection.execute(_ADD_EVENT, {"body": body}).inserted_primary_key or (0,)
    return int(seq) - 1
