"""From noisy vectors to the aggregates that were asked for, with their errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from privnb.dp.bounding import fixed_point
from privnb.dp.noisy import Floats, Noisy
from privnb.dp.vectors import Aggregate, Vector, bins_of, counting_column

if TYPE_CHECKING:
    from privnb.dp.noise import Noise
    from privnb.dp.schema import Column

__all__ = ["Estimator"]


class Estimator:
    """Computes aggregates of one query.

    Parameters
    ----------
    noisy
        For each vector its noisy integers, shape (groups, width).
    scales
        For each vector the scale of its noise.
    noise
        The kind of noise.
    """

    def __init__(
        self, noisy: Mapping[Vector, Floats], scales: Mapping[Vector, float], noise: Noise
    ) -> None:
        self._noisy = noisy
        self._half_widths = {vector: noise.half_width(scale) for vector, scale in scales.items()}
        self._found = {(vector.kind, vector.column): vector for vector in noisy}

    def estimate(self, aggregate: Aggregate) -> Noisy:
        """Compute one aggregate for every group."""
        column = aggregate.column
        if aggregate.kind == "count_units":
            return self._measured(self._found["units", None])
        if aggregate.kind == "count" or column is None:
            return self._count(column)
        if aggregate.kind == "sum":
            return self._sum(column)
        if aggregate.kind == "avg":
            return self._mean(column)
        if aggregate.kind == "quantile":
            return self._quantile(column, aggregate.level or 0.0)
        return self._moment(column, aggregate.kind)

    def _measured(self, vector: Vector) -> Noisy:
        values = self._noisy[vector][:, 0]
        return Noisy.measured(values, vector, self._half_widths[vector])

    def _count(self, column: Column | None) -> Noisy:
        return self._measured(self._found["count", counting_column(column)])

    def _sum(self, column: Column) -> Noisy:
        vector = self._found["sum", column]
        total = self._measured(vector)
        if vector.centre:
            total += self._count(column).times(vector.centre)
        return total.times(1 / fixed_point(column).scale)

    def _mean_steps(self, column: Column) -> Noisy:
        """Return the mean in fixed-point steps."""
        vector = self._found["sum", column]
        return (self._measured(vector) / self._count(column)).plus(vector.centre)

    def _mean(self, column: Column) -> Noisy:
        point = fixed_point(column)
        return self._mean_steps(column).clipped(point.lower, point.upper).times(1 / point.scale)

    def _moment(self, column: Column, kind: str) -> Noisy:
        point, vector, count = (
            fixed_point(column),
            self._found["squares", column],
            self._count(column),
        )
        unit = 2.0 ** (point.square_shift + 2 * point.square_preshift)
        squares = (self._measured(vector) / count).plus(vector.centre).times(unit)
        mean = self._mean_steps(column).plus(-point.middle)
        variance = (squares - mean * mean).clipped(0, float(point.half_range) ** 2)
        if kind.endswith("samp"):
            variance = variance * (count / count.plus(-1))
        if kind.startswith("stddev"):
            return variance.root().times(1 / point.scale)
        return variance.times(1 / point.scale**2)

    def _quantile(self, column: Column, level: float) -> Noisy:
        """Find where the noisy histogram has ``level`` of the rows to its left.

        ``balance[k]`` is 0 in expectation when exactly that share lies in the first ``k + 1`` bins;
        using both sides of a cut halves the variance of a cumulative count.
        """
        vector, point = self._found["histogram", column], fixed_point(column)
        counts, (width, bins) = self._noisy[vector], bins_of(point)
        reach = self._half_widths[vector]
        total, left = counts.sum(axis=1, keepdims=True), counts.cumsum(axis=1)
        balance = left - level * total
        number = np.arange(1, bins + 1)
        doubt = reach * np.sqrt((1 - level) ** 2 * number + level**2 * (bins - number))
        inner = balance[:, :-1]
        place = (inner < 0).sum(axis=1)
        low = (inner < -doubt[:-1]).sum(axis=1)
        high = (inner < doubt[:-1]).sum(axis=1)
        if width == point.scale:
            # Every bin is one whole number.
            value, lowest, highest = (1.0 * index * width for index in (place, low, high))
        else:
            value = (place + self._within(balance, place)) * width
            lowest, highest = 1.0 * low * width, 1.0 * (high + 1) * width
        known = total[:, 0] > reach * np.sqrt(bins)
        value = np.where(known, value + point.lower, np.nan)
        error = np.maximum(value - (lowest + point.lower), highest + point.lower - value)
        found = Noisy(value, {(vector, level): error})
        return found.clipped(point.lower, point.upper).times(1 / point.scale)

    @staticmethod
    def _within(balance: Floats, place: Floats) -> Floats:
        """Interpolate: how far into its bin the cut lies, from 0 to 1."""
        rows = np.arange(len(balance))
        before = np.where(place > 0, balance[rows, np.maximum(place - 1, 0)], np.nan)
        after = balance[rows, place]
        with np.errstate(all="ignore"):
            part = np.clip(-before / (after - before), 0, 1)
        return np.where(np.isfinite(part), part, 0.5)
