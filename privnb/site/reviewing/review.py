"""How reviewers decide about a computation; and all that the agent needs to know of reviews.

A decision is one transaction: the signed statement, the audit event, and, when it is the last one
needed, the request's next state. What is kept for reviewers is in `book`, what counts in
`signatures`, what the analyst is told in `states`, each in this room.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privnb import wire
from privnb.errors import ConfigError, PrivnbError, RequestRefused, StateError, UnknownName
from privnb.site.audit import record_event
from privnb.site.database import decisions, requests
from privnb.site.reviewing.book import (
    DENIED,
    PASSED,
    TO_DECIDE,
    MockRun,
    Review,
    Stage,
    drop_output,
    find,
    hold,
    keep_mock,
    open_review,
    stamp,
)
from privnb.site.reviewing.signatures import (
    DECIDED,
    Decision,
    Verdict,
    approvals,
    decisions_on,
    denial_of,
    is_own,
    statement_of,
)
from privnb.site.reviewing.states import states

if TYPE_CHECKING:
    from privnb.site.config import SiteConfig
    from privnb.site.reviewing.config import ReviewConfig
    from privnb.site.reviewing.reviewers import ReviewerKey

__all__ = [
    "MAX_REASON",
    "Decided",
    "Decision",
    "MockRun",
    "Review",
    "Stage",
    "Verdict",
    "approvals",
    "decide",
    "decisions_on",
    "denial_of",
    "drop_output",
    "find",
    "hold",
    "keep_mock",
    "open_review",
    "stamp",
    "states",
]

MAX_REASON = 2000
"""The longest reason, in characters."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What a decision led to."""

    request: str
    stage: Stage
    verdict: Verdict
    state: str
    """The request's state now; see `privnb.site.requests`."""
    approvals: tuple[str, ...]
    needed: int


def decide(  # noqa: PLR0913 - a decision has many parts
    connection: sa.Connection,
    *,
    site: SiteConfig,
    key: ReviewerKey,
    analyst: str,
    request: str,
    stage: Stage,
    verdict: Verdict,
    reason: str,
    now: dt.datetime,
    seen: str | None = None,
) -> Decided:
    """Add one reviewer's signed decision, and move the request on when it is the last needed.

    Must run inside `Database.write`, so that of two reviewers who decide at once, one is later and
    sees what the other did. Approvals are counted with `approvals`; one denial ends the request.

    Parameters
    ----------
    seen
        The digest of what the reviewer looked at, of the computation or of the output. When given,
        it must still be that.

    Raises
    ------
    UnknownName
        There is no such request.
    RequestRefused
        This reviewer may not decide on it: not in ``site.toml``, another key, their own request,
        their second decision.
    StateError
        Nothing is to be decided at this stage any more, or something else than what was looked at.
    PrivnbError
        A denial without a reason, or a reason that is too long.
    """
    config = _config(site)
    review = find(connection, analyst=analyst, request=request)
    if review is None:
        raise UnknownName(f"There is no request {request:.8} of {analyst} in review.")
    reason = _read_reason(reason, verdict)
    _require_reviewer(config, key, review)
    _require_open(connection, config, review, stage=stage, key=key, now=now)
    subject = _require_unchanged(review, stage, seen)
    if verdict == "approve" and denial_of(connection, review.digest) is not None:
        raise RequestRefused(
            f"The computation of request {review.request:.8} was denied in another request.",
            hint="It stays refused until its analyst changes it.",
        )
    at = stamp(now)
    statement = statement_of(
        site, review, stage=stage, verdict=verdict, reviewer=key.email, reason=reason, at=at,
        subject=subject,
    )  # fmt: skip
    signature = key.sign(statement)
    connection.execute(
        sa.insert(decisions).values(
            at=at,
            analyst=analyst,
            request=request,
            digest=review.digest,
            stage=stage,
            verdict=verdict,
            reviewer=key.email,
            reason=reason,
            statement=statement,
            signature=signature,
        )
    )
    agreed = approvals(connection, site=site, analyst=analyst, request=request, stage=stage)
    state = review.state
    if verdict == "deny":
        state = DENIED
    elif len(agreed) >= config.needed:
        state = PASSED[stage]
    if state != review.state:
        _move(connection, review, state=state, at=at)
    record_event(
        connection,
        "review",
        private={"analyst": analyst, "reviewer": key.email, "reason": reason},
        request=request,
        digest=review.digest,
        purpose=review.purpose,
        stage=stage,
        verdict=verdict,
        state=state,
        # The signature stands for the statement, and tells nothing to whom the statement is hidden.
        signed=wire.sha256_hex(signature),
    )
    return Decided(
        request=request,
        stage=stage,
        verdict=verdict,
        state=state,
        approvals=agreed,
        needed=config.needed,
    )


def _config(site: SiteConfig) -> ReviewConfig:
    if site.review is None:
        raise ConfigError.at(
            site.path,
            None,
            "There is no [review], so nobody can decide.",
            hint="Add [review] with the reviewers and their keys; see: privnb review key --help",
        )
    return site.review


def _read_reason(reason: str, verdict: Verdict) -> str:
    reason = reason.encode("utf-8", "replace").decode().strip()
    if verdict == "deny" and not reason:
        raise PrivnbError(
            "To deny or withhold needs a reason.",
            hint='The analyst reads it: add --reason "…" with what to change.',
        )
    if len(reason) > MAX_REASON:
        raise PrivnbError(
            f"The reason has {len(reason)} characters; at most {MAX_REASON} are kept.",
            hint="Say it shorter.",
        )
    return reason


def _require_reviewer(config: ReviewConfig, key: ReviewerKey, review: Review) -> None:
    known = config.reviewers.get(key.email)
    if known is None:
        raise RequestRefused(
            f"{key.email} is not a reviewer of this site.",
            hint="The owner names reviewers in [review.reviewers] of site.toml.",
        )
    if known != key.public:
        raise RequestRefused(
            f"The key of {key.email} is not the one in site.toml.",
            hint="Use the key whose public half stands there, or have the owner change it.",
        )
    if is_own(config, key.email, review.analyst):
        raise RequestRefused(
            "Nobody decides on their own request.", hint="Ask another reviewer of this site."
        )


def _require_open(  # noqa: PLR0913 - what is open depends on all of them
    connection: sa.Connection,
    config: ReviewConfig,
    review: Review,
    *,
    stage: Stage,
    key: ReviewerKey,
    now: dt.datetime,
) -> None:
    row = connection.execute(
        sa.select(decisions.c.verdict, decisions.c.at).where(
            decisions.c.analyst == review.analyst,
            decisions.c.request == review.request,
            decisions.c.stage == stage,
            decisions.c.reviewer == key.email,
        )
    ).first()
    name = review.request[:8]
    if row is not None:
        raise RequestRefused(
            f"{key.email} {DECIDED[stage][row.verdict]} request {name} already, at {row.at}.",
            hint="One reviewer decides once; what was signed is not taken back.",
        )
    if review.state != TO_DECIDE[stage]:
        what = "code" if stage == "code" else "output"
        raise StateError(
            f"The {what} of request {name} is not to be decided on: the request is"
            f" {_in_words(review.state)}.",
            hint="Somebody may have decided meanwhile. See: privnb review show DIR " + name,
        )
    if stamp(now) >= review.expires:
        raise StateError(
            f"Request {name} expired at {review.expires}.",
            hint=f"The analyst can ask again; requests wait {config.expires_days} days.",
        )


def _in_words(state: str) -> str:
    words = {"held": "in review of its output", "waiting": "in review of its code"}
    return words.get(state, state)


def _require_unchanged(review: Review, stage: Stage, seen: str | None) -> str:
    """Return the digest that is decided on, computed from the stored bytes."""
    subject: str | None = None
    if review.read_computation() is not None:
        subject = review.digest
    if stage == "output" and review.read_output() is None:
        subject = None
    elif stage == "output" and subject is not None:
        subject = review.output_digest
    if subject is None:
        raise StateError(
            f"What is stored of request {review.request:.8} is not what came in.",
            hint="Somebody changed the site's database. Compare it with a backup.",
        )
    if seen is not None and seen != subject:
        raise StateError(
            f"Request {review.request:.8} is not what you looked at.",
            hint="Look at it again before you decide.",
        )
    return subject


def _move(connection: sa.Connection, review: Review, *, state: str, at: str) -> None:
    moved = connection.execute(
        sa.update(requests)
        .where(
            requests.c.sender == review.analyst,
            requests.c.name == review.request,
            requests.c.state == review.state,
        )
        .values(state=state, at=at)
    )
    if moved.rowcount != 1:
        raise StateError(
            f"Request {review.request:.8} was changed by another process.", hint="Try again."
        )
