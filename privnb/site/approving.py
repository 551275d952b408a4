"""Python cells, from the request to an output that people or the owner's rules let out.

The states of such a request, and who moves it on::

    (new) ─┬─▶ waiting ──reviewers──▶ approved ─┐
           └── by rule, or output review only ──┴─▶ running ─┬─▶ answered
                                                             ├─▶ held ──reviewers──▶ cleared ──▶ …
                                                             └─▶ failed, refused

All else is done here, by the agent. Each arrow is one transaction, and between them the agent may
be killed: what was ``running`` is run once more, then given up; an output that is held stays the
one that was looked at; a reply is stored once and sent until the exchange has taken it. Before a
cell runs, and again before an output leaves, policy, grants and signatures are checked anew: a
state in the database alone lets nothing run and nothing out.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import PrivnbError, QueryRefused, RequestRefused, StateError
from privnb.messages import Reply
from privnb.output import Output, OutputColumn
from privnb.site import review
from privnb.site.approvals import IN_REVIEW, Approvals
from privnb.site.audit import AuditLog, record_event
from privnb.site.charging import ATTEMPTS
from privnb.site.ending import Ended, Endings, Refusal, ReleaseOf
from privnb.site.notify import announce
from privnb.site.policy import refusal
from privnb.site.python_engine import PythonEngine, Ran
from privnb.site.refusing import Outgoing, Refusing, public
from privnb.site.reporting import About, failure, log_decision, problem_reply, record_decision
from privnb.site.requests import Record, RequestBook, Standing
from privnb.site.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.messages import Submission
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.liveness import AgentLock
    from privnb.site.sandbox import Failed
    from privnb.site.serving import Serving

__all__ = ["Approving"]

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
_DEFAULT_DAYS = 30


class Approving:
    """Takes Python computations in, has them run, and brings each to its end.

    For the agent's thread; cells run in threads of their own, and nothing they return is believed.
    """

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        python: PythonEngine | None,
        database: Database,
        book: RequestBook,
        refusing: Refusing,
        serving: Serving,
        audit: AuditLog,
        lock: AgentLock,
        today: Callable[[], dt.date],
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._python = python
        self._database = database
        self._book = book
        self._refusing = refusing
        self._serving = serving
        self._lock = lock
        self._now = now
        self._approvals = Approvals(config, today=today)
        self._endings = Endings(
            python=python, approvals=self._approvals, database=database, book=book, audit=audit
        )
        self._runs = Runs(threads=config.python.workers if python and config.python else 1)
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
        return self._runs.busy or bool(self._unstored)

    def warm(self) -> None:
        """Wait until a cell would not have to."""
        if self._python is not None:
            self._python.warm()

    def close(self) -> None:
        """Start nothing more, and end what runs."""
        self._runs.close()
        if self._python is not None:
            self._python.close()

    # A request arrives

    def begin(
        self,
        job: ArrivedJob,
        previous: Record | None,
        submission: Submission,
        computation: Computation,
    ) -> Outgoing | None:
        """Take in a Python computation; None while it waits or runs."""
        about = self._about(submission.action, computation)
        try:
            python = self._require_python()
            python.check(computation)
            if submission.action == "estimate":
                raise _no_price()  # noqa: TRY301 - one way out
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            refused = public(problem)
            if submission.action == "run":
                return self._refusing.refuse(job, previous, refusal(refused), about)
            reply = problem_reply(job.name, computation, refused)
            return self._serving.close(job, previous, submission, reply)
        if submission.action == "mock":
            return self._mock(job, previous, submission, computation, python)
        return self._take_in(job, previous, computation, python, about)

    def _mock(
        self,
        job: ArrivedJob,
        previous: Record | None,
        submission: Submission,
        computation: Computation,
        python: PythonEngine,
    ) -> Outgoing | None:
        """Run a cell on the mock twin: started at the first call, answered at the last."""
        key = (job.sender, job.name, "mock")
        future = self._runs.take(key)
        if future is not None:
            reply = _mock_reply(job.name, computation, future, python)
        elif self._runs.start(key, lambda: python.mock(computation)):
            return None
        else:
            reply = problem_reply(job.name, computation, _too_many())
        return self._serving.close(job, previous, submission, reply)

    def _take_in(
        self,
        job: ArrivedJob,
        previous: Record | None,
        computation: Computation,
        python: PythonEngine,
        about: About,
    ) -> Outgoing | None:
        with self._database.write() as transaction:
            decision, route = self._approvals.decide(transaction, job.sender, computation)
            if route is not None:
                state = "waiting" if route.code else "running"
                entry = self._refusing.entry(job, previous, action="run", state=state)
                if not self._book.enter(transaction, entry, previous=previous, owed=False):
                    return None
                now = self._now()
                days = self._config.review.expires_days if self._config.review else _DEFAULT_DAYS
                review.open_review(
                    transaction,
                    analyst=job.sender,
                    request=job.name,
                    computation=computation,
                    rule=route.rule,
                    now=now,
                    expires=now + dt.timedelta(days=days),
                )
                record_decision(transaction, job, decision, about)
        if route is None:
            return self._refusing.refuse(job, previous, decision, about)
        log_decision(job, decision, about)
        if route.code:
            self._announce(job.name, computation.digest)
            self._prepare(entry, computation, python)
            self._parked.add((job.sender, job.name))
        else:
            self._start(entry, computation, python)
        return None

    def _about(self, action: str, computation: Computation) -> About:
        """Say of a request what is this site's own: log and events keep nothing else of it."""
        schemas = {table.name: table.schema for table in self._config.tables}
        tables = [table for table in computation.tables or () if table in schemas]
        purposes = {purpose for schema in schemas.values() for purpose in schema.purposes}
        known = computation.purpose in purposes
        return About(
            action=action,
            digest=computation.digest,
            table=",".join(dict.fromkeys(tables)) or "-",
            purpose=computation.purpose if known and computation.purpose else "-",
        )

    def _require_python(self) -> PythonEngine:
        if self._python is None:
            raise _no_python()
        return self._python

    # What is under way

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
        return (sender, name) in self._parked or self._runs.unfinished(sender, name)

    def tick(self) -> list[Ended]:
        """Go on with all that is due; return the requests that ended, whose replies may be sent.

        Raises
        ------
        StateError
            The database cannot be used now. Nothing is lost; call again later.
        """
        ended = self._take_results()
        moment = time.monotonic()
        if moment >= self._next_look:
            self._next_look = moment + _LOOK_SECONDS
            self._runs.forget_old("mock", seconds=_FORGET_SECONDS)
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

    def fail(self, record: Record) -> Outgoing | None:
        """Give up a computation over which something unforeseen happened."""
        ended = self._endings.end(record, Refusal(problem=failure(), failed=True))
        return None if ended is None else ended.outgoing

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
        if key in self._unstored or self._runs.has((*key, "run")):
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
            return self._end(record, Refusal(problem=_no_python()))
        if not self._told_of_sandbox:
            logger.error("requests that are approved wait until the sandbox can be opened")
            self._told_of_sandbox = True
        return []

    def _take_up(self, record: Record) -> list[Ended]:
        """Run an approved computation, or one over which an agent died."""
        if record.attempts >= ATTEMPTS:
            logger.error("request %s is given up: it was interrupted twice", record.name)
            return self._end(record, Refusal(problem=failure(), failed=True))
        running = dataclasses.replace(
            record, state="running", agent=self._lock.name, attempts=record.attempts + 1
        )
        with self._database.write() as transaction:
            _, computation = self._found(transaction, record)
            refused = self._approvals.objection(transaction, record.sender, computation)
            route = self._approvals.route(computation)
            sound = self._approvals.may_run(transaction, record, route)
            to = running if sound else dataclasses.replace(record, state="waiting", attempts=0)
            moved = refused is None and self._book.move(
                transaction, record, state=to.state, agent=to.agent, attempts=to.attempts
            )
        if refused is not None:
            return self._end(record, Refusal(problem=refused))
        if not sound:
            logger.error("request %s waits again: its approvals do not verify", record.name)
        elif moved:
            logger.info("run request=%s", record.name)
            self._start(running, computation, self._require_python())
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
        key = (record.sender, record.name, "prepare")
        if not self._runs.start(key, lambda: python.mock(computation)):
            self._keep_mock(record.sender, record.name, "It was not run: too many at once.")

    def _start(self, record: Record, computation: Computation, python: PythonEngine) -> None:
        key = (record.sender, record.name, "run")
        self._runs.start(key, lambda: python.run(computation))

    def _take_results(self) -> list[Ended]:
        """Keep what cells gave that have ended."""
        for key in self._runs.done():
            sender, name, what = key
            if what == "run" and (future := self._runs.take(key)) is not None:
                self._unstored[sender, name] = future.exception() or future.result()
            elif what == "prepare" and (future := self._runs.peek(key)) is not None:
                if future.exception() is None:
                    self._keep_mock(sender, name, "", output=future.result())
                else:
                    self._keep_mock(sender, name, _told(future).message)
                self._runs.take(key)
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


def _mock_reply(
    name: str, computation: Computation, future: Future[Output], python: PythonEngine
) -> Reply:
    if future.exception() is not None:
        return problem_reply(name, computation, _told(future))
    return Reply(
        request=name,
        digest=computation.digest,
        output=future.result(),
        label=python.mock_label(),
    )


def _told(future: Future[Output]) -> PrivnbError:
    """Return what may be told of why a cell failed on the mock twin."""
    problem = future.exception()
    return public(problem) if isinstance(problem, Exception) else failure()


def _too_many() -> RequestRefused:
    return RequestRefused(
        "Too many of your cells are waiting to be run at this site.",
        hint="Wait until some are done.",
        code="E_BUSY",
    )


def _no_price() -> QueryRefused:
    return QueryRefused(
        "Python cells have no price: an exact output is not charged.",
        hint="Try the cell with --mock; the site's offer says who reviews it.",
    )


def _no_python() -> RequestRefused:
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
