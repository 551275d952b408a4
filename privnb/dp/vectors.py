"""Which integer vectors a query needs, how one unit moves each, and the SQL that computes them.

One vector gets noise once: it spans all groups. Counts, sums and histograms are vectors; AVG,
VAR and quantiles are computed from them after the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from operator import mul
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb.dp.bounding import UNIT, FixedPoint, fixed_point, value_column
from privnb.dp.literals import quoted
from privnb.dp.schema import Column
from privnb.dp.sensitivity import Reach, worst_norm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privnb.dp.noise import Noise

__all__ = ["Aggregate", "AggregateKind", "Slot", "Vector", "bins_of", "vectors_for"]

AggregateKind: TypeAlias = Literal[
    "count",
    "count_units",
    "sum",
    "avg",
    "var_samp",
    "var_pop",
    "stddev_samp",
    "stddev_pop",
    "quantile",
]
VectorKind: TypeAlias = Literal["count", "units", "sum", "squares", "histogram"]

_BINS = 64
_CENTRES = 32
# Two levels cost about eighteen times as much computing, so they must be worth it.
_WORTH = 0.95
_MOMENTS = ("var_samp", "var_pop", "stddev_samp", "stddev_pop")


@dataclass(frozen=True)
class Aggregate:
    """One aggregate as asked: COUNT counts rows when ``column`` is None."""

    kind: AggregateKind
    column: Column | None = None
    level: float | None = None
    """The quantile, from 0 to 1."""


@dataclass(frozen=True)
class Slot:
    """One integer per group, as SQL over the rows, or over rows already summed per unit.

    ``plain`` aggregates rows. For two levels, ``inner`` are the aggregates per unit and group, by
    name, and ``outer`` aggregates those.
    """

    plain: str
    inner: tuple[tuple[str, str], ...]
    outer: str


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Integers that get noise together.

    Attributes
    ----------
    kind, column
        What it holds; ``column`` is None when it counts rows or units.
    sensitivity
        The most by which one unit moves it, over all groups and slots, in the norm of its noise.
    weight
        How many aggregates are computed from it: its share of the privacy loss.
    centre
        What is subtracted from every value before summing, in fixed-point steps.
    clamp
        Bounds of one unit's sum in one group, in fixed-point steps; None without two levels.
    """

    kind: VectorKind
    column: Column | None
    sensitivity: float
    weight: int
    centre: int = 0
    clamp: tuple[int, int] | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The integers per group, in order."""
        return _slots(self)

    @property
    def width(self) -> int:
        """How many integers it has per group."""
        if self.kind != "histogram" or self.column is None:
            return 1
        return bins_of(fixed_point(self.column))[1]


def bins_of(point: FixedPoint) -> tuple[int, int]:
    """Return the width, in steps, and the number of the equal bins for quantiles.

    >>> bins_of(FixedPoint(scale=1.0, lower=0, upper=100))
    (2, 51)
    """
    values = point.upper - point.lower + 1
    width = -(-values // _BINS)
    if point.scale == 2.0:  # noqa: PLR2004 - whole numbers stored in halves fill every other step
        width += width % 2
    return width, -(-values // width)


def vectors_for(aggregates: Iterable[Aggregate], reach: Reach, noise: Noise) -> tuple[Vector, ...]:
    """Choose the vectors from which all ``aggregates`` can be computed, with this kind of noise.

    A vector is shared by all that can use it, and weighs as much as there are of those. Sums are
    centred where that brings less noise, and clamped per unit where the owner allows it and that
    brings less noise.
    """
    weights: dict[tuple[VectorKind, Column | None], int] = {}
    asked = list(dict.fromkeys(aggregates))
    for aggregate in asked:
        for need in _needs(aggregate):
            weights[need] = weights.get(need, 0) + 1
    vectors = []
    for (kind, column), weight in weights.items():
        vector = Vector(kind=kind, column=column, sensitivity=0.0, weight=weight)
        if kind == "sum" and column is not None:
            vector = _centred(vector, column, weights, asked, reach, noise)
        elif kind == "squares" and column is not None:
            top = _largest_square(fixed_point(column))
            most = worst_norm(partial(mul, top - top // 2), reach, norm=noise.norm)
            vector = replace(vector, centre=top // 2, sensitivity=most)
        elif kind == "units":
            most = worst_norm(lambda _: 1, reach, norm=noise.norm)
            vector = replace(vector, sensitivity=most)
        else:
            # The rows of a group weigh most in one bin of a histogram.
            vector = replace(vector, sensitivity=_worst_count(reach, noise))
        vectors.append(vector)
    return tuple(vectors)


def _worst_count(reach: Reach, noise: Noise) -> float:
    return worst_norm(lambda rows: rows, reach, norm=noise.norm)


def counting_column(column: Column | None) -> Column | None:
    """Return what is counted for ``column``: rows, unless it can be NULL."""
    return column if column is not None and column.nullable else None


def _needs(aggregate: Aggregate) -> Iterable[tuple[VectorKind, Column | None]]:
    column, counted = aggregate.column, counting_column(aggregate.column)
    if aggregate.kind == "count":
        return [("count", counted)]
    if aggregate.kind == "count_units":
        return [("units", None)]
    if aggregate.kind == "sum":
        return [("sum", column)]
    if aggregate.kind == "quantile":
        return [("histogram", column)]
    if aggregate.kind == "avg":
        return [("count", counted), ("sum", column)]
    return [("count", counted), ("sum", column), ("squares", column)]


def _centred(  # noqa: PLR0913, PLR0917 - all that the choice depends on
    vector: Vector,
    column: Column,
    weights: dict[tuple[VectorKind, Column | None], int],
    asked: list[Aggregate],
    reach: Reach,
    noise: Noise,
) -> Vector:
    """Choose centre and clamp of a sum so that the noise in what is asked is least."""
    kinds = {aggregate.kind for aggregate in asked if aggregate.column == column}
    count_weight = weights.get(("count", counting_column(column)), 0)
    point = fixed_point(column)
    bounds = column.unit_bounds
    clamp = None
    if bounds is not None and not kinds & set(_MOMENTS):
        farthest = reach.rows * point.largest
        clamp = (
            max(point.steps(bounds.lower)[0], -farthest),
            min(point.steps(bounds.upper)[1], farthest),
        )
    choice = _choose(
        (point.lower, point.upper),
        clamp,
        reach,
        noise,
        vector.weight,
        count_weight,
        "sum" in kinds,
    )
    return replace(vector, centre=choice[0], clamp=choice[1], sensitivity=choice[2])


@lru_cache(maxsize=1024)
def _choose(  # noqa: PLR0913, PLR0917 - the key of a cache
    bounds: tuple[int, int],
    clamp: tuple[int, int] | None,
    reach: Reach,
    noise: Noise,
    weight: int,
    count_weight: int,
    summed: bool,  # noqa: FBT001 - the key of a cache
) -> tuple[int, tuple[int, int] | None, float]:
    """Return centre, clamp and sensitivity of the sum with the least noise."""
    lower, upper = bounds
    grid = {0, (lower + upper) // 2}
    if count_weight:
        grid |= {lower + (upper - lower) * step // _CENTRES for step in range(_CENTRES + 1)}
    else:
        grid = {0}  # without a count the centre could not be added again
    counted = _worst_count(reach, noise)

    def best(limits: tuple[int, int] | None) -> tuple[float, int, float]:
        found = []
        for centre in sorted(grid, key=abs):
            most = worst_norm(partial(_reached, bounds, limits, centre), reach, norm=noise.norm)
            # SUM adds the centre times the noisy count; AVG adds the centre alone.
            variance = noise.variance(weight, most)
            if summed and centre:
                variance += centre**2 * noise.variance(count_weight, counted)
            found.append((variance, centre, most))
        return min(found, key=lambda option: option[0])

    plain = best(None)
    if clamp is not None:
        clamped = best(clamp)
        if clamped[0] < plain[0] * _WORTH**2:
            return clamped[1], clamp, clamped[2]
    return plain[1], None, plain[2]


def _reached(bounds: tuple[int, int], clamp: tuple[int, int] | None, centre: int, rows: int) -> int:
    """Return the largest |sum - centre * rows| of so many values of one unit in one group."""
    low, high = bounds[0] * rows, bounds[1] * rows
    if clamp is not None:
        low, high = (max(clamp[0], min(clamp[1], end)) for end in (low, high))
    return max(abs(low - centre * rows), abs(high - centre * rows))


def _largest_square(point: FixedPoint) -> int:
    reach = -(-point.half_range // (1 << point.square_preshift))
    return (reach * reach) >> point.square_shift


def _slots(vector: Vector) -> tuple[Slot, ...]:
    column = vector.column
    if vector.kind == "units":
        return (Slot(f"COUNT(DISTINCT {quoted(UNIT)})", (), "COUNT(*)"),)
    if column is None:
        return (_counted("rows", "COUNT(*)"),)
    if vector.kind == "count":
        return (_counted(f"n:{column.name}", f"COUNT({quoted(column.name)})"),)
    value, point = quoted(value_column(column.name)), fixed_point(column)
    count = f"COUNT({value})"
    if vector.kind == "sum":
        return (_summed(f"s:{column.name}", value, count, vector),)
    if vector.kind == "squares":
        distance = f"({value} - {_integer(point.middle)})"
        if point.square_preshift:
            distance = f"({distance} // {_integer(1 << point.square_preshift)})"
        square = f"(({distance} * {distance}) >> {point.square_shift})"
        return (_summed(f"q:{column.name}", square, count, vector),)
    width, bins = bins_of(point)
    place = f"(({value} - {_integer(point.lower)}) // {_integer(width)})"
    return tuple(
        _counted(f"h{number}:{column.name}", f"COUNT(*) FILTER (WHERE {place} = {number})")
        for number in range(bins)
    )


def _counted(name: str, sql: str) -> Slot:
    return Slot(sql, ((name, sql),), f"CAST(COALESCE(SUM({quoted(name)}), 0) AS BIGINT)")


def _summed(name: str, value: str, count: str, vector: Vector) -> Slot:
    centre = _integer(vector.centre)
    counted = f"n{name}"
    part = quoted(name)
    if vector.clamp is not None:
        low, high = (_integer(end) for end in vector.clamp)
        clamped = f"LEAST(GREATEST({part}, {low}), {high})"
        # A unit without values in a group adds nothing, not the lower bound.
        part = f"CASE WHEN {quoted(counted)} > 0 THEN {clamped} END"
    return Slot(
        f"CAST(COALESCE(SUM({value}), 0) - {centre} * {count} AS BIGINT)",
        ((name, f"CAST(SUM({value}) AS BIGINT)"), (counted, count)),
        f"CAST(COALESCE(SUM({part}), 0)"
        f" - {centre} * COALESCE(SUM({quoted(counted)}), 0) AS BIGINT)",
    )


def _integer(value: int) -> str:
    return f"({value})" if value < 0 else f"{value}"
