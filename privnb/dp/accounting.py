"""Between epsilon, which people read, and rho, in which privacy loss is added up.

The ledger adds zero-concentrated loss (zCDP, rho): it adds plainly, and stays true when each query
is chosen after seeing the answers to the ones before. What people read is epsilon at the table's
delta. The conversion is the tightest one known that holds for every rho-zCDP mechanism, Proposition
12 of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (2020),
https://arxiv.org/abs/2004.00010. It is what OpenDP's ``make_zCDP_to_approxDP`` computes.

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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from privnb.dp.schema import TableSchema

__all__ = [
    "DELTA_GRAIN",
    "RHO_GRAIN",
    "Price",
    "conversion_delta",
    "epsilon_for",
    "rho_for",
    "threshold_delta",
]

RHO_GRAIN = Fraction(1, 10**15)
"""Rho is offered and charged in whole grains, so that a grant of epsilon 1 pays for epsilon 1."""
DELTA_GRAIN = Fraction(1, 10**18)
"""The same for delta."""

_DIGITS = 4
_THRESHOLDED_RELEASES = 100
_LOWEST, _HIGHEST = math.log(1e-6), math.log(1e9)  # of alpha - 1
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 80
# Relative room for the rounding of some twenty floating-point operations, generously.
_ROUNDING = 1e-11


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one query costs.

    Attributes
    ----------
    rho
        Zero-concentrated privacy loss. The sum over all queries is what the ledger limits.
    delta
        What the query spends of the table's budget for unknown group keys; 0 when all are public.
    epsilon
        The loss at the table's delta if this were the only query: at most what was offered.
    """

    rho: float
    delta: float
    epsilon: Decimal


def conversion_delta(schema: TableSchema) -> float:
    """Half of the table's delta: the part that turns the sum of rho into an epsilon."""
    return schema.delta / 2


def threshold_delta(schema: TableSchema) -> float:
    """Return what one release with unknown group keys spends: a hundredth of the other half.

    >>> from privnb.dp.schema import TableSchema
    >>> table = TableSchema(
    ...     name="t", columns=(), privacy_unit="u", max_rows_per_unit=1, delta=2e-6
    ... )
    >>> round(threshold_delta(table), 12)
    1e-08
    """
    return _whole_grains(schema.delta / 2 / _THRESHOLDED_RELEASES, DELTA_GRAIN)


@lru_cache(maxsize=1024)
def rho_for(epsilon: Decimal, delta: float) -> float:
    """Return the largest rho whose epsilon at ``delta`` is at most ``epsilon``, rounded down.

    The result is a whole number of `RHO_GRAIN`, as near below it as a float can be.

    Parameters
    ----------
    epsilon
        Positive.
    delta
        Strictly between 0 and 1; usually `conversion_delta` of the table.

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
    return _whole_grains(max(best * (1 - _ROUNDING), 0.0), RHO_GRAIN)


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
    rounded = Context(prec=_DIGITS, rounding=ROUND_CEILING).plus(exact).normalize()
    return Decimal(f"{rounded:f}")


def _whole_grains(value: float, grain: Fraction) -> float:
    """Round down to a multiple of ``grain``, or to the float next below it."""
    # A hair is added first: a multiple that was itself rounded to a float must not lose a grain.
    exact = math.floor(Fraction(value) * (1 + Fraction(1, 2**52)) / grain) * grain
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
