"""What Python cells get of a table, and what the gate may ask about it.

A cell gets whole rows: all declared columns, unclamped, without the privacy unit; only rows whose
unit consents to the declared purpose. What protects people then is not noise but the people and
rules that let an output out, helped by the exact counts below, which never leave the site.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from privnb.dp.bounding import UNIT, visible_columns
from privnb.dp.literals import DUCKDB_TYPES, quoted
from privnb.errors import SiteFailure, UnknownName
from privnb.site.data.copies import Sample, samples
from privnb.site.data.hidden import Match, follows_rows, matches, matches_live
from privnb.site.data.mock import ARROW_TYPES, mock_rows

if TYPE_CHECKING:
    from privnb.computation import Scalar
    from privnb.dp.schema import Column, TableSchema
    from privnb.site.config import SiteConfig, TableConfig
    from privnb.site.consent import ConsentRegister

__all__ = ["CONSENTING", "Frames", "time_limit"]

CONSENTING = "consenting units"
"""Name, which no table can have, of the relation of a computation's consenting units."""

_log = logging.getLogger("privnb.site")
_LONGEST_SECONDS = 120.0
_KEYS = "keys asked for"


class Frames:
    """Whole rows of a site's tables, for Python cells. It may be used from several threads.

    Rows come in an order that is fixed when the table is registered, by a keyed hash of their
    content: the same for every purpose, and telling nothing of the source's order (see
    `privnb.site.data.registration`).

    ``units``, ``units_behind`` and ``matches_hidden`` speak of the rows that this thread's last
    `frame` of the same table and purpose had: consent that was withdrawn since shows in the next
    computation.

    Parameters
    ----------
    config
        The site.
    connection
        Has each table's whole rows attached, read-only, as the catalog that ``catalogs`` names.
    registers
        The consent registers of the tables that have one.
    key
        The secret under which texts of hidden columns were hashed.
    """

    def __init__(
        self,
        config: SiteConfig,
        *,
        connection: duckdb.DuckDBPyConnection,
        catalogs: Mapping[str, str],
        registers: Mapping[str, ConsentRegister],
        key: bytes,
    ) -> None:
        self._config = config
        self._tables = {table.name: table for table in config.tables}
        self._connection = connection
        self._catalogs = catalogs
        self._registers = registers
        self._key = key
        self._mocks: dict[str, pa.Table] = {}
        self._making = threading.Lock()

    def frame(self, table: str, *, purpose: str, mock: bool = False) -> pa.Table:
        """Return a table's rows for a purpose, or those of its mock twin.

        Columns are int64, float64, string, bool, date32 or timestamp[us], as declared. The
        consent register is looked at first.

        Raises
        ------
        UnknownName
            There is no such table.
        SiteFailure
            Whatever else goes wrong, a register that cannot be read included; the wording is
            constant.
        """
        schema = self._table(table).schema
        if mock:
            return self._mock(schema)
        with self._asking(table, purpose, look=True) as (cursor, rows):
            names = ", ".join(quoted(column.name) for column in visible_columns(schema))
            found = cursor.execute(f"SELECT {names} FROM {rows} ORDER BY rowid")  # noqa: S608
            return _declared(found.to_arrow_table(), schema)

    def units(self, table: str, *, purpose: str) -> int:
        """Count the privacy units whose rows the frame has."""
        with self._asking(table, purpose) as (cursor, rows):
            ((count,),) = cursor.execute(
                f"SELECT count(DISTINCT {quoted(UNIT)}) FROM {rows}"  # noqa: S608 - quoted
            ).fetchall()
            return int(count)

    def units_behind(
        self, table: str, *, purpose: str, keys: Sequence[tuple[str, Sequence[Scalar]]]
    ) -> list[int]:
        """Count, for each row of an output, the units that have exactly its values.

        Parameters
        ----------
        keys
            Names of declared columns, each with its value in every row of the output. NULL is a
            value; dates and timestamps are ISO text; numbers are compared exactly. A value that
            the column's type cannot have stands for no unit.
        """
        schema = self._table(table).schema
        columns = [_visible(schema, name) for name, _ in keys]
        asked = list(
            zip(
                *(
                    [_as_declared(column, value) for value in values]
                    for column, (_, values) in zip(columns, keys, strict=True)
                ),
                strict=True,
            )
        )
        possible = list(dict.fromkeys(row for row in asked if _IMPOSSIBLE not in row))
        if not possible:
            return [0] * len(asked)
        wanted = pa.table(
            {
                f"k{place}": pa.array([row[place] for row in possible], ARROW_TYPES[column.type])
                for place, column in enumerate(columns)
            }
            | {"row": pa.array(range(len(possible)), pa.int64())}
        )
        same = " AND ".join(
            f"rows.{quoted(column.name)} IS NOT DISTINCT FROM k.k{place}"
            for place, column in enumerate(columns)
        )
        with self._asking(table, purpose) as (cursor, rows):
            cursor.register(_KEYS, wanted)
            counts = dict(
                cursor.execute(
                    f"SELECT k.row, count(DISTINCT rows.{quoted(UNIT)})"  # noqa: S608 - quoted
                    f" FROM {quoted(_KEYS)} AS k JOIN (FROM {rows}) AS rows ON {same} GROUP BY ALL"
                ).fetchall()
            )
        behind = {row: counts.get(place, 0) for place, row in enumerate(possible)}
        return [behind.get(row, 0) for row in asked]

    def matches_hidden(
        self, table: str, *, purpose: str, columns: Sequence[Sequence[Scalar]]
    ) -> list[str | None]:
        """Name, for each column's values, the hidden column that they were copied from, if any.

        Hidden is the privacy unit, too. `privnb.site.data.copies` says what counts as a copy.
        Values that all occur in one declared column are explained by it, unless it is the order of
        the rows that tells. The names are for the owner's side.
        """
        declared = self._table(table)
        asked = [(place, one) for place, values in enumerate(columns) for one in samples(values)]
        found: list[str | None] = [None] * len(columns)
        if not asked:
            return found
        alone = [sample for _, sample in asked]
        with self._asking(table, purpose) as (cursor, rows):
            matched = matches(cursor, self._catalogs[table], table, alone, key=self._key)
            if "://" in declared.source:
                others = matches_live(self._config, declared, alone)
                matched = [[*one, *other] for one, other in zip(matched, others, strict=True)]

            def is_copy(match: Match, sample: Sample) -> bool:
                if match.is_chance or _explained(cursor, rows, declared.schema, sample):
                    return match.is_unit and follows_rows(cursor, rows, sample)
                return True

            for (place, sample), them in zip(asked, matched, strict=True):
                names = (match.name for match in them if is_copy(match, sample))
                found[place] = found[place] or next(names, None)
        return found

    def consenting(self, table: str, *, purpose: str) -> pa.Table | None:
        """Return who consents now, one column ``unit``; None for a table without a register.

        Raises `SiteFailure`, with constant wording, for a register that cannot be read.
        """
        register = self._registers.get(self._table(table).name)
        if register is None:
            return None
        try:
            return register.look(purpose).units
        except Exception:  # noqa: BLE001 - whatever it is, it must look the same from outside
            _log.exception("the consent register of table %s cannot be read", table)
            raise _failure() from None

    def population(self, table: str, purpose: str) -> str:
        """Say, for a label, how consent restricted whose rows a cell got.

        It names no time, as a label may be made long after its cell ran. Empty for a table without
        a consent register.
        """
        register = self._registers.get(self._table(table).name)
        return "" if register is None else register.population(purpose)

    def close(self) -> None:
        """Let go of the data."""
        self._connection.close()

    @contextmanager
    def _asking(
        self, table: str, purpose: str, *, look: bool = False
    ) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """Open a cursor, and name the relation of the rows that the purpose allows."""
        name = self._table(table).name
        try:
            with self._connection.cursor() as cursor, time_limit(cursor, _LONGEST_SECONDS):
                rows = f"{self._catalogs[name]}.main.{quoted(name)}"
                register = self._registers.get(name)
                if register is not None:
                    found = register.look(purpose) if look else register.used(purpose)
                    cursor.register(CONSENTING, found.units)
                    rows += f" WHERE {quoted(UNIT)} IN (FROM {quoted(CONSENTING)})"
                yield cursor, rows
        except UnknownName:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, it must look the same from outside
            _log.exception("rows of table %s cannot be had", name)
            raise _failure() from None

    def _table(self, name: str) -> TableConfig:
        if name not in self._tables:
            raise UnknownName.among("table", name, self._tables, code="E_NO_TABLE")
        return self._tables[name]

    def _mock(self, schema: TableSchema) -> pa.Table:
        with self._making:
            if schema.name not in self._mocks:
                rows = mock_rows(schema).drop_columns([schema.privacy_unit])
                self._mocks[schema.name] = rows
            return self._mocks[schema.name]


def _failure() -> SiteFailure:
    return SiteFailure(
        "The site could not compute the answer.", hint="The owner finds the reason in the log."
    )


@contextmanager
def time_limit(cursor: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what runs on a cursor for too long."""
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _declared(found: pa.Table, schema: TableSchema) -> pa.Table:
    types = [pa.field(c.name, ARROW_TYPES[c.type]) for c in visible_columns(schema)]
    return found.cast(pa.schema(types)).combine_chunks()


def _visible(schema: TableSchema, name: str) -> Column:
    for column in visible_columns(schema):
        if column.name == name:
            return column
    known = (column.name for column in visible_columns(schema))
    raise UnknownName.among("column", name, known, code="E_NO_COLUMN")


def _explained(
    cursor: duckdb.DuckDBPyConnection, rows: str, schema: TableSchema, sample: Sample
) -> bool:
    """Tell whether one declared column has all the values of a sample."""
    kinds = {"number": ("integer", "float", "string"), "moment": ("date", "timestamp")}
    for column in visible_columns(schema):
        if column.type not in kinds.get(sample.kind, ("string",)):
            continue
        cell = quoted(column.name)
        match sample.kind:
            case "number":
                cell = f"TRY_CAST({cell} AS DOUBLE)"
            case "moment":
                cell = f"epoch_us(CAST({cell} AS TIMESTAMP))::DOUBLE"
            case "text":
                pass
        ((missing,),) = cursor.execute(
            "SELECT count(*) FROM (SELECT unnest($values) AS v)"  # noqa: S608 - quoted
            f" WHERE v NOT IN (SELECT value FROM (SELECT {cell} AS value FROM {rows})"
            " WHERE value IS NOT NULL)",
            {"values": list(sample.values)},
        ).fetchall()
        if missing == 0:
            return True
    return False


_IMPOSSIBLE = object()


def _as_declared(column: Column, value: Scalar) -> Any:
    """Bring an output's value into a column's type; what it cannot be is impossible."""
    if value is None:
        return None
    try:
        return _READERS[column.type](value)
    except (ValueError, TypeError, OverflowError):
        return _IMPOSSIBLE


def _integer(value: Any) -> Any:
    number = int(value)
    if isinstance(value, str | bool) or number != value or not -(2**63) <= number < 2**63:
        return _IMPOSSIBLE
    return number


def _float(value: Any) -> Any:
    if isinstance(value, str | bool):
        return _IMPOSSIBLE
    return None if math.isnan(value) else float(value)


def _timestamp(value: str) -> dt.datetime:
    moment = dt.datetime.fromisoformat(value)
    return moment if moment.tzinfo is None else moment.astimezone(dt.UTC).replace(tzinfo=None)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "float": _float,
    "string": lambda value: value if isinstance(value, str) else _IMPOSSIBLE,
    "boolean": lambda value: value if isinstance(value, bool) else _IMPOSSIBLE,
    "date": dt.date.fromisoformat,
    "timestamp": _timestamp,
}
assert set(_READERS) == set(DUCKDB_TYPES)  # noqa: S101 - a table of types
