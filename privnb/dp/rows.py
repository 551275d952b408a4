"""Expressions over single rows: what a filter or a group key may be, and its SQL.

All of them are total: no row can make one fail. Their SQL is written from these classes alone, so
no text of an analyst ever reaches the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from privnb.computation import Scalar
from privnb.dp.literals import DUCKDB_TYPES, RowType, literal, normal_key, quoted
from privnb.dp.schema import Column

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "PARTS",
    "TRUNCATIONS",
    "AllOf",
    "Among",
    "AnyOf",
    "Case",
    "ColumnRef",
    "Comparison",
    "Constant",
    "DatePart",
    "DateTrunc",
    "IsNull",
    "IsTruth",
    "Like",
    "Not",
    "RowExpression",
    "RowType",
    "columns_of",
]

PARTS: dict[str, tuple[int, int] | None] = {
    "year": None,
    "quarter": (1, 4),
    "month": (1, 12),
    "week": (1, 53),
    "day": (1, 31),
    "dayofyear": (1, 366),
    "dayofweek": (0, 6),
    "isodow": (1, 7),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
}
"""Parts of dates and times, with the range that everybody knows; None where there is none."""

TRUNCATIONS = ("year", "quarter", "month", "week", "day", "hour", "minute", "second")
"""Units to which dates and times can be cut."""

_OF_TIME = ("hour", "minute", "second")
_WILDCARDS = {"%": ".*", "_": "."}


@dataclass(frozen=True)
class ColumnRef:
    """A visible column."""

    column: Column

    @property
    def type(self) -> RowType:
        """The type of its values."""
        return self.column.type

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.column.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        return quoted(self.column.name)

    @property
    def domain(self) -> tuple[Scalar, ...] | None:
        """Its public values, in the order of the schema and without NULL; None if it has none."""
        if self.column.values is not None:
            given = (value for value in self.column.values if value is not None)
            return _distinct(normal_key(self.type, value) for value in given)
        return (False, True) if self.type == "boolean" else None


@dataclass(frozen=True)
class Constant:
    """A literal or a bound parameter; never NULL."""

    type: RowType
    value: bool | int | float | str

    nullable: ClassVar[bool] = False

    def sql(self) -> str:
        """Write it for DuckDB, typed and quoted."""
        return literal(self.type, self.value)

    @property
    def domain(self) -> tuple[Scalar, ...]:
        """Itself."""
        return (self.value,)


@dataclass(frozen=True)
class DatePart:
    """A part of a date or time as a whole number, such as its year."""

    part: str
    operand: ColumnRef

    type: ClassVar[RowType] = "integer"

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.operand.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        return f"CAST(EXTRACT({self.part} FROM {self.operand.sql()}) AS BIGINT)"

    @property
    def domain(self) -> tuple[Scalar, ...] | None:
        """Every value the part can have, where that is public knowledge."""
        known = PARTS[self.part]
        if known is not None:
            return tuple(range(known[0], known[1] + 1))
        values = self.operand.domain
        return None if values is None else _distinct(int(str(value)[:4]) for value in values)


@dataclass(frozen=True)
class DateTrunc:
    """A date or time cut to the start of its year, month and so on."""

    unit: str
    operand: ColumnRef

    @property
    def type(self) -> RowType:
        """Times keep their time of day only when cut to a unit below the day."""
        return "timestamp" if self.unit in _OF_TIME else "date"

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.operand.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        cut = f"date_trunc('{self.unit}', {self.operand.sql()})"
        return f"CAST({cut} AS {DUCKDB_TYPES[self.type]})"

    @property
    def domain(self) -> None:
        """Not known: which days occur is private unless the column itself is grouped."""
        return


class _Truth:
    """What all conditions share: they are true, false or, with missing values, NULL."""

    type: ClassVar[RowType] = "boolean"
    domain: ClassVar[tuple[Scalar, ...]] = (False, True)


@dataclass(frozen=True)
class Comparison(_Truth):
    """Two values of comparable types, compared."""

    operator: Literal["=", "<>", "<", "<=", ">", ">="]
    left: RowExpression
    right: RowExpression

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.left.nullable or self.right.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        return f"({self.left.sql()} {self.operator} {self.right.sql()})"


@dataclass(frozen=True)
class Among(_Truth):
    """A value equal to one of some constants."""

    operand: RowExpression
    constants: tuple[Constant, ...]

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.operand.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        listed = ", ".join(constant.sql() for constant in self.constants)
        return f"({self.operand.sql()} IN ({listed}))"


@dataclass(frozen=True)
class IsNull(_Truth):
    """Whether a value is missing."""

    operand: RowExpression

    nullable: ClassVar[bool] = False

    def sql(self) -> str:
        """Write it for DuckDB."""
        return f"({self.operand.sql()} IS NULL)"


@dataclass(frozen=True)
class IsTruth(_Truth):
    """Whether a condition is true, or is false; a missing value is neither."""

    operand: RowExpression
    value: bool

    nullable: ClassVar[bool] = False

    def sql(self) -> str:
        """Write it for DuckDB."""
        return f"({self.operand.sql()} IS {'TRUE' if self.value else 'FALSE'})"


@dataclass(frozen=True)
class Like(_Truth):
    """A text that matches a pattern of ``%`` and ``_``."""

    operand: RowExpression
    pattern: Constant

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.operand.nullable

    def sql(self) -> str:
        """Write it for DuckDB.

        Its LIKE tries every place for every ``%`` once there is a ``_`` too: seconds for one row of
        60 letters. Its regular expressions take a time proportional to the text.
        """
        text = str(self.pattern.value)
        if not ("%" in text and "_" in text):
            return f"({self.operand.sql()} LIKE {self.pattern.sql()})"
        expression = "".join(_WILDCARDS.get(sign) or re.escape(sign) for sign in text)
        expression = expression.replace("'", "''")
        return f"regexp_full_match({self.operand.sql()}, '{expression}', 's')"


@dataclass(frozen=True)
class Not(_Truth):
    """A condition turned round."""

    operand: RowExpression

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.operand.nullable

    def sql(self) -> str:
        """Write it for DuckDB."""
        return f"(NOT {self.operand.sql()})"


@dataclass(frozen=True)
class AllOf(_Truth):
    """Conditions joined by AND."""

    operands: tuple[RowExpression, ...]

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return any(operand.nullable for operand in self.operands)

    def sql(self) -> str:
        """Write it for DuckDB."""
        return "(" + " AND ".join(operand.sql() for operand in self.operands) + ")"


@dataclass(frozen=True)
class AnyOf(_Truth):
    """Conditions joined by OR."""

    operands: tuple[RowExpression, ...]

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return any(operand.nullable for operand in self.operands)

    def sql(self) -> str:
        """Write it for DuckDB."""
        return "(" + " OR ".join(operand.sql() for operand in self.operands) + ")"


@dataclass(frozen=True)
class Case:
    """The constant of the first condition that holds; ``otherwise`` is None for NULL."""

    branches: tuple[tuple[RowExpression, Constant | None], ...]
    otherwise: Constant | None
    type: RowType

    @property
    def nullable(self) -> bool:
        """Whether it can be NULL."""
        return self.otherwise is None or any(result is None for _, result in self.branches)

    def sql(self) -> str:
        """Write it for DuckDB."""
        nothing = f"CAST(NULL AS {DUCKDB_TYPES[self.type]})"
        whens = " ".join(
            f"WHEN {condition.sql()} THEN {nothing if result is None else result.sql()}"
            for condition, result in self.branches
        )
        otherwise = nothing if self.otherwise is None else self.otherwise.sql()
        return f"CASE {whens} ELSE {otherwise} END"

    @cached_property
    def domain(self) -> tuple[Scalar, ...]:
        """The constants, in the order written."""
        results = [result for _, result in self.branches] + [self.otherwise]
        return _distinct(normal_key(self.type, r.value) for r in results if r is not None)


RowExpression: TypeAlias = (
    ColumnRef
    | Constant
    | DatePart
    | DateTrunc
    | Comparison
    | Among
    | IsNull
    | IsTruth
    | Like
    | Not
    | AllOf
    | AnyOf
    | Case
)


def columns_of(expression: RowExpression) -> frozenset[Column]:
    """Return the columns that decide the value of an expression; it is a function of nothing else.

    >>> visits = ColumnRef(Column(name="visits", type="integer"))
    >>> [column.name for column in columns_of(Not(IsNull(visits)))]
    ['visits']
    """
    parts: Iterable[RowExpression]
    match expression:
        case ColumnRef():
            return frozenset({expression.column})
        case Constant():
            return frozenset()
        case Comparison():
            parts = (expression.left, expression.right)
        case AllOf() | AnyOf():
            parts = expression.operands
        case Case():
            parts = (condition for condition, _ in expression.branches)
        case _:
            parts = (expression.operand,)
    return frozenset(column for part in parts for column in columns_of(part))


def _distinct(values: Iterable[Scalar]) -> tuple[Scalar, ...]:
    return tuple(dict.fromkeys(values))
