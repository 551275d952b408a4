from __future__ import annotations

import itertools
import secrets

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.federated import shamir

secret_bytes = st.binary(min_size=32, max_size=32)


def test_the_prime_is_one_and_above_every_secret():
    # Fermat's test, to many bases: a composite passes none of them but with bad luck.
    assert shamir.PRIME > 2**256
    assert all(
        pow(secrets.randbelow(shamir.PRIME - 2) + 2, shamir.PRIME - 1, shamir.PRIME) == 1
        for _ in range(40)
    )


@settings(deadline=None, derandomize=True)
@given(secret_bytes, st.integers(1, 6), st.integers(0, 3))
def test_every_choice_of_enough_shares_gives_the_secret(secret, threshold, more):
    shares = shamir.split(secret, threshold=threshold, shares=threshold + more)
    numbered = dict(enumerate(shares, 1))
    for chosen in itertools.combinations(numbered, threshold):
        assert shamir.join({point: numbered[point] for point in chosen}) == secret


@pytest.mark.parametrize("secret", [b"\0" * 32, b"\xff" * 32])
def test_the_smallest_and_the_largest_secret_come_back(secret):
    shares = shamir.split(secret, threshold=2, shares=3)
    assert shamir.join({2: shares[1], 3: shares[2]}) == secret


def test_one_share_less_fits_every_secret():
    shares = dict(enumerate(shamir.split(b"a" * 32, threshold=3, shares=3), 1))
    # To any two shares and any other secret there is a third share that makes them fit.
    for other in (b"b" * 32, b"\0" * 32):
        as_points = {0: other.rjust(33, b"\0"), 1: shares[1], 2: shares[2]}
        third = shamir.predict(as_points, point=3)
        assert shamir.join({1: shares[1], 2: shares[2], 3: third}) == other


def test_shares_of_the_same_secret_are_drawn_anew():
    first, second = (shamir.split(b"a" * 32, threshold=2, shares=3) for _ in range(2))
    assert not set(first) & set(second)


def test_a_wrong_share_gives_another_secret_or_none():
    shares = shamir.split(b"a" * 32, threshold=2, shares=2)
    assert shamir.join({1: shares[0], 2: bytes(33)}) != b"a" * 32


def test_what_is_no_secret_of_32_bytes_joins_to_none():
    too_large = (2**256 + 1).to_bytes(33)
    assert shamir.join({5: too_large}) is None


@settings(deadline=None, derandomize=True)
@given(secret_bytes, st.integers(2, 5))
def test_a_further_share_is_predicted(secret, threshold):
    numbered = dict(enumerate(shamir.split(secret, threshold=threshold, shares=threshold + 1), 1))
    last = numbered.pop(threshold + 1)
    assert shamir.predict(numbered, point=threshold + 1) == last


@pytest.mark.parametrize(
    ("secret", "threshold", "shares"), [(b"a" * 31, 2, 3), (b"a" * 32, 0, 3), (b"a" * 32, 4, 3)]
)
def test_what_cannot_be_split_is_refused(secret, threshold, shares):
    with pytest.raises(ValueError, match="32 bytes"):
        shamir.split(secret, threshold=threshold, shares=shares)
