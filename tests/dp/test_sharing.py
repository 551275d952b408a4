"""False alarms: a statistical test fails a correct mechanism once in about a million runs."""

import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from privnb.computation import Federation
from privnb.dp.noise import GAUSSIAN, gaussian_measurement
from privnb.dp.pieces import LEAST_SCALE, add_piece, excess, piece_scale, proven_loss
from privnb.dp.planner import plan
from privnb.dp.schema import Bounds, TableSchema, UnitBounds
from privnb.dp.sharing import difference, estimate_total, form, mechanism, require_shareable
from privnb.errors import QueryRefused
from privnb.wire import decode, encode

FALSE_ALARM = 1e-6
SITES = ("northside", "riverside", "lakeside")
TOTALS = "SELECT plan, COUNT(*) n, AVG(visits) mean, SUM(dollars) d FROM visits GROUP BY plan"
MANY = "SELECT EXTRACT(dayofyear FROM born) d, female, COUNT(*) n FROM visits GROUP BY d, female"


def federation(groups=None, *, threshold=2, colluding=0):
    return Federation(sites=SITES, threshold=threshold, colluding=colluding, groups=groups)


def changed(schema, name, **changes):
    columns = (replace(c, **changes) if c.name == name else c for c in schema.columns)
    return replace(schema, columns=tuple(columns))


@pytest.fixture(scope="session")
def shared(schema_with):
    """Plan a question for a total, with epsilon 1 unless told."""

    def make(sql, schema=None, *, epsilon="1", **terms):
        schema = schema or schema_with()
        return plan(
            sql, tables={"visits": schema}, epsilon=Decimal(epsilon), federation=federation(**terms)
        )

    return make


def total_of(shares):
    return [sum(integers) for integers in zip(*shares, strict=True)]


def sampled(query, sites, pieces):
    """Return the counts of a total over empty sites: noise alone."""
    total = total_of(query.share([], pieces=pieces) for _ in range(sites))
    answer = query.combine(total, parts=sites, pieces=pieces)
    return np.array([row[2] for row in answer.rows], dtype=float)


# The price of noise in pieces.


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("loss", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("sensitivity", [1.0, math.sqrt(5), 125.0, 2.0**40])
def test_opendp_and_the_theorem_agree_that_the_sum_costs_no_more_than_the_loss(
    sensitivity, loss, pieces
):
    scale = piece_scale(loss, sensitivity, pieces=pieces, size=1000)
    alone = gaussian_measurement(scale).map(sensitivity)
    assert proven_loss(alone, scale, pieces=pieces, size=1000) <= loss
    assert len(add_piece([1, 2], sensitivity=sensitivity, loss=loss, pieces=pieces)) == 2


def test_a_piece_costs_alone_as_many_times_the_loss_as_there_are_pieces():
    scale = piece_scale(0.02, 5.0, pieces=4, size=10)
    assert math.isclose(gaussian_measurement(scale).map(5.0), 4 * 0.02, rel_tol=1e-9)


def distribution_of_sum(scale, pieces, reach):
    """Return P(X = k) of a sum of discrete Gaussians, for k from -reach to reach."""
    single = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * scale**2))
    single /= single.sum()
    found = single
    for _ in range(pieces - 1):
        found = np.convolve(found, single)
    middle = len(found) // 2
    return found[middle - reach : middle + reach + 1]


@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.6, 0.8, 1.0, 1.5])
@pytest.mark.parametrize("order", [1.5, 2.0, 8.0])
def test_the_theorem_bounds_the_divergence_that_is_computed_from_the_distributions(
    scale, pieces, order
):
    """Below the least scale too, where the theorem says more than a Gaussian would."""
    reach, moved = 60, 3
    mass = distribution_of_sum(scale, pieces, reach)
    first, second = mass[moved:], mass[:-moved]
    likely = (first > 1e-250) & (second > 1e-250)
    logs = order * np.log(first[likely]) + (1 - order) * np.log(second[likely])
    divergence = np.logaddexp.reduce(logs) / (order - 1)
    alone = moved**2 / (2 * scale**2)
    assert divergence <= order * proven_loss(alone, scale, pieces=pieces, size=1) + 1e-12
    assert excess(scale, pieces) > excess(scale + 0.1, pieces)


def test_noise_in_pieces_is_no_less_than_noise_in_one_and_hardly_more():
    whole = GAUSSIAN.scale_for(0.02, 5.0)
    for pieces in (1, 2, 5, 30):
        summed = math.sqrt(pieces) * piece_scale(0.02, 5.0, pieces=pieces, size=100_000)
        assert whole <= summed <= whole * (1 + 1e-9)


def test_less_loss_and_fewer_pieces_mean_more_noise_at_each_site():
    scales = [piece_scale(loss, 5.0, pieces=2, size=10) for loss in (1e-4, 1e-3, 1e-2)]
    assert scales == sorted(scales, reverse=True)
    scales = [piece_scale(0.01, 5.0, pieces=pieces, size=10) for pieces in (1, 2, 3)]
    assert scales == sorted(scales, reverse=True)


def test_no_offer_makes_a_piece_smaller_than_the_least_scale():
    assert piece_scale(100.0, 1.0, pieces=3, size=1) == LEAST_SCALE


def test_a_loss_that_no_noise_in_pieces_is_proved_to_have_is_refused():
    with pytest.raises(ValueError, match="proved"):
        piece_scale(1e-40, 1.0, pieces=3, size=1)
    with pytest.raises(ValueError, match="one piece"):
        piece_scale(0.1, 1.0, pieces=0, size=1)


# Shares and their sum.


@pytest.mark.parametrize(("sites", "pieces"), [(1, 1), (2, 2), (3, 2), (3, 3), (5, 2)])
def test_the_noise_of_a_total_has_the_variance_of_all_its_pieces(sites, pieces, shared):
    query = shared(MANY)
    values = sampled(query, sites, pieces)
    (scale,) = query.scales.values()
    expected = scale * math.sqrt(sites / pieces)
    assert len(values) == 367 * 2
    bound = 2 * stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(2 / len(values))
    assert abs(values.var() / expected**2 - 1) < bound
    assert abs(values.mean()) < stats.norm.isf(FALSE_ALARM / 2) * expected / math.sqrt(len(values))


def test_pieces_of_half_the_claimed_scale_would_be_noticed(shared):
    query = shared(MANY)
    values = sampled(query, 3, 2) / 2
    (scale,) = query.scales.values()
    bound = 2 * stats.norm.isf(FALSE_ALARM / 2) * math.sqrt(2 / len(values))
    assert abs(values.var() / (scale * math.sqrt(3 / 2)) ** 2 - 1) > bound


def test_a_total_is_that_of_all_sites(shared):
    query = shared(TOTALS, epsilon="20")
    slots = {
        vector.kind + (vector.column.name if vector.column else ""): vector
        for vector in query.vectors
    }
    place = {name: list(slots).index(name) for name in slots}
    rows = [0] * len(slots)
    rows[place["count"]] = 100_000
    found = query.combine(
        total_of(query.share([("free", *rows)], pieces=2) for _ in range(3)), parts=3, pieces=2
    )
    by_plan = dict(zip((row[0] for row in found.rows), found.rows, strict=True))
    width = dict(zip((row[0] for row in found.rows), found.half_widths, strict=True))
    # Five half-widths of 95 % are some ten standard deviations.
    assert abs(by_plan["free"][1] - 300_000) < 5 * width["free"][1]
    assert abs(by_plan["paid"][1]) < 5 * width["paid"][1]


def test_having_order_and_limit_are_applied_to_the_total_alone(shared):
    sql = (
        "SELECT plan, year, COUNT(*) n FROM visits GROUP BY 1, 2 HAVING COUNT(*) > 2500"
        " ORDER BY n DESC LIMIT 1"
    )
    query = shared(sql, epsilon="20")
    one = [("free", 1, 1000), ("free", 2, 2000), ("paid", 1, 10)]
    total = total_of(query.share(one, pieces=2) for _ in range(3))
    found = query.combine(total, parts=3, pieces=2)
    assert len(total) == query.share_length == 2 * 4
    assert [row[:2] for row in found.rows] == [("free", 2)]
    assert abs(found.rows[0][2] - 6000) < 300
    assert query.combine([0] * 8, parts=3, pieces=2).rows == ()


def test_the_order_of_the_engines_rows_does_not_matter(shared):
    query = shared(TOTALS, epsilon="20")
    width = sum(vector.width for vector in query.vectors)
    one = [("free", *[10**6] * width), ("paid", *[0] * width)]
    first, second = (np.array(query.share(rows, pieces=2)) for rows in (one, one[::-1]))
    assert (np.abs(first - second) < 10**6 / 2).sum() >= len(query.vectors)


def test_intervals_are_for_the_noise_of_all_who_are_in_the_sum(shared):
    query = shared("SELECT COUNT(*) n FROM visits")
    width = {
        parts: query.combine([1000], parts=parts, pieces=2).half_widths[0][0] for parts in (2, 3, 8)
    }
    alone = query.release([(1000,)]).half_widths[0][0]
    assert width[2] == pytest.approx(alone, rel=0.1)
    assert width[8] == pytest.approx(2 * alone, rel=0.1)
    assert width[2] < width[3] < width[8]


@pytest.mark.parametrize(
    ("total", "parts", "pieces"), [([1], 1, 2), ([1, 2], 2, 2), ([], 2, 2), ([1], 2, 0)]
)
def test_a_sum_that_cannot_be_one_is_no_answer(total, parts, pieces, shared):
    with pytest.raises(ValueError, match="no sum"):
        shared("SELECT COUNT(*) n FROM visits").combine(total, parts=parts, pieces=pieces)


@pytest.mark.parametrize(
    ("sql", "changes", "code", "named"),
    [
        ("SELECT COUNT(*) FROM visits", {"accounting": "pure"}, "E_ACCOUNTING", "Laplace"),
        ("SELECT city, COUNT(*) FROM visits GROUP BY city", {}, "E_NO_VALUES", "'city'"),
        ("SELECT plan, born, COUNT(*) FROM visits GROUP BY 1, 2", {}, "E_NO_VALUES", "'born'"),
    ],
)
def test_noise_that_cannot_be_shared_is_refused_with_the_reason(  # noqa: PLR0913, PLR0917 - four given, three fixtures
    sql, changes, code, named, shared, planned, schema_with
):
    schema = schema_with(**changes)
    with pytest.raises(QueryRefused) as refused:
        shared(sql, schema)
    assert refused.value.code == code
    assert named in refused.value.message
    assert "%%secure" in refused.value.hint
    query = planned(sql, schema)
    with pytest.raises(QueryRefused):
        require_shareable(query)
    with pytest.raises(ValueError, match="pieces"):
        query.share([], pieces=2)
    with pytest.raises(ValueError, match="pieces"):
        query.combine([], parts=2, pieces=2)


# Sites that answer together.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: replace(s, max_rows_per_unit=4), "at most 3 rows"),
        (lambda s: replace(s, delta=1e-5), "delta 1e-05"),
        (lambda s: changed(s, "plan", values=("free", "paid", "other")), "'plan'"),
        (lambda s: changed(s, "plan", nullable=True), "'plan'"),
        (lambda s: changed(s, "visits", bounds=Bounds(lower=0, upper=20)), "'visits'"),
        (lambda s: changed(s, "visits", nullable=True), "'visits'"),
        (lambda s: changed(s, "dollars", unit_bounds=UnitBounds(lower=-10, upper=90)), "'dollars'"),
        (lambda s: changed(s, "dollars", unit_bounds=None), "'dollars'"),
        (lambda s: changed(s, "plan", constant=True), "constant"),
    ],
)
def test_what_keeps_sites_from_adding_up_is_named(change, named, planned, schema_with):
    schema = schema_with(max_rows_per_unit=3)
    plans = {
        "northside": planned(TOTALS, schema),
        "riverside": planned(TOTALS, schema),
        "lakeside": planned(TOTALS, change(schema)),
    }
    said = difference(plans)
    assert named in said
    assert "lakeside" in said
    assert "northside" in said
    assert form(plans["northside"]) == form(plans["riverside"]) != form(plans["lakeside"])


def test_other_accounting_keeps_sites_from_adding_up(planned, schema_with):
    plans = {name: planned(TOTALS, schema_with(accounting=name)) for name in ("zcdp", "pure")}
    assert "accounting" in difference(plans)


def test_what_changes_no_number_keeps_nobody_from_adding_up(planned, schema_with):
    other = changed(schema_with(public_rows=7, description="ours"), "visits", description="more")
    other = changed(other, "seen", nullable=False)
    plans = {"northside": planned(TOTALS), "riverside": planned(TOTALS, other)}
    assert difference(plans) is None
    assert form(plans["northside"]) == form(plans["riverside"])


def test_a_schema_that_went_through_json_has_the_same_form(planned, schema):
    sent = decode(TableSchema, encode(schema), what="it")
    for whole in (0, 0.0):
        own = changed(sent, "visits", bounds=Bounds(lower=whole, upper=25))
        assert form(planned(TOTALS, own)) == form(planned(TOTALS, schema))


def test_more_epsilon_is_another_form(planned):
    assert form(planned(TOTALS, epsilon="1")) != form(planned(TOTALS, epsilon="20"))


def test_the_mechanism_says_what_each_site_adds_and_how_many_are_enough(shared):
    said = mechanism(shared(TOTALS), sites=3, pieces=2)
    assert (
        "discrete Gaussian noise (OpenDP), shared: each of 3 sites adds variance sigma^2/2" in said
    )
    assert "so that any 2 are enough" in said
    assert "rho 0.0229" in said


def test_the_estimate_of_a_total_stands_beside_that_of_asking_each_site_alone(shared, schema_with):
    plans = {name: shared(TOTALS, schema_with(public_rows=4000)) for name in SITES}
    estimate = estimate_total(plans, pieces=2)
    line = {line.name: line for line in estimate.lines}["n"]
    alone = plans["northside"].estimate().lines[0].half_width
    assert line.half_width == pytest.approx(alone * math.sqrt(3 / 2), rel=0.1)
    assert f"±{alone * math.sqrt(3):.3g}"[:3] in line.note
    assert "in a group of 6,000 rows" in line.note
    assert "shared" in estimate.mechanism
    unknown = {name: shared(TOTALS) for name in SITES}
    assert "1,000 rows" in estimate_total(unknown, pieces=2).lines[0].note


# What one unit does to a share.

rows_of_a_unit = st.lists(
    st.tuples(
        st.sampled_from(["free", "paid", "gone"]),
        st.sampled_from([None, 1, 2, 3, 9]),
        st.sampled_from([0, 3, 25, 1000, -5]),
        st.sampled_from([None, math.nan, math.inf, -1e300, -10.0, 0.3, 100.0]),
    ),
    min_size=1,
    max_size=7,
)


def full(person, row):
    plan_, year, visits, dollars = row
    return (person, plan_, year, "a", visits, dollars, "2020-02-29", None, True, 0.5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(others=rows_of_a_unit, unit=rows_of_a_unit, most=st.integers(1, 4))
def test_one_unit_moves_the_exact_part_of_a_share_by_no_more_than_its_noise_is_for(  # noqa: PLR0913, PLR0917 - three drawn, three fixtures
    others, unit, most, shared, schema_with, database
):
    schema = schema_with(max_rows_per_unit=most)
    query = shared(
        "SELECT plan, year, COUNT(*), AVG(dollars), SUM(visits), COUNT(DISTINCT person) FROM visits"
        " GROUP BY plan, year",
        schema,
        groups={"plan": ["other", "free", "paid"], "year": [3, 2, 1, 0, None]},
    )
    around = [full(f"P{place}", row) for place, row in enumerate(others)]
    without, with_unit = (
        database(rows, schema) for rows in (around, around + [full("X", row) for row in unit])
    )
    try:
        nothing = (0,) * sum(vector.width for vector in query.vectors)
        tables = [
            [query._exact(source.run(query)).get(key, nothing) for key in query.groups]
            for source in (without, with_unit)
        ]
        assert len(query.groups) == 3 * 5
        for vector in query.vectors:
            before, after = (query._flat(table, vector) for table in tables)
            moved = sum((a - b) ** 2 for a, b in zip(after, before, strict=True))
            assert moved <= vector.sensitivity**2 * (1 + 1e-12)
    finally:
        without.close()
        with_unit.close()
