"""Refusals, and the entries of requests: what the ways of SQL and of Python have in common."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import BadMessage, PrivnbError, QueryRefused, RequestRefused, UnknownName
from privnb.messages import SUBMISSION_FILE, Reply, Submission
from privnb.site.intake import MAX_SUBMISSION_BYTES
from privnb.site.policy import Decision
from privnb.site.reporting import About, failure, log_decision, problem_of, record_decision
from privnb.site.requests import Record, RequestBook

if TYPE_CHECKING:
    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.site.database import Database
    from privnb.site.liveness import AgentLock

__all__ = ["Outgoing", "Refusing", "public", "stored_computation", "stored_submission"]

logger = logging.getLogger("privnb.site")


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """The bytes of a reply, stored where they have to be; safe to send, and to send again."""

    reply: bytes
    succeeded: bool


class Refusing:
    """Makes entries in the book of requests, and refuses; in the name of one agent."""

    def __init__(self, *, book: RequestBook, database: Database, lock: AgentLock) -> None:
        self._book = book
        self._database = database
        self._lock = lock

    def refuse(
        self, job: ArrivedJob, previous: Record | None, decision: Decision, about: About
    ) -> Outgoing | None:
        """Store a refusal with its event; None if another agent was faster."""
        problem = decision.problem or failure()
        reply = wire.encode(
            Reply(request=job.name, digest=about.digest, problem=problem_of(problem))
        )
        entry = self.entry(job, previous, action=about.action, state="refused", reply=reply)
        with self._database.write() as transaction:
            if not self._book.enter(transaction, entry, previous=previous, owed=True):
                return None
            record_decision(transaction, job, decision, about)
        log_decision(job, decision, about)
        return Outgoing(reply=reply, succeeded=False)

    def entry(
        self,
        job: ArrivedJob,
        previous: Record | None,
        *,
        action: str,
        state: str,
        reply: bytes | None = None,
    ) -> Record:
        """Describe a request's new state; what will be computed keeps its submission."""
        computed = state not in ("served", "refused")
        return Record(
            sender=job.sender,
            name=job.name,
            action=action,
            state=state,
            agent=self._lock.name,
            attempts=(previous.attempts if previous else 0) + (state in ("reserved", "running")),
            submission=job.files[SUBMISSION_FILE] if computed else None,
            reply=reply,
            succeeded=False,
        )


def public(problem: Exception) -> PrivnbError:
    """Return what the analyst may know: refusals as they are, all else as one failure."""
    if isinstance(problem, QueryRefused | RequestRefused | BadMessage | UnknownName):
        return problem
    logger.error("a request could not be answered", exc_info=problem)
    return failure()


def stored_submission(record: Record) -> Submission:
    """Return what the analyst sent, of a request that is computed."""
    return wire.decode(
        Submission, record.submission or b"", what="the request", limit=MAX_SUBMISSION_BYTES
    )


def stored_computation(record: Record) -> Computation:
    """Return the computation of a request that is computed."""
    computation = stored_submission(record).computation
    if computation is None:
        raise ValueError("a request that is computed, without a computation")
    return computation
