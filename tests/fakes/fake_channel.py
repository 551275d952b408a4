"""The channel for the messages of rounds, in memory; the fakes of both ports have its two ends."""

from __future__ import annotations

import functools

from privnb.datasite.ports import MAX_ROUND_BYTES
from privnb.errors import BadMessage


class FakeChannel:
    """What waits to be heard, by owner, analyst, run and name. Share one to join fake ports."""

    def __init__(self):
        self.asks: dict[tuple[str, str, str, str], bytes] = {}
        self.answers: dict[tuple[str, str, str, str], bytes] = {}
        self.heard: list[tuple[str, str, str, str]] = []
        """Which asks were read."""

    def forget(self, owner, analyst, run):
        for waiting in (self.asks, self.answers):
            for key in list(waiting):
                if key[:3] == (owner, analyst, run):
                    waiting.pop(key, None)


class _End:
    email: str

    @functools.cached_property
    def channel(self):
        return FakeChannel()


class AnalystEnd(_End):
    """What an `AnalystPort` does with rounds."""

    email = "ana@uni.example"

    def tell(self, owner, run, name, data):
        self.channel.asks[owner, self.email, run, name] = bytes(data)

    def hear(self, owner, run, name):
        return self.channel.answers.pop((owner, self.email, run, name), None)

    def forget_run(self, owner, run):
        self.channel.forget(owner, self.email, run)


class OwnerEnd(_End):
    """What an `OwnerPort` does with rounds."""

    email = "owner@northside.example"

    def asked(self, analyst, run):
        here = (self.email, analyst, run)
        return sorted(key[3] for key in list(self.channel.asks) if key[:3] == here)

    def size(self, analyst, run, name):
        return len(self.channel.asks.get((self.email, analyst, run, name), b""))

    def hear(self, analyst, run, name, *, limit=MAX_ROUND_BYTES):
        if self.size(analyst, run, name) > limit:
            del self.channel.asks[self.email, analyst, run, name]
            raise BadMessage("it is too large")
        self.channel.heard.append((self.email, analyst, run, name))
        return self.channel.asks.get((self.email, analyst, run, name))

    def tell(self, analyst, run, name, data):
        self.channel.answers[self.email, analyst, run, name] = bytes(data)
        self.channel.asks.pop((self.email, analyst, run, name), None)

    def forget_run(self, analyst, run):
        self.channel.forget(self.email, analyst, run)
