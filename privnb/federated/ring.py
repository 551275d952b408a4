"""Numbers as they are summed under masks: integers modulo 2**64, fixed point for fractions.

Sums are exact. What could leave the range of 64 bits, once all parties' numbers are added up, is
refused before anything is masked, since nobody could tell it from the sum afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FRACTION_BITS",
    "RangeError",
    "Vector",
    "decode",
    "encode",
    "from_integers",
    "to_integers",
]

FRACTION_BITS = 24
"""Binary digits after the point: steps of 6e-8, sums up to 5e11."""

Vector: TypeAlias = NDArray[np.uint64]

_SCALE = 2.0**FRACTION_BITS
_HALF = 2.0**63


class RangeError(ValueError):
    """A number is not finite, or so large that the sum could leave the range."""


def encode(values: ArrayLike, *, parties: int) -> Vector:
    """Round to fixed point, such that the sum over ``parties`` stays in range.

    Each number is off by at most 2**-25, half a step; sums add nothing to that.

    Parameters
    ----------
    values
        Numbers of any shape; the vector has one dimension.
    parties
        How many vectors are added up at most.

    Raises
    ------
    RangeError
        A number is NaN or infinite, or ``parties`` times as much is 2**39 or more.

    Examples
    --------
    >>> vector = encode([0.5, -3.0], parties=3)
    >>> decode(vector + vector + vector).tolist()
    [1.5, -9.0]
    """
    scaled = np.asarray(values, np.float64).ravel() * _SCALE
    np.rint(scaled, out=scaled)
    # NaN is not below anything; without np.abs, which would copy.
    lowest, highest = (scaled.min(), scaled.max()) if scaled.size else (0.0, 0.0)
    limit = _HALF / parties
    if not (lowest > -limit and highest < limit):
        raise RangeError(
            f"A number is not finite, or too large: the sum over {parties} sites must stay below "
            f"2**{63 - FRACTION_BITS}."
        )
    return scaled.astype(np.int64).view(np.uint64)


def decode(total: Vector) -> NDArray[np.float64]:
    """Read a vector, or a sum of vectors, that `encode` wrote."""
    return total.view(np.int64) / _SCALE


def from_integers(numbers: Sequence[int], *, parties: int = 1) -> Vector:
    """Write signed integers, such that the sum over ``parties`` stays in range.

    >>> to_integers(from_integers([3, -4], parties=2) + from_integers([1, 1], parties=2))
    [4, -3]
    """
    largest = (2**63 - 1) // parties
    if any(abs(number) > largest for number in numbers):
        raise RangeError(f"An integer is too large: {parties} times as much is 2**63 or more.")
    return np.array(numbers, np.int64).view(np.uint64)


def to_integers(total: Vector) -> list[int]:
    """Read a vector, or a sum of vectors, that `from_integers` wrote."""
    integers: list[int] = total.view(np.int64).tolist()
    return integers
