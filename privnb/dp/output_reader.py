"""From syntax trees to aggregates and expressions over the noisy answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlglot import exp

from privnb.dp.grammar import chain_of, refusal, shown
from privnb.dp.outputs import (
    Arithmetic,
    Both,
    Compared,
    Condition,
    Denied,
    Either,
    Key,
    Missing,
    OneOf,
    OutputExpression,
    Rounded,
)
from privnb.dp.rows import Constant, RowExpression, RowType
from privnb.dp.vectors import Aggregate, AggregateKind
from privnb.errors import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.dp.row_reader import RowReader
    from privnb.dp.schema import Column

__all__ = ["OutputReader", "is_aggregate"]

_ARITHMETIC: dict[type[exp.Expr], Literal["+", "-", "*", "/"]] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
}
_COMPARISONS: dict[type[exp.Expr], Literal["=", "<>", "<", "<=", ">", ">="]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_MOMENTS: dict[type[exp.Expr], AggregateKind] = {
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Variance: "var_samp",
    exp.VariancePop: "var_pop",
    exp.Stddev: "stddev_samp",
    exp.StddevSamp: "stddev_samp",
    exp.StddevPop: "stddev_pop",
}
_MOST_DIGITS = 15


def is_aggregate(node: exp.Expr) -> bool:
    """Tell whether an aggregate stands anywhere in this."""
    return any(isinstance(part, (exp.AggFunc, exp.WithinGroup)) for part in node.walk())


class OutputReader:
    """Reads what is computed from the noisy answer.

    Parameters
    ----------
    rows
        Reads columns and constants.
    keys
        The expressions of GROUP BY.
    aliases
        What the names given in the SELECT list mean.
    """

    def __init__(
        self,
        rows: RowReader,
        keys: Sequence[RowExpression],
        aliases: Mapping[str, OutputExpression],
    ) -> None:
        self._rows = rows
        self._keys = list(keys)
        self._aliases = aliases

    def read(self, node: exp.Expr) -> OutputExpression:
        """Read a key, an aggregate, or arithmetic on aggregates."""
        if isinstance(node, exp.Paren):
            return self.read(node.this)
        if isinstance(node, exp.Star):
            raise refusal(
                "* would return single rows.",
                "Name aggregates and the columns you group by.",
                code="E_NOT_GROUPED",
                node=node,
            )
        if type(node) in _ARITHMETIC:
            left, right = self._number(node.this), self._number(node.expression)
            return Arithmetic(_ARITHMETIC[type(node)], left, right)
        if isinstance(node, exp.Neg) and not isinstance(node.this, exp.Literal):
            return Arithmetic("-", Constant("integer", 0), self._number(node.this))
        if isinstance(node, exp.Round):
            return Rounded(self._number(node.this), self._digits(node))
        if isinstance(node, (exp.AggFunc, exp.WithinGroup)):
            return self._aggregate(node)
        return self._alias(node) or self._key(node)

    def _alias(self, node: exp.Expr) -> OutputExpression | None:
        if not isinstance(node, exp.Column):
            return None
        return self._aliases.get(node.name.lower())

    def _key(self, node: exp.Expr) -> OutputExpression:
        if is_aggregate(node):
            raise refusal(
                f"{shown(node)} cannot be computed from aggregates.",
                "Aggregates can be added, subtracted, multiplied, divided and rounded.",
                code="E_AGGREGATE",
                node=node,
            )
        read = self._rows.read(node)
        if read in self._keys:
            return Key(self._keys.index(read), read.type)
        if isinstance(read, Constant):
            return read
        raise refusal(
            f"{shown(node)} is neither aggregated nor in GROUP BY.",
            "Add it to GROUP BY, or put it into an aggregate.",
            code="E_NOT_GROUPED",
            node=node,
        )

    def _number(self, node: exp.Expr) -> OutputExpression:
        read = self.read(node)
        if _type_of(read) not in ("integer", "float"):
            raise refusal(f"{shown(node)} is not a number.", "Compute with aggregates.", node=node)
        return read

    def _digits(self, node: exp.Round) -> int:
        decimals = node.args.get("decimals")
        if decimals is None:
            return 0
        digits = self._rows.constant(decimals)
        if digits.type != "integer" or not -_MOST_DIGITS <= int(digits.value) <= _MOST_DIGITS:
            raise refusal(f"{shown(node)} is not supported.", "Write ROUND(x, 2).", node=node)
        return int(digits.value)

    def _aggregate(self, node: exp.Expr) -> Aggregate:
        if isinstance(node, exp.Count):
            return self._count(node)
        if isinstance(node, exp.Median):
            return Aggregate("quantile", self._bounded(node.this, node), 0.5)
        if isinstance(node, exp.Quantile):
            return self._quantile(node.this, node.args["quantile"], node)
        if isinstance(node, exp.PercentileCont):
            return self._quantile(node.this, node.args.get("expression"), node)
        if isinstance(node, exp.WithinGroup):
            return self._within_group(node)
        return Aggregate(_MOMENTS[type(node)], self._bounded(node.this, node))

    def _count(self, node: exp.Count) -> Aggregate:
        counted = node.this
        if isinstance(counted, exp.Star):
            return Aggregate("count")
        if isinstance(counted, exp.Distinct):
            if len(counted.expressions) == 1 and self._rows.is_unit(counted.expressions[0]):
                return Aggregate("count_units")
            for part in counted.expressions:
                self._argument(part, node)
            raise refusal(
                f"{shown(node)} has no private form: one unit could change it by many.",
                "Count units with COUNT(DISTINCT …) of the privacy unit, or group by the column.",
                code="E_AGGREGATE",
                node=node,
            )
        if isinstance(counted, exp.Literal):
            return Aggregate("count")
        column = self._argument(counted, node)
        return Aggregate("count", column if column.nullable else None)

    def _within_group(self, node: exp.WithinGroup) -> Aggregate:
        inner, order = node.this, node.expression
        parts = order.expressions if isinstance(order, exp.Order) else []
        if (
            not isinstance(inner, exp.PercentileCont)
            or len(parts) != 1
            or parts[0].args.get("desc")
        ):
            raise refusal(
                f"{shown(node)} is not supported.",
                "Write PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY column).",
                code="E_AGGREGATE",
                node=node,
            )
        return self._quantile(parts[0].this, inner.this, node)

    def _quantile(self, operand: exp.Expr, level: exp.Expr | None, node: exp.Expr) -> Aggregate:
        column = self._bounded(operand, node)
        given = None if level is None else self._rows.constant(level)
        if (
            given is None
            or given.type not in ("integer", "float")
            or not 0 <= float(given.value) <= 1
        ):
            raise refusal(
                f"{shown(node)}: a quantile is a number from 0 to 1.",
                "Write QUANTILE_CONT(column, 0.9).",
                code="E_AGGREGATE",
                node=node,
            )
        return Aggregate("quantile", column, float(given.value))

    def _bounded(self, operand: exp.Expr, node: exp.Expr) -> Column:
        column = self._argument(operand, node)
        if column.bounds is None:
            raise refusal(
                f"{shown(node)}: the owner gave {column.name!r} no bounds, so one value could"
                " change the result by any amount.",
                "Use a column with bounds (see %privnb schema), or COUNT.",
                code="E_NO_BOUNDS",
                node=node,
            )
        return column

    def _argument(self, operand: exp.Expr, node: exp.Expr) -> Column:
        if isinstance(operand, exp.Paren):
            return self._argument(operand.this, node)
        if not isinstance(operand, exp.Column):
            nested = is_aggregate(operand)
            raise refusal(
                f"{shown(node)} aggregates "
                + ("an aggregate." if nested else "something that is not a column."),
                "Aggregate single columns; compute with the results, as in SUM(a) / COUNT(*).",
                code="E_AGGREGATE",
                node=node,
            )
        return self._rows.column(operand)

    def condition(self, node: exp.Expr) -> Condition:  # noqa: PLR0911 - one per construct
        """Read what HAVING keeps."""
        if isinstance(node, exp.Paren):
            return self.condition(node.this)
        if isinstance(node, (exp.And, exp.Or)):
            operands = tuple(self.condition(part) for part in chain_of(node))
            return Both(operands) if isinstance(node, exp.And) else Either(operands)
        if isinstance(node, exp.Not):
            return Denied(self.condition(node.this))
        if type(node) in _COMPARISONS:
            return self._compare(_COMPARISONS[type(node)], node.this, node.expression, node)
        if isinstance(node, exp.Between):
            low = self._compare(">=", node.this, node.args["low"], node)
            return Both((low, self._compare("<=", node.this, node.args["high"], node)))
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            return Missing(self.read(node.this))
        if isinstance(node, exp.In) and node.args.get("field") is None:
            operand = self.read(node.this)
            constants = tuple(self._rows.constant(item) for item in node.expressions)
            for constant in constants:
                _check_comparable(operand, constant, node)
            return OneOf(operand, constants)
        raise refusal(
            f"{shown(node)} is not supported in HAVING.",
            "Compare aggregates and keys with =, <, >, BETWEEN, IN, IS NULL, AND, OR, NOT.",
            node=node,
        )

    def _compare(
        self,
        operator: Literal["=", "<>", "<", "<=", ">", ">="],
        left: exp.Expr,
        right: exp.Expr,
        node: exp.Expr,
    ) -> Compared:
        first, second = self.read(left), self.read(right)
        _check_comparable(first, second, node)
        return Compared(operator, first, second)


def _type_of(expression: OutputExpression) -> RowType:
    return expression.type if isinstance(expression, (Key, Constant)) else "float"


def _check_comparable(left: OutputExpression, right: OutputExpression, node: exp.Expr) -> None:
    families = {
        "number" if kind in ("integer", "float") else "flag" if kind == "boolean" else "text"
        for kind in (_type_of(left), _type_of(right))
    }
    if len(families) != 1:
        message = f"{shown(node)} compares a {' with a '.join(sorted(families))}."
        raise QueryRefused(message, hint="Compare values of one type.")
