"""What the rest of privnb needs of a datasite: the PySyft adapter provides it, tests fake it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "MAX_ROUND_BYTES",
    "AnalystPort",
    "ArrivedJob",
    "ArrivedReply",
    "OwnerPort",
    "Peer",
    "SeenJobs",
    "SiteCard",
]

MAX_ROUND_BYTES = 128 * 1024 * 1024
"""The most bytes that one message of a round may have, either way."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Somebody on the other side, as the owner sees them."""

    email: str
    fingerprint: str | None
    """Fingerprint of the pinned key, or of the one now presented; None when none is published."""
    state: Literal["asked", "accepted", "rejected", "key changed"]


@dataclass(frozen=True, kw_only=True)
class SiteCard:
    """A site as its storage shows it to anybody: nothing here is proved."""

    name: str
    owner: str
    last_seen: float | None
    """When its agent was last alive, seconds since the epoch by the agent's clock."""
    fingerprint: str | None
    state: Literal["unknown", "asked", "accepted", "key changed"]


@dataclass(frozen=True, kw_only=True)
class ArrivedJob:
    """A job whose sender is verified: the bytes are theirs, and only theirs."""

    sender: str
    name: str
    files: Mapping[str, bytes]
    """By path relative to the job's code folder."""


@dataclass(frozen=True, kw_only=True)
class ArrivedReply:
    """The outputs of one of our jobs, verified to come from that site."""

    owner: str
    name: str
    files: Mapping[str, bytes]


class SeenJobs(Protocol):
    """The ledger of job names ever taken in, so that a replay is noticed."""

    def seen(self, sender: str, name: str) -> bool:
        """Tell whether this sender's job was taken in before."""
        ...


class OwnerPort(Protocol):
    """The owner's side of the exchange. Safe to use from one thread at a time.

    `asked`, `size`, `hear`, `tell` and `forget_run` are safe from any thread, beside all others.
    """

    @property
    def fingerprint(self) -> str:
        """Fingerprint of our own public key, to be read out over the telephone."""
        ...

    def peers(self) -> Sequence[Peer]:
        """Everybody who asked or was decided on."""
        ...

    def accept(self, email: str, *, fingerprint: str | None = None) -> Peer:
        """Pin the key ``email`` presents now. Raises `KeyChanged` when it is not the one named."""
        ...

    def publish_card(self, name: str) -> None:
        """Show the site's name and that its agent is alive now."""
        ...

    def poll(self, seen: SeenJobs) -> Sequence[ArrivedJob]:
        """Take in what accepted peers sent; quarantine what is malformed, forged or replayed.

        Jobs that were taken in but not yet retired, before a crash say, are returned again.
        Raises `ExchangeUnavailable` only.
        """
        ...

    def reply(self, job: ArrivedJob, files: Mapping[str, bytes], *, succeeded: bool) -> None:
        """Send the outputs, end-to-end encrypted, then retire the job. May be repeated."""
        ...

    def retire(self, job: ArrivedJob) -> None:
        """Forget a job without a reply."""
        ...

    def asked(self, analyst: str, run: str) -> Sequence[str]:
        """Return the names of the asks of a run that wait for an answer, sorted.

        A name is six digits, a hyphen and up to twenty lower-case letters, and is used once in a
        run. The run is named as the job that it belongs to.
        """
        ...

    def size(self, analyst: str, run: str, name: str) -> int:
        """Return about how many bytes an ask has, without reading it; 0 when nothing is there.

        Anybody who may write to the storage can have put it there: only `hear` says whose it is.
        """
        ...

    def hear(
        self, analyst: str, run: str, name: str, *, limit: int = MAX_ROUND_BYTES
    ) -> bytes | None:
        """Return what an analyst asks under a name; None when nothing is there.

        Of more than about ``limit`` bytes nothing is read, and it counts as too large.

        The ask stays until `tell` answers it. Raises `BadMessage` when it is not theirs, was moved
        from elsewhere, is damaged or too large: it is in the quarantine then, and gone.
        """
        ...

    def tell(self, analyst: str, run: str, name: str, data: bytes) -> None:
        """Answer the ask of that name, or tell unasked; then the ask is gone.

        At most `MAX_ROUND_BYTES`. Raises `NotAPeer` when the analyst is not accepted.
        """
        ...

    def forget_run(self, analyst: str, run: str) -> None:
        """Remove what is left of a run's rounds, answers not heard yet too. Never fails."""
        ...


class AnalystPort(Protocol):
    """The analyst's side of the exchange. Safe between threads and between kernels."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of our own public key."""
        ...

    def sites(self) -> Sequence[SiteCard]:
        """Every site that shows a card on the exchange."""
        ...

    def ask(self, owner: str, *, fingerprint: str | None = None) -> None:
        """Ask a site's owner to become a peer; repeating it does nothing.

        With a fingerprint, pin exactly that key of theirs, also in place of another.
        """
        ...

    def submit(self, owner: str, name: str, files: Mapping[str, bytes]) -> None:
        """Send a job, encrypted to the owner's pinned key, or raise `NotAPeer` or `KeyChanged`."""
        ...

    def poll(self, owner: str) -> Sequence[ArrivedReply]:
        """Take in what arrived from one site, for whichever kernel asked.

        A reply is returned again until it is retired, so that a crash loses none.
        """
        ...

    def retire(self, owner: str, name: str) -> None:
        """Forget a job whose reply was stored."""
        ...

    def tell(self, owner: str, run: str, name: str, data: bytes) -> None:
        """Ask a site for one step of a run; see `OwnerPort.asked` for its name.

        At most `MAX_ROUND_BYTES`. It is encrypted to the owner's pinned key. Raises as `submit`.
        """
        ...

    def hear(self, owner: str, run: str, name: str) -> bytes | None:
        """Take what a site told under a name; None while nothing is there.

        Raises `BadMessage` when it is not that owner's, was moved from elsewhere, is damaged or
        too large: it is in the quarantine then, and gone.
        """
        ...

    def forget_run(self, owner: str, run: str) -> None:
        """Remove what is left of a run's rounds, asks not answered yet too. Never fails."""
        ...
