"""One request, from its arrival to a reply that may be sent.

The way of a charged request, with what a crash at each point leads to::

    read ─▶ plan ─▶ [decide + reserve] ─▶ compute ─▶ [store reply + settle] ─▶ (sent by the agent)
      │ begun again     │                    │              │                      │
      └─────────────────┘                    │              └── the stored bytes ──┘ are sent again
               computed once more under the same reservation, then given up as charged

Square brackets are transactions. Nothing is sent before its reply is stored, and a reply is stored
once, so one payment gives one release, whatever is killed when.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb import wire
from privnb.computation import Computation
from privnb.datasite.ports import ArrivedJob
from privnb.errors import (
    BadMessage,
    PrivnbError,
    QueryRefused,
    RequestRefused,
    StateError,
    UnknownName,
)
from privnb.messages import (
    SOURCE_FILES,
    SUBMISSION_FILE,
    Budget,
    Reply,
    SiteDescription,
    Submission,
)
from privnb.site import ledger
from privnb.site.audit import record_event
from privnb.site.database import Database
from privnb.site.grants import grants_of
from privnb.site.intake import MAX_SUBMISSION_BYTES, read_submission
from privnb.site.liveness import AgentLock
from privnb.site.policy import Decision, decide, refusal
from privnb.site.reporting import (
    About,
    charged_failure,
    failure,
    log_decision,
    one_line,
    problem_of,
    problem_reply,
    record_decision,
)
from privnb.site.requests import Record, RequestBook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import sqlalchemy as sa

    from privnb.dp.plan import Plan
    from privnb.release import Answer
    from privnb.site.config import SiteConfig
    from privnb.site.engine import Engine

__all__ = ["Answering", "Outgoing"]

logger = logging.getLogger("privnb.site")

_ATTEMPTS = 2
"""How often a request may be begun: once, and once more after a crash."""
_NEWEST = 20


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """The bytes of a reply, stored where they have to be; safe to send, and to send again."""

    reply: bytes
    succeeded: bool


class Answering:
    """Decides on requests, pays for them, computes them and stores their replies.

    For one thread. Several agents may answer for one site at a time; each request is left to the
    one that began it, for as long as that one lives.
    """

    def __init__(
        self,
        config: SiteConfig,
        *,
        engine: Engine,
        database: Database,
        lock: AgentLock,
        today: Callable[[], dt.date],
    ) -> None:
        self._config = config
        self._engine = engine
        self._database = database
        self._lock = lock
        self._today = today
        self.book = RequestBook(database)
        # Computed but not yet stored, because the disk was full: to be stored, never recomputed.
        self._unstored: dict[tuple[str, str], Outgoing] = {}

    def warm(self) -> None:
        """Do once, for nobody, what the first request would wait for."""
        self._engine.warm()
        name = "0" * 32
        computation = Computation(kind="sql", source="SELECT 1")
        submission = Submission(request=name, action="run", computation=computation)
        files = {SUBMISSION_FILE: wire.encode(submission), SOURCE_FILES["sql"]: b"SELECT 1"}
        read_submission(ArrivedJob(sender="", name=name, files=files))
        self.book.find("", name)
        self.book.owed()
        with self._database.read() as snapshot:
            for terms in self._engine.terms.values():
                ledger.standing(snapshot, terms, analyst="", purpose="").epsilon_left  # noqa: B018

    def answer(self, job: ArrivedJob) -> Outgoing | None:
        """Bring a request to a reply; None while another living agent works on it.

        Raises
        ------
        StateError
            The database cannot be used now. Nothing may be sent; call again later.
        """
        record = self.book.find(job.sender, job.name)
        if record is not None and self._lock.is_other_alive(record.agent):
            return None
        with self._lock.working_on(job.sender, job.name):
            if record is None or record.state in {"served", "interrupted"}:
                return self._begin(job, record)
            return self._resume(record)

    def give_up(self, job: ArrivedJob) -> Outgoing | None:
        """Answer a request over which something unforeseen happened, whatever its state."""
        record = self.book.find(job.sender, job.name)
        if record is None or record.state in {"served", "interrupted"}:
            return self._refuse(job, record, refusal(failure()), About())
        if record.reply is not None:
            return Outgoing(reply=record.reply, succeeded=record.succeeded)
        return self._fail(record)

    @staticmethod
    def files_of(record: Record) -> Mapping[str, bytes]:
        """Rebuild the files of a stored request, as far as they were kept."""
        if record.submission is None:
            return {}
        computation = _stored_computation(record)
        source = computation.source.encode("utf-8", "surrogatepass")
        return {SUBMISSION_FILE: record.submission, SOURCE_FILES[computation.kind]: source}

    # A request that is new, or that nothing was decided about

    def _begin(self, job: ArrivedJob, previous: Record | None) -> Outgoing | None:
        if previous is not None and previous.attempts >= _ATTEMPTS:
            return self._refuse(job, previous, refusal(failure()), About())
        try:
            submission = read_submission(job)
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            return self._refuse(job, previous, refusal(self._public(problem)), About())
        if submission.action == "run" and submission.computation is not None:
            return self._run(job, previous, submission.computation)
        return self._serve(job, previous, submission)

    def _serve(
        self, job: ArrivedJob, previous: Record | None, submission: Submission
    ) -> Outgoing | None:
        try:
            reply = self._free_reply(job, submission)
        except StateError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            reply = problem_reply(job.name, submission.computation, self._public(problem))
        entry = self._record(job, previous, action=submission.action, state="served")
        with self._database.write() as transaction:
            if not self.book.enter(transaction, entry, previous=previous, owed=False):
                return None
        computation = submission.computation
        logger.info(
            "%s %s analyst=%s request=%s table=- epsilon=%s",
            "refuse" if reply.problem else "serve",
            reply.problem.code if reply.problem else submission.action,
            one_line(job.sender),
            one_line(job.name),
            one_line(computation.epsilon or "-") if computation else "-",
        )
        return Outgoing(reply=wire.encode(reply), succeeded=reply.problem is None)

    def _free_reply(self, job: ArrivedJob, submission: Submission) -> Reply:
        computation = submission.computation
        if computation is None:
            with self._database.read() as snapshot:
                budgets = [
                    ledger.budget(
                        snapshot,
                        ledger.standing(
                            snapshot,
                            self._engine.terms[grant.table],
                            analyst=grant.analyst,
                            purpose=grant.purpose,
                        ),
                    )
                    for grant in grants_of(snapshot, job.sender)
                    if grant.table in self._engine.terms
                ]
            description = SiteDescription(
                name=self._config.name,
                owner=self._config.owner,
                tables=tuple(self._engine.schemas.values()),
                budgets=tuple(budget for budget in budgets if budget),
            )
            return Reply(request=job.name, digest=None, description=description)
        plan = self._engine.plan(computation, free=submission.action == "mock")
        if submission.action == "mock":
            return Reply(
                request=job.name,
                digest=computation.digest,
                answer=self._mock(plan),
                label=self._engine.mock_label(plan),
            )
        estimate = self._engine.estimate(plan, affordable=self._affordable(job, plan, computation))
        return Reply(request=job.name, digest=computation.digest, estimate=estimate)

    def _affordable(self, job: ArrivedJob, plan: Plan, computation: Computation) -> bool | None:
        if computation.purpose is None:
            return None
        charge = self._engine.charge(plan, computation, analyst=job.sender, request=job.name)
        with self._database.read() as snapshot:
            return self._decide(snapshot, plan, charge).problem is None

    def _run(
        self, job: ArrivedJob, previous: Record | None, computation: Computation
    ) -> Outgoing | None:
        about = About(action="run", digest=computation.digest, epsilon=computation.epsilon or "-")
        try:
            plan = self._engine.plan(computation)
            charge = self._engine.charge(plan, computation, analyst=job.sender, request=job.name)
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            return self._refuse(job, previous, refusal(self._public(problem)), about)
        about = dataclasses.replace(
            about, table=charge.table, purpose=charge.purpose, epsilon=charge.epsilon
        )
        entry = self._record(job, previous, action="run", state="reserved")
        with self._database.write() as transaction:
            decision = self._decide(transaction, plan, charge)
            if decision.problem is None:
                if not self.book.enter(transaction, entry, previous=previous, owed=True):
                    return None
                terms = self._engine.terms[charge.table]
                after = ledger.reserve(transaction, charge, terms, today=self._today())
                if after is None:
                    raise RuntimeError("a request without a record was charged before")
                budget = ledger.budget(transaction, after, newest=_NEWEST)
                record_decision(transaction, job, decision, about)
        if decision.problem is not None:
            return self._refuse(job, previous, decision, about)
        log_decision(job, decision, about)
        return self._execute(entry, plan, charge, budget)

    def _refuse(
        self, job: ArrivedJob, previous: Record | None, decision: Decision, about: About
    ) -> Outgoing | None:
        problem = decision.problem or failure()
        reply = wire.encode(
            Reply(request=job.name, digest=about.digest, problem=problem_of(problem))
        )
        entry = dataclasses.replace(
            self._record(job, previous, action=about.action, state="refused"), reply=reply
        )
        with self._database.write() as transaction:
            if not self.book.enter(transaction, entry, previous=previous, owed=True):
                return None
            record_decision(transaction, job, decision, about)
        log_decision(job, decision, about)
        return Outgoing(reply=reply, succeeded=False)

    # A request that is paid for

    def _execute(
        self, record: Record, plan: Plan, charge: ledger.Charge, budget: Budget | None
    ) -> Outgoing | None:
        try:
            if budget is None:
                raise ValueError("the table or its grant is gone")  # noqa: TRY301
            reply = Reply(
                request=record.name,
                digest=charge.digest,
                answer=self._engine.run(plan),
                label=self._engine.label(plan, budget),
                budget=budget,
            )
            data = wire.encode(reply)
            if len(data) > wire.MAX_BYTES:
                raise ValueError("the answer is larger than any message may be")  # noqa: TRY301
        except Exception:
            # What happened may depend on the data: the analyst is told nothing of it.
            logger.exception("request %s failed and stays charged", record.name)
            return self._store_failure(record, charge, budget)
        return self._store(record, charge, Outgoing(reply=data, succeeded=True))

    def _store_failure(
        self, record: Record, charge: ledger.Charge, budget: Budget | None
    ) -> Outgoing | None:
        data = wire.encode(charged_failure(record.name, charge, budget))
        return self._store(record, charge, Outgoing(reply=data, succeeded=False))

    def _store(self, record: Record, charge: ledger.Charge, outgoing: Outgoing) -> Outgoing | None:
        key = (record.sender, record.name)
        self._unstored[key] = outgoing
        with self._database.write() as transaction:
            mine = self.book.store_reply(
                transaction,
                record,
                reply=outgoing.reply,
                succeeded=outgoing.succeeded,
                agent=self._lock.name,
            )
            if mine:
                ledger.settle(transaction, analyst=record.sender, request=record.name)
                record_event(
                    transaction,
                    "release" if outgoing.succeeded else "failure",
                    analyst=record.sender,
                    request=record.name,
                    table=charge.table,
                    purpose=charge.purpose,
                    digest=charge.digest,
                    epsilon=charge.epsilon,
                    output=wire.sha256_hex(outgoing.reply),
                )
        del self._unstored[key]
        return outgoing if mine else None

    def _resume(self, record: Record) -> Outgoing | None:
        if record.reply is not None:
            return Outgoing(reply=record.reply, succeeded=record.succeeded)
        waiting = self._unstored.get((record.sender, record.name))
        if waiting is not None:
            return self._store(record, self._paid(record)[0], waiting)
        if record.attempts >= _ATTEMPTS:
            return self._fail(record)
        if not self.book.take_over(record, agent=self._lock.name):
            return None
        charge, budget = self._paid(record)
        try:
            computation = _stored_computation(record)
            plan = self._engine.plan(computation)
            now = self._engine.charge(plan, computation, analyst=record.sender, request=record.name)
            paid_for = (charge.table, charge.digest, charge.accounting)
            if (now.table, now.digest, now.accounting) != paid_for or (
                now.loss > charge.loss or now.delta > charge.delta
            ):
                raise ValueError("the reservation does not pay for the plan any more")  # noqa: TRY301
        except Exception:
            logger.exception("request %s cannot be taken up again", record.name)
            return self._store_failure(record, charge, budget)
        logger.info("resume reserved analyst=%s request=%s", record.sender, record.name)
        return self._execute(record, plan, charge, budget)

    def _fail(self, record: Record) -> Outgoing | None:
        if not self.book.take_over(record, agent=self._lock.name):
            return None
        charge, budget = self._paid(record)
        logger.error("request %s failed and stays charged: it was interrupted twice", record.name)
        return self._store_failure(record, charge, budget)

    def _paid(self, record: Record) -> tuple[ledger.Charge, Budget | None]:
        with self._database.read() as snapshot:
            charge = ledger.charged(snapshot, analyst=record.sender, request=record.name)
            if charge is None:
                raise RuntimeError("a reserved request without a charge")
            terms = self._engine.terms.get(charge.table)
            if terms is None:
                return charge, None
            now = ledger.standing(snapshot, terms, analyst=charge.analyst, purpose=charge.purpose)
            return charge, ledger.budget(snapshot, now, newest=_NEWEST)

    # Small facts

    def _record(
        self, job: ArrivedJob, previous: Record | None, *, action: str, state: str
    ) -> Record:
        paid = state == "reserved"
        return Record(
            sender=job.sender,
            name=job.name,
            action=action,
            state=state,
            agent=self._lock.name,
            attempts=(previous.attempts if previous else 0) + paid,
            submission=job.files[SUBMISSION_FILE] if paid else None,
            reply=None,
            succeeded=False,
        )

    def _mock(self, plan: Plan) -> Answer:
        try:
            return self._engine.mock(plan)
        except Exception as problem:
            raise _Unforeseen from problem

    def _public(self, problem: Exception) -> PrivnbError:
        """Return what the analyst may know: refusals as they are, all else as one failure."""
        if isinstance(problem, QueryRefused | RequestRefused | BadMessage | UnknownName):
            return problem
        logger.error("a request could not be answered", exc_info=problem)
        return failure()

    def _decide(self, connection: sa.Connection, plan: Plan, charge: ledger.Charge) -> Decision:
        return decide(
            charge,
            schema=plan.schema,
            owner=self._config.owner,
            standing=ledger.standing(
                connection,
                self._engine.terms[charge.table],
                analyst=charge.analyst,
                purpose=charge.purpose,
            ),
            today=self._today(),
        )


class _Unforeseen(Exception):
    """Hides what the engine raised, so that it is not taken for a refusal."""


def _stored_computation(record: Record) -> Computation:
    submission = wire.decode(
        Submission, record.submission or b"", what="the request", limit=MAX_SUBMISSION_BYTES
    )
    if submission.computation is None:
        raise ValueError("a reserved request without a computation")
    return submission.computation
