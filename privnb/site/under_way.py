"""Python computations that are under way: run, held, released or refused, step by step.

The states, and what a crash at each leads to, stand in `privnb.site.approving`. Before a cell runs,
and again before an output leaves, policy, grants and signatures are checked anew: a state in the
database alone lets nothing run and nothing out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import PrivnbError, RequestRefused, StateError
from privnb.output import Output, OutputColumn
from privnb.site.audit import record_event
from privnb.site.charging import ATTEMPTS
from privnb.site.ending import Ended, Endings, Refusal, ReleaseOf
from privnb.site.federated.ending import enter_run
from privnb.site.python_engine import PythonEngine, Ran
from privnb.site.refusing import Outgoing, public
from privnb.site.reporting import failure
from privnb.site.requests import Record, RequestBook, Standing
from privnb.site.reviewing import review
from privnb.site.reviewing.approvals import IN_REVIEW, Approvals
from privnb.site.reviewing.notify import announce
from privnb.site.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.federated.federating import Federating
    from privnb.site.liveness import AgentLock
    from privnb.site.sandbox import Failed

__all__ = ["UnderWay", "no_python", "told"]

logger = logging.getLogger("privnb.site")

_LOOK_SECONDS = 0.1
"""How often the agent looks for decisions of reviewers."""
_PATROL_SECONDS = 5.0
"""How often it looks whether what waits has expired, or lost its grant."""
_SURE_SECONDS = 60.0
"""How long the wall clock must say that a request has expired."""
_FORGET_SECONDS = 60.0
"""How long the result of a mock run is kept for a job that is not shown again."""
_DUE = ("approved", "running", "cleared", "denied")
_NOT_TRIED = (
    "A cell for several sites is not run beforehand: its rounds are the analyst's to choose."
)


class UnderWay:
    """Runs cells, and brings each request to its end.

    For the agent's thread; cells run in threads of their own, and nothing they return is believed.
    """

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        python: PythonEngine | None,
        approvals: Approvals,
        endings: Endings,
        federating: Federating,
        database: Database,
        book: RequestBook,
        lock: AgentLock,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._python = python
        self._approvals = approvals
        self._endings = endings
        self._federating = federating
        self._database = database
        self._book = book
        self._lock = lock
        self._now = now
        self.runs = Runs(threads=config.python.workers if python and config.python else 1)
        self._parked: set[tuple[str, str]] = set()
        # Run but not yet stored, because the disk was full: to be stored, never run again.
        self._unstored: dict[tuple[str, str], Ran | Failed | BaseException] = {}
        # Rows that can neither go on nor be ended: their content is broken.
        self._set_aside: set[tuple[str, str]] = set()
        self._over: dict[tuple[str, str], float] = {}
        self._told_of_sandbox = False
        self._next_look = self._next_patrol = 0.0

    @property
    def busy(self) -> bool:
        """Whether cells are running, or have just ended."""
        return self.runs.busy or bool(self._unstored)

    def warm(self) -> None:
        """Wait until a cell would not have to."""
        if self._python is not None:
            self._python.warm()

    def close(self) -> None:
        """Start nothing more, and end what runs."""
        self.runs.close()
        if self._python is not None:
            self._python.close()

    def arrived(self, record: Record, computation: Computation, python: PythonEngine) -> None:
        """Begin with a request that was just taken in: run it, or get it ready for reviewers."""
        if record.state == "waiting":
            self._announce(record.name, computation.digest)
            self._prepare(record, computation, python)
            self._parked.add((record.sender, record.name))
        elif record.state == "joined":
            self._federating.begin(record)
        else:
            self._start(record, computation, python)

    def fail(self, record: Record) -> Outgoing | None:
        """Give up a computation over which something unforeseen happened."""
        ended = self._end(record, Refusal(problem=failure(), failed=True))
        return ended[0].outgoing if ended else None

    def park(self, record: Record) -> None:
        """Leave a request alone until a person or a cell is done with it."""
        self._parked.add((record.sender, record.name))
        if record.state != "waiting" or self._python is None:
            return
        with self._database.read() as snapshot:
            found, computation = self._found(snapshot, record)
        if found.mock is None:  # an agent ended before it was kept
            self._prepare(record, computation, self._python)

    def is_parked(self, sender: str, name: str) -> bool:
        """Tell whether there is nothing to do for a request now."""
        return (sender, name) in self._parked or self.runs.unfinished(sender, name)

    def tick(self) -> list[Ended]:
        """Go on with all that is due; return the requests that ended, whose replies may be sent.

        While nobody can tell who the reviewers are, all waits.

        Raises
        ------
        StateError
            The database cannot be used now. Nothing is lost; call again later.
        """
        if not self._approvals.can_be_asked():
            return []
        ended = self._take_results()
        moment = time.monotonic()
        if moment >= self._next_look:
            self._next_look = moment + _LOOK_SECONDS
            self.runs.forget_old("mock", seconds=_FORGET_SECONDS)
            for standing in self._in_states(_DUE):
                ended += self._carefully(standing, self._go_on)
        if moment >= self._next_patrol:
            self._next_patrol = moment + _PATROL_SECONDS
            waiting = self._in_states(IN_REVIEW)
            for standing in waiting:
                ended += self._carefully(standing, self._patrol)
            alive = {(each.sender, each.name) for each in waiting}
            self._over = {key: since for key, since in self._over.items() if key in alive}
        return ended

    def _in_states(self, states: tuple[str, ...]) -> list[Standing]:
        with self._database.read() as snapshot:
            found = self._book.in_states(snapshot, states)
        return [
            each
            for each in found
            if (each.sender, each.name) not in self._set_aside
            and not self._lock.is_other_alive(each.agent)
        ]

    def _carefully(self, standing: Standing, step: Callable[[Record], list[Ended]]) -> list[Ended]:
        """Take a step; should it fail for a reason nobody foresaw, end the request with that."""
        key = (standing.sender, standing.name)
        if key in self._unstored or self.runs.has((*key, "run")):
            return []
        record = self._book.find(*key)
        if record is None or record.state != standing.state:
            return []
        try:
            return step(record)
        except StateError:
            raise
        except Exception:
            logger.exception("request %s of %s", record.name, record.sender)
        try:
            return self._end(record, Refusal(problem=failure(), failed=True))
        except StateError:
            raise
        except Exception:
            logger.exception("request %s is set aside until the next start", record.name)
            self._set_aside.add(key)
            return []

    def _go_on(self, record: Record) -> list[Ended]:
        if record.state == "denied":
            return self._refuse_denied(record)
        if self._python is None:
            return self._without_python(record)
        if record.state == "cleared":
            return self._release_cleared(record)
        if record.state == "running" and record.agent == self._lock.name:
            with self._database.read() as snapshot:  # there was no room for it before
                _, computation = self._found(snapshot, record)
            self._start(record, computation, self._python)
            return []
        return self._take_up(record)

    def _without_python(self, record: Record) -> list[Ended]:
        """Wait for a sandbox, or refuse where the owner takes no Python any more."""
        if self._config.python is None:
            return self._end(record, Refusal(problem=no_python()))
        if not self._told_of_sandbox:
            logger.error("requests that are approved wait until the sandbox can be opened")
            self._told_of_sandbox = True
        return []

    def _take_up(self, record: Record) -> list[Ended]:
        """Run an approved computation, or one over which an agent died."""
        if record.attempts >= ATTEMPTS:
            logger.error("request %s is given up: it was interrupted twice", record.name)
            return self._end(record, Refusal(problem=failure(), failed=True))
        python = self._require_python()
        running = dataclasses.replace(
            record, state="running", agent=self._lock.name, attempts=record.attempts + 1
        )
        with self._database.write() as transaction:
            _, computation = self._found(transaction, record)
            joins = computation.federation is not None
            if joins:
                running = dataclasses.replace(running, state="joined", attempts=record.attempts)
            refused = self._approvals.objection(transaction, record.sender, computation)
            route = self._approvals.route(computation)
            sound = self._approvals.may_run(transaction, record, route)
            to = running if sound else dataclasses.replace(record, state="waiting", attempts=0)
            moved = refused is None and self._book.move(
                transaction, record, state=to.state, agent=to.agent, attempts=to.attempts
            )
            if moved and sound and joins:
                enter_run(transaction, running, computation, rule=route.rule, sandbox=python.level)
        if refused is not None:
            return self._end(record, Refusal(problem=refused))
        if not sound:
            logger.error("request %s waits again: its approvals do not verify", record.name)
        elif moved and joins:
            self._federating.begin(running)
        elif moved:
            logger.info("run request=%s", record.name)
            self._start(running, computation, python)
        return []

    def _release_cleared(self, record: Record) -> list[Ended]:
        with self._database.read() as snapshot:
            found, computation = self._found(snapshot, record)
        output = found.read_output()
        if output is None:
            raise ValueError("the output that was held is gone, or was changed")
        release = ReleaseOf(
            computation=computation, output=output, findings=found.gate_findings, looked=True
        )
        return self._end(record, release)

    def _refuse_denied(self, record: Record) -> list[Ended]:
        with self._database.read() as snapshot:
            found, _ = self._found(snapshot, record)
            made = review.decisions_on(snapshot, site=self._config, review=found)
        denials = [each for each in made if each.verdict == "deny"]
        if not denials:
            raise ValueError("a denied request without a denial")
        last = denials[-1]
        what = "denied this computation" if last.stage == "code" else "withheld its output"
        problem = RequestRefused(
            f"The reviewers {what}: {last.reason}",
            hint="Change it, then ask again: the same text stays refused.",
            code="E_DENIED",
        )
        return self._end(record, Refusal(problem=problem))

    def _patrol(self, record: Record) -> list[Ended]:
        """Refuse what has waited too long, was denied elsewhere, or whose grant is gone."""
        with self._database.read() as snapshot:
            found, computation = self._found(snapshot, record)
            problem = self._approvals.objection(snapshot, record.sender, computation)
        if problem is None and self._is_over(record, found):
            problem = RequestRefused(
                "Nobody decided on this request in time.",
                hint="Ask again, and tell the reviewers.",
                code="E_EXPIRED",
            )
        return [] if problem is None else self._end(record, Refusal(problem=problem))

    def _is_over(self, record: Record, found: review.Review) -> bool:
        """Tell whether a request has expired, by a clock that has said so for a while."""
        key = (record.sender, record.name)
        if found.expires > review.stamp(self._now()):
            self._over.pop(key, None)
            return False
        return time.monotonic() - self._over.setdefault(key, time.monotonic()) >= _SURE_SECONDS

    # Cells that run

    def _prepare(self, record: Record, computation: Computation, python: PythonEngine) -> None:
        """Run a cell on the mock twin, for the reviewers to see."""
        if computation.federation is not None:
            self._keep_mock(record.sender, record.name, _NOT_TRIED)
            return
        key = (record.sender, record.name, "prepare")
        if not self.runs.start(key, lambda: python.mock(computation)):
            self._keep_mock(record.sender, record.name, "It was not run: too many at once.")

    def _start(self, record: Record, computation: Computation, python: PythonEngine) -> None:
        key = (record.sender, record.name, "run")
        self.runs.start(key, lambda: python.run(computation))

    def _take_results(self) -> list[Ended]:
        """Keep what cells gave that have ended."""
        for key in self.runs.done():
            sender, name, what = key
            if what == "run" and (future := self.runs.take(key)) is not None:
                self._unstored[sender, name] = future.exception() or future.result()
            elif what == "prepare" and (future := self.runs.peek(key)) is not None:
                if future.exception() is None:
                    self._keep_mock(sender, name, "", output=future.result())
                else:
                    self._keep_mock(sender, name, told(future).message)
                self.runs.take(key)
        ended: list[Ended] = []
        for place, outcome in list(self._unstored.items()):
            record = self._book.find(*place)
            if record is not None and (record.state, record.agent) == ("running", self._lock.name):
                del self._unstored[place]
                try:
                    standing = Standing(*place, record.state, record.agent)
                    ended += self._carefully(standing, partial(self._finish, outcome=outcome))
                except StateError:
                    self._unstored[place] = outcome
                    raise
            else:
                del self._unstored[place]
        return ended

    def _keep_mock(
        self, analyst: str, request: str, problem: str, output: Output | None = None
    ) -> None:
        run = review.MockRun(output=output, problem=problem)
        with self._database.write() as transaction:
            review.keep_mock(transaction, analyst=analyst, request=request, run=run)

    def _finish(self, record: Record, *, outcome: Ran | Failed | BaseException) -> list[Ended]:
        """Decide what becomes of a cell that ended."""
        if isinstance(outcome, BaseException):
            logger.error("request %s could not be run", record.name, exc_info=outcome)
            return self._end(record, Refusal(problem=failure(), failed=True))
        with self._database.read() as snapshot:
            _, computation = self._found(snapshot, record)
        route = self._approvals.route(computation)
        if not isinstance(outcome, Ran):
            logger.info("request %s failed: %s, %s", record.name, outcome.reason, outcome.line)
            problem = self._require_python().problem(outcome)
            if not route.output:
                return self._end(record, Refusal(problem=problem, failed=True))
            # That and how it failed may tell about the data: it is an output like any other.
            outcome = Ran(output=_as_output(problem), findings=("The cell failed; it says how.",))
        if not route.output and not outcome.findings:
            return self._end(record, ReleaseOf(computation=computation, output=outcome.output))
        if self._config.review is None:
            return self._end(record, Refusal(problem=_nobody_looks()))
        self._hold(record, computation, outcome)
        return []

    def _hold(self, record: Record, computation: Computation, ran: Ran) -> None:
        """Keep an output for the reviewers."""
        with self._database.write() as transaction:
            if not self._book.move(
                transaction,
                record,
                state="held",
                agent=record.agent,
                attempts=record.attempts,
            ):
                return
            review.hold(
                transaction,
                analyst=record.sender,
                request=record.name,
                output=wire.encode(ran.output),
                gate=ran.findings,
            )
            record_event(
                transaction,
                "output-held",
                private={"analyst": record.sender},
                request=record.name,
                digest=computation.digest,
                purpose=computation.purpose,
                sandbox=self._require_python().level,
            )
        self._parked.add((record.sender, record.name))
        self._announce(record.name, computation.digest)

    def _announce(self, request: str, digest: str) -> None:
        if self._config.review is not None:
            announce(self._config.review, request=request, digest=digest)

    # Small facts

    def _require_python(self) -> PythonEngine:
        if self._python is None:
            raise no_python()
        return self._python

    def _found(
        self, connection: sa.Connection, record: Record
    ) -> tuple[review.Review, Computation]:
        found = review.find(connection, analyst=record.sender, request=record.name)
        computation = None if found is None else found.read_computation()
        if found is None or computation is None:
            raise ValueError("what is stored of the computation is not what came in")
        return found, computation

    def _end(self, record: Record, ending: ReleaseOf | Refusal) -> list[Ended]:
        ended = self._endings.end(record, ending)
        if ended is None:
            return []
        self._parked.discard((record.sender, record.name))
        return [ended]


def told(future: Future[Output]) -> PrivnbError:
    """Return what may be told of why a cell failed on the mock twin."""
    problem = future.exception()
    return public(problem) if isinstance(problem, Exception) else failure()


def no_python() -> RequestRefused:
    """Build the refusal of a site that takes no Python, or has no sandbox for it."""
    return RequestRefused(
        "This site takes no Python cells.",
        hint="Ask in SQL, or ask its owner.",
        code="E_NO_PYTHON",
    )


def _as_output(problem: PrivnbError) -> Output:
    """Write a failure as a text, for reviewers to let out or not."""
    column = OutputColumn(name="failure", type="string", role="value")
    return Output(kind="scalar", columns=(column,), rows=((problem.message,),))


def _nobody_looks() -> RequestRefused:
    return RequestRefused(
        "The output does not keep to the owner's rules, and nobody reviews outputs here.",
        hint="Ask the owner; the site's offer says what the rules are.",
        code="E_WITHHELD",
    )
