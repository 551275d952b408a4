"""What an analyst asks several sites together, once it makes sense by itself and to all of them.

What a site would refuse for what it says about itself is refused here, before anything is sent, and
with words that name both sites where it takes two.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, TypeVar

from privnb.computation import Computation, Federation, Parameters, Scalar, parse_epsilon
from privnb.errors import (
    BudgetExceeded,
    PrivnbError,
    QueryRefused,
    RequestRefused,
    UnknownName,
    error_from_code,
)
from privnb.python_cell import names_bound, require_code
from privnb.questions import checked_parameters, require_table, sql_computation
from privnb.replies import refusal_of
from privnb.wording import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from privnb.dp.plan import Plan
    from privnb.dp.training import ModelSpec, TrainingPlan
    from privnb.messages import FederatedOffer, Reply, SiteDescription

__all__ = [
    "Roster",
    "model_computation",
    "require_together",
    "require_trainer",
    "require_training",
    "roster",
    "totals_computation",
    "training_computation",
    "would_refuse",
]

T = TypeVar("T")
U = TypeVar("U")

_MOST_ROUNDS = 1000
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


@dataclass(frozen=True, kw_only=True)
class Roster:
    """Which sites compute together, under which conditions."""

    names: Mapping[str, str]
    """By verifier key, the name of the site; sorted by key."""
    threshold: int
    colluding: int
    min_sites: int
    """How many sites have to be in every round; the strictest of them says so."""

    def federation(
        self, *, rounds: int = 1, groups: dict[str, list[Scalar]] | None = None
    ) -> Federation:
        """Say it in a computation, where every site can check it."""
        return Federation(
            sites=tuple(self.names),
            threshold=self.threshold,
            colluding=self.colluding,
            rounds=rounds,
            groups=groups or None,
        )


def require_together(site: str, description: SiteDescription) -> None:
    """Make sure that a site computes together with others at all, as far as it says."""
    if description.federated is None:
        raise RequestRefused(
            f"{site} computes nothing together with other sites.",
            hint=f"Ask its owner for a [federated] section in site.toml: {description.owner}",
            code="E_NO_FEDERATION",
        )


def require_trainer(site: str, description: SiteDescription, *, model: str | None) -> None:
    """Make sure that a site trains a model of ours, or the analyst's own code if it is None."""
    require_together(site, description)
    offer = description.federated
    if offer is None or (model is None and description.python is not None and offer.training):
        return
    if model is None:
        raise RequestRefused(
            f"{site} trains no models by code of analysts.",
            hint="Ask for a model of privnb's: --model (in Python session.train_model), or ask its"
            " owner for [python] and [review] sections in site.toml.",
            code="E_NO_PYTHON",
        )
    if model not in offer.models:
        raise UnknownName.among("model", model, offer.models, code="E_NO_MODEL")


def roster(
    described: Mapping[str, SiteDescription],
    *,
    exact: bool,
    threshold: int | None = None,
    colluding: int = 0,
) -> Roster:
    """Choose the conditions under which all of these sites compute together.

    Parameters
    ----------
    described
        By name, what each site says about itself.
    exact
        Whether their parts have no noise: then each needs another honest one to be hidden behind.
    threshold
        How many sites have to be in every sum; None: the fewest that are allowed.
    colluding
        How many sites that work with the analyst must do no harm; more, where a site wants that.

    Raises
    ------
    RequestRefused
        A site does not compute together with others, or not with one of these, or not so few; it
        says whose owner can change that, and how.
    """
    offers: dict[str, FederatedOffer] = {}
    for site, description in described.items():
        require_together(site, description)
        if description.federated is not None:
            offers[site] = description.federated
    _require_partners(described, offers)
    count = len(described)
    strictest = max(offers, key=lambda site: offers[site].min_sites)
    min_sites = offers[strictest].min_sites
    if count < min_sites:
        raise RequestRefused(
            f"{strictest} takes part with at least {min_sites} sites, and {count} are named.",
            hint="Name more sites with --site (in Python sites=[…]).",
            code="E_THRESHOLD",
        )
    colluding = max(colluding, *(offer.colluding for offer in offers.values()))
    summed = max(offer.min_summed for offer in offers.values())
    least = max((count + colluding) // 2 + 1, summed, colluding + (2 if exact else 1))
    if least > count:
        raise RequestRefused(
            f"With {count} sites of which {colluding} may collude, no sum would protect anybody.",
            hint="Name more sites with --site (in Python sites=[…]).",
            code="E_THRESHOLD",
        )
    chosen = least if threshold is None else threshold
    if not least <= chosen <= count:
        raise RequestRefused(
            f"Sums over {count} sites of which {colluding} may collude have at least {least} and at"
            f" most {count} of them, not {chosen}.",
            hint=f"Leave --threshold out, or say --threshold {least} (threshold={least}).",
            code="E_THRESHOLD",
        )
    keys = sorted((description.audit_key, site) for site, description in described.items())
    return Roster(names=dict(keys), threshold=chosen, colluding=colluding, min_sites=min_sites)


def _require_partners(
    described: Mapping[str, SiteDescription], offers: Mapping[str, FederatedOffer]
) -> None:
    for site, other in itertools.permutations(described, 2):
        key = described[other].audit_key
        if key not in offers[site].partners:
            raise RequestRefused(
                f"{site} does not compute together with {other} yet.",
                hint=f"Ask {described[site].owner} to run: privnb site partner DIR '{key}'",
                code="E_PARTNERS",
            )
    for one, other in itertools.combinations(described, 2):
        if described[one].audit_key == described[other].audit_key:
            raise RequestRefused(
                f"{one} and {other} show the same key, so they are one site.",
                hint="Name each site once.",
                code="E_PARTNERS",
            )


def would_refuse(
    replies: Mapping[str, Reply | PrivnbError], *, epsilon: str, owners: Mapping[str, str]
) -> PrivnbError | None:
    """Return why one of the sites would refuse what they were asked the price of; None: none would.

    A budget that is too small is one error for all sites at which it is: what is left at each, and
    what would fit all of them. Sites that are silent, or make no sense, are left out.

    Parameters
    ----------
    epsilon
        What is offered to each site.
    owners
        By name of the site, for who can grant more.
    """
    refusals = {site: refusal_of(reply) for site, reply in replies.items()}
    left: dict[str, Decimal] = {}
    for site, refused in refusals.items():
        fits = _left(replies[site]) if isinstance(refused, BudgetExceeded) else None
        if fits is not None and fits < Decimal(epsilon):
            left[site] = fits
        elif isinstance(refused, RequestRefused | QueryRefused):
            message = f"{site} would take no part: {refused.message}"
            return error_from_code(refused.code, message, refused.hint)
    if not left:
        return None
    said = listed(
        [f"{site} ({_number(fits) if fits else 'nothing'})" for site, fits in left.items()]
    )
    owner = listed([owners[site] for site in left])
    least = min(left.values())
    silent = any(refused is not None and site not in left for site, refused in refusals.items())
    whom = "all sites that answered" if silent else "all sites"
    less = (
        f"Ask with epsilon {_number(least)} or less, which fits {whom}, or ask" if least else "Ask"
    )
    return BudgetExceeded(
        f"This costs epsilon {epsilon} at each site, and less is left at {said}. "
        "Nothing was charged anywhere.",
        hint=f"{less} for a larger grant: {owner}.",
    )


def _left(reply: Reply | PrivnbError) -> Decimal | None:
    """Return what a site says is left of the grant that would pay; None where it makes no sense."""
    if isinstance(reply, PrivnbError) or reply.budget is None:
        return None
    left = reply.budget.epsilon_left
    return Decimal(left) if _DECIMAL.fullmatch(left) else None


def _number(epsilon: Decimal) -> str:
    return f"{epsilon.normalize():f}"


def totals_computation(  # noqa: PLR0913 - keywords, each one part of the question
    sql: str,
    described: Mapping[str, SiteDescription],
    who: Roster,
    *,
    epsilon: float | str | Decimal,
    purpose: str | None,
    params: Parameters | None,
) -> tuple[Computation, Mapping[str, Plan]]:
    """Make a question for totals, and plan it for every site, which all have to plan it alike.

    Raises `QueryRefused` where the question makes no sense, or what the sites would add up differs.
    """
    from privnb.dp.groups import columns_named, united  # noqa: PLC0415 - it reads SQL
    from privnb.dp.sharing import difference  # noqa: PLC0415 - it reads SQL

    alone = sql_computation(sql, epsilon=epsilon, purpose=purpose, params=params)
    schemas = {site: plan.schema for site, plan in _planned(alone, described).items()}
    groups = united(schemas, columns_named(sql))
    computation = replace(alone, federation=who.federation(groups=groups))
    plans = _planned(computation, described)
    _require_same(difference(plans))
    return computation, plans


def training_computation(  # noqa: PLR0913 - keywords, each one part of the question
    source: str,
    *,
    who: Roster,
    rounds: int,
    tables: Sequence[str],
    purpose: str | None,
    params: Parameters | None,
) -> Computation:
    """Make a training of the analyst's own; raises `QueryRefused`."""
    _require_rounds(rounds)
    parameters = checked_parameters(params)
    require_training(source, tables=tables, parameters=parameters or {})
    return Computation(
        kind="python",
        source=source,
        parameters=parameters,
        purpose=purpose,
        tables=tuple(tables),
        federation=who.federation(rounds=rounds),
    )


def model_computation(  # noqa: PLR0913 - keywords, each one part of the question
    spec: ModelSpec,
    described: Mapping[str, SiteDescription],
    who: Roster,
    *,
    table: str,
    rounds: int,
    epsilon: float | str | Decimal,
    purpose: str | None,
) -> tuple[Computation, Mapping[str, TrainingPlan]]:
    """Make a training of a model of ours, and plan it for every site.

    Raises `QueryRefused` where it makes no sense, or what the sites would add up differs.
    """
    from privnb.dp.groups import united  # noqa: PLC0415 - it reads SQL
    from privnb.dp.training import plan_training, training_difference  # noqa: PLC0415

    _require_rounds(rounds)
    offered = parse_epsilon(epsilon)
    schemas = {site: require_table(site, d, table) for site, d in described.items()}
    federation = who.federation(rounds=rounds, groups=united(schemas, spec.names))
    computation = Computation(
        kind="model",
        source=spec.text,
        purpose=purpose,
        epsilon=str(offered),
        tables=(table,),
        federation=federation,
    )
    plans = _each(
        schemas,
        lambda schema: plan_training(spec, schema=schema, epsilon=offered, federation=federation),
    )
    _require_same(training_difference(plans))
    return computation, plans


def require_training(source: str, *, tables: Sequence[str], parameters: Collection[str]) -> None:
    """Make sure that a cell compiles, makes an ``app``, and keeps its names apart.

    Raises `QueryRefused`: E_PYTHON for the code itself, E_OUTPUT where there is no app.
    """
    require_code(source, tables=tables, parameters=parameters)
    if "app" not in names_bound(source):
        raise QueryRefused(
            "The cell never assigns 'app', the Flower app that the sites train.",
            hint="Write: from flwr.clientapp import ClientApp; app = ClientApp()",
            code="E_OUTPUT",
        )


def _require_rounds(rounds: int) -> None:
    if not (isinstance(rounds, int) and 1 <= rounds <= _MOST_ROUNDS):
        raise QueryRefused(
            f"A run has 1 to {_MOST_ROUNDS} rounds, not {rounds!r:.40}.",
            hint="Say --rounds 10 (in Python rounds=10).",
            code="E_ROUNDS",
        )


def _planned(
    computation: Computation, described: Mapping[str, SiteDescription]
) -> Mapping[str, Plan]:
    from privnb.dp.planner import plan  # noqa: PLC0415 - it reads SQL

    def one(description: SiteDescription) -> Plan:
        return plan(
            computation.source,
            tables={schema.name: schema for schema in description.tables},
            parameters=computation.parameters,
            epsilon=parse_epsilon(computation.epsilon),
            federation=computation.federation,
        )

    return _each(described, one)


def _each(things: Mapping[str, T], plan: Callable[[T], U]) -> dict[str, U]:
    """Plan for each site; what only some of them cannot is said with their name."""
    plans: dict[str, U] = {}
    for site, thing in things.items():
        try:
            plans[site] = plan(thing)
        except QueryRefused as refused:
            if not plans:
                raise
            message = f"At {site}: {refused.message}"
            raise QueryRefused(message, hint=refused.hint, code=refused.code) from None
    return plans


def _require_same(difference: str | None) -> None:
    if difference is not None:
        raise QueryRefused(
            difference,
            hint="Ask the sites one by one with %%secure, or ask for something that both publish"
            " alike; %privnb schema TABLE shows what they say.",
            code="E_DIFFERENT",
        )
