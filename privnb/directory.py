"""Which sites are on the exchange, whose they are, and what they say they offer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

from privnb.errors import (
    AuditBroken,
    NotAPeer,
    PrivnbError,
    ResultPending,
    StateError,
    UnknownName,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.dispatch import Dispatch
    from privnb.messages import SiteDescription
    from privnb.store import Store

__all__ = ["Directory"]

T = TypeVar("T")


class Directory:
    """The sites as one analyst sees them, under the names by which they are asked.

    A name that two owners show belongs to the one that accepted us; if both did, or none, each
    goes by ``name@owner`` only.
    """

    def __init__(
        self, *, email: str, datasite: AnalystPort, store: Store, dispatch: Dispatch
    ) -> None:
        self._email = email
        self._datasite = datasite
        self._store = store
        self._dispatch = dispatch
        self._cards: dict[str, SiteCard] = {}
        self.described: dict[str, SiteDescription] = {}
        """What was heard last, without asking anybody."""
        self.distrusted: dict[str, AuditBroken] = {}
        """Sites that show another audit key than they did first."""

    def names(self) -> list[str]:
        """List the sites' names, as far as they are known."""
        return sorted(self._cards or self.cards())

    def cards(self) -> Mapping[str, SiteCard]:
        """Read the sites' cards from the exchange again."""
        claims: dict[str, list[SiteCard]] = {}
        for card in self._datasite.sites():
            claims.setdefault(card.name, []).append(card)
        cards = {}
        for name, claimants in claims.items():
            accepted = [card for card in claimants if card.state == "accepted"]
            trusted = claimants if len(claimants) == 1 else accepted
            if len(trusted) == 1:
                cards[name] = trusted[0]
            if len(claimants) > 1:
                cards |= {f"{name}@{card.owner}": card for card in claimants}
        self._cards = cards
        return cards

    def card(self, site: str) -> SiteCard:
        """Find one site, or raise `UnknownName`."""
        cards = self._cards if site in self._cards else self.cards()
        if site not in cards:
            raise UnknownName.among("site", site, cards)
        return cards[site]

    def chosen(self, sites: Sequence[str]) -> Mapping[str, SiteCard]:
        """Find the sites that a question is for, each of which has accepted us.

        Raises
        ------
        UnknownName
            No site is named, or one that is not there.
        NotAPeer
            A site has not accepted us; it has been asked to.
        """
        names = [sites] if isinstance(sites, str) else list(dict.fromkeys(sites))
        if not names:
            known = self.names()
            example = known[0] if known else "NAME"
            raise UnknownName(
                "No site was named.",
                hint=f"Add --site {example} (in Python sites=[{example!r}]); repeat it for more. "
                f"There are: {', '.join(known) or 'none yet'}.",
            )
        chosen = {name: self.card(name) for name in names}
        if any(card.state != "accepted" for card in chosen.values()):  # perhaps accepted meanwhile
            self.cards()
            chosen = {name: self.card(name) for name in names}
        for name, card in chosen.items():
            if card.state in ("unknown", "asked"):
                self._datasite.ask(card.owner)
                raise NotAPeer(
                    f"{name} has not accepted {self._email} yet.",
                    hint=f"Ask {card.owner} to run: privnb site accept DIR {self._email}",
                )
        return chosen

    def recalled(self, sites: Mapping[str, SiteCard]) -> Mapping[str, SiteDescription]:
        """Tell what these sites said last, in this kernel or an earlier one; asks nobody."""
        found = {}
        for name, card in sites.items():
            description = self.described.get(name) or self._store.description(card.owner)
            if description is not None:
                found[name] = description
        return found

    def offering(
        self, sites: Mapping[str, SiteCard], require: Callable[[str, SiteDescription], None]
    ) -> Mapping[str, SiteDescription]:
        """Describe sites that all meet a requirement, or raise what it raises.

        Sites are asked again only where one is not known or seems not to meet it: what an owner
        has allowed since counts. A site that is silent may say no itself.
        """
        known = self.recalled(sites)
        if len(known) == len(sites):
            with contextlib.suppress(PrivnbError):
                for name, description in known.items():
                    require(name, description)
                return known
        self.describe()
        known = self.recalled(sites)
        for name, description in known.items():
            require(name, description)
        return known

    def agreeing(
        self,
        sites: Mapping[str, SiteCard],
        require: Callable[[Mapping[str, SiteDescription]], T],
    ) -> T:
        """Return what a requirement on all sites at once makes of what they say, or what it raises.

        Sites are asked anew: what they do together depends on what each of them publishes now, and
        would fail, once paid for, where that has changed.

        Raises
        ------
        ResultPending
            A site has never said anything about itself.
        """
        self.describe()
        known = self.recalled(sites)
        silent = [name for name in sites if name not in known]
        if silent:
            raise ResultPending(
                f"{', '.join(silent)} has not said yet what it offers.",
                hint="Its agent may be down. Try again, or leave it out.",
            )
        return require(known)

    def describe(self) -> Mapping[str, SiteDescription]:
        """Ask every site that accepted us about itself; one that is silent, as it last was."""
        cards = {name: card for name, card in self.cards().items() if card.state == "accepted"}
        replies = self._dispatch.answers("describe", cards) if cards else {}
        found = {}
        for name, card in sorted(cards.items()):
            reply = replies[name]
            if isinstance(reply, PrivnbError) or reply.description is None:
                description = self._store.description(card.owner)
            else:
                description = reply.description
                with contextlib.suppress(StateError):  # it is for another kernel, or a later one
                    self._store.keep_description(card.owner, description)
                self._pin(name, card.owner, description.audit_key)
            if description is not None:
                found[name] = description
        self.described = found
        return found

    def _pin(self, name: str, owner: str, key: str) -> None:
        """Keep the audit key that a site shows first; what it releases is checked by that one."""
        self.distrusted.pop(name, None)
        try:
            if key:
                self._dispatch.witness.pin(owner, key)
        except AuditBroken as broken:  # one site must not hide the others
            self.distrusted[name] = broken
        except PrivnbError:  # the state kept of it here cannot be used: what it answers will say so
            return
