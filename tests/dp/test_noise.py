"""False alarms: a statistical test fails a correct mechanism once in about a million runs."""

import math

import numpy as np
import pytest
from scipy import stats

from privnb.dp.noise import GAUSSIAN, LAPLACE

FALSE_ALARM = 1e-6


KINDS = pytest.mark.parametrize("noise", [GAUSSIAN, LAPLACE], ids=["gaussian", "laplace"])


def weigh(noise, k, scale):
    if noise is GAUSSIAN:
        return np.exp(-(k**2) / (2 * scale**2))
    return np.exp(-np.abs(k) / scale)


def probabilities(noise, scale, reach):
    """Return P(X = k) for k from -reach to reach."""
    near, all_ = np.arange(-reach, reach + 1), np.arange(-40 * reach, 40 * reach + 1)
    return weigh(noise, near, scale) / weigh(noise, all_, scale).sum()


def excess(noise):
    """Return the fourth moment over the squared variance, less 1: the variance of a square."""
    return 2 if noise is GAUSSIAN else 5


def deviation(noise, scale):
    return scale if noise is GAUSSIAN else scale * math.sqrt(2)


@KINDS
@pytest.mark.parametrize(("sensitivity", "loss"), [(1.0, 0.5), (5.0, 0.05), (30.0, 0.01)])
def test_noise_has_the_claimed_distribution_and_scale(noise, sensitivity, loss):
    scale, draws = noise.scale_for(loss, sensitivity), 20_000
    sample = np.array(noise.add_noise([0] * draws, sensitivity=sensitivity, loss=loss))
    reach = math.ceil(12 * scale)
    mass = probabilities(noise, scale, reach)
    # Some forty bins, each expected often enough for the chi-square approximation.
    width = max(1, math.ceil(scale) // 4)
    edges = [start for start in range(-reach, reach + 1, width) if abs(start) < 3 * scale]
    expected, seen = [], []
    for low, high in zip([-10 * reach, *edges], [*edges, 10 * reach + 1], strict=True):
        inside = [mass[k + reach] for k in range(max(low, -reach), min(high, reach + 1))]
        expected.append(sum(inside) * draws)
        seen.append(((sample >= low) & (sample < high)).sum())
    expected = np.array(expected) * sum(seen) / sum(expected)
    assert stats.chisquare(seen, expected).pvalue > FALSE_ALARM


@KINDS
def test_noise_of_half_the_claimed_scale_would_be_noticed(noise):
    draws, scale = 20_000, noise.scale_for(0.05, 5.0)
    sample = np.array(noise.add_noise([0] * draws, sensitivity=2.5, loss=0.05))
    # The variance of a correct sample misses by this much once in a million.
    bound = stats.norm.isf(FALSE_ALARM) * math.sqrt(excess(noise) / draws)
    assert abs(sample.var() / deviation(noise, scale) ** 2 - 1) > bound


@pytest.mark.parametrize("accounting", ["zcdp", "pure"])
def test_the_released_noise_of_a_planned_query_has_the_scale_the_plan_says(
    accounting, planned, schema_with
):
    sql = "SELECT EXTRACT(dayofyear FROM born) d, female, COUNT(*) n FROM visits GROUP BY d, female"
    query = planned(sql, schema_with(accounting=accounting))
    values = np.array([row[2] for row in query.release([]).rows], dtype=float)
    (scale,) = query.scales.values()
    noise = query.accounting.noise
    expected = deviation(noise, scale)
    assert math.isclose(noise.variance(query.price.loss, 3.0), expected**2, rel_tol=1e-9)
    # The variance of so many draws misses by this much once in a million; a sum of squares of
    # Laplace noise has a longer tail than the normal distribution, so twice that.
    bound = 2 * stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(excess(noise) / len(values))
    assert len(values) == 367 * 2
    assert abs(values.var() / expected**2 - 1) < bound
    assert abs(values.mean()) < stats.norm.isf(FALSE_ALARM / 2) * expected / math.sqrt(len(values))


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 12.0, 60.0, 1e5])
def test_half_widths_hold_95_percent_of_gaussian_noise(scale):
    reach = GAUSSIAN.half_width(scale)
    if scale > 100:
        assert math.isclose(reach, 1.96 * scale, rel_tol=1e-3)
        return
    mass = probabilities(GAUSSIAN, scale, math.ceil(12 * scale) + 3)
    middle = len(mass) // 2
    inside = mass[middle - int(reach) : middle + int(reach) + 1].sum()
    assert inside >= 0.94
    if reach >= 1 and scale < 40:
        assert inside >= 0.95
        less = int(reach) - 1
        assert mass[middle - less : middle + less + 1].sum() < 0.95


@pytest.mark.parametrize("scale", [0.1, 0.26, 0.28, 0.7, 1.0, 3.0, 12.3, 60.0, 1e4])
def test_half_widths_hold_95_percent_of_laplace_noise_and_no_step_more(scale):
    def inside(reach):
        a = math.exp(-1 / scale)
        return 1 - 2 * a ** (math.floor(reach) + 1) / (1 + a)

    reach = LAPLACE.half_width(scale)
    assert inside(reach) >= 0.95
    assert reach < 1 or inside(reach - 1) < 0.95
    mass = probabilities(LAPLACE, 3.0, 60)
    assert math.isclose(mass[60 - 8 : 60 + 9].sum(), 1 - 2 * math.exp(-3) / (1 + math.exp(-1 / 3)))


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.5, 0.8, 0.99, 1.01])
def test_roots_of_squared_half_widths_hold_sums_of_laplace_noise(factor):
    """The exact tail of X + factor * Y, both Laplace of scale 1, beyond the claimed half-width."""
    reach = math.log(20) * math.hypot(1, factor)
    square = factor**2
    tail = (math.exp(-reach) - square * math.exp(-reach / factor)) / (1 - square)
    assert 0.03 < tail < 0.05


@KINDS
def test_a_group_of_one_unit_is_shown_at_most_as_often_as_delta_allows(noise):
    settings = {"groups": 3, "largest": 3, "sensitivity": 9, "loss": 0.5, "delta": 0.01}
    trials = 3000
    shown = sum(bool(noise.keep_large([3], **settings)) for _ in range(trials))
    # Three groups share delta; a correct mechanism exceeds this once in a million.
    assert shown <= stats.binom.isf(FALSE_ALARM, trials, settings["delta"])


@KINDS
def test_groups_without_rows_never_pass_and_large_ones_do(noise):
    settings = {"groups": 1, "largest": 1, "sensitivity": 1, "loss": 0.5, "delta": 1e-6}
    kept = noise.keep_large([0, 10_000, 0], **settings)
    assert list(kept) == [1]


@KINDS
@pytest.mark.parametrize("loss", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("sensitivity", [1.0, math.sqrt(5), 125.0, 2.0**40])
def test_opendp_agrees_that_the_closed_form_scale_costs_no_more_than_the_loss(
    noise, sensitivity, loss
):
    assert len(noise.add_noise([1, 2], sensitivity=sensitivity, loss=loss)) == 2


@KINDS
@pytest.mark.parametrize("loss", [0.02, 1.0, 20.0])
@pytest.mark.parametrize("groups", [1, 5, 64, 1000])
@pytest.mark.parametrize("largest", [1, 5])
@pytest.mark.parametrize("delta", [1e-4, 5e-9, 5e-13])
def test_opendp_agrees_that_the_threshold_costs_no_more_than_delta(
    noise, groups, largest, delta, loss
):
    settings = {"groups": groups, "largest": largest, "sensitivity": groups * largest}
    noise.keep_large([1], loss=loss, delta=delta, **settings)


@KINDS
def test_values_at_the_edge_of_64_bits_do_not_overflow(noise):
    noisy = noise.add_noise([2**80, -(2**80)], sensitivity=1.0, loss=0.5)
    assert abs(noisy[0] - 2**62) < 100
    assert abs(noisy[1] + 2**62) < 100
