"""Taking federated computations in: on mock twins at once, on the data as policy has it.

::

    check ─┬─▶ estimate                    what it would cost
           ├─▶ mock twins ───────────┐
           ├─▶ [decide + reserve] ───┼─▶ joined ─▶ federating
           └─▶ reviewers (approving) ┘

The whole loss of a run, of all its rounds, is reserved before anything is computed, and is never
refunded. Square brackets are transactions; until then a crash leaves nothing, and afterwards the
run goes on.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING

from privnb.errors import QueryRefused, RequestRefused
from privnb.site import ledger
from privnb.site.federated.checks import failed_often
from privnb.site.federated.ending import enter_run
from privnb.site.federated.part_making import part_of
from privnb.site.federated.rules import check_federation
from privnb.site.policy import decide, refusal
from privnb.site.refusing import Outgoing, Refusing, public
from privnb.site.reporting import About, log_decision, problem_reply, record_decision

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.messages import Submission
    from privnb.site.approving import Approving
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.engine import Engine, Priced
    from privnb.site.federated.federating import Federating
    from privnb.site.policy import Decision
    from privnb.site.python_engine import PythonEngine
    from privnb.site.requests import Record, RequestBook
    from privnb.site.serving import Serving

__all__ = ["Joining"]

_MOST_JOINED = 20
"""How many runs of one analyst may be under way at a time."""


class Joining:
    """Decides whether the site takes part in a run, and begins with it."""

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        own: str,
        engine: Engine,
        python: PythonEngine | None,
        federating: Federating,
        approving: Approving,
        database: Database,
        book: RequestBook,
        refusing: Refusing,
        serving: Serving,
        today: Callable[[], dt.date],
    ) -> None:
        self._config = config
        self._own = own
        self._engine = engine
        self._python = python
        self._federating = federating
        self._approving = approving
        self._database = database
        self._book = book
        self._refusing = refusing
        self._serving = serving
        self._today = today

    def begin(
        self,
        job: ArrivedJob,
        previous: Record | None,
        submission: Submission,
        computation: Computation,
    ) -> Outgoing | None:
        """Take in a federated computation; None while it waits, or takes part."""
        about = About(action=submission.action, digest=computation.digest)
        try:
            check_federation(computation, config=self._config.federated, own=self._own)
            mock = submission.action != "run"
            if submission.action == "mock" and computation.purpose is not None:
                raise _not_mixed()  # noqa: TRY301 - one way out
            part = part_of(computation, engine=self._engine, python=self._python, mock=mock)
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            return self._refuse(job, previous, submission, computation, public(problem))
        if submission.action == "mock":
            return self._join_mock(job, previous, submission, computation)
        if part.plan is None:
            if submission.action == "run":
                with self._database.read() as snapshot:
                    often = failed_often(snapshot, job.sender, computation)
                if often is not None:
                    return self._refuse(job, previous, submission, computation, often)
            return self._approving.begin(job, previous, submission, computation)
        if submission.action == "estimate":
            return self._serving.serve(job, previous, submission)
        return self._join(job, previous, computation, part.plan, about)

    def _refuse(
        self,
        job: ArrivedJob,
        previous: Record | None,
        submission: Submission,
        computation: Computation,
        problem: Exception,
    ) -> Outgoing | None:
        refused = public(problem)
        if submission.action == "run":
            about = About(action="run", digest=computation.digest)
            return self._refusing.refuse(job, previous, refusal(refused), about)
        reply = problem_reply(job.name, computation, refused)
        return self._serving.close(job, previous, submission, reply)

    def _join_mock(
        self,
        job: ArrivedJob,
        previous: Record | None,
        submission: Submission,
        computation: Computation,
    ) -> Outgoing | None:
        """Take part in a run of mock twins: at once, for nothing, the same way otherwise."""
        entry = self._refusing.entry(job, previous, action="mock", state="joined")
        with self._database.write() as transaction:
            busy = self._too_many(transaction, job.sender)
            if busy is None:
                if not self._book.enter(transaction, entry, previous=previous, owed=False):
                    return None
                enter_run(transaction, entry, computation, rule="mock twins")
        if busy is not None:
            return self._refuse(job, previous, submission, computation, busy)
        self._federating.begin(entry)
        return None

    def _join(
        self,
        job: ArrivedJob,
        previous: Record | None,
        computation: Computation,
        plan: Priced,
        about: About,
    ) -> Outgoing | None:
        charge = self._engine.charge(plan, computation, analyst=job.sender, request=job.name)
        about = dataclasses.replace(
            about, table=charge.table, purpose=charge.purpose, epsilon=charge.epsilon
        )
        entry = self._refusing.entry(job, previous, action="run", state="joined")
        with self._database.write() as transaction:
            decision = self._decide(transaction, plan, charge)
            if decision.problem is None:
                if not self._book.enter(transaction, entry, previous=previous, owed=False):
                    return None
                terms = self._engine.terms[charge.table]
                if ledger.reserve(transaction, charge, terms, today=self._today()) is None:
                    raise RuntimeError("a request without a record was charged before")
                record_decision(transaction, job, decision, about)
                enter_run(
                    transaction,
                    entry,
                    computation,
                    rule=decision.rule,
                    epsilon=charge.epsilon,
                    table=charge.table,
                )
        if decision.problem is not None:
            return self._refusing.refuse(job, previous, decision, about)
        log_decision(job, decision, about)
        self._federating.begin(entry)
        return None

    def _decide(self, connection: sa.Connection, plan: Priced, charge: ledger.Charge) -> Decision:
        busy = self._too_many(connection, charge.analyst)
        if busy is not None:
            return refusal(busy)
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

    def _too_many(self, connection: sa.Connection, analyst: str) -> RequestRefused | None:
        joined = self._book.in_states(connection, ("joined",))
        if sum(each.sender == analyst for each in joined) < _MOST_JOINED:
            return None
        return RequestRefused(
            f"{_MOST_JOINED} of your runs are under way at this site already.",
            hint="End some of them: %privnb requests lists them.",
            code="E_BUSY",
        )


def _not_mixed() -> QueryRefused:
    """Keep made-up parts out of sums with real ones, which they would lay bare.

    What is computed on data always has a purpose, and digests, which keys are bound to, differ.
    """
    return QueryRefused(
        "A run on mock twins has no purpose: its parts must be in no sum with real ones.",
        hint="Leave --purpose out.",
        code="E_PURPOSE",
    )
