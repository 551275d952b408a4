"""Noise from OpenDP on integer vectors, and what it does to the accuracy.

There are two kinds, `GAUSSIAN` and `LAPLACE`, one for each way of accounting; see
`privnb.dp.accounting`. The scale of every mechanism comes from a closed form; each mechanism is
then checked against OpenDP's own ``measurement.map`` before it sees data, so a slip here can cost
accuracy, never privacy.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from statistics import NormalDist
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["GAUSSIAN", "LAPLACE", "Z95", "Noise", "gaussian_measurement", "limited", "warm_up"]

Z95 = NormalDist().inv_cdf(0.975)
"""Half-width of a 95 % interval in standard deviations of a normal distribution."""

_LARGEST = 2**62
_SMALL_SCALE = 40.0
_LEAST_SCALE = 1e-6
# OpenDP reckons with 1 - p, so p has a grain of about 1e-16.
_DOUBT = 2.0**-52


def warm_up() -> None:
    """Import OpenDP now (one to four seconds), so that no query pays for it."""
    _opendp()


class Noise(ABC):
    """One kind of noise. A *loss* is in the unit that its mechanisms are charged in."""

    name: ClassVar[str]
    """What is added, in words."""
    loss_name: ClassVar[str]
    """The unit of its losses, in words."""
    norm: ClassVar[Literal[1, 2]]
    """The norm in which a sensitivity decides about the loss: L1 or L2."""

    @abstractmethod
    def scale_for(self, loss: float, sensitivity: float) -> float:
        """Return the scale at which ``sensitivity`` costs at most ``loss``."""

    @abstractmethod
    def variance(self, loss: float, sensitivity: float) -> float:
        """Return the variance that this loss buys, but for the rounding to whole numbers."""

    @abstractmethod
    def half_width(self, scale: float) -> float:
        """Return the half-width of the 95 % interval of the noise on one number.

        The root of the sum of squared half-widths holds sums of independent noise as well.
        """

    @abstractmethod
    def threshold_for(self, scale: float, *, groups: int, largest: int, delta: float) -> int:
        """Return the count from which a group may show that it exists.

        One unit adds at most ``largest`` to each of at most ``groups`` groups. A group that only
        one unit is in stays below with probability ``1 - delta`` over all its groups: Rogers, "A
        Unifying Privacy Analysis Framework for Unknown Domain Algorithms" (2023),
        https://arxiv.org/abs/2309.09170.
        """

    @abstractmethod
    def _vector_mechanism(self, scale: float) -> Any: ...

    @abstractmethod
    def _map_mechanism(self, scale: float, threshold: int) -> Any: ...

    def thresholded_scale(
        self, *, groups: int, largest: int, sensitivity: int, loss: float
    ) -> float:
        """Return the scale of `keep_large`'s noise."""
        spread = groups * largest if self.norm == 1 else math.sqrt(groups) * largest
        return self.scale_for(loss, min(float(sensitivity), spread))

    def add_noise(self, values: Sequence[int], *, sensitivity: float, loss: float) -> list[int]:
        """Add noise to a vector, whose `norm` one unit moves by ``sensitivity``, for ``loss``.

        Values beyond ±2^62 are moved to that limit first, which no unit can make worse.

        >>> len(GAUSSIAN.add_noise([100, 200], sensitivity=1.0, loss=0.5))
        2
        """
        measurement = _checked_vector(self, sensitivity, loss)
        noisy: list[int] = measurement([limited(value) for value in values])
        return noisy

    def keep_large(  # noqa: PLR0913 - keywords, each one number of the proof
        self,
        values: Sequence[int],
        *,
        groups: int,
        largest: int,
        sensitivity: int,
        loss: float,
        delta: float,
    ) -> dict[int, int]:
        """Add noise to one count per group; return those, by position, that pass the threshold.

        One unit adds at most ``largest`` to each of at most ``groups`` values, and at most
        ``sensitivity`` in the `norm`. The positions that are returned, and their counts, cost
        ``loss`` and ``delta``.
        """
        measurement = _checked_map(self, groups, largest, sensitivity, loss, delta)
        present = {str(place): limited(value) for place, value in enumerate(values) if value}
        kept = measurement(present)
        return {int(at): count for at, count in sorted(kept.items(), key=lambda kv: int(kv[0]))}


class _Gaussian(Noise):
    """Discrete Gaussian noise, charged in rho; its scale is the standard deviation.

    >>> round(GAUSSIAN.scale_for(0.02, 5.0), 6)
    25.0
    >>> round(GAUSSIAN.half_width(100.0), 1), GAUSSIAN.half_width(0.1)
    (196.0, 0.0)
    >>> GAUSSIAN.threshold_for(25.0, groups=5, largest=5, delta=1e-8)
    155
    """

    name = "discrete Gaussian noise"
    loss_name = "rho"
    norm = 2

    def scale_for(self, loss: float, sensitivity: float) -> float:
        return max(sensitivity / math.sqrt(2 * loss) * (1 + 1e-12), _LEAST_SCALE)

    def variance(self, loss: float, sensitivity: float) -> float:
        return sensitivity * sensitivity / (2 * loss)

    def half_width(self, scale: float) -> float:
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

    def threshold_for(self, scale: float, *, groups: int, largest: int, delta: float) -> int:
        tail = -NormalDist().inv_cdf(max(0.999 * delta / groups - _DOUBT, _DOUBT))
        # Discrete noise has a lighter tail than its continuous twin, but by a step of one.
        return math.ceil(largest + scale * tail) + 2

    def _vector_mechanism(self, scale: float) -> Any:
        return gaussian_measurement(scale)

    def _map_mechanism(self, scale: float, threshold: int) -> Any:
        dp = _opendp()
        space = _counts_by_name(), dp.metrics.l02inf_distance(dp.metrics.absolute_distance(T="i64"))
        return dp.measurements.make_gaussian_threshold(*space, scale=scale, threshold=threshold)


class _Laplace(Noise):
    """Discrete Laplace noise, charged in epsilon; ``scale`` times the root of 2 is its deviation.

    >>> round(LAPLACE.scale_for(0.2, 5.0), 6)
    25.0
    >>> round(LAPLACE.half_width(100.0), 1), round(LAPLACE.half_width(0.1), 1)
    (300.1, 0.4)
    >>> LAPLACE.threshold_for(25.0, groups=5, largest=5, delta=1e-8)
    491
    """

    name = "discrete Laplace noise"
    loss_name = "epsilon"
    norm = 1

    def scale_for(self, loss: float, sensitivity: float) -> float:
        return max(sensitivity / loss * (1 + 1e-12), _LEAST_SCALE)

    def variance(self, loss: float, sensitivity: float) -> float:
        return 2 * (sensitivity / loss) ** 2

    def half_width(self, scale: float) -> float:
        # P(|X| >= k) = 2 a^k / (1 + a) with a = exp(-1 / scale), and this is where it is 0.05: no
        # whole number above it is as likely. Not rounded down, which sums of small noise need.
        return scale * math.log(40 / (1 + math.exp(-1 / scale)))

    def threshold_for(self, scale: float, *, groups: int, largest: int, delta: float) -> int:
        wanted = max(0.999 * delta / groups - _DOUBT, _DOUBT)
        # P(X >= t) = a^t / (1 + a), which is at most a^t.
        tail = -math.log(wanted * (1 + math.exp(-1 / scale)))
        return math.ceil(largest + scale * tail) + 2

    def _vector_mechanism(self, scale: float) -> Any:
        dp = _opendp()
        space = _integers(), dp.metrics.l1_distance(T="f64")
        return dp.measurements.make_laplace(*space, scale=scale)

    def _map_mechanism(self, scale: float, threshold: int) -> Any:
        dp = _opendp()
        space = _counts_by_name(), dp.metrics.l01inf_distance(dp.metrics.absolute_distance(T="i64"))
        return dp.measurements.make_laplace_threshold(*space, scale=scale, threshold=threshold)


GAUSSIAN: Noise = _Gaussian()
"""For losses in rho."""
LAPLACE: Noise = _Laplace()
"""For losses in epsilon."""


def gaussian_measurement(scale: float) -> Any:
    """Make OpenDP's discrete Gaussian on integer vectors; what it costs is for the caller to check.

    `Noise.add_noise` and `privnb.dp.pieces` do, each against its own claim.
    """
    dp = _opendp()
    space = _integers(), dp.metrics.l2_distance(T="f64")
    return dp.measurements.make_gaussian(*space, scale=scale)


def limited(value: int) -> int:
    """Move a value beyond ±2^62 to that limit: OpenDP counts in 64 bits."""
    return max(-_LARGEST, min(_LARGEST, value))


@functools.lru_cache(maxsize=1024)
def _checked_vector(noise: Noise, sensitivity: float, loss: float) -> Any:
    measurement = noise._vector_mechanism(noise.scale_for(loss, sensitivity))  # noqa: SLF001 - same module
    _check(noise.loss_name, measurement.map(sensitivity), loss)
    return measurement


@functools.lru_cache(maxsize=1024)
def _checked_map(  # noqa: PLR0913, PLR0917 - the key of a cache
    noise: Noise, groups: int, largest: int, sensitivity: int, loss: float, delta: float
) -> Any:
    scale = noise.thresholded_scale(
        groups=groups, largest=largest, sensitivity=sensitivity, loss=loss
    )
    threshold = noise.threshold_for(scale, groups=groups, largest=largest, delta=delta)
    measurement = noise._map_mechanism(scale, threshold)  # noqa: SLF001 - same module
    spent, spent_delta = measurement.map((groups, sensitivity, largest))
    _check(noise.loss_name, spent, loss)
    _check("delta", spent_delta, delta)
    return measurement


def _check(what: str, spent: float, offered: float) -> None:
    if not spent <= offered:
        message = f"the mechanism would cost {what} {spent}, but only {offered} is charged"
        raise RuntimeError(message)


def _integers() -> Any:
    domains = _opendp().domains
    return domains.vector_domain(domains.atom_domain(T="i64"))


def _counts_by_name() -> Any:
    domains = _opendp().domains
    return domains.map_domain(domains.atom_domain(T=str), domains.atom_domain(T="i64"))


@functools.cache
def _opendp() -> ModuleType:
    # Not opendp.prelude, which also imports all that OpenDP can work with: scikit-learn for one.
    import opendp.domains  # noqa: PLC0415 - takes long; planning does without it
    import opendp.measurements  # noqa: PLC0415 - as above
    import opendp.metrics  # noqa: PLC0415 - as above
    import opendp.mod  # noqa: PLC0415 - as above

    opendp.mod.enable_features("contrib")
    module: ModuleType = opendp
    return module
