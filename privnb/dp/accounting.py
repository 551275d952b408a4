"""What a table's owner counts privacy loss in: rho, or epsilon itself.

What people read is always an epsilon. What is charged for it, and added up, is a *loss*, in the
unit of the table's accounting, which its owner chooses once:

- `ZCDP` counts rho, zero-concentrated loss, for Gaussian noise. Half of the table's delta turns the
  sum of rho into an epsilon. Many releases cost much less together than the sum of their epsilons.
- `Pure` counts epsilon, for Laplace noise, and needs no delta but for unknown group keys. Epsilons
  add up plainly, so a few precise releases cost less and many cost more.

Both stay true when each query is chosen after seeing the answers to the ones before. One table has
one accounting for good: which of two is cheaper is known only at the end, and no theorem allows to
choose it as one goes along.

The conversion from rho is the tightest one known that holds for every rho-zCDP mechanism,
Proposition 12 of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy"
(2020), https://arxiv.org/abs/2004.00010. It is what OpenDP's ``make_zCDP_to_approxDP`` computes.

The exact profile of one continuous Gaussian would allow about 7 % less noise at epsilon 1 and delta
1e-6. It is not used: it is a theorem neither about *discrete* noise on vectors nor about mechanisms
that adapt to one another, and a privacy label may claim only what can be proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from privnb.dp.noise import GAUSSIAN, LAPLACE, Noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from privnb.dp.schema import TableSchema

__all__ = [
    "DELTA_GRAIN",
    "LOSS_GRAIN",
    "ZCDP",
    "Accounting",
    "Price",
    "Pure",
    "accounting_of",
    "epsilon_for",
    "rho_for",
]

LOSS_GRAIN = Fraction(1, 10**15)
"""Losses are charged in whole grains, so that a grant of epsilon 1 pays for epsilon 1."""
DELTA_GRAIN = Fraction(1, 10**18)
"""The same for delta."""

_DIGITS = 4
_THRESHOLDED_RELEASES = 100
_LOWEST, _HIGHEST = math.log(1e-6), math.log(1e9)  # of alpha - 1
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 80
# Relative room for the rounding of some twenty floating-point operations, generously.
_ROUNDING = 1e-11


_SHOWN = Decimal("0.0001")


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one query costs.

    Attributes
    ----------
    loss
        In the unit of the table's accounting. The sum over all queries is what the ledger limits.
    delta
        What the query spends of the table's budget for unknown group keys; 0 when all are public.
    epsilon
        What was offered: the loss in words for people, if this were the only query.
    """

    loss: float
    delta: float
    epsilon: Decimal


class Accounting(Protocol):
    """One way to count the loss of a table's releases; see `ZCDP` and `Pure`."""

    name: ClassVar[Literal["zcdp", "pure"]]
    """What ``site.toml`` calls it."""
    noise: ClassVar[Noise]
    """The noise whose loss it counts."""

    @property
    def delta(self) -> float:
        """Delta of the table, over all that is ever released."""
        ...

    @property
    def threshold_delta(self) -> float:
        """What one release with unknown group keys spends: a hundredth of `delta_cap`."""
        ...

    @property
    def delta_cap(self) -> int:
        """What all releases together may spend on unknown group keys, in `DELTA_GRAIN`."""
        ...

    def loss_for(self, epsilon: Decimal) -> float:
        """Return the largest loss that ``epsilon`` pays for: whole grains, or a float below."""
        ...

    def cap(self, epsilon: Decimal) -> int:
        """Return how many grains may be spent so that the sum is within ``epsilon``."""
        ...

    def epsilon_of(self, grains: int) -> Decimal:
        """Read what was spent as an epsilon for people, rounded up."""
        ...

    def epsilon_fitting(self, grains: int) -> Decimal:
        """Return the largest epsilon, to four decimals, whose price is at most ``grains``."""
        ...

    def delta_of(self, price: Price) -> float:
        """Return the delta at which the epsilon of one release holds."""
        ...

    def in_words(self, epsilon: str) -> str:
        """Say what releases of ``epsilon`` together guarantee."""
        ...


@dataclass(frozen=True)
class ZCDP:
    """Losses in rho, Gaussian noise; half of ``delta`` converts, half is for unknown group keys.

    >>> table = ZCDP(2e-6)
    >>> round(table.threshold_delta, 12)
    1e-08
    >>> table.epsilon_of(2 * table.cap(Decimal(1)))
    Decimal('1.452')
    """

    name: ClassVar[Literal["zcdp", "pure"]] = "zcdp"
    noise: ClassVar[Noise] = GAUSSIAN

    delta: float

    @property
    def conversion_delta(self) -> float:
        """The part of delta at which rho is read as an epsilon."""
        return self.delta / 2

    @property
    def threshold_delta(self) -> float:
        """A hundredth of the half for unknown group keys."""
        return _whole_grains(self.delta / 2 / _THRESHOLDED_RELEASES, DELTA_GRAIN)

    @property
    def delta_cap(self) -> int:
        """Half of delta, in `DELTA_GRAIN`."""
        return _grains_within(self.delta, DELTA_GRAIN * 2)

    def loss_for(self, epsilon: Decimal) -> float:
        """Return the rho of an epsilon; see `rho_for`."""
        return rho_for(epsilon, self.conversion_delta)

    def cap(self, epsilon: Decimal) -> int:
        """Return the rho of an epsilon, in grains."""
        # rho_for has rounded down to whole grains already; their float is at most a hair below.
        return math.ceil(Fraction(self.loss_for(epsilon)) / LOSS_GRAIN)

    def epsilon_of(self, grains: int) -> Decimal:
        """Convert a sum of rho; see `epsilon_for`."""
        return epsilon_for(float(grains * LOSS_GRAIN), self.conversion_delta)

    def epsilon_fitting(self, grains: int) -> Decimal:
        """Search, for the conversion has no inverse in closed form."""
        return _fitting(self, grains)

    def delta_of(self, price: Price) -> float:  # noqa: ARG002 - the conversion needs all of it
        """Return all of the table's delta: the conversion needs it for every release."""
        return self.delta

    def in_words(self, epsilon: str) -> str:
        """Name the delta of the conversion."""
        return f"epsilon {epsilon} at delta {self.delta:g}"


@dataclass(frozen=True)
class Pure:
    """Losses in epsilon, which add up plainly, Laplace noise; ``delta`` is for unknown group keys.

    >>> table = Pure(1e-6)
    >>> round(table.threshold_delta, 12)
    1e-08
    >>> table.epsilon_of(2 * table.cap(Decimal("0.7")))
    Decimal('1.4')
    """

    name: ClassVar[Literal["zcdp", "pure"]] = "pure"
    noise: ClassVar[Noise] = LAPLACE

    delta: float

    @property
    def threshold_delta(self) -> float:
        """A hundredth of delta."""
        return _whole_grains(self.delta / _THRESHOLDED_RELEASES, DELTA_GRAIN)

    @property
    def delta_cap(self) -> int:
        """All of delta, in `DELTA_GRAIN`."""
        return _grains_within(self.delta, DELTA_GRAIN)

    def loss_for(self, epsilon: Decimal) -> float:
        """Return the epsilon itself, in whole grains or a float below."""
        return _float_within(self.cap(epsilon) * LOSS_GRAIN)

    def cap(self, epsilon: Decimal) -> int:
        """Return the epsilon itself, in grains."""
        return math.floor(Fraction(epsilon) / LOSS_GRAIN)

    def epsilon_of(self, grains: int) -> Decimal:
        """Round up to four decimals."""
        return _plain(math.ceil(grains * LOSS_GRAIN / Fraction(_SHOWN)) * _SHOWN)

    def epsilon_fitting(self, grains: int) -> Decimal:
        """Round down to four decimals."""
        return math.floor(grains * LOSS_GRAIN / Fraction(_SHOWN)) * _SHOWN

    def delta_of(self, price: Price) -> float:
        """Return what the release spends on unknown group keys, often 0."""
        return price.delta

    def in_words(self, epsilon: str) -> str:
        """Name delta as what it is: for rare groups only."""
        return f"epsilon {epsilon}, and at most delta {self.delta:g} where rare groups were hidden"


def accounting_of(schema: TableSchema) -> Accounting:
    """Return how the losses of a table are counted.

    >>> from privnb.dp.schema import TableSchema
    >>> table = TableSchema(
    ...     name="t", columns=(), privacy_unit="u", max_rows_per_unit=1, delta=1e-6
    ... )
    >>> accounting_of(table)
    ZCDP(delta=1e-06)
    """
    return Pure(schema.delta) if schema.accounting == "pure" else ZCDP(schema.delta)


@lru_cache(maxsize=4096)
def _fitting(accounting: ZCDP, grains: int) -> Decimal:
    # Bisection in steps of 0.0001. The bracket is epsilon_of and its rounding to four digits.
    high = math.ceil(accounting.epsilon_of(grains) / _SHOWN) + 1
    low = max(math.floor(high * Decimal("0.998")) - 2, 0)
    while low > 0 and accounting.cap(low * _SHOWN) > grains:
        low //= 2
    while high - low > 1:
        middle = (low + high) // 2
        if accounting.cap(middle * _SHOWN) <= grains:
            low = middle
        else:
            high = middle
    return low * _SHOWN


@lru_cache(maxsize=1024)
def rho_for(epsilon: Decimal, delta: float) -> float:
    """Return the largest rho whose epsilon at ``delta`` is at most ``epsilon``, rounded down.

    The result is a whole number of `LOSS_GRAIN`, as near below it as a float can be.

    Parameters
    ----------
    epsilon
        Positive.
    delta
        Strictly between 0 and 1; usually `ZCDP.conversion_delta`.

    Examples
    --------
    >>> round(rho_for(Decimal(1), 5e-7), 4)
    0.0229
    """
    _check_delta(delta)
    offered = math.nextafter(float(epsilon), 0.0)

    def rho(alpha: float) -> float:
        return (offered - _overhead(alpha, delta)) / alpha

    best = -_minimum(lambda alpha: -rho(alpha))
    return _whole_grains(max(best * (1 - _ROUNDING), 0.0), LOSS_GRAIN)


@lru_cache(maxsize=1024)
def epsilon_for(rho: float, delta: float) -> Decimal:
    """Return the epsilon at ``delta`` that ``rho`` guarantees, rounded up to 4 digits.

    >>> epsilon_for(rho_for(Decimal("0.5"), 5e-7), 5e-7)
    Decimal('0.5')
    >>> epsilon_for(0.0, 5e-7)
    Decimal('0')
    """
    _check_delta(delta)
    if rho < 0 or not math.isfinite(rho):
        message = f"rho must be finite and at least 0, not {rho}"
        raise ValueError(message)
    if rho == 0:
        return Decimal(0)
    epsilon = _minimum(lambda alpha: rho * alpha + _overhead(alpha, delta))
    # Twice rounded values (rho down, epsilon up) come back to the number they began with.
    exact = Decimal(max(epsilon, 0.0) * (1 + _ROUNDING / 10))
    rounded = Context(prec=_DIGITS, rounding=ROUND_CEILING).plus(exact)
    return _plain(rounded)


def _plain(value: Decimal) -> Decimal:
    """Write without exponent and trailing zeros."""
    return Decimal(f"{value.normalize():f}")


def _grains_within(delta: float, grain: Fraction) -> int:
    # The delta is the decimal that the owner wrote, not the float next to it.
    return math.floor(Fraction(repr(delta)) / grain)


def _whole_grains(value: float, grain: Fraction) -> float:
    """Round down to a multiple of ``grain``, or to the float next below it."""
    # A hair is added first: a multiple that was itself rounded to a float must not lose a grain.
    return _float_within(math.floor(Fraction(value) * (1 + Fraction(1, 2**52)) / grain) * grain)


def _float_within(exact: Fraction) -> float:
    found = float(exact)
    return found if Fraction(found) <= exact else math.nextafter(found, 0.0)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        message = f"delta must lie strictly between 0 and 1, not {delta}"
        raise ValueError(message)


def _overhead(alpha: float, delta: float) -> float:
    """Epsilon at Rényi order ``alpha`` beyond rho * alpha: any order gives a true statement."""
    order = alpha - 1
    return (-math.log(delta) - math.log(alpha)) / order - math.log1p(1 / order)


def _minimum(value: Callable[[float], float]) -> float:
    """Find the least value over Rényi orders by golden section; a near miss is only less tight."""
    low, high = _LOWEST, _HIGHEST
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = value(1 + math.exp(left)), value(1 + math.exp(right))
    for _ in range(_STEPS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = value(1 + math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = value(1 + math.exp(right))
    return min(at_left, at_right)
