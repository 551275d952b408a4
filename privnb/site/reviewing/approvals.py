"""What lets a Python computation run, and its output leave: asked anew at each step.

A state in the database says how far a request is; whether it may go on is found out here, from
``site.toml``, the grants, and the signatures of the reviewers. The rest of ``site.toml`` is as it
was when the agent started; but whoever is no reviewer in it any more has approved of nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privnb.errors import AccessRefused, ConfigError, PrivnbError, RequestRefused, StateError
from privnb.site.database import decisions, requests, reviews
from privnb.site.grants import still_granted
from privnb.site.policy import Decision, Route, refusal, route_of, wrong_purpose
from privnb.site.python_config import RUNS_PER_ANALYST
from privnb.site.reviewing import review
from privnb.site.reviewing.config import read_review
from privnb.site.toml_reader import TomlFile

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping

    from privnb.computation import Computation
    from privnb.site.config import SiteConfig
    from privnb.site.python_config import Template
    from privnb.site.requests import Record

__all__ = ["IN_REVIEW", "Approvals"]

IN_REVIEW = ("waiting", "held")
_UNDER_WAY = (*IN_REVIEW, "approved", "running", "joined", "cleared", "denied")
_SAME = sa.and_(requests.c.sender == reviews.c.analyst, requests.c.name == reviews.c.request)
_MOST_UNDER_WAY = 20
"""How many requests of one analyst may be under way at a time."""
_NO_WAY = Route(rule="no rule lets it out any more", code=True, output=True)

_log = logging.getLogger("privnb.site")


class Approvals:
    """The owner's rules and the reviewers' decisions on Python computations.

    All is asked within the caller's transaction, and holds for as long as that. Where it depends on
    reviewers, `StateError` says that ``site.toml`` cannot be read now.
    """

    def __init__(self, config: SiteConfig, *, today: Callable[[], dt.date]) -> None:
        self._config = config
        self._today = today
        self._schemas = {table.name: table.schema for table in config.tables}
        self._named: Mapping[str, str] = {}
        self._read_at: tuple[int, int, int] | None = None
        self._told = False

    def can_be_asked(self) -> bool:
        """Tell whether it can be found out now who the reviewers are."""
        try:
            self._reviewers()
        except StateError as problem:
            if not self._told:
                _log.error("%s %s", problem, problem.hint)
            self._told = True
            return False
        self._told = False
        return True

    def decide(
        self, connection: sa.Connection, analyst: str, computation: Computation
    ) -> tuple[Decision, Route | None]:
        """Decide on a computation that just came in; with a refusal there is no route."""
        template = self._template(computation)
        route = route_of(computation, review=self._config.review, template=template)
        problem = (
            self.objection(connection, analyst, computation)
            or (_no_way_out() if route is None else None)
            or _too_often(connection, analyst, computation, template, route)
            or _too_many(connection, analyst)
            or _under_way(connection, analyst, computation, route)
        )
        if problem is not None or route is None:
            return refusal(problem or _no_way_out()), None
        return Decision(outcome="release" if route.by_rule else "wait", rule=route.rule), route

    def objection(
        self, connection: sa.Connection, analyst: str, computation: Computation
    ) -> PrivnbError | None:
        """Return why a computation may not go on, whatever was approved; None if nothing is."""
        refused = self._access(connection, analyst, computation)
        return refused or _denied(connection, analyst, computation)

    def _access(
        self, connection: sa.Connection, analyst: str, computation: Computation
    ) -> AccessRefused | None:
        """Return why the analyst may not use the tables for the purpose now, if so."""
        purpose = computation.purpose or ""
        for table in computation.tables or ():
            if purpose not in self._schemas[table].purposes:
                return wrong_purpose(purpose, self._schemas[table])
            refused = still_granted(
                connection, analyst=analyst, table=table, purpose=purpose, today=self._today()
            )
            if refused is not None:
                return refused
        return None

    def route(self, computation: Computation) -> Route:
        """Find the way out that is left now; without one, reviewers would have to see it all."""
        template = self._template(computation)
        return route_of(computation, review=self._config.review, template=template) or _NO_WAY

    def may_run(self, connection: sa.Connection, record: Record, route: Route) -> bool:
        """Tell whether enough reviewers approved of the code, if any have to."""
        return not route.code or self._enough(connection, record, "code")

    def may_leave(
        self, connection: sa.Connection, record: Record, route: Route, *, looked: bool
    ) -> bool:
        """Tell whether enough reviewers approved; ``looked``: they had to see the output too."""
        if not self.may_run(connection, record, route):
            return False
        return not (looked or route.output) or self._enough(connection, record, "output")

    def in_words(
        self, connection: sa.Connection, record: Record, route: Route, *, looked: bool
    ) -> tuple[str, ...]:
        """Say who and what let an output out."""
        said = [f"the owner's rule: {route.rule}"] if route.by_rule else []
        stages: tuple[tuple[review.Stage, bool], ...] = (("code", route.code), ("output", looked))
        for stage, needed in stages:
            if needed:
                who = self._approved_by(connection, record, stage)
                said.append(f"{stage}: {', '.join(who)}")
        return tuple(said)

    def _template(self, computation: Computation) -> Template | None:
        return next((each for each in self._config.templates if each.covers(computation)), None)

    def _enough(self, connection: sa.Connection, record: Record, stage: review.Stage) -> bool:
        config = self._config.review
        if config is None:
            return False
        return len(self._approved_by(connection, record, stage)) >= config.needed

    def _approved_by(
        self, connection: sa.Connection, record: Record, stage: review.Stage
    ) -> tuple[str, ...]:
        signed = review.approvals(
            connection,
            site=self._config,
            analyst=record.sender,
            request=record.name,
            stage=stage,
        )
        reviewers = self._reviewers()
        return tuple(who for who in signed if who in reviewers)

    def _reviewers(self) -> set[str]:
        """Return who is a reviewer, with the same key, both since the agent started and now."""
        config, path = self._config.review, self._config.path
        if config is None:
            return set()
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._read_at:
                root = TomlFile(path).root
                section = root.section("review", hint="") if root.has("review") else None
                self._named = read_review(section).reviewers if section else {}
                self._read_at = stamp
        except (OSError, ConfigError) as problem:
            raise StateError(
                f"Who the reviewers are cannot be read now: {problem}",
                hint="Until it can, no Python computation goes on.",
            ) from None
        return set(dict(config.reviewers.items() & self._named.items()))


def _denied(
    connection: sa.Connection, analyst: str, computation: Computation
) -> PrivnbError | None:
    row = connection.execute(
        sa.select(decisions.c.analyst, decisions.c.reason)
        .where(decisions.c.digest == computation.digest, decisions.c.verdict == "deny")
        .order_by((decisions.c.analyst == analyst).desc(), decisions.c.seq.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    # A reason may speak of the analyst it was written for.
    why = f": {row.reason}" if row.analyst == analyst else "."
    return RequestRefused(
        f"This very computation was denied before{why}",
        hint="Change it, then ask again: the same text stays refused.",
        code="E_DENIED",
    )


def _no_way_out() -> RequestRefused:
    return RequestRefused(
        "This site releases Python only from its owner's templates.",
        hint="%privnb templates lists them.",
        code="E_NO_REVIEW",
    )


def _too_often(
    connection: sa.Connection,
    analyst: str,
    computation: Computation,
    template: Template | None,
    route: Route | None,
) -> PrivnbError | None:
    """Refuse what no human looks at, and whose answers add up, once the analyst had it so often."""
    if route is None or not route.by_rule:
        return None
    had = [reviews.c.analyst == analyst, reviews.c.rule == route.rule]
    if computation.federation is not None:  # on the owner's list; in each run, at other parameters
        had.append(reviews.c.digest == computation.digest)
        what, most = "this training", RUNS_PER_ANALYST
    elif template is not None:
        what, most = f"template {template.name}", template.runs_per_analyst
    else:
        return None
    used = _count(connection, *had)
    if used < most:
        return None
    return RequestRefused(
        f"You had {what} {used} times, which is the limit.",
        hint="Ask the owner: answers with different parameters add up.",
        code="E_LIMIT",
    )


def _too_many(connection: sa.Connection, analyst: str) -> PrivnbError | None:
    waiting = _count(connection, reviews.c.analyst == analyst, requests.c.state.in_(_UNDER_WAY))
    if waiting < _MOST_UNDER_WAY:
        return None
    return RequestRefused(
        f"{_MOST_UNDER_WAY} of your requests are under way at this site already.",
        hint="Wait until some have ended.",
        code="E_BUSY",
    )


def _under_way(
    connection: sa.Connection, analyst: str, computation: Computation, route: Route | None
) -> PrivnbError | None:
    """Refuse a second copy of what reviewers have to look at: one decision is enough."""
    if route is None or route.by_rule:
        return None
    earlier = connection.execute(
        sa.select(reviews.c.request)
        .join(requests, _SAME)
        .where(
            reviews.c.analyst == analyst,
            reviews.c.digest == computation.digest,
            requests.c.state.in_(_UNDER_WAY),
        )
        .limit(1)
    ).scalar()
    if earlier is None:
        return None
    return RequestRefused(
        f"This very computation of yours is under way already: request {earlier[:8]}.",
        hint=f"See how far it is: %privnb requests. Its result: %privnb result {earlier[:8]}",
        code="E_BUSY",
    )


def _count(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    counted = sa.select(sa.func.count()).select_from(reviews.join(requests, _SAME))
    return int(connection.execute(counted.where(*conditions)).scalar_one())
