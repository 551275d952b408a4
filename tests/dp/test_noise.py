"""False alarms: a statistical test fails a correct mechanism once in about a million runs."""

import math

import numpy as np
import pytest
from scipy import stats

from privnb.dp import noise

FALSE_ALARM = 1e-6


def probabilities(scale, reach):
    """Return P(X = k) of the discrete Gaussian for k from -reach to reach."""
    k = np.arange(-reach, reach + 1)
    weights = np.exp(-(k**2) / (2 * scale**2))
    return weights / np.exp(-(np.arange(-40 * reach, 40 * reach + 1) ** 2) / (2 * scale**2)).sum()


@pytest.mark.parametrize(("l2", "rho"), [(1.0, 0.5), (5.0, 0.05), (30.0, 0.01)])
def test_noise_is_discrete_gaussian_of_the_claimed_scale(l2, rho):
    scale, draws = noise.scale_for(rho, l2), 20_000
    sample = np.array(noise.add_noise([0] * draws, l2=l2, rho=rho))
    reach = math.ceil(5 * scale)
    mass = probabilities(scale, reach)
    # Some forty bins, each expected often enough for the chi-square approximation.
    width = max(1, (2 * reach + 1) // 40)
    edges = [start for start in range(-reach, reach + 1, width) if abs(start) < 3 * scale]
    expected, seen = [], []
    for low, high in zip([-10 * reach, *edges], [*edges, 10 * reach + 1], strict=True):
        inside = [mass[k + reach] for k in range(max(low, -reach), min(high, reach + 1))]
        expected.append(sum(inside) * draws)
        seen.append(((sample >= low) & (sample < high)).sum())
    expected = np.array(expected) * sum(seen) / sum(expected)
    assert stats.chisquare(seen, expected).pvalue > FALSE_ALARM


def test_noise_of_half_the_claimed_scale_would_be_noticed():
    draws, scale = 20_000, noise.scale_for(0.05, 5.0)
    sample = np.array(noise.add_noise([0] * draws, l2=2.5, rho=0.05))
    # The variance of a correct sample misses by this much once in a million.
    bound = stats.norm.isf(FALSE_ALARM) * math.sqrt(2 / draws)
    assert abs(sample.var() / scale**2 - 1) > bound


def test_the_released_noise_of_a_planned_query_has_the_scale_the_plan_says(planned):
    sql = "SELECT EXTRACT(dayofyear FROM born) d, female, COUNT(*) n FROM visits GROUP BY d, female"
    query = planned(sql)
    values = np.array([row[2] for row in query.release([]).rows], dtype=float)
    (scale,) = query.scales.values()
    # The variance of so many draws misses by this much once in a million.
    bound = stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(2 / len(values))
    assert len(values) == 367 * 2
    assert abs(values.var() / scale**2 - 1) < bound
    assert abs(values.mean()) < stats.norm.isf(FALSE_ALARM / 2) * scale / math.sqrt(len(values))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 12.0, 60.0, 1e5])
def test_half_widths_hold_95_percent_of_the_noise(scale):
    reach = noise.half_width(scale)
    if scale > 100:
        assert math.isclose(reach, 1.96 * scale, rel_tol=1e-3)
        return
    mass = probabilities(scale, math.ceil(12 * scale) + 3)
    middle = len(mass) // 2
    inside = mass[middle - int(reach) : middle + int(reach) + 1].sum()
    assert inside >= 0.94
    if reach >= 1 and scale < 40:
        assert inside >= 0.95
        less = int(reach) - 1
        assert mass[middle - less : middle + less + 1].sum() < 0.95


def test_a_group_of_one_unit_is_shown_at_most_as_often_as_delta_allows():
    settings = {"groups": 3, "largest": 3, "l2": 3, "rho": 0.5, "delta": 0.01}
    trials = 3000
    shown = sum(bool(noise.keep_large([3], **settings)) for _ in range(trials))
    # Three groups share delta; a correct mechanism exceeds this once in a million.
    assert shown <= stats.binom.isf(FALSE_ALARM, trials, settings["delta"])


def test_groups_without_rows_never_pass_and_large_ones_do():
    kept = noise.keep_large([0, 10_000, 0], groups=1, largest=1, l2=1, rho=0.5, delta=1e-6)
    assert list(kept) == [1]


@pytest.mark.parametrize("rho", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("l2", [1.0, math.sqrt(5), 125.0, 2.0**40])
def test_opendp_agrees_that_the_closed_form_scale_costs_no_more_than_rho(l2, rho):
    assert len(noise.add_noise([1, 2], l2=l2, rho=rho)) == 2


@pytest.mark.parametrize("groups", [1, 5, 64, 1000])
@pytest.mark.parametrize("largest", [1, 5])
@pytest.mark.parametrize("delta", [1e-4, 5e-9, 5e-13])
def test_opendp_agrees_that_the_threshold_costs_no_more_than_delta(groups, largest, delta):
    settings = {"groups": groups, "largest": largest, "l2": groups * largest}
    noise.keep_large([1], rho=0.02, delta=delta, **settings)


def test_values_at_the_edge_of_64_bits_do_not_overflow():
    noisy = noise.add_noise([2**80, -(2**80)], l2=1.0, rho=0.5)
    assert abs(noisy[0] - 2**62) < 100
    assert abs(noisy[1] + 2**62) < 100
