"""Asks sites for a step, and sorts out who answered, is silent, was restarted or is wrong."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, PrivnbError, error_from_code
from privnb.federated.asking import Asking, Heard, Pace, Party, step_name
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from privnb.federated.messages import Ask, Told
    from privnb.federated.presence import Presence
    from privnb.federated.progress import Board, SiteState

__all__ = ["Hearing"]

_RESTARTED = "E_RESTARTED"


class Hearing:
    """One attempt's conversation with the sites.

    Attributes
    ----------
    spoiled
        Sites that sent a problem, or what makes no sense, with the reason.
    only
        By site that refuses to be summed with these: the keys of all with whom it would be.
    """

    def __init__(self, asking: Asking, *, presence: Presence, board: Board, pace: Pace) -> None:
        self._asking = asking
        self._presence = presence
        self._board = board
        self._pace = pace
        self.spoiled: dict[Party, PrivnbError] = {}
        self.only: dict[Party, frozenset[str]] = {}

    def quick(self, asked: Mapping[Party, Ask], *, least: int) -> dict[Party, Told]:
        """Ask for what sites can tell at once; return what the good ones told.

        Parameters
        ----------
        least
            How many are enough to go on with: who is missing then is waited for a little only.
        """
        pace = self._pace
        heard = self._asking.ask(
            {party: (ask, b"") for party, ask in asked.items()},
            longest=pace.quick,
            enough=lambda got: sum(map(_is_good, got.values())) >= least,
            patience=lambda slowest: slowest + max(pace.grace, 3 * slowest),
        )
        return {party: told for party, (told, _) in self._sorted_out(asked, heard).items()}

    def vectors(
        self, asked: Mapping[Party, Ask], blob: bytes, *, number: int, least: int
    ) -> dict[Party, tuple[Told, bytes]]:
        """Ask for masked vectors, of the round ``number``; those much later are left out."""
        pace = self._pace

        def show(parties: Sequence[Party], state: SiteState) -> None:
            self._board.sites(number, {party.name: state for party in parties})

        show(list(asked), "training")
        heard = self._asking.ask(
            {party: (ask, blob) for party, ask in asked.items()},
            longest=pace.deadline,
            enough=lambda got: sum(map(_is_good, got.values())) >= least,
            patience=lambda slowest: slowest + max(pace.late, 4 * slowest),
            heard_one=lambda party, one: show([party], "received" if _is_good(one) else "dropped"),
            late=lambda parties: show(parties, "late"),
        )
        return self._sorted_out(asked, heard)

    @contextlib.contextmanager
    def naming(self, party: Party) -> Iterator[None]:
        """Take what one site sent wrongly for that site's fault alone."""
        try:
            yield
        except BadMessage as error:
            self._spoil(party, error)

    def _sorted_out(
        self, asked: Mapping[Party, Ask], heard: Mapping[Party, Heard]
    ) -> dict[Party, tuple[Told, bytes]]:
        good = {}
        for party, one in heard.items():
            told = one.told
            if one.error is not None:
                self._spoil(party, one.error)
            elif one.rejoined or (told and told.problem and told.problem.code == _RESTARTED):
                self._presence.back(party)
                self._board.remark(f"{party.name} was restarted.")
            elif told is None:
                self._presence.lost(party, step_name(asked[party].attempt, asked[party].step))
                self._board.remark(f"{party.name} does not answer.")
            elif told.problem is None:
                good[party] = (told, one.blob)
            else:
                said = told.problem
                words = brief(said.message), brief(said.hint)
                if told.only:
                    self.only[party] = frozenset(told.only)
                self._spoil(party, error_from_code(brief(said.code, 40), *words))
        return good

    def _spoil(self, party: Party, error: PrivnbError) -> None:
        self.spoiled[party] = error
        self._board.remark(f"{party.name} is left out: {brief(error.message)}")


def _is_good(heard: Heard) -> bool:
    return heard.told is not None and heard.told.problem is None
