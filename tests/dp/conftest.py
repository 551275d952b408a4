"""One table with every kind of column, and a way to run plans on it."""

from __future__ import annotations

from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest
from hypothesis import settings

from privnb.dp import noise
from privnb.dp.bounding import bounding_sql
from privnb.dp.planner import plan
from privnb.dp.schema import Bounds, Column, TableSchema, UnitBounds

# Shared machines are slow at times; how long an example takes proves nothing.
settings.register_profile("dp", deadline=None)
settings.load_profile("dp")

SOURCE = """CREATE TABLE source (
    person VARCHAR, plan VARCHAR, year BIGINT, city VARCHAR, visits BIGINT, dollars DOUBLE,
    born DATE, seen TIMESTAMP, female BOOLEAN, score DOUBLE)"""


def make_schema(**changes):
    columns = (
        Column(name="plan", type="string", nullable=False, values=("free", "paid")),
        Column(name="year", type="integer", values=(1, 2, 3)),
        Column(name="city", type="string"),
        Column(
            name="visits",
            type="integer",
            nullable=False,
            bounds=Bounds(lower=0, upper=25),
            unit_bounds=UnitBounds(lower=0, upper=30),
        ),
        Column(
            name="dollars",
            type="float",
            bounds=Bounds(lower=-10, upper=100),
            unit_bounds=UnitBounds(lower=-10, upper=120),
        ),
        Column(name="born", type="date"),
        Column(name="seen", type="timestamp"),
        Column(name="female", type="boolean", nullable=False),
        Column(name="score", type="float"),
    )
    settings = {
        "name": "visits",
        "columns": columns,
        "privacy_unit": "person",
        "max_rows_per_unit": 3,
        "delta": 1e-6,
    }
    return TableSchema(**(settings | changes))


class Database:
    """A source of rows, bounded as the site does it."""

    def __init__(self, schema, rows):
        self.schema = schema
        self.connection = duckdb.connect(config={"threads": 1})
        self.connection.execute(SOURCE)
        if rows:
            names = [str(place) for place in range(10)]
            columns = [pa.array(column) for column in zip(*rows, strict=True)]
            self.connection.register("rows", pa.table(columns, names=names))
            self.connection.execute("INSERT INTO source SELECT * FROM rows")
            self.connection.unregister("rows")
        bounded = bounding_sql(schema, source='"source"')
        self.connection.execute(f'CREATE TABLE "visits" AS {bounded}', {"key": "k" * 32})

    def run(self, planned):
        return self.connection.execute(planned.sql).fetchall()

    def rows(self, sql):
        return self.connection.execute(sql).fetchall()

    def close(self):
        self.connection.close()


@pytest.fixture(scope="session")
def schema_with():
    return make_schema


@pytest.fixture(scope="session")
def schema():
    return make_schema()


@pytest.fixture(scope="session")
def planned():
    """Plan a query on a schema, with epsilon 1 unless told."""

    def make(sql, schema=None, *, epsilon="1", parameters=None):
        schema = schema or make_schema()
        tables = {schema.name: schema}
        return plan(sql, tables=tables, parameters=parameters, epsilon=Decimal(epsilon))

    return make


@pytest.fixture
def database():
    """Open databases with given rows; all are closed at the end."""
    opened = []

    def make(rows, schema=None):
        opened.append(Database(schema or make_schema(), rows))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session", autouse=True)
def _opendp():
    noise.warm_up()
