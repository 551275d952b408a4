"""Public keys: their canonical form and fingerprint, and the peers whose key is pinned.

A *bundle* is what PySyft publishes of a party: an Ed25519 identity key and the X25519 keys signed
by it, as a DID document. Pinned bundles are kept in the private home, never on the exchange.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.datasite.home import write_private
from privnb.datasite.names import is_email
from privnb.datasite.pysyft import PeerState, PeerStore, crypto
from privnb.errors import BadMessage, KeyChanged, StateError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MAX_BUNDLE",
    "Bundle",
    "Pin",
    "Pins",
    "ensure_own_keys",
    "fingerprint_matches",
    "own_bundle",
    "parse_bundle",
]

MAX_BUNDLE = 8 * 1024
"""The largest published bundle that is read, in bytes."""
_SHOWN_DIGITS = 32


@dataclass(frozen=True)
class Bundle:
    """Somebody's public keys in canonical form."""

    document: dict[str, Any]
    fingerprint: str
    """First 32 hexadecimal digits of the SHA-256 of the canonical document, in groups of four."""


def _bundle(email: str, keys: Any) -> Bundle:
    document: dict[str, Any] = {**keys.to_did_document(f"did:syft:{email}"), "identity": email}
    digits = wire.sha256_hex(wire.canonical_json(document))[:_SHOWN_DIGITS]
    groups = [digits[start : start + 4] for start in range(0, _SHOWN_DIGITS, 4)]
    return Bundle(document=document, fingerprint="-".join(groups))


def own_bundle(store: Any) -> Bundle:
    """Return our own public keys from PySyft's `PeerStore`."""
    return _bundle(store.email, store.public_key)


def parse_bundle(email: str, document: object) -> Bundle:
    """Rebuild the bundle that claims to be ``email``'s; equal keys give equal bundles.

    Raises `BadMessage` when it is malformed or its keys are not signed by its identity key.
    """
    problem = BadMessage(f"The public key that {email} presents is not well formed.")
    if not isinstance(document, dict):
        raise problem
    try:
        keys = crypto.SyftPublicKeyBundle.from_did_document(document)
        signed = keys.verify_signatures()
        bundle = _bundle(email, keys)
    except BaseException as error:
        # A panic of PySyft's Rust part is no Exception.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise problem from None
        raise
    # Some versions answer, others raise.
    if signed is False:
        raise problem
    return bundle


def parse_published(email: str, data: bytes) -> Bundle:
    """Rebuild a bundle from the file in which PySyft publishes it; raises `BadMessage`."""
    try:
        published = json.loads(data)
        document = published["public_encryption_bundle"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadMessage(f"The public key that {email} presents is not well formed.") from None
    return parse_bundle(email, document)


def fingerprint_matches(bundle: Bundle, named: str) -> bool:
    """Tell whether ``named``, written in any grouping, is the bundle's fingerprint."""
    digits = re.sub(r"[\s:-]", "", named).lower()
    return digits == bundle.fingerprint.replace("-", "")


def require_fingerprint(email: str, bundle: Bundle, named: str) -> None:
    """Raise `KeyChanged` unless ``named`` is the bundle's fingerprint."""
    if not fingerprint_matches(bundle, named):
        raise KeyChanged(
            f"{email} presents a key with the fingerprint {bundle.fingerprint}, not {named!a}.",
            hint="Ask them, over the telephone, to read out theirs. Trust no key that differs.",
        )


def ensure_own_keys(path: Path, email: str) -> None:
    """Make a key file for ``email`` unless there is one; it appears as a whole, mode 0600.

    Raises `StateError` when the file is damaged or is somebody else's.
    """
    if not path.exists():
        store = PeerStore(email=email, use_encryption=True)
        store.generate_keys()
        part = path.with_name(f".{path.name}.part")
        part.touch(mode=0o600)
        store.save_keys(part)
        write_private(path, part.read_bytes())
        part.unlink()
    path.chmod(0o600)
    try:
        named = json.loads(path.read_bytes())["email"]
        PeerStore.load_keys(path)
    except Exception:  # noqa: BLE001 - whatever is wrong in it, it cannot be used
        raise StateError(
            f"The key file {path} is damaged.",
            hint="Restore it from a backup. With a new one, every peer has to accept you again.",
        ) from None
    if named != email:
        raise StateError(
            f"The key file {path} belongs to {named}, not to {email}.",
            hint="Use another home for another address.",
        )


@dataclass(frozen=True)
class Pin:
    """What was decided about a peer."""

    state: str
    """A value of PySyft's ``PeerState``."""
    bundle: Bundle | None

    @property
    def accepted(self) -> bool:
        """Whether messages are exchanged with them."""
        return self.bundle is not None and self.state == PeerState.ACCEPTED.value


class Pins:
    """The peers decided on, in one private file that several processes share.

    Writers hold the home's lock. Reading again costs one ``stat`` while nothing changed.
    """

    def __init__(self, path: Path) -> None:
        self.checked: dict[str, Bundle] = {}
        """Keys that were just checked, for PySyft to find instead of those on the exchange."""
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._pins: dict[str, Pin] = {}

    def read(self) -> dict[str, Pin]:
        """Return every pin, by email. Raises `StateError` when the file is damaged."""
        try:
            about = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._pins = None, {}
            return self._pins
        stamp = (about.st_mtime_ns, about.st_ino, about.st_size)
        if stamp != self._stamp:
            self._pins = self._parse()
            self._stamp = stamp
        return self._pins

    def documents(self) -> dict[str, dict[str, Any]]:
        """Return the content in the form PySyft's connections give it."""
        return {
            email: {
                "state": pin.state,
                "public_encryption_bundle": pin.bundle.document if pin.bundle else None,
            }
            for email, pin in self.read().items()
        }

    def write(self, email: str, state: str, bundle: Bundle | None) -> None:
        """Set one peer's pin; a bundle of None keeps what was pinned before."""
        documents = self.documents()
        entry = documents.setdefault(email, {"public_encryption_bundle": None})
        entry["state"] = state
        if bundle is not None:
            entry["public_encryption_bundle"] = bundle.document
        write_private(self._path, wire.canonical_json(documents))

    def _parse(self) -> dict[str, Pin]:
        try:
            documents = json.loads(self._path.read_bytes())
            pins = {}
            for email, entry in documents.items():
                document = entry["public_encryption_bundle"]
                bundle = None if document is None else parse_bundle(email, document)
                pins[email] = Pin(state=PeerState(entry["state"]).value, bundle=bundle)
        except (ValueError, TypeError, KeyError, AttributeError, BadMessage):
            raise StateError(
                f"The list of peers {self._path} is damaged.",
                hint="Restore it from a backup, or remove it and accept every peer again.",
            ) from None
        return {email: pin for email, pin in pins.items() if is_email(email)}
