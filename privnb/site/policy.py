"""The owner's rules, applied to one request: release, wait for people or refuse, by which rule."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from privnb.errors import AccessRefused, BudgetExceeded, PrivnbError
from privnb.site.ledger import Charge, Standing, in_words

if TYPE_CHECKING:
    from privnb.computation import Computation
    from privnb.dp.schema import TableSchema
    from privnb.site.python_config import Template
    from privnb.site.reviewing.config import ReviewConfig

__all__ = ["UNREAD", "Decision", "Route", "decide", "refusal", "route_of", "wrong_purpose"]

UNREAD = "review of output"
"""The rule of computations whose code nobody looks at before it runs."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the policy says, with the rule that made it, and what to tell the analyst."""

    outcome: Literal["release", "wait", "refuse"]
    rule: str
    problem: PrivnbError | None = None


@dataclass(frozen=True, kw_only=True)
class Route:
    """The way out that the policy leaves to one Python computation."""

    rule: str
    """What let it on this way, in words."""
    code: bool
    """Whether reviewers look at the code before it runs."""
    output: bool
    """Whether reviewers look at the output before it leaves, whatever the gate says."""

    @property
    def by_rule(self) -> bool:
        """Whether no human has to look at anything, unless the gate objects."""
        return not self.code and not self.output


def refusal(problem: PrivnbError) -> Decision:
    """Refuse because something before the policy failed; the rule is the error's code."""
    return Decision(outcome="refuse", rule=problem.code, problem=problem)


def decide(
    charge: Charge, *, schema: TableSchema, owner: str, standing: Standing, today: dt.date
) -> Decision:
    """Decide on a protected release. Pure: the same facts give the same decision.

    Parameters
    ----------
    charge
        The price; its ``purpose`` is the one the analyst states, empty when none was given.
    standing
        The grant for exactly this analyst, table and purpose, and what is left.
    today
        The site's date; a grant is valid up to and including its last day.
    """
    if charge.purpose not in schema.purposes:
        return refusal(wrong_purpose(charge.purpose, schema))
    how = _command(charge, owner, epsilon=charge.epsilon)
    grant = standing.grant
    if grant is None or grant.withdrawn:
        state = "no grant" if grant is None else "no grant any more"
        return refusal(
            AccessRefused(
                f"You have {state} for table {charge.table!r} and purpose {charge.purpose!r}.",
                hint=f"Ask the owner, {how}",
            )
        )
    if grant.expired(today):
        return refusal(
            AccessRefused(
                f"Your grant for table {charge.table!r} and purpose {charge.purpose!r} ended on "
                f"{grant.until}.",
                hint=f"Ask the owner, {how}",
            )
        )
    shortfall = standing.shortfall(loss=charge.loss, delta=charge.delta)
    if shortfall is not None:
        return refusal(_too_expensive(charge, standing, shortfall, owner))
    return Decision(outcome="release", rule="grant")


def route_of(
    computation: Computation, *, review: ReviewConfig | None, template: Template | None
) -> Route | None:
    """Find the way out for a Python computation; None where the owner left none.

    Parameters
    ----------
    template
        The owner's template that the computation is, if it is one.
    """
    if review is not None and computation.digest in review.release:
        return Route(rule="digest on the owner's list", code=False, output=False)
    if template is not None:
        return Route(rule=f"template {template.name}", code=False, output=False)
    if review is None:
        return None
    if computation.federation is not None:
        # There is no output that a person could look at before it leaves, so it is the code.
        return Route(rule="review of code, of sums over sites", code=True, output=False)
    return Route(
        rule=f"review of {review.mode}",
        code=review.mode in ("code", "both"),
        output=review.mode in ("output", "both"),
    )


def wrong_purpose(purpose: str, schema: TableSchema) -> AccessRefused:
    """Say that a table may not be used for a purpose, and for which it may."""
    allowed = ", ".join(schema.purposes) or "none yet"
    problem = (
        f"Table {schema.name!r} may not be used for {purpose!r}."
        if purpose
        else f"Say what you want to use table {schema.name!r} for."
    )
    return AccessRefused(problem, hint=f"Allowed purposes: {allowed}.", code="E_PURPOSE")


def _too_expensive(
    charge: Charge, standing: Standing, shortfall: Literal["grant", "table", "delta"], owner: str
) -> BudgetExceeded:
    if shortfall == "delta":
        return BudgetExceeded(
            f"Table {charge.table!r} cannot hide rare groups any more: its delta for it is spent.",
            hint="Group only by columns whose values are public; see the schema.",
        )
    left = standing.epsilon_left
    whose = (
        f"your grant for table {charge.table!r} and purpose {charge.purpose!r}"
        if shortfall == "grant"
        else f"the budget of table {charge.table!r}, which all analysts share"
    )
    fits = f"at most epsilon {in_words(left)} more fits" if left > 0 else "nothing is left"
    ask = (
        f"Ask with epsilon {in_words(left)} or less, or ask the owner, "
        if left > 0
        else "Ask the owner, "
    )
    needed = in_words(standing.epsilon_needed(charge.loss))
    how = (
        f"{owner}, whether the table's total may be raised."
        if shortfall == "table"
        else _command(charge, owner, epsilon=needed)
    )
    return BudgetExceeded(
        f"This costs epsilon {charge.epsilon}, but {fits} in {whose}.", hint=ask + how
    )


def _command(charge: Charge, owner: str, *, epsilon: str) -> str:
    return (
        f"{owner}, to run: privnb site grant DIR {charge.analyst} --table {charge.table} "
        f"--purpose {charge.purpose} --epsilon {epsilon}"
    )
