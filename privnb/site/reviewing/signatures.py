"""Which decisions of reviewers count: what was signed, and whether it is still what is stored.

A decision is a *statement* in canonical JSON, signed with the reviewer's key. It names the site,
the analyst, the request, the computation's digest, the stage, and, for an output, the output's
digest. `approvals` believes nothing that the database merely says: it rebuilds every statement from
what is stored now, and checks its signature against the key in ``site.toml``. So a decision counts
for the one thing that was decided on, and for nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import sqlalchemy as sa

from privnb import wire
from privnb.site.database import decisions
from privnb.site.reviewing.book import Review, Stage, find
from privnb.site.reviewing.reviewers import person, verify

if TYPE_CHECKING:
    from privnb.site.config import SiteConfig
    from privnb.site.reviewing.config import ReviewConfig

__all__ = [
    "DECIDED",
    "Decision",
    "Verdict",
    "approvals",
    "decisions_on",
    "denial_of",
    "is_own",
    "statement_of",
]

Verdict: TypeAlias = Literal["approve", "deny"]

_CONTEXT = "privnb review decision, version 1"
DECIDED: dict[Stage, dict[Verdict, str]] = {
    "code": {"approve": "approved", "deny": "denied"},
    "output": {"approve": "released", "deny": "withheld"},
}
"""What a verdict is called at each stage."""

_logger = logging.getLogger("privnb.site")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One stored decision, and why it does not count."""

    at: str
    stage: Stage
    verdict: Verdict
    reviewer: str
    reason: str
    problem: str
    """Empty where it counts."""

    @property
    def words(self) -> str:
        """What was decided, in one word."""
        return DECIDED[self.stage][self.verdict]


def is_own(config: ReviewConfig, reviewer: str, analyst: str) -> bool:
    """Tell whether reviewer and analyst are one, by address or by a key under both addresses."""
    mine = person(analyst)
    own = {key for email, key in config.reviewers.items() if person(email) == mine}
    return person(reviewer) == mine or config.reviewers.get(reviewer) in own


def statement_of(  # noqa: PLR0913 - a statement says it all
    site: SiteConfig,
    review: Review,
    *,
    stage: str,
    verdict: str,
    reviewer: str,
    reason: str,
    at: str,
    subject: str,
) -> bytes:
    """Write what a reviewer signs; ``subject`` is the digest of what they looked at."""
    said = {
        "context": _CONTEXT,
        "site": site.name,
        "owner": site.owner,
        "analyst": review.analyst,
        "request": review.request,
        "digest": review.digest,
        "stage": stage,
        "verdict": verdict,
        "reviewer": reviewer,
        "reason": reason,
        "at": at,
    }
    if stage == "output":
        said["output_digest"] = subject
    return wire.canonical_json(said)


def approvals(
    connection: sa.Connection, *, site: SiteConfig, analyst: str, request: str, stage: Stage
) -> tuple[str, ...]:
    """Return the reviewers whose signed approvals count, oldest first.

    Counted is only what verifies now: by a key in ``site.toml`` that is not the analyst's own, on
    the stored computation, and at stage ``output`` on the stored output. What does not is logged.
    A denial that verifies, at either stage, leaves no approvals.
    """
    review = find(connection, analyst=analyst, request=request)
    if review is None or site.review is None or (stage == "output" and review.output is None):
        return ()
    counted: dict[str, str] = {}
    for decision in decisions_on(connection, site=site, review=review):
        if decision.problem:
            _logger.warning(
                "a decision on request %s counts for nothing: %s", request, decision.problem
            )
        elif decision.verdict == "deny":
            return ()
        elif decision.stage == stage:
            counted.setdefault(site.review.reviewers[decision.reviewer], decision.reviewer)
    return tuple(counted.values())


def decisions_on(
    connection: sa.Connection, *, site: SiteConfig, review: Review
) -> tuple[Decision, ...]:
    """Return all decisions on a request, oldest first, each checked.

    Once an output is erased, decisions on it are checked against its digest.
    """
    rows = connection.execute(
        sa.select(decisions)
        .where(decisions.c.analyst == review.analyst, decisions.c.request == review.request)
        .order_by(decisions.c.seq)
    ).all()
    if not rows:
        return ()
    subjects = _subjects(review)
    return tuple(
        Decision(
            at=row.at,
            stage=row.stage,
            verdict=row.verdict,
            reviewer=row.reviewer,
            reason=row.reason,
            problem=_problem_of(row, site=site, review=review, subject=subjects[row.stage]),
        )
        for row in rows
    )


def _subjects(review: Review) -> dict[str, str | None]:
    """Return, by stage, the digest of what is stored; None where it is not what it was."""
    if review.read_computation() is None:
        return {"code": None, "output": None}
    held = review.output is None or review.read_output() is not None
    return {"code": review.digest, "output": review.output_digest if held else None}


def _problem_of(row: Any, *, site: SiteConfig, review: Review, subject: str | None) -> str:
    config = site.review
    public = config.reviewers.get(row.reviewer) if config else None
    if config is None or public is None:
        return "its reviewer is not in site.toml"
    if is_own(config, row.reviewer, review.analyst):
        return "it is on the reviewer's own request"
    if subject is None:
        return "what was decided on is not what is stored"
    expected = statement_of(
        site, review, stage=row.stage, verdict=row.verdict, reviewer=row.reviewer,
        reason=row.reason, at=row.at, subject=subject,
    )  # fmt: skip
    if row.statement != expected:
        return "it was made for something else"
    if not verify(public, row.signature, expected):
        return "its signature is not by the reviewer's key"
    return ""


def denial_of(connection: sa.Connection, digest: str) -> str | None:
    """Return why this very computation, or its output, was denied before; None if it never was."""
    found = connection.execute(
        sa.select(decisions.c.reason)
        .where(decisions.c.digest == digest, decisions.c.verdict == "deny")
        .order_by(decisions.c.seq.desc())
        .limit(1)
    ).scalar()
    return None if found is None else str(found)
