"""Wait for what was asked: quietly at first, then with progress; an interrupt lets it go on."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Protocol, TypeAlias

from privnb.errors import PrivnbError, ResultPending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.federated.release import FederatedRelease
    from privnb.federated.runs import FederatedRun
    from privnb.release import Release
    from privnb.request import Request
    from privnb.widgets.progress import Progress
    from privnb.widgets.run_display import RunDisplay

__all__ = ["Asked", "Waiting", "Watching", "is_run", "wait"]

Asked: TypeAlias = "Request | FederatedRun"
"""What a cell can wait for."""

_TICK, _RUN_TICK = 1.0, 0.25
"""Seconds between two drawings of the progress: of a request, of a federated run."""
_DECIDED = ("joined", "refused", "failed")
"""States of sites that have said whether they take part in a run."""
_FIRST_LOOK, _LOOK = 0.3, 1.0
"""Seconds after which sites are asked whether people have to decide first, and until the next."""


class Watcher(Protocol):
    """What is shown of something while it is waited for, and said when that ends early."""

    tick: float
    """Seconds between two drawings."""

    @property
    def may_need_people(self) -> bool:
        """Whether it may be that nothing happens until a person decides."""

    @property
    def needs_people(self) -> bool:
        """Whether that is so, as far as is known here."""

    def show(self, *, seconds: float) -> None:
        """Draw how far it is, ``seconds`` after the wait began."""

    def close(self) -> None:
        """Leave nothing behind that needs a kernel."""

    def interrupted(self, later: str) -> PrivnbError:
        """Say that the user stopped waiting; ``later`` is the line that gets the result."""

    def timed_out(self, later: str, *, seconds: float) -> PrivnbError:
        """Say that the time is over."""


def is_run(asked: Asked) -> bool:
    """Tell a federated run from a request whose sites answer each for itself."""
    return asked.computation is not None and asked.computation.federation is not None


def wait(
    asked: Asked, watcher: Watcher, *, timeout: float, progress_after: float, result: str | None
) -> Release | FederatedRelease | None:
    """Wait until there is a release, or only people can go on: then there is None.

    Parameters
    ----------
    asked
        What to wait for.
    watcher
        Shows how far it is, once ``progress_after`` seconds are over.
    timeout
        Seconds to wait at most.
    result
        Name of the variable meant for the release, for the advice how to get it later.

    Raises
    ------
    ResultPending
        The time is over or the wait was interrupted. What was asked stays alive.
    PrivnbError
        What the sites answered, if none of them released anything; what ended a run.
    """
    later = " ".join(["%privnb result", asked.id[:8], *([result] if result else [])])
    start = next_look = time.monotonic()
    quiet = min(_FIRST_LOOK, progress_after) if watcher.may_need_people else progress_after
    try:
        with contextlib.suppress(ResultPending):
            return asked.result(timeout=min(quiet, timeout))
        while (left := start + timeout - time.monotonic()) > 0:
            if watcher.may_need_people and time.monotonic() >= next_look:
                asked.look(seconds=min(_LOOK, left))
                if watcher.needs_people:
                    return None
                next_look = time.monotonic() + _LOOK
            if (waited := time.monotonic() - start) >= progress_after:
                watcher.show(seconds=waited)
            with contextlib.suppress(ResultPending):
                return asked.result(timeout=min(watcher.tick, left))
    except KeyboardInterrupt:
        raise watcher.interrupted(later) from None
    finally:
        watcher.close()
    raise watcher.timed_out(later, seconds=timeout)


class Waiting:
    """Shows which sites have answered a request; the table is gone when the wait is over.

    Parameters
    ----------
    live
        Whether the front end can replace what it shows; a terminal cannot.
    """

    tick = _TICK

    def __init__(self, request: Request, *, live: bool) -> None:
        self._request = request
        self._live = live
        self._progress: Progress | None = None

    @property
    def may_need_people(self) -> bool:
        """Whether it is code, which people may have to approve."""
        asked = self._request.computation
        return asked is not None and asked.kind == "python"

    @property
    def needs_people(self) -> bool:
        """Whether every site that has not answered waits for a person."""
        return self._request.in_review

    def show(self, *, seconds: float) -> None:
        """Draw the table of the sites."""
        if self._progress is None:
            from privnb.widgets.progress import Progress  # noqa: PLC0415 - most cells need none

            self._progress = Progress(live=self._live)
        self._progress.show(self._states(), seconds=seconds)

    def close(self) -> None:
        """Take the table away."""
        if self._progress is not None:
            self._progress.close()

    def interrupted(self, later: str) -> ResultPending:
        """Say who was waited for, and that the request goes on."""
        return ResultPending(
            f"You stopped waiting for {self._waiting}; the request goes on without you.",
            hint=f"Get the answer later with: {later}",
        )

    def timed_out(self, later: str, *, seconds: float) -> ResultPending:
        """Say who did not answer."""
        return ResultPending(
            f"No answer yet from {self._waiting} after {seconds:g} seconds; "
            "the request goes on without you.",
            hint=f"Get the answer later with: {later}",
        )

    def _states(self) -> Mapping[str, str]:
        """Tell how far each site is; of those that answer at once, that they have not."""
        status = self._request.status
        told = {s.site: s.state for s in self._request.standings if s.since}
        return {site: told.get(site, state) for site, state in status.items()}

    @property
    def _waiting(self) -> str:
        waiting = [s for s, state in self._request.status.items() if state == "waiting"]
        return ", ".join(waiting) or "the sites"


class Watching:
    """Shows the rounds of a federated run, and leaves a picture of them when the wait is over.

    Parameters
    ----------
    live
        As of `Waiting`.
    cancels
        Whether an interrupt gives the run up, instead of letting it go on in the background.
    """

    tick = _RUN_TICK

    def __init__(self, run: FederatedRun, *, live: bool, cancels: bool) -> None:
        self._run = run
        self._live = live
        self._cancels = cancels
        self._display: RunDisplay | None = None

    @property
    def may_need_people(self) -> bool:
        """Whether it is code, and its sites are still to say whether they take part."""
        asked = self._run.computation
        is_code = asked is not None and asked.kind == "python"
        return is_code and self._run.progress.state == "joining"

    @property
    def needs_people(self) -> bool:
        """Whether every site that has not decided waits for a person."""
        undecided = [each for each in self._run.standings if each.state not in _DECIDED]
        waits = bool(undecided) and all(each.in_review for each in undecided)
        return waits and self.may_need_people and not self._run.hopeless

    def show(self, *, seconds: float) -> None:
        """Draw what each site does in each round, and the curves so far."""
        if self._display is None:
            from privnb.widgets.run_display import RunDisplay  # noqa: PLC0415 - anywidget, pyplot

            self._display = RunDisplay(self._run.id, live=self._live)
        self._display.show(self._run.progress, seconds=seconds)

    def close(self) -> None:
        """Replace what is live by what can be saved."""
        if self._display is not None:
            self._display.close(self._run.progress)

    def interrupted(self, later: str) -> PrivnbError:
        """Say how far the run is, and that it goes on; or give it up, and say that."""
        if self._cancels:
            self._run.cancel()
            return PrivnbError(
                f"You interrupted the cell, and the run was given up: {self._so_far}.",
                hint="What sites have charged for it stays charged.",
                code="E_CANCELLED",
            )
        return ResultPending(
            f"You stopped waiting; the run goes on in the background: {self._so_far}.",
            hint=f"Get it with {later}, or give it up with %privnb cancel {self._run.id[:8]}.",
        )

    def timed_out(self, later: str, *, seconds: float) -> ResultPending:
        """Say how far the run is."""
        return ResultPending(
            f"After {seconds:g} seconds the run goes on in the background: {self._so_far}.",
            hint=f"Get it with {later}, or give it up with %privnb cancel {self._run.id[:8]}.",
        )

    @property
    def _so_far(self) -> str:
        now = self._run.progress
        if now.by_round:
            return f"round {now.rounds_done} of {now.rounds} is done"
        undecided = [site for site, state in now.joined.items() if state != "joined"]
        return f"{', '.join(undecided)} yet to join" if undecided else "all sites have joined"
