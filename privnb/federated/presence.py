"""Which sites of a run can be asked now, and what became of the others."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from privnb.errors import ExchangeUnavailable, PrivnbError
from privnb.federated.asking import Channel, Party, join_name
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from privnb.federated.progress import Board

__all__ = ["Presence"]

_JOINED = "joined"
_REPLIES_SECONDS = 0.5
"""How often the exchange is looked at for the sites' last replies."""


class Presence:
    """Keeps track of the sites of one run.

    A site is *there* once it has joined, until it does not answer. Then it is there again when it
    answers after all, or joins again as an agent does that was restarted. It is *out* for good
    once its last reply came, or when nothing it sends makes sense.

    Parameters
    ----------
    replies
        What sites have replied for good: an error, or None for one that ended its part well.
    joined
        Told the name of each site that joins.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one way of hearing or telling
        self,
        parties: Sequence[Party],
        *,
        channel: Channel,
        run: str,
        board: Board,
        replies: Callable[[], Mapping[str, PrivnbError | None]],
        joined: Callable[[str], None],
    ) -> None:
        self._parties = tuple(parties)
        self._channel = channel
        self._run = run
        self._board = board
        self._replies = replies
        self._joined = joined
        self._next_replies = 0.0
        self._there: set[Party] = set()
        self._owing: dict[Party, str] = {}
        self._unheard: set[Party] = set()
        self.out: dict[Party, PrivnbError | None] = {}
        """Sites that will not come back, with the reason; None: it ended its part."""

    @property
    def there(self) -> tuple[Party, ...]:
        """Sites that can be asked now, in the order in which they were named."""
        return tuple(party for party in self._parties if party in self._there)

    @property
    def missing(self) -> tuple[Party, ...]:
        """Sites that are not there, and may yet come."""
        return tuple(p for p in self._parties if p not in self._there and p not in self.out)

    def expect(self, names: Collection[str]) -> None:
        """Take sites for ones that can be asked, as they had joined before."""
        for party in self.missing:
            if party.name in names:
                self._arrive(party)

    def told(self, states: Mapping[str, str]) -> None:
        """Take in how far sites say they are with the decision whether they take part."""
        for party in self.missing:
            state = states.get(party.name)
            if state == _JOINED:  # which it may say before its word for it is here
                self._unheard.add(party)
                self._arrive(party)
            elif state is not None:
                self._board.joined(party.name, state)

    def listen(self) -> None:
        """Look for sites that have joined, come back or replied for good. Does not wait."""
        for party in self.missing:
            try:
                if self._has_told(party):
                    self._joined(party.name)
                    self._arrive(party)
            except ExchangeUnavailable:  # a storage that is gone may come back
                return
            except PrivnbError as wrong:
                self._board.remark(f"{party.name}: {brief(wrong.message)}")
        now = time.monotonic()
        if now >= self._next_replies:
            self._next_replies = now + _REPLIES_SECONDS
            for name, error in self._replies().items():
                for party in self._parties:
                    if party.name == name and party not in self.out:
                        self.leave(party, error)

    def lost(self, party: Party, name: str) -> None:
        """Note that a site did not answer in time; it is there again once it does."""
        self._there.discard(party)
        self._owing[party] = name

    def has_rejoined(self, party: Party) -> bool:
        """Look whether a site that is there has joined again: then it has lost its keys."""
        if self._channel.hear(party.owner, self._run, join_name()) is None:
            return False
        first = party in self._unheard
        self._unheard.discard(party)
        if first:
            self._joined(party.name)
        return not first

    def back(self, party: Party) -> None:
        """Note that a site which lost its keys is there again, and take its word for it away."""
        self._there.add(party)
        try:
            self._channel.hear(party.owner, self._run, join_name())
        except PrivnbError:  # it is a word the less that could be taken for another restart
            return

    def leave(self, party: Party, error: PrivnbError | None) -> None:
        """Note that a site will not come back."""
        self._there.discard(party)
        self.out[party] = error
        self._board.joined(party.name, "out" if error is None else brief(error.message))

    def _arrive(self, party: Party) -> None:
        self._owing.pop(party, None)
        self._there.add(party)
        self._board.joined(party.name, _JOINED)

    def _has_told(self, party: Party) -> bool:
        names = [join_name(), *([self._owing[party]] if party in self._owing else [])]
        heard = [self._channel.hear(party.owner, self._run, name) for name in names]
        return any(data is not None for data in heard)
