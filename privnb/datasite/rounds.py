"""The channel for the messages of rounds: small files beside the jobs, one for each step of a run.

A job is right for what is decided once and audited. What follows it, round by round, is a matter
of milliseconds, so it is neither made durable nor kept: what is lost costs one attempt. Each file
is an envelope of PySyft around a line that says what it is, and the data. The storage can therefore
withhold a message, or deliver it again in its place, and nothing else: whoever hears has to count.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from privnb import wire
from privnb.datasite.connection import answers_path, asks_path
from privnb.datasite.envelope import open_envelope
from privnb.datasite.names import is_job_name, is_step_name
from privnb.datasite.ports import MAX_ROUND_BYTES
from privnb.errors import BadMessage, ExchangeUnavailable, NotAPeer

if TYPE_CHECKING:
    from privnb.datasite.box import Box
    from privnb.datasite.home import Home

__all__ = ["MAX_ROUND_ENVELOPE", "Channel"]

log = logging.getLogger("privnb.datasite")

_AROUND = 64 * 1024
"""Room for what is around a message's data: PySyft adds four kilobytes, we a line."""
MAX_ROUND_ENVELOPE = MAX_ROUND_BYTES + _AROUND
"""The largest message of a round that is read from the exchange at all, in bytes."""
_MAX_WAITING = 64
"""How many asks of one run are looked at; there are never more than a few."""
_KEPT = 64 * 1024
"""How much of a refused message is kept for an inspection, in bytes."""
_MAX_STUCK = 1000

_Kind = Literal["ask", "answer"]


class Channel:
    """One party's end of the channel to all its peers. Safe from any thread, beside all else.

    Nothing of the home is written but its quarantine, so that no lock is taken.
    """

    def __init__(self, box: Box, *, home: Home, role: Literal["owner", "analyst"]) -> None:
        self._box = box
        self._home = home
        self._role = role
        self._sends: _Kind = "answer" if role == "owner" else "ask"
        self._hears: _Kind = "ask" if role == "owner" else "answer"
        self._stuck: set[tuple[str, ...]] = set()
        """What was heard, or refused, and could not be removed."""

    def tell(self, peer: str, run: str, name: str, data: bytes) -> None:
        """Send ``data`` as the step ``name`` of a run, in place of what was sent before.

        Raises
        ------
        BadMessage
            A name is not of the allowed form, or the data is too large.
        NotAPeer
            The peer is not accepted.
        ExchangeUnavailable
            Nothing was sent.
        """
        _check_run(run)
        _check_step(name)
        if len(data) > MAX_ROUND_BYTES:
            raise BadMessage(
                f"A message of a round has {len(data)} bytes; at most {MAX_ROUND_BYTES} are sent.",
                hint="Send fewer or smaller arrays.",
            )
        line = _line(self._sends, sender=self._box.email, receiver=peer, run=run, name=name)
        self._box.refresh()
        try:
            sealed = self._box.store.encrypt(peer, line + data)
        except ValueError:  # PySyft knows exactly the accepted peers
            raise NotAPeer(
                f"{peer} is not an accepted peer, so nothing is sent.",
                hint="Accept them, or give the run up.",
            ) from None
        self._box.exchange.write(sealed, *self._folder(self._sends, peer, run), name, durable=False)

    def hear(self, peer: str, run: str, name: str, *, limit: int | None = None) -> bytes | None:
        """Return the peer's message for a step, or None when there is none; it stays there.

        Where nothing is, this costs one look for one file. Of more than ``limit`` bytes, by default
        `MAX_ROUND_BYTES`, none is decrypted. What is refused goes to the home's
        quarantine, is logged to ``privnb.datasite``, and is gone from the exchange.

        Raises
        ------
        BadMessage
            It is not theirs, not for this step, damaged or too large.
        ExchangeUnavailable
            The exchange cannot be read now.
        """
        _check_run(run)
        _check_step(name)
        path = (*self._folder(self._hears, peer, run), name)
        if path in self._stuck:
            self.remove(peer, run, name)
            return None
        self._box.refresh()
        line = _line(self._hears, sender=peer, receiver=self._box.email, run=run, name=name)
        most = MAX_ROUND_ENVELOPE if limit is None else limit + _AROUND
        sealed: bytes | None = b""
        try:
            sealed = self._box.exchange.read(*path, limit=most)
            if sealed is None:
                return None
            return _after(line, open_envelope(self._box.store, peer, sealed))
        except BadMessage as bad:
            self._home.quarantine(peer, bad.message, (sealed or b"")[:_KEPT])
            self.remove(peer, run, name)
            raise BadMessage(
                f"A message that claims to come from {peer} was refused: {bad.message.rstrip('.')}."
            ) from None

    def take(self, peer: str, run: str, name: str) -> bytes | None:
        """`hear` it once: then it is gone."""
        data = self.hear(peer, run, name)
        if data is not None:
            self.remove(peer, run, name)
        return data

    def size(self, peer: str, run: str, name: str) -> int:
        """Return about how many bytes `hear` would return, without reading them; 0: none."""
        _check_run(run)
        _check_step(name)
        return self._box.exchange.size(*self._folder(self._hears, peer, run), name)

    def waiting(self, peer: str, run: str) -> list[str]:
        """Return the names of the messages that wait to be heard, sorted; the first 64."""
        _check_run(run)
        folder = self._folder(self._hears, peer, run)
        names = filter(is_step_name, self._box.exchange.names(*folder))
        return [name for name in names if (*folder, name) not in self._stuck][:_MAX_WAITING]

    def remove(self, peer: str, run: str, name: str) -> None:
        """Remove what was heard. While that is not possible, it is not heard again either."""
        path = (*self._folder(self._hears, peer, run), name)
        try:
            self._box.exchange.remove(*path)
        except ExchangeUnavailable:
            log.warning("a message of %s cannot be removed from the exchange; ignored", peer)
            if len(self._stuck) >= _MAX_STUCK:
                self._stuck.clear()
            self._stuck.add(path)
        else:
            self._stuck.discard(path)

    def forget(self, peer: str, run: str) -> None:
        """Remove what is left of a run, both ways, as far as the exchange allows it now."""
        _check_run(run)
        kinds: tuple[_Kind, ...] = ("ask", "answer")
        for kind in kinds:
            try:
                self._box.exchange.remove(*self._folder(kind, peer, run))
            except ExchangeUnavailable:
                log.warning("what is left of a run with %s cannot be removed now", peer)

    def _folder(self, kind: _Kind, peer: str, run: str) -> tuple[str, ...]:
        me = self._box.email
        owner, analyst = (me, peer) if self._role == "owner" else (peer, me)
        path = asks_path if kind == "ask" else answers_path
        return path(owner, analyst, run)


def _line(kind: _Kind, *, sender: str, receiver: str, run: str, name: str) -> bytes:
    """Return what a message begins with. It has one spelling, so that its bytes are compared."""
    fields = {"kind": kind, "name": name, "receiver": receiver, "run": run, "sender": sender}
    return wire.canonical_json(fields) + b"\n"


def _after(line: bytes, plain: bytes) -> bytes:
    if not plain.startswith(line):
        raise BadMessage("it was written for another step, run, party or direction")
    return plain[len(line) :]


def _check_run(run: str) -> None:
    if not is_job_name(run):
        raise BadMessage(f"{run[:64]!a} is no run's name; it takes 32 hexadecimal digits.")


def _check_step(name: str) -> None:
    if not is_step_name(name):
        raise BadMessage(f"{name[:64]!a} is no step's name; one is 000001-share, for example.")
