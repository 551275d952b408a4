"""Checks a site's audit log with nothing but files and the site's public key.

The log is a Merkle tree (RFC 6962, SHA-256) over events in canonical JSON. A *checkpoint* states
its size and root, signed as C2SP signed-note and tlog-checkpoint describe. A *receipt* proves that
one event is in the log, an *opening* what a salted commitment in an event stands for, and a
consistency proof that one checkpoint's log begins with another's.

This module imports nothing else of privnb. Copied alone, it runs wherever Python 3.11 and
`cryptography` are::

    python audit.py verify events.jsonl --checkpoint events.checkpoint --key KEY
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import re
import sys
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "Checkpoint",
    "Proved",
    "Tree",
    "Unproved",
    "VerifierKey",
    "check_openings",
    "commitment",
    "leaf_hash",
    "main",
    "node_hash",
    "open_checkpoint",
    "origin_of",
    "read_checkpoint",
    "read_event",
    "read_proof",
    "said_of",
    "sign_checkpoint",
    "site_of",
    "verify_consistency",
    "verify_export",
    "verify_file",
    "verify_inclusion",
    "verify_receipt",
]

_ED25519 = b"\x01"
"""The type of signature by which C2SP's keys begin."""
_ID_BYTES = 4
_HASH_BYTES = 32
# The heights of the points of small order on Curve25519 (RFC 7748, 7): to a key at one of them, one
# signature fits whatever is signed.
_PRIME = 2**255 - 19
_OF_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = (0, 1, _PRIME - 1, _OF_ORDER_8, _PRIME - _OF_ORDER_8)
_SALT_BYTES = 32
_MOST_SIGNATURES = 16
_LONGEST_NOTE = 16 * 1024
_LONGEST_PROOF = 128
_EVENT, _OPENINGS, _END = '{"event":', ',"openings":', "}\n"

# ASCII that is seen, without the plus, which ends a name in a key.
_NAME = re.compile(r"[!-*,-~]{1,512}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")
_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_HEX_ID = re.compile(r"[0-9a-f]{8}")


class Unproved(Exception):
    """Something that should prove the log does not; the message says what is wrong, and where."""


# Canonical JSON


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode
_decoder = json.JSONDecoder(parse_constant=_no_constant)


def read_event(text: str) -> dict[str, Any]:
    """Read an event that must be written in the one canonical way, so that it reads in one way.

    >>> read_event('{"kind":"release"}')
    {'kind': 'release'}
    """
    try:
        event = _decoder.decode(text)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not _is_canonical(text, event):
        raise Unproved("The event is not a JSON object in canonical form.")
    return event


def _is_canonical(text: str, value: object) -> bool:
    """Tell whether a value that was read is written in the one way that it can be."""
    try:
        return _encode(value) == text
    except (ValueError, RecursionError):
        return False


def commitment(salt: bytes, value: str) -> str:
    """Return HMAC-SHA256 of a value, keyed by its salt: 64 hexadecimal digits.

    Without the salt, 32 random bytes, it says nothing about the value, not even to who guesses it.
    """
    return hmac.digest(salt, value.encode(), "sha256").hex()


def check_openings(event: Mapping[str, Any], openings: object) -> None:
    """Check that every opening, ``{field: {"salt", "value"}}``, opens the event's commitment."""
    if not isinstance(openings, dict):
        raise Unproved("The openings are not an object.")
    for field, opening in openings.items():
        try:
            salt, value = bytes.fromhex(opening["salt"]), opening["value"]
            fits = (
                event[field] == {"commitment": commitment(salt, value)}
                and (len(opening), len(salt)) == (2, _SALT_BYTES)
                and salt.hex() == opening["salt"]
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            fits = False
        if not fits:
            raise Unproved(f"The opening of {field[:80]!r} does not fit the event's commitment.")


# The tree


def leaf_hash(data: bytes) -> bytes:
    """Hash the bytes of one event."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two neighbouring subtrees into the one above them."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """Grows leaf by leaf, and remembers no more than its root needs: one hash per level.

    >>> tree = Tree()
    >>> [len(tree.add(leaf)) for leaf in (b"first", b"second", b"third", b"fourth")]
    [1, 2, 1, 3]
    """

    def __init__(self) -> None:
        self.size = 0
        self._edge: list[bytes] = []

    def add(self, data: bytes) -> list[bytes]:
        """Add a leaf; return its hash and those of the subtrees it completes, from the leaf up.

        Of the leaf at ``index``, the one at ``level`` is at the position ``index >> level``.
        """
        # The hashes of `leaf_hash` and `node_hash`, without the calls: this is what takes the time.
        sha256, edge = hashlib.sha256, self._edge
        made = sha256(b"\0" + data).digest()
        completed = [made]
        position = self.size
        while position & 1:
            made = sha256(b"\1" + edge.pop() + made).digest()
            completed.append(made)
            position >>= 1
        edge.append(made)
        self.size += 1
        return completed

    @property
    def root(self) -> bytes:
        """The hash of the whole; that of nothing is SHA-256 of no bytes."""
        if not self._edge:
            return hashlib.sha256(b"").digest()
        *rest, root = self._edge
        for left in reversed(rest):
            root = node_hash(left, root)
        return root


def verify_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf's hash is at ``index`` of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        raise Unproved(f"The log of {size} events has no event {index}.")
    found = _climb(leaf, proof, position=index, last=size - 1)
    if found is None or found[1] != root:
        raise Unproved(f"The inclusion proof does not lead from event {index} to the root.")


def verify_consistency(
    *, old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of ``old_size`` is how that of ``size`` begins (RFC 9162, 2.1.4.2)."""
    if old_size == 0:
        holds = old_root == Tree().root and not proof
    elif old_size == size:
        holds = old_root == root and not proof
    else:
        holds = 0 < old_size < size and _grown(old_size, old_root, size, proof) == (old_root, root)
    if not holds:
        raise Unproved(f"The log of {size} events does not begin with the log of {old_size}.")


def _grown(
    old_size: int, old_root: bytes, size: int, proof: Sequence[bytes]
) -> tuple[bytes, bytes] | None:
    """Compute both roots that a consistency proof leads to."""
    # A tree of 2**k leaves is itself a node of the larger one, and is left out of the proof.
    path = proof if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return None
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    return _climb(path[0], path[1:], position=position, last=last)


def _climb(
    start: bytes, siblings: Iterable[bytes], *, position: int, last: int
) -> tuple[bytes, bytes] | None:
    """Hash upwards, with siblings on the left alone and with all; None: too many or too few."""
    older = newer = start
    for sibling in siblings:
        if last == 0:
            return None
        if position & 1 or position == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        position, last = position >> 1, last >> 1
    return (older, newer) if last == 0 else None


# Keys and checkpoints


def origin_of(site: str, owner: str) -> str:
    """Return the name that a site's log goes by: ``privnb/SITE/OWNER``.

    What a key's name cannot hold, the plus of an email above all, is percent-encoded.

    >>> origin_of("northside", "data+owner@north.example")
    'privnb/northside/data%2Bowner@north.example'
    """
    return "/".join(["privnb", *(urllib.parse.quote(part, safe="@") for part in (site, owner))])


def site_of(origin: str, owner: str) -> str | None:
    """Return the site whose log has this name; None if it is not named for a site of the owner's.

    >>> site_of("privnb/northside/ana@north.example", "ana@north.example")
    'northside'
    """
    _, _, rest = origin.partition("/")
    site = urllib.parse.unquote(rest.partition("/")[0])
    return site if site and origin_of(site, owner) == origin else None


@dataclass(frozen=True, kw_only=True)
class VerifierKey:
    """A log's public key with the log's name, as C2SP signed-note writes it.

    >>> key = VerifierKey(name="log.example", public=bytes([2, *[0] * 31]))
    >>> VerifierKey.parse(str(key)) == key
    True
    """

    name: str
    public: bytes
    """The 32 bytes of an Ed25519 public key."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Unproved(f"{self.name[:80]!r} cannot be the name of a key.")
        if len(self.public) != _HASH_BYTES:
            raise Unproved("An Ed25519 public key has 32 bytes.")
        # Without the top bit, which is the sign of the other coordinate.
        if int.from_bytes(self.public, "little") % 2**255 % _PRIME in _SMALL_ORDER:
            raise Unproved("An Ed25519 public key of small order proves nothing.")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read ``NAME+ID+KEY``: the name, 8 hexadecimal digits, base64."""
        name, _, rest = text.partition("+")
        written_id, _, written = rest.partition("+")
        shown = ascii(text[:80])
        try:
            raw = _from_base64(written)
        except ValueError:
            raw = b""
        if raw[:1] != _ED25519 or not _HEX_ID.fullmatch(written_id):
            raise Unproved(f"{shown} is no verifier key: it is written NAME+ID+KEY, for Ed25519.")
        key = cls(name=name, public=raw[1:])
        if key.id.hex() != written_id:
            raise Unproved(f"{shown} is no verifier key: its ID is not that of its name and key.")
        return key

    @cached_property
    def id(self) -> bytes:
        """The 4 bytes by which signatures name the key."""
        named = self.name.encode() + b"\n" + _ED25519 + self.public
        return hashlib.sha256(named).digest()[:_ID_BYTES]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key in groups of hexadecimal digits, for reading out."""
        digits = hashlib.sha256(self.public).hexdigest()[:40]
        return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Tell whether the key signed these very bytes."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - stays out of start-up
        from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
            Ed25519PublicKey,
        )

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except (InvalidSignature, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a log was at one moment."""

    origin: str
    size: int
    root: bytes

    @property
    def body(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Write a checkpoint as a note signed under its origin's name."""
    public = key.public_key().public_bytes_raw()
    name = VerifierKey(name=checkpoint.origin, public=public)
    signature = base64.b64encode(name.id + key.sign(checkpoint.body.encode())).decode()
    return f"{checkpoint.body}\n— {name.name} {signature}\n"


def open_checkpoint(note: str, key: VerifierKey | None) -> Checkpoint:
    """Read a signed checkpoint; with a key, check that it is by that key, of that key's log.

    Signatures by others are allowed beside it, as witnesses of a log add theirs.
    """
    if not isinstance(note, str) or len(note) > _LONGEST_NOTE or not _is_utf8(note):
        raise Unproved("The checkpoint is no signed note.")
    if any(letter < " " and letter != "\n" for letter in note):
        raise Unproved("The checkpoint has control characters.")
    body, _, signatures = note.partition("\n\n")
    # Not splitlines(): to it, other characters end a line too, and would move the fields.
    lines = body.split("\n")
    if len(lines) != len(("origin", "size", "root")):
        raise Unproved("The checkpoint is not three lines and their signatures.")
    origin, size, root = lines
    if not _NAME.fullmatch(origin) or not _SIZE.fullmatch(size):
        raise Unproved("The checkpoint does not begin with an origin and a size.")
    try:
        found = Checkpoint(origin=origin, size=int(size), root=_from_base64(root))
    except ValueError:
        raise Unproved("The checkpoint's root is not in base64.") from None
    if len(found.root) != _HASH_BYTES:
        raise Unproved("The checkpoint's root has not 32 bytes.")
    signed = _signatures(signatures)
    if key is not None:
        _verify_signature(found, signed, key)
    return found


def _signatures(block: str) -> list[tuple[str, bytes]]:
    """Read the lines ``— NAME BASE64`` below a note."""
    *lines, end = block.split("\n")
    signed = []
    for line in lines:
        dash, _, rest = line.partition(" ")
        name, _, written = rest.partition(" ")
        try:
            raw = _from_base64(written)
        except ValueError:
            raw = b""
        if dash != "—" or not _NAME.fullmatch(name) or len(raw) <= _ID_BYTES:
            raise Unproved("The checkpoint's signatures are not written as they must be.")
        signed.append((name, raw))
    if end or not 1 <= len(signed) <= _MOST_SIGNATURES:
        raise Unproved("The checkpoint is not signed.")
    return signed


def _verify_signature(
    checkpoint: Checkpoint, signed: Iterable[tuple[str, bytes]], key: VerifierKey
) -> None:
    if checkpoint.origin != key.name:
        raise Unproved(f"The checkpoint is of the log {checkpoint.origin!r}, not {key.name!r}.")
    ours = [raw for name, raw in signed if (name, raw[:_ID_BYTES]) == (key.name, key.id)]
    if len(ours) != 1:
        raise Unproved(f"The checkpoint is not signed by the key of {key.name!r}.")
    if not key.verifies(ours[0][_ID_BYTES:], checkpoint.body.encode()):
        raise Unproved(f"The checkpoint's signature is not by the key of {key.name!r}.")


# Receipts and exports


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What a receipt proves: that this event was in the log that the checkpoint states."""

    event: dict[str, Any]
    index: int
    checkpoint: Checkpoint


def verify_receipt(receipt: Mapping[str, Any], *, key: VerifierKey) -> Proved:
    """Check a receipt: the checkpoint's signature, the event's inclusion, and its openings.

    Parameters
    ----------
    receipt
        The plain JSON object; consistency proofs in it need the earlier checkpoints, and are for
        `verify_consistency`.
    """
    try:
        text, index, note = receipt["event"], receipt["index"], receipt["checkpoint"]
        proof, openings = receipt["proof"], receipt.get("openings")
    except (KeyError, TypeError, AttributeError):
        raise Unproved("The receipt is not well formed.") from None
    if not (isinstance(text, str) and type(index) is int):
        raise Unproved("The receipt is not well formed.")
    event = read_event(text)
    checkpoint = open_checkpoint(note, key)
    leaf = leaf_hash(text.encode())
    hashes = read_proof(proof)
    verify_inclusion(leaf, index=index, size=checkpoint.size, proof=hashes, root=checkpoint.root)
    check_openings(event, {} if openings is None else openings)
    return Proved(event=event, index=index, checkpoint=checkpoint)


def read_proof(written: object) -> list[bytes]:
    """Read the hexadecimal hashes of a proof."""
    if not isinstance(written, list | tuple) or len(written) > _LONGEST_PROOF:
        raise Unproved("The proof is not a list of hashes.")
    return [_bytes_of_hash(each) for each in written]


def verify_export(lines: Iterable[bytes], *, checkpoints: Sequence[Checkpoint]) -> int:
    """Check that exported events are the log of the largest checkpoint, and return their number.

    Earlier checkpoints of the same log may be given too: the events then begin with their logs.

    Parameters
    ----------
    lines
        Each ``{"event":{…},"openings":{…}}`` in canonical JSON; openings may be left out
        altogether, or as far as they were erased.
    """
    if len({checkpoint.origin for checkpoint in checkpoints}) != 1:
        raise Unproved("There must be checkpoints, all of the same log.")
    last = max(checkpoint.size for checkpoint in checkpoints)
    stated = {(checkpoint.size, checkpoint.root) for checkpoint in checkpoints}
    sizes = {size for size, _ in stated}
    tree = Tree()
    for line in lines:
        if tree.size in sizes:
            _compare_roots(tree, stated)
        if tree.size == last:
            raise Unproved(f"Line {last + 1}: the checkpoint states only {last} events.")
        try:
            event = _exported(line)
        except Unproved as problem:
            raise Unproved(f"Line {tree.size + 1}: {problem}") from None
        tree.add(event.encode())
    if tree.size < last:
        raise Unproved(f"It ends after line {tree.size}; the checkpoint states {last} events.")
    _compare_roots(tree, stated)
    return tree.size


def _exported(line: bytes) -> str:
    """Check a line of an export, and return its event as it is written."""
    try:
        text = line.decode()
        read, _ = _decoder.raw_decode(text)
        event, openings = read["event"], read["openings"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Unproved("It is not one exported event.") from None
    if not isinstance(event, dict):
        raise Unproved("It is not one exported event.")
    check_openings(event, openings)
    try:
        # Spaces, escapes, names given twice: all that it could hold besides makes it longer. To
        # count takes less time than to write it again, as has to be done where something is left.
        stop = len(_EVENT) + _plain_length(event)
        whole = stop + len(_OPENINGS) + _plain_length(openings) + len(_END)
        if len(text) == whole and text.endswith(_END) and [*read] == ["event", "openings"]:
            return text[len(_EVENT) : stop]
        written = _encode(event)
        canonical = text == f"{_EVENT}{written}{_OPENINGS}{_encode(openings)}{_END}"
    except (ValueError, RecursionError):
        canonical = False
    if not canonical:
        raise Unproved("It is not in canonical JSON.")
    return written


def _plain_length(value: dict[str, Any]) -> int:
    """Count the characters that sorted objects of strings have in canonical JSON without escapes.

    Of anything else, it is more than a text can have.
    """
    length = _length_of_names((*value,))
    for inner in value.values():
        if type(inner) is str:
            length += len(inner)
        elif type(inner) is dict:
            length += _plain_length(inner) - len('""')
        else:
            return sys.maxsize
    return length


@lru_cache(maxsize=64)
def _length_of_names(names: tuple[str, ...]) -> int:
    """Count the characters of an object that has an empty string by each name."""
    if [*names] != sorted(names):
        return sys.maxsize
    return len("{}") + sum(len(name) + len('"":"",') for name in names) - bool(names)


def _compare_roots(tree: Tree, stated: Iterable[tuple[int, bytes]]) -> None:
    root = tree.root
    if any(size == tree.size and other != root for size, other in stated):
        raise Unproved(
            f"The first {tree.size} lines are not the events of the checkpoint of that size: "
            "some event was changed, added, left out or moved."
        )


def read_checkpoint(path: Path, key: VerifierKey | None) -> Checkpoint:
    """Read a file with a signed checkpoint, as `open_checkpoint` does."""
    try:
        with path.open("rb") as file:
            return open_checkpoint(file.read(4 * _LONGEST_NOTE).decode(), key)
    except OSError as problem:
        raise Unproved(f"{path} cannot be read: {problem.strerror}.") from None
    except UnicodeDecodeError:
        raise Unproved(f"{path}: The checkpoint is no signed note.") from None
    except Unproved as problem:
        raise Unproved(f"{path}: {problem}") from None


def verify_file(path: Path, *, checkpoints: Sequence[Path], key: VerifierKey | None) -> Checkpoint:
    """Check an exported file against files of checkpoints; return the checkpoint it amounts to."""
    opened = [read_checkpoint(file, key) for file in checkpoints]
    try:
        with path.open("rb") as lines:
            verify_export(lines, checkpoints=opened)
    except OSError as problem:
        raise Unproved(f"{path} cannot be read: {problem.strerror}.") from None
    except Unproved as problem:
        raise Unproved(f"{path}: {problem}") from None
    return max(opened, key=lambda each: each.size)


def _bytes_of_hash(text: object) -> bytes:
    if not isinstance(text, str) or not _HEX_HASH.fullmatch(text):
        raise Unproved("A hash is not written as 64 lower-case hexadecimal digits.")
    return bytes.fromhex(text)


def _from_base64(text: str) -> bytes:
    """Decode base64 that is written in the one way its bytes are."""
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None
    if base64.b64encode(raw).decode() != text:
        raise ValueError("no canonical base64")
    return raw


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``verify FILE --checkpoint CP [--key KEY]``; 0: it holds, 1: it does not."""
    parser = argparse.ArgumentParser(description="Check an exported audit log of a privnb site.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check events against a signed checkpoint")
    verify.add_argument("file", type=Path, help="the exported events (.jsonl)")
    verify.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        required=True,
        help="the signed checkpoint; again for earlier ones of the same log",
    )
    verify.add_argument("--key", help="the site's verifier key, NAME+ID+KEY")
    chosen = parser.parse_args(arguments)
    try:
        key = None if chosen.key is None else VerifierKey.parse(chosen.key)
        found = verify_file(chosen.file, checkpoints=chosen.checkpoint, key=key)
    except Unproved as problem:
        sys.stderr.write(f"Not proved: {problem}\n")
        return 1
    sys.stdout.write(said_of(chosen.file, found, key=key))
    return 0


def said_of(file: Path, checkpoint: Checkpoint, *, key: VerifierKey | None) -> str:
    """Say in words what was checked."""
    signer = (
        f"Signed by the key {key}\n"
        if key is not None
        else "NOT checked: who signed the checkpoint. Give the site's key with --key.\n"
    )
    return (
        f"{file}: {checkpoint.size} events, exactly those of the log {checkpoint.origin}\n"
        f"with the root {checkpoint.root.hex()}\n{signer}"
    )


if __name__ == "__main__":
    sys.exit(main())
