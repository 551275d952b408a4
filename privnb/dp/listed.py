"""Literals compared with columns whose values are public: one that is not listed is a mistake.

If the data keeps to the list, the answer follows from the schema: nobody should pay for it. It is
refused from the query and the public schema alone, whether or not the data keeps to the list.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from privnb.dp.grammar import refusal
from privnb.dp.literals import normal_key
from privnb.dp.rows import ColumnRef, Constant

if TYPE_CHECKING:
    from sqlglot import exp

    from privnb.computation import Scalar
    from privnb.dp.literals import RowType
    from privnb.dp.rows import RowExpression
    from privnb.dp.schema import Column

__all__ = ["ListedValues"]

_MOST_SHOWN = 12
_LONGEST_SHOWN = 40
_MOST_GUESSED = 1000


class ListedValues:
    """Checks the literals of one query against the public values of columns."""

    def __init__(self) -> None:
        # A long IN asks for one column again and again; making its set once keeps that linear.
        self._known: dict[tuple[str, RowType], frozenset[Scalar]] = {}

    def check(self, left: RowExpression, right: RowExpression, node: exp.Expr) -> None:
        """Refuse two sides of an equality that the schema says is never true.

        Parameters
        ----------
        left, right
            The two sides, already fitted to each other. Anything but a column with public values
            beside a constant passes.
        node
            Where to look for the line.

        Raises
        ------
        QueryRefused
            E_VALUE when the constant is none of the column's public values; the hint names the
            closest one and the values.
        """
        if isinstance(left, Constant):
            left, right = right, left
        if not (isinstance(left, ColumnRef) and isinstance(right, Constant)):
            return
        column = left.column
        if column.values is None:
            return
        kind = _common(column.type, right.type)
        known = self._known.get((column.name, kind))
        if known is None:
            known = frozenset(normal_key(kind, value) for value in left.domain or ())
            self._known[column.name, kind] = known
        if normal_key(kind, right.value) not in known:
            raise refusal(
                f"column {column.name!r} has no value {_shown(right.value)}.",
                _hint(column, left.domain or (), right.value),
                code="E_VALUE",
                node=node,
            )


def _common(column: RowType, constant: RowType) -> RowType:
    """Return the type in which the engine compares two types of one family."""
    kinds = {column, constant}
    if len(kinds) == 1:
        return column
    return "float" if "float" in kinds else "timestamp"


def _hint(column: Column, values: tuple[Scalar, ...], wanted: Scalar) -> str:
    if not values:
        return "The schema lists no value but NULL; write IS NULL or IS NOT NULL."
    listing = ", ".join(_shown(value) for value in values[:_MOST_SHOWN])
    if len(values) > _MOST_SHOWN:
        listing += f", … ({len(values):,} in all)"
    guess = _guess(values, wanted) if column.type == "string" else None
    return ("" if guess is None else f"Did you mean {_shown(guess)}? ") + f"Its values: {listing}."


def _guess(values: tuple[Scalar, ...], wanted: Scalar) -> Scalar:
    """Return the value probably meant, whatever its case, or None."""
    # Only so much is compared: both the literal and the list may be long.
    folded = {str(value)[:_LONGEST_SHOWN].casefold(): value for value in values[:_MOST_GUESSED]}
    close = difflib.get_close_matches(str(wanted)[:_LONGEST_SHOWN].casefold(), folded, n=1)
    return folded[close[0]] if close else None


def _shown(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return repr(value[: _LONGEST_SHOWN - 1] + "…")
    return repr(value)
