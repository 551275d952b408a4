"""The analyst's side: connect to an exchange, ask its sites, wait, and keep what they release."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privnb import wire
from privnb.directory import Directory
from privnb.dispatch import QUICK_SECONDS, Dispatch
from privnb.errors import (
    BadMessage,
    ExchangeError,
    ExchangeUnavailable,
    PrivnbError,
    QueryRefused,
    RequestRefused,
)
from privnb.preview import Preview
from privnb.questions import (
    access_ask,
    python_computation,
    require_purpose,
    require_python,
    sql_computation,
)
from privnb.release import Estimates, Release
from privnb.replies import DISTRUST, refusal_of
from privnb.session_together import AsksTogether
from privnb.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from pandas import DataFrame

    from privnb.computation import Computation, Parameters
    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.federated.runs import FederatedRun
    from privnb.messages import Budget, ConsentEntry, SiteDescription, TemplateOffer
    from privnb.request import Request
    from privnb.standing import Standing

__all__ = ["Session", "connect", "default_home"]


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


class Session(AsksTogether):
    """One analyst on one exchange. Made by `connect`.

    A session holds no secret state: several kernels of the same analyst may have one each.
    """

    def __init__(self, *, email: str, exchange: str, datasite: AnalystPort, store: Store) -> None:
        self.email = email
        self.exchange = exchange
        self._datasite = datasite
        self._store = store
        self._dispatch = Dispatch(email=email, datasite=datasite, store=store)
        self._directory = Directory(
            email=email, datasite=datasite, store=store, dispatch=self._dispatch
        )

    @property
    def fingerprint(self) -> str:
        """Fingerprint of your public key, for owners who want to compare it before accepting."""
        return self._datasite.fingerprint

    # Sites and what they offer

    def ask_sites(self) -> None:
        """Ask every site on the exchange to become a peer; those asked before are left alone."""
        for card in self._directory.cards().values():
            if card.state == "unknown":
                self._datasite.ask(card.owner)

    def site_names(self) -> list[str]:
        """List the sites on the exchange, without asking them anything."""
        return self._directory.names()

    def accepted_by(self) -> list[str]:
        """List the sites that have accepted us, without asking them anything."""
        cards = self._directory.cards()
        return sorted(name for name, card in cards.items() if card.state == "accepted")

    def descriptions(self, *, refresh: bool = False) -> Mapping[str, SiteDescription]:
        """Tell what each site that accepted us says about itself, by site name.

        Asked once and then remembered; with ``refresh`` all sites are asked again. A site that
        does not answer within some seconds is described as it last was, or left out.
        """
        if refresh or not self._directory.described:
            return self._directory.describe()
        return self._directory.described

    def known_descriptions(self) -> Mapping[str, SiteDescription]:
        """Tell what was heard before, without asking anybody: for completion while typing."""
        return self._directory.described

    def sites(self) -> DataFrame:
        """One row per site: owner, state, tables, purposes, budget left, agent last seen."""
        from privnb.listings import sites_frame  # noqa: PLC0415 - pandas stays out of start-up

        described = self.descriptions(refresh=True)
        return sites_frame(self._directory.cards(), described, self._directory.distrusted)

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
        self._datasite.ask(self._directory.card(site).owner, fingerprint=fingerprint)
        self._directory.cards()

    # Budgets

    def budgets(self) -> tuple[tuple[str, Budget], ...]:
        """Each grant of ours, as (site, budget with its history), asked of the sites now."""
        described = self.descriptions(refresh=True)
        return tuple((name, budget) for name, site in described.items() for budget in site.budgets)

    def budget(self) -> DataFrame:
        """One row per grant: site, table, purpose, epsilon granted, spent and left, until when."""
        from privnb.listings import budgets_frame  # noqa: PLC0415 - pandas stays out of start-up

        return budgets_frame(self.budgets())

    # Consent

    def consents(self) -> tuple[tuple[str, ConsentEntry], ...]:
        """Tell where each consent to us stands, as (site, consent), asked of the sites now."""
        described = self.descriptions(refresh=True)
        return tuple((name, entry) for name, site in described.items() for entry in site.consents)

    def request_access(
        self,
        site: str,
        table: str,
        purpose: str,
        reason: str,
        epsilon: float | str | Decimal | None = None,
    ) -> ConsentEntry:
        """Ask an owner for a table and a purpose; the owner accepts, limits or refuses.

        Parameters
        ----------
        reason
            What you want to find out, for the owner to read.
        epsilon
            The privacy budget you hope for, above 0 and at most 1000; left out where you only
            want to run cells that people approve.

        Returns
        -------
        ConsentEntry
            Where the consent stands: pending, or what the owner decided before.

        Raises
        ------
        UnknownName
            The site has no such table, or does not allow that purpose for it.
        RequestRefused
            No reason was given, or the site takes no such request.
        ResultPending
            The site is silent. It finds the request when it is back.
        """
        chosen = self._directory.chosen([site])
        access = access_ask(table, purpose=purpose, reason=reason, epsilon=epsilon)
        self._directory.offering(chosen, lambda name, d: require_purpose(name, d, access))
        (reply,) = self._dispatch.answers("request-access", chosen, access=access).values()
        if isinstance(reply, PrivnbError):
            raise reply
        if reply.consent is None:
            raise BadMessage(f"{site} did not say where the request stands.", hint=DISTRUST)
        return reply.consent

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
        chosen = self._directory.chosen(sites)
        self._require_a_purpose(purpose, chosen)
        computation = sql_computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        return self._dispatch.send("run", _owners(chosen), computation)

    def python(  # noqa: PLR0913 - keywords, each one part of the question
        self,
        source: str,
        *,
        sites: Sequence[str],
        tables: Sequence[str],
        purpose: str,
        output: str | None = None,
        params: Parameters | None = None,
    ) -> Request:
        """Ask sites to run Python next to their data, and to let out what it declares.

        What comes back is exact: people at the site, or a rule of its owner's, release it.

        Parameters
        ----------
        source
            The code; it is sent, hashed and shown to the reviewers exactly as written.
        sites
            Names of the sites to ask; each decides for itself.
        tables
            The tables that the code gets, as pandas frames of these names.
        purpose
            What the output is for; must be one the site's grant covers.
        output
            The variable that holds the output; None: the last expression.
        params
            Variables that the code finds: JSON scalars, or lists of them.

        Raises
        ------
        UnknownName
            No such site, or a site has no such table.
        QueryRefused
            The code does not compile, or declares no output; parameters make no sense.
        RequestRefused
            No purpose was given, or a site takes no Python.
        NotAPeer, KeyChanged
            A site has not accepted us, or shows another key than before.

        Examples
        --------
        >>> request = session.python(
        ...     "visits.mdvis.describe()",
        ...     sites=["northside"],
        ...     tables=["visits"],
        ...     purpose="utilisation-research",
        ... )  # doctest: +SKIP
        >>> request  # shows who decides, and the output once it is released  # doctest: +SKIP
        """
        chosen = self._directory.chosen(sites)
        self._require_a_purpose(purpose, chosen)
        computation = self._python_computation(
            source, chosen, tables=tables, purpose=purpose, output=output, params=params
        )
        return self._dispatch.send("run", _owners(chosen), computation)

    def preview(  # noqa: PLR0913 - what `python` takes
        self,
        source: str,
        *,
        sites: Sequence[str],
        tables: Sequence[str],
        purpose: str | None = None,
        output: str | None = None,
        params: Parameters | None = None,
    ) -> Preview:
        """Tell what would become of Python code at each site: who decides, under which limits.

        Takes what `python` takes. Costs nothing and touches no data; only what sites say about
        themselves is looked at.
        """
        chosen = self._directory.chosen(sites)
        computation = self._python_computation(
            source, chosen, tables=tables, purpose=purpose, output=output, params=params
        )
        described = self._directory.describe()
        return Preview(
            computation=computation,
            sites={name: described[name] for name in chosen if name in described},
            silent=tuple(name for name in chosen if name not in described),
        )

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
        chosen = self._directory.chosen(sites)
        computation = sql_computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        replies = self._dispatch.answers("estimate", chosen, computation)
        found = {
            site: reply.estimate
            for site, reply in replies.items()
            if not isinstance(reply, PrivnbError) and reply.estimate is not None
        }
        problems = {s: reply for s, reply in replies.items() if isinstance(reply, PrivnbError)}
        if problems and not found:
            raise next(iter(problems.values()))
        refusals = {site: refusal_of(replies[site]) for site in found}
        return Estimates(
            by_site=found,
            problems=problems,
            refusals={site: why for site, why in refusals.items() if why is not None},
        )

    def mock(  # noqa: PLR0913 - what `secure` or `python` takes
        self,
        source: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal = 1,
        params: Parameters | None = None,
        kind: Literal["sql", "python"] = "sql",
        tables: Sequence[str] = (),
        output: str | None = None,
    ) -> Release:
        """Try a question on the sites' mock twins: synthetic rows, nothing spent, nothing real.

        Parameters
        ----------
        source
            SQL, or Python, as ``kind`` says; SQL has an ``epsilon``, Python has ``tables`` and
            perhaps an ``output``.
        """
        chosen = self._directory.chosen(sites)
        seconds = QUICK_SECONDS
        if kind == "python":
            computation = self._python_computation(
                source, chosen, tables=tables, purpose=None, output=output, params=params
            )
            offers = [d.python for d in self._directory.recalled(chosen).values()]
            seconds += max((offer.seconds for offer in offers if offer), default=0)
        else:
            computation = sql_computation(source, epsilon=epsilon, purpose=None, params=params)
        request = self._dispatch.send("mock", _owners(chosen), computation)
        try:
            return request.result(timeout=seconds)
        finally:
            self._store.forget(request.id)

    def template_offers(self, *, refresh: bool = False) -> tuple[tuple[str, TemplateOffer], ...]:
        """List the cells that owners wrote and release without a human, as (site, template)."""
        return tuple(
            (name, template)
            for name, site in self.descriptions(refresh=refresh).items()
            if site.python is not None
            for template in site.python.templates
        )

    def templates(self) -> DataFrame:
        """One row per template of each site: tables, purposes, parameters, what it is for."""
        from privnb.listings import templates_frame  # noqa: PLC0415 - pandas stays out of start-up

        return templates_frame(self.template_offers(refresh=True))

    # Requests made before

    def requests(self) -> DataFrame:
        """One row per request of ours, newest first: how far it is at each site, who decides."""
        from privnb.listings import requests_frame  # noqa: PLC0415 - pandas stays out of start-up

        return requests_frame(self.states())

    def states(self, requests: Sequence[Request] | None = None) -> tuple[Standing, ...]:
        """Tell where requests stand at each of their sites; all of ours, newest first, if None.

        Each site is asked once, about all that wait for it; one that does not answer within some
        seconds is told of as it last was.
        """
        if requests is None:
            requests = [self._dispatch.take_up(record) for record in self._store.records()]
        waiting = []
        for request in requests:
            with contextlib.suppress(
                ExchangeUnavailable
            ):  # what is known here is told all the same
                if request.poll() or request.computation is None:
                    continue
            if request.computation is not None and request.computation.takes_time:
                waiting.append(request)
        with contextlib.suppress(ExchangeError):
            states = self._dispatch.states(waiting, seconds=QUICK_SECONDS)
            for request in waiting:
                request.hear(states)
                request.poll()
        return tuple(standing for request in requests for standing in self._standings(request))

    def _standings(self, request: Request) -> tuple[Standing, ...]:
        """Tell where a request stands; of a run of which nothing can come any more, that too."""
        standings, asked = request.standings, request.computation
        waiting = {each.site for each in standings if not (each.is_out or each.is_released)}
        if asked is None or asked.federation is None or not waiting:
            return standings
        why = self._opening.why_over(request)
        return tuple(
            dataclasses.replace(each, reason=why) if why and each.site in waiting else each
            for each in standings
        )

    def audit(self) -> DataFrame:
        """One row per event about us in the sites' audit logs, newest first.

        Each event is checked: that its site signed for it, that the log of today begins with the
        logs of which we hold a checkpoint, and that none of the answers we were given is missing,
        as far as the newest 200 events reach. ``verified`` is false where that fails, and where a
        site did not answer; ``rule`` then says why. That there is no other event about us, a
        refusal say, only somebody who reads the whole log can tell: an auditor.
        """
        from privnb.listings import audit_frame  # noqa: PLC0415 - pandas stays out of start-up

        self._directory.describe()  # shows the keys, if they were not seen before
        cards = self._directory.cards()
        accepted = {name: card for name, card in cards.items() if card.state == "accepted"}
        trails = self._dispatch.trails(accepted) if accepted else {}
        return audit_frame(trails)

    def request(self, request: str, *, strategy: Any = None) -> Request | FederatedRun:
        """Take up a request again by its id, or the beginning of it.

        A federated run goes on, after its last finished round, once its ``result()`` is asked for.

        Parameters
        ----------
        strategy
            For a training whose strategy was an object of an earlier kernel: one like it.
        """
        record = self._store.record(request)
        if record.computation is not None and record.computation.federation is not None:
            return self._opening.take_up(record, strategy=strategy)
        return self._dispatch.take_up(record)

    def _require_a_purpose(self, purpose: str, chosen: Mapping[str, SiteCard]) -> None:
        if not purpose:
            raise RequestRefused(
                "No purpose was given.",
                hint=f"Add --purpose {self._a_purpose(chosen)} (in Python purpose=…); "
                "%privnb sites lists the purposes of each table.",
                code="E_PURPOSE",
            )

    def _python_computation(  # noqa: PLR0913 - keywords, each one part of the question
        self,
        source: str,
        chosen: Mapping[str, SiteCard],
        *,
        tables: Sequence[str],
        purpose: str | None,
        output: str | None,
        params: Parameters | None,
    ) -> Computation:
        names = [tables] if isinstance(tables, str) else list(dict.fromkeys(tables))
        if not names:
            known = {t.name for d in self._directory.recalled(chosen).values() for t in d.tables}
            example = min(known, default="TABLE")
            raise QueryRefused(
                "No table was named.",
                hint=f"Add --table {example} (in Python tables=[{example!r}]); repeat it for more.",
                code="E_NO_TABLE",
            )
        computation = python_computation(
            source, tables=names, purpose=purpose, output=output, params=params
        )
        self._directory.offering(chosen, lambda name, d: require_python(name, d, names))
        return computation

    def _a_purpose(self, sites: Iterable[str]) -> str:
        """Name a purpose that one of the sites allows, as an example; dots if none is known."""
        known = (self._directory.described.get(name) for name in sites)
        allowed = (p for site in known if site for table in site.tables for p in table.purposes)
        return next(allowed, "…")


def _owners(chosen: Mapping[str, SiteCard]) -> Mapping[str, str]:
    return {name: card.owner for name, card in chosen.items()}
