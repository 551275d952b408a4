"""A protected answer, from the question to a reply that may be sent, paid for once.

The way of a charged request, with what a crash at each point leads to::

    plan ─▶ [decide + reserve] ─▶ compute ─▶ [store reply + settle] ─▶ (sent by the agent)
      │               │                    │              │                      │
      └─ begun again  │                    │              └── the stored bytes ──┘ are sent again
               computed once more under the same reservation, then given up as charged

Square brackets are transactions. Nothing is sent before its reply is stored, and a reply is stored
once, so one payment gives one release, whatever is killed when. The event of the release is in the
transaction that stores the reply, and the reply carries the proof that it is in the audit log.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from typing import TYPE_CHECKING

from privnb import wire
from privnb.messages import Budget, Reply, fresh_salt, released_hash
from privnb.site import ledger
from privnb.site.audit import AuditLog, record_event
from privnb.site.grants import still_granted
from privnb.site.policy import Decision, decide, refusal
from privnb.site.refusing import Outgoing, Refusing, public, stored_computation, stored_submission
from privnb.site.reporting import About, charged_failure, log_decision, problem_of, record_decision

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.dp.plan import Plan
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.engine import Engine
    from privnb.site.liveness import AgentLock
    from privnb.site.requests import Record, RequestBook

__all__ = ["ATTEMPTS", "MAX_RELEASE_BYTES", "Charging"]

logger = logging.getLogger("privnb.site")

ATTEMPTS = 2
"""How often a request may be begun: once, and once more after a crash."""
MAX_RELEASE_BYTES = wire.MAX_BYTES - 256 * 1024
"""The largest reply without its receipt, which has to fit as well."""
_NEWEST = 20


class Charging:
    """Decides on questions in SQL, pays for them, computes them and stores their replies."""

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        engine: Engine,
        database: Database,
        book: RequestBook,
        refusing: Refusing,
        audit: AuditLog,
        lock: AgentLock,
        today: Callable[[], dt.date],
    ) -> None:
        self._config = config
        self._engine = engine
        self._database = database
        self._book = book
        self._refusing = refusing
        self._audit = audit
        self._lock = lock
        self._today = today
        # Computed but not yet stored, because the disk was full: to be stored, never recomputed.
        self._unstored: dict[tuple[str, str], Reply] = {}

    def begin(
        self, job: ArrivedJob, previous: Record | None, computation: Computation
    ) -> Outgoing | None:
        """Plan, decide, reserve and compute; None if another agent was faster."""
        about = About(action="run", digest=computation.digest)
        try:
            plan = self._engine.plan(computation)
            charge = self._engine.charge(plan, computation, analyst=job.sender, request=job.name)
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            return self._refusing.refuse(job, previous, refusal(public(problem)), about)
        about = dataclasses.replace(
            about, table=charge.table, purpose=charge.purpose, epsilon=charge.epsilon
        )
        entry = self._refusing.entry(job, previous, action="run", state="reserved")
        with self._database.write() as transaction:
            decision = self._decide(transaction, plan, charge)
            if decision.problem is None:
                if not self._book.enter(transaction, entry, previous=previous, owed=True):
                    return None
                terms = self._engine.terms[charge.table]
                after = ledger.reserve(transaction, charge, terms, today=self._today())
                if after is None:
                    raise RuntimeError("a request without a record was charged before")
                budget = ledger.budget(transaction, after, newest=_NEWEST)
                record_decision(transaction, job, decision, about)
        if decision.problem is not None:
            return self._refusing.refuse(job, previous, decision, about)
        log_decision(job, decision, about)
        return self._execute(entry, plan, charge, budget)

    def resume(self, record: Record) -> Outgoing | None:
        """Go on with a request that is reserved; None if another agent was faster."""
        waiting = self._unstored.get((record.sender, record.name))
        if waiting is not None:
            return self._store(record, self._paid(record)[0], waiting)
        if record.attempts >= ATTEMPTS:
            return self.fail(record)
        if not self._book.take_over(record, agent=self._lock.name):
            return None
        charge, budget = self._paid(record)
        try:
            computation = stored_computation(record)
            plan = self._engine.plan(computation)
            now = self._engine.charge(plan, computation, analyst=record.sender, request=record.name)
            if not charge.covers(now):
                raise ValueError("the reservation does not pay for the plan any more")  # noqa: TRY301
        except Exception:
            logger.exception("request %s cannot be taken up again", record.name)
            return self._store(record, charge, charged_failure(record.name, charge, budget))
        logger.info("resume reserved analyst=%s request=%s", record.sender, record.name)
        return self._execute(record, plan, charge, budget)

    def fail(self, record: Record) -> Outgoing | None:
        """Give up a request that is reserved; what was paid for it stays paid."""
        if not self._book.take_over(record, agent=self._lock.name):
            return None
        charge, budget = self._paid(record)
        logger.error("request %s failed and stays charged: it was interrupted twice", record.name)
        return self._store(record, charge, charged_failure(record.name, charge, budget))

    def _execute(
        self, record: Record, plan: Plan, charge: ledger.Charge, budget: Budget | None
    ) -> Outgoing | None:
        try:
            if budget is None:
                raise ValueError("the table or its grant is gone")  # noqa: TRY301
            reply = Reply(
                request=record.name,
                digest=charge.digest,
                answer=self._engine.run(plan, purpose=charge.purpose),
                label=self._engine.label(plan, budget),
                salt=fresh_salt(),
                budget=budget,
            )
            if len(wire.encode(reply)) > MAX_RELEASE_BYTES:
                raise ValueError("the answer is larger than any message may be")  # noqa: TRY301
        except Exception:
            # What happened may depend on the data: the analyst is told nothing of it.
            logger.exception("request %s failed and stays charged", record.name)
            reply = charged_failure(record.name, charge, budget)
        return self._store(record, charge, reply)

    def _store(self, record: Record, charge: ledger.Charge, reply: Reply) -> Outgoing | None:
        key = (record.sender, record.name)
        self._unstored[key] = reply
        outgoing = None
        with self._database.write() as transaction:
            if self._book.is_ours(transaction, record, agent=self._lock.name):
                stored = self._with_proof(transaction, record, charge, reply)
                outgoing = Outgoing(reply=wire.encode(stored), succeeded=stored.problem is None)
                self._book.store_reply(
                    transaction,
                    record,
                    reply=outgoing.reply,
                    state="answered" if outgoing.succeeded else "failed",
                    succeeded=outgoing.succeeded,
                )
                ledger.settle(transaction, analyst=record.sender, request=record.name)
        del self._unstored[key]
        return outgoing

    def _with_proof(
        self, transaction: sa.Connection, record: Record, charge: ledger.Charge, reply: Reply
    ) -> Reply:
        """Add the event of a release or failure, and to a release the proof of it."""
        withdrawn = still_granted(
            transaction,
            analyst=charge.analyst,
            table=charge.table,
            purpose=charge.purpose,
            today=self._today(),
        )
        if withdrawn is not None and reply.problem is None:  # while it was computed
            reply = Reply(
                request=reply.request,
                digest=reply.digest,
                problem=problem_of(withdrawn),
                budget=reply.budget,
            )
        index = record_event(
            transaction,
            "release" if reply.problem is None else "failure",
            private={"analyst": record.sender},
            request=record.name,
            table=charge.table,
            purpose=charge.purpose,
            digest=charge.digest,
            epsilon=charge.epsilon,
            output=released_hash(reply),
        )
        if reply.problem is not None:
            return reply
        held = stored_submission(record).checkpoints
        return dataclasses.replace(
            reply, receipt=self._audit.receipt(transaction, index, held=held)
        )

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
