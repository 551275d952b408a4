"""Runs a plan next to the data, and says truthfully what its result protects."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from privnb.computation import Computation, Parameters, parse_epsilon
from privnb.dp.accounting import accounting_of
from privnb.errors import QueryRefused, UnknownName
from privnb.release import Answer, PrivacyLabel
from privnb.site.ledger import (
    DELTA_UNIT,
    LOSS_UNIT,
    Charge,
    Terms,
    in_words,
    terms_of,
    units_up,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from privnb.computation import Federation
    from privnb.dp.accounting import Price
    from privnb.dp.plan import Plan
    from privnb.dp.schema import TableSchema
    from privnb.dp.training import TrainingPlan
    from privnb.messages import Budget
    from privnb.site.config import SiteConfig

__all__ = ["Engine", "OpenTables", "Planner", "Priced", "budget_in_words"]

_DEFAULT_EPSILON = Decimal(1)


class OpenTables(Protocol):
    """The bounded tables of a site, and their mock twins; see `privnb.site.data.tables`."""

    def stream(
        self, sql: str, *, mock: bool = False, purpose: str | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Run SQL that a plan wrote; returns small aggregates, exact and therefore secret.

        Where data subjects consent, only those count whose consent covers the purpose.
        """
        ...

    def population(self, table: str, purpose: str) -> str:
        """Say how consent restricted who is counted; empty where it does not."""
        ...

    def restriction(self, table: str, purpose: str) -> str:
        """Say the same of what was computed at several times."""
        ...

    def consenting(self, table: str, *, purpose: str) -> pa.Table | None:
        """Return who consents now; None for a table without a consent register."""
        ...

    def close(self) -> None:
        """Let go of the data."""
        ...


class Planner(Protocol):
    """Checks a question and fixes its mechanism; `privnb.dp.planner.plan` is the one we have."""

    def __call__(
        self,
        sql: str,
        *,
        tables: Mapping[str, TableSchema],
        parameters: Parameters,
        epsilon: Decimal,
        federation: Federation | None = None,
    ) -> Plan:
        """Plan, or raise `QueryRefused`."""
        ...


class Priced(Protocol):
    """What has a price in privacy loss, for one table."""

    @property
    def schema(self) -> TableSchema:
        """The table."""
        ...

    @property
    def price(self) -> Price:
        """The loss of all of it."""
        ...


class Engine:
    """Plans and runs DP SQL over the tables of one site.

    What it computes from data has noise on it before it leaves `run`.
    """

    def __init__(
        self, config: SiteConfig, tables: OpenTables, *, planner: Planner | None = None
    ) -> None:
        if planner is None:
            from privnb.dp.planner import plan  # noqa: PLC0415 - OpenDP takes seconds

            planner = plan
        self._planner: Planner = planner
        self._tables = tables
        self.schemas: Mapping[str, TableSchema] = {
            table.schema.name: table.schema for table in config.tables
        }
        self.terms: Mapping[str, Terms] = terms_of(config)

    def warm(self) -> None:
        """Load what the first query would wait for: the planner, OpenDP, the database engine."""
        for name in self.schemas:
            computation = Computation(kind="sql", source=f"SELECT COUNT(*) AS n FROM {name}")  # noqa: S608 - checked names
            self.mock(self.plan(computation, free=True))

    def plan(self, computation: Computation, *, free: bool = False) -> Plan:
        """Check a question and fix its mechanism and price; no data is touched.

        Parameters
        ----------
        free
            The question is never charged, so it may come without an epsilon.

        Raises
        ------
        QueryRefused
            The question is outside the subset, or no epsilon was given; depends only on the
            question and the public schema.
        """
        asked = computation.epsilon
        epsilon = _DEFAULT_EPSILON if free and asked is None else parse_epsilon(asked)
        return self._planner(
            computation.source,
            tables=self.schemas,
            parameters=computation.parameters or {},
            epsilon=epsilon,
            federation=computation.federation,
        )

    def plan_model(self, computation: Computation, *, free: bool = False) -> TrainingPlan:
        """Check a model that several sites are to train, and fix its mechanism and price.

        Raises
        ------
        QueryRefused, UnknownName
            It cannot be trained; depends only on the computation and the public schema.
        """
        from privnb.dp.training import ModelSpec, plan_training  # noqa: PLC0415 - OpenDP is slow

        table = ", ".join(computation.tables or ())
        if table not in self.schemas:
            raise UnknownName.among("table", table, self.schemas, code="E_NO_TABLE")
        asked, federation = computation.epsilon, computation.federation
        if federation is None:
            raise QueryRefused("A model is trained over several sites.", hint="Name them.")
        return plan_training(
            ModelSpec.read(computation.source),
            schema=self.schemas[table],
            epsilon=_DEFAULT_EPSILON if free and asked is None else parse_epsilon(asked),
            federation=federation,
        )

    def charge(
        self, plan: Priced, computation: Computation, *, analyst: str, request: str
    ) -> Charge:
        """Say what a plan costs."""
        price = plan.price
        return Charge(
            table=plan.schema.name,
            analyst=analyst,
            purpose=computation.purpose or "",
            request=request,
            digest=computation.digest,
            accounting=plan.schema.accounting,
            loss=units_up(price.loss, LOSS_UNIT),
            delta=units_up(price.delta, DELTA_UNIT),
            epsilon=in_words(price.epsilon),
        )

    def run(self, plan: Plan, *, purpose: str) -> Answer:
        """Compute on the data and add the noise that the plan promises."""
        return plan.release(self._tables.stream(plan.sql, purpose=purpose))

    def mock(self, plan: Plan) -> Answer:
        """Compute on the mock twin, with the same noise."""
        return plan.release(self._tables.stream(plan.sql, mock=True))

    def rows(self, sql: str, *, purpose: str, mock: bool) -> Iterator[tuple[Any, ...]]:
        """Run SQL that a plan wrote, on the data or on the mock twin; from any thread.

        What it returns is as secret as the data.
        """
        if mock:
            return self._tables.stream(sql, mock=True)
        return self._tables.stream(sql, purpose=purpose)

    def consenting(self, table: str, purpose: str) -> pa.Table | None:
        """Return who consents now; None for a table without a consent register."""
        return self._tables.consenting(table, purpose=purpose)

    def restriction(self, table: str, purpose: str) -> str:
        """Say how consent restricted who was counted, at several times."""
        return self._tables.restriction(table, purpose)

    def label(self, plan: Plan, budget: Budget) -> PrivacyLabel:
        """Describe a charged release."""
        schema = plan.schema
        return PrivacyLabel(
            mechanism=plan.mechanism,
            epsilon=in_words(plan.price.epsilon),
            delta=plan.delta,
            unit=_unit(schema),
            clamps=tuple(plan.clamps),
            budget=budget_in_words(schema, budget),
            not_protected=_not_protected(schema),
            population=self._tables.population(schema.name, budget.purpose),
        )

    def mock_label(self, plan: Plan) -> PrivacyLabel:
        """Describe an answer from the mock twin."""
        return PrivacyLabel(
            mechanism=plan.mechanism,
            epsilon="0",
            delta="0",
            unit=_unit(plan.schema),
            clamps=tuple(plan.clamps),
            budget="nothing was spent",
            not_protected=("The rows are made up from the schema alone: nothing here is real.",),
            mock=True,
        )

    def close(self) -> None:
        """Let go of the data."""
        self._tables.close()


def budget_in_words(schema: TableSchema, budget: Budget) -> str:
    """Say what is left of a grant after a release that it paid for."""
    spent = accounting_of(schema).in_words(budget.epsilon_spent)
    return (
        f"epsilon {budget.epsilon_left} of {budget.epsilon_granted} left "
        f"for {budget.purpose}; spent: {spent}"
    )


def _unit(schema: TableSchema) -> str:
    return f"one {schema.unit_name} (all their rows in {schema.name})"


def _not_protected(schema: TableSchema) -> tuple[str, ...]:
    unit = schema.unit_name
    return (
        "Releases add up: together they reveal what your budget shows as spent.",
        "Releases of other analysts from this table add to yours, if you put them together.",
        f"Facts about groups are not hidden, only whether any one {unit} is in the table.",
        f"The same {unit} in another table, or at another site, is not accounted for.",
        f"No claim of anonymity: bounded is what the answer adds to what is known of a {unit}.",
        "Nothing is promised about how long the answer took.",
    )
