"""The two ends of a federated run in the site's books: that it is joined, and how it ended."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.errors import SiteFailure
from privnb.messages import Participation, Reply, fresh_salt, released_hash
from privnb.release import PrivacyLabel
from privnb.site import ledger
from privnb.site.audit import AuditLog, record_event
from privnb.site.ending import Ended
from privnb.site.federated.book import RunBook
from privnb.site.refusing import Outgoing, stored_submission
from privnb.site.reporting import failure, one_line, problem_of

if TYPE_CHECKING:
    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.errors import PrivnbError
    from privnb.messages import Budget
    from privnb.site.database import Database
    from privnb.site.engine import Engine
    from privnb.site.federated.parts import Part
    from privnb.site.requests import Record, RequestBook
    from privnb.site.reviewing.approvals import Approvals

__all__ = ["RunEndings", "enter_run"]

logger = logging.getLogger("privnb.site")

_NEWEST = 20


def enter_run(  # noqa: PLR0913 - keywords, what the event says
    transaction: sa.Connection,
    record: Record,
    computation: Computation,
    *,
    rule: str,
    sandbox: str = "",
    epsilon: str = "-",
    table: str = "",
) -> None:
    """Enter a run that the site takes part in, with its event, before anything leaves for it.

    The request's own row is the caller's, in the same transaction.
    """
    federation = computation.federation
    if federation is None:
        raise ValueError("a run of one site")
    RunBook.open_run(transaction, record.sender, record.name, digest=computation.digest)
    if record.action == "mock":
        return
    record_event(
        transaction,
        "join",
        private={"analyst": record.sender},
        request=record.name,
        digest=computation.digest,
        table=table or ",".join(computation.tables or ()),
        purpose=computation.purpose,
        rule=rule,
        epsilon=epsilon,
        sandbox=sandbox,
        sites=list(federation.sites),
        threshold=federation.threshold,
        colluding=federation.colluding,
        rounds=federation.rounds,
    )


class RunEndings:
    """Ends runs: one reply, stored once, that says what this site gave; in one agent's name."""

    def __init__(
        self,
        *,
        engine: Engine,
        approvals: Approvals,
        database: Database,
        book: RequestBook,
        audit: AuditLog,
    ) -> None:
        self._engine = engine
        self._approvals = approvals
        self._database = database
        self._book = book
        self._audit = audit

    def end(  # noqa: PLR0913 - keywords, what there is to say of it
        self,
        record: Record,
        computation: Computation | None,
        part: Part | None = None,
        *,
        table: str | None = None,
        problem: PrivnbError | None = None,
        ended: str = "",
        unsent: bool = False,
    ) -> Ended | None:
        """Store the reply to a run that is over; None if the request moved on meanwhile.

        What was contributed was released, whatever came between: then the reply is a release, with
        its label and receipt; the label is what was said when something was first given, if no
        other can be made any more. If nothing was contributed, a problem is a refusal.

        Parameters
        ----------
        computation, part
            None where what is stored cannot be understood, or described, any more.
        problem
            Why the run may not go on.
        ended
            Why it ended before all rounds were done, in words.
        unsent
            Whether something is counted as given that was not sent.
        """
        with self._database.write() as transaction:
            if not self._book.is_ours(transaction, record, agent=record.agent):
                return None
            run = RunBook.find(transaction, record.sender, record.name)
            given = RunBook.close_run(
                transaction,
                record.sender,
                record.name,
                me=self._audit.verifier_key,
                ended=ended or ("" if problem is None else problem.message),
                unsent=unsent,
            )
            label = None
            if given.contributions or problem is None:
                if computation is not None and part is not None:
                    label = self.label_of(transaction, record, computation, part)
                elif run is not None and run.label is not None:
                    label = wire.decode(PrivacyLabel, run.label, what="the label of a run")
            if run is None or label is None:
                problem = problem or failure()
                state = "failed" if isinstance(problem, SiteFailure) else "refused"
                reply = self._refused(transaction, record, computation, problem, given, table=table)
            else:
                state = "answered" if given.contributions else "ended"
                reply = self._released(
                    transaction, record, computation, label, given, digest=run.digest, table=table
                )
            ledger.settle(transaction, analyst=record.sender, request=record.name)
            outgoing = Outgoing(reply=wire.encode(reply), succeeded=reply.problem is None)
            self._book.store_reply(
                transaction,
                record,
                reply=outgoing.reply,
                state=state,
                succeeded=outgoing.succeeded,
            )
        logger.info(
            "%s %s analyst=%s request=%s contributions=%d",
            state,
            reply.problem.code if reply.problem else "part",
            one_line(record.sender),
            one_line(record.name),
            given.contributions,
        )
        return Ended(record=record, outgoing=outgoing)

    def label_of(
        self, connection: sa.Connection, record: Record, computation: Computation, part: Part
    ) -> PrivacyLabel:
        """Describe what a run gives, as things stand."""
        approved_by: tuple[str, ...] = ()
        if computation.kind == "python" and record.action != "mock":
            route = self._approvals.route(computation)
            approved_by = self._approvals.in_words(connection, record, route, looked=False)
        return part.label(budget=self._budget(connection, record), approved_by=approved_by)

    def _released(  # noqa: PLR0913 - one ending's parts
        self,
        transaction: sa.Connection,
        record: Record,
        computation: Computation | None,
        label: PrivacyLabel,
        given: Participation,
        *,
        digest: str,
        table: str | None,
    ) -> Reply:
        reply = Reply(
            request=record.name,
            digest=digest,
            part=given,
            label=label,
            salt=fresh_salt(),
            budget=self._budget(transaction, record),
        )
        if record.action == "mock":
            return reply
        index = self._record(
            transaction, record, computation, "release", given,
            table=table, digest=digest, approved_by=label.approved_by,
            output=released_hash(reply), sandbox=label.sandbox,
        )  # fmt: skip
        held = stored_submission(record).checkpoints
        return dataclasses.replace(
            reply, receipt=self._audit.receipt(transaction, index, held=held)
        )

    def _refused(  # noqa: PLR0913 - one ending's parts
        self,
        transaction: sa.Connection,
        record: Record,
        computation: Computation | None,
        problem: PrivnbError,
        given: Participation,
        *,
        table: str | None,
    ) -> Reply:
        digest = None if computation is None else computation.digest
        reply = Reply(
            request=record.name,
            digest=digest,
            problem=problem_of(problem),
            budget=self._budget(transaction, record),
        )
        if record.action != "mock":
            self._record(
                transaction, record, computation,
                "failure" if isinstance(problem, SiteFailure) else "refusal", given,
                table=table, digest=digest, output=released_hash(reply), rule=problem.code,
            )  # fmt: skip
        return reply

    @staticmethod
    def _record(  # noqa: PLR0913 - an event has many fields
        transaction: sa.Connection,
        record: Record,
        computation: Computation | None,
        kind: str,
        given: Participation,
        *,
        table: str | None,
        digest: str | None,
        approved_by: tuple[str, ...] = (),
        **fields: Any,
    ) -> int:
        charge = ledger.charged(transaction, analyst=record.sender, request=record.name)
        private = {"analyst": record.sender}
        if approved_by:
            private["approved_by"] = "; ".join(approved_by)
        tables = (computation.tables or ()) if computation is not None else ()
        return record_event(
            transaction,
            kind,
            private=private,
            request=record.name,
            digest=digest,
            table=table or ",".join(tables),
            purpose=None if computation is None else computation.purpose,
            epsilon="-" if charge is None else charge.epsilon,
            rounds=given.rounds,
            contributions=given.contributions,
            failures=given.failures,
            sites=list(given.sites),
            **fields,
        )

    def _budget(self, connection: sa.Connection, record: Record) -> Budget | None:
        charge = ledger.charged(connection, analyst=record.sender, request=record.name)
        terms = None if charge is None else self._engine.terms.get(charge.table)
        if charge is None or terms is None:
            return None
        now = ledger.standing(connection, terms, analyst=charge.analyst, purpose=charge.purpose)
        return ledger.budget(connection, now, newest=_NEWEST)
