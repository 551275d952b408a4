"""Registering a table, once: what computations later read instead of the source.

A registered table is a folder of two databases:

- ``bounded.duckdb``, for DP SQL. The rows of a unit beyond the declared number are dropped by a
  keyed random order, values are clamped to their bounds (see `privnb.dp.bounding`), and the claims
  on which the privacy proof rests are verified on the data.
- ``whole.duckdb``, for Python cells and for the gate on what they give: every row that has a unit,
  with the declared columns as they are, and in a schema of its own what a copy of the unit or of a
  hidden column would be known by (see `privnb.site.data.hidden`). No connection that runs SQL of
  a plan ever has this file.

The folder appears under its final name complete or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import ibis.expr.types as ir

from privnb import wire
from privnb.dp.bounding import UNIT, bounding_sql, visible_columns
from privnb.dp.literals import DUCKDB_TYPES
from privnb.dp.literals import quoted as identifier
from privnb.dp.schema import TableSchema
from privnb.errors import ConfigError, StateError
from privnb.site.config import SiteConfig, TableConfig
from privnb.site.data.claims import refuse_broken_claims
from privnb.site.data.hidden import store_hidden
from privnb.site.data.sources import (
    FILE,
    SOURCE,
    hidden_columns,
    located,
    open_source,
    quoted,
    source_stamp,
    workshop,
)

__all__ = [
    "BOUNDED",
    "KEY_PREFIX",
    "WHOLE",
    "WORKSPACE_PREFIX",
    "bounding_key",
    "create_bounded",
    "register",
]

BOUNDED = "bounded.duckdb"
"""Name of the database, in a registered table's folder, that DP SQL reads."""

WHOLE = "whole.duckdb"
"""Name of the database, in a registered table's folder, with the rows that Python cells get."""

WORKSPACE_PREFIX = ".making-"
"""Folders that begin so hold work in progress; one left over from a crash may be deleted."""

KEY_PREFIX = ".key-"
"""Files that begin so hold a key that was never used; one left over may be deleted."""

_KEY_BYTES = 32
_CELLS_AT_ONCE = 16_000_000
_MOST_PARTS = 1024
_FORMAT = 2
"""Raised when the content of a registered table changes though the rules are the same."""
_CARRIED = {
    "float": "CASE WHEN isfinite({0}) THEN {0} END",
    "date": "CASE WHEN {0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' THEN {0} END",
    "timestamp": "CASE WHEN {0} >= TIMESTAMP '0001-01-01' AND {0} < TIMESTAMP '9999-12-31'"
    " THEN {0} END",
}
"""What a type cannot carry safely is NULL in whole rows, as it is in bounded ones."""


def bounding_key(path: Path) -> bytes:
    """Read the secret that chooses which rows of a unit are kept; make it the first time.

    It never leaves the site. With the same key the same rows are kept again, so that
    re-registering an unchanged source reveals nothing new.

    Raises
    ------
    StateError
        When the file is damaged: a new key would choose other rows.
    """
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=KEY_PREFIX, delete=False) as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces the key that another agent made meanwhile.
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)
        Path(file.name).unlink()
        _sync_folder(path.parent)
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        hint = "Restore it from a backup. A new key keeps other rows, so remove it knowingly."
        raise StateError(f"The bounding key {path} is damaged.", hint=hint)
    return key


def register(config: SiteConfig, table: TableConfig, *, folder: Path, key: bytes) -> Path:
    """Return the folder of the registered table, made now unless source and rules are unchanged.

    A live database is read anew each time. Memory stays under about 3 GB, whatever the table.

    Raises
    ------
    ConfigError
        When the source cannot be read or contradicts what is declared.
    StateError
        When there is no room for it.
    """
    target = folder / f"{table.name}-{_fingerprint(config, table, key)}"
    if _is_whole(target):
        return target
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=WORKSPACE_PREFIX) as workspace,
        _room(config, table),
        workshop(Path(workspace)) as duck,
    ):
        source = open_source(config, table, duck)
        made = Path(workspace) / "made"
        made.mkdir(mode=0o700)
        with located(config, table):
            for name, catalog in ((BOUNDED, "bounded"), (WHOLE, "whole")):
                duck.raw_sql(f"ATTACH {quoted(str(made / name))} AS {catalog}")
            _create_in_parts(duck.con, table.schema, key=key, source=source)
            bounded = duck.table(table.name, database=("bounded", "main"))
            refuse_broken_claims(config, table, source=source, bounded=bounded)
            _create_whole(duck.con, table.schema, key=key)
            hidden = () if "://" in table.source else hidden_columns(table, duck.table(FILE))
            store_hidden(duck.con, table.schema, columns=hidden, source=FILE, key=key)
            for catalog in ("bounded", "whole"):
                duck.raw_sql(f"DETACH {catalog}")
        for name in (BOUNDED, WHOLE):
            _sync_file(made / name)
        _sync_folder(made)
        made.replace(target)
        _sync_folder(folder)
    return target


def create_bounded(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    *,
    key: bytes,
    catalog: str,
    parts: int = 1,
) -> None:
    """Create the bounded table of ``schema`` from the relation `SOURCE`.

    A unit's rows are all in one of ``parts`` that are bounded one after the other, which changes
    the memory needed and not the result.
    """
    target = f'{catalog}.main."{schema.name}"'
    for part in range(parts):
        rows = f'(FROM {SOURCE} WHERE hash("{schema.privacy_unit}") % {parts} = {part})'
        sql = bounding_sql(schema, source=rows if parts > 1 else SOURCE)
        begin = f"INSERT INTO {target}" if part else f"CREATE OR REPLACE TABLE {target} AS"
        connection.execute(f"{begin} {sql}", {"key": key.hex()})


def _create_whole(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, *, key: bytes
) -> None:
    """Copy all rows that have a unit, unclamped, in an order that tells nothing.

    The source's own order may be that of admission, of names, or of units, and would then tell what
    no declared column tells: which rows are one person's, who came first. So rows are ordered by a
    keyed hash of their content, which is the same again for the same rows, wherever they stood.
    """
    unit = f"{identifier(schema.privacy_unit)} AS {identifier(UNIT)}"
    typed = [
        f"{_CARRIED.get(column.type, '{0}').format(cast)} AS {identifier(column.name)}"
        for column in visible_columns(schema)
        for cast in [f"CAST({identifier(column.name)} AS {DUCKDB_TYPES[column.type]})"]
    ]
    names = ", ".join(
        identifier(name) for name in (UNIT, *(c.name for c in visible_columns(schema)))
    )
    connection.execute(
        f"CREATE TABLE whole.main.{identifier(schema.name)} AS"  # noqa: S608 - every name is quoted
        f" FROM (SELECT {', '.join([unit, *typed])} FROM {SOURCE}"
        f" WHERE {identifier(schema.privacy_unit)} IS NOT NULL)"
        f" ORDER BY md5_number_lower($key || CAST(ROW({names}) AS VARCHAR))",
        {"key": key.hex()},
    )


def _create_in_parts(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, *, key: bytes, source: ir.Table
) -> None:
    """Bound in as few parts as fit into memory, which DuckDB's windows cannot exceed."""
    cells = int(source.count().to_pyarrow().as_py()) * (len(schema.columns) + 2)
    parts = 1 + cells // _CELLS_AT_ONCE
    while True:
        try:
            return create_bounded(connection, schema, key=key, catalog="bounded", parts=parts)
        except duckdb.OutOfMemoryException:
            if parts >= _MOST_PARTS:
                raise
            parts *= 2


def _fingerprint(config: SiteConfig, table: TableConfig, key: bytes) -> str:
    """Name all that decides the bounded rows; a live source gets a name of its own each time."""
    stamp = _stamp(config, table)
    # Whose consent is asked for does not change what is registered.
    unchanged = dataclasses.replace(table, consent=None)
    rules = [_FORMAT, repr(unchanged), bounding_sql(table.schema, source=SOURCE)]
    rules.append(wire.sha256_hex(key))
    whole = {"source": stamp or secrets.token_hex(16), "rules": rules}
    return wire.sha256_hex(wire.canonical_json(whole))[:24]


def _stamp(config: SiteConfig, table: TableConfig) -> tuple[str, int, int] | None:
    """Read the source's stamp; a file that vanishes meanwhile is the owner's to mend."""
    with located(config, table):
        return source_stamp(config, table)


@contextlib.contextmanager
def _room(config: SiteConfig, table: TableConfig) -> Iterator[None]:
    """Tell a full disk or memory from a broken source: our own files are what cannot be written."""
    try:
        yield
    except (ConfigError, duckdb.Error) as error:
        said = str(error).lower()
        ours = ("no space left", "out of memory", WORKSPACE_PREFIX)
        if isinstance(error, ConfigError) and not any(sign in said for sign in ours):
            raise
        hint = f"Make room in {config.directory} or on the machine, then start again."
        problem = f"There is no room to register table {table.name!r}."
        raise StateError(problem, hint=hint) from None


def _is_whole(path: Path) -> bool:
    """Tell whether a registered table can be opened; a damaged one is made again."""
    if not path.exists():
        return False
    try:
        for name in (BOUNDED, WHOLE):
            duckdb.connect(path / name, read_only=True).close()
    except duckdb.Error:
        shutil.rmtree(path)
        return False
    return True


def _sync_file(path: Path) -> None:
    path.chmod(0o600)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
