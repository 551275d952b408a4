"""The analyst's side: connect to an exchange, ask its sites, wait, and keep what they release."""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from privnb import wire
from privnb.computation import Computation, Parameters, parse_epsilon
from privnb.directory import Directory
from privnb.dispatch import QUICK_SECONDS, Dispatch
from privnb.errors import ExchangeError, PrivnbError, QueryRefused, RequestRefused
from privnb.release import Estimates, Release
from privnb.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from pandas import DataFrame

    from privnb.datasite.ports import AnalystPort
    from privnb.messages import Budget, SiteDescription
    from privnb.request import Request

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


class Session:
    """One analyst on one exchange. Made by `connect`.

    A session holds no secret state: several kernels of the same analyst may have one each.
    """

    def __init__(self, *, email: str, exchange: str, datasite: AnalystPort, store: Store) -> None:
        self.email = email
        self.exchange = exchange
        self._datasite = datasite
        self._store = store
        self._dispatch = Dispatch(datasite=datasite, store=store)
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
        return sites_frame(self._directory.cards(), described)

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
        if not purpose:
            raise RequestRefused(
                "No purpose was given.",
                hint=f"Add --purpose {self._a_purpose(chosen)} (in Python purpose=…); "
                "%privnb sites lists the purposes of each table.",
                code="E_PURPOSE",
            )
        computation = _computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        return self._dispatch.send("run", chosen, computation)

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
        computation = _computation(sql, epsilon=epsilon, purpose=purpose, params=params)
        replies = self._dispatch.answers("estimate", chosen, computation)
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
        chosen = self._directory.chosen(sites)
        computation = _computation(sql, epsilon=epsilon, purpose=None, params=params)
        request = self._dispatch.send("mock", chosen, computation)
        try:
            return request.result(timeout=QUICK_SECONDS)
        finally:
            self._store.forget(request.id)

    # Requests made before

    def requests(self) -> DataFrame:
        """One row per request of ours, newest first: state per site, purpose, epsilon, question."""
        from privnb.listings import requests_frame  # noqa: PLC0415 - pandas stays out of start-up

        requests = [self._dispatch.take_up(record) for record in self._store.records()]
        for request in requests:
            with contextlib.suppress(ExchangeError):  # what is known here is listed all the same
                request.poll()
        return requests_frame(requests)

    def request(self, request: str) -> Request:
        """Take up a request again by its id, or the beginning of it."""
        return self._dispatch.take_up(self._store.record(request))

    def _a_purpose(self, sites: Iterable[str]) -> str:
        """Name a purpose that one of the sites allows, as an example; dots if none is known."""
        known = (self._directory.described.get(name) for name in sites)
        allowed = (p for site in known if site for table in site.tables for p in table.purposes)
        return next(allowed, "…")


def _computation(
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


def _checked_parameters(params: Parameters | None) -> Parameters | None:
    """Take JSON scalars and flat lists of them, and say which parameter is something else."""
    checked: Parameters = {}
    for name, value in (params or {}).items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            finite = not isinstance(item, float) or math.isfinite(item)
            if not (finite and isinstance(item, bool | int | float | str | None)):
                raise QueryRefused(
                    f"Parameter {name!r} holds a value of type {type(item).__name__}"
                    f"{'' if finite else ' that is not finite'}.",
                    hint="A parameter is text, a finite number, true, false, None, or a list.",
                    code="E_PARAMETER",
                )
        checked[name] = value
    return checked or None
