"""What a session asks several sites together: totals, and training, of which only sums are seen."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from privnb import wire
from privnb.errors import PrivnbError, QueryRefused
from privnb.federated_questions import (
    Roster,
    model_computation,
    require_trainer,
    require_training,
    roster,
    totals_computation,
    training_computation,
    would_refuse,
)
from privnb.questions import require_table
from privnb.release import Estimates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from decimal import Decimal

    from privnb.computation import Computation, Parameters
    from privnb.datasite.ports import AnalystPort, SiteCard
    from privnb.directory import Directory
    from privnb.dispatch import Dispatch
    from privnb.dp.training import ModelSpec
    from privnb.federated.local_app import LocalApp
    from privnb.federated.opening import Opening
    from privnb.federated.runs import FederatedRun
    from privnb.messages import SiteDescription
    from privnb.preview import Preview
    from privnb.release import Estimate
    from privnb.store import Store

__all__ = ["AsksTogether"]

_TOTALS_SECONDS = 120.0
_MODEL_SECONDS = 120.0
_TRAINING_SECONDS = 600.0
_BESIDE_TRAINING = 60.0
"""What a round may take longer than the longest steps of a site."""


class AsksTogether:
    """The part of `privnb.session.Session` that is about several sites as one."""

    email: str
    _directory: Directory
    _dispatch: Dispatch
    _datasite: AnalystPort
    _store: Store

    def totals(  # noqa: PLR0913 - keywords, each one part of the question
        self,
        sql: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal,
        purpose: str,
        params: Parameters | None = None,
        threshold: int | None = None,
        colluding: int = 0,
        deadline: float = _TOTALS_SECONDS,
        mock: bool = False,
    ) -> FederatedRun:
        """Ask sites for a protected answer over all of them, of which only the total is seen.

        Parameters
        ----------
        sql
            One SELECT, as in `secure`; its groups have to be public. Where the sites declare
            different values, each answers for those of all.
        sites
            Names of the sites; each decides, and charges, for itself.
        epsilon
            The privacy loss offered to each site, 0.0001 to 20.
        purpose
            What the answer is for.
        params
            Values for ``:name`` in the SQL.
        threshold
            How many sites have to be in the total; None: as few as the sites allow.
        colluding
            How many sites that tell the analyst all they see must do no harm.
        deadline
            Seconds to wait for sites that have gone.
        mock
            Ask the sites' mock twins instead: synthetic rows, nothing spent, nothing real.

        Returns
        -------
        FederatedRun
            A handle; ``.result()`` waits for the release.

        Raises
        ------
        UnknownName
            No such site.
        QueryRefused
            The question makes no sense, or the sites publish what it is about differently.
        RequestRefused
            A site does not compute together with others, or not with one of these.
        BudgetExceeded
            The budget is too small at sites, which are named; nothing is charged anywhere.
        NotAPeer, KeyChanged
            A site has not accepted us, or shows another key than before.

        Examples
        --------
        >>> run = session.totals(
        ...     "SELECT plan_type, COUNT(*) AS n FROM visits GROUP BY plan_type",
        ...     sites=["northside", "riverside", "lakeside"],
        ...     epsilon=1,
        ...     purpose="utilisation-research",
        ... )  # doctest: +SKIP
        >>> run.result(timeout=60).df  # doctest: +SKIP
        """
        chosen = self._directory.chosen(sites)
        self._require_purpose(purpose, chosen, mock=mock)
        who, computation, plans = self._totals(
            sql,
            chosen,
            epsilon=epsilon,
            purpose=None if mock else purpose,
            params=params,
            threshold=threshold,
            colluding=colluding,
        )
        table = next(iter(plans.values())).table
        if not mock:
            self._require_paid(chosen, computation)
        return self._begin(
            chosen, who, computation, table=table, deadline=deadline, mock=mock, start={}
        )

    def estimate_totals(  # noqa: PLR0913 - what `totals` takes
        self,
        sql: str,
        *,
        sites: Sequence[str],
        epsilon: float | str | Decimal,
        purpose: str | None = None,
        params: Parameters | None = None,
        threshold: int | None = None,
        colluding: int = 0,
    ) -> Estimates:
        """Learn the price and the expected error of a total. Costs nothing, touches no data.

        Beside each error stands what it would be if every site were asked alone.
        """
        from privnb.dp.sharing import estimate_total  # noqa: PLC0415 - it reads SQL

        chosen = self._directory.chosen(sites)
        who, computation, plans = self._totals(
            sql,
            chosen,
            epsilon=epsilon,
            purpose=purpose,
            params=params,
            threshold=threshold,
            colluding=colluding,
        )
        pieces = who.federation().pieces
        return self._estimated(chosen, computation, estimate_total(plans, pieces=pieces))

    def train(  # noqa: PLR0913 - keywords, each one part of the question
        self,
        source: str,
        *,
        sites: Sequence[str],
        tables: Sequence[str],
        purpose: str,
        rounds: int,
        strategy: Any = "fedavg",
        strategy_options: Mapping[str, str] | None = None,
        params: Parameters | None = None,
        threshold: int | None = None,
        colluding: int = 0,
        deadline: float | None = None,
        mock: bool = False,
    ) -> FederatedRun:
        """Train a model of yours over sites, of whose updates only the weighted mean is seen.

        People at each site, or a rule of its owner's, approve of the code before it runs there.
        The sums are exact: they have no noise.

        Parameters
        ----------
        source
            A Flower app in a cell: it makes ``app``, a ``flwr.clientapp.ClientApp``, and
            ``initial``, the arrays that training begins with, as a list or a dict. In the app,
            ``context.node_config["tables"]`` has the tables as pandas frames. A site runs it on
            its mock twin first: metrics have to have the names that they have there.
        sites
            Names of the sites; each decides for itself.
        tables
            The tables that the app gets.
        purpose
            What the model is for.
        rounds
            How many rounds there are.
        strategy
            What puts the rounds together: ``fedavg``, ``fedprox``, ``fedavgm``, ``fedadagrad``,
            ``fedadam``, ``fedyogi``, or an instance of a class derived from Flower's ``FedAvg``.
        strategy_options
            Options of a strategy by name, as text: ``{"proximal-mu": "0.1"}``.
        params
            Variables that the cell finds: JSON scalars, or lists of them.
        threshold, colluding
            As in `totals`.
        deadline
            Seconds that a round may take; by default what the slowest site allows, and a minute.
        mock
            Train on the sites' mock twins instead: synthetic rows, nothing real.

        Raises
        ------
        QueryRefused
            The cell does not run here, or makes no app; the strategy cannot work on a sum.
        UnknownName, RequestRefused, NotAPeer, KeyChanged
            As in `totals`.
        """
        run_here = _runner()
        chosen = self._directory.chosen(sites)
        self._require_purpose(purpose, chosen, mock=mock)
        who, computation = self._training(
            source,
            chosen,
            tables=tables,
            purpose=None if mock else purpose,
            rounds=rounds,
            params=params,
            threshold=threshold,
            colluding=colluding,
        )
        app = run_here(source, parameters=computation.parameters or {})
        name, options, instance = _strategy(strategy, strategy_options, sites=len(chosen))
        seconds = deadline if deadline is not None else self._longest_step(chosen)
        return self._begin(
            chosen,
            who,
            computation,
            deadline=seconds,
            mock=mock,
            start=app.initial,
            plan={
                "strategy": name,
                "options": options,
                "by_name": app.by_name,
                "evaluates": app.evaluates,
            },
            strategy=instance,
        )

    def preview_training(  # noqa: PLR0913 - what `train` takes
        self,
        source: str,
        *,
        sites: Sequence[str],
        tables: Sequence[str],
        rounds: int,
        purpose: str | None = None,
        strategy: Any = "fedavg",
        strategy_options: Mapping[str, str] | None = None,
        params: Parameters | None = None,
        threshold: int | None = None,
        colluding: int = 0,
    ) -> Preview:
        """Tell what would become of a training at each site. Costs nothing, touches no data."""
        from privnb.preview import Preview  # noqa: PLC0415 - only here

        run_here = _runner()
        chosen = self._directory.chosen(sites)
        self._directory.describe()
        _, computation = self._training(
            source,
            chosen,
            tables=tables,
            purpose=purpose,
            rounds=rounds,
            params=params,
            threshold=threshold,
            colluding=colluding,
        )
        run_here(source, parameters=computation.parameters or {})
        _strategy(strategy, strategy_options, sites=len(chosen))
        return Preview(computation=computation, sites=self._directory.recalled(chosen))

    def train_model(  # noqa: PLR0913 - keywords, each one part of the question
        self,
        model: Literal["linear", "logistic", "poisson"],
        *,
        target: str,
        features: Sequence[str],
        table: str,
        sites: Sequence[str],
        purpose: str,
        epsilon: float | str | Decimal,
        rounds: int = 30,
        threshold: int | None = None,
        colluding: int = 0,
        deadline: float = _MODEL_SECONDS,
        mock: bool = False,
    ) -> FederatedRun:
        """Train a model of ours over sites, under differential privacy of their single units.

        No code of yours runs at the sites, so that no human has to look at it: each row's part is
        limited, each site adds its piece of the noise, and the whole is paid from your budget.

        Parameters
        ----------
        model
            ``linear``, ``logistic`` or ``poisson``.
        target, features
            Columns of the table; their bounds have to be declared.
        epsilon
            The privacy loss offered to each site for all rounds.
        rounds
            How many steps are taken; each has its share of the budget.
        sites, purpose, threshold, colluding, deadline, mock
            As in `totals`.

        Returns
        -------
        FederatedRun
            Its release has the coefficients, in the units of the data.
        """
        chosen = self._directory.chosen(sites)
        self._require_purpose(purpose, chosen, mock=mock)
        who, computation, plans = self._model(
            _spec(model, target=target, features=features),
            chosen,
            table=table,
            purpose=None if mock else purpose,
            epsilon=epsilon,
            rounds=rounds,
            threshold=threshold,
            colluding=colluding,
        )
        first = next(iter(plans.values()))
        if not mock:
            self._require_paid(chosen, computation)
        return self._begin(
            chosen,
            who,
            computation,
            table=table,
            deadline=deadline,
            mock=mock,
            start={"parameters": first.start},
        )

    def estimate_model(  # noqa: PLR0913 - what `train_model` takes
        self,
        model: Literal["linear", "logistic", "poisson"],
        *,
        target: str,
        features: Sequence[str],
        table: str,
        sites: Sequence[str],
        epsilon: float | str | Decimal,
        purpose: str | None = None,
        rounds: int = 30,
        threshold: int | None = None,
        colluding: int = 0,
    ) -> Estimates:
        """Learn the price of a model and the noise in it. Costs nothing, touches no data."""
        chosen = self._directory.chosen(sites)
        _, computation, plans = self._model(
            _spec(model, target=target, features=features),
            chosen,
            table=table,
            purpose=purpose,
            epsilon=epsilon,
            rounds=rounds,
            threshold=threshold,
            colluding=colluding,
        )
        first = next(iter(plans.values()))
        return self._estimated(chosen, computation, first.estimate())

    # What they share

    @cached_property
    def _opening(self) -> Opening:
        from privnb.federated.opening import Opening  # noqa: PLC0415 - numpy is slow to load

        return Opening(
            self.email, datasite=self._datasite, store=self._store, dispatch=self._dispatch
        )

    def _require_purpose(self, purpose: str, chosen: Mapping[str, SiteCard], *, mock: bool) -> None:
        if not mock:
            self._require_a_purpose(purpose, chosen)

    def _require_a_purpose(self, purpose: str, chosen: Mapping[str, SiteCard]) -> None:
        raise NotImplementedError

    def _totals(
        self,
        sql: str,
        chosen: Mapping[str, SiteCard],
        *,
        threshold: int | None,
        colluding: int,
        **question: Any,
    ) -> tuple[Roster, Computation, Mapping[str, Any]]:
        def agreed(
            described: Mapping[str, SiteDescription],
        ) -> tuple[Roster, Computation, Mapping[str, Any]]:
            who = roster(described, exact=False, threshold=threshold, colluding=colluding)
            return who, *totals_computation(sql, described, who, **question)

        return self._directory.agreeing(chosen, agreed)

    def _model(
        self,
        spec: ModelSpec,
        chosen: Mapping[str, SiteCard],
        *,
        threshold: int | None,
        colluding: int,
        **question: Any,
    ) -> tuple[Roster, Computation, Mapping[str, Any]]:
        def agreed(
            described: Mapping[str, SiteDescription],
        ) -> tuple[Roster, Computation, Mapping[str, Any]]:
            for site, description in described.items():
                require_trainer(site, description, model=spec.model)
            who = roster(described, exact=False, threshold=threshold, colluding=colluding)
            return who, *model_computation(spec, described, who, **question)

        return self._directory.agreeing(chosen, agreed)

    def _training(
        self,
        source: str,
        chosen: Mapping[str, SiteCard],
        *,
        tables: Sequence[str],
        threshold: int | None,
        colluding: int,
        **question: Any,
    ) -> tuple[Roster, Computation]:
        names = [tables] if isinstance(tables, str) else list(dict.fromkeys(tables))
        if not names:
            require_training(source, tables=(), parameters=question.get("params") or {})
            described = self._directory.recalled(chosen).values()
            known = [{table.name for table in each.tables} for each in described]
            common = set.intersection(*known) if known else set()
            example = min(common, default="TABLE")
            raise QueryRefused(
                "No table was named.",
                hint=f"Add --table {example} (in Python tables=[{example!r}]); repeat it for more.",
                code="E_NO_TABLE",
            )

        def agreed(described: Mapping[str, SiteDescription]) -> Roster:
            for site, description in described.items():
                require_trainer(site, description, model=None)
                for table in names:
                    require_table(site, description, table)
            return roster(described, exact=True, threshold=threshold, colluding=colluding)

        who = self._directory.agreeing(chosen, agreed)
        return who, training_computation(source, who=who, tables=names, **question)

    def _longest_step(self, chosen: Mapping[str, SiteCard]) -> float:
        offers = [d.python for d in self._directory.recalled(chosen).values()]
        longest = max((offer.seconds for offer in offers if offer), default=0)
        # The first round is also done on the mock twin.
        return max(_TRAINING_SECONDS, 2 * longest + _BESIDE_TRAINING)

    def _begin(  # noqa: PLR0913 - keywords, each one part of the run
        self,
        chosen: Mapping[str, SiteCard],
        who: Roster,
        computation: Computation,
        *,
        deadline: float,
        mock: bool,
        start: Mapping[str, Any],
        table: str = "",
        plan: Mapping[str, Any] | None = None,
        strategy: Any = None,
    ) -> FederatedRun:
        from privnb.federated.history import Checkpoint, RunPlan  # noqa: PLC0415 - numpy is slow

        described = self._directory.recalled(chosen)
        first = next(iter(described.values()))
        planned = RunPlan(
            names=dict(who.names),
            min_sites=who.min_sites,
            deadline=deadline,
            schemas=tuple(schema for schema in first.tables if schema.name == table),
            **(plan or {}),
        )
        return self._opening.begin(
            "mock" if mock else "run",
            _owners(chosen),
            computation,
            plan=planned,
            start=Checkpoint(round=0, arrays=start),
            strategy=strategy,
        )

    def _estimated(
        self, chosen: Mapping[str, SiteCard], computation: Computation, whole: Estimate
    ) -> Estimates:
        """Put together what the whole is expected to be, and whether every site would be paid."""
        replies = self._dispatch.answers("estimate", chosen, computation)
        problems = {s: reply for s, reply in replies.items() if isinstance(reply, PrivnbError)}
        paid = [
            reply.estimate.affordable
            for reply in replies.values()
            if not isinstance(reply, PrivnbError) and reply.estimate is not None
        ]
        affordable = False if False in paid else None if None in paid or problems else True
        whole = dataclasses.replace(whole, affordable=affordable)
        priced = {site: reply for site, reply in replies.items() if site not in problems}
        refusal = would_refuse(priced, epsilon=whole.epsilon, owners=_owners(chosen))
        name = " + ".join(chosen)
        return Estimates(
            by_site={name: whole},
            problems=problems,
            refusals={} if refusal is None else {name: refusal},
        )

    def _require_paid(self, chosen: Mapping[str, SiteCard], computation: Computation) -> None:
        """Refuse what a site would refuse, before any other is charged for it.

        A site that is silent now, or whose budget is spent in the next moment, may say no itself.
        """
        replies = self._dispatch.answers("estimate", chosen, computation)
        refusal = would_refuse(replies, epsilon=computation.epsilon or "", owners=_owners(chosen))
        if refusal is not None:
            raise refusal


def _owners(chosen: Mapping[str, SiteCard]) -> Mapping[str, str]:
    return {name: card.owner for name, card in chosen.items()}


def _runner() -> Callable[..., LocalApp]:
    """Return what runs a training cell here; raises `QueryRefused` without Flower."""
    try:
        from privnb.federated.local_app import run_here  # noqa: PLC0415 - Flower takes long
    except ModuleNotFoundError:
        raise QueryRefused(
            "Training needs Flower, which is not installed here.",
            hint="Run: pip install 'privnb[federated]'",
            code="E_NO_FLOWER",
        ) from None
    return run_here


def _spec(model: str, *, target: str, features: Sequence[str]) -> ModelSpec:
    from privnb.dp.training import ModelSpec  # noqa: PLC0415 - OpenDP is slow to load

    named = [features] if isinstance(features, str) else list(features)
    said = {"model": model, "target": target, "features": named}
    return ModelSpec.read(wire.canonical_json(said).decode())


def _strategy(
    strategy: Any, options: Mapping[str, str] | None, *, sites: int
) -> tuple[str, dict[str, str] | None, Any]:
    """Return the name of a strategy, its options, and the instance if one was given."""
    from privnb.federated.strategies import made, prepare  # noqa: PLC0415 - Flower takes long

    if isinstance(strategy, str):
        chosen = dict(options or {})
        prepare(made(strategy, chosen), sites=sites)
        return strategy, chosen, None
    if options:
        raise QueryRefused(
            "Options are for strategies by name; this one is an instance.",
            hint="Give them to the class: FedAdam(eta=0.01).",
            code="E_STRATEGY",
        )
    return type(strategy).__name__, None, prepare(strategy, sites=sites)
