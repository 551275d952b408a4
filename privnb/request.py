"""A request that is under way: who has answered, and the release once all have."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from privnb.errors import (
    BadMessage,
    ExchangeError,
    ExchangeUnavailable,
    PrivnbError,
    ResultPending,
    error_from_code,
)
from privnb.messages import Problem
from privnb.release import Release, SiteRelease
from privnb.replies import believed
from privnb.standing import SiteStatus, Standing, standing, status_of
from privnb.store import CUT_SHORT

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from privnb.computation import Computation
    from privnb.messages import Reply, RequestState
    from privnb.release import Receipt
    from privnb.store import Record, Store

__all__ = ["Request", "SiteStatus", "Standing", "Way"]

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05
_FRESH_SECONDS = 1.0
"""Sites are not asked again how far a request is before this."""
_LOOK_SECONDS = 3.0
"""How long showing a handle may wait for what the sites say about it."""


class Way(Protocol):
    """What a request needs of the way to its sites."""

    def fetch(self, owner: str) -> None:
        """Take in what has arrived from one owner's site; raises `ExchangeUnavailable`."""
        ...

    def prove(self, record: Record, site: str, reply: Reply) -> str | None:
        """Check that a release is in its site's audit log, and return the key that proves it.

        None while it cannot be checked yet. Raises `AuditBroken`, or `BadMessage`.
        """
        ...

    def links(self, owner: str, receipt: Receipt) -> bool:
        """Tell whether a proved receipt's log is known to be the one of later answers."""
        ...

    def states(
        self, requests: Sequence[Request], *, seconds: float
    ) -> Mapping[tuple[str, str], RequestState]:
        """Ask sites how far requests are; by request and owner, as far as they say in time."""
        ...


class Request:
    """A handle on one request to one or more sites.

    It lives on disk, not in the kernel: after a restart, ``session.request(id)`` is the same
    request again.

    Parameters
    ----------
    record
        What was asked.
    store
        Where replies are kept.
    way
        How replies come in and are proved.
    """

    def __init__(self, record: Record, *, store: Store, way: Way) -> None:
        self._record = record
        self._store = store
        self._way = way
        self._keys: dict[str, str] = {}
        self._told: dict[str, RequestState] = {}
        self._told_at: float | None = None
        # An answer may come all the same: that is looked for once.
        self._doubtful = set(record.unsent or ())
        self._replies: dict[str, Reply | PrivnbError] = {
            site: error_from_code(problem.code, problem.message, problem.hint)
            for site, problem in (record.unsent or {}).items()
        }

    @property
    def id(self) -> str:
        """The name of this request, here and at the sites: 32 hexadecimal digits."""
        return self._record.request

    @property
    def digest(self) -> str:
        """SHA-256 of the computation, which is what a site records."""
        return self.computation.digest if self.computation else ""

    @property
    def computation(self) -> Computation | None:
        """What was asked; None for requests that only ask a site about itself."""
        return self._record.computation

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that were asked."""
        return tuple(self._record.sites)

    @property
    def asked_at(self) -> str:
        """When it was made: UTC, ISO 8601."""
        return self._record.asked_at

    def held(self, owner: str) -> tuple[str, ...]:
        """Return the checkpoints of a site's audit log from which its reply must prove growth."""
        return (self._record.held or {}).get(owner, ())

    @property
    def status(self) -> Mapping[str, SiteStatus]:
        """How far each site is, as far as is known here; see `poll`."""
        return {site: self._status(site) for site in self.sites}

    @property
    def done(self) -> bool:
        """Whether no site is being waited for."""
        return "waiting" not in self.status.values()

    @property
    def owners(self) -> Mapping[str, str]:
        """Whose the sites are that have not answered: owner by site name."""
        return {s: o for s, o in self._record.sites.items() if self._status(s) == "waiting"}

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Where it stands at each site, as far as is known here; see `look`."""
        return tuple(
            standing(self._record, site, reply=self._replies.get(site), told=self._told.get(site))
            for site in self.sites
        )

    @property
    def in_review(self) -> bool:
        """Whether every site that has not answered waits for a person, as far as is known here."""
        waiting = [s for s in self.standings if self._status(s.site) == "waiting"]
        return bool(waiting) and all(s.in_review for s in waiting)

    def poll(self) -> bool:
        """Take in what has arrived, and tell whether the request is done. Does not wait."""
        for site, owner in self._record.sites.items():
            if site in self._doubtful:
                self._doubtful.discard(site)
                if self._look(site, owner) is None and self._is_cut_short(site):
                    with contextlib.suppress(PrivnbError):
                        self._way.fetch(owner)
                    self._look(site, owner)
            elif site not in self._replies and self._look(site, owner) is None:
                self._way.fetch(owner)
                self._look(site, owner)
        return self.done

    def look(self, *, seconds: float = _LOOK_SECONDS) -> tuple[Standing, ...]:
        """Ask the sites how far they are, and wait some seconds at most for what they say.

        SQL is answered or refused at once, so sites are only asked of Python, and of what several
        of them compute together. What is known here is returned in any case.
        """
        with contextlib.suppress(ExchangeError):  # what is known here is told all the same
            if not self.poll() and self.computation and self.computation.takes_time:
                self.hear(self._way.states([self], seconds=seconds))
                self.poll()
        return self.standings

    def hear(self, states: Mapping[tuple[str, str], RequestState]) -> None:
        """Remember what sites said about this request, by request and owner."""
        self._told_at = time.monotonic()
        for site, owner in self._record.sites.items():
            if (self.id, owner) in states:
                self._told[site] = states[self.id, owner]

    def result(self, timeout: float | None = None) -> Release:
        """Wait for every site, and return what they released.

        Sites that refused or failed are in the release's ``problems``; if no site released
        anything, the first site's error is raised instead.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits for as long as it takes.

        Raises
        ------
        ResultPending
            The time is over. The request stays alive: ask again later.
        QueryRefused, RequestRefused, SiteFailure, BadMessage, AuditBroken
            What the sites answered, if none of them released anything.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while not self._poll_patiently():
            if end is not None and time.monotonic() >= end:
                raise self._pending()
            time.sleep(pause)
            pause = min(pause * 1.1, _LONGEST_PAUSE)
        return self._release()

    def replies(self) -> Mapping[str, Reply | PrivnbError]:
        """Return what each site has replied so far: its reply, or the error it stands for."""
        return dict(self._replies)

    def cancel(self) -> None:
        """Stop waiting for sites that have not answered, for good.

        What a site has taken in it may compute and charge all the same. An answer that has come
        by the time that the request is taken up again is shown.
        """
        cancelled = {}
        for site in self.sites:
            if self._status(site) == "waiting":
                said = f"The request to {site} was cancelled."
                cancelled[site] = Problem(code="E_CANCELLED", message=said, hint="")
                self._replies[site] = error_from_code("E_CANCELLED", said, "")
        if cancelled:
            self._record = self._store.note_cancelled(self._record, cancelled)

    def __await__(self) -> Generator[object, None, Release]:
        return self._wait().__await__()

    async def _wait(self) -> Release:
        pause = _FIRST_PAUSE
        while not await asyncio.to_thread(self._poll_patiently):
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, _LONGEST_PAUSE)
        return self._release()

    @property
    def value(self) -> object:
        """The value of the release, once there is one; `ResultPending` until then."""
        return self.result(timeout=0).value

    @property
    def df(self) -> DataFrame:
        """The table of the release, once there is one; `ResultPending` until then."""
        return self.result(timeout=0).df

    def plot(self) -> Figure:
        """Draw the release, once there is one; `ResultPending` until then."""
        return self.result(timeout=0).plot()

    def __repr__(self) -> str:
        states = ", ".join(f"{site}: {state}" for site, state in self.status.items())
        return f"<Request {self.id[:8]} {states}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """Show what was released as soon as a site released something, until then how far it is."""
        from privnb.request_rendering import (  # noqa: PLC0415 - it reads requests
            request_html,
            request_text,
        )

        if self._told_at is None or time.monotonic() - self._told_at > _FRESH_SECONDS:
            self.look()
        if self._poll_patiently() or "released" in self.status.values():
            with contextlib.suppress(PrivnbError):  # the refusals of all sites are shown below
                return self._release().bundle()
        return {"text/html": request_html(self), "text/plain": request_text(self)}

    def _poll_patiently(self) -> bool:
        try:
            return self.poll()
        except ExchangeUnavailable:  # a storage that is gone may come back while we wait
            return self.done

    def _look(self, site: str, owner: str) -> Reply | PrivnbError | None:
        try:
            reply = self._store.reply(self.id, owner)
            found = None if reply is None else believed(reply, site=site, record=self._record)
            if found is None or isinstance(found, PrivnbError):
                pass
            elif self._record.action == "run" and _releases(found):
                key = self._way.prove(self._record, site, found)
                if key is None:
                    return None
                self._keys[site] = key
        except ExchangeUnavailable:
            raise
        except PrivnbError as problem:  # one site must not hide the others
            found = problem
        if found is not None:
            self._replies[site] = found
        return found

    def _is_cut_short(self, site: str) -> bool:
        return (self._record.unsent or {}).get(site) == CUT_SHORT

    def _status(self, site: str) -> SiteStatus:
        return status_of(self._replies.get(site))

    def parts(self) -> tuple[tuple[SiteRelease, ...], Mapping[str, PrivnbError]]:
        """Return what sites have released so far, and why others have not, by name."""
        parts: list[SiteRelease] = []
        problems: dict[str, PrivnbError] = {}
        for site, owner in self._record.sites.items():
            reply = self._replies.get(site) or self._pending()
            if isinstance(reply, PrivnbError):
                problems[site] = reply
            elif reply.label is None or not _releases(reply):
                problems[site] = BadMessage(f"{site} sent no answer.", hint="Tell its owner.")
            else:
                receipt = reply.receipt if site in self._keys else None
                part = SiteRelease(
                    site=site,
                    owner=owner,
                    answer=reply.answer,
                    output=reply.output,
                    part=reply.part,
                    label=reply.label,
                    salt=reply.salt,
                    receipt=receipt,
                    key=self._keys.get(site, ""),
                    linked=receipt is None or self._way.links(owner, receipt),
                )
                parts.append(part)
        return tuple(parts), problems

    def _release(self) -> Release:
        parts, problems = self.parts()
        if not parts:
            raise next(iter(problems.values()))
        return Release(request=self.id, digest=self.digest, parts=parts, problems=problems)

    def _pending(self) -> ResultPending:
        waiting = [s for s in self.standings if self._status(s.site) == "waiting"]
        said = f"No answer yet from {', '.join(s.site for s in waiting)}"
        if self.in_review:
            said = "; ".join(f"{s.site} is {s.state}: {s.deciders}".rstrip(": ") for s in waiting)
        return ResultPending(
            f"{said}; the request stays alive.",
            hint=f"Get it later with %privnb result {self.id[:8]}.",
        )


def _releases(reply: Reply) -> bool:
    return any(what is not None for what in (reply.answer, reply.output, reply.part))
