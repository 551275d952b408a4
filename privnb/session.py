"""The analyst's side: connect to an exchange, ask its sites, wait, and keep what they release."""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from privnb import wire
from privnb.computation import Computation, Parameters, parse_epsilon
from privnb.errors import (
    ExchangeError,
    NotAPeer,
    PrivnbError,
    QueryRefused,
    RequestRefused,
    ResultPending,
    UnknownName,
)
from privnb.messages import (
    REPLY_FILE,
    SOURCE_FILE,
    SUBMISSION_FILE,
    Budget,
    SiteDescription,
    Submission,
)
from privnb.release import Estimates, Release
from privnb.request import Request
from privnb.store import Record, Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from pandas import DataFrame

    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.messages import Reply

__all__ = ["Session", "connect", "default_home"]

_QUICK = 10.0
"""Seconds to wait for answers that cost nothing: descriptions, estimates, mock answers."""


def connect(*, email: str, exchange: str, home: str | Path | None = None) -> Session:
    """Open the exchange as one analyst, and ask every site on it to become a peer.

    Parameters
    ----------
    email
        Who you are to the sites; their owners accept you under this address.
    exchange
        The storage you share with them: a folder, or any fsspec URL.
    home
        Where your keys and requests are kept; by default a folder of yours that depends on email
        and exchange, below ``PRIVNB_HOME`` if that is set.

    Raises
    ------
    ExchangeUnavailable
        The storage cannot be read.
    StateError
        The local folder cannot be used.

    Examples
    --------
    >>> session = connect(email="ana@uni.example", exchange="shared/")  # doctest: +SKIP
    """
    from privnb.datasite.analyst import AnalystDatasite  # noqa: PLC0415 - PySyft takes a second

    place = Path(home) if home is not None else default_home(email, exchange)
    store = Store(place)
    datasite = AnalystDatasite.open(place / "datasite", email=email, exchange=exchange)
    session = Session(email=email, exchange=exchange, datasite=datasite, store=store)
    session.ask_sites()
    return session


def default_home(email: str, exchange: str) -> Path:
    """Where an analyst's state for one exchange is kept when nothing else is said."""
    import platformdirs  # noqa: PLC0415 - only when nobody named a folder

    root = os.environ.get("PRIVNB_HOME") or platformdirs.user_data_dir("privnb", appauthor=False)
    place = exchange if "://" in exchange else str(Path(exchange).expanduser().resolve())
    readable = re.sub(r"[^A-Za-z0-9.@-]", "_", email)[:64]
    return Path(root) / f"{readable}-{wire.sha256_hex(wire.canonical_json([email, place]))[:12]}"


class Session:
    """One analyst on one exchange. Made by `connect`.

    A session holds no secret state: several kernels of the same analyst may have one each.
    """

    def __init__(self, *, email: str, exchange: str, datasite: AnalystPort, store: Store) -> None:
        self.email = email
        self.exchange = exchange
        self._datasite = datasite
        self._store = store
        self._cards: dict[str, SiteCard] = {}
        self._descriptions: dict[str, SiteDescription] = {}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of your public key, for owners who want to compare it before accepting."""
        return self._datasite.fingerprint

    # Sites and what they offer

    def ask_sites(self) -> None:
        """Ask every site on the exchange to become a peer; those asked before are left alone."""
        for card in self._read_cards().values():
            if card.state == "unknown":
                self._datasite.ask(card.owner)

    def site_names(self) -> list[str]:
        """List the sites on the exchange, without asking them anything."""
        return sorted(self._cards or self._read_cards())

    def descriptions(self, *, refresh: bool = False) -> Mapping[str, SiteDescription]:
        """Tell what each site that accepted us says about itself, by site name.

        Asked once and then remembered; with ``refresh`` all sites are asked again. A site that
        does not answer within some seconds is described as it last was, or left out.
        """
        if refresh or not self._descriptions:
            self._descriptions = self._ask_descriptions()
        return self._descriptions

    def known_descriptions(self) -> Mapping[str, SiteDescription]:
        """Tell what was heard before, without asking anybody: for completion while typing."""
        return self._descriptions

    def sites(self) -> DataFrame:
        """One row per site: owner, state, tables, purposes, budget left, agent last seen."""
        from privnb.listings import sites_frame  # noqa: PLC0415 - pandas stays out of start-up

        described = self.descriptions(refresh=True)
        return sites_frame(self._read_cards(), described)

    def schema(self, table: str) -> DataFrame:
        """One row per site and column of a table: type, bounds, public values, privacy unit.

        Raises `UnknownName` when no site that accepted us has the table.
        """
        from privnb.listings import schema_frame  # noqa: PLC0415 - pandas stays out of start-up

        return schema_frame(self.descriptions(), table)

    def trust(self, site: str, fingerprint: str) -> None:
        """Pin exactly this key of a site, also in the place of one pinned before.

        Parameters
        ----------
        fingerprint
            What the owner read out to you over the telephone, in any grouping.

        Raises
        ------
        KeyChanged
            The site presents another key; nothing changed.
        NotAPeer
            The owner has not accepted us yet.
        """
        cards = self._read_cards()
        if site not in cards:
            raise UnknownName.among("site", site, cards)
        self._datasite.ask(cards[site].owner, fingerprint=fingerprint)
        self._read_cards()

    # Budgets

    def budgets(self) -> tuple[tuple[str, Budget], ...]:
        """Each grant of ours, as (site, budget with its history), asked of the sites now."""
        described = self.descriptions(refresh=True)
        return tuple((name, budget) for name, site in described.items() for budget in site.budgets)

    def budget(self) -> DataFrame:
        """One row per grant: site, table, purpose, epsilon granted, spent and left, until when."""
        from privnb.listings import budgets_frame  # noqa: PLC0415 - pandas stays out of start-up

        return budgets_frame(self.budgets())

    # Questions

    def secure(
        self,
        sql: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal,
        purpose: str,
        params: Parameters | None = None,
    ) -> Request:
        """Ask sites for a protected answer, and charge your budget there for it.

        Parameters
        ----------
        sql
            One SELECT; it is sent, hashed and shown to the owner exactly as written.
        sites
            Names of the sites to ask; each answers, and charges, for itself.
        epsilon
            The privacy loss offered to each site, 0.0001 to 20.
        purpose
            What the answer is for; must be one the site's grant covers.
        params
            Values for ``:name`` in the SQL: JSON scalars, or lists of them.

        Raises
        ------
        UnknownName
            No such site.
        QueryRefused
            Epsilon, purpose or parameters make no sense.
        NotAPeer, KeyChanged
            A site has not accepted us, or shows another key than before.

        Examples
        --------
        >>> request = session.secure(
        ...     "SELECT COUNT(*) FROM visits",
        ...     sites=["northside"],
        ...     epsilon=1,
        ...     purpose="utilisation-research",
        ... )  # doctest: +SKIP
        >>> request.result(timeout=60).df  # doctest: +SKIP
        """
        cards = self._cards_of(sites)
        if not purpose:
            raise RequestRefused(
                "No purpose was given.",
                hint="Say what the answer is for; %privnb sites lists the purposes of each table.",
                code="E_PURPOSE",
            )
        computation = self._computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        return self._submit("run", cards, computation)

    def estimate(
        self,
        sql: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal,
        purpose: str | None = None,
        params: Parameters | None = None,
    ) -> Estimates:
        """Learn the price and the expected error at each site. Costs nothing, touches no data."""
        cards = self._cards_of(sites)
        computation = self._computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        replies = self._answers("estimate", cards, computation)
        found = {
            site: reply.estimate
            for site, reply in replies.items()
            if not isinstance(reply, PrivnbError) and reply.estimate is not None
        }
        problems = {s: reply for s, reply in replies.items() if isinstance(reply, PrivnbError)}
        if problems and not found:
            raise next(iter(problems.values()))
        return Estimates(by_site=found, problems=problems)

    def mock(
        self,
        sql: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal = 1,
        params: Parameters | None = None,
    ) -> Release:
        """Try a question on the sites' mock twins: synthetic rows, nothing spent, nothing real."""
        cards = self._cards_of(sites)
        computation = self._computation(sql, epsilon=epsilon, purpose=None, params=params)
        request = self._submit("mock", cards, computation)
        try:
            return request.result(timeout=_QUICK)
        finally:
            self._store.forget(request.id)

    # Requests made before

    def requests(self) -> DataFrame:
        """One row per request of ours, newest first: state per site, purpose, epsilon, question."""
        from privnb.listings import requests_frame  # noqa: PLC0415 - pandas stays out of start-up

        requests = [self._handle(record) for record in self._store.records()]
        for request in requests:
            with contextlib.suppress(ExchangeError):  # what is known here is listed all the same
                request.poll()
        return requests_frame(requests)

    def request(self, request: str) -> Request:
        """Take up a request again by its id, or the beginning of it."""
        return self._handle(self._store.record(request))

    # How a question travels

    def _computation(
        self,
        sql: str,
        *,
        epsilon: float | str | Decimal,
        purpose: str | None,
        params: Parameters | None,
    ) -> Computation:
        if not sql.strip():
            raise QueryRefused(
                "The query is empty.",
                hint="Write one SELECT, for example SELECT COUNT(*) FROM visits.",
                code="E_NOT_SELECT",
            )
        return Computation(
            kind="sql",
            source=sql,
            parameters=_checked_parameters(params),
            purpose=purpose,
            epsilon=str(parse_epsilon(epsilon)),
        )

    def _submit(
        self,
        action: Literal["describe", "estimate", "mock", "run"],
        cards: Sequence[SiteCard],
        computation: Computation | None,
    ) -> Request:
        request = secrets.token_hex(16)
        submission = Submission(request=request, action=action, computation=computation)
        files = {SUBMISSION_FILE: wire.encode(submission)}
        if computation is not None:
            files[SOURCE_FILE] = computation.source.encode()
        record = Record(
            request=request,
            action=action,
            asked_at=datetime.now(UTC).isoformat(timespec="seconds"),
            sites={card.name: card.owner for card in cards},
            computation=computation,
        )
        self._store.add(record)
        sent = 0
        try:
            for card in cards:
                self._datasite.submit(card.owner, request, files)
                sent += 1
        except BaseException:
            if not sent:
                self._store.forget(request)
            raise
        return self._handle(record)

    def _handle(self, record: Record) -> Request:
        return Request(record, store=self._store, fetch=self._fetch)

    def _fetch(self, owner: str) -> None:
        for reply in self._datasite.poll(owner):
            data = reply.files.get(REPLY_FILE)
            if data is not None and self._store.knows(reply.name):
                self._store.keep_reply(reply.name, owner, data)
            self._datasite.retire(owner, reply.name)

    def _answers(
        self,
        action: Literal["describe", "estimate"],
        cards: Sequence[SiteCard],
        computation: Computation | None,
    ) -> Mapping[str, Reply | PrivnbError]:
        """Ask what costs nothing, and forget the request."""
        from privnb.listings import ago  # noqa: PLC0415 - pandas stays out of start-up

        request = self._submit(action, cards, computation)
        end = time.monotonic() + _QUICK
        try:
            while not request.poll() and time.monotonic() < end:
                time.sleep(0.003)
            waiting = {
                card.name: ResultPending(
                    f"{card.name} did not answer within {_QUICK:g} seconds; "
                    f"its agent was last seen {ago(card.last_seen)}.",
                    hint="Ask its owner whether the agent is running.",
                )
                for card in cards
            }
            return {**waiting, **request.replies()}
        finally:
            self._store.forget(request.id)

    def _ask_descriptions(self) -> dict[str, SiteDescription]:
        cards = [card for card in self._read_cards().values() if card.state == "accepted"]
        replies = self._answers("describe", cards, None) if cards else {}
        found = {}
        for card in cards:
            reply = replies[card.name]
            if isinstance(reply, PrivnbError) or reply.description is None:
                remembered = self._store.description(card.owner)
                if remembered is not None:
                    found[card.name] = remembered
            else:
                self._store.keep_description(card.owner, reply.description)
                found[card.name] = reply.description
        return dict(sorted(found.items()))

    def _read_cards(self) -> dict[str, SiteCard]:
        """Read the cards again. A name that two owners show is good only if one accepted us."""
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

    def _cards_of(self, sites: Sequence[str]) -> list[SiteCard]:
        if isinstance(sites, str):
            sites = [sites]
        if not sites:
            raise UnknownName(
                "No site was named.",
                hint=f"Name one or more of: {', '.join(self.site_names()) or 'none known yet'}.",
            )
        cards = self._cards if set(sites) <= set(self._cards) else self._read_cards()
        for site in sites:
            if site not in cards:
                raise UnknownName.among("site", site, cards)
        chosen = [cards[site] for site in dict.fromkeys(sites)]
        if any(card.state != "accepted" for card in chosen):  # perhaps accepted meanwhile
            cards = self._read_cards()
            chosen = [cards[site] for site in dict.fromkeys(sites)]
        for card in chosen:
            if card.state in ("unknown", "asked"):
                self._datasite.ask(card.owner)
                raise NotAPeer(
                    f"{card.name} has not accepted {self.email} yet.",
                    hint=f"Ask {card.owner} to run: privnb site accept DIR {self.email}",
                )
        return chosen


def _checked_parameters(params: Parameters | None) -> Parameters | None:
    """Take JSON scalars and flat lists of them, and say which parameter is something else."""
    checked: Parameters = {}
    for name, value in (params or {}).items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            finite = not isinstance(item, float) or math.isfinite(item)
            if not (finite and isinstance(item, bool | int | float | str | None)):
                raise QueryRefused(
                    f"Parameter {name!r} holds {item!r:.40} ({type(item).__name__}).",
                    hint="A parameter is text, a finite number, true, false, None, or a list.",
                    code="E_PARAMETER",
                )
        checked[name] = value
    return checked or None
