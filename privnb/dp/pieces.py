"""Noise in pieces: several sites add some of it each, so that their sum has what the price needs.

Each site adds discrete Gaussian noise of scale ``s`` to its own integers; where at least ``pieces``
of these vectors are summed before anybody sees them, the noise in the sum has a variance of at
least ``pieces * s**2``. A piece alone protects less than its price: it may leave a site only under
the masks of a secure aggregation that insists on that many honest sites. So pieces are made here
and nowhere else; `privnb.dp.noise` always adds the whole.

A sum of discrete Gaussians is not quite a discrete Gaussian. What it costs is a theorem: Kairouz,
Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation" (ICML 2021), https://arxiv.org/abs/2102.06387, Proposition 14. With ``n`` pieces of
scale ``s >= 1/2``, vectors of ``d`` integers, and neighbours ``D`` apart in the L2 norm, the Rényi
divergence of every order ``a`` is at most ``a / 2 * (D / (sqrt(n) * s) + tau * sqrt(d))**2`` with
``tau = 10 * sum(exp(-2 * pi**2 * s**2 * k / (k + 1)) for k = 1 ... n - 1)``. That is rho-zCDP with
half the square. Noise that further sites add to the sum cannot make it more.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from privnb.dp.noise import GAUSSIAN, gaussian_measurement, limited

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LEAST_SCALE", "add_piece", "excess", "piece_scale", "proven_loss"]

LEAST_SCALE = 2.0
"""The least scale of a piece, in steps: from here on `excess` is nothing to speak of."""


def excess(scale: float, pieces: int) -> float:
    """Return the theorem's tau: how far a sum of pieces may be from one discrete Gaussian.

    >>> excess(2.0, 1), excess(2.0, 3) < 1e-15
    (0, True)
    """
    squared = 2 * math.pi**2 * scale**2
    return 10 * sum(math.exp(-squared * k / (k + 1)) for k in range(1, pieces))


def piece_scale(loss: float, sensitivity: float, *, pieces: int, size: int) -> float:
    """Return the scale of one piece, so that the sum of ``pieces`` costs at most ``loss``.

    Parameters
    ----------
    loss
        In rho.
    sensitivity
        The most by which one unit moves the vector, in the L2 norm.
    pieces
        How many pieces are in every sum, at least.
    size
        How many integers the vector has.

    Examples
    --------
    >>> round(piece_scale(0.02, 5.0, pieces=4, size=10), 6)
    12.5
    """
    if pieces < 1:
        raise ValueError("noise is in one piece or more")
    room = math.sqrt(2 * loss) - excess(LEAST_SCALE, pieces) * math.sqrt(size)
    if room <= 0:
        message = f"no noise in pieces is proved to cost only rho {loss}"
        raise ValueError(message)
    return max(sensitivity / (math.sqrt(pieces) * room) * (1 + 1e-12), LEAST_SCALE)


def proven_loss(alone: float, scale: float, *, pieces: int, size: int) -> float:
    """Return what a sum of ``pieces`` costs, in rho, when one of them alone costs ``alone``."""
    apart = math.sqrt(2 * alone / pieces) + excess(scale, pieces) * math.sqrt(size)
    return apart * apart / 2 * (1 + 1e-14)


def add_piece(values: Sequence[int], *, sensitivity: float, loss: float, pieces: int) -> list[int]:
    """Add one site's piece of noise; the sum of ``pieces`` such vectors costs ``loss`` in rho.

    Whoever sees one of them alone has seen ``pieces`` times the loss.

    >>> len(add_piece([100, 200], sensitivity=1.0, loss=0.5, pieces=2))
    2
    """
    measurement = _checked_piece(sensitivity, loss, pieces, len(values))
    noisy: list[int] = measurement([limited(value) for value in values])
    return noisy


@functools.lru_cache(maxsize=1024)
def _checked_piece(sensitivity: float, loss: float, pieces: int, size: int) -> Any:
    scale = piece_scale(loss, sensitivity, pieces=pieces, size=size)
    measurement = gaussian_measurement(scale)
    # OpenDP says what one piece costs, the theorem what that makes of the sum.
    spent = proven_loss(measurement.map(sensitivity), scale, pieces=pieces, size=size)
    if not spent <= loss:
        message = f"{pieces} pieces would cost {GAUSSIAN.loss_name} {spent}, not {loss}"
        raise RuntimeError(message)
    return measurement
