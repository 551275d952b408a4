"""A federated run that is under way: how far it is, and the release once it is done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

from privnb.errors import ExchangeError, PrivnbError, ResultPending, StateError, error_from_code
from privnb.messages import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from privnb.computation import Computation
    from privnb.federated.history import RunFiles
    from privnb.federated.progress import Board, Progress
    from privnb.federated.release import FederatedRelease
    from privnb.messages import Reply, RequestState
    from privnb.request import Request
    from privnb.standing import SiteStatus, Standing

__all__ = ["Drive", "FederatedRun"]

Drive: TypeAlias = "Callable[[Board, threading.Event], None]"
"""Brings a run from where its files say it is to its end, unless the event asks it to stop."""

_PAUSE = 0.05
_FOLLOW_PAUSE = 0.5
"""Seconds between two looks at a run that another kernel drives."""
_PROOF_SECONDS = 20.0
"""How long the proofs of the sites are waited for, once the sums are there."""


class FederatedRun:
    """A handle on one federated run. It drives the run in a thread of its own.

    The run lives on disk and at its sites: after a restart of the kernel
    ``session.request(id).result()`` goes on after the last finished round. Where another kernel
    drives it already, this one watches.

    Parameters
    ----------
    request
        The request that every site got; the sites' last replies come by it.
    files
        What is kept of the run here.
    board
        Where it is written down how far it is.
    drive
        Brings it to its end.
    forget
        Called once the release is there, where nothing needs to be kept of the run.
    """

    def __init__(
        self,
        request: Request,
        *,
        files: RunFiles,
        board: Board,
        drive: Drive,
        end: Callable[[], None],
    ) -> None:
        self._request = request
        self._files = files
        self._board = board
        self._drive = drive
        self._end = end
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: PrivnbError | None = None
        self._starting = threading.Lock()

    # What was asked

    @property
    def id(self) -> str:
        """The name of this run, here and at the sites: 32 hexadecimal digits."""
        return self._request.id

    @property
    def digest(self) -> str:
        """SHA-256 of the computation, which is what reviewers approve and sites record."""
        return self._request.digest

    @property
    def computation(self) -> Computation | None:
        """What was asked."""
        return self._request.computation

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that were asked."""
        return self._request.sites

    @property
    def asked_at(self) -> str:
        """When it was made: UTC, ISO 8601."""
        return self._request.asked_at

    # How far it is

    @property
    def progress(self) -> Progress:
        """How far it is, as far as is known here; asks nobody."""
        return self._board.progress

    def on_change(self, callback: Callable[[Progress], None]) -> Callable[[], None]:
        """Call something at every change of the progress; returns a function that ends that.

        It is called in the thread that drives the run, which waits for it: be quick.
        """
        return self._board.watch(callback)

    @property
    def status(self) -> Mapping[str, SiteStatus]:
        """How far each site's own reply is, which comes at the end of the run."""
        return self._request.status

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Where it stands at each site, as far as is known here; see `look`."""
        return self._request.standings

    @property
    def owners(self) -> Mapping[str, str]:
        """Whose the sites are that have not replied for good: owner by site name."""
        return self._request.owners

    @property
    def in_review(self) -> bool:
        """Whether every site that is waited for waits for a person, as far as is known here."""
        return self.progress.state == "joining" and self._request.in_review

    @property
    def done(self) -> bool:
        """Whether it is over, well or not, and every site has replied or is not waited for."""
        return self._files.outcome() is not None or self._request.done

    def poll(self) -> bool:
        """Take in what has arrived, and tell whether it is over. Does not wait."""
        self._request.poll()
        return self.done

    def look(self, *, seconds: float = 3.0) -> tuple[Standing, ...]:
        """Ask the sites how far they are, and wait some seconds at most for what they say."""
        return self._request.look(seconds=seconds)

    def hear(self, states: Mapping[tuple[str, str], RequestState]) -> None:
        """Remember what sites said about this run, by request and owner."""
        self._request.hear(states)

    def replies(self) -> Mapping[str, Reply | PrivnbError]:
        """Return what each site has replied for good."""
        return self._request.replies()

    # Going on and stopping

    def start(self) -> None:
        """Drive the run in a thread, if it is not over and nobody here does."""
        raise NotImplementedError

    def stop(self, *, cancel: bool = False) -> None:
        """Stop driving the run from here, after the step at hand.

        It can be taken up again with `start` or `result`, here or in another kernel, until the
        sites lose patience. With ``cancel`` it is given up for good, and the sites are told so;
        what they have charged stays charged.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """Give the run up for good."""
        self.stop(cancel=True)

    def result(self, timeout: float | None = None) -> FederatedRelease:
        """Wait for the end of the run, and return what the sites gave together.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits for as long as it takes.

        Raises
        ------
        ResultPending
            The time is over. The run goes on: ask again later.
        QueryRefused, RequestRefused, SiteFailure, BadMessage
            What stopped it.
        """
        raise NotImplementedError

    @property
    def value(self) -> object:
        """The value of the release, once there is one; `ResultPending` until then."""
        return self.result(timeout=0).value

    @property
    def df(self) -> DataFrame:
        """The table of the release, once there is one; `ResultPending` until then."""
        return self.result(timeout=0).df

    @property
    def history(self) -> DataFrame:
        """One row per round so far."""
        raise NotImplementedError

    def plot(self) -> Figure:
        """Draw the release, once there is one; until then the curves so far."""
        raise NotImplementedError

    def __repr__(self) -> str:
        now = self.progress
        return f"<FederatedRun {self.id[:8]} {now.state}, round {now.rounds_done} of {now.rounds}>"
