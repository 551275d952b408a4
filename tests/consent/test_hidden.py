"""Copies of hidden columns are known, and honest results are not taken for copies."""

from __future__ import annotations

import datetime as dt
import random
import sqlite3

import pyarrow as pa
import pyarrow.parquet
import pytest

from privnb.site.config import load_config
from privnb.site.data.copies import samples
from privnb.site.data.tables import Tables

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 1
delta = 1e-6
total_epsilon = 10
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.age]
type = "integer"
bounds = [0, 120]
[tables.visits.columns.code]
type = "integer"
bounds = [0, 1e9]
[tables.visits.columns.town]
type = "string"
[tables.visits.columns.day]
type = "date"
"""

DRAW = random.Random(4711)  # noqa: S311 - test data
COUNT = 2000
PERSONS = DRAW.sample(range(100_000_000, 200_000_000), COUNT)
CODES = DRAW.sample(range(1_000_000, 9_000_000), COUNT)
WEIGHTS = [round(DRAW.gauss(70, 12), 1) for _ in range(COUNT)]
BIRTH = [dt.date(1920, 1, 1) + dt.timedelta(DRAW.randrange(36_000)) for _ in range(COUNT)]
ADMITTED = [
    dt.datetime(2020, 1, 1) + dt.timedelta(seconds=DRAW.randrange(10**8))  # noqa: DTZ001
    for _ in range(COUNT)
]
ROWS = {
    "person": PERSONS,
    "age": [DRAW.randrange(90) for _ in range(COUNT)],
    "code": CODES,
    "town": [f"town {DRAW.randrange(300)}" for _ in range(COUNT)],
    "day": [dt.date(2026, 1, 1) + dt.timedelta(DRAW.randrange(300)) for _ in range(COUNT)],
    # Hidden:
    "serial": list(range(1, COUNT + 1)),
    "insurance": [f"{DRAW.randrange(10**9):09d}" for _ in range(COUNT)],
    "name": [f"Anna of house {number}" for number in range(COUNT)],
    "weight": WEIGHTS,
    "bill": [round(DRAW.expovariate(0.001), 2) for _ in range(COUNT)],
    "born": BIRTH,
    "admitted": ADMITTED,
    "flag": [number % 2 for number in range(COUNT)],
    "share": [(0, 25, 50, 95)[number % 4] for number in range(COUNT)],
    "sex": [("female", "male", "unknown")[number % 3] for number in range(COUNT)],
    "town_again": [],
    "odd": [dt.time(1, 2)] * COUNT,
    "many": [[1, 2]] * COUNT,
    "empty": [None] * COUNT,
}
ROWS["town_again"] = ROWS["town"]


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    (directory / "site.toml").write_text(SITE)
    pyarrow.parquet.write_table(pa.table(ROWS), directory / "visits.parquet")
    with Tables.open(load_config(directory), state=directory / "state") as tables:
        yield tables.frames


def copied(frames, values):
    (name,) = frames.matches_hidden("visits", purpose="research", columns=[values])
    return name


COPIES = {
    "unit": (PERSONS[:3], "person"),
    "unit as floats": ([float(person) for person in PERSONS[5:9]], "person"),
    "unit as text": ([str(person) for person in PERSONS[5:9]], "person"),
    "all units with gaps": ([None, *PERSONS[:200]], "person"),
    "names": (ROWS["name"][7:10], "name"),
    "numbers kept as text": (ROWS["insurance"][:3], "insurance"),
    "numbers kept as text, read as numbers": (
        [int(text) for text in ROWS["insurance"][:9]],
        "insurance",
    ),
    "amounts": (ROWS["bill"][:6], "bill"),
    "times": ([moment.isoformat() for moment in ADMITTED[:4]], "admitted"),
    "times with their zone": (
        [f"{moment.isoformat()}+00:00" for moment in ADMITTED[:4]],
        "admitted",
    ),
    "one long identifier": (PERSONS[:1], "person"),
    "one long identifier as text": ([str(PERSONS[7])], "person"),
    "two amounts": ([max(ROWS["bill"]), sorted(ROWS["bill"])[-2]], "bill"),
    "one name": (ROWS["name"][7:8], "name"),
    "two names": (ROWS["name"][:2], "name"),
    "one time": ([ADMITTED[3].isoformat()], "admitted"),
    "all numbered": (DRAW.sample(range(1, COUNT + 1), COUNT), "serial"),
    "all numbered, as text": ([f"{number:06d}" for number in range(COUNT, 0, -1)], "serial"),
    "half of the numbered, as floats": (
        [float(number) for number in DRAW.sample(range(1, COUNT + 1), COUNT // 2)],
        "serial",
    ),
    "birthdays": ([day.isoformat() for day in sorted(BIRTH)[:20]], "born"),
}


@pytest.mark.parametrize(("values", "column"), COPIES.values(), ids=COPIES)
def test_a_copy_of_a_hidden_column_is_known(frames, values, column):
    assert copied(frames, values) == column


HONEST = {
    "counts": list(range(1, 1999, 7)),
    "few counts": [12, 815, 1204],
    "one count": [815],
    "two counts": [815, 1204],
    "fewer than half of the numbered": list(range(1, COUNT, 3)),
    "positions": list(range(1, COUNT)),
    "positions from 0": list(range(COUNT)),
    "nothing but zero": [0],
    "one small amount": [12.5],
    "one day": [BIRTH[0].isoformat()],
    "one day written as text": ["2026-01-01"],
    "one label": ["female"],
    "one short name": ["Anna"],
    "flags": [0, 1, 0, 1],
    "shares": [0, 25, 50, 95],
    "percentages": [12.5, 25.0, 37.5, 50.0, 95.0],
    "means": [70.13742, 68.91, 71.2054],
    "rounded means": [70.1, 68.9, 71.2, 70.4],
    "labels": ["female", "male", "unknown"],
    "short texts": ["a", "b", "c", "F"],
    "terms of a model": ["const", "age", "town 1", "town 2"],
    "declared values": ROWS["town"][:50],
    "declared codes": CODES[:50],
    "declared days": [day.isoformat() for day in ROWS["day"][:50]],
    "months": [f"2026-{month:02d}-01" for month in range(1, 13)],
    "all but one": [*PERSONS[:50], 5],
    "nothing": [None, None, None],
    "truth": [True, False, None],
    "nothing at all": [],
    "mixed": [1, "two", 3.5],
}


@pytest.mark.parametrize("values", HONEST.values(), ids=HONEST)
def test_an_honest_result_is_not_taken_for_a_copy(frames, values):
    assert copied(frames, values) is None


def test_counts_drawn_at_random_are_hardly_ever_taken_for_a_copy(frames):
    """What is drawn from where hidden numbers are dense looks like them, and means nothing."""
    draw = random.Random(7)  # noqa: S311 - test data
    tries = 200
    alarms = sum(
        copied(frames, [draw.randrange(1, 10 ** draw.randrange(1, 5)) for _ in range(12)])
        is not None
        for _ in range(tries)
    )
    assert alarms == 0  # each has a chance below 1e-4 for each of ten columns


def test_a_category_is_no_identifier_but_few_rows_may_all_be_different(tmp_path):
    (tmp_path / "site.toml").write_text(SITE)
    few = {name: values[:6] for name, values in ROWS.items() if name not in ("many", "odd")}
    pyarrow.parquet.write_table(pa.table(few), tmp_path / "visits.parquet")
    with Tables.open(load_config(tmp_path), state=tmp_path / "state") as tables:
        assert copied(tables.frames, ROWS["name"][:6]) == "name"
        assert copied(tables.frames, PERSONS[:6]) == "person"


def test_texts_of_hidden_columns_are_not_in_the_registered_files(tmp_path):
    (tmp_path / "site.toml").write_text(SITE)
    pyarrow.parquet.write_table(pa.table(ROWS), tmp_path / "visits.parquet")
    with Tables.open(load_config(tmp_path), state=tmp_path / "state"):
        pass
    files = list((tmp_path / "state").rglob("*.duckdb"))
    assert len(files) == 2
    for path in files:
        assert b"of house" not in path.read_bytes()
    assert any(b"town " in path.read_bytes() for path in files)  # a declared column is


def test_a_live_database_is_asked_instead(tmp_path):
    source = '"sqlite://clinic.db"\nsource_table = "log"'
    (tmp_path / "site.toml").write_text(SITE.replace('"visits.parquet"', source))
    names = ("person", "age", "code", "town", "name", "bill", "share", "serial")
    connection = sqlite3.connect(tmp_path / "clinic.db")
    connection.execute(
        "CREATE TABLE log (person INT, age INT, code INT, town TEXT, name TEXT, bill REAL,"
        " share INT, serial INT, day DATE)"
    )
    rows = zip(*(ROWS[name] for name in names), map(str, ROWS["day"]), strict=True)
    connection.executemany(f"INSERT INTO log VALUES ({', '.join('?' * 9)})", list(rows))  # noqa: S608
    connection.commit()
    connection.close()
    with Tables.open(load_config(tmp_path), state=tmp_path / "state") as tables:
        for values, column in (
            (PERSONS[:5], "person"),
            (ROWS["name"][:5], "name"),
            (ROWS["bill"][:5], "bill"),
            COPIES["one name"],
            COPIES["half of the numbered, as floats"],
        ):
            assert copied(tables.frames, values) == column
        for honest in ("counts", "positions", "shares", "declared values", "labels", "means"):
            assert copied(tables.frames, HONEST[honest]) is None
    (kept,) = (tmp_path / "state").rglob("whole.duckdb")
    assert b"of house" not in kept.read_bytes()


def test_a_single_round_number_is_compared_with_round_ones():
    (round_one,), (other,) = samples([150_000_000]), samples([153_846_001])
    among = [200] * 2  # of a million millions, these are a coincidence; of ten millions, hardly
    assert round_one.is_chance(among)
    assert not other.is_chance(among)


def test_where_units_have_many_rows_their_order_tells_later():
    draw = random.Random(3)  # noqa: S311 - test data
    rows = [float(number) for number in range(100) for _ in range(5)]
    draw.shuffle(rows)
    kept = list(dict.fromkeys(rows))
    (few,), (many,) = samples(kept[:12]), samples(kept[:30])
    assert not few.follows(rows)
    assert many.follows(rows)
    (turned,) = samples(kept[29::-1])
    assert not turned.follows(rows)


def test_at_most_fifty_values_are_looked_up():
    (sample,) = samples(list(range(10_000)))
    assert len(sample.values) == 50
    assert len(set(sample.values)) == 50
