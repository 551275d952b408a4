"""Python cells, from the request to an output that people or the owner's rules let out.

The states of such a request, and who moves it on::

    (new) ─┬─▶ waiting ──reviewers──▶ approved ─┐
           └── by rule, or output review only ──┴─▶ running ─┬─▶ answered
                                                             ├─▶ held ──reviewers──▶ cleared ──▶ …
                                                             └─▶ failed, refused

All else is done by the agent: what arrives is taken in here, and goes on in
`privnb.site.under_way`. Each arrow is one transaction, and between them the agent may be killed:
what was ``running`` is run once more, then given up; an output that is held stays the one that was
looked at; a reply is stored once and sent until the exchange has taken it. Before a cell runs, and
again before an output leaves, policy, grants and signatures are checked anew: a state in the
database alone lets nothing run and nothing out. A cell for several sites becomes ``joined`` instead
of running: see `privnb.site.federated.federating`.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from privnb.errors import QueryRefused, RequestRefused
from privnb.messages import Reply
from privnb.site.federated.ending import enter_run
from privnb.site.policy import refusal
from privnb.site.refusing import Outgoing, Refusing, public
from privnb.site.reporting import About, log_decision, problem_reply, record_decision
from privnb.site.reviewing import review
from privnb.site.under_way import UnderWay, no_python, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.messages import Submission
    from privnb.output import Output
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.python_engine import PythonEngine
    from privnb.site.requests import Record, RequestBook
    from privnb.site.reviewing.approvals import Approvals
    from privnb.site.serving import Serving

__all__ = ["Approving"]

_DEFAULT_DAYS = 30
"""How long a request may take where nobody reviews it."""


class Approving:
    """Takes Python computations in: on the mock twin at once, on the data as policy has it."""

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        python: PythonEngine | None,
        approvals: Approvals,
        under_way: UnderWay,
        database: Database,
        book: RequestBook,
        refusing: Refusing,
        serving: Serving,
        now: Callable[[], dt.datetime],
    ) -> None:
        self._config = config
        self._python = python
        self._approvals = approvals
        self._under_way = under_way
        self._database = database
        self._book = book
        self._refusing = refusing
        self._serving = serving
        self._now = now

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
        future = self._under_way.runs.take(key)
        if future is not None:
            reply = _mock_reply(job.name, computation, future, python)
        elif self._under_way.runs.start(key, lambda: python.mock(computation)):
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
                at_once = "running" if computation.federation is None else "joined"
                state = "waiting" if route.code else at_once
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
                if state == "joined":
                    enter_run(
                        transaction, entry, computation, rule=route.rule, sandbox=python.level
                    )
        if route is None:
            return self._refusing.refuse(job, previous, decision, about)
        log_decision(job, decision, about)
        self._under_way.arrived(entry, computation, python)
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
            raise no_python()
        return self._python


def _mock_reply(
    name: str, computation: Computation, future: Future[Output], python: PythonEngine
) -> Reply:
    if future.exception() is not None:
        return problem_reply(name, computation, told(future))
    return Reply(
        request=name,
        digest=computation.digest,
        output=future.result(),
        label=python.mock_label(),
    )


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
