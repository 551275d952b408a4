"""What a site keeps of its hidden columns, and the search for an output's values among it.

What counts as a copy of a hidden column is said in `privnb.site.data.copies`.

What is kept in a registered table, once for each hidden column, is its distinct numbers
and, of texts, 64 bits of a keyed hash. Of a live database nothing is kept: there the database is
asked, when an output has to be judged, to count what occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.dp.bounding import UNIT
from privnb.dp.literals import quoted
from privnb.site.data.live import connected
from privnb.site.data.sources import hidden_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb
    import ibis.expr.types as ir
    from numpy.typing import NDArray

    from privnb.dp.schema import TableSchema
    from privnb.site.config import SiteConfig, TableConfig
    from privnb.site.data.copies import Kind, Sample

__all__ = ["Match", "follows_rows", "matches", "matches_live", "store_hidden"]

_CATEGORY, _SHARED = 20, 5
"""A category has fewer different values than the one, each shared by as many rows as the other."""
_KEPT: dict[Kind, str] = {
    "number": "whole.hidden.numbers",
    "moment": "whole.hidden.numbers",
    "text": "whole.hidden.hashes",
}
_NUMERIC = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE"),
)


# Of registered tables


def store_hidden(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    *,
    columns: Sequence[str],
    source: str,
    key: bytes,
) -> None:
    """Keep what copies of the unit, and of ``columns`` of ``source``, would be known by.

    It goes into the schema ``hidden`` of the catalog ``whole``, where the whole rows are already.
    """
    connection.execute(
        "CREATE SCHEMA whole.hidden;"
        "CREATE TABLE whole.hidden.columns (number INTEGER, name VARCHAR, kind VARCHAR);"
        "CREATE TABLE whole.hidden.numbers (number INTEGER, value DOUBLE);"
        "CREATE TABLE whole.hidden.hashes (number INTEGER, value UBIGINT)"
    )
    rows = f"whole.main.{quoted(schema.name)}"
    _store(connection, 0, schema.privacy_unit, column=UNIT, source=rows, key=key)
    for number, name in enumerate(columns, start=1):
        _store(connection, number, name, column=name, source=quoted(source), key=key)


def _store(  # noqa: PLR0913 - all of it differs between the unit and other columns
    connection: duckdb.DuckDBPyConnection,
    number: int,
    name: str,
    *,
    column: str,
    source: str,
    key: bytes,
) -> None:
    cell = quoted(column)
    ((declared,),) = connection.execute(
        f"SELECT column_type FROM (DESCRIBE SELECT {cell} FROM {source})"  # noqa: S608 - quoted
    ).fetchall()
    kind, value = _stored_as(connection, declared, cell, source)
    target, parameters = _KEPT[kind], {"key": key.hex()} if kind == "text" else {}
    (distinct,) = connection.execute(
        f"INSERT INTO {target} SELECT {number}, value FROM"  # noqa: S608 - quoted, and ours
        f" (SELECT DISTINCT {value} AS value FROM {source} WHERE {cell} IS NOT NULL)"
        " WHERE value IS NOT NULL ORDER BY value",
        parameters,
    ).fetchone() or (0,)
    ((rows,),) = connection.execute(f"SELECT count({cell}) FROM {source}").fetchall()  # noqa: S608
    if number and distinct < _CATEGORY and distinct * _SHARED <= rows:
        connection.execute(f"DELETE FROM {target} WHERE number = ?", [number])  # noqa: S608 - ours
        return
    connection.execute("INSERT INTO whole.hidden.columns VALUES (?, ?, ?)", [number, name, kind])


def _stored_as(
    connection: duckdb.DuckDBPyConnection, declared: str, cell: str, source: str
) -> tuple[Kind, str]:
    if declared.startswith(("DATE", "TIMESTAMP")):
        moment = f"TRY_CAST({cell} AS TIMESTAMP)"
        return "moment", f"CASE WHEN isfinite({moment}) THEN epoch_us({moment})::DOUBLE END"
    number = f"TRY_CAST({cell} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    if declared.startswith("DECIMAL") or declared in _NUMERIC:
        return "number", finite
    if declared == "VARCHAR":
        # Identifiers are often kept as texts of digits, and read as numbers by whoever copies them.
        ((digits,),) = connection.execute(
            f"SELECT coalesce(bool_and({finite} IS NOT NULL), false) FROM {source}"  # noqa: S608
            f" WHERE {cell} IS NOT NULL"
        ).fetchall()
        if digits:
            return "number", finite
    return "text", f"md5_number_lower($key || CAST({cell} AS VARCHAR))"


@dataclass(frozen=True, kw_only=True)
class Match:
    """A hidden column in which all values of a sample occur."""

    name: str
    """The declared name of the privacy unit, or the source's name of another column."""
    is_unit: bool
    is_chance: bool
    """Whether chance explains it."""


def matches(
    connection: duckdb.DuckDBPyConnection,
    catalog: str,
    table: str,
    asked: Sequence[Sample],
    *,
    key: bytes,
) -> list[list[Match]]:
    """Find, for each sample, what of all that a registered table keeps has all its values."""
    found: list[list[Match]] = [[] for _ in asked]
    numbers: dict[int, NDArray[np.float64]] = {}
    for place, number, name in _candidates(connection, catalog, asked, key=key):
        sample = asked[place]
        chance = False
        if sample.kind != "text":
            if number not in numbers:
                numbers[number] = _numbers(connection, catalog, number)
            chance = sample.is_chance(_counts(numbers[number], list(sample.windows())))
            if chance and sample.covers(len(numbers[number])):
                rows = f"{catalog}.main.{quoted(table)}"
                ((present,),) = connection.execute(f"SELECT count(*) FROM {rows}").fetchall()  # noqa: S608
                chance = number != 0 and not _are_identifiers(len(numbers[number]), present)
        found[place].append(Match(name=name, is_unit=number == 0, is_chance=chance))
    return found


def _candidates(
    connection: duckdb.DuckDBPyConnection, catalog: str, asked: Sequence[Sample], *, key: bytes
) -> Iterator[tuple[int, int, str]]:
    """Yield places of samples with number and name of the columns that have all their values."""
    for kind in dict.fromkeys(sample.kind for sample in asked):
        pairs = [
            (place, value)
            for place, sample in enumerate(asked)
            if sample.kind == kind
            for value in sample.values
        ]
        value = "md5_number_lower($key || v)" if kind == "text" else "v"
        rows = connection.execute(
            "SELECT place, number, name FROM"  # noqa: S608 - ours
            f" (SELECT place, {value} AS value FROM"
            " (SELECT unnest($places) AS place, unnest($values) AS v))"
            f" JOIN {_KEPT[kind].replace('whole', catalog, 1)} USING (value)"
            f" JOIN {catalog}.hidden.columns USING (number) WHERE kind = $kind"
            " GROUP BY ALL HAVING count(*) = list_extract($needed, place + 1)"
            " ORDER BY place, number",
            {
                "places": [place for place, _ in pairs],
                "values": [value for _, value in pairs],
                "needed": [len(sample.values) for sample in asked],
                "kind": kind,
            }
            | ({"key": key.hex()} if kind == "text" else {}),
        ).fetchall()
        yield from rows


def _numbers(
    connection: duckdb.DuckDBPyConnection, catalog: str, number: int
) -> NDArray[np.float64]:
    """Return the different numbers of a hidden column, sorted."""
    kept = _KEPT["number"].replace("whole", catalog, 1)
    found = connection.execute(f"SELECT value FROM {kept} WHERE number = {number}").fetchnumpy()  # noqa: S608
    return np.sort(found["value"])


def _counts(values: NDArray[np.float64], windows: Sequence[tuple[float, float]]) -> list[int]:
    lower, upper = np.asarray(windows, dtype=np.float64).T
    counts = np.searchsorted(values, upper, "left") - np.searchsorted(values, lower, "right")
    return [int(count) for count in counts.clip(min=0)]


def follows_rows(connection: duckdb.DuckDBPyConnection, rows: str, sample: Sample) -> bool:
    """Tell whether a column holds units in the order of ``rows``, a relation of a cell's rows."""
    unit = f"TRY_CAST({quoted(UNIT)} AS DOUBLE)"
    found = connection.execute(
        f"SELECT unit FROM (SELECT rowid AS place, {unit} AS unit FROM {rows})"  # noqa: S608 - quoted
        " WHERE unit IN (SELECT unnest($first)) ORDER BY place",
        {"first": list(sample.first)},
    ).fetchnumpy()["unit"]
    return sample.follows([float(number) for number in found])


def _are_identifiers(different: int, present: int) -> bool:
    """Tell whether so many different values in so many rows are hardly shared."""
    return different * 2 >= present


# Of live databases


def matches_live(
    config: SiteConfig, table: TableConfig, asked: Sequence[Sample]
) -> list[list[Match]]:
    """Find, for each sample, the hidden columns of a live database that have all its values.

    Costs an aggregation in the database for each hidden column, and another one for each sample of
    numbers whose values all occur. Nothing but counts leaves the database.
    """
    found: list[list[Match]] = [[] for _ in asked]
    with connected(config, table) as backend:
        raw = backend.table(table.source_table)
        for name in hidden_columns(table, raw):
            for place, chance in _live_places(raw[name], asked):
                found[place].append(Match(name=name, is_unit=False, is_chance=chance))
    return found


def _live_places(cell: Any, asked: Sequence[Sample]) -> Iterator[tuple[int, bool]]:
    """Yield the places of the samples whose values all occur, and whether chance explains it."""
    values = {kind: _live_value(cell, kind) for kind in {sample.kind for sample in asked}}
    counts = {
        f"n{place}": value.nunique(where=value.isin(list(sample.values)))
        for place, sample in enumerate(asked)
        if (value := values[sample.kind]) is not None
    }
    if not counts:
        return
    row = _aggregated(cell, different=cell.nunique(), present=cell.count(), **counts)
    different, present = row["different"], row["present"]
    if different < _CATEGORY and different * _SHARED <= present:
        return
    for place, sample in enumerate(asked):
        if row.get(f"n{place}", 0) < len(sample.values):
            continue
        chance, value = False, values[sample.kind]
        if sample.kind != "text":
            within = _aggregated(
                value,
                **{
                    f"n{number}": value.nunique(where=(value > low) & (value < high))
                    for number, (low, high) in enumerate(sample.windows())
                },
            )
            chance = sample.is_chance(list(within.values()))
            if chance and sample.covers(different):
                chance = not _are_identifiers(different, present)
        yield place, chance


def _aggregated(cell: Any, **asked: Any) -> dict[str, int]:
    (row,) = cell.as_table().aggregate(**asked).to_pyarrow().to_pylist()
    return {name: int(count or 0) for name, count in row.items()}


def _live_value(cell: ir.Value, kind: Kind) -> Any:
    found = cell.type()
    match kind:
        case "number" if found.is_numeric() and not found.is_boolean():
            return cell.cast("float64")
        case "text" if found.is_string() or found.is_uuid():
            return cell.cast("string")
        case "moment" if found.is_timestamp() or found.is_date():
            return cell.cast("timestamp").epoch_seconds().cast("float64") * 1e6
    return None
