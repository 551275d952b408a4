"""The end of a Python request: one reply, stored once, with its event, and checked once more."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb import wire
from privnb.messages import Reply, fresh_salt, released_hash
from privnb.site.audit import AuditLog, record_event
from privnb.site.charging import MAX_RELEASE_BYTES
from privnb.site.refusing import Outgoing, stored_submission
from privnb.site.reporting import failure, one_line, problem_of
from privnb.site.reviewing import review

if TYPE_CHECKING:
    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.errors import PrivnbError
    from privnb.output import Output
    from privnb.site.database import Database
    from privnb.site.python_engine import PythonEngine
    from privnb.site.requests import Record, RequestBook
    from privnb.site.reviewing.approvals import Approvals

__all__ = ["Ended", "Endings", "Refusal", "ReleaseOf"]

logger = logging.getLogger("privnb.site")


@dataclass(frozen=True, kw_only=True)
class ReleaseOf:
    """An output that is to be released, if all that lets it out still holds."""

    computation: Computation
    output: Output
    findings: tuple[str, ...] = ()
    """What the gate found in it."""
    looked: bool = False
    """Whether reviewers had to look at it."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why nothing is released. ``failed``: the cell ran, and gave nothing."""

    problem: PrivnbError
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A request whose reply is stored."""

    record: Record
    outgoing: Outgoing


class Endings:
    """Ends requests for Python computations; in the name of one agent, in its thread."""

    def __init__(
        self,
        *,
        python: PythonEngine | None,
        approvals: Approvals,
        database: Database,
        book: RequestBook,
        audit: AuditLog,
    ) -> None:
        self._python = python
        self._approvals = approvals
        self._database = database
        self._book = book
        self._audit = audit

    def end(self, record: Record, ending: ReleaseOf | Refusal) -> Ended | None:
        """Store the reply to a request; None if the request moved on meanwhile.

        An output leaves only if grants, rules and signatures hold in the very transaction that
        stores the reply; otherwise the reply says why it does not.
        """
        with self._database.write() as transaction:
            if not self._book.is_ours(transaction, record, agent=record.agent):
                return None
            if isinstance(ending, ReleaseOf):
                ending = self._checked(transaction, record, ending)
            if isinstance(ending, ReleaseOf):
                state, reply = "answered", self._released(transaction, record, ending)
            else:
                state = "failed" if ending.failed else "refused"
                reply = _refused(transaction, record, ending)
            outgoing = Outgoing(reply=wire.encode(reply), succeeded=reply.problem is None)
            self._book.store_reply(
                transaction,
                record,
                reply=outgoing.reply,
                state=state,
                succeeded=outgoing.succeeded,
            )
            review.drop_output(transaction, analyst=record.sender, request=record.name)
        said = reply.problem.code if reply.problem else "released"
        logger.info(
            "%s %s analyst=%s request=%s", state, said, one_line(record.sender), record.name
        )
        return Ended(record=record, outgoing=outgoing)

    def _checked(
        self, transaction: sa.Connection, record: Record, ending: ReleaseOf
    ) -> ReleaseOf | Refusal:
        refused = self._approvals.objection(transaction, record.sender, ending.computation)
        if refused is not None:
            return Refusal(problem=refused)
        route = self._approvals.route(ending.computation)
        looked = ending.looked or bool(ending.findings)
        if not self._approvals.may_leave(transaction, record, route, looked=looked):
            logger.error("request %s is not released: its approvals do not verify", record.name)
            return Refusal(problem=failure(), failed=True)
        return ending

    def _released(self, transaction: sa.Connection, record: Record, ending: ReleaseOf) -> Reply:
        if self._python is None:
            raise ValueError("an output, but no engine that describes it")
        computation = ending.computation
        route = self._approvals.route(computation)
        approved_by = self._approvals.in_words(transaction, record, route, looked=ending.looked)
        label = self._python.label(
            computation, approved_by=approved_by, objected=bool(ending.findings)
        )
        reply = Reply(
            request=record.name,
            digest=computation.digest,
            output=ending.output,
            label=label,
            salt=fresh_salt(),
        )
        if len(wire.encode(reply)) > MAX_RELEASE_BYTES:
            raise ValueError("the output is larger than any message may be")
        index = record_event(
            transaction,
            "release",
            private={"analyst": record.sender, "approved_by": "; ".join(approved_by)},
            request=record.name,
            table=",".join(computation.tables or ()),
            purpose=computation.purpose,
            digest=computation.digest,
            rule=route.rule,
            sandbox=label.sandbox,
            output=released_hash(reply),
        )
        held = stored_submission(record).checkpoints
        return dataclasses.replace(
            reply, receipt=self._audit.receipt(transaction, index, held=held)
        )


def _refused(transaction: sa.Connection, record: Record, ending: Refusal) -> Reply:
    found = review.find(transaction, analyst=record.sender, request=record.name)
    digest = None if found is None else found.digest
    reply = Reply(request=record.name, digest=digest, problem=problem_of(ending.problem))
    record_event(
        transaction,
        "failure" if ending.failed else "refusal",
        private={"analyst": record.sender},
        request=record.name,
        digest=digest,
        rule=ending.problem.code,
        output=released_hash(reply),
    )
    return reply
