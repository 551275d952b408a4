import math
from decimal import Decimal

import pytest

from privnb.dp.accounting import ZCDP, accounting_of, epsilon_for

DEMO = "SELECT plan, COUNT(*) n, AVG(visits) mean, SUM(dollars) d FROM visits GROUP BY plan"


def lines(query):
    return {line.name: line for line in query.estimate().lines}


def test_the_price_is_what_was_offered(planned, schema):
    price = planned(DEMO, epsilon="0.5").price
    assert price.epsilon == Decimal("0.5")
    assert price.delta == 0
    assert epsilon_for(price.loss, accounting_of(schema).conversion_delta) <= Decimal("0.5")


def test_unknown_group_keys_cost_delta(planned, schema):
    query = planned("SELECT city, COUNT(*) n FROM visits GROUP BY city")
    assert query.price.delta == accounting_of(schema).threshold_delta
    assert "not shown" in query.mechanism
    assert any("stay hidden" in note for note in query.estimate().notes)


def test_a_table_with_pure_accounting_has_laplace_noise_and_says_so(planned, schema_with):
    schema = schema_with(accounting="pure")
    public, rare = (
        planned(DEMO, schema),
        planned("SELECT city, COUNT(*) FROM visits GROUP BY 1", schema),
    )
    assert (public.price.delta, public.estimate().delta) == (0, "0")
    assert (rare.price.delta, rare.estimate().delta) == (
        accounting_of(schema).threshold_delta,
        "1e-08",
    )
    assert public.mechanism == (
        "discrete Laplace noise (OpenDP) on 3 vectors of exact whole numbers, epsilon 1"
    )
    assert "groups below a noisy number of rows" in rare.mechanism
    assert planned(DEMO).estimate().delta == "1e-06"


def test_pure_accounting_is_more_precise_for_one_question_and_less_for_a_share_of_many(
    planned, schema_with
):
    def error(accounting, epsilon):
        schema = schema_with(accounting=accounting)
        return lines(planned("SELECT COUNT(*) n FROM visits", schema, epsilon=epsilon))[
            "n"
        ].half_width

    assert error("pure", "1") < error("zcdp", "1")
    shared = next(
        Decimal(step) / 1000
        for step in range(1000, 0, -1)
        if 50 * ZCDP(1e-6).cap(Decimal(step) / 1000) <= ZCDP(1e-6).cap(Decimal(1))
    )
    assert error("pure", "0.02") > error("zcdp", shared)


def test_the_expected_error_is_the_one_that_is_released(planned, schema_with):
    query = planned(DEMO, schema_with(public_rows=4000))
    assert query.shares.keys() == query.scales.keys()
    expected = lines(query)
    answer = query.release([("free", *([2000] + [0] * 9)[: sum(v.width for v in query.vectors)])])
    released = dict(zip(("plan", "n", "mean", "d"), answer.half_widths[0], strict=True))
    assert expected["n"].half_width == released["n"]
    assert expected["d"].half_width == pytest.approx(released["d"])
    assert expected["mean"].half_width == pytest.approx(released["mean"], rel=0.5)


def test_an_error_that_depends_on_the_group_needs_its_size(planned, schema_with):
    unknown, known = lines(planned(DEMO)), lines(planned(DEMO, schema_with(public_rows=4000)))
    assert unknown["mean"].half_width is None
    assert "in a group of 1,000 rows" in unknown["mean"].note
    assert known["mean"].half_width is not None
    assert "in a group of 2,000 rows" in known["mean"].note
    assert unknown["n"].half_width == known["n"].half_width


def test_groups_that_are_too_small_are_said_to_be(planned, schema_with):
    found = lines(planned(DEMO, schema_with(public_rows=50)))
    assert "too small" in found["n"].note
    assert "too small" in found["mean"].note
    assert "coarsely" in found["mean"].note
    assert "epsilon" in found["mean"].note
    assert found["mean"].half_width is None


def test_more_epsilon_means_less_error(planned):
    little, much = lines(planned(DEMO, epsilon="0.5")), lines(planned(DEMO, epsilon="2"))
    assert much["n"].half_width < little["n"].half_width / 2
    assert much["d"].half_width < little["d"].half_width / 2


def test_the_clamps_are_named(planned):
    assert planned(DEMO).estimate().clamps[0] == "at most 3 rows per person"
    assert any(line.startswith("visits to 0…25") for line in planned(DEMO).clamps)


def test_the_estimate_is_of_the_demos_promised_scale(planned, schema_with):
    """At epsilon 1, 2,500 rows, 5 rows a person: counts to 3 %, and mean visits to 25 %."""
    schema = schema_with(public_rows=5000, max_rows_per_unit=5)
    found = lines(planned(DEMO, schema))
    assert found["n"].half_width / 2500 < 0.03
    assert found["mean"].half_width / 2.9 < 0.25


def test_every_accepted_shape_has_a_finite_estimate(planned):
    sql = """SELECT MEDIAN(dollars) m, STDDEV(visits) s, VAR_POP(dollars) v, COUNT(DISTINCT person)
        AS p, SUM(visits) * 2 - COUNT(*) x FROM visits WHERE year = 1"""
    for line in planned(sql, epsilon="5").estimate().lines:
        assert line.half_width is None or math.isfinite(line.half_width)
        assert line.note
