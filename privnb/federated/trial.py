"""One attempt, from the keys to the sum: asks the sites for each step, hands on what they tell."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, RosterRefused
from privnb.federated.messages import Ask, Form

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from privnb.federated.aggregator import Aggregator
    from privnb.federated.asking import Party
    from privnb.federated.hearing import Hearing
    from privnb.federated.messages import Advert, Told, Work
    from privnb.federated.progress import Board, SiteState

__all__ = ["Task", "Trial", "TrialFailed"]


class TrialFailed(Exception):
    """An attempt that came to nothing.

    Attributes
    ----------
    survivors
        Over whom the sum was being opened, if it was: some of it may be known to somebody.
    doubted
        Whose shares did not fit, so that it could not be opened.
    reason
        What is known of why.
    """

    def __init__(
        self,
        *,
        survivors: Collection[str] = (),
        doubted: Collection[str] = (),
        reason: str = "",
    ) -> None:
        super().__init__(reason)
        self.survivors = frozenset(survivors)
        self.doubted = frozenset(doubted)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the sites are asked to sum."""

    work: Work
    blob: bytes
    digest: str
    """Of work and arrays: what the sites confirm."""
    length: int | None
    """How many numbers a vector has; None: the sites say so by its form."""
    wanted: frozenset[str]
    """Over whom it has to be summed; empty: whoever is there."""
    replaceable: bool = False
    """Whether another round can be done instead, so that nobody is waited for for long."""


class Trial:
    """One attempt as it goes on: `advertise`, `share`, `contribute`, `open`, each once.

    Parameters
    ----------
    parties
        All sites of the run, by key.
    least, threshold
        How many sites have to take part, and to be in the sum.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one thing that an attempt depends on
        self,
        number: int,
        aggregator: Aggregator,
        *,
        hearing: Hearing,
        parties: Mapping[str, Party],
        board: Board,
        least: int,
        threshold: int,
    ) -> None:
        self.number = number
        self.hearing = hearing
        self._aggregator = aggregator
        self._parties = parties
        self._board = board
        self._least = least
        self._threshold = threshold
        self._shares: Mapping[str, Mapping[str, str]] = {}
        self.form: Form | None = None
        """How to read the vectors, where the sites said so."""

    @property
    def roster(self) -> frozenset[str]:
        """Who has shared, once enough have: only these can be in the sum."""
        return frozenset(self._shares)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose vectors are in the sum so far."""
        return self._aggregator.survivors

    # Keys, by themselves or along with the attempt before

    def advertise(self, parties: Sequence[Party]) -> None:
        """Have sites make keys."""
        ask = Ask(step="advertise", attempt=self.number)
        heard = self.hearing.quick(dict.fromkeys(parties, ask), least=self._least)
        for party, told in heard.items():
            self.take_advert(party, told)

    def take_advert(self, party: Party, told: Told) -> None:
        """Take the keys of one site."""
        with self.hearing.naming(party):
            if told.advert is None:
                raise BadMessage(f"{party.name} sent no keys.")
            self._aggregator.advertised(party.key, told.advert)

    def close_adverts(self) -> tuple[Advert, ...]:
        """Return the keys of all who take part; none if these are too few."""
        with contextlib.suppress(RosterRefused):
            return self._aggregator.close_adverts()
        return ()

    def share(self) -> None:
        """Have everybody share secrets with the others, if there are enough."""
        adverts = self.close_adverts()
        if not adverts:
            return
        ask = Ask(step="share", attempt=self.number, adverts=adverts)
        asked = {self._parties[advert.site]: ask for advert in adverts}
        heard = self.hearing.quick(asked, least=self._least)
        for party, told in heard.items():
            self.take_shares(party, told)
        self.close_shares()

    def take_shares(self, party: Party, told: Told) -> None:
        """Take what one site sealed for the others."""
        with self.hearing.naming(party):
            self._aggregator.shared(party.key, told.shares or {})

    def close_shares(self) -> None:
        """Let those who have shared be the roster, if they are enough."""
        with contextlib.suppress(RosterRefused):
            self._shares = self._aggregator.close_shares()

    # Vectors

    def contribute(self, task: Task, following: Trial | None) -> dict[str, str]:
        """Have the roster compute and mask, or those who are wanted; return who did.

        With each comes what it confirmed.

        Parameters
        ----------
        following
            The attempt for which keys are made along the way.

        Raises `TrialFailed` where they are too few, or others than wanted.
        """
        asked = {
            self._parties[key]: Ask(
                step="contribute",
                attempt=self.number,
                shares=dict(shares),
                work=task.work,
                following=following.number if following else None,
            )
            for key, shares in self._shares.items()
            if not task.wanted or key in task.wanted
        }
        least = max(self._threshold, len(task.wanted))
        heard = self.hearing.vectors(asked, task.blob, number=task.work.round, least=least)
        length = task.length
        if length is None:
            self.form = _agreed_form([told for told, _ in heard.values()], task.work)
            length = _length(self.form)
        for party, (told, vector) in heard.items():
            before = len(self.hearing.spoiled)
            with self.hearing.naming(party):
                if self.form is not None and told.form != self.form:
                    raise BadMessage(f"{party.name} sent arrays or metrics of another form.")
                self._aggregator.masked(
                    party.key,
                    vector,
                    length=length,
                    work=task.digest,
                    confirmed=told.confirmed or "",
                )
            if following is not None and len(self.hearing.spoiled) == before:
                following.take_advert(party, told)
        self._show(task.work.round)
        try:
            survivors = self._aggregator.close_vectors()
        except RosterRefused:
            raise TrialFailed from None
        if task.wanted and set(survivors) != task.wanted:
            raise TrialFailed(survivors=task.wanted, reason="Not all of its sites gave their part.")
        return survivors

    def open(self, survivors: dict[str, str], following: Trial | None) -> NDArray[np.uint64]:
        """Have the survivors reveal what takes the masks off their sum.

        Raises `TrialFailed` where too few do.
        """
        agreed = None
        parties = [self._parties[key] for key in survivors]
        if self._aggregator.needs_agreement:
            agreed = self._agreement(parties, survivors)
        adverts = following.close_adverts() if following else ()
        ask = Ask(
            step="reveal",
            attempt=self.number,
            survivors=survivors,
            agreed=agreed,
            adverts=adverts,
        )
        heard = self.hearing.quick(dict.fromkeys(parties, ask), least=self._threshold)
        for party, told in heard.items():
            before = len(self.hearing.spoiled)
            with self.hearing.naming(party):
                if told.reveal is None:
                    raise BadMessage(f"{party.name} revealed nothing.")
                self._aggregator.revealed(party.key, told.reveal)
            if following is not None and adverts and len(self.hearing.spoiled) == before:
                following.take_shares(party, told)
        if following is not None and adverts:
            following.close_shares()
        return self._total(survivors)

    def _agreement(self, parties: Sequence[Party], survivors: dict[str, str]) -> dict[str, str]:
        ask = Ask(step="agree", attempt=self.number, survivors=survivors)
        heard = self.hearing.quick(dict.fromkeys(parties, ask), least=self._threshold)
        for party, told in heard.items():
            with self.hearing.naming(party):
                self._aggregator.agreed(party.key, told.agreed or "")
        agreed = self._aggregator.agreement
        if agreed is None:
            raise TrialFailed(survivors=survivors, reason="Too few agreed on who is in the sum.")
        return agreed

    def _total(self, survivors: Mapping[str, str]) -> NDArray[np.uint64]:
        if not self._aggregator.enough:
            raise TrialFailed(survivors=survivors, reason="Too few revealed what opens the sum.")
        try:
            total = self._aggregator.total()
        except BadMessage as error:
            raise self._unreadable(survivors, error) from None
        for key in self._aggregator.wrong:
            self._board.remark(f"{self._parties[key].name} gave wrong shares; they are not used.")
        return total

    def _unreadable(self, survivors: Mapping[str, str], error: BadMessage) -> TrialFailed:
        """Name whose shares make that the sum cannot be opened, as far as that is known."""
        doubted = [self._parties[key] for key in self._aggregator.doubted]
        names = " and ".join(party.name for party in doubted)
        said = f"The shares that {names} made" if doubted else "Shares of all sites"
        reason = f"{said} do not fit together, so that the sum cannot be opened."
        self._board.remark(reason)
        for party in doubted:
            self.hearing.spoiled[party] = error
        keys = [party.key for party in doubted]
        return TrialFailed(survivors=survivors, doubted=keys, reason=reason)

    def _show(self, number: int) -> None:
        states: dict[str, SiteState] = {
            party.name: "received" if key in self.survivors else "dropped"
            for key, party in self._parties.items()
        }
        self._board.sites(number, states)


def _agreed_form(told: Sequence[Told], work: Work) -> Form:
    """Return the form that most sites gave, of those whose arrays are what the work is about.

    To train, a site gives what it was sent, in new types perhaps; to evaluate, no arrays at all.
    So sites that claim anything else decide on nothing, however many they are.
    """
    expected = [(each.name, each.shape) for each in work.arrays] if work.kind == "train" else []
    forms = Counter(
        each.form
        for each in told
        if each.form is not None
        and [(array.name, array.shape) for array in each.form.arrays] == expected
    )
    return max(forms, key=lambda form: forms[form], default=Form(arrays=()))


def _length(form: Form) -> int:
    return sum(math.prod(array.shape) for array in form.arrays) + len(form.metrics) + 1
