"""What is computed after the noise. A statistical test fails by chance once in a million runs."""

# ruff: noqa: S608 - what is tested is SQL

import math

import numpy as np
import pytest
from scipy import stats

from privnb.dp.noisy import Noisy

CITIES = ["ash", "birch", "cedar"]


def people(count):
    """Rows of known content: every person has two rows."""
    return [
        (
            f"P{n // 2}",
            "free" if n // 2 % 4 else "paid",
            1 + n % 2,
            CITIES[n // 2 % 3],
            n // 2 % 11,
            float(n // 2 % 50),
            f"20{10 + n // 2 % 3}-0{1 + n // 2 % 9}-15",
            "2020-01-31 08:00:00",
            n // 2 % 5 == 0,
            0.5,
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def big():
    return people(8000)


def answers(planned, database, sql, rows, **settings):
    query = planned(sql, epsilon="20", **settings)
    answer = query.release(database(rows).run(query))
    return [dict(zip([c.name for c in answer.columns], row, strict=True)) for row in answer.rows]


def test_aggregates_come_back_close_to_the_truth_at_a_generous_epsilon(planned, database, big):
    sql = """SELECT plan, COUNT(*) n, COUNT(DISTINCT person) people, AVG(visits) mean,
        SUM(dollars) dollars, STDDEV_POP(visits) sd, VAR_POP(dollars) v, MEDIAN(visits) middle,
        QUANTILE_CONT(dollars, 0.9) high FROM visits GROUP BY plan"""
    found = {row["plan"]: row for row in answers(planned, database, sql, big)}
    truth = database(big).rows(
        """SELECT plan, COUNT(*), COUNT(DISTINCT _unit), AVG(visits), SUM(dollars),
        STDDEV_POP(visits), VAR_POP(dollars), MEDIAN(visits), QUANTILE_CONT(dollars, 0.9)
        FROM visits GROUP BY plan"""
    )
    assert list(found) == ["free", "paid"]
    for plan, n, persons, mean, dollars, sd, variance, middle, high in truth:
        row = found[plan]
        assert row["n"] == pytest.approx(n, abs=60)
        assert row["people"] == pytest.approx(persons, abs=60)
        assert row["mean"] == pytest.approx(mean, abs=0.4)
        assert row["dollars"] == pytest.approx(dollars, rel=0.1)
        assert row["sd"] == pytest.approx(sd, rel=0.25)
        assert row["v"] == pytest.approx(variance, rel=0.25)
        assert row["middle"] == pytest.approx(middle, abs=1)
        assert row["high"] == pytest.approx(high, abs=4)


def test_counts_are_whole_numbers_and_sums_of_whole_numbers_too(planned, database, big):
    (row,) = answers(planned, database, "SELECT COUNT(*) n, SUM(visits) s FROM visits", big)
    assert type(row["n"]) is int
    assert type(row["s"]) is int


def test_public_groups_all_appear_and_undeclared_values_never_do(planned, database):
    rows = [("A", "gone", 7, "ash", 1, 1.0, None, None, True, 0.0)] * 3
    found = answers(
        planned, database, "SELECT plan, year, COUNT(*) n FROM visits GROUP BY ALL", rows
    )
    keys = [(row["plan"], row["year"]) for row in found]
    assert keys == [(p, y) for p in ("free", "paid") for y in (1, 2, 3, None)]
    assert sum(abs(row["n"]) for row in found) < 8 * 10


def test_private_groups_appear_only_when_many_are_in_them_and_in_a_fixed_order(
    planned, database, big
):
    rare = [("Q", "free", 1, "rare", 1, 1.0, None, None, True, 0.0)] * 3
    sql = "SELECT city, COUNT(*) n FROM visits GROUP BY city"
    found = answers(planned, database, sql, rare + big)
    assert [row["city"] for row in found] == CITIES


def test_null_is_a_group_of_its_own(planned, database):
    rows = [(f"P{n}", "free", 1, None, 1, 1.0, None, None, True, 0.0) for n in range(300)]
    found = answers(planned, database, "SELECT city, COUNT(*) n FROM visits GROUP BY city", rows)
    assert [row["city"] for row in found] == [None]


def test_dates_are_grouped_by_their_parts_and_come_back_as_text(planned, database, big):
    sql = "SELECT DATE_TRUNC('year', born) y, COUNT(*) n FROM visits GROUP BY y"
    found = answers(planned, database, sql, big)
    assert [row["y"] for row in found] == ["2010-01-01", "2011-01-01", "2012-01-01"]
    sql = "SELECT EXTRACT(month FROM born) m, COUNT(*) n FROM visits GROUP BY m ORDER BY m"
    found = answers(planned, database, sql, big)
    assert [row["m"] for row in found] == [*range(1, 13), None]
    assert all(abs(row["n"]) < 30 for row in found[9:])


def test_case_makes_public_groups(planned, database, big):
    sql = """SELECT CASE WHEN visits >= 8 THEN 'many' WHEN visits > 0 THEN 'some' ELSE 'none' END k,
        COUNT(*) n FROM visits GROUP BY k"""
    found = {row["k"]: row["n"] for row in answers(planned, database, sql, big)}
    truth = dict(database(big).rows(
        "SELECT CASE WHEN visits >= 8 THEN 'many' WHEN visits > 0 THEN 'some' ELSE 'none' END,"
        " COUNT(*) FROM visits GROUP BY ALL"
    ))  # fmt: skip
    assert list(found) == ["many", "some", "none"]
    assert found == pytest.approx(truth, abs=50)


def test_arithmetic_having_order_and_limit_see_the_noisy_answer(planned, database, big):
    sql = """SELECT city, ROUND(100.0 * SUM(visits) / COUNT(*), 0) AS percent FROM visits
        WHERE plan = :plan GROUP BY city HAVING percent > 100 AND city <> 'ash'
        ORDER BY city DESC LIMIT 1"""
    found = answers(planned, database, sql, big, parameters={"plan": "free"})
    assert [row["city"] for row in found] == ["cedar"]
    assert found[0]["percent"] == pytest.approx(500, abs=60)
    assert found[0]["percent"] == round(found[0]["percent"])


def test_order_by_puts_null_where_it_is_told(planned, database, big):
    sql = "SELECT year, COUNT(*) n FROM visits GROUP BY year ORDER BY year DESC NULLS {}"
    last = [r["year"] for r in answers(planned, database, sql.format("LAST"), big)]
    first = [r["year"] for r in answers(planned, database, sql.format("FIRST"), big)]
    assert last == [3, 2, 1, None]
    assert first == [None, 3, 2, 1]


def test_division_by_a_number_that_may_be_0_gives_nothing_and_says_so(planned, database):
    query = planned(
        "SELECT plan, SUM(visits) / COUNT(*) AS mean, AVG(dollars) a FROM visits GROUP BY plan"
    )
    answer = query.release(database([]).run(query))
    assert [row[1] for row in answer.rows].count(None) >= 1
    for row, widths in zip(answer.rows, answer.half_widths, strict=True):
        assert (row[1] is None) == (widths[1] is None)
    assert any("too small to say anything" in note for note in answer.notes)


def within(planned, sql, raw, truth, schema=None):
    """Release many groups of one exact content; return the share of intervals holding the truth."""
    query = planned(sql, schema)
    groups = query.groups
    rows = [(*key, *raw(query)) for key in groups]
    answer = query.release(rows)
    values = np.array([row[-1] for row in answer.rows], dtype=float)
    widths = np.array([row[-1] for row in answer.half_widths], dtype=float)
    assert not np.isnan(values).any()
    return (np.abs(values - truth) <= widths).mean(), len(groups)


SPREAD = "EXTRACT(dayofyear FROM born) d, EXTRACT(isodow FROM seen) w"


@pytest.mark.parametrize("accounting", ["zcdp", "pure"])
@pytest.mark.parametrize(
    ("aggregate", "truth"),
    [
        ("COUNT(*)", 400),
        ("SUM(visits)", 1200),
        ("AVG(visits)", 3.0),
        ("SUM(visits) / COUNT(*)", 3.0),
        ("SUM(visits) - 2 * COUNT(*) + AVG(visits) * 0", 400),
    ],
)
def test_intervals_hold_the_truth_at_least_95_times_in_100(
    aggregate, truth, accounting, planned, schema_with
):
    def raw(query):
        exact = {"count": 400, "sum": 1200 * 2}
        return [exact[v.kind] - (v.centre * 400 if v.kind == "sum" else 0) for v in query.vectors]

    share, groups = within(
        planned,
        f"SELECT {SPREAD}, {aggregate} x FROM visits GROUP BY d, w",
        raw,
        truth,
        schema_with(accounting=accounting),
    )
    doubt = stats.norm.isf(1e-6) * math.sqrt(0.95 * 0.05 / groups)
    assert share > 0.95 - doubt
    assert share < 0.99


@pytest.mark.parametrize("accounting", ["zcdp", "pure"])
@pytest.mark.parametrize(("level", "truth"), [(0.5, 12.5), (0.9, 23)])
def test_intervals_of_quantiles_hold_the_truth(level, truth, accounting, planned, schema_with):
    def raw(query):
        # Whole numbers from 0 to 25, equally often.
        return [40] * 26

    share, groups = within(
        planned,
        f"SELECT EXTRACT(dayofyear FROM born) d, QUANTILE_CONT(visits, {level}) x FROM visits"
        " GROUP BY d",
        raw,
        truth,
        schema_with(accounting=accounting),
    )
    assert share > 0.93 - stats.norm.isf(1e-6) * math.sqrt(0.95 * 0.05 / groups)


def test_errors_of_sums_and_differences_add_up_exactly():
    a = Noisy.measured([10.0], "a", 3.0)
    b = Noisy.measured([20.0], "b", 4.0)
    assert (a + b).half_width == pytest.approx([5.0])
    assert (a - a).half_width == pytest.approx([0.0])
    assert (a + a).half_width == pytest.approx([6.0])


def test_a_ratio_of_a_thing_with_itself_is_certain():
    a = Noisy.measured([10.0], "a", 3.0)
    ratio = a / a
    assert ratio.value == pytest.approx([1.0])
    assert ratio.half_width == pytest.approx([0.0], abs=1e-9)


def test_a_ratio_with_a_doubtful_denominator_is_nothing():
    ratio = Noisy.measured([5.0], "a", 1.0) / Noisy.measured([2.0], "b", 3.0)
    assert np.isnan(ratio.value).all()


def test_clipping_cuts_the_interval_at_the_known_limits():
    clipped = Noisy.measured([5.0, 30.0], "a", 100.0).clipped(0.0, 25.0)
    assert clipped.value.tolist() == [5.0, 25.0]
    assert clipped.half_width.tolist() == [20.0, 25.0]


def test_the_shares_never_exceed_the_price(planned):
    query = planned(
        "SELECT plan, COUNT(*), AVG(visits), SUM(dollars), MEDIAN(visits) FROM visits GROUP BY 1"
    )
    assert sum(query.shares.values()) <= query.price.loss
    assert sum(query.shares.values()) >= query.price.loss * (1 - 1e-9)


def test_a_vector_that_serves_more_aggregates_gets_more_of_the_price(planned):
    query = planned("SELECT COUNT(*), AVG(visits), SUM(dollars) FROM visits")
    weights = {vector.kind + (vector.column.name if vector.column else ""): vector.weight
               for vector in query.vectors}  # fmt: skip
    assert weights == {"count": 2, "sumvisits": 1, "sumdollars": 1}


def test_unit_bounds_are_used_only_where_they_bring_less_noise(planned, schema_with):
    from privnb.dp.schema import Bounds, Column, UnitBounds

    def clamp(bounds):
        columns = (
            Column(
                name="v",
                type="integer",
                nullable=False,
                bounds=Bounds(lower=0, upper=25),
                unit_bounds=bounds,
            ),
        )
        schema = schema_with(columns=columns, max_rows_per_unit=5)
        query = planned("SELECT SUM(v) s FROM visits", schema)
        return query, "GROUP BY 1\n" in query.sql or "FROM (" in query.sql

    plain, two_levels = clamp(None)
    assert not two_levels
    useless, two_levels = clamp(UnitBounds(lower=0, upper=125))
    assert not two_levels
    helpful, two_levels = clamp(UnitBounds(lower=0, upper=30))
    assert two_levels
    assert (
        helpful.vectors[0].sensitivity
        < 0.3 * plain.vectors[0].sensitivity
        == 0.3 * useless.vectors[0].sensitivity
    )
    assert any("its sum to 0…30" in line for line in helpful.clamps)
    assert not any("its sum" in line for line in useless.clamps)


def test_a_sum_beside_a_count_is_centred_and_has_less_noise(planned, schema_with):
    schema = schema_with()
    alone = planned("SELECT SUM(visits) s FROM visits WHERE year = 1", schema)
    assert alone.vectors[0].centre == 0
    both = planned("SELECT COUNT(*) n, AVG(visits) FROM visits WHERE year = 1", schema)
    summed = next(vector for vector in both.vectors if vector.kind == "sum")
    assert summed.centre != 0
    assert summed.sensitivity < alone.vectors[0].sensitivity
