from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.federated.ring import (
    FRACTION_BITS,
    RangeError,
    decode,
    encode,
    from_integers,
    to_integers,
)

STEP = 2.0**-FRACTION_BITS
exact = st.integers(-(2**52), 2**52).map(lambda steps: steps * STEP)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(exact, min_size=3, max_size=3), min_size=1, max_size=8))
def test_a_sum_of_fixed_point_numbers_is_exact(vectors):
    total = sum(encode(vector, parties=len(vectors)) for vector in vectors)
    assert decode(total).tolist() == [math.fsum(column) for column in zip(*vectors, strict=True)]


@settings(deadline=None, derandomize=True)
@given(st.floats(-(2.0**38), 2.0**38))
def test_a_number_is_off_by_at_most_half_a_step(number):
    (back,) = decode(encode([number], parties=1))
    assert abs(back - number) <= STEP / 2


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 1000), st.floats(allow_nan=True, allow_infinity=True))
def test_what_is_taken_cannot_leave_the_range_however_many_add_it(parties, number):
    try:
        (one,) = encode([number], parties=parties).view(np.int64).tolist()
    except RangeError:
        assert not abs(number) * parties < 2.0**39 - parties
    else:
        assert -(2**63) < one * parties < 2**63


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2.0**39 / 3, -(2.0**39) / 3])
@pytest.mark.parametrize("place", [0, 2])
def test_what_is_not_finite_or_too_large_is_refused_wherever_it_stands(number, place):
    values = [1.0, 2.0, 3.0]
    values[place] = number
    with pytest.raises(RangeError, match="2\\*\\*39"):
        encode(values, parties=3)


def test_the_largest_sum_is_just_taken():
    largest = math.nextafter(2.0**39, 0)
    assert decode(encode([largest, -largest], parties=1)).tolist() == [largest, -largest]


def test_nothing_encodes_to_nothing_and_every_shape_to_one_dimension():
    assert encode([], parties=3).shape == (0,)
    assert encode(np.ones((2, 3), np.float32), parties=3).shape == (6,)


def test_the_callers_array_is_left_as_it_was():
    values = np.array([0.1, 0.2])
    encode(values, parties=2)
    assert values.tolist() == [0.1, 0.2]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(1 - 2**61, 2**61 - 1), min_size=4, max_size=4))
def test_integers_sum_exactly(numbers):
    total = sum(from_integers([number], parties=4) for number in numbers)
    assert to_integers(total) == [sum(numbers)]


@pytest.mark.parametrize("number", [2**62, -(2**62), 2**80])
def test_an_integer_whose_sum_could_leave_the_range_is_refused(number):
    with pytest.raises(RangeError):
        from_integers([0, number], parties=2)
    assert to_integers(from_integers([2**62 - 1], parties=2)) == [2**62 - 1]
