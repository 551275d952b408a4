"""Queries made to tell something by failing, or to keep the site busy for ever."""

# ruff: noqa: S608, RUF001 - what is tested is SQL and odd letters

import contextlib
import time

import pytest

from privnb.dp.schema import Bounds, Column
from privnb.errors import QueryRefused

N = "SELECT COUNT(*) FROM visits"
SECONDS = 10.0
"""Far more than a refusal takes, far less than what was attempted would."""


@pytest.mark.parametrize(
    "condition",
    [
        "'abc' IN (DATE '2026-01-01')",
        "'abc' NOT IN (DATE '2026-01-01', DATE '2026-01-02')",
        "'2026-01-01' IN (DATE '2026-01-01', 'abc')",
        "'2026-01-01' IN ('abc', DATE '2026-01-01')",
    ],
)
def test_no_condition_can_fail_for_some_rows_only(condition, planned):
    # The engine would read 'abc' as a date for the rows that pass the first condition, and fail
    # if there is one: an exact answer, for any epsilon.
    with pytest.raises(QueryRefused, match="is not a date"):
        planned(f"{N} WHERE visits > 20 AND {condition}")


def test_a_text_among_dates_is_compared_as_a_date(planned, database):
    query = planned(f"{N} WHERE '2026-01-01' IN (DATE '2026-01-01', '2026-01-02')")
    assert "CAST('2026-01-01' AS DATE) IN" in query.sql
    database([]).run(query)


NESTED = {
    "BETWEEN": ("(", "female", " BETWEEN FALSE AND TRUE)"),
    "CASE": ("CASE ", "female", " WHEN TRUE THEN TRUE WHEN FALSE THEN FALSE END"),
    "JOIN": ("", "female", " JOIN visits"),
    "brackets": ("(", "female", ")"),
    "functions": ("f(", "female", ")"),
    "casts": ("CAST(", "female", " AS DATE)"),
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_is_nested_is_refused_or_planned_at_once(kind, planned):
    before, inside, after = NESTED[kind]
    start = time.monotonic()
    with contextlib.suppress(QueryRefused):
        assert len(planned(f"{N} WHERE {before * 35}{inside}{after * 35}").sql) < 1e6
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("visits IN :v", list(range(100_000))),
        (" OR ".join(["visits IN :v"] * 500), list(range(200))),
        (f"city IN ({', '.join([':v'] * 500)})", "x" * 900_000),
    ],
)
def test_parameters_cannot_make_a_short_query_huge(condition, value, planned):
    with pytest.raises(QueryRefused, match="Written out"):
        planned(f"{N} WHERE {condition}", parameters={"v": value})


def test_a_long_list_of_values_is_accepted(planned, database):
    query = planned(f"{N} WHERE visits IN :v", parameters={"v": list(range(5000))})
    database([]).run(query)


def test_a_pattern_takes_no_longer_for_long_texts(planned, database):
    query = planned(f"{N} WHERE city LIKE '%_a%_a%_a%_a%_a%_a%_a%_b'")
    row = ("p", "free", 1, "a" * 200, 1, 1.0, None, None, True, None)
    tables = database([row])
    start = time.monotonic()
    tables.run(query)
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    "pattern",
    ["a_%", "%_", "_%_", "%a_b%", "%._%", "(_%", "%'_", "\\_%", "_\n%", "%é_", "[_%]", "^_%$"],
)
def test_patterns_mean_what_they_mean_to_the_engine(pattern, planned, database):
    texts = ["", "a", "ab", "aXb", "a.b", "(x)", "x'y", "\\x", "x\ny", "xéz", "[x]", "^x$", "𝒳y"]
    tables = database(
        [
            (str(place), "free", 1, text, 1, 1.0, None, None, True, None)
            for place, text in enumerate(texts)
        ]
    )
    found = tables.run(planned(f"{N} WHERE city LIKE :p", parameters={"p": pattern}))[0][0]
    named = pattern.replace("'", "''")
    assert found == tables.rows(f"SELECT COUNT(*) FROM visits WHERE city LIKE '{named}'")[0][0]


def test_a_free_query_cannot_keep_the_site_busy_with_noise(planned, schema_with):
    # Each noisy number takes some thirty microseconds, on the mock twin too.
    groups = Column(name="g", type="integer", nullable=False, values=tuple(range(2000)))
    bounded = Column(name="visits", type="float", bounds=Bounds(lower=0, upper=1))
    schema = schema_with(columns=(groups, bounded))
    planned("SELECT g, SUM(visits), COUNT(*) FROM visits GROUP BY g", schema)
    with pytest.raises(QueryRefused, match="noisy numbers"):
        planned("SELECT g, MEDIAN(visits) FROM visits GROUP BY g", schema)


def test_any_number_of_unknown_groups_is_gone_through_in_parts(planned):
    query = planned("SELECT city, COUNT(*) AS n FROM visits GROUP BY city")
    many = ((f"c{place}", 100_000 if place % 10_000 == 0 else 1) for place in range(50_000))
    answer = query.release(many)
    assert [key for key, _ in answer.rows] == ["c0", "c10000", "c20000", "c30000", "c40000"]
    assert all(abs(count - 100_000) < 1000 for _, count in answer.rows)
