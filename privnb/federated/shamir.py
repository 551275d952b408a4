"""Secrets split into shares, of which a threshold gives the secret and one less gives nothing.

Shamir's scheme ("How to share a secret", CACM 1979) over the integers modulo a prime: the secret is
a polynomial's value at 0, the shares are its values at 1, 2, 3, and so on.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "join", "predict", "split"]

PRIME = 2**256 + 297
"""The smallest prime above all secrets."""
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, *, threshold: int, shares: int) -> list[bytes]:
    """Split 32 bytes; the share at index ``i`` is that of point ``i + 1``.

    >>> parts = split(b"s" * 32, threshold=2, shares=3)
    >>> join({1: parts[0], 3: parts[2]}) == b"s" * 32
    True
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= shares:
        raise ValueError("32 bytes are split, and no more shares are needed than there are")
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret))
    made = []
    for point in range(1, shares + 1):
        value = 0
        for coefficient in polynomial:
            value = (value * point + coefficient) % PRIME
        made.append(value.to_bytes(SHARE_BYTES))
    return made


def join(shares: Mapping[int, bytes]) -> bytes | None:
    """Find the secret from exactly as many shares as the threshold, by point.

    With wrong shares this is another secret, or None; with fewer, anything at all.
    """
    value = _value(shares, at=0)
    return value.to_bytes(SECRET_BYTES) if value < 256**SECRET_BYTES else None


def predict(shares: Mapping[int, bytes], *, point: int) -> bytes:
    """Find one more share from as many as the threshold."""
    return _value(shares, at=point).to_bytes(SHARE_BYTES)


def _value(shares: Mapping[int, bytes], *, at: int) -> int:
    points = tuple(sorted(shares))
    parts = zip(points, _weights(points, at), strict=True)
    return sum(int.from_bytes(shares[point]) * weight for point, weight in parts) % PRIME


@functools.lru_cache(maxsize=256)
def _weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    """Compute what each point's value counts for in the value at another point (Lagrange)."""
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * (at - other) % PRIME
                below = below * (point - other) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
