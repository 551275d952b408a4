"""The bounded tables of a site and their mock twins, opened read-only for generated SQL."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import duckdb

from privnb.dp.schema import TableSchema
from privnb.errors import SiteFailure, StateError
from privnb.site.config import SiteConfig
from privnb.site.mock import fill_mock
from privnb.site.registration import KEY_PREFIX, WORKSPACE_PREFIX, bounding_key, register
from privnb.site.sources import quoted

__all__ = ["Tables"]

_log = logging.getLogger("privnb.site")
_MEMORY = "2GB"
_THREADS = max(1, min(8, os.cpu_count() or 1))
_BATCH = 4096
_LONGEST_SECONDS = 120.0


class Tables:
    """What the engine may read: bounded tables and mock twins, never a source.

    Several agents may open the same state at once. The connections cannot read files, load
    extensions, reach the network, see Python variables or change their own settings.

    Example
    -------
    >>> with Tables.open(config, state=config.directory / "state") as tables:  # doctest: +SKIP
    ...     tables.rows("SELECT count(*) FROM visits")
    [(6898,)]
    """

    def __init__(
        self,
        schemas: Mapping[str, TableSchema],
        *,
        bounded: duckdb.DuckDBPyConnection,
        mock: duckdb.DuckDBPyConnection,
    ) -> None:
        self.schemas = MappingProxyType(dict(schemas))
        self._bounded = bounded
        self._mock = mock

    @classmethod
    def open(cls, config: SiteConfig, *, state: Path) -> Self:
        """Register what is new or changed, and open everything.

        Raises
        ------
        ConfigError
            When a source cannot be read or contradicts what ``site.toml`` declares.
        StateError
            When the state directory is full or damaged.
        """
        try:
            bounded = _register_all(config, state)
        except OSError as error:
            problem = f"The state directory {state} cannot be used: {error.strerror}."
            raise StateError(problem, hint="Mend its permissions, or make room.") from None
        schemas = {table.name: table.schema for table in config.tables}
        return cls(schemas, bounded=bounded, mock=_open_mock(schemas))

    def rows(self, sql: str, *, mock: bool = False) -> list[tuple[Any, ...]]:
        """Return all that `stream` gives."""
        return list(self.stream(sql, mock=mock))

    def stream(self, sql: str, *, mock: bool = False) -> Iterator[tuple[Any, ...]]:
        """Run one SELECT over the bounded tables, or over their mock twins, row by row.

        Python holds some thousand rows at a time, and DuckDB no more than its limit of memory. A
        query that takes longer than two minutes is ended: nobody else is answered meanwhile. May
        be called from several threads.

        Raises
        ------
        SiteFailure
            Whatever goes wrong, at the first row or a later one; the wording is constant, so it
            says nothing about the data.
        """
        try:
            (statement,) = duckdb.extract_statements(sql)
            if statement.type != duckdb.StatementType.SELECT:
                raise duckdb.InvalidInputException(str(statement.type))  # noqa: TRY301 - one way out
            cursor = (self._mock if mock else self._bounded).cursor()
            with cursor, _time_limit(cursor):
                cursor.execute(statement)
                while batch := cursor.fetchmany(_BATCH):
                    yield from batch
        except Exception:  # noqa: BLE001 - whatever it is, it must look the same from outside
            _log.exception("the engine could not run a query")
            raise SiteFailure(
                "The site could not compute the answer.",
                hint="What was reserved stays charged. The owner finds the reason in the log.",
            ) from None

    def close(self) -> None:
        """Close the connections; the files stay for the next start."""
        self._bounded.close()
        self._mock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def _time_limit(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    timer = threading.Timer(_LONGEST_SECONDS, cursor.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _register_all(config: SiteConfig, state: Path) -> duckdb.DuckDBPyConnection:
    folder = state / "tables"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        _remove(folder.glob(f"{WORKSPACE_PREFIX}*"))
        _remove(state.glob(f"{KEY_PREFIX}*"))
        key = bounding_key(state / "bounding.key")
        files = {
            table.name: register(config, table, folder=folder, key=key) for table in config.tables
        }
        _remove(path for path in folder.glob("*.duckdb*") if path not in files.values())
        return _open_files(files)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases even when the process is killed."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove(paths: Iterator[Path]) -> None:
    """Delete what no start needs any more; an agent that has a file open keeps reading it."""
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": _MEMORY,
            "threads": _THREADS,
            "temp_directory": "",  # nothing of a table is spilled to where the agent was started
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


def _lock_down(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _open_files(files: Mapping[str, Path]) -> duckdb.DuckDBPyConnection:
    connection = _connect()
    for number, (name, path) in enumerate(files.items()):
        connection.execute(f"ATTACH {quoted(str(path))} AS file{number} (READ_ONLY)")
        connection.execute(f'CREATE VIEW "{name}" AS FROM file{number}.main."{name}"')
    return _lock_down(connection)


def _open_mock(schemas: Mapping[str, TableSchema]) -> duckdb.DuckDBPyConnection:
    connection = _connect()
    for schema in schemas.values():
        fill_mock(connection, schema)
    return _lock_down(connection)
