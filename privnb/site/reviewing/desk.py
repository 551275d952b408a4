"""Where a reviewer sits: everything there is to judge a request by, and the decision on it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privnb import wire
from privnb.computation import Computation
from privnb.errors import BadMessage, ConfigError, RequestRefused, UnknownName
from privnb.review_item import ReviewItem
from privnb.site import ledger
from privnb.site.config import load_config
from privnb.site.database import Database, decisions, requests, reviews
from privnb.site.federated.words import facts_of
from privnb.site.grants import all_grants
from privnb.site.opening import database_path
from privnb.site.reviewing.book import TO_DECIDE, stored
from privnb.site.reviewing.review import (
    Decided,
    MockRun,
    Review,
    Stage,
    Verdict,
    decide,
    decisions_on,
    find,
)
from privnb.site.reviewing.reviewers import key_folder, known_keys
from privnb.site.reviewing.states import STATES, state_of
from privnb.site.scanning.scan import difference, scan, similarity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from privnb.output import Output
    from privnb.site.config import SiteConfig
    from privnb.site.reviewing.config import ReviewConfig
    from privnb.site.reviewing.reviewers import ReviewerKey

__all__ = ["Desk", "choose_key"]

_MOST_EARLIER = 200
"""How many approved computations are searched for the most similar one."""
_MOST_HISTORY = 30
_MOST_PAST = 30
_CHANGED = ("What is stored is not what came in: somebody changed the site's database.",)


def choose_key(
    reviewer: str | None,
    *,
    folder: Path | None = None,
    site: SiteConfig | None = None,
) -> ReviewerKey | None:
    """Return the key of a reviewer, or the only one there is; None where there is no such choice.

    With a ``site``, only the keys of its own reviewers are a choice, if there are any.

    Raises
    ------
    UnknownName
        ``reviewer`` is named, and has no key here.
    StateError
        A key can be read by others, or is damaged.
    """
    keys = known_keys(folder or key_folder(), reviewer=reviewer)
    known = site.review.reviewers if site is not None and site.review is not None else {}
    keys = tuple(key for key in keys if key.email in known) or keys
    return keys[0] if len(keys) == 1 else None


class Desk:
    """The reviews of one site, for one reviewer. No agent needs to run.

    Parameters
    ----------
    directory
        The site's folder.
    key
        Signs the decisions. None: everything can be looked at, and nothing decided.

    Raises
    ------
    ConfigError
        ``site.toml`` is wrong, or says nothing of reviews.
    StateError
        The site's database cannot be used.

    Examples
    --------
    >>> desk = Desk(Path("northside"), choose_key(None))  # doctest: +SKIP
    >>> desk.approve(desk.items()[0].request)  # doctest: +SKIP
    """

    def __init__(self, directory: Path, key: ReviewerKey | None) -> None:
        site = load_config(directory)
        if site.review is None:
            raise ConfigError.at(
                site.path,
                None,
                "There is no [review], so there is nothing to review.",
                hint="Add [review] with the reviewers and what `privnb review key` prints.",
            )
        self._site = site
        self._config: ReviewConfig = site.review
        self._packages = site.python.packages if site.python else ()
        self._schemas = [table.schema for table in site.tables]
        self._key = key
        self._database = Database.open(database_path(site))

    @property
    def reviewer(self) -> str | None:
        """Whose key signs; None where there is none, and nothing can be decided."""
        return None if self._key is None else self._key.email

    @property
    def site(self) -> str:
        """The site's name."""
        return self._site.name

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def items(self) -> tuple[ReviewItem, ...]:
        """Return what is to be decided, who has waited longest first.

        Only what is quickly read: `item` adds findings, mock run, differences, history and output.
        """
        with self._database.read() as snapshot:
            return tuple(
                self._item(snapshot, review)
                for review in stored(snapshot, requests.c.state.in_(tuple(TO_DECIDE.values())))
            )

    def past(self, *, newest: int = _MOST_PAST) -> tuple[ReviewItem, ...]:
        """Return what is not to be decided any more, or not yet again, the newest first."""
        settled = requests.c.state.not_in(tuple(TO_DECIDE.values()))
        with self._database.read() as snapshot:
            return tuple(
                self._item(snapshot, review) for review in stored(snapshot, settled, newest=newest)
            )

    def item(self, prefix: str) -> ReviewItem:
        """Return one request with all there is to see.

        Parameters
        ----------
        prefix
            The beginning of its id; or ``ANALYST/`` and that, where two analysts use the same.

        Raises
        ------
        UnknownName
            There is no such request, or several.
        """
        with self._database.read() as snapshot:
            review = self._find(snapshot, prefix)
            return self._item(snapshot, review, **self._details(snapshot, review))

    def approve(self, prefix: str, reason: str = "", *, seen: str | None = None) -> Decided:
        """Let the code run, once enough reviewers do; errors as in `review.decide`.

        ``seen`` is the `ReviewItem.seen` of what was looked at; another is not decided on.
        """
        return self._decide(prefix, "code", "approve", reason, seen)

    def deny(self, prefix: str, reason: str, *, seen: str | None = None) -> Decided:
        """Refuse the code, for a reason that the analyst reads."""
        return self._decide(prefix, "code", "deny", reason, seen)

    def release(self, prefix: str, reason: str = "", *, seen: str | None = None) -> Decided:
        """Let the output leave the site, once enough reviewers do."""
        return self._decide(prefix, "output", "approve", reason, seen)

    def withhold(self, prefix: str, reason: str, *, seen: str | None = None) -> Decided:
        """Keep the output at the site, for a reason that the analyst reads."""
        return self._decide(prefix, "output", "deny", reason, seen)

    def _decide(
        self, prefix: str, stage: Stage, verdict: Verdict, reason: str, seen: str | None
    ) -> Decided:
        if self._key is None:
            raise RequestRefused(
                "It is not clear who decides: there is no reviewer's key here, or several.",
                hint="Say who you are with --reviewer (in Python reviewer=…): "
                f"{', '.join(self._config.reviewers)} decide here. Without a key: privnb review "
                "key --email you@hospital.example",
            )
        # site.toml may have changed since the desk was opened: who may decide is asked now.
        site = load_config(self._site.directory)
        with self._database.write() as transaction:
            review = self._find(transaction, prefix)
            return decide(
                transaction,
                site=site,
                key=self._key,
                analyst=review.analyst,
                request=review.request,
                stage=stage,
                verdict=verdict,
                reason=reason,
                now=dt.datetime.now(dt.UTC),
                seen=seen,
            )

    def _find(self, connection: sa.Connection, prefix: str) -> Review:
        analyst, slash, beginning = prefix.rpartition("/")
        conditions = [reviews.c.request.startswith(beginning, autoescape=True)]
        if slash:
            conditions.append(reviews.c.analyst == analyst)
        found = list(stored(connection, *conditions, newest=10)) if beginning else []
        exact = [review for review in found if review.request == beginning]
        found = exact or found
        if not found:
            raise UnknownName(
                f"There is no request {prefix[:80]!a} in review.",
                hint="See them with: privnb review list DIR",
            )
        if len(found) > 1:
            names = ", ".join(f"{review.analyst}/{review.request}" for review in found)
            raise UnknownName(
                f"Several requests begin with {prefix[:80]!a}.",
                hint=f"Say more of it, or who asks: {names}.",
            )
        return found[0]

    def _item(self, connection: sa.Connection, review: Review, **details: object) -> ReviewItem:
        computation = review.read_computation()
        made = [
            each
            for each in decisions_on(connection, site=self._site, review=review)
            if not each.problem and each.verdict == "approve"
        ]
        stage = review.stage or max((each.stage for each in made), default="code")
        if computation is None:  # shown, for one bad row must not hide the others
            computation = Computation(kind="python", source="")
        return ReviewItem(
            request=review.request,
            digest=review.digest,
            analyst=review.analyst,
            purpose=review.purpose,
            state=review.state,
            stage=review.stage,
            since=review.since if review.stage != "output" else review.changed,
            expires=review.expires,
            rule=review.rule,
            source=computation.source,
            parameters=computation.parameters,
            tables=computation.tables or (),
            output_name=computation.output,
            approvals=tuple(each.reviewer for each in made if each.stage == stage),
            needed=self._config.needed,
            reviewers=tuple(self._config.reviewers),
            output_digest=review.output_digest,
            gate=review.gate_findings,
            federation=facts_of(computation.federation),
            **details,  # type: ignore[arg-type]
        )

    def _details(self, connection: sa.Connection, review: Review) -> dict[str, object]:
        computation = review.read_computation()
        if computation is None:
            return {"findings": _CHANGED}
        # Here and not in the agent, which never parses code that somebody else wrote.
        found = scan(computation, packages=self._packages, schemas=self._schemas)
        mock, mock_problem = _mock_of(review)
        nearest = self._nearest_approved(connection, review, computation)
        denied = _last_denied(connection, review)
        return {
            "findings": found.findings,
            "imports": found.imports,
            "columns": found.columns,
            "mock_output": mock,
            "mock_problem": mock_problem,
            "difference": difference(nearest[1], computation) if nearest else "",
            "difference_to": nearest[0].request if nearest else "",
            "denied_difference": difference(denied[1], computation) if denied else "",
            "denied_to": denied[0].request if denied else "",
            "output": review.read_output() if review.stage == "output" else None,
            "budget": self._budget(connection, review, computation),
            "history": tuple(self._history(connection, review)),
        }

    def _nearest_approved(
        self, connection: sa.Connection, review: Review, computation: Computation
    ) -> tuple[Review, Computation] | None:
        """Find the most similar among the computations whose code people approved."""
        let_pass = sa.exists().where(
            decisions.c.analyst == reviews.c.analyst,
            decisions.c.request == reviews.c.request,
            decisions.c.verdict == "approve",
            sa.or_(decisions.c.stage == "code", requests.c.state.in_(("cleared", "answered"))),
        )
        passed = requests.c.state.not_in(("waiting", "denied", "refused"))
        best, closeness = None, 0.0
        for earlier in stored(connection, let_pass, passed, newest=_MOST_EARLIER):
            if (earlier.analyst, earlier.request) == (review.analyst, review.request):
                continue
            other = earlier.read_computation()
            if other is None:
                continue
            alike = similarity(other.source, computation.source)
            if alike > closeness:
                best, closeness = (earlier, other), alike
        return best

    def _budget(self, connection: sa.Connection, review: Review, computation: Computation) -> str:
        terms = ledger.terms_of(self._site)
        told = []
        for table in computation.tables or ():
            if table not in terms:
                told.append(f"{table}: not a table of this site any more")
                continue
            now = ledger.standing(
                connection, terms[table], analyst=review.analyst, purpose=review.purpose
            )
            if now.grant is None or now.grant.withdrawn:
                told.append(f"{table}: no grant for {review.purpose}")
                continue
            spent, granted = ledger.in_words(now.epsilon_spent), ledger.in_words(now.grant.epsilon)
            until = f" until {now.grant.until}" if now.grant.until else ""
            told.append(f"{table}: epsilon {spent} of {granted} spent for {review.purpose}{until}")
        return "; ".join(told)

    def _history(self, connection: sa.Connection, review: Review) -> Iterator[str]:
        """Tell what this analyst asked before, and what they were charged, newest first."""
        entries: list[tuple[str, str]] = []
        mine = reviews.c.analyst == review.analyst
        for earlier in stored(connection, mine, newest=_MOST_HISTORY + 1):
            if earlier.request != review.request:
                state = state_of(connection, self._site, earlier)
                who = f" ({state.deciders})" if state.deciders else ""
                why = f": {state.reason}" if state.reason else ""
                words = f"{STATES.get(earlier.state, earlier.state)}{who}{why}"
                entries.append(
                    (earlier.since, f"{earlier.request[:8]}, Python, {earlier.purpose}: {words}")
                )
        terms = ledger.terms_of(self._site)
        for grant in all_grants(connection, analyst=review.analyst):
            if grant.table not in terms:
                continue
            for charge in ledger.history(
                connection,
                terms[grant.table],
                analyst=review.analyst,
                purpose=grant.purpose,
                newest=_MOST_HISTORY,
            ):
                words = f"{charge.request[:8]}, SQL on {grant.table}, {grant.purpose}"
                entries.append((charge.at, f"{words}: epsilon {charge.epsilon}"))
        for at, words in sorted(entries, reverse=True)[:_MOST_HISTORY]:
            yield f"{at[:10]}  {words}"


def _last_denied(connection: sa.Connection, review: Review) -> tuple[Review, Computation] | None:
    """Find the last computation of this analyst that was denied or withheld."""
    row = connection.execute(
        sa.select(decisions.c.request)
        .where(
            decisions.c.analyst == review.analyst,
            decisions.c.verdict == "deny",
            decisions.c.request != review.request,
        )
        .order_by(decisions.c.seq.desc())
        .limit(1)
    ).scalar()
    if row is None:
        return None
    denied = find(connection, analyst=review.analyst, request=str(row))
    computation = None if denied is None else denied.read_computation()
    return None if denied is None or computation is None else (denied, computation)


def _mock_of(review: Review) -> tuple[Output | None, str]:
    if review.mock is None:
        return None, "The cell has not been run on the mock twin yet."
    try:
        run = wire.decode(MockRun, review.mock, what="The mock run")
    except BadMessage:
        return None, "What the mock run gave cannot be read."
    return run.output, run.problem
