"""Sends a question to sites, one job each, and takes in what they reply."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb import wire
from privnb.errors import AuditBroken, BadMessage, PrivnbError, ResultPending, StateError
from privnb.messages import (
    REPLY_FILE,
    SOURCE_FILES,
    SUBMISSION_FILE,
    Problem,
    Submission,
    released_hash,
)
from privnb.release import NO_EPSILON
from privnb.replies import DISTRUST
from privnb.request import Request
from privnb.store import CUT_SHORT, Action, Record, Store
from privnb.witness import Witness, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from privnb.audit import Proved
    from privnb.computation import Computation
    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.messages import AccessAsk, Reply, RequestState
    from privnb.release import Receipt

__all__ = ["QUICK_SECONDS", "Action", "Dispatch", "FreeAction"]

FreeAction: TypeAlias = Literal["describe", "estimate", "request-access"]

QUICK_SECONDS = 10.0
"""How long answers that cost nothing are waited for."""

_PAUSE = 0.003
_STATES_AT_ONCE = 200


class Dispatch:
    """The way of a question out of the analyst's hands, and of its replies back into them."""

    def __init__(self, *, email: str, datasite: AnalystPort, store: Store) -> None:
        self._email = email
        self._datasite = datasite
        self._store = store
        self.witness = Witness(store.home)
        """What was seen of the sites' audit logs."""
        self._introductions: dict[str, Request] = {}

    def send(  # noqa: PLR0913 - keywords, each of them for some actions only
        self,
        action: Action,
        sites: Mapping[str, str],
        computation: Computation | None = None,
        *,
        access: AccessAsk | None = None,
        about: Mapping[str, Sequence[str]] | None = None,
        prepare: Callable[[str], None] | None = None,
    ) -> Request:
        """Write a request down, then send it to each site.

        A site that it cannot be sent to is part of the request as a problem; if it cannot be sent
        to any, the first site's error is raised and nothing remains.

        Parameters
        ----------
        sites
            Owner by site name.
        about
            For ``status``: the requests to ask each owner about.
        prepare
            Given the request's id, once that is written down and before it is sent to anybody.
        """
        request = secrets.token_hex(16)
        held, unsent = self._held(sites) if action in ("run", "audit") else ({}, {})
        record = Record(
            request=request,
            action=action,
            asked_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            sites=dict(sites),
            computation=computation,
            unsent=dict.fromkeys(sites, CUT_SHORT) if action == "run" else None,
            held=held or None,
        )
        self._store.add(record)
        if prepare is not None:
            try:
                prepare(request)
            except BaseException:  # nobody was asked, so nothing remains
                self._store.forget(request)
                raise
        for name, owner in sites.items():
            if name in unsent:
                continue
            submission = Submission(
                request=request,
                action=action,
                computation=computation,
                access=access,
                requests=tuple((about or {}).get(owner, ())),
                checkpoints=tuple(map(size_of, held.get(owner, ()))),
            )
            files = {SUBMISSION_FILE: wire.encode(submission)}
            if computation is not None:
                files[SOURCE_FILES[computation.kind]] = computation.source.encode()
            try:
                self._datasite.submit(owner, request, files)
            except PrivnbError as problem:
                unsent[name] = problem
        if len(unsent) == len(sites):
            self._store.forget(request)
            raise next(iter(unsent.values()))
        record = dataclasses.replace(record, unsent=_problems(unsent) or None)
        if unsent or action == "run":
            with contextlib.suppress(StateError):  # it is on its way: its id must be told
                self._store.add(record)
        if action == "run":
            self._meet({name: owner for name, owner in sites.items() if name not in unsent})
        sent = self.take_up(record)
        sent.hear({})  # a site that was asked just now has nothing to tell
        return sent

    def _held(
        self, sites: Mapping[str, str]
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, PrivnbError]]:
        """Return the checkpoints held of each owner's log, and the sites of which they are lost."""
        held, lost = {}, {}
        for name, owner in sites.items():
            try:
                held[owner] = self.witness.held(owner)
            except PrivnbError as problem:  # what is remembered of one site may be damaged
                lost[name] = problem
        return held, lost

    def take_up(self, record: Record) -> Request:
        """Make a handle on a request that was sent, now or long ago."""
        return Request(record, store=self._store, way=self)

    def answers(
        self,
        action: FreeAction,
        sites: Mapping[str, SiteCard],
        computation: Computation | None = None,
        *,
        access: AccessAsk | None = None,
    ) -> Mapping[str, Reply | PrivnbError]:
        """Ask what costs nothing, wait some seconds, and forget the request."""
        owners = {name: card.owner for name, card in sites.items()}
        return self._complete(self.send(action, owners, computation, access=access), sites)

    def states(
        self, requests: Sequence[Request], *, seconds: float
    ) -> Mapping[tuple[str, str], RequestState]:
        """Ask sites how far requests are; by request and owner, as far as they say in time.

        Each site is asked once for all of them, the newest 200 at most. The asking ends early
        when one request was all that was asked about and its last answer comes in.
        """
        about: dict[str, list[str]] = {}
        for request in requests:
            for owner in set(request.owners.values()):
                about.setdefault(owner, []).append(request.id)
        about = {owner: asked[:_STATES_AT_ONCE] for owner, asked in about.items()}
        if not about:
            return {}
        inquiry = self.send("status", {owner: owner for owner in about}, about=about)
        ends = requests[0].poll if len(requests) == 1 else None
        found: dict[tuple[str, str], RequestState] = {}
        for owner, reply in self._heard(inquiry, seconds=seconds, until=ends).items():
            if not isinstance(reply, PrivnbError):
                told = [state for state in reply.states or () if state.request in about[owner]]
                found |= {(state.request, owner): state for state in told}
        return found

    def trails(
        self, sites: Mapping[str, SiteCard]
    ) -> Mapping[str, tuple[Proved, ...] | PrivnbError]:
        """Ask sites for their own events about us, and check that they prove them.

        A site whose log does not hold is an `AuditBroken` here, one that is silent another error.
        """
        owners = {name: card.owner for name, card in sites.items()}
        request = self.send("audit", owners)
        trails: dict[str, tuple[Proved, ...] | PrivnbError] = {}
        for site, reply in self._complete(request, sites).items():
            if isinstance(reply, PrivnbError):
                trails[site] = reply
                continue
            owner = owners[site]
            try:
                trails[site] = self.witness.check_trail(
                    owner,
                    site,
                    reply.trail or (),
                    analyst=self._email,
                    proved=self._store.proved_events(owner, key=self.witness.key(owner)),
                    held=request.held(owner),
                )
            except PrivnbError as problem:
                trails[site] = problem
        return trails

    def prove(self, record: Record, site: str, reply: Reply) -> str | None:
        """Check that a release is in its site's audit log, and return the key that proves it.

        None while the site, which was never asked about itself before, does not tell its key. What
        was found is written down, and found again whatever the site shows later.

        Raises
        ------
        AuditBroken
            There is no receipt, or it does not hold: the release is not to be believed.
        BadMessage
            The label has a price that was not offered.
        """
        owner = record.sites[site]
        verdict = self._store.verdict(record.request, owner)
        if verdict is None:
            key = self._key(site, owner)
            if key is None:
                return None
            try:
                event = self._check(record, site, reply)
            except AuditBroken as broken:
                found = _problem(broken)
                verdict = self._store.judge(record.request, owner, key=key, problem=found)
            else:
                verdict = self._store.judge(record.request, owner, key=key, event=event)
        if verdict.problem is not None:
            raise AuditBroken(verdict.problem.message, hint=verdict.problem.hint)
        return verdict.key

    def links(self, owner: str, receipt: Receipt) -> bool:
        """Tell whether a proved receipt's log is known to be the one of later answers."""
        with contextlib.suppress(PrivnbError):
            return self.witness.links(owner, receipt)
        return False

    def _check(self, record: Record, site: str, reply: Reply) -> int:
        """Check that a site logged what it released, to whom and for what; return the place."""
        computation, label = record.computation, reply.label
        says = {"output": released_hash(reply), "request": reply.request, "digest": reply.digest}
        if computation is not None and label is not None:
            _require_offered(label.epsilon, computation, site=site)
            says["purpose"] = computation.purpose
            if label.route == "noise":
                says["epsilon"] = label.epsilon
        owner = record.sites[site]
        held = (record.held or {}).get(owner, ())
        analyst = self._email
        return self.witness.check(
            owner, site, reply.receipt, analyst=analyst, says=says, held=held
        ).index

    def _meet(self, sites: Mapping[str, str]) -> None:
        """Ask sites never heard of about themselves, as their key is needed; does not wait."""
        for site, owner in sites.items():
            with contextlib.suppress(PrivnbError):  # it is asked again when it has answered
                if owner not in self._introductions and self.witness.key(owner) is None:
                    self._introductions[owner] = self.send("describe", {site: owner})

    def _key(self, site: str, owner: str) -> str | None:
        """Return the audit key of a site, or None while it has not told it. Does not wait."""
        key = self.witness.key(owner)
        if key is not None:
            return key
        self._meet({site: owner})
        asked = self._introductions.get(owner)
        if asked is None or not asked.poll():
            return None
        del self._introductions[owner]
        self._store.forget(asked.id)
        (reply,) = asked.replies().values()
        described = None if isinstance(reply, PrivnbError) else reply.description
        if described is None or not described.audit_key:
            raise AuditBroken(
                f"{site} shows no audit log, so nothing proves its answer.",
                hint="Ask its owner to bring privnb up to date.",
            )
        self.witness.pin(owner, described.audit_key)
        return described.audit_key

    def fetch(self, owner: str) -> None:
        """Take in what has arrived from one owner's site, for whichever request it is."""
        for reply in self._datasite.poll(owner):
            if self._store.knows(reply.name):
                # Without its file it is a reply that makes no sense, and is shown as one.
                self._store.keep_reply(reply.name, owner, reply.files.get(REPLY_FILE, b""))
            self._datasite.retire(owner, reply.name)

    def _complete(
        self, request: Request, sites: Mapping[str, SiteCard]
    ) -> Mapping[str, Reply | PrivnbError]:
        """Wait some seconds for sites; one that is silent is an error that says so."""
        from privnb.listings import ago  # noqa: PLC0415 - pandas stays out of start-up

        replies = self._heard(request, seconds=QUICK_SECONDS)
        waiting = {
            name: ResultPending(
                f"{name} did not answer within {QUICK_SECONDS:g} seconds; "
                f"its agent was last seen {ago(card.last_seen)}.",
                hint="Ask its owner whether the agent is running.",
            )
            for name, card in sites.items()
        }
        return {**waiting, **replies}

    def _heard(
        self, request: Request, *, seconds: float, until: Callable[[], bool] | None = None
    ) -> Mapping[str, Reply | PrivnbError]:
        """Wait for a request that nobody will look for again, and forget it."""
        end = time.monotonic() + seconds
        try:
            while not request.poll() and time.monotonic() < end and not (until and until()):
                time.sleep(_PAUSE)
            return request.replies()
        finally:
            self._store.forget(request.id)


def _require_offered(epsilon: str, computation: Computation, *, site: str) -> None:
    """Refuse a label that claims a price above what was offered; an exact output has none."""
    try:
        within = 0 <= Decimal(epsilon) <= Decimal(computation.epsilon or 0)
    except InvalidOperation:
        within = computation.kind == "python" and epsilon == NO_EPSILON
    if not within:
        raise BadMessage(f"{site} names a price that it was not offered.", hint=DISTRUST)


def _problems(errors: Mapping[str, PrivnbError]) -> dict[str, Problem]:
    return {site: _problem(error) for site, error in errors.items()}


def _problem(error: PrivnbError) -> Problem:
    return Problem(code=error.code, message=error.message, hint=error.hint)
