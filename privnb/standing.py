"""Where a request stands at one site, in the words of the person who waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb.errors import AuditBroken, ExchangeError, PrivnbError, SiteFailure, StateError
from privnb.unseen import brief

if TYPE_CHECKING:
    from privnb.messages import Reply, RequestState
    from privnb.store import Record

__all__ = ["IN_REVIEW", "SiteStatus", "Standing", "standing", "status_of"]

SiteStatus: TypeAlias = Literal[
    "waiting", "released", "nothing given", "refused", "failed", "cancelled"
]
"""``nothing given`` is how a federated run ends that was over before a site gave a part to it."""

IN_REVIEW = ("waiting for review", "output in review")
"""States in which nothing happens until a person decides."""

_SENT = "waiting for an answer"
_OUT = ("nothing given", "refused", "failed", "cancelled")
_ON_ITS_WAY = ("released", "nothing given", "refused", "failed")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One request at one site: how far it is, and who must do something about it.

    Everything a site said is cleaned already; it still has to be escaped.
    """

    request: str
    site: str
    asked_at: str
    """When it was made: UTC, ISO 8601."""
    kind: Literal["sql", "python", "model"]
    purpose: str
    question: str
    """The text of the cell."""
    epsilon: str = ""
    """What was offered for a noisy answer; empty for Python."""
    state: str
    """In words: 'waiting for review', 'released', …"""
    since: str = ""
    """Since when it is in that state: UTC, ISO 8601, seconds; empty if that is not known."""
    deciders: str = ""
    """Who decides, in words, while people do."""
    until: str | None = None
    """When waiting ends by itself: UTC, ISO 8601, seconds."""
    reason: str = ""
    """Why it was refused or failed, or nothing was given to it."""
    code: str = ""
    """The code of the error, if it was refused or failed."""

    @property
    def in_review(self) -> bool:
        """Whether a person has to decide before anything happens."""
        return self.state in IN_REVIEW

    @property
    def is_out(self) -> bool:
        """Whether the site takes no part in a federated run, or none any more."""
        return self.state.partition(",")[0] in _OUT

    @property
    def is_released(self) -> bool:
        """Whether what the site gave has come, or its word that it gave its part of a run."""
        return self.state == "released"


def status_of(reply: Reply | PrivnbError | None) -> SiteStatus:
    """Tell what a site's reply amounts to; None: it has not replied."""
    if reply is None:
        return "waiting"
    if not isinstance(reply, PrivnbError):
        gave_nothing = reply.part is not None and reply.part.contributions == 0
        return "nothing given" if gave_nothing else "released"
    if reply.code == "E_CANCELLED":
        return "cancelled"
    failed = isinstance(reply, SiteFailure | ExchangeError | AuditBroken | StateError)
    return "failed" if failed else "refused"


def standing(
    record: Record, site: str, *, reply: Reply | PrivnbError | None, told: RequestState | None
) -> Standing:
    """Put together what a site replied, or said last about a request that it works on."""
    state, reason, code = status_of(reply).replace("waiting", _SENT), "", ""
    if isinstance(reply, PrivnbError):
        if state != "cancelled":
            reason, code = f"{reply.message} {reply.hint}".strip(), reply.code
    elif state == "nothing given" and reply is not None and reply.part is not None:
        reason = brief(reply.part.remark)
    seen = told
    if reply is not None or told is None or told.state == "unknown":
        seen = None
    if seen is not None:
        arriving = seen.state in _ON_ITS_WAY
        state = f"{seen.state}, on its way here" if arriving else seen.state
    computation = record.computation
    return Standing(
        request=record.request,
        site=site,
        asked_at=record.asked_at,
        kind=computation.kind if computation else "sql",
        purpose=(computation and computation.purpose) or "",
        question=computation.source if computation else "",
        epsilon=(computation and computation.epsilon) or "",
        state=state,
        since=brief(seen.since) if seen else "",
        deciders=brief(seen.deciders) if seen else "",
        until=brief(seen.until) if seen and seen.until else None,
        reason=brief(seen.reason) if seen else reason,
        code=code,
    )
