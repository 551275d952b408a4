"""Registration and the locked-down tables that queries run on."""

import contextlib
import datetime as dt
import shutil
import sqlite3
import subprocess
import sys
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.errors import ConfigError, SiteFailure, StateError
from privnb.site.config import load_config
from privnb.site.data.registration import create_bounded
from privnb.site.data.sources import SOURCE
from privnb.site.data.tables import Tables

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 2
unique_keys = [["person", "year"]]
delta = 1e-6
total_epsilon = 10
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.year]
type = "integer"
values = [1, 2, 3]
[tables.visits.columns.cost]
type = "float"
bounds = [0, 100]
[tables.visits.columns.kind]
type = "string"
cases = [
    { when = { code = [1, 2] }, value = "low" },
    { when = { code = 3, town = "Ulm" }, value = "Ulm high" },
]
otherwise = "other"
[tables.visits.columns.age_group]
type = "string"
from = "age"
cuts = [18, 65]
labels = ["child", "adult", "old"]
missing = "unknown"
"""

ROWS = {
    "person": [1, 1, 1, 2, None, 3],
    "year": [1, 2, 3, 1, 1, 2],
    "cost": [5.0, 150.0, -3.0, float("nan"), 9.0, None],
    "code": [1, 3, 3, None, 1, 2],
    "town": ["Ulm", "Ulm", "Bonn", None, "Ulm", "Ulm"],
    "age": [17.9, 18.0, 64.0, float("nan"), 70.0, 65.0],
    "secret": ["a", "b", "c", "d", "e", "f"],
}


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site.toml").write_text(SITE)
    pyarrow.parquet.write_table(pa.table(ROWS), tmp_path / "visits.parquet")
    return tmp_path


def opened(directory):
    return Tables.open(load_config(directory), state=directory / "state")


def edited(directory, old, new):
    text = (directory / "site.toml").read_text()
    assert old in text
    (directory / "site.toml").write_text(text.replace(old, new))


def test_a_table_is_bounded_once_and_holds_declared_columns_only(site):
    with opened(site) as tables:
        assert set(tables.schemas) == {"visits"}
        names = {row[0] for row in tables.rows("SELECT column_name FROM (DESCRIBE visits)")}
        flags = {"_listed_year", "_listed_kind", "_listed_age_group"}
        assert names == {"_unit", "year", "cost", "_v_cost", "kind", "age_group"} | flags
        sizes = tables.rows("SELECT _unit, count(*) FROM visits GROUP BY ALL ORDER BY ALL")
        assert sizes == [(1, 2), (2, 1), (3, 1)]


def test_bins_are_total(site):
    edited(site, "max_rows_per_unit = 2", "max_rows_per_unit = 9")
    with opened(site) as tables:
        bins = tables.rows("SELECT _unit, year, kind, age_group FROM visits ORDER BY ALL")
    assert bins == [
        (1, 1, "low", "child"),
        (1, 2, "Ulm high", "adult"),
        (1, 3, "other", "adult"),
        (2, 1, "other", "unknown"),
        (3, 2, "low", "old"),
    ]


def test_without_a_name_for_missing_values_they_stay_null(site):
    edited(site, 'missing = "unknown"\n', "")
    with opened(site) as tables:
        assert tables.rows("SELECT age_group FROM visits WHERE _unit = 2") == [(None,)]


def test_the_mock_twin_answers_the_same_sql(site):
    sql = "SELECT kind, count(*), sum(_v_cost) FROM visits GROUP BY kind ORDER BY kind"
    with opened(site) as tables:
        assert [row[0] for row in tables.rows(sql, mock=True)] == ["Ulm high", "low", "other"]
        assert tables.rows(sql, mock=True) != tables.rows(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{0}/site.toml')",
        "SELECT * FROM '{0}/visits.parquet'",
        "SELECT * FROM read_text('{0}/site.toml')",
        "SELECT * FROM glob('{0}/*')",
        "ATTACH '{0}/visits.duckdb'",
        "COPY visits TO '{0}/stolen.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "CREATE TABLE kept AS SELECT 1",
        "DROP VIEW visits",
        "SELECT 1; SELECT 2",
        "",
        "SELECT * FROM local_frame",
        "SELECT cast('cell 4711' AS INTEGER)",
        "SELECT no_such_column FROM visits",
        "(" * 5_000,
    ],
)
def test_queries_reach_nothing_but_the_tables_and_fail_alike(site, sql, caplog):
    local_frame = pa.table({"a": [1]})
    with opened(site) as tables, pytest.raises(SiteFailure) as caught:
        tables.rows(sql.format(site))
    assert local_frame is not None
    assert caught.value.message == "The site could not compute the answer."
    assert caught.value.__cause__ is None
    assert not (site / "stolen.csv").exists()
    assert [record.name for record in caplog.records] == ["privnb.site"]


def test_a_query_without_end_is_ended_and_the_next_one_is_answered(site, monkeypatch):
    monkeypatch.setattr("privnb.site.data.tables._LONGEST_SECONDS", 0.2)
    endless = (
        "SELECT count(*) FROM range(1000000000) a, range(1000000000) b WHERE a.range > b.range"
    )
    with opened(site) as tables:
        with pytest.raises(SiteFailure):
            tables.rows(endless)
        assert tables.rows("SELECT 1") == [(1,)]


def test_rows_are_handed_over_while_they_come(site):
    with opened(site) as tables:
        rows = tables.stream("SELECT range FROM range(1000000)")
        assert next(rows) == (0,)
        rows.close()
        assert tables.rows("SELECT 1") == [(1,)]


def test_two_agents_open_the_same_tables(site):
    with opened(site) as one, opened(site) as two:
        sql = "SELECT * FROM visits ORDER BY ALL"
        assert str(one.rows(sql)) == str(two.rows(sql))


def registered(site):
    return sorted(path.name for path in (site / "state" / "tables").glob("visits-*"))


def test_an_unchanged_file_is_not_registered_again(site):
    opened(site).close()
    before = registered(site)
    status = (site / "state" / "tables" / before[0]).stat()
    opened(site).close()
    assert registered(site) == before
    assert (site / "state" / "tables" / before[0]).stat().st_mtime_ns == status.st_mtime_ns


def test_a_changed_file_or_rule_is_registered_again_and_the_old_form_removed(site):
    opened(site).close()
    first = registered(site)
    edited(site, "bounds = [0, 100]", "bounds = [0, 50]")
    opened(site).close()
    second = registered(site)
    table = pa.table(ROWS).slice(0, 4)
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    with opened(site) as tables:
        assert tables.rows("SELECT max(_unit) FROM visits") == [(2,)]
    assert len({*first, *second, *registered(site)}) == 3
    assert len(registered(site)) == 1


def many(units=300):
    return {
        "person": [unit for unit in range(units) for _ in range(3)],
        "year": [1, 2, 3] * units,
        "cost": [float(number) for number in range(3 * units)],
        "code": [1] * 3 * units,
        "town": ["Ulm"] * 3 * units,
        "age": [30.0] * 3 * units,
    }


def test_the_same_rows_are_kept_after_registering_again_in_another_order(site):
    table = pa.table(many())
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    sql = "SELECT _unit, year FROM visits ORDER BY ALL"
    with opened(site) as tables:
        before = tables.rows(sql)
    pyarrow.parquet.write_table(table.take(list(reversed(range(900)))), site / "visits.parquet")
    with opened(site) as tables:
        assert tables.rows(sql) == before
    (site / "state" / "bounding.key").unlink()
    with opened(site) as tables:
        assert tables.rows(sql) != before  # equal by chance once in 3**300


def test_the_bounding_key_is_private_and_stable(site):
    opened(site).close()
    path = site / "state" / "bounding.key"
    key = path.read_bytes()
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    opened(site).close()
    assert path.read_bytes() == key
    path.write_bytes(key[:7])
    with pytest.raises(StateError, match="damaged"):
        opened(site)


@pytest.mark.parametrize("name", ["bounded.duckdb", "whole.duckdb"])
def test_a_damaged_file_is_made_again(site, name):
    opened(site).close()
    path = site / "state" / "tables" / registered(site)[0] / name
    path.write_bytes(path.read_bytes()[:100])
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(4,)]


DYING = """
import os, pathlib, signal, sys
import ibis.backends.duckdb, pandas
from privnb.site.data import registration
from privnb.site.config import load_config
from privnb.site.data.tables import Tables
directory = pathlib.Path(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        count = 0
        def watch(event, arguments):
            global count
            if event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.open", "open"):
                if str(directory / "state") in str(arguments[0]):
                    count += 1
                    if count == int(line):
                        os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        Tables.open(load_config(directory), state=directory / "state").close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Registers in a process that is forked for it, and killed at the step that is read."""


def test_a_crash_at_any_step_leaves_nothing_half_done(site):
    """Kill a registration at its file system steps, then start again."""
    command = [sys.executable, "-c", DYING, str(site)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        # After the key's file, its link, each database, their final name, the end of the clean-up.
        for step in (7, 8, 13, 14, 16, 18):
            shutil.rmtree(site / "state", ignore_errors=True)
            process.stdin.write(f"{step}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "-9\n"
            key = site / "state" / "bounding.key"
            before = key.read_bytes() if key.exists() else None
            with opened(site) as tables:
                assert tables.rows("SELECT count(*) FROM visits") == [(4,)]
            assert before in (None, key.read_bytes())
            assert len(key.read_bytes()) == 32
            left = sorted(path.name for path in (site / "state").rglob("*") if path.is_file())
            assert left == [".lock", "bounded.duckdb", "bounding.key", "whole.duckdb"]
            assert len(registered(site)) == 1


def test_a_file_in_a_database_is_read_in_place(site):
    with duckdb.connect(site / "clinic.duckdb") as connection:
        connection.execute(f"CREATE TABLE log AS FROM '{site}/visits.parquet'")
    edited(site, 'source = "visits.parquet"', 'source = "clinic.duckdb"\nsource_table = "log"')
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(4,)]


def test_a_live_database_is_streamed_and_read_again_at_each_start(site):
    with duckdb.connect(site / "clinic.duckdb") as connection:
        connection.execute(f"CREATE TABLE log AS FROM '{site}/visits.parquet'")
    url = 'source = "duckdb://clinic.duckdb"\nsource_table = "log"'
    edited(site, 'source = "visits.parquet"', url)
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(4,)]
    with duckdb.connect(site / "clinic.duckdb") as connection:
        connection.execute("DELETE FROM log WHERE person = 2")
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(3,)]
    assert len(registered(site)) == 1


def test_a_csv_keeps_texts_as_written(site):
    edited(
        site,
        'type = "integer"\n[tables.visits.columns.year]',
        'type = "string"\n[tables.visits.columns.year]',
    )
    edited(site, "visits.parquet", "visits.csv")
    (site / "visits.csv").write_text(
        "person,year,cost,code,town,age\n007,1,5,1,Ulm,30\n07,1,6.5,3,Ulm,\n"
    )
    with opened(site) as tables:
        rows = tables.rows("SELECT _unit, cost, kind, age_group FROM visits ORDER BY ALL")
    assert rows == [("007", 5.0, "low", "adult"), ("07", 6.5, "Ulm high", "unknown")]


GOOD_CSV = "person,year,cost,code,town,age\n1,1,5,1,Ulm,30\n"


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        (GOOD_CSV.encode() + b"2,1,5,1,\xff\xfe,30\n", 6, "cannot be read"),
        (GOOD_CSV.encode() + b"2,1,5,1," + b"z" * 5_000_000 + b",30\n", 6, "cannot be read"),
        (GOOD_CSV.encode() + b"2,1,5\n", 6, "cannot be read"),
        (GOOD_CSV.encode() + b"2,1,much,1,Ulm,30\n", 20, "declared float, but the source has str"),
        (GOOD_CSV.encode() + b"2,1.5,3,1,Ulm,30\n", 17, "declared integer, but the source has fl"),
        (b"", 14, "no column 'person'"),
        (b"\x00\x01\x02" * 100, 14, "no column 'person'"),
        (GOOD_CSV.replace("cost", "price").encode(), 19, "no column 'cost'"),
        (GOOD_CSV.replace("town", "city").encode(), 22, "no column 'town'"),
        (GOOD_CSV.replace("Ulm", "7").encode(), 24, "bins do not fit"),
    ],
)
def test_a_hostile_csv_is_one_clear_error(site, content, line, problem):
    edited(site, "visits.parquet", "visits.csv")
    (site / "visits.csv").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        opened(site)
    assert f"{site / 'site.toml'}, line {line}: " in caught.value.message
    assert problem in caught.value.message
    assert caught.value.hint
    assert len(caught.value.message) < 1_000
    assert registered(site) == []


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -40])
def test_a_truncated_parquet_file_is_one_clear_error(site, keep):
    path = site / "visits.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"line 6: Source .visits\.parquet. cannot be read"):
        opened(site)


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ('"visits.parquet"', '"vists.parquet"', 6, "There is no file"),
        ('"visits.parquet"', '"site.toml"', 6, "no known kind"),
        ('"visits.parquet"', '"duckdb://nowhere/x.duckdb"', 6, "many tables"),
        ('"visits.parquet"', '"nosuch://u:pw@h/d"\nsource_table = "t"', 6, "nosuch://u:…@h/d"),
        ('"visits.parquet"', '"visits.parquet"\nsource_table = "t"', 7, "one table only"),
        ("delta", 'hidden = ["secret", "scret"]\ndelta', 10, "no column 'scret'"),
        ("columns.cost]\n", "columns.cost]\nnullable = false\n", 20, "not nullable"),
        ('type = "float"\nbounds = [0, 100]', 'type = "date"', 20, "declared date"),
        ("columns.cost]", "columns._unit]\nfrom = 'cost'", 5, "collides"),
        ("bounds = [0, 100]", "bounds = [0, 1e300]", None, ""),
    ],
)
def test_a_source_that_contradicts_the_file_is_refused(site, old, new, line, problem):
    edited(site, old, new)
    if line is None:
        opened(site).close()  # a float is stored in steps that fit, however wide its bounds
        return
    with pytest.raises(ConfigError) as caught:
        opened(site)
    assert f"site.toml, line {line}: " in caught.value.message
    assert problem in caught.value.message
    assert "pw" not in caught.value.message


@pytest.mark.parametrize(
    "rows",
    [
        {"person": [1, 1], "year": [2, 2]},
        {"person": [1, 1], "year": [None, None]},
    ],
)
def test_a_unique_key_that_is_not_unique_is_refused(site, rows):
    rest = {"cost": [1.0, 2.0], "code": [1, 1], "town": ["a", "b"], "age": [1.0, 2.0]}
    schema = pa.schema([("person", pa.int64()), ("year", pa.int64())])
    table = pa.table({**pa.table(rows, schema=schema).to_pydict(), **rest})
    if rows["year"] == [None, None]:
        table = table.set_column(1, "year", pa.array([None, None], type=pa.int64()))
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    with pytest.raises(ConfigError, match=r"line 9: The key \(person, year\) is not unique: 1 val"):
        opened(site)
    assert registered(site) == []


def test_rows_of_nobody_do_not_break_a_unique_key(site):
    rows = {name: [*values, *values[4:5]] for name, values in ROWS.items()}
    pyarrow.parquet.write_table(pa.table(rows), site / "visits.parquet")
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(4,)]


numbers = st.one_of(st.none(), st.floats(width=64))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 4)), numbers), max_size=30),
    limit=st.integers(1, 4),
)
def test_bounded_tables_respect_rows_and_bounds_whatever_the_data(site, rows, limit):
    """The invariant that every proof of sensitivity starts from."""
    text = SITE.replace('unique_keys = [["person", "year"]]\n', "")
    text = text.replace("max_rows_per_unit = 2", f"max_rows_per_unit = {limit}")
    (site / "site.toml").write_text(text)
    count = len(rows)
    table = pa.table(
        {
            "person": pa.array([person for person, _ in rows], pa.int64()),
            "year": pa.array([1] * count, pa.int64()),
            "cost": pa.array([cost for _, cost in rows], pa.float64()),
            "code": pa.array([1] * count, pa.int64()),
            "town": pa.array(["a"] * count, pa.string()),
            "age": pa.array([cost for _, cost in rows], pa.float64()),
        }
    )
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    with opened(site) as tables:
        kept = tables.rows("SELECT _unit, _v_cost FROM visits")
    highest = 100 * 2**18  # 2^24 steps or more over the bounds
    sizes = {}
    for unit, value in kept:
        sizes[unit] = sizes.get(unit, 0) + 1
        assert value is None or 0 <= value <= highest
    wanted = {}
    for person, _ in rows:
        if person is not None:
            wanted[person] = min(limit, wanted.get(person, 0) + 1)
    assert sizes == wanted


@pytest.mark.parametrize("parts", [2, 7])
def test_bounding_in_parts_keeps_the_same_rows(parts):
    schema = schema_of(["person", "year", "cost"])
    bounded = []
    for number in (1, parts):
        with duckdb.connect() as connection:
            rows = pa.table({name: many(50)[name] for name in ("person", "year", "cost")})
            connection.register(SOURCE, rows)
            create_bounded(connection, schema, key=b"k" * 32, catalog="memory", parts=number)
            bounded.append(connection.execute("FROM visits ORDER BY ALL").fetchall())
    assert len(bounded[0]) == 100
    assert bounded[0] == bounded[1]


def schema_of(names):
    kinds = {"cost": "float"}
    return TableSchema(
        name="visits",
        columns=tuple(
            Column(
                name=name,
                type=kinds.get(name, "integer"),
                bounds=None if name == "person" else Bounds(lower=0, upper=100),
            )
            for name in names
        ),
        privacy_unit="person",
        max_rows_per_unit=2,
        delta=1e-6,
    )


WHEN = dt.datetime(2020, 1, 2, 3, 4)  # noqa: DTZ001 - columns have no time zone
READABLE = [
    ("integer", pa.array([7], pa.uint8()), "bounds = [0, 9]", 7),
    ("float", pa.array([7], pa.int16()), "bounds = [0, 9]", 7.0),
    ("float", pa.array([Decimal("7.50")], pa.decimal128(9, 2)), "bounds = [0, 9]", 7.5),
    ("float", pa.array([0.5], pa.float32()), "bounds = [0, 9]", 0.5),
    ("string", pa.array(["é'\""]), "", "é'\""),
    ("string", pa.array(["a"]).dictionary_encode(), "", "a"),
    ("string", pa.array([7]), "", "7"),
    ("boolean", pa.array([True]), "values = [true, false]", True),
    ("date", pa.array([WHEN.date()]), "values = [2020-01-02]", WHEN.date()),
    ("timestamp", pa.array([WHEN]), "", WHEN),
    ("timestamp", pa.array([WHEN], pa.timestamp("us", tz="UTC")), "", WHEN),
    ("timestamp", pa.array([WHEN.date()]), "", WHEN.replace(hour=0, minute=0)),
]


@pytest.mark.parametrize(("kind", "cells", "more", "expected"), READABLE)
def test_every_type_is_read_as_declared(tmp_path, kind, cells, more, expected):
    pyarrow.parquet.write_table(pa.table({"person": [1], "c": cells}), tmp_path / "visits.parquet")
    (tmp_path / "site.toml").write_text(
        SITE.partition("[tables.visits.columns.year]")[0].replace(
            'unique_keys = [["person", "year"]]', ""
        )
        + f'[tables.visits.columns.c]\ntype = "{kind}"\n{more}\n'
    )
    with opened(tmp_path) as tables:
        assert tables.rows("SELECT c FROM visits") == [(expected,)]


@pytest.mark.parametrize(
    ("kind", "cells", "more"),
    [
        ("integer", pa.array([7.0]), "bounds = [0, 9]"),
        ("integer", pa.array(["7"]), "bounds = [0, 9]"),
        ("integer", pa.array([True]), "bounds = [0, 9]"),
        ("float", pa.array(["7"]), "bounds = [0, 9]"),
        ("string", pa.array([7.0]), ""),
        ("string", pa.array([b"7"]), ""),
        ("boolean", pa.array([1]), ""),
        ("date", pa.array([WHEN]), ""),
        ("timestamp", pa.array(["2020-01-01"]), ""),
        ("string", pa.array([["a"]]), ""),
    ],
)
def test_a_type_that_would_have_to_be_guessed_is_refused(tmp_path, kind, cells, more):
    pyarrow.parquet.write_table(pa.table({"person": [1], "c": cells}), tmp_path / "visits.parquet")
    text = SITE.partition("[tables.visits.columns.year]")[0]
    text = text.replace('unique_keys = [["person", "year"]]', "")
    (tmp_path / "site.toml").write_text(
        f'{text}[tables.visits.columns.c]\ntype = "{kind}"\n{more}\n'
    )
    with pytest.raises(
        ConfigError, match=f"line 17: Column 'c' is declared {kind}, but the source"
    ):
        opened(tmp_path)


def test_an_integer_beyond_64_bits_is_one_clear_error(site):
    table = pa.table(ROWS).drop_columns("year")
    years = pa.array([2**64 - 1] + [1] * 5, pa.uint64())
    pyarrow.parquet.write_table(table.append_column("year", years), site / "visits.parquet")
    with pytest.raises(ConfigError, match=r"line 6: .*cannot be read"):
        opened(site)


def test_a_huge_cell_of_a_parquet_file_costs_nothing_but_time(site):
    rows = {name: values[:1] for name, values in ROWS.items()} | {"town": ["z" * 20_000_000]}
    pyarrow.parquet.write_table(pa.table(rows), site / "visits.parquet")
    with opened(site) as tables:
        assert tables.rows("SELECT kind FROM visits") == [("low",)]


def test_a_state_directory_that_cannot_be_used_is_an_error_of_state(site):
    (site / "state").write_text("a file is in the way")
    with pytest.raises(StateError, match="cannot be used"):
        opened(site)


def test_a_full_disk_is_an_error_of_state_and_leaves_nothing(site):
    """A limit on the size of files is what a test can have in place of a full disk."""
    code = (
        "import pathlib, resource, signal, sys\n"
        "from privnb.errors import StateError\n"
        "from privnb.site.config import load_config\n"
        "from privnb.site.data.tables import Tables\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "site = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    Tables.open(load_config(site), state=site / 'state')\n"
        "except StateError as error:\n"
        "    sys.exit(f'{error} {error.hint}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "room" in done.stderr
    assert registered(site) == []
    with opened(site) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(4,)]


def test_sqlite_is_read_by_url(site):
    with contextlib.closing(sqlite3.connect(site / "clinic.db")) as connection:
        columns = "person INT, year INT, cost REAL, code INT, town TEXT, age REAL"
        connection.execute(f"CREATE TABLE log ({columns})")
        rows = [(1, 1, 5.5, 3, "Ulm", 30), (2, 1, 7, 1, "", None)]
        connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    edited(site, '"visits.parquet"', '"sqlite://clinic.db"\nsource_table = "log"')
    with opened(site) as tables:
        rows = tables.rows("SELECT _unit, cost, kind, age_group FROM visits ORDER BY ALL")
    assert rows == [(1, 5.5, "Ulm high", "adult"), (2, 7.0, "low", "unknown")]
