"""The channel for the messages of rounds: small files beside the jobs, one for each step of a run.

A job is right for what is decided once and audited. What follows it, round by round, is a matter
of milliseconds, so it is neither made durable nor kept: what is lost costs one attempt. Each file
is an envelope of PySyft around a line that says what it is, and the data. The storage can therefore
withhold a message, or deliver it again in its place, and nothing else: whoever hears counts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from privnb import wire
from privnb.datasite.connection import answers_path, asks_path
from privnb.datasite.envelope import open_envelope
from privnb.datasite.names import is_job_name, is_step_name
from privnb.datasite.ports import MAX_ROUND_BYTES
from privnb.errors import BadMessage, ExchangeUnavailable

if TYPE_CHECKING:
    from privnb.datasite.box import Box
    from privnb.datasite.home import Home

__all__ = ["MAX_ROUND_ENVELOPE", "Channel"]

log = logging.getLogger("privnb.datasite")

# PySyft adds four kilobytes, we a line.
MAX_ROUND_ENVELOPE = MAX_ROUND_BYTES + 64 * 1024
"""The largest message of a round that is read from the exchange at all, in bytes."""
_MAX_WAITING = 64
"""How many asks of one run are looked at; it never has more than a few."""
_KEPT = 64 * 1024
"""How much of a refused message is kept for an inspection, in bytes."""
_MAX_IGNORED = 1000

_Kind = Literal["ask", "answer"]


class Channel:
    """One party's end of the channel to all its peers. Safe from any thread.

    Nothing here touches the home but its quarantine, so that no lock is taken. Whoever calls has
    checked that the peer is accepted.
    """

    def __init__(self, box: Box, *, home: Home, role: Literal["owner", "analyst"]) -> None:
        self._box = box
        self._home = home
        self._role = role
        self._sends: _Kind = "answer" if role == "owner" else "ask"
        self._hears: _Kind = "ask" if role == "owner" else "answer"
        self._stuck: set[tuple[str, ...]] = set()

    def tell(self, peer: str, run: str, name: str, data: bytes) -> None:
        """Send ``data`` as the step ``name`` of a run, in the place of what was sent before.

        Raises
        ------
        BadMessage
            A name is not of the allowed form, or the data is too large.
        ExchangeUnavailable
            Nothing was sent.
        """
        _check_names(run, name)
        if len(data) > MAX_ROUND_BYTES:
            raise BadMessage(
                f"A message of a round has {len(data)} bytes; at most {MAX_ROUND_BYTES} are sent.",
                hint="Train fewer parameters.",
            )
        line = _line(self._sends, sender=self._box.email, receiver=peer, run=run, name=name)
        sealed = self._box.store.encrypt(peer, line + data)
        self._box.exchange.write(sealed, *self._folder(self._sends, peer, run), name, durable=False)

    def hear(self, peer: str, run: str, name: str) -> bytes | None:
        """Return the peer's message for a step, or None when there is none; it stays there.

        Raises
        ------
        BadMessage
            It is not theirs, not for this step, damaged or too large. It is gone then.
        ExchangeUnavailable
            The exchange cannot be read now.
        """
        _check_names(run, name)
        path = (*self._folder(self._hears, peer, run), name)
        sealed = b""
        try:
            found = self._box.exchange.read(*path, limit=MAX_ROUND_ENVELOPE)
            if found is None:
                return None
            sealed = found
            plain = open_envelope(self._box.store, peer, sealed)
            line = _line(self._hears, sender=peer, receiver=self._box.email, run=run, name=name)
            if not plain.startswith(line):
                raise BadMessage("it was written for another step, run or party")  # noqa: TRY301
        except BadMessage as bad:
            self._home.quarantine(peer, bad.message, sealed[:_KEPT])
            self.remove(peer, run, name)
            raise BadMessage(
                f"A message that claims to come from {peer} is refused: {bad.message.rstrip('.')}."
            ) from None
        return plain[len(line) :]

    def waiting(self, peer: str, run: str) -> list[str]:
        """Return the names of what lies there to be heard, sorted, the first few."""
        if not is_job_name(run):
            raise BadMessage(f"{run[:64]!a} is no run's name.")
        folder = self._folder(self._hears, peer, run)
        names = self._box.exchange.names(*folder)
        sound = [
            name for name in names if is_step_name(name) and (*folder, name) not in self._stuck
        ]
        return sound[:_MAX_WAITING]

    def remove(self, peer: str, run: str, name: str) -> None:
        """Remove what was heard. Where that is not possible now, it no longer waits."""
        path = (*self._folder(self._hears, peer, run), name)
        try:
            self._box.exchange.remove(*path)
        except ExchangeUnavailable:
            log.warning("a message of %s cannot be removed from the exchange; ignored", peer)
            if len(self._stuck) >= _MAX_IGNORED:
                self._stuck.clear()
            self._stuck.add(path)

    def forget(self, peer: str, run: str) -> None:
        """Remove what is left of a run both ways, as far as the exchange allows."""
        if not is_job_name(run):
            raise BadMessage(f"{run[:64]!a} is no run's name.")
        kinds: tuple[_Kind, ...] = ("ask", "answer")
        for kind in kinds:
            folder = self._folder(kind, peer, run)
            try:
                self._box.exchange.remove(*folder)
            except ExchangeUnavailable:
                log.warning("what is left of a run of %s cannot be removed now", peer)
            self._stuck = {path for path in self._stuck if path[:-1] != folder}

    def _folder(self, kind: _Kind, peer: str, run: str) -> tuple[str, ...]:
        me = self._box.email
        owner, analyst = (me, peer) if self._role == "owner" else (peer, me)
        path = asks_path if kind == "ask" else answers_path
        return path(owner, analyst, run)


def _line(kind: _Kind, *, sender: str, receiver: str, run: str, name: str) -> bytes:
    """Return what a message begins with; there is one spelling of it, so bytes are compared."""
    fields = {"kind": kind, "name": name, "receiver": receiver, "run": run, "sender": sender}
    return wire.canonical_json(fields) + b"\n"


def _check_names(run: str, name: str) -> None:
    if not is_job_name(run):
        raise BadMessage(f"{run[:64]!a} is no run's name; it takes 32 hexadecimal digits.")
    if not is_step_name(name):
        raise BadMessage(f"{name[:64]!a} is no step's name; it is such as 000001-share.")
