"""The registered tables of a site and their mock twins, opened read-only for computations."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import duckdb
import pyarrow as pa

from privnb.dp.bounding import UNIT
from privnb.dp.literals import quoted as identifier
from privnb.dp.schema import TableSchema
from privnb.errors import SiteFailure, StateError
from privnb.site.config import SiteConfig
from privnb.site.consent import ConsentRegister
from privnb.site.data.frames import CONSENTING, Frames, time_limit
from privnb.site.data.mock import fill_mock
from privnb.site.data.registration import (
    BOUNDED,
    KEY_PREFIX,
    WHOLE,
    WORKSPACE_PREFIX,
    bounding_key,
    register,
)
from privnb.site.data.sources import quoted

__all__ = ["Tables"]

_log = logging.getLogger("privnb.site")
_MEMORY = "2GB"
_THREADS = max(1, min(8, os.cpu_count() or 1))
_BATCH = 4096
_LONGEST_SECONDS = 120.0
_LOCK = ".lock"


class Tables:
    """What computations may read: bounded tables, whole rows, mock twins; never a source.

    Several agents may open the same state at once. The connections cannot read files, load
    extensions, reach the network, see Python variables or change their own settings. The one that
    runs SQL knows the bounded tables only: whole rows are in files that it never has.

    Where a table has a consent register, SQL sees the rows of those units only that consent to the
    computation's purpose, as `frames` do (see `privnb.site.consent` for why every bound on
    sensitivity stays true). Without a purpose it sees no such table.

    Example
    -------
    >>> with Tables.open(config, state=config.directory / "state") as tables:  # doctest: +SKIP
    ...     tables.rows("SELECT count(*) FROM visits", purpose="research")
    [(6898,)]
    """

    def __init__(
        self,
        schemas: Mapping[str, TableSchema],
        *,
        bounded: duckdb.DuckDBPyConnection,
        mock: duckdb.DuckDBPyConnection,
        frames: Frames,
        registers: Mapping[str, ConsentRegister],
    ) -> None:
        self.schemas = MappingProxyType(dict(schemas))
        self.frames = frames
        """What Python cells get, and what the gate may ask."""
        self._bounded = bounded
        self._mock = mock
        self._registers = registers

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
        registers = {
            table.name: ConsentRegister(config, table)
            for table in config.tables
            if table.consent is not None
        }
        try:
            bounded, frames = _register_all(config, state, registers)
        except OSError as error:
            problem = f"The state directory {state} cannot be used: {error.strerror}."
            raise StateError(problem, hint="Mend its permissions, or make room.") from None
        schemas = {table.name: table.schema for table in config.tables}
        return cls(
            schemas,
            bounded=bounded,
            mock=_open_mock(schemas),
            frames=frames,
            registers=registers,
        )

    def rows(
        self, sql: str, *, mock: bool = False, purpose: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return all that `stream` gives."""
        return list(self.stream(sql, mock=mock, purpose=purpose))

    def stream(
        self, sql: str, *, mock: bool = False, purpose: str | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Run one SELECT over the bounded tables, or over their mock twins, row by row.

        Python holds some thousand rows at a time, and DuckDB no more than its limit of memory. A
        query that takes longer than two minutes is ended: nobody else is answered meanwhile. May
        be called from several threads. Consent registers are looked at first.

        Parameters
        ----------
        purpose
            What the computation declares. Needed for tables with a consent register; mock twins
            ask for nobody's consent.

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
            with cursor, time_limit(cursor, _LONGEST_SECONDS):
                if not mock:
                    self._restrict(cursor, sql, purpose)
                cursor.execute(statement)
                while batch := cursor.fetchmany(_BATCH):
                    yield from batch
        except Exception:  # noqa: BLE001 - whatever it is, it must look the same from outside
            _log.exception("the engine could not run a query")
            raise SiteFailure(
                "The site could not compute the answer.",
                hint="What was reserved stays charged. The owner finds the reason in the log.",
            ) from None

    def population(self, table: str, purpose: str) -> str:
        """Say, for a label, how consent restricted whom this thread's last `stream` counted.

        Empty for a table without a consent register.
        """
        consents = self._registers.get(table)
        return consents.population(purpose, seen=consents.used(purpose).seen) if consents else ""

    def consenting(self, table: str, *, purpose: str) -> pa.Table | None:
        """Return who consents now; see `privnb.site.data.frames.Frames.consenting`."""
        return self.frames.consenting(table, purpose=purpose)

    def restriction(self, table: str, purpose: str) -> str:
        """Say, for a label, how consent restricted who was counted at several times."""
        consents = self._registers.get(table)
        return "" if consents is None else consents.population(purpose)

    def _restrict(self, cursor: duckdb.DuckDBPyConnection, sql: str, purpose: str | None) -> None:
        """Give this cursor alone a view of each table in ``sql`` that has a consent register.

        Nothing else has these tables' names, so a query that was not restricted finds no table.
        """
        if not self._registers or purpose is None:
            return
        named = {name.lower() for name in cursor.get_table_names(sql)}
        for name, consents in self._registers.items():
            if name.lower() in named:
                units = f"{CONSENTING} of {name}"
                cursor.register(units, consents.look(purpose).units)
                cursor.execute(
                    f"CREATE TEMP VIEW {identifier(name)} AS FROM {_bounded_table(name)}"
                    f" WHERE {identifier(UNIT)} IN (FROM {identifier(units)})"
                )

    def close(self) -> None:
        """Close the connections; the files stay for the next start."""
        self._bounded.close()
        self._mock.close()
        self.frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _register_all(
    config: SiteConfig, state: Path, registers: Mapping[str, ConsentRegister]
) -> tuple[duckdb.DuckDBPyConnection, Frames]:
    folder = state / "tables"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        _remove(folder.glob(f"{WORKSPACE_PREFIX}*"))
        _remove(state.glob(f"{KEY_PREFIX}*"))
        key = bounding_key(state / "bounding.key")
        places = {
            table.name: register(config, table, folder=folder, key=key) for table in config.tables
        }
        _remove(
            path for path in folder.iterdir() if path.name != _LOCK and path not in places.values()
        )
        bounded = _open_bounded(places, restricted=registers)
        try:
            whole, catalogs = _open_whole(places)
        except BaseException:
            bounded.close()
            raise
    frames = Frames(config, connection=whole, catalogs=catalogs, registers=registers, key=key)
    return bounded, frames


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases even when the process is killed."""
    with (folder / _LOCK).open("a") as lock:
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


def _open_bounded(
    places: Mapping[str, Path], *, restricted: Collection[str]
) -> duckdb.DuckDBPyConnection:
    """Attach the bounded tables; those with a consent register have no view but a query's own."""
    connection = _connect()
    for name, place in places.items():
        path = quoted(str(place / BOUNDED))
        connection.execute(f"ATTACH {path} AS {_bounded_catalog(name)} (READ_ONLY)")
        if name not in restricted:
            connection.execute(f"CREATE VIEW {identifier(name)} AS FROM {_bounded_table(name)}")
    return _lock_down(connection)


def _bounded_catalog(name: str) -> str:
    return identifier(f"bounded {name}")


def _bounded_table(name: str) -> str:
    return f"{_bounded_catalog(name)}.main.{identifier(name)}"


def _open_whole(places: Mapping[str, Path]) -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
    connection = _connect()
    catalogs = {name: identifier(f"whole {name}") for name in places}
    for name, place in places.items():
        connection.execute(f"ATTACH {quoted(str(place / WHOLE))} AS {catalogs[name]} (READ_ONLY)")
    return _lock_down(connection), catalogs


def _open_mock(schemas: Mapping[str, TableSchema]) -> duckdb.DuckDBPyConnection:
    connection = _connect()
    for schema in schemas.values():
        fill_mock(connection, schema)
    return _lock_down(connection)
