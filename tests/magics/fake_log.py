"""A site's audit log in memory, whose receipts are real: tests break them as they like."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privnb import audit, wire
from privnb.release import Opening, Receipt


@dataclass
class FakeLog:
    """An audit log in memory, which gives real receipts."""

    origin: str
    events: list[str] = field(default_factory=list)
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def verifier_key(self) -> str:
        public = self.key.public_key().public_bytes_raw()
        return str(audit.VerifierKey(name=self.origin, public=public))

    def add(self, kind: str, analyst: str, **fields) -> int:
        salt = hashlib.sha256(b"%d" % len(self.events)).digest()
        event = {"kind": kind, "at": "2026-11-23T09:30:00+00:00", **fields}
        event["analyst"] = {"commitment": audit.commitment(salt, analyst)}
        self.events.append(wire.canonical_json(event).decode())
        return len(self.events) - 1

    def receipt(self, index: int, *, analyst: str, held=()) -> Receipt:
        leaves = [audit.leaf_hash(event.encode()) for event in self.events]
        stated = audit.Checkpoint(origin=self.origin, size=len(leaves), root=_root(leaves))
        salt = hashlib.sha256(b"%d" % index).digest()
        return Receipt(
            event=self.events[index],
            index=index,
            proof=tuple(each.hex() for each in _path(index, leaves)),
            checkpoint=audit.sign_checkpoint(stated, self.key),
            openings={"analyst": Opening(salt=salt.hex(), value=analyst)},
            consistency={
                str(old): tuple(each.hex() for each in _growth(old, leaves))
                for old in held
                if old < len(leaves)
            },
        )


def _split(count: int) -> int:
    """The largest power of two below ``count``, as RFC 6962 splits a tree."""
    return 1 << (count - 1).bit_length() - 1


def _root(leaves) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return audit.node_hash(_root(leaves[:k]), _root(leaves[k:]))


def _path(index: int, leaves) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*_path(index, leaves[:k]), _root(leaves[k:])]
    return [*_path(index - k, leaves[k:]), _root(leaves[:k])]


def _growth(old: int, leaves, *, whole: bool = True) -> list[bytes]:
    if old == len(leaves):
        return [] if whole else [_root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*_growth(old, leaves[:k], whole=whole), _root(leaves[k:])]
    return [*_growth(old - k, leaves[k:], whole=False), _root(leaves[:k])]
