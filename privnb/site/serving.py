"""Requests that cost nothing: what the site offers, prices, mock answers of SQL, states, trails."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import StateError
from privnb.messages import Reply, SiteDescription
from privnb.site import access, ledger
from privnb.site.federated.offer import offer_of
from privnb.site.grants import grants_of
from privnb.site.policy import decide
from privnb.site.refusing import Outgoing, public
from privnb.site.reporting import one_line, problem_of, problem_reply
from privnb.site.reviewing import review

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.dp.plan import Plan
    from privnb.dp.training import TrainingPlan
    from privnb.messages import PythonOffer, Submission
    from privnb.release import Answer
    from privnb.site.audit import AuditLog
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.engine import Engine
    from privnb.site.refusing import Refusing
    from privnb.site.requests import Record, RequestBook

__all__ = ["Serving"]

logger = logging.getLogger("privnb.site")


class Serving:
    """Answers what is asked for free. Nothing of it depends on the data, nothing is kept of it.

    The exception is an ask for access, which is kept for the owner to decide on.
    """

    def __init__(  # noqa: PLR0913 - what a site can tell comes from many rooms
        self,
        config: SiteConfig,
        *,
        engine: Engine,
        database: Database,
        book: RequestBook,
        refusing: Refusing,
        audit: AuditLog,
        python: PythonOffer | None,
        trains: bool,
        today: Callable[[], dt.date],
    ) -> None:
        self._config = config
        self._engine = engine
        self._database = database
        self._book = book
        self._refusing = refusing
        self._audit = audit
        self._python = python
        self._trains = trains
        self._today = today

    def serve(
        self, job: ArrivedJob, previous: Record | None, submission: Submission
    ) -> Outgoing | None:
        """Answer one request; None if another agent was faster."""
        try:
            reply = self._reply(job, submission)
        except StateError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            reply = problem_reply(job.name, submission.computation, public(problem))
        return self.close(job, previous, submission, reply)

    def close(
        self, job: ArrivedJob, previous: Record | None, submission: Submission, reply: Reply
    ) -> Outgoing | None:
        """Note that a request was served, and how; None if another agent was faster."""
        entry = self._refusing.entry(job, previous, action=submission.action, state="served")
        with self._database.write() as transaction:
            if not self._book.enter(transaction, entry, previous=previous, owed=False):
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

    def _reply(self, job: ArrivedJob, submission: Submission) -> Reply:
        computation = submission.computation
        if computation is not None:
            return self._about(job, submission.action, computation)
        match submission.action:
            case "status":
                with self._database.read() as snapshot:
                    states = review.states(
                        snapshot,
                        site=self._config,
                        analyst=job.sender,
                        requests=submission.requests,
                    )
                return Reply(request=job.name, digest=None, states=states)
            case "audit":
                with self._database.read() as snapshot:
                    trail = self._audit.trail(
                        snapshot, analyst=job.sender, held=submission.checkpoints
                    )
                return Reply(request=job.name, digest=None, trail=trail)
            case "request-access" if submission.access is not None:
                with self._database.write() as transaction:
                    consent = access.ask(
                        transaction, site=self._config, analyst=job.sender, ask=submission.access
                    )
                logger.info(
                    "request-access waits for the owner: privnb consent list %s",
                    self._config.directory,
                )
                return Reply(request=job.name, digest=None, consent=consent)
            case _:
                return Reply(request=job.name, digest=None, description=self._describe(job.sender))

    def _about(self, job: ArrivedJob, action: str, computation: Computation) -> Reply:
        if computation.kind == "model":
            return self._price(job, self._engine.plan_model(computation), computation)
        plan = self._engine.plan(computation, free=action == "mock")
        if action == "mock":
            return Reply(
                request=job.name,
                digest=computation.digest,
                answer=self._mock(plan),
                label=self._engine.mock_label(plan),
            )
        return self._price(job, plan, computation)

    def _describe(self, analyst: str) -> SiteDescription:
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
                for grant in grants_of(snapshot, analyst)
                if grant.table in self._engine.terms
            ]
            consents = access.entries(snapshot, analyst=analyst, today=self._today())
        return SiteDescription(
            name=self._config.name,
            owner=self._config.owner,
            tables=tuple(self._engine.schemas.values()),
            budgets=tuple(budget for budget in budgets if budget),
            audit_key=self._audit.verifier_key,
            consents=tuple(entry for entry in consents if entry.table in self._engine.terms),
            python=self._python,
            legal={name: terms.legal for name, terms in self._config.purposes.items()} or None,
            federated=offer_of(self._config, trains=self._trains),
        )

    def _price(self, job: ArrivedJob, plan: Plan | TrainingPlan, computation: Computation) -> Reply:
        """Tell what a question costs, and, where it has a purpose, whether that would be paid."""
        estimate = plan.estimate()
        priced = Reply(request=job.name, digest=computation.digest, estimate=estimate)
        if computation.purpose is None:
            return priced
        charge = self._engine.charge(plan, computation, analyst=job.sender, request=job.name)
        with self._database.read() as snapshot:
            standing = ledger.standing(
                snapshot,
                self._engine.terms[charge.table],
                analyst=charge.analyst,
                purpose=charge.purpose,
            )
            budget = ledger.budget(snapshot, standing, newest=0)
        decision = decide(
            charge,
            schema=plan.schema,
            owner=self._config.owner,
            standing=standing,
            today=self._today(),
        )
        refused = decision.problem
        return dataclasses.replace(
            priced,
            estimate=dataclasses.replace(estimate, affordable=refused is None),
            refusal=None if refused is None else problem_of(refused),
            budget=budget,
        )

    def _mock(self, plan: Plan) -> Answer:
        try:
            return self._engine.mock(plan)
        except Exception as problem:
            raise _Unforeseen from problem


class _Unforeseen(Exception):
    """Hides what the engine raised, so that it is not taken for a refusal."""
