"""Whether a column of an output copies what the site hides: the privacy unit, an undeclared column.

A Python cell is never given these columns, so a copy means that something went wrong before: a
declared column that repeats a hidden one, a hole in the sandbox. The check is a second lock, and
says nothing about values that were changed, however little.

An output's column is taken for a copy when *all* its values occur in the hidden column and chance
does not explain it:

- Texts: at least three different ones that are longer than three characters (five, if some are
  numbers). Names, codes and free texts are found; ``F``, ``M`` and ``yes`` are not.
- Numbers, dates and times: at least three different ones, and the chance that as many others from
  the same neighbourhoods would all occur too is below one in ten thousand. The chance is the
  product, over the values, of how densely the hidden column is filled around each. Sparse
  identifiers, amounts with cents and measurements are found; counts, percentages and flags are not,
  as ``0, 1, 2, …`` are dense where they occur at all. Identifiers *numbered* ``1, 2, 3, …`` cannot
  be told from counts, and are not found.
- A hidden column of few values that many rows share is a category, not an identifier, and is left
  alone.

What is kept for this in a registered table, once for each hidden column, is its distinct numbers
and, of texts, 64 bits of a keyed hash. Of a live database nothing is kept: there the database is
asked, when an output has to be judged, to count what occurs.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from privnb.dp.bounding import UNIT
from privnb.dp.literals import quoted
from privnb.site.live import connected
from privnb.site.sources import hidden_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb
    import ibis.expr.types as ir

    from privnb.computation import Scalar
    from privnb.dp.schema import TableSchema
    from privnb.site.config import SiteConfig, TableConfig

__all__ = ["Sample", "copied_from", "copied_from_live", "is_chance", "samples", "store_hidden"]

Kind = Literal["number", "moment", "text"]

_FEW = 3
"""With fewer different values nothing can be told."""
_SHORT, _SHORT_NUMBER = 3, 5
"""Texts up to this length are no sign of a copy."""
_MOST_LOOKED_UP = 50
_CHANCE = 1e-4
_FINEST = 12
"""Decimals beyond which a number counts as full precision."""
_NEAR, _NEAR_SHARE = 10, 20
"""To each side a neighbourhood reaches this many steps, and of a number this fraction, if more."""
_CATEGORY, _SHARED = 20, 5
"""A category has fewer different values than the one, each shared by as many rows as the other."""
_KEPT: dict[Kind, str] = {
    "number": "whole.hidden.numbers",
    "moment": "whole.hidden.numbers",
    "text": "whole.hidden.hashes",
}
_MICROSECOND = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - columns have no time zone
_STEPS = (86_400_000_000, 1_000_000, 1)
"""Of moments, in microseconds: a day, a second, all that is finer."""

_NUMERIC = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "FLOAT", "DOUBLE"),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Different values of an output's column, at most fifty, in one of the kinds they may be.

    Numbers are floats, moments floats in microseconds since 1970. ``step`` is the grid on which
    all of them lie.
    """

    kind: Kind
    values: tuple[float | str, ...]
    step: float = 0.0

    def windows(self) -> Iterator[tuple[float, float]]:
        """Yield the open neighbourhoods, below and above, of each value."""
        for value in self.values:
            assert isinstance(value, float)  # noqa: S101 - texts have no neighbourhood
            share = abs(value) / _NEAR_SHARE if self.kind == "number" else 0.0
            width = self.step * max(_NEAR, math.floor(share / self.step))
            yield value - width, value
            yield value, value + width


def samples(values: Sequence[Scalar]) -> tuple[Sample, ...]:
    """Find what an output's column might be a copy of; nothing if it is too small to tell.

    >>> [sample.kind for sample in samples([4711, 815, 1234567])]
    ['number']
    >>> samples([True, False, None, 1])
    ()
    """
    present = list(dict.fromkeys(v for v in values if v is not None and not isinstance(v, bool)))
    if len(present) < _FEW:
        return ()
    numbers = [number for value in present if (number := _number(value)) is not None]
    texts = [value for value in present if isinstance(value, str)]
    found = []
    if len(numbers) == len(present):
        found.append(Sample(kind="number", values=_some(numbers), step=_grid(numbers)))
    if len(texts) < len(present):
        return tuple(found)
    moments = [moment for text in texts if (moment := _moment(text)) is not None]
    if len(moments) == len(texts):
        step = next(step for step in _STEPS if all(moment % step == 0 for moment in moments))
        found.append(Sample(kind="moment", values=_some(moments), step=float(step)))
    short = _SHORT_NUMBER if numbers else _SHORT
    if sum(len(text) > short for text in texts) >= _FEW:
        found.append(Sample(kind="text", values=_some(texts)))
    return tuple(found)


def is_chance(sample: Sample, counts: Sequence[int]) -> bool:
    """Tell whether chance explains that all values of a sample occur in a hidden column.

    Parameters
    ----------
    counts
        For each of the sample's windows, how many different values the column has in it.
    """
    if sample.kind == "text":
        return False
    density = [
        count / max(1, round((high - low) / sample.step) - 1)
        for count, (low, high) in zip(counts, sample.windows(), strict=True)
    ]
    # The denser side counts, so that the column's own ends do not look like gaps in it.
    sides = zip(density[::2], density[1::2], strict=True)
    return math.prod(min(1.0, max(below, above)) for below, above in sides) >= _CHANCE


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


def copied_from(
    connection: duckdb.DuckDBPyConnection, catalog: str, sample: Sample, *, key: bytes
) -> str | None:
    """Name what, of all that a registered table keeps, a sample was copied from, if anything.

    The privacy unit has its declared name, a hidden column that of the source.
    """
    kept = _KEPT[sample.kind].replace("whole", catalog, 1)
    text = sample.kind == "text"
    value = "md5_number_lower($key || v)" if text else "v"
    candidates = connection.execute(
        f"SELECT number, name FROM {kept} JOIN {catalog}.hidden.columns USING (number)"  # noqa: S608
        f" JOIN (SELECT {value} AS value FROM (SELECT unnest($values) AS v)) USING (value)"
        " WHERE kind = $kind GROUP BY ALL HAVING count(*) = $all ORDER BY number",
        {"values": list(sample.values), "kind": sample.kind, "all": len(sample.values)}
        | ({"key": key.hex()} if text else {}),
    ).fetchall()
    for number, name in candidates:
        counts = () if text else _counts(connection, kept, number, list(sample.windows()))
        if not is_chance(sample, counts):
            return str(name)
    return None


def _counts(
    connection: duckdb.DuckDBPyConnection,
    kept: str,
    number: int,
    windows: Sequence[tuple[float, float]],
) -> Sequence[int]:
    found = connection.execute(f"SELECT value FROM {kept} WHERE number = {number}").fetchnumpy()  # noqa: S608
    values = np.sort(found["value"])
    lower, upper = np.asarray(windows, dtype=np.float64).T
    counts = np.searchsorted(values, upper, "left") - np.searchsorted(values, lower, "right")
    return [int(count) for count in counts.clip(min=0)]


# Of live databases


def copied_from_live(config: SiteConfig, table: TableConfig, sample: Sample) -> str | None:
    """Name the hidden column of a live database that a sample was copied from, if any.

    Costs an aggregation in the database for each hidden column of the sample's kind, and two more
    where all values occur. Nothing but counts leaves the database.
    """
    with connected(config, table) as backend:
        raw = backend.table(table.source_table)
        for name in hidden_columns(table, raw):
            value = _live_value(raw[name], sample.kind)
            if value is not None and _is_copy(raw[name], value, sample):
                return name
    return None


def _is_copy(cell: Any, value: Any, sample: Sample) -> bool:
    found = value.nunique(where=value.isin(list(sample.values)))
    if int(found.to_pyarrow().as_py() or 0) < len(sample.values):
        return False
    distinct = int(cell.nunique().to_pyarrow().as_py() or 0)
    if distinct < _CATEGORY and distinct * _SHARED <= int(cell.count().to_pyarrow().as_py() or 0):
        return False
    if sample.kind == "text":
        return True
    within = {
        f"n{number}": value.nunique(where=(value > low) & (value < high))
        for number, (low, high) in enumerate(sample.windows())
    }
    (counts,) = value.as_table().aggregate(**within).to_pyarrow().to_pylist()
    return not is_chance(sample, [int(counts[name] or 0) for name in within])


def _live_value(cell: ir.Value, kind: Kind) -> ir.Value | None:
    found = cell.type()
    match kind:
        case "number" if found.is_numeric() and not found.is_boolean():
            return cell.cast("float64")
        case "text" if found.is_string() or found.is_uuid():
            return cell.cast("string")
        case "moment" if found.is_timestamp() or found.is_date():
            return cell.cast("timestamp").epoch_seconds().cast("float64") * 1e6
    return None


# Values


def _number(value: Scalar) -> float | None:
    """Read a value as a number, a text of digits included."""
    try:
        number = float(value or 0)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(text: str) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return float((moment - _EPOCH) // _MICROSECOND)


def _grid(numbers: Sequence[float]) -> float:
    """Find the coarsest decimal grid on which all of these numbers lie, from 1 downwards."""
    finest = 0
    for number in numbers:
        exponent = Decimal(repr(number)).normalize().as_tuple().exponent
        finest = max(finest, -int(exponent))
    return float(10.0 ** -min(finest, _FINEST))


def _some(values: Sequence[Any]) -> tuple[Any, ...]:
    """Choose at most fifty different values, evenly over their order."""
    ordered = sorted(set(values))
    step = max(1, math.ceil(len(ordered) / _MOST_LOOKED_UP))
    return tuple(ordered[::step])
