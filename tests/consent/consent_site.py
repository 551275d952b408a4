"""A site with one table and a consent register: people 1 to 6, two rows each, and nobody's row."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet

from privnb.site.config import load_config
from privnb.site.data.tables import Tables

RESEARCH, TEACHING = "research", "teaching"

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[purposes.research]
dpv = "AcademicResearch"
legal_basis = "eu-gdpr:A6-1-a"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 1
delta = 1e-6
total_epsilon = 10
purposes = ["research", "teaching"]

[tables.visits.consent]
source = "consents.parquet"
unit = "who"

[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.mark]
type = "integer"
bounds = [0, 30]
[tables.visits.columns.cost]
type = "float"
bounds = [0, 10]
[tables.visits.columns.day]
type = "date"
[tables.visits.columns.seen]
type = "timestamp"
[tables.visits.columns.fit]
type = "boolean"
[tables.visits.columns.age_group]
type = "string"
from = "age"
cuts = [18]
labels = ["child", "adult"]
"""

PEOPLE = (1, 2, 3, 4, 5, 6)
MARK = {person: 10 * person for person in PEOPLE}
"""The declared column by which a test knows whose row it sees."""

NOON = dt.datetime(2026, 1, 2, 12)  # noqa: DTZ001 - columns have no time zone

ROWS = {
    "person": [*PEOPLE, *PEOPLE, None],
    "mark": [*MARK.values(), *MARK.values(), 99],
    "cost": [0.1, 12345.678, float("nan"), float("inf"), None, 6.0] + [1.0] * 7,
    "day": [dt.date(2026, 1, 2)] * 12 + [None],
    "seen": [NOON] * 13,
    "fit": [True, None, False] + [True] * 10,
    "age": [17, 18, 40, 41, 42, 43] * 2 + [44],
    "name": [f"Anna of house {number}" for number in range(13)],
}

Entry = tuple[int | None, str, str, dt.datetime]


def write_site(directory, text=SITE):
    directory.mkdir(exist_ok=True)
    (directory / "site.toml").write_text(text)
    pyarrow.parquet.write_table(pa.table(ROWS), directory / "visits.parquet")
    write_register(directory, [])
    return directory


def write_register(directory, entries):
    """Replace the register as an owner should: as a whole."""
    columns = list(zip(*entries, strict=True)) or [[], [], [], []]
    table = pa.table(
        {
            "who": pa.array(columns[0], pa.int64()),
            "purpose": pa.array(columns[1], pa.string()),
            "status": pa.array(columns[2], pa.string()),
            "at": pa.array(columns[3], pa.timestamp("us")),
        }
    )
    pyarrow.parquet.write_table(table, directory / ".new")
    (directory / ".new").replace(directory / "consents.parquet")


def given(*people, purpose=RESEARCH, at=NOON):
    return [(person, purpose, "given", at) for person in people]


def withdrawn(*people, purpose=RESEARCH, at=NOON):
    return [(person, purpose, "withdrawn", at) for person in people]


def opened(directory):
    return Tables.open(load_config(directory), state=directory / "state")


def in_frame(tables, purpose=RESEARCH):
    """Whose rows a Python cell gets, with how many each has."""
    marks = tables.frames.frame("visits", purpose=purpose)["mark"].to_pylist()
    return {mark // 10: marks.count(mark) for mark in marks}


def in_sql(tables, purpose=RESEARCH):
    """Whose rows DP SQL sees."""
    return {unit for (unit,) in tables.rows("SELECT _unit FROM visits", purpose=purpose)}
