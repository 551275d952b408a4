"""Data subjects' consent: whose rows may enter a computation, for the purpose it declares.

A consent register has one row for each time that somebody said something: the privacy unit's value,
the purpose, ``given`` or ``withdrawn``, and when. Of the entries of one unit for one purpose the
newest counts; of several at the same time, to the microsecond, a withdrawal. Who has no entry has
not consented. A purpose is named as in ``site.toml`` or by its DPV term, in any of its spellings;
entries for other purposes, broader ones included, say nothing about ours.

What is stated here holds for SQL and for Python cells alike, as both go by the same `Consenting`.

**Sensitivity.** Whether a unit's rows enter depends on that unit's own entries alone. So two sites
that differ in one unit, in its rows, its entries, or both, still differ after the restriction in at
most that unit's rows; and those are at most as many, and clamped, as before. Every bound proved for
the unrestricted table therefore holds, whatever the register says and whenever it changes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc

from privnb.dp.schema import Column, TableSchema
from privnb.errors import ConfigError
from privnb.site.config import SiteConfig, TableConfig
from privnb.site.data.sources import located, open_source, source_stamp

__all__ = ["ConsentRegister", "Consenting", "RegisterFacts", "in_order"]

_MEMORY = "2GB"
_ATTEMPTS = 3
_COARSEST_CLOCK = 2.0
"""Seconds within which two changes of a file may bear the same time, on the worst file systems."""

_UNREADABLE = """
    SELECT count(*) FILTER (purpose IS NULL),
           count(*) FILTER (status IS NULL OR status NOT IN ('given', 'withdrawn')),
           count(*) FILTER ("at" IS NULL OR NOT isfinite("at"))
    FROM source
"""
_CONSENTING = """
    SELECT names.name, source.unit FROM source JOIN names ON source.purpose = names.spelling
    WHERE source.unit IS NOT NULL GROUP BY ALL
    HAVING max("at") FILTER (status = 'given')
         > coalesce(max("at") FILTER (status = 'withdrawn'), '-infinity'::TIMESTAMP)
"""
_FACTS = """
    SELECT count(*) FILTER (unit IS NULL), count(*) FILTER ("at" > $now),
           list_sort(list(DISTINCT purpose) FILTER (purpose NOT IN (SELECT spelling FROM names)))
    FROM source
"""


@dataclass(frozen=True, kw_only=True)
class Consenting:
    """Who has consented to one purpose, and when the register said so."""

    units: pa.Table
    """One column, ``unit``, of different values; they need not all have rows."""
    seen: dt.datetime
    """When the register was last looked at and found to say this; UTC."""


@dataclass(frozen=True, kw_only=True)
class RegisterFacts:
    """What an owner should know about a register; exact, and not public."""

    nobodys: int
    """Entries without a unit, which say nothing."""
    future: int
    """Entries from times to come, which count already."""
    others: tuple[str, ...]
    """Purposes that it names and that are none of the table's."""
    consenting: Callable[[str], pa.Table]
    """Who consents to a purpose: one column, ``unit``."""


def in_order(units: pa.Table | None) -> bytes:
    """Write down who consents such that the same people give the same bytes; None: nobody is asked.

    >>> ana, bo = pa.table({"unit": ["ana", "bo"]}), pa.table({"unit": ["bo", "ana"]})
    >>> in_order(ana) == in_order(bo), in_order(ana) == in_order(None)
    (True, False)
    """
    if units is None:
        return b""
    ordered = units.select(["unit"]).sort_by("unit").combine_chunks().replace_schema_metadata()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ordered.schema) as stream:
        stream.write_table(ordered)
    return bytes(sink.getvalue())


class ConsentRegister:
    """The consent register of one table. It may be asked from several threads.

    A file is read again when it has changed, a live database each time. Nothing of the register is
    kept but, in memory, who consents to which of the table's purposes.
    """

    def __init__(self, config: SiteConfig, table: TableConfig) -> None:
        self._table = table
        self._config, self._source = _seen_as_a_table(config, table)
        self._names = _names(config, table.schema)
        self._terms = config.purposes
        self._lock = threading.Lock()
        self._kept: tuple[object, Mapping[str, pa.Table]] | None = None
        self._mine = threading.local()

    def look(self, purpose: str) -> Consenting:
        """Return who consents to a purpose now: to be called before every computation.

        Raises
        ------
        ConfigError
            When the register cannot be read, or an entry cannot be understood. Nothing may be
            computed then; the message is for the owner.
        """
        with self._lock:
            # The moment before looking: what is said is at least as new as that.
            now = dt.datetime.now(dt.UTC)
            units = self._current()
        found = Consenting(units=units.get(purpose, self._nobody()), seen=now)
        self._seen()[purpose] = found
        return found

    def used(self, purpose: str) -> Consenting:
        """Return by what this thread's last computation went; look, if there was none."""
        return self._seen().get(purpose) or self.look(purpose)

    def population(self, purpose: str, *, seen: dt.datetime | None = None) -> str:
        """Say how the register restricts who is counted for a purpose, never by how much.

        Parameters
        ----------
        seen
            When it was looked at, if that is known.
        """
        terms = self._terms.get(purpose)
        meant = f" ({terms.dpv})" if terms else ""
        stood = seen.strftime("on %Y-%m-%dT%H:%M:%SZ") if seen else "when this was computed"
        return (
            f"In {self._table.name}, only rows of a {self._table.schema.unit_name} whose consent "
            f"covers {purpose}{meant}, by the consent register as it stood {stood}."
        )

    def facts(self) -> RegisterFacts:
        """Read the register for its owner; raises as `look` does."""
        with self._opened() as connection:
            units = self._units(connection)
            now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
            ((nobodys, future, others),) = connection.execute(_FACTS, {"now": now}).fetchall()
        return RegisterFacts(
            nobodys=nobodys,
            future=future,
            others=tuple(others or ()),
            consenting=lambda purpose: units.get(purpose, self._nobody()),
        )

    def _current(self) -> Mapping[str, pa.Table]:
        for _ in range(_ATTEMPTS):
            before = self._stamp()
            if before is not None and self._kept is not None and self._kept[0] == before:
                return self._kept[1]
            self._kept = None
            started = dt.datetime.now(dt.UTC).timestamp()
            with self._opened() as connection:
                units = self._units(connection)
            if self._stamp() == before:  # else it changed while it was read
                # A change right after this one might not show: such a file is read once more.
                if before is not None and started - _newest(before) > _COARSEST_CLOCK:
                    self._kept = (before, units)
                return units
        raise self._error("It changes faster than it can be read.", hint="Replace it as a whole.")

    def _stamp(self) -> tuple[Any, ...] | None:
        """Return what changes when a register in a file does; None for a live database."""
        with located(self._config, self._source):
            stamp = source_stamp(self._config, self._source)
            if stamp is None:
                return None
            path = Path(stamp[0])
            # Beside a DuckDB file, its newest changes may wait in a log.
            log = path.with_name(f"{path.name}.wal")
            return tuple(
                (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                for each in (path, log)
                if each == path or each.exists()
                for status in [each.stat()]
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        duck = ibis.duckdb.connect(
            memory_limit=_MEMORY, temp_directory="", python_enable_replacements=False
        )
        try:
            open_source(self._config, self._source, duck)
            connection = duck.con
            connection.register("names", self._names)
            with located(self._config, self._source):
                self._refuse_malformed(connection)
                yield connection
        finally:
            duck.disconnect()

    def _refuse_malformed(self, connection: Any) -> None:
        (counts,) = connection.execute(_UNREADABLE).fetchall()
        for key, count in zip(("purpose", "status", "at"), counts, strict=True):
            if count:
                hint = {
                    "purpose": "Every entry names a purpose.",
                    "status": 'Write "given" or "withdrawn".',
                    "at": "Every entry says since when.",
                }[key]
                entries = "entry has" if count == 1 else "entries have"
                raise self._error(f"{count:,} {entries} no valid {key!r}.", key, hint=hint)

    @staticmethod
    def _units(connection: Any) -> Mapping[str, pa.Table]:
        found = connection.execute(_CONSENTING).to_arrow_table()
        names = found["name"].unique().to_pylist()
        return MappingProxyType(
            {name: found.filter(pc.equal(found["name"], name)).select(["unit"]) for name in names}
        )

    def _nobody(self) -> pa.Table:
        kind = self._table.schema.column(self._table.schema.privacy_unit).type
        unit = pa.array([], pa.int64() if kind == "integer" else pa.string())
        return pa.table({"unit": unit})

    def _seen(self) -> dict[str, Consenting]:
        if not hasattr(self._mine, "seen"):
            self._mine.seen = {}
        seen: dict[str, Consenting] = self._mine.seen
        return seen

    def _error(self, problem: str, *key: str, hint: str) -> ConfigError:
        where = ("tables", self._table.name, *key)
        return self._config.error(f"The consent register: {problem}", *where, hint=hint)


def _seen_as_a_table(config: SiteConfig, table: TableConfig) -> tuple[SiteConfig, TableConfig]:
    """Describe a register as a table, to be read as any other source.

    What is wrong with it is then said in the same words, at the lines of ``[tables.T.consent]``.
    """
    consent = table.consent
    assert consent is not None  # noqa: S101 - asked for tables with a register only
    unit = table.schema.column(table.schema.privacy_unit)
    columns = (
        replace(unit, name="unit", nullable=True),
        Column(name="purpose", type="string"),
        Column(name="status", type="string"),
        Column(name="at", type="timestamp"),
    )
    schema = TableSchema(
        name=table.name,
        columns=columns,
        privacy_unit="unit",
        max_rows_per_unit=1,
        delta=table.schema.delta,
    )
    source = TableConfig(
        schema=schema,
        source=consent.source,
        source_table=consent.source_table,
        hidden=(),
        origins={
            "unit": consent.unit,
            "purpose": consent.purpose,
            "status": consent.status,
            "at": consent.at,
        },
        bins={},
        total_epsilon=table.total_epsilon,
    )
    here = ("tables", table.name)
    inside = (*here, "consent")
    lines = {}
    for key, line in config.lines.items():
        if key[: len(inside)] == inside:
            lines[*here, *key[len(inside) :]] = line
            lines[*here, "columns", *key[len(inside) :]] = line
    return replace(config, lines=lines), source


def _names(config: SiteConfig, schema: TableSchema) -> pa.Table:
    """List every spelling by which a register may name one of the table's purposes."""
    spellings = [
        (purpose, spelling)
        for purpose in schema.purposes
        for terms in [config.purposes.get(purpose)]
        for spelling in (purpose, *(terms.dpv.spellings if terms else ()))
    ]
    return pa.table(
        {
            "name": pa.array([name for name, _ in spellings], pa.string()),
            "spelling": pa.array([spelling for _, spelling in spellings], pa.string()),
        }
    )


def _newest(stamp: tuple[Any, ...]) -> float:
    """Return when one of a register's files changed last, in seconds since 1970."""
    return float(max(max(mtime, ctime) for _, _, mtime, ctime in stamp)) / 1e9
