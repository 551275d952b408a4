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
from privnb.store import Record, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.computation import Computation
    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.messages import Reply

__all__ = ["QUICK_SECONDS", "Action", "Dispatch"]

Action: TypeAlias = Literal["describe", "estimate", "mock", "run"]

QUICK_SECONDS = 10.0
"""How long answers that cost nothing are waited for."""

_PAUSE = 0.003


class Dispatch:
    """The way of a question out of the analyst's hands, and of its replies back into them."""

    def __init__(self, *, datasite: AnalystPort, store: Store) -> None:
        self._datasite = datasite
        self._store = store

    def send(
        self, action: Action, sites: Mapping[str, SiteCard], computation: Computation | None
    ) -> Request:
        """Write a request down, then send it to each site.

        A site that it cannot be sent to is part of the request as a problem; if it cannot be sent
        to any, the first site's error is raised and nothing remains.
        """
        request = secrets.token_hex(16)
        submission = Submission(request=request, action=action, computation=computation)
        files = {SUBMISSION_FILE: wire.encode(submission)}
        if computation is not None:
            files[SOURCE_FILES[computation.kind]] = computation.source.encode()
        record = Record(
            request=request,
            action=action,
            asked_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            sites={name: card.owner for name, card in sites.items()},
            computation=computation,
        )
        self._store.add(record)
        unsent: dict[str, PrivnbError] = {}
        for name, card in sites.items():
            try:
                self._datasite.submit(card.owner, request, files)
            except PrivnbError as problem:
                unsent[name] = problem
        if len(unsent) == len(sites):
            self._store.forget(request)
            raise next(iter(unsent.values()))
        if unsent:
            record = self._store.note_unsent(record, _problems(unsent))
        return self.take_up(record)

    def take_up(self, record: Record) -> Request:
        """Make a handle on a request that was sent, now or long ago."""
        return Request(record, store=self._store, fetch=self._fetch)

    def answers(
        self,
        action: Literal["describe", "estimate"],
        sites: Mapping[str, SiteCard],
        computation: Computation | None,
    ) -> Mapping[str, Reply | PrivnbError]:
        """Ask what costs nothing, wait some seconds, and forget the request."""
        from privnb.listings import ago  # noqa: PLC0415 - pandas stays out of start-up

        request = self.send(action, sites, computation)
        end = time.monotonic() + QUICK_SECONDS
        try:
            while not request.poll() and time.monotonic() < end:
                time.sleep(_PAUSE)
            waiting = {
                name: ResultPending(
                    f"{name} did not answer within {QUICK_SECONDS:g} seconds; "
                    f"its agent was last seen {ago(card.last_seen)}.",
                    hint="Ask its owner whether the agent is running.",
                )
                for name, card in sites.items()
            }
            return {**waiting, **request.replies()}
        finally:
            self._store.forget(request.id)

    def _fetch(self, owner: str) -> None:
        for reply in self._datasite.poll(owner):
            data = reply.files.get(REPLY_FILE)
            if data is not None and self._store.knows(reply.name):
                self._store.keep_reply(reply.name, owner, data)
            self._datasite.retire(owner, reply.name)


def _problems(errors: Mapping[str, PrivnbError]) -> dict[str, Problem]:
    return {
        site: Problem(code=error.code, message=error.message, hint=error.hint)
        for site, error in errors.items()
    }
