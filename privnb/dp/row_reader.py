"""From syntax trees to expressions over rows, with every type checked against the schema."""

from __future__ import annotations

import difflib
import math
from datetime import date, datetime
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from sqlglot import exp

from privnb.dp.bounding import visible_columns
from privnb.dp.grammar import chain_of, function_refusal, refusal, shown
from privnb.dp.listed import ListedValues
from privnb.dp.rows import (
    PARTS,
    TRUNCATIONS,
    AllOf,
    Among,
    AnyOf,
    Case,
    ColumnRef,
    Comparison,
    Constant,
    DatePart,
    DateTrunc,
    IsNull,
    IsTruth,
    Like,
    Not,
    RowExpression,
    RowType,
)
from privnb.errors import QueryRefused, UnknownName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from privnb.computation import Parameters, Scalar
    from privnb.dp.schema import Column, TableSchema

__all__ = ["RowReader"]

_LARGEST_INTEGER = 2**63
_LONGEST_PATTERN = 200
_MOST_WILDCARDS = 8
_MOST_PARTS = 20_000
_TEXT_PER_PART = 50

_COMPARISONS: dict[type[exp.Expr], Literal["=", "<>", "<", "<=", ">", ">="]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_PART_FUNCTIONS: dict[type[exp.Expr], str] = {
    exp.Year: "year",
    exp.Quarter: "quarter",
    exp.Month: "month",
    exp.Week: "week",
    exp.Day: "day",
    exp.DayOfMonth: "day",
    exp.DayOfWeek: "dayofweek",
    exp.DayOfYear: "dayofyear",
    exp.Hour: "hour",
    exp.Minute: "minute",
    exp.Second: "second",
}
_PART_NAMES = {"dow": "dayofweek", "doy": "dayofyear", "weekday": "dayofweek"}
_FAMILIES: dict[RowType, str] = {
    "integer": "a number",
    "float": "a number",
    "string": "a text",
    "boolean": "true or false",
    "date": "a date",
    "timestamp": "a date",
}
_DATE_TYPES = {exp.DataType.Type.DATE}
_TIME_TYPES = {
    exp.DataType.Type.TIMESTAMP,
    exp.DataType.Type.TIMESTAMPNTZ,
    exp.DataType.Type.DATETIME,
}
_DATE_HINT = "Write dates as '2026-01-31', times as '2026-01-31 08:00:00'."


class RowReader:
    """Reads filters, group keys and constants of one query.

    Parameters
    ----------
    schema
        The table that the query is about.
    parameters
        What ``:name`` stands for.
    """

    def __init__(self, schema: TableSchema, parameters: Parameters | None) -> None:
        self._schema = schema
        self._parameters = parameters or {}
        self._columns = {column.name: column for column in visible_columns(schema)}
        self._folded = {column.name.lower(): column for column in visible_columns(schema)}
        self._listed = ListedValues()
        self._parts = 0.0

    def column(self, node: exp.Expr) -> Column:
        """Find the column that a name means: exactly, or else whatever its case."""
        if not isinstance(node, exp.Column) or not isinstance(node.this, exp.Identifier):
            raise refusal(f"{shown(node)} is not a column.", "Name a column.", node=node)
        name = node.name
        if name.lower() == self._schema.privacy_unit.lower() and name not in self._columns:
            raise self._unit_refusal(node)
        found = self._columns.get(name) or (
            self._folded.get(name.lower()) if name.isascii() else None
        )
        if found is not None:
            return found
        missing = UnknownName.among("column", name, self._columns, code="E_NO_COLUMN")
        hint = missing.hint
        if node.this.args.get("quoted"):
            hint += " Texts stand in single quotes."
        raise refusal(
            f"table {self._schema.name!r} has no column {name!r}.",
            hint,
            code=missing.code,
            node=node,
        )

    def knows(self, node: exp.Column) -> bool:
        """Tell whether this names a column of the table, the privacy unit included."""
        return node.name in self._columns or node.name.lower() in self._folded or self.is_unit(node)

    def is_unit(self, node: exp.Expr) -> bool:
        """Tell whether this names the privacy unit."""
        return (
            isinstance(node, exp.Column)
            and node.name.lower() == self._schema.privacy_unit.lower()
            and node.name not in self._columns
        )

    def _unit_refusal(self, node: exp.Expr) -> QueryRefused:
        unit = self._schema.privacy_unit
        return refusal(
            f"{unit!r} tells one {self._schema.unit_name} from another; it cannot be read, filtered"
            " or grouped.",
            f"Only COUNT(DISTINCT {unit}) may name it.",
            code="E_PRIVACY_UNIT",
            node=node,
        )

    def condition(self, node: exp.Expr) -> RowExpression:
        """Read something that is true or false."""
        read = self.read(node)
        if read.type != "boolean":
            raise refusal(
                f"{shown(node)} is {_FAMILIES[read.type]}, but a condition is wanted.",
                "Compare it with something.",
                node=node,
            )
        return read

    def read(self, node: exp.Expr) -> RowExpression:
        """Read any expression over rows, or refuse it."""
        self._count(1)
        reader = self._readers.get(type(node), RowReader._date_function)
        return reader(self, node)

    def _count(self, parts: float) -> None:
        """Refuse a query that means far more than it says: what is read twice is written twice.

        Nested BETWEEN and CASE read their operand again and again, and one long parameter may be
        named often.
        """
        self._parts += parts
        if self._parts > _MOST_PARTS:
            raise refusal(
                f"Written out, the query has more than {_MOST_PARTS:,} parts or too much text.",
                "Nest BETWEEN and CASE less, and list fewer values after IN.",
            )

    def _inner(self, node: exp.Expr) -> RowExpression:
        return self.read(node.this)

    def _reference(self, node: exp.Expr) -> RowExpression:
        return ColumnRef(self.column(node))

    def _all_of(self, node: exp.Expr) -> RowExpression:
        return AllOf(tuple(self.condition(part) for part in chain_of(node)))

    def _any_of(self, node: exp.Expr) -> RowExpression:
        return AnyOf(tuple(self.condition(part) for part in chain_of(node)))

    def _not(self, node: exp.Expr) -> RowExpression:
        return Not(self.condition(node.this))

    def _comparison(self, node: exp.Expr) -> RowExpression:
        return self._compare(_COMPARISONS[type(node)], node.this, node.expression)

    def _between(self, node: exp.Expr) -> RowExpression:
        low = self._compare(">=", node.this, node.args["low"])
        return AllOf((low, self._compare("<=", node.this, node.args["high"])))

    def constant(self, node: exp.Expr) -> Constant:
        """Read a literal, a date such as DATE '2026-01-31', or a parameter."""
        if isinstance(node, exp.Paren):
            return self.constant(node.this)
        if isinstance(node, exp.Placeholder):
            return self._typed(self.parameter(node), node)
        if isinstance(node, exp.Boolean):
            return Constant("boolean", bool(node.this))
        if isinstance(node, exp.Literal):
            return self._typed(str(node.this) if node.is_string else _number(node), node)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal):
            if not node.this.is_string:
                return self._typed(-_number(node.this), node)
        elif isinstance(node, exp.Cast):
            return self._date_literal(node)
        elif isinstance(node, exp.Null):
            raise refusal(
                "NULL is compared with nothing.", "Write IS NULL or IS NOT NULL.", node=node
            )
        raise refusal(
            f"{shown(node)} is not a constant.", "Write a literal or a :parameter.", node=node
        )

    def parameter(self, node: exp.Placeholder) -> Scalar | list[Scalar]:
        """Look up what a ``:name`` stands for."""
        name = node.this
        if not isinstance(name, str):
            raise refusal(
                "? stands for nothing here.",
                "Name the parameter, as in :plan.",
                code="E_PARAMETER",
                node=node,
            )
        if name not in self._parameters:
            close = difflib.get_close_matches(name, self._parameters, n=1)
            guess = f"Did you mean :{close[0]}? Otherwise assign" if close else "Assign"
            raise QueryRefused(
                f"The query names :{name}, but nothing is bound to it.",
                hint=f"{guess} {name} = 65 in a cell above and add --param {name} "
                f"(in Python params={{{name!r}: 65}}).",
                code="E_PARAMETER",
            )
        return self._parameters[name]

    def _typed(self, value: Scalar | list[Scalar], node: exp.Expr) -> Constant:
        self._count(1 + len(value) / _TEXT_PER_PART if isinstance(value, str) else 1)
        if isinstance(value, bool):
            return Constant("boolean", value)
        if isinstance(value, int) and -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
            return Constant("integer", value)
        if isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return Constant("float", number)
        if isinstance(value, str) and "\0" not in value and _is_text(value):
            return Constant("string", value)
        # The value itself is not repeated: it may be long, or not be text at all.
        raise refusal(
            f"{shown(node)} stands for a value that cannot be used here"
            f" ({'NULL' if value is None else type(value).__name__}).",
            "Use numbers, texts, true and false; a list after IN; IS NULL for missing values.",
            code="E_PARAMETER" if isinstance(node, exp.Placeholder) else "E_UNSUPPORTED",
            node=node,
        )

    def _date_literal(self, node: exp.Cast) -> Constant:
        kind = node.to.this
        if not (
            isinstance(node.this, exp.Literal)
            and node.this.is_string
            and kind in _DATE_TYPES | _TIME_TYPES
        ):
            raise refusal(
                f"the cast {shown(node)} is not supported: on rows it could fail.",
                "Columns have the types of the schema; " + _DATE_HINT[0].lower() + _DATE_HINT[1:],
                node=node,
            )
        wanted: RowType = "date" if kind in _DATE_TYPES else "timestamp"
        found = _as_date(str(node.this.this), wanted)
        if found is None:
            raise refusal(f"{shown(node)} is not a date.", _DATE_HINT, node=node)
        return found

    def _compare(
        self,
        operator: Literal["=", "<>", "<", "<=", ">", ">="],
        left: exp.Expr,
        right: exp.Expr,
    ) -> Comparison:
        first, second = self.read_operand(left), self.read_operand(right)
        second = self._fitted(second, first, right)
        first = self._fitted(first, second, left)
        if operator in ("=", "<>"):
            self._listed.check(first, second, left if isinstance(first, ColumnRef) else right)
        return Comparison(operator, first, second)

    def read_operand(self, node: exp.Expr) -> RowExpression:
        """Read one side of a comparison."""
        if isinstance(node, exp.Null):
            return self.constant(node)
        return self.read(node)

    def _fitted(self, value: RowExpression, other: RowExpression, node: exp.Expr) -> RowExpression:
        """Make a constant comparable with what stands on the other side, or refuse."""
        if _FAMILIES[value.type] == _FAMILIES[other.type]:
            return value
        if (
            isinstance(value, Constant)
            and value.type == "string"
            and other.type in ("date", "timestamp")
        ):
            text = str(value.value)
            found = _as_date(text, other.type) or _as_date(text, "timestamp")
            if found is not None:
                return found
            raise refusal(f"{shown(node)} is not a date.", _DATE_HINT, node=node)
        if (
            isinstance(other, Constant)
            and other.type == "string"
            and value.type in ("date", "timestamp")
        ):
            return value
        raise refusal(
            f"{shown(node)} is {_FAMILIES[value.type]}; it cannot be compared with"
            f" {_FAMILIES[other.type]}.",
            "Compare values of one type; the schema tells the type of each column.",
            node=node,
        )

    def _among(self, node: exp.Expr) -> RowExpression:
        operand = self.read(node.this)
        field = node.args.get("field")
        listed: list[exp.Expr] = [field] if field is not None else list(node.expressions)
        constants: list[Constant] = []
        for item in listed:
            inner = item.unnest() if isinstance(item, exp.Paren) else item
            value = self.parameter(inner) if isinstance(inner, exp.Placeholder) else None
            if isinstance(value, list):
                constants.extend(self._typed(part, inner) for part in value)
            else:
                constants.append(self.constant(inner))
        if not constants:
            raise refusal("IN has nothing to choose from.", "List at least one value.", node=node)
        for constant in constants:
            # A text before IN is a date when one after it is: the engine must never read it as one.
            operand = self._fitted(operand, constant, node.this)
        fitted = tuple(cast("Constant", self._fitted(c, operand, node)) for c in constants)
        for constant in fitted:
            self._listed.check(operand, constant, node)
        return Among(operand, fitted)

    def _is(self, node: exp.Expr) -> RowExpression:
        if isinstance(node.expression, exp.Null):
            return IsNull(self.read(node.this))
        if isinstance(node.expression, exp.Boolean):
            return IsTruth(self.condition(node.this), bool(node.expression.this))
        raise refusal(f"{shown(node)} is not supported.", "Use IS NULL, IS TRUE or =.", node=node)

    def _like(self, node: exp.Expr) -> RowExpression:
        operand, pattern = self.read(node.this), self.constant(node.expression)
        if operand.type != "string" or pattern.type != "string":
            raise refusal(
                f"{shown(node)}: LIKE compares texts.", "Use it on text columns.", node=node
            )
        text = str(pattern.value)
        if len(text) > _LONGEST_PATTERN or text.count("%") > _MOST_WILDCARDS:
            raise refusal(
                "The pattern after LIKE is too long.",
                f"At most {_LONGEST_PATTERN} characters and {_MOST_WILDCARDS} signs % are used.",
                node=node,
            )
        return Like(operand, pattern)

    def _case(self, node: exp.Expr) -> Case:
        branches: list[tuple[RowExpression, Constant | None]] = []
        subject = node.this if isinstance(node, exp.Case) else None
        ifs = node.args["ifs"] if isinstance(node, exp.Case) else [node]
        default = node.args.get("default" if isinstance(node, exp.Case) else "false")
        for branch in ifs:
            if subject is None:
                condition = self.condition(branch.this)
            else:
                condition = self._compare("=", subject, branch.this)
            branches.append((condition, self._result(branch.args["true"])))
        otherwise = None if default is None else self._result(default)
        results = [r for r in (*(result for _, result in branches), otherwise) if r is not None]
        families = {_FAMILIES[result.type] for result in results}
        if len(families) != 1:
            raise refusal(
                f"{shown(node)}: its results are {' and '.join(sorted(families)) or 'all NULL'}.",
                "Let every branch give a constant of one type.",
                node=node,
            )
        kinds = {result.type for result in results}
        kind: RowType = kinds.pop() if len(kinds) == 1 else _wider(kinds)
        return Case(tuple(branches), otherwise, kind)

    def _result(self, node: exp.Expr) -> Constant | None:
        return None if isinstance(node, exp.Null) else self.constant(node)

    def _date_function(self, node: exp.Expr) -> RowExpression:
        kind = type(node)
        if kind in _PART_FUNCTIONS:
            return self._part(_PART_FUNCTIONS[kind], node.this, node)
        if isinstance(node, exp.Extract):
            return self._part(node.name, node.expression, node)
        if isinstance(node, (exp.DateTrunc, exp.TimestampTrunc)):
            return self._truncated(node)
        if isinstance(node, exp.Anonymous) and node.name.lower() in ("date_part", "datepart"):
            arguments = node.expressions
            if len(arguments) == 2 and arguments[0].is_string:  # noqa: PLR2004 - part and column
                return self._part(arguments[0].name, arguments[1], node)
        if isinstance(node, exp.AggFunc):
            raise refusal(
                f"the aggregate {shown(node)} stands where single rows are meant.",
                "Filter aggregates with HAVING; group by columns; aggregates are not nested.",
                code="E_AGGREGATE",
                node=node,
            )
        if isinstance(node, exp.Func):
            raise function_refusal(node)
        raise refusal(
            f"{shown(node)} cannot be computed for single rows.",
            "Rows are filtered and grouped by columns, comparisons, CASE and date parts.",
            node=node,
        )

    def _part(self, name: str, operand: exp.Expr, node: exp.Expr) -> DatePart:
        part = _PART_NAMES.get(name.lower(), name.lower())
        if part not in PARTS:
            raise refusal(
                f"{name!r} is no known part of a date.", f"Use {', '.join(PARTS)}.", node=node
            )
        column = self._moment(operand, node)
        if column.type == "date" and part in ("hour", "minute", "second"):
            raise refusal(
                f"{shown(node)}: a date has no {part}.", "Use year to dayofweek.", node=node
            )
        return DatePart(part, column)

    def _truncated(self, node: exp.DateTrunc | exp.TimestampTrunc) -> DateTrunc:
        unit = node.args["unit"].name.lower()
        column = self._moment(node.this, node)
        usable = TRUNCATIONS if column.type == "timestamp" else TRUNCATIONS[:5]
        if unit not in usable or node.args.get("zone") is not None:
            raise refusal(
                f"{shown(node)} is not supported.", f"Cut to {', '.join(usable)}.", node=node
            )
        return DateTrunc(unit, column)

    def _moment(self, operand: exp.Expr, node: exp.Expr) -> ColumnRef:
        column = ColumnRef(self.column(operand))
        if column.type not in ("date", "timestamp"):
            raise refusal(
                f"{shown(node)}: {column.column.name!r} is {_FAMILIES[column.type]}, not a date.",
                "Date parts are for columns of type date and timestamp.",
                node=node,
            )
        return column

    _readers: ClassVar[dict[type[exp.Expr], Callable[[RowReader, exp.Expr], RowExpression]]] = {
        exp.Paren: _inner,
        exp.Column: _reference,
        exp.And: _all_of,
        exp.Or: _any_of,
        exp.Not: _not,
        exp.Between: _between,
        exp.In: _among,
        exp.Is: _is,
        exp.Like: _like,
        exp.Case: _case,
        exp.If: _case,
        **dict.fromkeys(_COMPARISONS, _comparison),
        **dict.fromkeys((exp.Literal, exp.Boolean, exp.Neg, exp.Placeholder, exp.Cast), constant),
    }


def _number(node: exp.Literal) -> int | float:
    text = str(node.this)
    try:
        return (
            int(text) if text.isdigit() and text.isascii() and len(text) < _SHORT else float(text)
        )
    except ValueError:
        raise refusal(
            f"{text[:40]!r} is not a number.", "Write numbers as 12, 0.5 or 1e3.", node=node
        ) from None


_SHORT = 30


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_date(text: str, kind: RowType) -> Constant | None:
    """Read an ISO date or time without time zone."""
    try:
        if kind == "date":
            return Constant("date", date.fromisoformat(text).isoformat())
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo else Constant("timestamp", str(moment))


def _wider(kinds: set[RowType]) -> RowType:
    known: Mapping[frozenset[RowType], RowType] = {
        frozenset({"integer", "float"}): "float",
        frozenset({"date", "timestamp"}): "timestamp",
    }
    return known[frozenset(kinds)]
