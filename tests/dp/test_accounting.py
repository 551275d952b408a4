import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opendp import combinators, domains, measurements, metrics
from opendp.mod import enable_features

from privnb.dp.accounting import DELTA_GRAIN, LOSS_GRAIN, ZCDP, Pure, epsilon_for, rho_for

deltas = st.floats(min_value=1e-12, max_value=1e-2)
epsilons = st.decimals(min_value="0.001", max_value="20", places=3)


def opendp_epsilon(rho, delta):
    enable_features("contrib")
    space = domains.vector_domain(domains.atom_domain(T="i64")), metrics.l2_distance(T="f64")
    gaussian = measurements.make_gaussian(*space, scale=1.0)
    sensitivity = math.sqrt(2 * rho)
    assert math.isclose(gaussian.map(sensitivity), rho, rel_tol=1e-12)
    return combinators.make_zCDP_to_approxDP(gaussian).map(sensitivity).epsilon(delta)


@given(epsilon=epsilons, delta=deltas)
def test_the_rho_for_an_epsilon_costs_no_more_than_it_by_opendp_and_hardly_less(epsilon, delta):
    spent = opendp_epsilon(rho_for(epsilon, delta), delta)
    assert spent <= float(epsilon)
    assert spent >= float(epsilon) * (1 - 1e-5)


@given(rho=st.floats(min_value=1e-6, max_value=20), delta=deltas)
def test_epsilon_is_rounded_up_from_what_opendp_says_by_less_than_a_digit(rho, delta):
    shown, exact = float(epsilon_for(rho, delta)), opendp_epsilon(rho, delta)
    assert exact <= shown * (1 + 1e-9)
    assert shown <= exact * 1.001 + 1e-9


@given(epsilon=st.decimals(min_value="0.01", max_value="20", places=2), delta=deltas)
def test_an_epsilon_comes_back_from_its_rho(epsilon, delta):
    assert epsilon_for(rho_for(epsilon, delta), delta) == epsilon


@given(rho=st.floats(min_value=1e-6, max_value=5), delta=deltas)
def test_more_rho_never_means_less_epsilon(rho, delta):
    assert epsilon_for(rho, delta) <= epsilon_for(rho * 1.1, delta)


def test_the_conversion_needs_a_fifth_less_noise_than_the_loose_formula():
    delta = 1e-6
    loose = (math.sqrt(math.log(1 / delta) + 1) - math.sqrt(math.log(1 / delta))) ** 2
    assert math.sqrt(rho_for(Decimal(1), delta) / loose) > 1.15


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_a_delta_outside_0_and_1_is_an_error(delta):
    with pytest.raises(ValueError, match="delta"):
        rho_for(Decimal(1), delta)


@pytest.mark.parametrize("rho", [-1.0, math.inf, math.nan])
def test_an_impossible_rho_is_an_error(rho):
    with pytest.raises(ValueError, match="rho"):
        epsilon_for(rho, 1e-6)


def test_conversion_and_a_hundred_thresholds_share_the_delta_of_the_table():
    table = ZCDP(1e-6)
    assert table.conversion_delta + 100 * table.threshold_delta <= 1e-6 * (1 + 1e-12)
    assert table.conversion_delta + float(table.delta_cap * DELTA_GRAIN) <= 1e-6 * (1 + 1e-12)


def test_without_a_conversion_all_of_delta_is_for_a_hundred_thresholds():
    table = Pure(1e-6)
    assert table.delta_cap * DELTA_GRAIN == Fraction("1e-6")
    assert math.ceil(Fraction(table.threshold_delta) / DELTA_GRAIN) * 100 == table.delta_cap


@given(epsilon=epsilons, many=st.integers(min_value=1, max_value=50))
def test_pure_losses_add_up_plainly_and_to_the_last_grain(epsilon, many):
    table = Pure(1e-6)
    paid = math.ceil(Fraction(table.loss_for(epsilon)) / LOSS_GRAIN)
    assert Fraction(table.loss_for(epsilon)) <= Fraction(epsilon)
    assert many * paid <= table.cap(many * epsilon)
    assert table.epsilon_of(many * paid) == many * epsilon


@pytest.mark.parametrize("table", [ZCDP(1e-6), Pure(1e-6)])
@given(epsilon=epsilons, spent=st.decimals(min_value="0", max_value="0.9", places=4))
def test_the_epsilon_that_fits_into_what_is_left_is_the_largest(table, epsilon, spent):
    left = table.cap(epsilon) - int(table.cap(epsilon) * spent)
    fits = table.epsilon_fitting(left)
    assert table.cap(fits) <= left < table.cap(fits + Decimal("0.0002"))
