"""The claim every charge rests on: one unit moves each vector by at most what the plan says."""

# ruff: noqa: S608 - what is tested is SQL

import datetime as dt
import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privnb.dp.literals import normal_key
from privnb.dp.sensitivity import Reach, root_up, worst_norm

AGGREGATES = [
    "COUNT(*)",
    "COUNT(dollars)",
    "COUNT(visits)",
    "COUNT(DISTINCT person)",
    "SUM(visits)",
    "SUM(dollars)",
    "AVG(visits)",
    "AVG(dollars)",
    "VAR_POP(visits)",
    "STDDEV(dollars)",
    "MEDIAN(visits)",
    "QUANTILE_CONT(dollars, 0.9)",
]
KEYS = [
    "plan",
    "year",
    "city",
    "female",
    "born",
    "EXTRACT(month FROM born)",
    "EXTRACT(year FROM seen)",
    "DATE_TRUNC('month', seen)",
    "CASE WHEN visits > 3 THEN 'many' WHEN visits IS NULL THEN 'none' ELSE 'few' END",
    "CASE year WHEN 1 THEN 'first' END",
    "visits > 2",
]
FILTERS = [
    "visits > 1",
    "NOT female",
    "dollars BETWEEN -5 AND 50.5",
    "city LIKE 'a%'",
    "city IN ('a', 'b', 'ab') OR year = 2",
    "born >= '2020-01-01'",
    "seen < TIMESTAMP '2021-01-01 00:00:00'",
    "dollars IS NULL",
    "score <= 0.5 AND plan <> 'free'",
    "year IS NOT NULL AND (visits = 0 OR visits >= 10)",
]
DATES = [
    None,
    "0044-03-15 (BC)",
    "infinity",
    "2019-12-31",
    "2020-02-29",
    "2021-06-01",
    "99999-01-01",
]
FLOATS = [None, math.nan, math.inf, -math.inf, -1e300, -10.0, -0.0, 0.0, 0.3, 99.99, 100.0, 1e300]

NAMES = ["plan", "year", "city", "visits", "dollars", "born", "seen", "female", "score"]
CONSTANT = ["plan", "city", "born", "female", "score"]

row_values = st.tuples(
    st.sampled_from(["free", "free", "paid", "gone"]),
    st.sampled_from([None, 1, 2, 3, 9]),
    st.sampled_from([None, "a", "ab", "c", "😀"]),
    st.sampled_from([0, 0, 1, 2, 3, 25, 26, 1000, -5]),
    st.sampled_from(FLOATS),
    st.sampled_from(DATES),
    st.sampled_from(DATES),
    st.booleans(),
    st.sampled_from(FLOATS),
)


@st.composite
def queries(draw):
    keys = draw(st.lists(st.sampled_from(KEYS), max_size=2, unique=True))
    aggregates = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=4, unique=True))
    filters = draw(st.lists(st.sampled_from(FILTERS), max_size=2, unique=True))
    names = [f"{key} AS g{place}" for place, key in enumerate(keys)]
    names += [f"{aggregate} AS a{place}" for place, aggregate in enumerate(aggregates)]
    sql = f"SELECT {', '.join(names)} FROM visits"
    if filters:
        sql += " WHERE " + draw(st.sampled_from([" AND ", " OR "])).join(f"({f})" for f in filters)
    if keys:
        sql += f" GROUP BY {', '.join(f'g{place}' for place in range(len(keys)))}"
    return sql


@st.composite
def neighbours(draw):
    """Rows of a few units, and rows of one more, which may keep to a claim of constant columns."""
    others = draw(st.lists(st.tuples(st.sampled_from("ABC"), row_values), max_size=8))
    unit = draw(st.lists(row_values, min_size=1, max_size=7))
    if draw(st.booleans()):
        kept = [NAMES.index(name) for name in CONSTANT]
        unit = [
            tuple(unit[0][n] if n in kept else value for n, value in enumerate(row)) for row in unit
        ]
    return [(person, *row) for person, row in others], [("X", *row) for row in unit]


schemas = st.fixed_dictionaries(
    {
        "max_rows_per_unit": st.integers(min_value=1, max_value=5),
        "unique_keys": st.sampled_from([(), (("person", "year"),), (("person", "plan", "city"),)]),
        "constant": st.sets(st.sampled_from(CONSTANT)),
        "accounting": st.sampled_from(["zcdp", "pure"]),
    }
)


@pytest.fixture(scope="session")
def schema_of(schema_with):
    """Make a schema with some columns declared constant per unit."""

    def make(constant=(), **changes):
        columns = (replace(c, constant=c.name in constant) for c in schema_with().columns)
        return schema_with(columns=tuple(columns), **changes)

    return make


def groups_of(query, rows):
    width = len(query.keys)
    return {
        tuple(normal_key(k.type, v) for k, v in zip(query.keys, row[:width], strict=True)): row[
            width:
        ]
        for row in rows
    }


def differences(query, with_unit, without):
    """For each vector, the change in every group and slot."""
    before, after = groups_of(query, without), groups_of(query, with_unit)
    if query.groups is not None:
        # Groups that the plan does not know are never released.
        before, after = (
            {key: row for key, row in found.items() if key in query.groups}
            for found in (before, after)
        )
    start, changes = 0, {}
    for vector in query.vectors:
        end = start + vector.width
        zero = (0,) * 10_000
        changes[vector] = {
            key: [
                a - b
                for a, b in zip(
                    after.get(key, zero)[start:end], before.get(key, zero)[start:end], strict=True
                )
            ]
            for key in before.keys() | after.keys()
        }
        start = end
    return changes


def check_claims(query, changes):
    norm = query.accounting.noise.norm
    assert norm == (1 if query.schema.accounting == "pure" else 2)
    for vector, by_group in changes.items():
        moved = [change for group in by_group.values() for change in group]
        assert all(isinstance(change, int) for change in moved)
        # An L1 sensitivity is a whole number, so nothing is allowed for rounding.
        allowed = vector.sensitivity**norm * (1 + (norm == 2) * 1e-12)
        assert sum(abs(change) ** norm for change in moved) <= allowed
    if query.gate is not None:
        limits = query._gate_reach(query.gate)
        moved = [abs(change) for group in changes[query.gate].values() for change in group]
        assert sum(change > 0 for change in moved) <= limits["groups"]
        assert max(moved, default=0) <= limits["largest"]
        assert sum(change**norm for change in moved) <= limits["sensitivity"] ** norm


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sql=queries(), rows=neighbours(), changes=schemas)
def test_one_unit_moves_every_vector_by_at_most_its_claimed_sensitivity(  # noqa: PLR0913, PLR0917 - three drawn, three fixtures
    sql, rows, changes, planned, schema_of, database
):
    schema = schema_of(**changes)
    query = planned(sql, schema)
    others, unit = rows
    with_unit, without = database(others + unit, schema), database(others, schema)
    try:
        check_claims(query, differences(query, with_unit.run(query), without.run(query)))
        # Whatever the data, the answer has the columns asked for, and no NaN or infinity.
        answer = query.release(with_unit.run(query))
        for row in answer.rows + answer.half_widths:
            assert all(not isinstance(v, float) or math.isfinite(v) for v in row)
            assert not any(isinstance(v, (dt.date, dt.datetime)) for v in row)
    finally:
        with_unit.close()
        without.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["plan", "city", "female", "EXTRACT(month FROM born)", "score > 0"]),
    second=st.sampled_from(["", ", year", ", CASE WHEN plan = 'free' THEN 1 END"]),
    rows=neighbours(),
    accounting=st.sampled_from(["zcdp", "pure"]),
)
def test_one_unit_is_in_one_group_of_constant_keys_whatever_the_source_holds(  # noqa: PLR0913, PLR0917 - four drawn, three fixtures
    key, second, rows, accounting, planned, schema_of, database
):
    schema = schema_of(CONSTANT, max_rows_per_unit=4, accounting=accounting)
    aggregates = "SUM(visits), COUNT(DISTINCT person)"
    query = planned(f"SELECT {aggregates} FROM visits GROUP BY {key}{second}", schema)
    others, unit = rows
    with_unit, without = database(others + unit, schema), database(others, schema)
    try:
        check_claims(query, differences(query, with_unit.run(query), without.run(query)))
    finally:
        with_unit.close()
        without.close()


def worst(**values):
    """Give a row that is extreme in every way, but for what is told."""
    row = {
        "plan": "free",
        "year": 1,
        "city": "a",
        "visits": 25,
        "dollars": 100.0,
        "born": "2020-01-01",
        "seen": "2020-01-01",
        "female": True,
        "score": 0.0,
    } | values
    return ("X", *row.values())


@pytest.mark.parametrize(
    ("sql", "rows", "claimed"),
    [
        ("SELECT COUNT(*) FROM visits", [worst()] * 9, 3),
        ("SELECT city, COUNT(*) FROM visits GROUP BY city", [worst()] * 9, 3),
        ("SELECT COUNT(DISTINCT person) FROM visits", [worst()] * 9, 1),
        (
            "SELECT city, COUNT(DISTINCT person) FROM visits GROUP BY city",
            [worst(city=c) for c in "abc"],
            math.sqrt(3),
        ),
        ("SELECT SUM(visits) FROM visits", [worst()] * 9, 60),  # clamped to 30, stored in halves
        ("SELECT VAR_POP(visits) s, SUM(visits) FROM visits", [worst()] * 9, None),
        ("SELECT MEDIAN(visits) FROM visits", [worst()] * 9, 3),
    ],
)
def test_the_claims_are_tight(sql, rows, claimed, planned, database):
    query = planned(sql)
    changes = differences(query, database(rows).run(query), database([]).run(query))
    for vector, by_group in changes.items():
        moved = math.sqrt(sum(c * c for group in by_group.values() for c in group))
        assert moved <= vector.sensitivity
        assert moved >= vector.sensitivity * 0.95
        if claimed is not None:
            assert math.isclose(vector.sensitivity, claimed)


@pytest.mark.parametrize(
    ("sql", "rows", "claimed"),
    [
        ("SELECT COUNT(*) FROM visits", [worst()] * 9, 3),
        ("SELECT city, COUNT(*) FROM visits GROUP BY city", [worst(city=c) for c in "abc"], 3),
        ("SELECT COUNT(DISTINCT person) FROM visits", [worst()] * 9, 1),
        (
            "SELECT city, COUNT(DISTINCT person) FROM visits GROUP BY city",
            [worst(city=c) for c in "abc"],
            3,
        ),
        ("SELECT SUM(visits) FROM visits", [worst()] * 9, 60),  # clamped to 30, stored in halves
        # Clamped to 30 per group the sums would weigh no less: 25 in each of three groups.
        (
            "SELECT city, SUM(visits) FROM visits GROUP BY city",
            [worst(city=c) for c in "abc"],
            None,
        ),
        ("SELECT city, MEDIAN(visits) FROM visits GROUP BY city", [worst()] * 9, 3),
        ("SELECT VAR_POP(visits) s, SUM(visits) FROM visits", [worst()] * 9, None),
    ],
)
def test_the_claims_of_pure_accounting_are_tight_too(  # noqa: PLR0913, PLR0917 - three given, three fixtures
    sql, rows, claimed, planned, database, schema_with
):
    schema = schema_with(accounting="pure")
    query = planned(sql, schema)
    changes = differences(query, database(rows, schema).run(query), database([], schema).run(query))
    for vector, by_group in changes.items():
        moved = sum(abs(c) for group in by_group.values() for c in group)
        assert vector.sensitivity * 0.95 <= moved <= vector.sensitivity
        if claimed is not None:
            assert vector.sensitivity == claimed


def test_a_unit_without_values_in_a_group_adds_nothing(planned, database, schema_with):
    sql = "SELECT SUM(dollars) FROM visits"
    query = planned(sql, schema_with(max_rows_per_unit=40))
    assert query.vectors[0].clamp is not None
    without_values = [(f"P{n}", *worst(dollars=None)[1:]) for n in range(20)]
    assert database(without_values).run(query) == [(0,)]


def test_rows_that_break_a_claimed_unique_key_still_move_no_more_than_it_says(
    planned, database, schema_with
):
    unique = schema_with(unique_keys=(("person", "year"),))
    query = planned("SELECT year, COUNT(*), SUM(visits) FROM visits GROUP BY year", unique)
    same = database([worst(score=float(n)) for n in range(9)], unique)
    check_claims(query, differences(query, same.run(query), database([], unique).run(query)))


def test_a_unique_key_in_the_grouping_lowers_the_sensitivity(planned, schema_with):
    sql = "SELECT year, city, COUNT(*) FROM visits GROUP BY year, city"
    unique = schema_with(unique_keys=(("person", "year"),))
    assert math.isclose(planned(sql, unique).vectors[0].sensitivity, math.sqrt(3))
    assert planned(sql).vectors[0].sensitivity == 3
    by_half = "SELECT year > 1 AS late, COUNT(*) FROM visits GROUP BY late"
    assert planned(by_half, unique).vectors[0].sensitivity == 3


def test_rows_that_break_a_claim_of_a_constant_still_move_no_more_than_it_says(
    planned, database, schema_of
):
    constant = schema_of(constant=["city", "plan"], max_rows_per_unit=3)
    sql = "SELECT city, SUM(visits), COUNT(DISTINCT person) FROM visits GROUP BY city"
    query = planned(sql, constant)
    several = database([worst(city=city) for city in ("a", "b", None)], constant)
    check_claims(query, differences(query, several.run(query), database([], constant).run(query)))


@pytest.mark.parametrize(
    ("keys", "constant", "groups"),
    [
        (["city"], ["city"], 1),
        (["city", "plan"], ["city"], 2),
        (["plan", "city"], ["plan"], 6),
        (["plan", "female"], ["plan", "female"], 1),
        (["CASE WHEN plan = 'free' AND NOT female THEN 1 ELSE 2 END"], ["plan", "female"], 1),
        (["CASE WHEN plan = 'free' AND NOT female THEN 1 ELSE 2 END"], ["plan"], 2),
        (["EXTRACT(year FROM born)"], ["born"], 1),
        (["EXTRACT(year FROM born)"], [], 6),
        (["EXTRACT(month FROM born)", "year"], ["born"], 4),
        (["DATE_TRUNC('month', seen)"], ["born"], 6),
        (["CASE WHEN score IS NULL OR city LIKE 'a%' THEN 1 END"], ["score", "city"], 1),
        (["CASE WHEN score IS NULL OR city LIKE 'a%' THEN 1 END"], ["score"], 2),
        ([], [], 1),
    ],
)
def test_keys_that_are_constant_per_unit_put_it_into_one_group(
    keys, constant, groups, planned, schema_of
):
    names = [f"{key} AS g{place}" for place, key in enumerate(keys)]
    sql = f"SELECT {', '.join([*names, 'COUNT(*)'])} FROM visits"
    if keys:
        sql += f" GROUP BY {', '.join(str(place + 1) for place in range(len(keys)))}"
    assert planned(sql, schema_of(constant, max_rows_per_unit=6)).reach.groups == groups


def test_a_constant_key_lowers_the_noise_in_sums_and_the_threshold(planned, schema_of):
    sql = "SELECT city, SUM(visits), COUNT(DISTINCT person) FROM visits GROUP BY city"
    anywhere, one = planned(sql, schema_of()), planned(sql, schema_of(["city"]))
    (_, spread), (_, alone) = (
        sorted(vector.sensitivity for vector in query.vectors) for query in (anywhere, one)
    )
    assert alone == 60  # 30 visits in halves
    assert spread > 1.4 * alone
    assert one.gate.sensitivity == 1
    assert math.isclose(anywhere.gate.sensitivity, math.sqrt(3))
    assert one._threshold != anywhere._threshold


def splits(rows, per_group, groups):
    """All ways to put at most so many rows into at most so many groups."""
    sizes = range(per_group + 1)
    return (p for p in itertools.product(sizes, repeat=groups) if sum(p) <= rows)


@given(
    rows=st.integers(min_value=1, max_value=5),
    groups=st.integers(min_value=1, max_value=5),
    unique=st.booleans(),
    worth=st.lists(st.integers(min_value=0, max_value=50), min_size=5, max_size=5),
)
def test_the_worst_case_is_no_less_than_every_split_of_the_rows(rows, groups, unique, worth):
    reach = Reach.of(rows, unique=unique, groups=groups)
    weigh = [0, *worth]
    for norm in (1, 2):
        claimed = worst_norm(lambda n: worth[n - 1], reach, norm=norm)
        heaviest = max(
            sum(weigh[n] ** norm for n in split)
            for split in splits(rows, reach.per_group, reach.groups)
        )
        assert claimed**norm >= heaviest * (1 - (norm == 2) * 1e-12)
        if groups >= rows:
            assert math.isclose(claimed**norm, heaviest, rel_tol=1e-9)


@given(rows=st.integers(min_value=65, max_value=300), cap=st.integers(min_value=1, max_value=99))
def test_many_rows_are_bounded_without_searching_and_still_safely(rows, cap):
    reach = Reach.of(rows, unique=False, groups=None)
    claimed = worst_norm(lambda n: min(3 * n, cap), reach, norm=2)
    apart = min(3, cap) * math.sqrt(rows)
    whole = -(-cap // 3)
    assert claimed >= max(apart, cap * math.sqrt(rows // whole))
    assert worst_norm(lambda n: n, reach, norm=2) == rows
    assert worst_norm(lambda n: n, reach, norm=1) == rows
    assert worst_norm(lambda n: min(3 * n, cap), reach, norm=1) == min(3, cap) * rows


@given(st.integers(min_value=0, max_value=2**140))
def test_roots_are_never_too_small(square):
    numerator, denominator = root_up(square).as_integer_ratio()
    assert numerator**2 >= square * denominator**2
