"""How much one privacy unit can move a vector of group aggregates.

Neighbouring tables differ in all rows of one unit. Of these at most M take part, however the
query groups and filters them, so the worst case is a distribution of M rows over groups. Every
bound here is an integer or is rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reach", "root_up", "worst_l2"]

_EXACT_UP_TO = 64


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where one unit's rows can be.

    Attributes
    ----------
    rows
        M, the most rows of a unit.
    per_group
        The most rows of a unit in one group: 1 where the grouping contains a unique key of the
        unit, otherwise M.
    groups
        The most groups a unit can be in, at most M.
    """

    rows: int
    per_group: int
    groups: int

    @classmethod
    def of(cls, rows: int, *, unique: bool, groups: int | None) -> Reach:
        """Describe a grouping.

        ``groups`` is the number of public groups that differ in what is not constant per unit, so
        1 where every key is constant; None when these groups are not known.

        >>> Reach.of(5, unique=False, groups=3)
        Reach(rows=5, per_group=5, groups=3)
        """
        groups = rows if groups is None else min(rows, groups)
        return cls(rows=rows, per_group=1 if unique else rows, groups=groups)


def worst_l2(contribution: Callable[[int], int], reach: Reach) -> float:
    """Return the largest L2 norm of one unit's contributions to all groups, rounded up.

    Parameters
    ----------
    contribution
        The largest absolute contribution to one group that this many rows (at least 1) can make.
    reach
        How rows can be spread over groups.

    Examples
    --------
    Five rows worth up to 25 each: together in one group they weigh most.

    >>> worst_l2(lambda rows: 25 * rows, Reach.of(5, unique=False, groups=None))
    125.0

    With the sum of a unit in a group clamped to 30 they weigh most apart.

    >>> spread = Reach.of(5, unique=False, groups=None)
    >>> worst_l2(lambda rows: min(25 * rows, 30), spread) < 56
    True

    They cannot be apart where every key is constant per unit.

    >>> worst_l2(lambda rows: min(25 * rows, 30), Reach.of(5, unique=False, groups=1))
    30.0
    """
    squares = [contribution(rows) ** 2 for rows in range(1, reach.per_group + 1)]
    by_groups = reach.groups * max(squares)
    if reach.rows > _EXACT_UP_TO:
        # No distribution gains more per row than the best number of rows does; as a whole number.
        by_rows = max(-(-reach.rows * square // rows) for rows, square in enumerate(squares, 1))
    else:
        by_rows = _heaviest(squares, reach.rows)
    return root_up(min(by_groups, by_rows))


def _heaviest(squares: list[int], rows: int) -> int:
    """Solve the unbounded knapsack: the largest sum of squares over ways to split ``rows``."""
    best = [0] * (rows + 1)
    for total in range(1, rows + 1):
        usable = squares[:total]
        best[total] = max(
            best[total - used] + square for used, square in enumerate(usable, start=1)
        )
    return best[rows]


def root_up(square: int) -> float:
    """Return the square root, never too small.

    >>> root_up(25), root_up(2) ** 2 >= 2
    (5.0, True)
    """
    whole = math.isqrt(square)
    if whole * whole == square and whole < 2**53:
        return float(whole)
    return math.nextafter(math.sqrt(square) * (1 + 2**-50), math.inf)
