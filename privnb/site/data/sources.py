"""Reading an owner's source: the declared columns, in their declared types, and nothing else.

A Parquet, CSV or DuckDB file is read in place. Any other source is an Ibis URL; see
`privnb.site.data.live`.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import ibis.expr.types as ir
from ibis.common.exceptions import IbisError, TableNotFound

from privnb.computation import Scalar
from privnb.dp.literals import DUCKDB_TYPES
from privnb.dp.schema import Column
from privnb.site.config import SiteConfig, TableConfig
from privnb.site.data.bins import Bins, CaseBins, CutBins
from privnb.site.data.live import connected, copy, first_line, shown

__all__ = [
    "FILE",
    "SOURCE",
    "hidden_columns",
    "located",
    "open_source",
    "quoted",
    "source_stamp",
    "workshop",
]

SOURCE = "source"
"""Name of the relation that `open_source` makes."""

FILE = "file"
"""Name of the relation, made by `open_source` too, with all columns of a source that is a file."""

_MEMORY = "2GB"
_TYPES = {
    "integer": "int64",
    "float": "float64",
    "string": "string",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}
_FILES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".gz": "csv",
    ".duckdb": "duckdb",
    ".ddb": "duckdb",
    ".db": "duckdb",
}


def source_stamp(config: SiteConfig, table: TableConfig) -> tuple[str, int, int] | None:
    """Return what changes when a source file does: path, size in bytes, time in nanoseconds.

    None means a live database, whose changes cannot be seen from outside.
    """
    if "://" in table.source:
        return None
    path = _file(config, table)
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def open_source(config: SiteConfig, table: TableConfig, duck: Any) -> ir.Table:
    """Make the relation `SOURCE` of declared columns in ``duck``, an Ibis DuckDB connection.

    Raises
    ------
    ConfigError
        When the source is missing or broken, or a column is missing or of another type.
    """
    with located(config, table):
        if "://" in table.source:
            _stream(config, table, duck)
        else:
            raw = _read_file(config, table, duck)
            duck.create_view(SOURCE, _visible(config, table, raw), overwrite=True)
        return duck.table(SOURCE)


def hidden_columns(table: TableConfig, raw: ir.Table) -> tuple[str, ...]:
    """Name the columns of an owner's relation that are not declared as they are."""
    shown = set(table.origins.values())
    return tuple(name for name in raw.columns if name not in shown)


@contextlib.contextmanager
def located(config: SiteConfig, table: TableConfig) -> Iterator[None]:
    """Turn what an engine says about a source into one `ConfigError` at the source's line."""
    try:
        yield
    except (duckdb.Error, IbisError, OSError, UnicodeError) as error:
        # The text may hold a cell: it is for the owner's eyes, and cut because cells can be huge.
        said = first_line(error, table.source)
        raise config.error(
            f"Source {shown(table.source)!r} cannot be read: {said}",
            *("tables", table.name, "source"),
            hint="Mend the source, or declare what it really holds.",
        ) from None


@contextlib.contextmanager
def workshop(workspace: Path) -> Iterator[Any]:
    """Open a DuckDB through Ibis that spills into the workspace instead of filling the memory."""
    duck = ibis.duckdb.connect(
        workspace / "staging.duckdb",
        memory_limit=_MEMORY,
        temp_directory=str(workspace / "spill"),
        preserve_insertion_order=False,
        python_enable_replacements=False,
    )
    try:
        yield duck
    finally:
        duck.disconnect()


def quoted(text: str) -> str:
    """Quote a text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _file(config: SiteConfig, table: TableConfig) -> Path:
    path = config.directory / Path(table.source).expanduser()
    if not path.is_file():
        raise config.error(
            f"There is no file {path}.",
            *("tables", table.name, "source"),
            hint="A path is relative to site.toml; a database is given by a URL.",
        )
    return path


def _read_file(config: SiteConfig, table: TableConfig, duck: Any) -> ir.Table:
    path = _file(config, table)
    kind = _FILES.get(path.suffix.lower())
    key = ("tables", table.name, "source_table")
    if kind is None:
        raise config.error(
            f"{path.name} is of no known kind.",
            *("tables", table.name, "source"),
            hint="Name a .parquet, .csv or .duckdb file, or an Ibis URL.",
        )
    if kind == "duckdb":
        name = _source_table(config, table)
        duck.raw_sql(f"ATTACH {quoted(str(path))} AS owner (READ_ONLY)")
        known = [row[0] for row in duck.raw_sql(_LIST_TABLES).fetchall()]
        if name not in known:
            hint = _meant(name, known)
            raise config.error(f"The file has no table {name!r}.", *key, hint=hint)
        content = ibis.to_sql(duck.table(name, database=("owner", "main")))
        duck.raw_sql(f"CREATE OR REPLACE VIEW {FILE} AS {content}")
        return duck.table(FILE)
    if table.source_table is not None:
        hint = "Remove 'source_table'."
        raise config.error(f"A {kind} file holds one table only.", *key, hint=hint)
    reader = f"read_parquet({quoted(str(path))})" if kind == "parquet" else _csv(path, table)
    # Text is parsed once; the other kinds are quick to read again for each part of the work.
    form = "TABLE" if kind == "csv" else "VIEW"
    duck.raw_sql(f"CREATE OR REPLACE {form} {FILE} AS FROM {reader}")
    return duck.table(FILE)


_LIST_TABLES = (
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_catalog = 'owner' AND table_schema = 'main' ORDER BY ALL"
)


def _csv(path: Path, table: TableConfig) -> str:
    """Read a CSV file with types found from all of its rows; declared texts stay as written.

    The dialect is fixed, commas or in a .tsv file tabs, as guessing it can hide broken rows.
    """
    delimiter = "\\t" if ".tsv" in path.suffixes else ","
    dialect = f"header = true, delim = '{delimiter}', quote = '\"', escape = '\"'"
    file = f"read_csv({quoted(str(path))}, {dialect}"
    with duckdb.connect() as connection:
        rows = connection.sql(f"FROM {file}, all_varchar = true) LIMIT 1")
        header, empty = rows.columns, rows.fetchone() is None
    declared = {
        table.origins[column.name]: DUCKDB_TYPES[column.type]
        for column in table.schema.columns
        # Of no rows every type is as good as the one declared.
        if (column.type == "string" or empty) and table.origins.get(column.name) in header
    }
    types = ", ".join(f"{quoted(name)}: '{kind}'" for name, kind in declared.items())
    return f"{file}, sample_size = -1{f', types = {{{types}}}' if types else ''})"


def _stream(config: SiteConfig, table: TableConfig, duck: Any) -> None:
    name = _source_table(config, table)
    with connected(config, table) as backend:
        try:
            raw = backend.table(name)
        except TableNotFound:
            known = backend.list_tables()
            # With a schema that does not exist, PostgreSQL lists the tables of all others.
            hint = "Correct the schema in the URL." if name in known else _meant(name, known)
            key = ("tables", table.name, "source_table")
            raise config.error(f"The database has no table {name!r}.", *key, hint=hint) from None
        copy(_visible(config, table, raw), into=duck, name=SOURCE)


def _source_table(config: SiteConfig, table: TableConfig) -> str:
    if table.source_table is None:
        raise config.error(
            "A database holds many tables.",
            *("tables", table.name, "source"),
            hint='Add source_table = "…" to say which of them is meant.',
        )
    return table.source_table


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}It has: {', '.join(sorted(known)[:50]) or 'nothing'}."


def _visible(config: SiteConfig, table: TableConfig, raw: ir.Table) -> ir.Table:
    """Select the declared columns; whatever else the source has stays behind."""
    for number, name in enumerate(table.hidden):
        if name not in raw.columns:
            raise config.error(
                f"The source has no column {name!r} to hide.",
                *("tables", table.name, "hidden", number),
                hint=_meant(name, list(raw.columns)),
            )
    return raw.select(
        **{column.name: _value(config, table, raw, column) for column in table.schema.columns}
    )


def _value(config: SiteConfig, table: TableConfig, raw: ir.Table, column: Column) -> ir.Value:
    where = ("tables", table.name, "columns", column.name)
    bins = table.bins.get(column.name)
    needed = bins.sources if bins is not None else {table.origins[column.name]}
    for name in sorted(needed):
        if name not in raw.columns:
            hint = _meant(name, list(raw.columns))
            raise config.error(f"The source has no column {name!r}.", *where, hint=hint)
    if bins is None:
        value = raw[table.origins[column.name]]
        found = value.type()
        if not _readable(column, found):
            raise config.error(
                f"Column {column.name!r} is declared {column.type}, but the source has {found}.",
                *(*where, "type"),
                hint="Correct the type, or convert the source.",
            )
        return value.cast(_TYPES[column.type])
    if column.name in raw.columns:
        hint = "Name the derived column otherwise."
        raise config.error(f"The source has a column {column.name!r} already.", *where, hint=hint)
    try:
        return _binned(raw, bins).cast(_TYPES[column.type])
    except IbisError as error:
        key = "cases" if isinstance(bins, CaseBins) else "cuts"
        said = str(error).splitlines()[0][:300]
        hint = "Compare with values of the source column's own type."
        raise config.error(f"These bins do not fit: {said}.", *where, key, hint=hint) from None


def _readable(column: Column, found: dt.DataType) -> bool:
    match column.type:
        case "integer":
            # A decimal without decimals, as NUMERIC(10, 0), is an integer in all but name.
            return bool(found.is_integer() or (found.is_decimal() and found.scale == 0))
        case "float":
            return bool(found.is_numeric() and not found.is_boolean())
        case "string":
            return bool(found.is_string() or found.is_uuid() or found.is_integer())
        case "boolean":
            return bool(found.is_boolean())
        case "date":
            return bool(found.is_date())
        case "timestamp":
            return bool(found.is_timestamp() or found.is_date())


def _binned(raw: ir.Table, bins: Bins) -> ir.Value:
    if isinstance(bins, CutBins):
        return _cut(raw[bins.source], bins)
    branches = [
        (ibis.and_(*(_equals(raw[name], values) for name, values in case.when.items())), case.value)
        for case in bins.cases
    ]
    return ibis.cases(*branches, else_=bins.otherwise)


def _equals(value: ir.Value, accepted: tuple[Scalar, ...]) -> ir.BooleanValue:
    """Compare with each accepted value; Ibis refuses kinds that cannot be compared."""
    return ibis.or_(*(value == one for one in accepted))


def _cut(value: ir.Value, bins: CutBins) -> ir.Value:
    if not value.type().is_numeric() or value.type().is_boolean():
        problem = f"cuts need numbers, but {bins.source!r} is {value.type()}"
        raise IbisError(problem)
    number = value.cast("float64")
    missing = number.isnull()
    # A database that has no test for NaN, such as SQLite or MySQL, has no NaN either.
    # PostgreSQL's decimals can be NaN, too.
    if not value.type().is_integer() and value.get_backend().has_operation(ops.IsNan):
        missing |= number.isnan()
    steps = [(number < cut, label) for cut, label in zip(bins.cuts, bins.labels[:-1], strict=True)]
    kind = ibis.literal(bins.labels[0]).type()
    absent = ibis.null(kind) if bins.missing is None else bins.missing
    return ibis.cases((missing, absent), *steps, else_=bins.labels[-1])
