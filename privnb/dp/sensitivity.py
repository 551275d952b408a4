"""How much one privacy unit can move a vector of group aggregates, in the L1 and L2 norms.

Neighbouring tables differ in all rows of one unit. Of these at most M take part, however the
query groups and filters them, so the worst case is a distribution of M rows over groups. Every
bound here is an integer or is rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reach", "root_up", "worst_norm"]

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


def worst_norm(contribution: Callable[[int], int], reach: Reach, *, norm: Literal[1, 2]) -> float:
    """Return the largest L1 or L2 norm of one unit's contributions to all groups, rounded up.

    Parameters
    ----------
    contribution
        The largest absolute contribution to one group that this many rows (at least 1) can make.
    reach
        How rows can be spread over groups.
    norm
        1 adds the contributions, 2 takes the root of the sum of their squares.

    Examples
    --------
    Five rows worth up to 25 each: together in one group they weigh most.

    >>> spread = Reach.of(5, unique=False, groups=None)
    >>> worst_norm(lambda rows: 25 * rows, spread, norm=2)
    125.0

    With the sum of a unit in a group clamped to 30 they weigh most apart.

    >>> worst_norm(lambda rows: min(25 * rows, 30), spread, norm=2) < 56
    True
    >>> worst_norm(lambda rows: min(25 * rows, 30), spread, norm=1)
    125.0

    They cannot be apart where every key is constant per unit.

    >>> worst_norm(lambda rows: min(25 * rows, 30), Reach.of(5, unique=False, groups=1), norm=1)
    30.0
    """
    weights = [contribution(rows) ** norm for rows in range(1, reach.per_group + 1)]
    by_groups = reach.groups * max(weights)
    if reach.rows > _EXACT_UP_TO:
        # No distribution gains more per row than the best number of rows does; as a whole number.
        by_rows = max(-(-reach.rows * weight // rows) for rows, weight in enumerate(weights, 1))
    else:
        by_rows = _heaviest(weights, reach.rows)
    heaviest = min(by_groups, by_rows)
    return _float_up(heaviest) if norm == 1 else root_up(heaviest)


def _heaviest(weights: list[int], rows: int) -> int:
    """Solve the unbounded knapsack: the largest sum of weights over ways to split ``rows``."""
    best = [0] * (rows + 1)
    for total in range(1, rows + 1):
        usable = weights[:total]
        best[total] = max(
            best[total - used] + weight for used, weight in enumerate(usable, start=1)
        )
    return best[rows]


def _float_up(whole: int) -> float:
    found = float(whole)
    return found if found >= whole else math.nextafter(found, math.inf)


def root_up(square: int) -> float:
    """Return the square root, never too small.

    >>> root_up(25), root_up(2) ** 2 >= 2
    (5.0, True)
    """
    whole = math.isqrt(square)
    if whole * whole == square and whole < 2**53:
        return float(whole)
    return math.nextafter(math.sqrt(square) * (1 + 2**-50), math.inf)
