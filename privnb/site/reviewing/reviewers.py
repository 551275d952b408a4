"""Reviewers' keys: with one a decision is signed, with its public half it is checked.

A key lies in a file of its own, readable by its owner only, apart from any site: a reviewer has one
key, and may review for several sites.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from privnb.datasite.names import check_email
from privnb.errors import StateError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["ReviewerKey", "key_folder", "known_keys", "person", "read_public", "verify"]

_PREFIX = "ed25519:"
_BYTES = 32
_MOST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class ReviewerKey:
    """The Ed25519 key of one reviewer.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     key = ReviewerKey.create(Path(folder) / "alice.json", "alice@hospital.example")
    >>> verify(key.public, key.sign(b"yes"), b"yes"), verify(key.public, key.sign(b"yes"), b"no")
    (True, False)
    """

    email: str
    public: str
    """As it stands in ``site.toml``: ``ed25519:`` and 32 bytes in base64."""
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def create(cls, path: Path, email: str) -> ReviewerKey:
        """Make a new key in a file that only its owner can read.

        Raises
        ------
        ConfigError
            ``email`` cannot be a reviewer's address.
        StateError
            The file exists already, which is never replaced, or cannot be written.
        """
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - stays out of start-up

        check_email(email, whose="a reviewer's address")
        private = ed25519.Ed25519PrivateKey.generate()
        key = cls(email=email, public=_written(private), _private=private)
        secret = base64.b64encode(private.private_bytes_raw()).decode()
        text = json.dumps({"email": email, "public": key.public, "private": secret}, indent=1)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(path, f"{text}\n".encode())
        except FileExistsError:
            raise StateError(
                f"There is a key in {path} already.",
                hint="Use it, or move it away first; what it signed stays valid as long as "
                "site.toml names it.",
            ) from None
        except OSError as problem:
            raise StateError(
                f"The key {path} cannot be written: {problem.strerror}.",
                hint="Look at the folder's permissions and free space.",
            ) from None
        return key

    @classmethod
    def load(cls, path: Path) -> ReviewerKey:
        """Read a key.

        Raises
        ------
        UnknownName
            There is no such file.
        StateError
            It can be read by others too, or is no key.
        """
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - stays out of start-up

        data = _read_private(path)
        try:
            text = json.loads(data)
            email, public, secret = text["email"], text["public"], text["private"]
            private = ed25519.Ed25519PrivateKey.from_private_bytes(
                base64.b64decode(secret, validate=True)
            )
            check_email(email, whose="a reviewer's address")
        except (ValueError, KeyError, TypeError):
            raise _damaged(path) from None
        if public != _written(private):
            raise _damaged(path)
        return cls(email=email, public=public, _private=private)

    def sign(self, statement: bytes) -> bytes:
        """Sign a statement; 64 bytes."""
        return self._private.sign(statement)


def verify(public: str, signature: bytes, statement: bytes) -> bool:
    """Tell whether the private half of ``public`` signed these very bytes."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - stays out of start-up
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(read_public(public))
        key.verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def person(email: str) -> str:
    """Return whose address this is: case, and what follows a plus, make nobody another person.

    >>> person("Alice+studies@hospital.example")
    'alice@hospital.example'
    """
    local, _, domain = email.casefold().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def read_public(text: str) -> bytes:
    """Return the 32 bytes of a public key, or raise `ValueError`.

    One key has one spelling, so that equal keys are equal texts.
    """
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("not in base64") from None
    if len(key) != _BYTES or text != _PREFIX + base64.b64encode(key).decode():
        raise ValueError("not a public key")
    return key


def key_folder() -> Path:
    """Return where this user's reviewer keys lie, below ``PRIVNB_HOME`` if that is set."""
    import platformdirs  # noqa: PLC0415 - only when needed

    root = os.environ.get("PRIVNB_HOME") or platformdirs.user_data_dir("privnb", appauthor=False)
    return Path(root) / "reviewer"


def known_keys(folder: Path, *, reviewer: str | None = None) -> tuple[ReviewerKey, ...]:
    """Load the keys in a folder, or only the one of ``reviewer``.

    Raises
    ------
    UnknownName
        ``reviewer`` has no key there.
    StateError
        As in `ReviewerKey.load`.
    """
    if reviewer is None:
        return tuple(ReviewerKey.load(path) for path in sorted(folder.glob("*.json")))
    check_email(reviewer, whose="a reviewer's address")
    path = folder / f"{reviewer}.json"
    if not path.exists():
        raise _unknown(reviewer, (known.stem for known in folder.glob("*.json")))
    return (ReviewerKey.load(path),)


def _unknown(reviewer: str, known: Iterable[str]) -> UnknownName:
    problem = UnknownName.among("reviewer key", reviewer, known)
    make = f"Make one with: privnb review key --email {reviewer}"
    return UnknownName(problem.message, hint=f"{problem.hint} {make}")


def _written(private: Ed25519PrivateKey) -> str:
    return _PREFIX + base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that was not there, whole or not at all."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(hidden, path)  # unlike a renaming, it never replaces
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StateError(
                    f"The key {path} can be read by others.",
                    hint=f"Run: chmod 600 {path}. If somebody may have copied it, make a new one.",
                )
            return file.read(_MOST_BYTES)
    except FileNotFoundError:
        raise UnknownName(
            f"There is no reviewer key {path}.",
            hint="Make one with: privnb review key --email you@hospital.example",
        ) from None
    except OSError as problem:
        raise StateError(
            f"The key {path} cannot be read: {problem.strerror}.", hint="Mend its permissions."
        ) from None


def _damaged(path: Path) -> StateError:
    return StateError(
        f"The file {path} does not hold a reviewer's key.",
        hint="Restore it from a backup, or make a new key and have it put into site.toml.",
    )
