"""How far an analyst's requests are, as the analyst may know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from privnb import wire
from privnb.errors import BadMessage
from privnb.messages import Reply, RequestState, State
from privnb.site import database
from privnb.site.policy import UNREAD
from privnb.site.reviewing.book import PASSED, TO_DECIDE, Review, Stage, stored
from privnb.site.reviewing.signatures import decisions_on, is_own

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.site.config import SiteConfig
    from privnb.site.reviewing.signatures import Decision

__all__ = ["STATES", "state_of", "states"]

STATES: dict[str, State] = {
    "waiting": "waiting for review",
    "approved": "approved",
    "running": "running",
    "reserved": "running",
    "joined": "joined",
    "held": "output in review",
    "cleared": "approved",
    "answered": "released",
    "ended": "nothing given",
    "denied": "refused",
    "refused": "refused",
    "failed": "failed",
}
"""What the states of `privnb.site.requests` are called where people read them."""


def states(
    connection: sa.Connection, *, site: SiteConfig, analyst: str, requests: Sequence[str]
) -> tuple[RequestState, ...]:
    """Tell how far each of these requests of one analyst is, in the order in which they are named.

    Nothing of it depends on data. A request that never came in is ``unknown``.
    """
    book = database.requests
    names = set(requests)
    rows = {
        row.name: row
        for row in connection.execute(
            sa.select(book.c.name, book.c.state, book.c.at, _REFUSAL).where(
                book.c.sender == analyst, book.c.name.in_(names)
            )
        )
    }
    mine = database.reviews.c.analyst == analyst
    in_review = {
        review.request: review
        for review in stored(connection, mine, database.reviews.c.request.in_(names))
    }
    found = []
    for name in requests:
        if name in in_review:
            found.append(state_of(connection, site, in_review[name], reply=rows[name].reply))
        elif name in rows:
            found.append(_unreviewed(rows[name]))
        else:
            found.append(RequestState(request=name, state="unknown"))
    return tuple(found)


def state_of(
    connection: sa.Connection, site: SiteConfig, review: Review, *, reply: bytes | None = None
) -> RequestState:
    """Tell how far a computation in review is; ``reply`` is what was answered, if it was."""
    made = [each for each in decisions_on(connection, site=site, review=review) if not each.problem]
    denial = next((each for each in made if each.verdict == "deny"), None)
    stage = review.stage
    # How long a cell ran, and whether it ended, is its writer's to choose: while nobody has read
    # it, running and held look the same.
    unread = review.rule == UNREAD and review.state in ("running", TO_DECIDE["output"])
    if unread:
        stage = "output"
    if stage is not None:
        deciders = _still_deciding(site, review, stage, made)
    elif denial is not None:
        deciders = f"{denial.words} by {denial.reviewer}"
    else:
        deciders = _decided(review, made)
    return RequestState(
        request=review.request,
        state="output in review" if unread else STATES.get(review.state, "unknown"),
        since=review.since if unread or stage == "code" else review.changed,
        deciders=deciders,
        until=review.expires if stage is not None else None,
        reason=denial.reason if denial is not None else _problem(reply),
    )


_REFUSAL = sa.case(
    (database.requests.c.state.in_(("refused", "failed", "ended")), database.requests.c.reply)
).label("reply")
"""Replies with a reason; what was released can be large, and is not read for this."""


def _unreviewed(row: Any) -> RequestState:
    state = STATES.get(row.state, "unknown")
    return RequestState(
        request=row.name,
        state=state,
        since="" if state == "unknown" else row.at,
        reason=_problem(row.reply),
    )


def _still_deciding(
    site: SiteConfig, review: Review, stage: Stage, made: Sequence[Decision]
) -> str:
    if site.review is None:
        return ""
    agreed = [each.reviewer for each in made if each.stage == stage]
    open_to = [
        reviewer
        for reviewer in site.review.reviewers
        if reviewer not in agreed and not is_own(site.review, reviewer, review.analyst)
    ]
    needed = site.review.needed
    count = f"{len(agreed)} of {needed} approval{'s' * (needed != 1)}"
    names = f" ({', '.join(agreed)})" if agreed else ""
    return f"{count}{names}; still to decide: {', '.join(open_to) or 'nobody'}"


def _decided(review: Review, made: Sequence[Decision]) -> str:
    """Say who let it pass; without a decision it was the rule, if it passed at all."""
    parts = []
    for stage in PASSED:
        names = [each.reviewer for each in made if each.stage == stage]
        if names:
            parts.append(f"{stage} approved by {', '.join(names)}")
    return "; ".join(parts) or (review.rule if review.state in _LET_PASS else "")


_LET_PASS = {"approved", "running", "joined", "held", "cleared", "answered", "ended"}


def _problem(reply: bytes | None) -> str:
    """Return what a stored reply refuses with, or why a run was over before it was given to."""
    if reply is None:
        return ""
    try:
        said = wire.decode(Reply, reply, what="The stored reply")
    except BadMessage:
        return ""
    if said.part is not None:
        return "" if said.part.contributions else said.part.remark
    return "" if said.problem is None else said.problem.message
