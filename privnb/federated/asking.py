"""One step of an attempt: many sites are asked at once, and listened to until they have answered.

Nobody is waited for longer than the others need: what is lost is that site's part in one sum.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from privnb.errors import BadMessage, ExchangeUnavailable, PrivnbError
from privnb.federated.messages import Ask, Told, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "BUSY",
    "Asking",
    "Channel",
    "Heard",
    "Pace",
    "Party",
    "RunStopped",
    "join_name",
    "step_name",
]

BUSY = "E_BUSY"
"""What a site says that has no room for a round now: it is asked again."""

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02
_GROWTH = 1.4
_LOOKS_PER_JOIN = 8
"""Between so many looks for an answer there is one whether the site has joined again."""
_TICK = 0.1
_FIRST_BUSY, _LONGEST_BUSY, _BUSY_GROWTH = 0.2, 30.0, 2
"""How long a site that is busy is left alone, in seconds: longer each time."""


class RunStopped(Exception):
    """Whoever drives the run was asked to stop; nothing is wrong."""


class Channel(Protocol):
    """What a run needs of the exchange: see `privnb.datasite.ports.AnalystPort`."""

    def tell(self, owner: str, run: str, name: str, data: bytes) -> None:
        """Ask a site for one step."""
        ...

    def hear(self, owner: str, run: str, name: str) -> bytes | None:
        """Take what a site answered; None while nothing is there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Party:
    """One site in a run."""

    name: str
    owner: str
    key: str
    """Its verifier key: what the sites know it by."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long whom is waited for, in seconds."""

    deadline: float = 600.0
    """A site's work for one round; and sites that have gone, until there are enough for one."""
    quick: float = 20.0
    """What a site can answer at once."""
    grace: float = 5.0
    """Those who are still missing of a quick step once enough have answered."""
    late: float = 30.0
    """Those who still compute once enough others are done, at least; or five times as long as the
    slowest of the others, if that is longer. And those without whom a sum cannot be opened, where
    another round will do."""
    silent: float = 25.0
    """A site whose agent shows no sign of life."""
    settle: float = 15.0
    """Those who have not joined once enough have; where people decide, they have all the time."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What became of one ask."""

    told: Told | None = None
    blob: bytes = b""
    error: PrivnbError | None = None
    """Why what the site sent cannot be read, or nothing could be sent to it."""
    rejoined: bool = False
    """Whether it joined again instead: it has lost its keys."""
    seconds: float = 0.0

    @property
    def silent(self) -> bool:
        """Whether nothing came."""
        return self.told is None and self.error is None and not self.rejoined


def step_name(attempt: int, step: str) -> str:
    """Name the ask for one step, and its answer.

    >>> step_name(12, "reveal")
    '000012-reveal'
    """
    return f"{attempt:06d}-{step}"


def join_name() -> str:
    """Name what a site says when it has decided to take part."""
    return step_name(0, "join")


class Asking:
    """Asks sites of one run, in one thread for each.

    Parameters
    ----------
    stop
        Set by whoever wants this to end.
    rejoined
        Looks whether a site has joined again.
    alive
        Tells by owner when a site was last seen to live, in seconds of `time.monotonic`.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one thing that asking depends on
        self,
        *,
        channel: Channel,
        run: str,
        parties: Sequence[Party],
        pace: Pace,
        stop: threading.Event,
        rejoined: Callable[[Party], bool],
        alive: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self._channel = channel
        self._run = run
        self._pace = pace
        self._stop = stop
        self._rejoined = rejoined
        self._alive = alive
        self._threads = ThreadPoolExecutor(
            max_workers=max(len(parties), 1), thread_name_prefix=f"privnb-{run[:8]}"
        )

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def ask(  # noqa: PLR0913 - keywords, each one rule of how long whom is waited for
        self,
        asks: Mapping[Party, tuple[Ask, bytes]],
        *,
        longest: float,
        enough: Callable[[Mapping[Party, Heard]], bool],
        patience: Callable[[float], float],
        heard_one: Callable[[Party, Heard], None] = lambda _, __: None,
        late: Callable[[Sequence[Party]], None] = lambda _: None,
    ) -> dict[Party, Heard]:
        """Ask sites for a step, and return what became of each ask.

        Parameters
        ----------
        longest
            After how many seconds waiting ends in any case.
        enough
            Whether the attempt can go on with what was heard so far.
        patience
            Given how many seconds the slowest took so far: after how many seconds those still
            missing are not waited for any more, once there is enough.
        heard_one, late
            Called as answers come in, and with those that are slower than others.

        Raises `RunStopped`.
        """
        begun = time.monotonic()
        closed = {party: threading.Event() for party in asks}
        same: dict[int, bytes] = {}  # most steps ask all sites for the same
        waiting: dict[Future[Heard], Party] = {}
        for party, (ask, blob) in asks.items():
            data = same.get(id(ask)) or same.setdefault(id(ask), pack(ask, blob))
            job = self._threads.submit(self._exchange, party, ask, data, closed[party])
            waiting[job] = party
        heard: dict[Party, Heard] = {}
        told_late = False
        while waiting:
            done, _ = concurrent.futures.wait(
                waiting, timeout=_TICK, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                party = waiting.pop(future)
                heard[party] = future.result()
                heard_one(party, heard[party])
            spent = time.monotonic() - begun
            if self._stop.is_set():
                for event in closed.values():
                    event.set()
                raise RunStopped
            if not waiting:
                break
            slowest = max((h.seconds for h in heard.values() if h.told), default=0.0)
            if not told_late and heard and spent > max(2.0, 1.5 * slowest) and enough(heard):
                told_late = True
                late(list(waiting.values()))
            over = spent >= longest or (enough(heard) and spent > patience(slowest))
            for party in waiting.values():
                if over or (spent > self._pace.silent and self._is_lifeless(party, begun)):
                    closed[party].set()
        return heard

    def _is_lifeless(self, party: Party, begun: float) -> bool:
        seen = self._alive() if self._alive is not None else {}
        return (
            party.owner in seen
            and time.monotonic() - max(seen[party.owner], begun) > self._pace.silent
        )

    def _exchange(self, party: Party, ask: Ask, data: bytes, closed: threading.Event) -> Heard:
        """Tell a site, and listen until it has answered or nobody waits for it any more.

        One that is busy is told again, later: it is as if it took longer.
        """
        begun = time.monotonic()
        name = step_name(ask.attempt, ask.step)
        pause, looks, sent = _FIRST_PAUSE, 0, False
        rest = _FIRST_BUSY
        while True:
            try:
                if not sent:
                    self._channel.tell(party.owner, self._run, name, data)
                    sent = True
                said = self._channel.hear(party.owner, self._run, name)
                if said is not None:
                    told, blob = _read(party, ask, said)
                    if told.problem is None or told.problem.code != BUSY:
                        return Heard(told=told, blob=blob, seconds=time.monotonic() - begun)
                    if closed.wait(rest):
                        return Heard(told=told)
                    pause, sent, rest = _FIRST_PAUSE, False, min(_BUSY_GROWTH * rest, _LONGEST_BUSY)
                    continue
                looks += 1
                if looks % _LOOKS_PER_JOIN == 0 and self._rejoined(party):
                    return Heard(rejoined=True)
            except ExchangeUnavailable:  # a storage that is gone may come back
                pause = _LONGEST_PAUSE
            except PrivnbError as error:
                return Heard(error=error)
            if closed.wait(pause):
                return Heard()
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def _read(party: Party, ask: Ask, said: bytes) -> tuple[Told, bytes]:
    """Read what a site answered; raises `BadMessage` where that is no answer to what was asked."""
    told, blob = unpack(Told, said, what=f"What {party.name} told")
    if (told.step, told.attempt) != (ask.step, ask.attempt):
        raise BadMessage(f"{party.name} answered another step.")
    return told, blob
