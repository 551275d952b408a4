import math
from dataclasses import replace

import pytest

from privnb.dp.bounding import bounding_sql, check_schema, fixed_point
from privnb.dp.schema import Bounds, Column, UnitBounds
from privnb.errors import ConfigError


def row(person, **values):
    default = {
        "plan": "free",
        "year": 1,
        "city": "a",
        "visits": 2,
        "dollars": 1.5,
        "born": "2020-01-31",
        "seen": "2020-01-31 08:00:00",
        "female": True,
        "score": 0.25,
    }
    return (person, *(default | values).values())


def test_a_unit_has_at_most_so_many_rows_and_nobody_is_nobodys_unit(database):
    rows = [row("A", visits=n) for n in range(10)] + [row("B")] + [row(None)] * 5
    bounded = database(rows)
    counts = bounded.rows('SELECT _unit, COUNT(*) FROM "visits" GROUP BY ALL ORDER BY ALL')
    assert counts == [("A", 3), ("B", 1)]


def test_the_rows_kept_of_a_unit_do_not_depend_on_other_units_or_on_the_order(database):
    mine = [row("A", visits=n) for n in range(10)]
    others = [row(f"B{n}", visits=n % 7) for n in range(50)]
    kept = "SELECT visits FROM \"visits\" WHERE _unit = 'A' ORDER BY ALL"
    first = database(mine + others).rows(kept)
    assert first == database(mine).rows(kept)
    assert first == database(list(reversed(others)) + list(reversed(mine))).rows(kept)


def test_made_in_parts_it_is_the_same_table(database, schema):
    one = database([row(f"P{n % 40}", visits=n % 13) for n in range(300)])
    whole = one.rows('SELECT * FROM "visits" ORDER BY ALL')
    one.connection.execute('DROP TABLE "visits"')
    for part in range(6):
        some = bounding_sql(schema, source=f"(FROM source WHERE hash(person) % 6 = {part})")
        begin = 'INSERT INTO "visits"' if part else 'CREATE TABLE "visits" AS'
        one.connection.execute(f"{begin} {some}", {"key": "k" * 32})
    assert one.rows('SELECT * FROM "visits" ORDER BY ALL') == whole
    assert len(whole) == 120


def test_the_rows_kept_depend_on_the_key(database, schema):
    one = database([row("A", visits=n) for n in range(20)])
    chosen = {
        tuple(
            one.connection.execute(bounding_sql(schema, source="source"), {"key": key}).fetchall()
        )
        for key in ("k1", "k2", "k3", "k4")
    }
    assert len(chosen) > 1


def test_values_are_clamped_into_fixed_point_and_missing_ones_stay_missing(database, schema):
    values = [math.nan, None, math.inf, -1e300, 1e300, 12.345]
    found = database([row(f"P{n}", dollars=v) for n, v in enumerate(values)]).rows(
        'SELECT dollars, _v_dollars FROM "visits" ORDER BY _unit'
    )
    point = fixed_point(schema.column("dollars"))
    assert found[:3] == [(None, None)] * 3
    assert found[3][1] == -10 * point.scale
    assert found[4][1] == 100 * point.scale
    assert abs(found[5][1] / point.scale - 12.345) < 1e-5


def test_dates_that_would_not_survive_every_function_are_missing(database):
    odd = ["infinity", "-infinity", "0044-03-15 (BC)", "99999-01-01", "2020-02-29"]
    found = database([row(f"P{n}", born=v, seen=v) for n, v in enumerate(odd)]).rows(
        'SELECT born IS NULL, seen IS NULL FROM "visits" ORDER BY _unit'
    )
    assert found == [(True, True)] * 4 + [(False, False)]


def test_a_declared_unique_key_is_true_of_the_bounded_table_even_if_not_of_the_source(
    database, schema_with
):
    schema = schema_with(unique_keys=(("person", "year"),))
    rows = [row("A", year=y, visits=n) for n in range(3) for y in (1, 2, None)]
    twice = 'SELECT year FROM "visits" GROUP BY _unit, year HAVING COUNT(*) > 1'
    assert database(rows, schema).rows(twice) == []


def test_a_unit_has_one_value_of_a_constant_column_even_if_not_in_the_source(database, schema_with):
    columns = tuple(
        replace(column, constant=column.name in ("city", "score", "born"))
        for column in schema_with().columns
    )
    schema = schema_with(columns=columns)
    mixed = [
        row("A", city=city, score=score, visits=n)
        for n, (city, score) in enumerate([("a", 0.5), ("b", 0.5), ("a", math.nan), (None, None)])
    ]
    missing = [row("B", city=None, score=score) for score in (math.nan, math.inf, None)]
    zeros = [row("C", score=score, visits=n) for n, score in enumerate([0.0, -0.0])]
    bounded = database(mixed + missing + zeros, schema)
    several = 'SELECT DISTINCT _unit, city, score, born FROM "visits" ORDER BY _unit'
    assert [unit for unit, *_ in bounded.rows(several)] == ["A", "B", "C"]
    sizes = 'SELECT COUNT(*) FROM "visits" GROUP BY _unit ORDER BY _unit'
    assert bounded.rows(sizes) == [(1,), (3,), (2,)]
    whole = 'SELECT * FROM "visits" ORDER BY ALL'
    alone = [found for found in bounded.rows(whole) if found[0] == "A"]
    assert database(mixed[::-1], schema).rows(whole) == alone  # others and order do not matter


def test_nothing_is_computed_for_constant_columns_where_there_are_none(schema):
    assert "FIRST_VALUE" not in bounding_sql(schema, source="source")


def test_rows_are_told_whose_value_is_public_or_may_be_missing(database, schema_with):
    columns = (
        Column(name="plan", type="string", nullable=False, values=("free", "it's paid")),
        Column(name="year", type="integer", values=(1, 2)),
        Column(name="born", type="date", nullable=False, values=("2020-02-29", "20210101")),
    )
    schema = schema_with(columns=columns)
    rows = [
        row("A", plan="it's paid", year=2, born="2021-01-01"),
        row("B", plan="other", year=3, born="2021-01-02"),
        row("C", plan=None, year=None, born=None),
    ]
    flags = 'SELECT _listed_plan, _listed_year, _listed_born FROM "visits" ORDER BY _unit'
    assert database(rows, schema).rows(flags) == [
        (True, True, True),
        (False, False, False),
        (False, True, False),
    ]


def test_whole_numbers_are_exact_and_others_nearly(schema):
    visits, dollars = (fixed_point(schema.column(name)) for name in ("visits", "dollars"))
    assert (visits.scale, visits.lower, visits.upper, visits.middle) == (2.0, 0, 50, 25)
    assert dollars.upper - dollars.lower >= 2**24


def test_names_are_quoted():
    from privnb.dp.schema import TableSchema

    schema = TableSchema(
        name="t",
        columns=(Column(name='a"; DROP TABLE x; --', type="string"),),
        privacy_unit="u",
        max_rows_per_unit=1,
        delta=1e-6,
    )
    assert '"a""; DROP TABLE x; --"' in bounding_sql(schema, source="s")


@pytest.mark.parametrize(
    ("column", "rows", "wanted"),
    [
        ({"bounds": Bounds(lower=0, upper=1e18)}, 100, "64-bit"),
        ({"bounds": Bounds(lower=5, upper=5)}, 100, "rise"),
        ({"bounds": Bounds(lower=0, upper=math.inf)}, 100, "finite"),
        ({"unit_bounds": UnitBounds(lower=0, upper=5)}, 100, "without bounds"),
        ({"type": "string", "bounds": Bounds(lower=0, upper=5)}, 100, "numbers"),
        ({"values": (1, "two")}, 100, "'two'"),
        ({"values": (True,)}, 100, "True"),
        ({"type": "date", "values": ("31.1.2020",)}, 100, "31.1.2020"),
        ({"name": "_UNIT"}, 100, "collides"),
        ({"name": "PLAN"}, 100, "collides"),
        ({"name": "_v_visits"}, 100, "collides"),
        ({"name": "_listed_YEAR"}, 100, "collides"),
    ],
)
def test_a_schema_that_proves_nothing_is_an_error_that_names_the_column(
    column, rows, wanted, schema_with
):
    odd = Column(**({"name": "odd", "type": "integer"} | column))
    schema = schema_with(columns=(*schema_with().columns, odd))
    with pytest.raises(ConfigError, match=wanted) as raised:
        check_schema(schema, rows=rows)
    assert odd.name in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize(
    "changes",
    [{"delta": 0.0}, {"delta": 1.0}, {"max_rows_per_unit": 0}, {"unique_keys": (("nobody",),)}],
)
def test_a_table_that_proves_nothing_is_an_error(changes, schema_with):
    with pytest.raises(ConfigError):
        check_schema(schema_with(**changes), rows=10)


def test_a_sound_schema_passes(schema):
    check_schema(schema, rows=10**9)
