"""A request that is under way: who has answered, and the release once all have."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb.errors import (
    BadMessage,
    ExchangeUnavailable,
    PrivnbError,
    RequestRefused,
    ResultPending,
    SiteFailure,
    error_from_code,
)
from privnb.markup import clean
from privnb.release import Answer, Release, SiteRelease

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from privnb.computation import Computation
    from privnb.messages import Reply
    from privnb.store import Record, Store

__all__ = ["Request", "SiteStatus"]

SiteStatus: TypeAlias = Literal["waiting", "released", "refused", "failed", "cancelled"]

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05
_CODE = re.compile(r"E_[A-Z_]{1,40}")
_DISTRUST = "Do not use this site's answer, and tell its owner."
_LARGEST_INTEGER = 2**63


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
    fetch
        Takes in what has arrived from one owner's site; raises `ExchangeUnavailable`.
    """

    def __init__(self, record: Record, *, store: Store, fetch: Callable[[str], None]) -> None:
        self._record = record
        self._store = store
        self._fetch = fetch
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

    @property
    def status(self) -> Mapping[str, SiteStatus]:
        """How far each site is, as far as is known here; see `poll`."""
        return {site: self._status(site) for site in self.sites}

    @property
    def done(self) -> bool:
        """Whether no site is being waited for."""
        return "waiting" not in self.status.values()

    def poll(self) -> bool:
        """Take in what has arrived, and tell whether the request is done. Does not wait."""
        for site, owner in self._record.sites.items():
            if site not in self._replies and self._look(site, owner) is None:
                self._fetch(owner)
                self._look(site, owner)
        return self.done

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
        QueryRefused, RequestRefused, SiteFailure, BadMessage
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
        """Stop waiting for sites that have not answered.

        What a site has taken in it may compute and charge all the same.
        """
        for site in self.sites:
            if self._status(site) == "waiting":
                self._replies[site] = RequestRefused(
                    f"The request to {site} was cancelled.", hint="", code="E_CANCELLED"
                )

    def __await__(self) -> Generator[object, None, Release]:
        return self._wait().__await__()

    async def _wait(self) -> Release:
        pause = _FIRST_PAUSE
        while not await asyncio.to_thread(self._poll_patiently):
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, _LONGEST_PAUSE)
        return self._release()

    def __repr__(self) -> str:
        states = ", ".join(f"{site}: {state}" for site, state in self.status.items())
        return f"<Request {self.id[:8]} {states}>"

    def _poll_patiently(self) -> bool:
        try:
            return self.poll()
        except ExchangeUnavailable:  # a storage that is gone may come back while we wait
            return self.done

    def _look(self, site: str, owner: str) -> Reply | PrivnbError | None:
        try:
            reply = self._store.reply(self.id, owner)
        except BadMessage as problem:
            self._replies[site] = problem
            return problem
        if reply is None:
            return None
        self._replies[site] = self._checked(site, reply)
        return self._replies[site]

    def _checked(self, site: str, reply: Reply) -> Reply | PrivnbError:
        if reply.problem is not None:
            problem = reply.problem
            code = problem.code if _CODE.fullmatch(problem.code) else RequestRefused.default_code
            # It will be printed as it is, in terminals too.
            return error_from_code(code, clean(problem.message), clean(problem.hint))
        expected = self.digest or None
        if reply.request != self.id or reply.digest != expected:
            return BadMessage(
                f"{site} answered another question than the one that was asked.",
                hint=_DISTRUST,
            )
        if reply.answer is not None and not _is_table(reply.answer):
            return BadMessage(f"The answer of {site} is not a table.", hint=_DISTRUST)
        mock = self._record.action == "mock"
        if reply.label is not None and reply.label.mock != mock:
            claimed, asked = (
                ("the data", "its mock twin") if mock else ("its mock twin", "the data")
            )
            return BadMessage(
                f"{site} says that it answered from {claimed}, but {asked} was asked.",
                hint=_DISTRUST,
            )
        return reply

    def _status(self, site: str) -> SiteStatus:
        reply = self._replies.get(site)
        if reply is None:
            return "waiting"
        if not isinstance(reply, PrivnbError):
            return "released"
        if reply.code == "E_CANCELLED":
            return "cancelled"
        return "failed" if isinstance(reply, SiteFailure | BadMessage) else "refused"

    def _release(self) -> Release:
        parts: list[SiteRelease] = []
        problems: dict[str, PrivnbError] = {}
        for site in self.sites:
            reply = self._replies[site]
            if isinstance(reply, PrivnbError):
                problems[site] = reply
            elif reply.answer is None or reply.label is None:
                problems[site] = BadMessage(f"{site} sent no answer.", hint="Tell its owner.")
            else:
                parts.append(SiteRelease(site=site, answer=reply.answer, label=reply.label))
        if not parts:
            raise next(iter(problems.values()))
        return Release(request=self.id, digest=self.digest, parts=tuple(parts), problems=problems)

    def _pending(self) -> ResultPending:
        waiting = [site for site in self.sites if self._status(site) == "waiting"]
        return ResultPending(
            f"No answer yet from {', '.join(waiting)}; the request stays alive.",
            hint=f"Get it later with %privnb result {self.id[:8]}.",
        )


def _is_table(answer: Answer) -> bool:
    """Tell whether an answer can be shown: one site's nonsense must not hide what others sent."""
    names = [column.name for column in answer.columns]
    names += [f"± {column.name}" for column in answer.columns if column.role == "aggregate"]
    return (
        bool(answer.columns)
        and len(set(names)) == len(names)
        and len(answer.rows) == len(answer.half_widths)
        and all(len(row) == len(answer.columns) for row in (*answer.rows, *answer.half_widths))
        and all(
            not isinstance(value, int) or abs(value) <= _LARGEST_INTEGER
            for row in answer.rows
            for value in row
        )
    )
