"""Noise from OpenDP on integer vectors, and what it does to the accuracy.

The scale of every mechanism comes from a closed form; each mechanism is then checked against
OpenDP's own ``measurement.map`` before it sees data, so a slip here can cost accuracy, never
privacy.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Z95", "add_noise", "half_width", "keep_large", "scale_for", "threshold_for", "warm_up"]

Z95 = NormalDist().inv_cdf(0.975)
"""Half-width of a 95 % interval in standard deviations of a normal distribution."""

_LARGEST = 2**62
_SMALL_SCALE = 40.0
# OpenDP reckons with 1 - p, so p has a grain of about 1e-16.
_DOUBT = 2.0**-52


def warm_up() -> None:
    """Import OpenDP now (one to four seconds), so that no query pays for it."""
    _opendp()


def scale_for(rho: float, l2: float) -> float:
    """Return the standard deviation that makes L2 sensitivity ``l2`` cost at most ``rho``.

    >>> round(scale_for(0.02, 5.0), 6)
    25.0
    """
    return max(l2 / math.sqrt(2 * rho) * (1 + 1e-12), 1e-6)


def threshold_for(scale: float, *, groups: int, largest: int, delta: float) -> int:
    """Return the count from which a group may show that it exists.

    One unit adds at most ``largest`` to each of at most ``groups`` groups. A group that only one
    unit is in stays below with probability ``1 - delta`` over all its groups: Rogers, "A Unifying
    Privacy Analysis Framework for Unknown Domain Algorithms" (2023),
    https://arxiv.org/abs/2309.09170.

    >>> threshold_for(25.0, groups=5, largest=5, delta=1e-8)
    155
    """
    tail = -NormalDist().inv_cdf(max(0.999 * delta / groups - _DOUBT, _DOUBT))
    # Discrete noise has a lighter tail than its continuous twin, but by a step of one.
    return math.ceil(largest + scale * tail) + 2


def half_width(scale: float) -> float:
    """Return the half-width of the 95 % interval of discrete Gaussian noise.

    >>> round(half_width(100.0), 1), half_width(0.1)
    (196.0, 0.0)
    """
    if scale >= _SMALL_SCALE:
        return Z95 * scale
    reach = range(1, math.ceil(9 * scale) + 2)
    weights = [1.0] + [2 * math.exp(-(k * k) / (2 * scale * scale)) for k in reach]
    wanted, seen = 0.95 * sum(weights), 0.0
    for k, weight in enumerate(weights):
        seen += weight
        if seen >= wanted:
            return float(k)
    return float(len(weights))


def add_noise(values: Sequence[int], *, l2: float, rho: float) -> list[int]:
    """Add discrete Gaussian noise to a vector whose L2 sensitivity is ``l2``, for ``rho`` zCDP.

    Values beyond ±2^62 are moved to that limit first, which no unit can make worse.

    >>> len(add_noise([100, 200], l2=1.0, rho=0.5))
    2
    """
    measurement = _gaussian(scale_for(rho, l2), l2, rho)
    noisy: list[int] = measurement([_limited(value) for value in values])
    return noisy


def keep_large(  # noqa: PLR0913 - keywords, each one number of the proof
    values: Sequence[int], *, groups: int, largest: int, l2: int, rho: float, delta: float
) -> dict[int, int]:
    """Add noise to one count per group; return those, by position, that pass the threshold.

    One unit adds at most ``largest`` to each of at most ``groups`` values, and at most ``l2`` in
    the L2 norm. The positions that are returned, and their counts, cost ``rho`` and ``delta``.
    """
    measurement = _thresholded(groups, largest, l2, rho, delta)
    present = {str(place): _limited(value) for place, value in enumerate(values) if value}
    kept = measurement(present)
    return {int(place): count for place, count in sorted(kept.items(), key=lambda kv: int(kv[0]))}


def _limited(value: int) -> int:
    return max(-_LARGEST, min(_LARGEST, value))


@functools.lru_cache(maxsize=1024)
def _gaussian(scale: float, l2: float, rho: float) -> Any:
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    measurement = dp.m.make_gaussian(*space, scale=scale)
    _check("rho", measurement.map(l2), rho)
    return measurement


@functools.lru_cache(maxsize=1024)
def _thresholded(groups: int, largest: int, l2: int, rho: float, delta: float) -> Any:
    dp = _opendp()
    space = (
        dp.map_domain(dp.atom_domain(T=str), dp.atom_domain(T="i64")),
        dp.l02inf_distance(dp.absolute_distance(T="i64")),
    )
    scale = thresholded_scale(groups=groups, largest=largest, l2=l2, rho=rho)
    threshold = threshold_for(scale, groups=groups, largest=largest, delta=delta)
    measurement = dp.m.make_gaussian_threshold(*space, scale=scale, threshold=threshold)
    spent_rho, spent_delta = measurement.map((groups, l2, largest))
    _check("rho", spent_rho, rho)
    _check("delta", spent_delta, delta)
    return measurement


def thresholded_scale(*, groups: int, largest: int, l2: int, rho: float) -> float:
    """Return the standard deviation of `keep_large`'s noise."""
    return scale_for(rho, min(float(l2), math.sqrt(groups) * largest))


def _check(what: str, spent: float, offered: float) -> None:
    if not spent <= offered:
        message = f"the mechanism would cost {what} {spent}, but only {offered} is charged"
        raise RuntimeError(message)


@functools.cache
def _opendp() -> ModuleType:
    import opendp.prelude as dp  # noqa: PLC0415 - takes seconds; planning does without it

    dp.enable_features("contrib")
    module: ModuleType = dp
    return module
