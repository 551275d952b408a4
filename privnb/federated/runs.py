"""A federated run that is under way: how far it is, and the release once it is done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from privnb.errors import (
    ExchangeError,
    PrivnbError,
    ResultPending,
    RunStalled,
    error_from_code,
)
from privnb.federated.asking import RunStopped
from privnb.federated.progress import RoundProgress
from privnb.federated.release import FederatedRelease
from privnb.messages import Problem

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from privnb.computation import Computation
    from privnb.federated.history import Checkpoint, RunFiles
    from privnb.federated.progress import Board, Progress
    from privnb.federated.release import Outcome
    from privnb.messages import Reply, RequestState
    from privnb.request import Request
    from privnb.standing import SiteStatus, Standing

__all__ = ["Course", "FederatedRun", "restored"]

_PAUSE = 0.05
_FOLLOW_PAUSE = 0.5
"""Seconds between two looks at a run that another kernel drives."""
_PROOF_SECONDS = 20.0
"""How long the proofs of the sites are waited for, once the sums are there."""
_PATIENCE_SECONDS = 30.0
"""How long is waited for the step at hand when a run is stopped."""


class Course(Protocol):
    """What a run does, from where its files say it is."""

    def drive(self, board: Board, stop: threading.Event) -> None:
        """Bring it to its end, and write down how it ended; raises `RunStopped` if asked to."""
        ...

    def give_up(self) -> None:
        """Tell the sites that it is over."""
        ...

    def tidy(self) -> None:
        """Remove what is left of its rounds, once every site has replied for good."""
        ...

    def forget(self) -> None:
        """Remove all that is kept of it here, where nothing needs to be kept."""
        ...


class FederatedRun:
    """A handle on one federated run. It drives the run in a thread of its own.

    The run lives on disk and at its sites: after a restart of the kernel,
    ``session.request(id).result()`` goes on after the last finished round. Where another kernel
    drives it already, this one watches, and takes over if that ends.

    Parameters
    ----------
    request
        The request that every site got; the sites' last replies come by it.
    files
        What is kept of the run here.
    board
        Where it is written down how far it is.
    course
        Brings it to its end.
    """

    def __init__(self, request: Request, *, files: RunFiles, board: Board, course: Course) -> None:
        self._request = request
        self._files = files
        self._board = board
        self._course = course
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._starting = threading.Lock()
        self._ended_at: float | None = None
        self._release: FederatedRelease | None = None
        if not self._recall():
            self._restore(self._files.checkpoint())
            if self.progress.by_round:
                self._board.state("stopped")

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
        """Whether every site that is waited for waits for a person, as far as is known here.

        It is not so where a person can change nothing: see `hopeless`.
        """
        return self.progress.state == "joining" and self._request.in_review and not self.hopeless

    @property
    def hopeless(self) -> bool:
        """Whether too few sites are left that may take part, as far as is known here."""
        return sum(not each.is_out for each in self.standings) < self._needed

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""
        return self.progress.state in ("finished", "failed", "cancelled")

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

    @cached_property
    def _needed(self) -> int:
        federation = self.computation.federation if self.computation else None
        return self._files.plan().needed(federation)

    # Going on and stopping

    def start(self) -> None:
        """Drive the run in a thread of its own, if it is not over and none does."""
        with self._starting:
            if self.done or (self._thread is not None and self._thread.is_alive()):
                return
            self._failure = None
            self._stop.clear()
            name = f"privnb-run-{self.id[:8]}"
            self._thread = threading.Thread(target=self._go, name=name, daemon=True)
            self._thread.start()

    def stop(self, *, cancel: bool = False) -> None:
        """Stop driving the run from here, after the step at hand.

        It can be taken up again by `start` or `result`, here or in another kernel, until the sites
        lose patience. With ``cancel`` it is given up for good, and the sites are told so; what
        they have charged stays charged.
        """
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE_SECONDS)
        if cancel and not self.done:
            self._files.fail(Problem(code="E_CANCELLED", message="The run was cancelled.", hint=""))
            with contextlib.suppress(ExchangeError):  # the sites notice by themselves, in time
                self._course.give_up()
            self._request.cancel()
            self._recall()

    def cancel(self) -> None:
        """Give the run up for good."""
        self.stop(cancel=True)

    def result(self, timeout: float | None = None) -> FederatedRelease:
        """Wait for the end of the run, and return what the sites gave together.

        An interrupt ends the waiting only: the run goes on until `stop` is called.

        Parameters
        ----------
        timeout
            Seconds to wait at most; None waits for as long as it takes.

        Raises
        ------
        ResultPending
            The time is over. The run goes on: ask again later.
        RunStalled
            Too few sites are left. Asking again goes on from the last finished round.
        QueryRefused, RequestRefused, SiteFailure, BadMessage, RoundLost
            What ended it.
        """
        end = None if timeout is None else time.monotonic() + timeout
        self.start()
        while not self._is_ready():
            if end is not None and time.monotonic() >= end:
                raise self._pending()
            time.sleep(_PAUSE if end is None else min(_PAUSE, max(end - time.monotonic(), 0)))
        return self._made()

    def __await__(self) -> Generator[object, None, FederatedRelease]:
        return self._wait().__await__()

    async def _wait(self) -> FederatedRelease:
        self.start()
        while not await asyncio.to_thread(self._is_ready):  # noqa: ASYNC110 - it is no event of a loop
            await asyncio.sleep(_PAUSE)
        return self._made()

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
        from privnb.federated.frames import history_frame  # noqa: PLC0415 - pandas is slow to load

        if self._release is not None:
            return self._release.history
        return history_frame(self._files.checkpoint().history)

    def plot(self) -> Figure:
        """Draw the release, once there is one; until then the curves so far."""
        from privnb.federated.drawing import draw_curves  # noqa: PLC0415 - matplotlib is slow

        if self.progress.state == "finished":
            return self.result(timeout=_PROOF_SECONDS).plot()
        now = self.progress
        return draw_curves({name: now.curve(name) for name in now.metrics})

    def __repr__(self) -> str:
        now = self.progress
        return f"<FederatedRun {self.id[:8]} {now.state}, round {now.rounds_done} of {now.rounds}>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """Show what came of it once it is there, until then how far it is."""
        from privnb.federated.rendering import (  # noqa: PLC0415 - it reads runs
            progress_html,
            progress_text,
        )

        if self.progress.state == "finished":
            with contextlib.suppress(PrivnbError):  # how far it is can be shown all the same
                return self.result(timeout=_PROOF_SECONDS).bundle()
        return {
            "text/html": progress_html(self.progress, run=self.id),
            "text/plain": progress_text(self.progress, run=self.id),
        }

    # The thread

    def _go(self) -> None:
        try:
            while not self._recall():
                with self._files.locked() as mine:
                    if mine:
                        if not self._recall():
                            self._course.drive(self._board, self._stop)
                            self._ended_at = time.monotonic()
                            self._board.state("finished")
                        return
                self._watch()
                if self._stop.wait(_FOLLOW_PAUSE):
                    break
        except RunStopped:
            self._board.state("stopped")
        except RunStalled as stalled:
            self._failure = stalled
            self._board.state("stopped")
        except PrivnbError as problem:
            self._failure = problem
            self._board.state("failed" if self._files.failure() is not None else "stopped")
        except Exception as problem:  # noqa: BLE001 - a strategy of the analyst's may raise anything
            self._failure = problem
            self._board.state("stopped")

    def _watch(self) -> None:
        """Show how far another kernel is with the run."""
        with contextlib.suppress(PrivnbError):  # it is being written
            self._restore(self._files.checkpoint())
            self._board.state("running")

    def _recall(self) -> bool:
        """Show what was written down of the run; tell whether it is over."""
        failure = self._files.failure()
        if failure is not None:
            self._failure = error_from_code(failure.code, failure.message, failure.hint)
            self._board.state("cancelled" if failure.code == "E_CANCELLED" else "failed")
            return True
        if self._files.outcome() is None:
            return False
        if self.progress.state != "finished":
            self._restore(self._files.checkpoint())
            self._board.state("finished")
        return True

    def _restore(self, checkpoint: Checkpoint) -> None:
        rounds = restored(checkpoint, self.sites)
        if rounds != self.progress.by_round:
            self._board.restore(rounds, checkpoint.remarks)

    # The release

    def _is_ready(self) -> bool:
        """Tell whether the run is over, and its proofs are there or waited for long enough."""
        if self._thread is not None and self._thread.is_alive():
            return False
        if self.progress.state != "finished":
            return True
        with contextlib.suppress(ExchangeError):  # a storage that is gone may come back
            if self._request.poll():
                return True
        since = self._ended_at
        if since is None:  # it ended in another kernel, long ago perhaps: what is there is there
            since = self._ended_at = time.monotonic() - _PROOF_SECONDS / 2
        return time.monotonic() - since >= _PROOF_SECONDS

    def _made(self) -> FederatedRelease:
        if self._release is not None:
            return self._release
        outcome = self._files.outcome()
        if outcome is None:
            if self._failure is not None:
                raise self._failure
            raise self._pending()
        made = self._put_together(outcome)
        if self._request.done:
            self._course.tidy()
            self._release = made
            if made.mock:
                self._course.forget()
        return made

    def _put_together(self, outcome: Outcome) -> FederatedRelease:
        parts, problems = self._request.parts()
        checkpoint, plan = self._files.checkpoint(), self._files.plan()
        return FederatedRelease(
            request=self.id,
            digest=self.digest,
            outcome=outcome,
            parts=parts,
            problems={site: _unproved(site, problem) for site, problem in problems.items()},
            final=checkpoint.arrays,
            by_name=plan.by_name,
        )

    def _pending(self) -> ResultPending:
        now = self.progress
        if self.in_review:
            waiting = [s for s in self.standings if s.in_review]
            parts = [f"{s.site} is out: {s.reason}" for s in self.standings if s.is_out]
            parts += [f"{s.site} is {s.state}: {s.deciders}".rstrip(": ") for s in waiting]
            said = "; ".join(parts)
        elif now.state == "joining":
            undecided = [site for site, state in now.joined.items() if state != "joined"]
            said = f"{', '.join(undecided) or 'The sites'} have not joined yet"
        else:
            said = f"Round {now.rounds_done} of {now.rounds} is done"
        goes_on = "is stopped" if now.state == "stopped" else "goes on"
        return ResultPending(
            f"{said}; the run {goes_on}.", hint=f"Get it later with %privnb result {self.id[:8]}."
        )


def restored(checkpoint: Checkpoint, sites: Sequence[str]) -> tuple[RoundProgress, ...]:
    """Tell how rounds went that were done in an earlier kernel, or are in another."""
    return tuple(
        RoundProgress(
            number=row.round,
            sites={site: "received" if site in row.summed else "dropped" for site in sites},
            done=True,
            seconds=row.seconds,
            metrics=row.metrics,
        )
        for row in checkpoint.history
    )


def _unproved(site: str, problem: PrivnbError) -> PrivnbError:
    if isinstance(problem, ResultPending):
        return ResultPending(
            f"{site} has not proved yet that it took part.",
            hint="Its proof is shown once it has come: take the run up again later.",
        )
    return problem
