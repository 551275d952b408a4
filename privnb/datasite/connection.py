"""PySyft's connection over our `Exchange`: where each thing lies, and what is never sent.

::

    <email>/version.json                PySyft's version of this party
    <email>/requests/<peer>             <peer> asks <email> to become a peer
    <email>/bundles/<peer>.json         public keys of <email>, published for <peer>
    <owner>/site.json                   the site's card
    <owner>/inbox/<analyst>/…           encrypted jobs
    <owner>/outbox/<analyst>/…          encrypted replies
    <owner>/rounds/<analyst>/<run>/…    encrypted asks of a run that takes many rounds
    <owner>/told/<analyst>/<run>/…      encrypted answers to them

PySyft asks its connection for methods that its base class does not declare; the contract tests
list those that we rely on.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from privnb.datasite.envelope import is_envelope
from privnb.datasite.exchange import Exchange
from privnb.datasite.keys import Pins, parse_bundle
from privnb.datasite.names import is_email
from privnb.datasite.pysyft import ConnectionConfig, SyftboxPlatformConnection, VersionInfo
from privnb.errors import BadMessage, NotAPeer

__all__ = [
    "CARD",
    "ExchangeConnection",
    "ExchangeConnectionConfig",
    "answers_path",
    "asks_path",
    "bundle_path",
    "inbox_path",
    "outbox_path",
    "requests_path",
]

CARD = "site.json"
_VERSION = "version.json"
_MAX_VERSION = 16 * 1024


def requests_path(email: str) -> tuple[str, ...]:
    """Where others ask ``email`` to become a peer."""
    return (email, "requests")


def bundle_path(email: str, peer: str) -> tuple[str, ...]:
    """Where ``email`` publishes public keys for ``peer``."""
    return (email, "bundles", f"{peer}.json")


def inbox_path(owner: str, analyst: str) -> tuple[str, ...]:
    """Where an analyst puts jobs for an owner."""
    return (owner, "inbox", analyst)


def outbox_path(owner: str, analyst: str) -> tuple[str, ...]:
    """Where an owner puts replies for an analyst."""
    return (owner, "outbox", analyst)


def asks_path(owner: str, analyst: str, run: str) -> tuple[str, ...]:
    """Where an analyst asks an owner for the steps of a run."""
    return (owner, "rounds", analyst, run)


def answers_path(owner: str, analyst: str, run: str) -> tuple[str, ...]:
    """Where an owner answers them."""
    return (owner, "told", analyst, run)


class ExchangeConnection(SyftboxPlatformConnection):  # type: ignore[misc]
    """What PySyft calls to reach other parties.

    Peers and their pinned keys are kept in the private home: the exchange cannot change them, and
    PySyft never sees a key that was not checked before.
    """

    @classmethod
    def from_config(cls, config: ExchangeConnectionConfig) -> ExchangeConnection:
        """Make the connection; all of one party's share one exchange and one list of pins."""
        return cls(config=config)

    @property
    def _email(self) -> str:
        return str(self.config.email)

    @property
    def _exchange(self) -> Exchange:
        exchange: Exchange = self.config.exchange
        return exchange

    @property
    def _pins(self) -> Pins:
        pins: Pins = self.config.pins
        return pins

    def get_authenticated_email(self) -> str:
        """Return our own email; nothing authenticates it but our key."""
        return self._email

    def write_version_file(self, version_info: Any) -> None:
        """Publish our PySyft version."""
        self._exchange.write(version_info.to_json().encode(), self._email, _VERSION)

    def share_version_file_with_peer(self, peer_email: str) -> None:
        """Do nothing: whoever sees the exchange sees it."""

    def read_own_version_file(self) -> Any:
        """Return the version that we published, or None."""
        return self.read_peer_version_file(self._email)

    def read_peer_version_file(self, peer_email: str) -> Any:
        """Return the version that somebody published, or None when it makes no sense."""
        try:
            data = self._exchange.read(peer_email, _VERSION, limit=_MAX_VERSION)
            return None if data is None else VersionInfo.from_json(data.decode())
        except (BadMessage, ValueError):
            return None

    def add_peer(self, peer_email: str) -> None:
        """Ask somebody to become a peer."""
        self._exchange.write(b"", *requests_path(peer_email), self._email)

    def get_peer_requests(self) -> list[str]:
        """Return who asked us, whether decided on or not."""
        return [
            name for name in self._exchange.names(*requests_path(self._email)) if is_email(name)
        ]

    def write_encryption_bundle(self, peer_email: str, bundle_json: str) -> None:
        """Publish our public keys for somebody."""
        self._exchange.write(bundle_json.encode(), *bundle_path(self._email, peer_email))

    def share_encryption_bundles_folder(self, peer_email: str) -> None:
        """Do nothing: whoever sees the exchange sees it."""

    def read_peer_encryption_bundle(self, peer_email: str) -> str | None:
        """Return the keys that were checked for this peer; never what the exchange holds now."""
        bundle = self._pins.checked.get(peer_email)
        if bundle is None:
            return None
        return json.dumps({"public_encryption_bundle": bundle.document})

    def _get_peers_json(self, force_download: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002, ARG002 - PySyft's signature
        return self._pins.documents()

    def _update_peer_state(
        self,
        peer_email: str,
        state: str,
        public_encryption_bundle: dict[str, Any] | None = None,
    ) -> None:
        bundle = public_encryption_bundle
        checked = None if bundle is None else parse_bundle(peer_email, bundle)
        self._pins.write(peer_email, state, checked)

    def watcher_send_raw_bytes_to_inbox(self, recipient: str, filename: str, data: bytes) -> None:
        """Send a job."""
        self._send(data, *inbox_path(recipient, self._email), filename)

    def owner_write_raw_bytes_to_outbox(self, recipient: str, filename: str, data: bytes) -> None:
        """Send a reply."""
        self._send(data, *outbox_path(self._email, recipient), filename)

    def _send(self, data: bytes, *path: str) -> None:
        # PySyft sends plain text to a peer whose key it does not have.
        if not is_envelope(data):
            raise NotAPeer(
                "A message was not encrypted, and is not sent.",
                hint="Have the other side accept you again, so that its key is known.",
            )
        self._exchange.write(data, *path)


class ExchangeConnectionConfig(ConnectionConfig):  # type: ignore[misc]
    """What PySyft needs to make our connection."""

    model_config: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}
    connection_type: ClassVar[type[Any]] = ExchangeConnection

    email: str
    exchange: Any
    pins: Any
