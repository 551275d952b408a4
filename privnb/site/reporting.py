"""What is said of a request: to its analyst, in the log, and in the events."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.errors import PrivnbError, SiteFailure
from privnb.messages import Budget, Problem, Reply
from privnb.site.audit import record_event

if TYPE_CHECKING:
    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import ArrivedJob
    from privnb.site.ledger import Charge
    from privnb.site.policy import Decision

__all__ = [
    "About",
    "charged_failure",
    "failure",
    "log_decision",
    "one_line",
    "problem_of",
    "problem_reply",
    "record_decision",
]

logger = logging.getLogger("privnb.site")


def failure() -> SiteFailure:
    """Build the one error that hides its cause: its wording is the same for all data."""
    return SiteFailure(
        "The site could not compute an answer.",
        hint="If it was charged, it stays charged; your budget shows it. "
        "The site's owner finds the cause in the log.",
    )


@dataclass(frozen=True, kw_only=True)
class About:
    """What log and events say of a request, as far as it is known."""

    action: str = ""
    digest: str | None = None
    table: str = "-"
    purpose: str = "-"
    epsilon: str = "-"


def problem_of(problem: PrivnbError) -> Problem:
    """Put an error into the form in which it travels."""
    return Problem(code=problem.code, message=problem.message, hint=problem.hint)


def problem_reply(name: str, computation: Computation | None, problem: PrivnbError) -> Reply:
    """Reply to a request that cost nothing with an error."""
    digest = computation.digest if computation else None
    return Reply(request=name, digest=digest, problem=problem_of(problem))


def charged_failure(name: str, charge: Charge, budget: Budget | None) -> Reply:
    """Reply that a request was paid for and yet has no answer."""
    return Reply(request=name, digest=charge.digest, problem=problem_of(failure()), budget=budget)


def record_decision(
    transaction: sa.Connection, job: ArrivedJob, decision: Decision, about: About
) -> None:
    """Append a decision to the events, in the transaction that acts on it."""
    record_event(
        transaction,
        "decision",
        private={"analyst": job.sender},
        decision=decision.outcome,
        rule=decision.rule,
        request=job.name,
        digest=about.digest,
        epsilon=about.epsilon,
        table=about.table,
        purpose=about.purpose,
    )


def log_decision(job: ArrivedJob, decision: Decision, about: About) -> None:
    """Write the one line of the log that every decision gets; the log adds the time."""
    logger.info(
        "%s %s analyst=%s request=%s table=%s epsilon=%s",
        decision.outcome,
        decision.rule,
        one_line(job.sender),
        one_line(job.name),
        one_line(about.table),
        one_line(about.epsilon),
    )


def one_line(text: str) -> str:
    """Keep what others wrote to one short line of the log."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
