"""Columns of noisy numbers that know their error.

A column holds one number per group and, for every independent source of noise, by how much that
source moves each number: half of a 95 % interval, with its sign. Sums and differences are exact; a
ratio gets the interval of Fieller, "Some problems in interval estimation" (1954); other functions
are taken as straight lines near the value. Where nothing can be said the number is NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Noisy", "Source"]

Floats: TypeAlias = NDArray[np.float64]
Source: TypeAlias = Hashable


@dataclass(frozen=True, eq=False)
class Noisy:
    """Numbers, one per group, with their error by source of noise.

    >>> count = Noisy.measured([100.0], "count", 10.0)
    >>> total = Noisy.measured([500.0], "sum", 30.0)
    >>> mean = total / count
    >>> mean.value, mean.half_width.round(2)
    (array([5.]), array([0.64]))
    """

    value: Floats
    errors: Mapping[Source, Floats] = field(default_factory=dict)

    @classmethod
    def measured(cls, values: object, source: Source, half_width: float) -> Noisy:
        """Numbers to each of which noise was added, of the same 95 % half-width."""
        value = np.asarray(values, dtype=np.float64)
        return cls(value, {source: np.full(value.shape, half_width)})

    @classmethod
    def exact(cls, number: float, size: int) -> Noisy:
        """Repeat a constant."""
        return cls(np.full(size, float(number)))

    @property
    def half_width(self) -> Floats:
        """Half-width of the 95 % interval of each number."""
        return np.sqrt(self._covariance(self))

    def _covariance(self, other: Noisy) -> Floats:
        total = np.zeros(self.value.shape)
        for source, error in self.errors.items():
            if source in other.errors:
                total = total + error * other.errors[source]
        return total

    def _scaled(self, factor: Floats | float) -> dict[Source, Floats]:
        return {source: error * factor for source, error in self.errors.items()}

    def with_half_width(self, wanted: Floats) -> Noisy:
        """Stretch the errors so that the half-width is ``wanted``."""
        present = self.half_width
        with np.errstate(all="ignore"):
            factor = np.where(present > 0, wanted / present, 1.0)
        return Noisy(self.value, self._scaled(factor))

    def __neg__(self) -> Noisy:
        return Noisy(-self.value, self._scaled(-1.0))

    def __add__(self, other: Noisy) -> Noisy:
        errors = dict(self.errors)
        for source, error in other.errors.items():
            errors[source] = errors[source] + error if source in errors else error
        with np.errstate(all="ignore"):
            return Noisy(self.value + other.value, errors)

    def __sub__(self, other: Noisy) -> Noisy:
        return self + -other

    def __mul__(self, other: Noisy) -> Noisy:
        with np.errstate(all="ignore"):
            first = Noisy(self.value * other.value, self._scaled(other.value))
            second = Noisy(np.zeros(self.value.shape), other._scaled(self.value))
            return first + second

    def __truediv__(self, other: Noisy) -> Noisy:
        """Divide; NaN where the denominator cannot be told from 0."""
        top, bottom = self.value, other.value
        top_square, bottom_square = self._covariance(self), other._covariance(other)
        with np.errstate(all="ignore"):
            known = bottom * bottom > bottom_square
            ratio = np.where(known, top / bottom, np.nan)
            linear = Noisy(
                ratio, (Noisy(ratio, self.errors) - Noisy(ratio, other._scaled(ratio))).errors
            )
            linear = Noisy(ratio, linear._scaled(1 / bottom))
            # Fieller: the interval holds every r for which top - r * bottom may be 0.
            a = bottom * bottom - bottom_square
            b = top * bottom - self._covariance(other)
            root = np.sqrt(np.maximum(b * b - a * (top * top - top_square), 0))
            wanted = np.maximum(np.abs((b + root) / a - ratio), np.abs((b - root) / a - ratio))
            return linear.with_half_width(wanted)

    def clipped(self, lower: float, upper: float) -> Noisy:
        """Move numbers into known limits, and cut their intervals there."""
        value = np.clip(self.value, lower, upper)
        room = np.maximum(upper - value, value - lower)
        return Noisy(value, self.errors).with_half_width(np.fmin(self.half_width, room))

    def root(self) -> Noisy:
        """Take the square root of numbers that are at least 0."""
        with np.errstate(all="ignore"):
            value, reach = np.sqrt(self.value), self.half_width
            above = np.sqrt(self.value + reach) - value
            below = value - np.sqrt(np.maximum(self.value - reach, 0))
            return Noisy(value, self.errors).with_half_width(np.maximum(above, below))

    def rounded(self, digits: int) -> Noisy:
        """Round the numbers; their errors stay."""
        return Noisy(np.round(self.value, digits), self.errors)

    def times(self, factor: float) -> Noisy:
        """Multiply by a constant."""
        with np.errstate(all="ignore"):
            return Noisy(self.value * factor, self._scaled(factor))

    def plus(self, constant: float) -> Noisy:
        """Add a constant."""
        return Noisy(self.value + constant, self.errors)
