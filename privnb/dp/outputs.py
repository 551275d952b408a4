"""Expressions over the noisy answer: arithmetic on aggregates, HAVING, ORDER BY.

They see group keys and noisy numbers only, so they cost no privacy and may be anything.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from privnb.computation import Scalar
from privnb.dp.noisy import Noisy
from privnb.dp.rows import Constant, RowType
from privnb.dp.vectors import Aggregate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Answers",
    "Arithmetic",
    "Both",
    "Compared",
    "Condition",
    "Denied",
    "Either",
    "Key",
    "Missing",
    "OneOf",
    "OutputExpression",
    "Rounded",
    "aggregates_of",
]


@dataclass(frozen=True)
class Key:
    """A group key, by its position in GROUP BY."""

    position: int
    type: RowType


@dataclass(frozen=True)
class Arithmetic:
    """Two numbers joined by an operator."""

    operator: Literal["+", "-", "*", "/"]
    left: OutputExpression
    right: OutputExpression


@dataclass(frozen=True)
class Rounded:
    """A number rounded to so many digits after the point."""

    operand: OutputExpression
    digits: int


@dataclass(frozen=True)
class Compared:
    """Two values of one kind, compared."""

    operator: Literal["=", "<>", "<", "<=", ">", ">="]
    left: OutputExpression
    right: OutputExpression


@dataclass(frozen=True)
class OneOf:
    """A value equal to one of some constants."""

    operand: OutputExpression
    constants: tuple[Constant, ...]


@dataclass(frozen=True)
class Missing:
    """A value that is NULL."""

    operand: OutputExpression


@dataclass(frozen=True)
class Both:
    """Conditions joined by AND."""

    operands: tuple[Condition, ...]


@dataclass(frozen=True)
class Either:
    """Conditions joined by OR."""

    operands: tuple[Condition, ...]


@dataclass(frozen=True)
class Denied:
    """A condition turned round."""

    operand: Condition


OutputExpression: TypeAlias = Aggregate | Key | Constant | Arithmetic | Rounded
Condition: TypeAlias = Compared | OneOf | Missing | Both | Either | Denied

_ARITHMETIC: dict[str, Callable[[Noisy, Noisy], Noisy]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def aggregates_of(expression: OutputExpression | Condition) -> list[Aggregate]:
    """List the aggregates in an expression, in the order written."""
    if isinstance(expression, Aggregate):
        return [expression]
    if isinstance(expression, (Arithmetic, Compared)):
        return aggregates_of(expression.left) + aggregates_of(expression.right)
    if isinstance(expression, (Both, Either)):
        return [found for part in expression.operands for found in aggregates_of(part)]
    if isinstance(expression, (Rounded, OneOf, Missing, Denied)):
        return aggregates_of(expression.operand)
    return []


class Answers:
    """The noisy aggregates and keys of all groups, ready to be computed with.

    Parameters
    ----------
    keys
        One tuple per group.
    aggregates
        A noisy column for each aggregate that any expression names.
    """

    def __init__(
        self, keys: Sequence[tuple[Scalar, ...]], aggregates: Mapping[Aggregate, Noisy]
    ) -> None:
        self.keys = keys
        self._aggregates = aggregates

    def numbers(self, expression: OutputExpression) -> Noisy:
        """Compute a numeric expression for every group."""
        if isinstance(expression, Aggregate):
            return self._aggregates[expression]
        if isinstance(expression, Constant):
            return Noisy.exact(float(expression.value), len(self.keys))
        if isinstance(expression, Arithmetic):
            combine = _ARITHMETIC[expression.operator]
            return combine(self.numbers(expression.left), self.numbers(expression.right))
        if isinstance(expression, Rounded):
            return self.numbers(expression.operand).rounded(expression.digits)
        values = [row[expression.position] for row in self.keys]
        return Noisy(np.array([np.nan if v is None else float(v) for v in values], dtype=float))

    def values(self, expression: OutputExpression) -> list[Scalar]:
        """Compute any expression for every group; None where it is NULL."""
        if isinstance(expression, Key):
            return [row[expression.position] for row in self.keys]
        if isinstance(expression, Constant):
            return [expression.value] * len(self.keys)
        numbers: list[float] = self.numbers(expression).value.tolist()
        return [number if np.isfinite(number) else None for number in numbers]

    def truths(self, condition: Condition) -> list[bool | None]:
        """Decide a condition for every group, with SQL's unknown as None."""
        if isinstance(condition, Compared):
            pairs = zip(self.values(condition.left), self.values(condition.right), strict=True)
            compare = _COMPARISONS[condition.operator]
            return [None if a is None or b is None else compare(a, b) for a, b in pairs]
        if isinstance(condition, OneOf):
            wanted = {constant.value for constant in condition.constants}
            values = self.values(condition.operand)
            return [None if value is None else value in wanted for value in values]
        if isinstance(condition, Missing):
            return [value is None for value in self.values(condition.operand)]
        if isinstance(condition, Denied):
            return [None if t is None else not t for t in self.truths(condition.operand)]
        # OR decides on the first truth as AND does on the first falsehood.
        decisive = isinstance(condition, Either)
        rows = zip(*(self.truths(part) for part in condition.operands), strict=True)
        return [
            decisive if decisive in row else (None if None in row else not decisive) for row in rows
        ]
