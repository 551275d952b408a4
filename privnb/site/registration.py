"""Making a bounded table from its source, once: what queries later read instead of the source.

The rows of a unit beyond the declared number are dropped by a keyed random order, values are
clamped to their bounds (see `privnb.dp.bounding`), and the claims on which the privacy proof rests
are verified on the data. The file appears under its final name complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import ibis.expr.types as ir

from privnb import wire
from privnb.dp.bounding import bounding_sql
from privnb.dp.schema import TableSchema
from privnb.errors import ConfigError, StateError
from privnb.site.claims import refuse_broken_claims
from privnb.site.config import SiteConfig, TableConfig
from privnb.site.sources import SOURCE, located, open_source, quoted, source_stamp, workshop

__all__ = ["KEY_PREFIX", "WORKSPACE_PREFIX", "bounding_key", "create_bounded", "register"]

WORKSPACE_PREFIX = ".making-"
"""Folders that begin so hold work in progress; one left over from a crash may be deleted."""

KEY_PREFIX = ".key-"
"""Files that begin so hold a key that was never used; one left over may be deleted."""

_KEY_BYTES = 32
_CELLS_AT_ONCE = 16_000_000
_MOST_PARTS = 1024


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
    """Return the file of the table's bounded form, made now unless source and rules are unchanged.

    A live database is read anew each time. Memory stays under about 3 GB, whatever the table.

    Raises
    ------
    ConfigError
        When the source cannot be read or contradicts what is declared.
    StateError
        When there is no room for the file.
    """
    target = folder / f"{table.name}-{_fingerprint(config, table, key)}.duckdb"
    if _is_whole(target):
        return target
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=WORKSPACE_PREFIX) as workspace,
        _room(config, table),
        workshop(Path(workspace)) as duck,
    ):
        source = open_source(config, table, duck)
        with located(config, table):
            made = Path(workspace) / "bounded.duckdb"
            duck.raw_sql(f"ATTACH {quoted(str(made))} AS bounded")
            _create_in_parts(duck.con, table.schema, key=key, source=source)
            bounded = duck.table(table.name, database=("bounded", "main"))
            refuse_broken_claims(config, table, source=source, bounded=bounded)
            duck.raw_sql("DETACH bounded")
        _sync_file(made)
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
    rules = [repr(table), bounding_sql(table.schema, source=SOURCE), wire.sha256_hex(key)]
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
    """Tell whether a registered file can be opened; a damaged one is made again."""
    if not path.exists():
        return False
    try:
        duckdb.connect(path, read_only=True).close()
    except duckdb.Error:
        path.unlink()
        return False
    return True


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
