"""Sends a question to sites, one job each, and takes in what they reply."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb import wire
from privnb.errors import PrivnbError, ResultPending
from privnb.messages import REPLY_FILE, SOURCE_FILES, SUBMISSION_FILE, Problem, Submission
from privnb.request import Request
from privnb.store import Action, Record, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from privnb.computation import Computation
    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.messages import AccessAsk, Reply, RequestState

__all__ = ["QUICK_SECONDS", "Action", "Dispatch", "FreeAction"]

FreeAction: TypeAlias = Literal["describe", "estimate", "request-access", "audit"]

QUICK_SECONDS = 10.0
"""How long answers that cost nothing are waited for."""

_PAUSE = 0.003
_STATES_AT_ONCE = 200


class Dispatch:
    """The way of a question out of the analyst's hands, and of its replies back into them."""

    def __init__(self, *, datasite: AnalystPort, store: Store) -> None:
        self._datasite = datasite
        self._store = store

    def send(
        self,
        action: Action,
        sites: Mapping[str, str],
        computation: Computation | None = None,
        *,
        access: AccessAsk | None = None,
        about: Mapping[str, Sequence[str]] | None = None,
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
        """
        request = secrets.token_hex(16)
        record = Record(
            request=request,
            action=action,
            asked_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            sites=dict(sites),
            computation=computation,
        )
        self._store.add(record)
        unsent: dict[str, PrivnbError] = {}
        for name, owner in sites.items():
            submission = Submission(
                request=request,
                action=action,
                computation=computation,
                access=access,
                requests=tuple((about or {}).get(owner, ())),
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
        if unsent:
            record = self._store.note_unsent(record, _problems(unsent))
        sent = self.take_up(record)
        sent.hear({})  # a site that was asked just now has nothing to tell
        return sent

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
        from privnb.listings import ago  # noqa: PLC0415 - pandas stays out of start-up

        owners = {name: card.owner for name, card in sites.items()}
        request = self.send(action, owners, computation, access=access)
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
        found = {}
        for owner, reply in self._heard(inquiry, seconds=seconds, until=ends).items():
            if not isinstance(reply, PrivnbError):
                told = [state for state in reply.states or () if state.request in about[owner]]
                found |= {(state.request, owner): state for state in told}
        return found

    def prove(self, site: str, owner: str, reply: Reply) -> str | None:
        """Check that a release is in its site's audit log, and return the key that proves it."""
        del site, owner, reply
        return ""

    def fetch(self, owner: str) -> None:
        """Take in what has arrived from one owner's site, for whichever request it is."""
        for reply in self._datasite.poll(owner):
            data = reply.files.get(REPLY_FILE)
            if data is not None and self._store.knows(reply.name):
                self._store.keep_reply(reply.name, owner, data)
            self._datasite.retire(owner, reply.name)

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


def _problems(errors: Mapping[str, PrivnbError]) -> dict[str, Problem]:
    return {
        site: Problem(code=error.code, message=error.message, hint=error.hint)
        for site, error in errors.items()
    }
