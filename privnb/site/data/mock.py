"""Mock twins: synthetic tables made from the public schema alone, for trying a query.

Nothing of the data is in them, so they are free. The same schema gives the same twin everywhere.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from privnb import wire
from privnb.dp.schema import Column, TableSchema
from privnb.site.data.registration import create_bounded
from privnb.site.data.sources import SOURCE

__all__ = ["ARROW_TYPES", "fill_mock", "mock_rows"]

_MOST_ROWS = 2_000
_NULL_SHARE = 0.03
_WORDS = ("alpha", "beta", "gamma", "delta", "epsilon")
_FIRST_DAY = dt.date(2020, 1, 1)
_DAYS = 5 * 365
ARROW_TYPES = {
    "integer": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
"""The type of a column outside DuckDB, by its type in the schema."""


def fill_mock(connection: duckdb.DuckDBPyConnection, schema: TableSchema) -> None:
    """Create the bounded form of a mock twin, by the same SQL that bounds the real table."""
    connection.register(SOURCE, mock_rows(schema))
    key = bytes.fromhex(wire.sha256_hex(b"mock twin"))
    create_bounded(connection, schema, key=key, catalog="memory")
    connection.unregister(SOURCE)


def mock_rows(schema: TableSchema) -> pa.Table:
    """Make up rows that honour types, bounds, values, nullability, unit, constants and unique keys.

    At most 2,000 rows; their number says nothing about the real table's, unless that is public.
    """
    random = np.random.default_rng(int(wire.sha256_hex(wire.encode(schema)), 16))
    rows = min(_MOST_ROWS, schema.public_rows or _MOST_ROWS)
    units = max(1, 2 * rows // (schema.max_rows_per_unit + 1))
    sizes = random.integers(1, schema.max_rows_per_unit, size=units, endpoint=True)
    owners = np.repeat(np.arange(1, units + 1), sizes)[:rows]
    columns: dict[str, list[Any]] = {
        column.name: (
            _units(column, owners)
            if column.name == schema.privacy_unit
            else _values(column, owners, random)
        )
        for column in schema.columns
    }
    keep = _unique_rows(schema, columns)
    return pa.table(
        {
            column.name: pa.array(
                [columns[column.name][row] for row in keep], type=ARROW_TYPES[column.type]
            )
            for column in schema.columns
        }
    )


def _units(column: Column, owners: np.ndarray[Any, Any]) -> list[Any]:
    numbers = owners.tolist()
    return numbers if column.type == "integer" else [f"mock-{number}" for number in numbers]


def _values(column: Column, owners: np.ndarray[Any, Any], random: np.random.Generator) -> list[Any]:
    """Make up a value for each row, or for each unit where one has the same in all its rows."""
    places = owners - 1 if column.constant else np.arange(len(owners))
    made = [_present(column, random) for _ in range(int(places[-1]) + 1)]
    missing = random.random(len(made)) < (_NULL_SHARE if column.nullable else 0)
    return [None if missing[place] else made[place] for place in places.tolist()]


def _present(column: Column, random: np.random.Generator) -> Any:
    if column.values is not None:
        value = column.values[int(random.integers(len(column.values)))]
        return dt.date.fromisoformat(str(value)) if column.type == "date" else value
    match column.type:
        case "integer" | "float":
            return _number(column, random)
        case "boolean":
            return bool(random.integers(2))
        case "string":
            return _WORDS[int(random.integers(len(_WORDS)))]
        case "date":
            return _FIRST_DAY + dt.timedelta(days=int(random.integers(_DAYS)))
        case "timestamp":
            first = dt.datetime.combine(_FIRST_DAY, dt.time())
            return first + dt.timedelta(minutes=int(random.integers(_DAYS * 24 * 60)))


def _number(column: Column, random: np.random.Generator) -> float:
    """Draw within the bounds, most often near the lower one, as counts and costs are."""
    assert column.bounds is not None  # noqa: S101 - numbers have bounds or values
    lower, upper = column.bounds.lower, column.bounds.upper
    drawn = lower + (upper - lower) * float(random.random()) ** 3
    if column.type == "float":
        return min(max(drawn, lower), upper)
    lowest, highest = math.ceil(lower), math.floor(upper)
    return min(max(round(drawn), lowest), highest)


def _unique_rows(schema: TableSchema, columns: dict[str, list[Any]]) -> list[int]:
    """Drop rows that would repeat a unique key."""
    kept = range(len(columns[schema.privacy_unit]))
    for key in schema.unique_keys:
        first: dict[tuple[Any, ...], int] = {}
        for row in kept:
            first.setdefault(tuple(columns[name][row] for name in key), row)
        kept = list(first.values())  # type: ignore[assignment]
    return list(kept)
