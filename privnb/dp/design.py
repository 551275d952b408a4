"""What a regression reads of a table, and how its coefficients are told in the table's own units.

Every feature is scaled by what the schema makes public: a column with bounds to -1…1, a column with
public values to one 0 or 1 for each value but the first. So the features of one row, the 1 of the
intercept among them, have a square of their L2 norm of at most one more than there are columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from privnb.dp.bounding import UNIT, fixed_point, listed_column, value_column
from privnb.dp.grammar import read_select
from privnb.dp.literals import literal, quoted
from privnb.dp.noisy import Floats
from privnb.dp.row_reader import RowReader
from privnb.dp.rows import ColumnRef
from privnb.errors import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from privnb.computation import Scalar
    from privnb.dp.models import ModelSpec
    from privnb.dp.rows import RowExpression
    from privnb.dp.schema import Column, TableSchema

__all__ = ["Design", "Levels", "Number", "Rows", "Target", "design_of"]

Integers: TypeAlias = NDArray[np.int64]

_MOST_COEFFICIENTS = 32


@dataclass(frozen=True)
class Number:
    """A column with bounds."""

    column: Column

    @property
    def middle(self) -> float:
        """What becomes 0."""
        lower, upper = self._bounds
        return (lower + upper) / 2

    @property
    def half(self) -> float:
        """How far from there 1 is."""
        lower, upper = self._bounds
        return (upper - lower) / 2

    @property
    def _bounds(self) -> tuple[float, float]:
        bounds = self.column.bounds
        assert bounds is not None  # noqa: S101 - what made it a number
        return bounds.lower, bounds.upper

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients."""
        return (self.column.name,)

    def sql(self) -> str:
        """Write what is read of a row: the clamped value, in fixed point."""
        return quoted(value_column(self.column.name))

    def scaled(self, steps: Integers) -> list[Floats]:
        """Scale what was read to -1…1."""
        values = steps / fixed_point(self.column).scale
        return [np.clip((values - self.middle) / self.half, -1.0, 1.0)]


@dataclass(frozen=True)
class Levels:
    """A column with public values; each but the first has a coefficient."""

    column: Column
    values: tuple[Scalar, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients."""
        return tuple(f"{self.column.name} = {value}" for value in self.values[1:])

    def sql(self) -> str:
        """Write what is read of a row: which of the values, from 0; NULL for any other."""
        name = quoted(self.column.name)
        whens = " ".join(
            f"WHEN {name} = {literal(self.column.type, value)} THEN {place}"
            for place, value in enumerate(self.values)
            if value is not None
        )
        # What the owner did not declare is in no group; see `privnb.dp.bounding`.
        if self.column.values is not None:
            return f"CASE WHEN {quoted(listed_column(self.column.name))} THEN CASE {whens} END END"
        return f"CASE {whens} END"

    def scaled(self, steps: Integers) -> list[Floats]:
        """Return one column of 0 and 1 for each value but the first."""
        return [(steps == place).astype(np.float64) for place in range(1, len(self.values))]


Term: TypeAlias = Number | Levels


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the model predicts: ``value = lower + span * y``, with y as the model has it.

    Attributes
    ----------
    name
        In words for people.
    sql
        What is read of a row, in steps of ``1 / scale``.
    top
        The largest y there can be.
    """

    name: str
    sql: str
    scale: float = 1.0
    lower: float = 0.0
    span: float = 1.0
    top: float = 1.0
    column: Column | None = None

    def scaled(self, steps: Integers) -> Floats:
        """Return y."""
        values: Floats = (steps / self.scale - self.lower) / self.span
        return np.clip(values, 0.0, self.top)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a site keeps of its rows while it trains: secret, and sorted by unit.

    Attributes
    ----------
    features
        One array per coefficient, the intercept's first.
    starts
        Where the rows of each unit begin.
    """

    features: tuple[Floats, ...]
    target: Floats
    starts: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Target and features of one model over one table; holds no data."""

    schema: TableSchema
    target: Target
    terms: tuple[Term, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the coefficients, the intercept first."""
        return ("intercept", *(name for term in self.terms for name in term.names))

    @property
    def largest_square(self) -> int:
        """The largest square of the L2 norm of one row's features."""
        return 1 + len(self.terms)

    @property
    def sql(self) -> str:
        """DuckDB's SQL over the bounded table: the unit, the features and the target of each row.

        Rows where one of them is missing are left out.
        """
        read = [term.sql() for term in self.terms] + [self.target.sql]
        columns = [f"{quoted(UNIT)} AS u"] + [f"{sql} AS x{n}" for n, sql in enumerate(read)]
        present = " AND ".join(f"x{n} IS NOT NULL" for n in range(len(read)))
        names = ", ".join(f"x{n}" for n in range(len(read)))
        return (
            f"SELECT u, {names}\n"
            f"FROM (SELECT {', '.join(columns)}\nFROM {quoted(self.schema.name)})\nWHERE {present}"
        )

    def rows(self, found: Iterable[Sequence[object]]) -> Rows:
        """Scale what `sql` returned."""
        numbers: dict[object, int] = {}
        read = [(numbers.setdefault(row[0], len(numbers)), *row[1:]) for row in found]
        width = len(self.terms) + 2
        table = np.array(read, dtype=np.int64).reshape(-1, width)
        table = table[np.argsort(table[:, 0], kind="stable")]
        starts = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
        features = [np.ones(len(table))]
        for place, term in enumerate(self.terms, start=1):
            features += term.scaled(table[:, place])
        return Rows(tuple(features), self.target.scaled(table[:, -1]), starts)

    @cached_property
    def own_units(self) -> tuple[Floats, Floats]:
        """The matrix and the vector that bring coefficients into the table's own units."""
        size = len(self.names)
        matrix, shift = np.eye(size), np.zeros(size)
        place = 1
        for term in self.terms:
            if isinstance(term, Number):
                matrix[place, place] = 1 / term.half
                matrix[0, place] = -term.middle / term.half
            place += len(term.names)
        shift[0] = self.target.lower
        return matrix * self.target.span, shift


def design_of(spec: ModelSpec, schema: TableSchema) -> Design:
    """Find target and features in the schema.

    Raises
    ------
    QueryRefused
        E_NO_COLUMN, E_PRIVACY_UNIT, E_NO_BOUNDS for a column with neither bounds nor public values,
        E_MODEL for a target that the model cannot have.
    """
    reader = RowReader(schema, None)
    terms = tuple(_term(reader.column(exp.column(name.strip()))) for name in spec.features)
    design = Design(schema=schema, target=_target(spec, reader), terms=terms)
    if len(design.names) > _MOST_COEFFICIENTS:
        raise QueryRefused(
            f"The model has {len(design.names)} coefficients; at most {_MOST_COEFFICIENTS} are"
            " estimated.",
            hint="Name fewer features, or columns with fewer public values.",
            code="E_MODEL",
        )
    return design


def _term(column: Column) -> Term:
    if column.bounds is not None:
        return Number(column)
    values = ColumnRef(column).domain
    if values is None:
        raise QueryRefused(
            f"Column {column.name!r} has neither bounds nor public values, so nobody can tell how"
            " much one person can move a model with it.",
            hint="Name other features, or ask the owner to declare one of these.",
            code="E_NO_BOUNDS",
        )
    if len(values) <= 1:
        raise QueryRefused(
            f"Column {column.name!r} has only one public value, so it explains nothing.",
            hint="Leave it out.",
            code="E_MODEL",
        )
    return Levels(column, values)


def _target(spec: ModelSpec, reader: RowReader) -> Target:
    read = _read(spec.target, reader)
    if not isinstance(read, ColumnRef):
        if spec.model != "logistic":
            raise _no_target(spec, "is no column", "Only logistic takes a condition.")
        return _condition(spec.target, read)
    column = read.column
    if spec.model == "logistic":
        return _binary(spec, column, read)
    if column.bounds is None:
        raise QueryRefused(
            f"The target {column.name!r} has no bounds, so nobody can tell how much one person can"
            " move a model of it.",
            hint="Name a column with bounds, or ask the owner to declare them.",
            code="E_NO_BOUNDS",
        )
    point, (lower, upper) = fixed_point(column), (column.bounds.lower, column.bounds.upper)
    sql = quoted(value_column(column.name))
    if spec.model == "poisson":
        if lower < 0:
            raise _no_target(spec, f"can be {lower:g}", "Poisson is for counts: bounds from 0.")
        return Target(name=column.name, sql=sql, scale=point.scale, top=upper, column=column)
    return Target(
        name=column.name,
        sql=sql,
        scale=point.scale,
        lower=lower,
        span=upper - lower,
        column=column,
    )


def _read(text: str, reader: RowReader) -> RowExpression:
    select = read_select(f"SELECT COUNT(*) FROM t GROUP BY {text}")  # noqa: S608 - read, never run
    group = select.args["group"].expressions
    extra = [name for name in ("having", "order", "limit", "where") if select.args.get(name)]
    if len(group) != 1 or extra or isinstance(group[0], exp.Literal):
        raise QueryRefused(
            f"The target {text!r:.60} is neither a column nor a condition.",
            hint="Name a column; for logistic also a condition like visits > 0.",
            code="E_MODEL",
        )
    node = group[0]
    return ColumnRef(reader.column(node)) if isinstance(node, exp.Column) else reader.read(node)


def _condition(text: str, read: RowExpression) -> Target:
    if read.type != "boolean":
        raise QueryRefused(
            f"The target {text!r:.60} is neither a column nor a condition.",
            hint="Compare it with something, like visits > 0.",
            code="E_MODEL",
        )
    sql = read.sql()
    return Target(
        name=" ".join(text.split()), sql=f"CASE WHEN {sql} THEN 1 WHEN NOT {sql} THEN 0 END"
    )


def _binary(spec: ModelSpec, column: Column, read: ColumnRef) -> Target:
    bounds = column.bounds
    if column.type == "integer" and bounds is not None and (bounds.lower, bounds.upper) == (0, 1):
        point = fixed_point(column)
        sql = quoted(value_column(column.name))
        return Target(name=column.name, sql=sql, scale=point.scale, column=column)
    values = read.domain
    if bounds is None and values is not None and len(values) == 2:  # noqa: PLR2004 - yes or no
        name = column.name if column.type == "boolean" else f"{column.name} = {values[1]}"
        return Target(name=name, sql=Levels(column, values).sql(), column=column)
    raise _no_target(
        spec,
        "has more than two values",
        f"Take a condition, like {column.name} > 0; or a column that is 0 or 1, or true or false.",
    )


def _no_target(spec: ModelSpec, problem: str, hint: str) -> QueryRefused:
    return QueryRefused(
        f"The target {spec.target!r:.60} of a {spec.model} model {problem}.",
        hint=hint,
        code="E_MODEL",
    )
