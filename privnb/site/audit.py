"""The audit log: a Merkle tree over events, each added in the transaction that acts on it.

An event is there exactly when what it tells of is: a decision, a grant, a release. Names of people
and their words are in it as salted commitments only; what opens them lies beside the tree, and may
be erased. Whoever gets a release gets a receipt for its event; see `privnb.audit`, which checks it.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privnb.audit import Checkpoint, VerifierKey, commitment, sign_checkpoint
from privnb.durable import make_folder, sync_folder
from privnb.errors import StateError
from privnb.release import Opening, Receipt
from privnb.site import merkle
from privnb.site.database import audit_openings, events, utc_now
from privnb.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MOST_HELD", "AuditLog", "erasable", "erase", "record_event"]

MOST_HELD = 16
"""From how many earlier checkpoints a receipt proves at most that the log grew."""

_NAMES = ("analyst", "reviewer", "owner")
"""Private fields that name people; all others hold words of, or about, the people named."""
_OWN = "analyst"
"""The only private field that is opened to an analyst, and to the one it names alone."""
_KEY_FILE = "audit.key"
_KEY_PREFIX = ".audit-key-"

_ADD_OPENINGS = sa.insert(audit_openings)
_BODIES = sa.select(events.c.seq, events.c.body).where(
    events.c.seq.in_(sa.bindparam("seqs", expanding=True))
)
_OWN_OPENINGS = sa.select(audit_openings).where(
    audit_openings.c.event.in_(sa.bindparam("seqs", expanding=True)),
    audit_openings.c.field == _OWN,
)
_OF_ANALYST = (
    sa.select(audit_openings.c.event)
    .where(audit_openings.c.field == _OWN, audit_openings.c.value == sa.bindparam("analyst"))
    .order_by(audit_openings.c.event.desc())
    .limit(sa.bindparam("newest"))
)


def record_event(
    connection: sa.Connection, kind: str, *, private: Mapping[str, str] | None = None, **fields: Any
) -> int:
    """Append one event to the transaction, and return its place in the log, from 0.

    Parameters
    ----------
    connection
        A transaction of `Database.write`: writers exclude each other.
    private
        Fields that name people (``analyst``, ``reviewer``, ``owner``) or hold their words
        (``reason``): in the event they are salted commitments.
    fields
        Everything else, as plain JSON. Numbers about privacy, and whatever has a fraction, are
        given as decimal text.

    Raises
    ------
    TypeError, ValueError
        A field is a float, given twice, or no JSON.
    """
    private = private or {}
    taken = {"kind", "at"} & fields.keys() | fields.keys() & private.keys()
    if taken or {"kind", "at"} & private.keys():
        raise ValueError(f"fields given twice: {sorted(taken)}")
    _refuse_floats(fields)
    salts = {field: secrets.token_bytes(32) for field in private}
    committed = {
        field: {"commitment": commitment(salts[field], value)} for field, value in private.items()
    }
    event = {"kind": kind, "at": utc_now(), **fields, **committed}
    index = merkle.append(connection, canonical_json(event).decode())
    if private:
        connection.execute(
            _ADD_OPENINGS,
            [
                {"event": index + 1, "field": field, "salt": salts[field].hex(), "value": value}
                for field, value in private.items()
            ],
        )
    return index


def _refuse_floats(value: object) -> None:
    if isinstance(value, float):
        raise TypeError("a number with a fraction is given as decimal text")
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            _refuse_floats(each)


def erasable(connection: sa.Connection, person: str) -> tuple[tuple[int, str], ...]:
    """Find what is to be forgotten of a person, by event and field; nothing if nobody has the name.

    It is the person's name wherever it opens a commitment, and all words in events that named them
    or that mention them, as a whole word or address; names of others stay.
    """
    field, said = audit_openings.c.field, audit_openings.c.value
    if (
        connection.execute(sa.select(field).where(field.in_(_NAMES), said == person)).first()
        is None
    ):
        return ()
    named = sa.select(audit_openings.c.event).where(said == person)
    candidates = sa.or_(
        said == person,
        sa.and_(field.not_in(_NAMES), audit_openings.c.event.in_(named)),
        sa.and_(field.not_in(_NAMES), said.contains(person, autoescape=True)),
    )
    rows = connection.execute(sa.select(audit_openings).where(candidates)).all()
    of_theirs = {row.event for row in rows if row.value == person}
    mentioned = re.compile(rf"(?<![\w.+-]){re.escape(person)}(?![\w-]|\.\w)")
    return tuple(
        (row.event, row.field)
        for row in rows
        if row.event in of_theirs or mentioned.search(row.value)
    )


def erase(connection: sa.Connection, person: str) -> int:
    """Forget what `erasable` finds of a person, and return how many openings went.

    The events stay, and so does the tree. What the tables beside the audit log hold, and what was
    exported before, is not touched.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")  # overwrites what it deletes
    found = erasable(connection, person)
    event, field = audit_openings.c.event, audit_openings.c.field
    for at, name in found:
        connection.execute(sa.delete(audit_openings).where(event == at, field == name))
    return len(found)


class AuditLog:
    """Signs for a site's audit log: checkpoints, and receipts under them.

    Parameters
    ----------
    key
        The site's signing key. Who has it can state a log that never was; see `open`.
    origin
        The log's name, as `privnb.audit.origin_of` makes it.
    """

    def __init__(self, key: Ed25519PrivateKey, *, origin: str) -> None:
        self._key = key
        self._verifier = VerifierKey(name=origin, public=key.public_key().public_bytes_raw())

    @classmethod
    def open(cls, state: Path, *, origin: str) -> AuditLog:
        """Read the key in the site's private state folder; make it the first time.

        Raises
        ------
        StateError
            When the key cannot be read or made. A new one would look like another log.
        """
        return cls(_signing_key(state / _KEY_FILE), origin=origin)

    @property
    def verifier_key(self) -> str:
        """The public key with the log's name, as C2SP writes it: ``NAME+ID+KEY``."""
        return str(self._verifier)

    @property
    def fingerprint(self) -> str:
        """The public key's hash, for reading out over the telephone."""
        return self._verifier.fingerprint

    def sign(self, statement: bytes) -> bytes:
        """Sign as this site something else than a checkpoint, and return 64 bytes.

        Raises `ValueError` for what could be the text of one: its first line is a log's name, which
        has no space in it.
        """
        if b" " not in statement.partition(b"\n")[0]:
            raise ValueError("what has no space in its first line may be a checkpoint")
        return self._key.sign(statement)

    def keyed_hash(self, data: bytes | memoryview, *, use: str) -> str:
        """Hash something that could be guessed, 64 hexadecimal digits: only this site can.

        It is HMAC-SHA-256, with a key that HKDF (RFC 5869) derives from the site's for one use.
        """
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"privnb {use}".encode())
        key = derive.derive(self._key.private_bytes_raw())
        return hmac.new(key, data, "sha256").hexdigest()

    def checkpoint(self, connection: sa.Connection) -> str:
        """State the log's size and root, as this transaction sees them, in a signed note."""
        size = merkle.size(connection)
        whole = (0, size)
        return self._sign(size, merkle.hashes(connection, [whole])[whole])

    def receipt(
        self, connection: sa.Connection, index: int, *, held: Sequence[int] = ()
    ) -> Receipt:
        """Prove that an event is in the log, for the analyst it is about.

        Parameters
        ----------
        connection
            The transaction that appended it, or a later one.
        held
            Sizes of the log at which the analyst has checkpoints: of those that are below today's,
            the receipt proves that the log only grew since. Other sizes are passed over, which
            the analyst's side notices.
        """
        (receipt,) = self._receipts(connection, [index], held=held)
        return receipt

    def trail(
        self,
        connection: sa.Connection,
        *,
        analyst: str,
        held: Sequence[int] = (),
        newest: int = 200,
    ) -> tuple[Receipt, ...]:
        """Prove the newest events about one analyst, oldest first.

        They open the analyst's own name and nothing about others. That the log grew from the
        ``held`` sizes is in the last receipt alone.
        """
        rows = connection.execute(_OF_ANALYST, {"analyst": analyst, "newest": newest})
        return self._receipts(connection, sorted(seq - 1 for (seq,) in rows), held=held)

    def _receipts(
        self, connection: sa.Connection, indexes: Sequence[int], *, held: Sequence[int]
    ) -> tuple[Receipt, ...]:
        if not indexes:
            return ()
        size = merkle.size(connection)
        paths = {index: merkle.inclusion(index, size) for index in indexes}
        sizes = sorted({old for old in held if 0 < old < size}, reverse=True)[:MOST_HELD]
        grown = {old: merkle.consistency(old, size) for old in sizes}
        whole = (0, size)
        ranges = [whole, *(part for path in (*paths.values(), *grown.values()) for part in path)]
        found = merkle.hashes(connection, ranges)
        note = self._sign(size, found[whole])
        proofs = {str(old): tuple(found[part].hex() for part in grown[old]) for old in sizes}
        seqs = {"seqs": [index + 1 for index in indexes]}
        bodies = {row.seq - 1: row.body for row in connection.execute(_BODIES, seqs)}
        openings = {
            row.event - 1: {row.field: Opening(salt=row.salt, value=row.value)}
            for row in connection.execute(_OWN_OPENINGS, seqs)
        }
        return tuple(
            Receipt(
                event=bodies[index],
                index=index,
                proof=tuple(found[part].hex() for part in paths[index]),
                checkpoint=note,
                openings=openings.get(index),
                consistency=proofs if index == indexes[-1] and proofs else None,
            )
            for index in indexes
        )

    def _sign(self, size: int, root: bytes) -> str:
        stated = Checkpoint(origin=self._verifier.name, size=size, root=root)
        return sign_checkpoint(stated, self._key)


def _signing_key(path: Path) -> Ed25519PrivateKey:
    try:
        if path.exists():
            for left_over in path.parent.glob(f"{_KEY_PREFIX}*"):
                left_over.unlink(missing_ok=True)
        else:
            _make_key(path)
        data = path.read_bytes()
    except OSError as problem:
        raise StateError(
            f"The audit key {path} cannot be used: {problem.strerror}.",
            hint="Look at the folder's permissions and free space.",
        ) from None
    try:
        key = load_pem_private_key(data, password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        hint = (
            "Restore it from a backup. With a new key analysts are told not to trust the log, so "
            "remove it knowingly."
        )
        raise StateError(f"The audit key {path} is damaged.", hint=hint)
    return key


def _make_key(path: Path) -> None:
    make_folder(path.parent)
    made = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_KEY_PREFIX, delete=False) as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    # A link, unlike a rename, never replaces the key that another process made meanwhile; that
    # process may even have swept ours away.
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        os.link(file.name, path)
    Path(file.name).unlink(missing_ok=True)
    sync_folder(path.parent)
