"""The site's one database: all that a site remembers, durable before it counts."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import event, exc

from privnb.audit import Tree
from privnb.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection

__all__ = [
    "SCHEMA_VERSION",
    "Database",
    "access_asks",
    "audit_nodes",
    "audit_openings",
    "decisions",
    "events",
    "grants",
    "ledger",
    "requests",
    "reviews",
    "run_inputs",
    "run_sums",
    "runs",
    "utc_now",
]

SCHEMA_VERSION = 5
"""Raised whenever the tables change; a database of a newer version is never touched."""
_BEFORE_AUDIT = 2
"""The version that lacked reviews, and the nodes over its events; see `Database`."""
_BEFORE_RUNS = 3
"""The version that lacked the tables of federated runs, and nothing else."""
_BEFORE_SUMS = 4
"""The version that lacked `run_sums`, and of the two others what is in `_SINCE_SUMS`."""

_BUSY_SECONDS = 10.0

metadata = sa.MetaData()

_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("epsilon", sa.Text, nullable=False),
    sa.Column("until", sa.Text),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    sa.Index("grants_by_analyst", "analyst", "table_name", "purpose", "seq"),
    sqlite_autoincrement=True,
)
"""Consents in the order they were given; the newest row of (analyst, table, purpose) is valid."""

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("accounting", sa.Text, nullable=False),
    sa.Column("loss", sa.BigInteger, nullable=False),
    sa.Column("delta", sa.BigInteger, nullable=False),
    sa.Column("epsilon", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.UniqueConstraint("analyst", "request"),
    sa.CheckConstraint("loss > 0 AND delta >= 0"),
    sa.CheckConstraint("accounting IN ('zcdp', 'pure')"),
    sa.CheckConstraint("state IN ('reserved', 'spent')"),
    sa.Index(
        "ledger_by_grant",
        *("table_name", "analyst", "purpose", "seq", "accounting", "loss", "delta"),
    ),
    sqlite_autoincrement=True,
)
"""Charges. Rows are added, and their state goes once from reserved to spent; nothing else."""

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("sender", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("submission", sa.LargeBinary),
    sa.Column("reply", sa.LargeBinary),
    sa.Column("succeeded", sa.Boolean, nullable=False),
    sa.Column("owed", sa.Boolean, nullable=False),
    sa.UniqueConstraint("sender", "name"),
    sa.Index("requests_owed", "owed"),
    sa.Index("requests_by_state", "state", "seq"),
    sqlite_autoincrement=True,
)
"""Every request ever taken in; see `privnb.site.requests` for its states."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("body", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
"""What happened, in order, as canonical JSON: the leaves of the audit log, the first at seq 1."""

audit_nodes = sa.Table(
    "audit_nodes",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
"""The audit log's complete subtrees: each of 2**level leaves, from leaf position * 2**level on."""

audit_openings = sa.Table(
    "audit_openings",
    metadata,
    sa.Column("event", sa.Integer, primary_key=True),
    sa.Column("field", sa.Text, primary_key=True),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Index("audit_openings_by_value", "field", "value", "event"),
    sqlite_with_rowid=False,
)
"""What the salted commitments of events stand for, by seq of the event. Rows may be erased: the
tree holds without them."""

access_asks = sa.Table(
    "access_asks",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("table_name", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("epsilon", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("answered_at", sa.Text),
    sa.Column("answer", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint("state IN ('pending', 'granted', 'refused')"),
    sa.Index("access_asks_by_analyst", "analyst", "table_name", "purpose", "seq"),
    sqlite_autoincrement=True,
)
"""What analysts asked access to, and what the owner answered."""

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("computation", sa.LargeBinary, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("since", sa.Text, nullable=False),
    sa.Column("expires", sa.Text, nullable=False),
    sa.Column("mock", sa.LargeBinary),
    sa.Column("output", sa.LargeBinary),
    sa.Column("output_digest", sa.Text),
    sa.Column("gate", sa.LargeBinary),
    sa.UniqueConstraint("analyst", "request"),
    sa.Index("reviews_by_digest", "digest"),
    sqlite_autoincrement=True,
)
"""What reviewers look at, for each Python computation; where it stands is in its request's state.
``output`` never leaves the site before its release, and is erased with its end."""

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("statement", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("analyst", "request", "stage", "reviewer"),
    sa.CheckConstraint("stage IN ('code', 'output')"),
    sa.CheckConstraint("verdict IN ('approve', 'deny')"),
    sa.Index("decisions_by_digest", "digest", "verdict"),
    sqlite_autoincrement=True,
)
"""Signed decisions of reviewers. Rows are added, never changed."""

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("contributions", sa.Integer, nullable=False, server_default="0"),
    sa.Column("label", sa.LargeBinary),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("analyst", "request"),
    sqlite_autoincrement=True,
)
"""Federated runs that the site takes, or took, part in: the newest attempt that it sent something
for, how often it did, what its label is, and how often its code failed on data. Where a run stands
is in its request's state."""

run_inputs = sa.Table(
    "run_inputs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("analyst", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("work", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary),
    sa.Column("input", sa.Text),
    sa.Column("consents", sa.Text),
    sa.Column("failed", sa.LargeBinary),
    sa.Column("summed", sa.Text),
    sa.Column("times", sa.Integer, nullable=False, server_default="0"),
    sa.UniqueConstraint("analyst", "request", "work"),
    sa.Index("run_inputs_by_round", "analyst", "request", "round", "kind"),
    sqlite_autoincrement=True,
)
"""What the site computed for the rounds of runs under way, written before anything of it leaves.
``vector`` has the noise of a round on it that is drawn once; ``input`` is its key in `run_sums`,
``consents`` stands for who consented to it, ``failed`` says why there is nothing to give, and
``summed`` names the sites over which its sum was opened; the last two are set once. ``times`` is
how often it was computed without noise."""

run_sums = sa.Table(
    "run_sums",
    metadata,
    sa.Column("input", sa.Text, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("sites", sa.Text, nullable=False),
    sa.Index("run_sums_by_digest", "digest", "sites"),
    sqlite_with_rowid=False,
)
"""Over which sites what approved code gives, without noise, was summed: by a hash of computation
and parameters, whoever asked, in whichever run. Rows are kept for good."""

_SINCE_SUMS = (
    runs.c.label,
    runs.c.failures,
    run_inputs.c.input,
    run_inputs.c.consents,
    run_inputs.c.failed,
    run_inputs.c.times,
)

for _name, _when in {
    "ledger_keeps_rows": "DELETE ON ledger",
    "ledger_keeps_charges": (
        "UPDATE OF seq, at, table_name, analyst, purpose, request, digest, accounting, loss, delta,"
        " epsilon ON ledger"
    ),
    "events_keep_rows": "DELETE ON events",
    "events_keep_bodies": "UPDATE ON events",
    "audit_nodes_keep_rows": "DELETE ON audit_nodes",
    "audit_nodes_keep_hashes": "UPDATE ON audit_nodes",
    "decisions_keep_rows": "DELETE ON decisions",
    "decisions_keep_verdicts": "UPDATE ON decisions",
    "run_inputs_keep_vectors": (
        "UPDATE OF seq, at, analyst, request, round, kind, work, vector ON run_inputs"
    ),
    "run_inputs_keep_sums": "UPDATE OF summed ON run_inputs WHEN OLD.summed IS NOT NULL",
    "run_inputs_keep_consents": "UPDATE OF input, consents ON run_inputs",
    "run_inputs_keep_failures": "UPDATE OF failed ON run_inputs WHEN OLD.failed IS NOT NULL",
    "run_inputs_keep_times": "UPDATE OF times ON run_inputs WHEN NEW.times < OLD.times",
    "run_sums_keep_rows": "DELETE ON run_sums",
    "run_sums_keep_sites": "UPDATE ON run_sums",
    "runs_keep_labels": "UPDATE OF label ON runs WHEN OLD.label IS NOT NULL",
    "runs_keep_failures": "UPDATE OF failures ON runs WHEN NEW.failures < OLD.failures",
}.items():
    # A mistake in later code must not be able to lower a charge: the database itself refuses.
    event.listen(
        metadata,
        "after_create",
        sa.DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER IF NOT EXISTS {_name} BEFORE {_when} "
            "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
        ).execute_if(dialect="sqlite"),
    )


class Database:
    """Transactions on the site's database. Safe between threads and between processes.

    Writers exclude each other from their first statement on, so what a transaction has read is
    still true when it commits; when `write` returns, the change is on disk. All failures of the
    database itself are a `StateError`.

    Parameters
    ----------
    url
        Any SQLAlchemy URL. SQLite is set up for durability here; another server must provide
        serialisable transactions.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     database = Database.open(pathlib.Path(folder) / "site.sqlite")
    ...     with database.write() as transaction:
    ...         _ = transaction.execute(sa.insert(events), {"body": "{}"})
    ...     database.close()
    """

    def __init__(self, url: str | sa.URL) -> None:
        self._where = sa.engine.make_url(url).render_as_string(hide_password=True)
        sqlite = self._where.startswith("sqlite")
        if sqlite:
            engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = sa.create_engine(url, isolation_level="SERIALIZABLE")
        self._engine = engine
        self._writer = engine.execution_options(privnb_write=True)
        try:
            with self._told_clearly():
                if sqlite:
                    self._use_wal()
                self._create_or_check()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the SQLite database at ``path``, or make it, readable by its owner only."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its journal files the permissions of the database.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as problem:
            raise StateError(
                f"The site's database {path} cannot be opened: {problem.strerror}.",
                hint="Look at the folder's permissions and free space.",
            ) from None
        return cls(sa.URL.create("sqlite", database=str(path)))

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Run one transaction that changes something; durable when the block is left."""
        with self._told_clearly(), self._writer.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Run one transaction that sees one moment and changes nothing."""
        with self._told_clearly(), self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    def _use_wal(self) -> None:
        give_up = time.monotonic() + _BUSY_SECONDS
        while True:
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as problem:
                # The switch itself does not wait for others, whatever the timeout.
                if "locked" not in str(problem) or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
            else:
                return
            finally:
                connection.close()

    def _create_or_check(self) -> None:
        with self._engine.connect() as connection:
            if self._is_current(connection):
                return
        with self._writer.begin() as connection:
            if self._is_current(connection):  # another process was faster
                return
            old = None
            if sa.inspect(connection).has_table(_version.name):
                old = connection.execute(sa.select(_version.c.version)).scalar()
            if old == _BEFORE_SUMS:
                _add_columns(connection)
            metadata.create_all(connection)  # what is there already stays as it is
            if old == _BEFORE_AUDIT:
                self._add_nodes(connection)
            versioned = sa.insert(_version) if old is None else sa.update(_version)
            connection.execute(versioned.values(version=SCHEMA_VERSION))

    def _is_current(self, connection: sa.Connection) -> bool:
        """Tell whether nothing is to be done; False if it is new, or of a version that can grow."""
        if not sa.inspect(connection).has_table(_version.name):
            return False
        found = connection.execute(sa.select(_version.c.version)).scalar()
        if found in (_BEFORE_AUDIT, _BEFORE_RUNS, _BEFORE_SUMS):
            return False
        self._check_version(found)
        return True

    def _add_nodes(self, connection: sa.Connection) -> None:
        for index in requests.indexes:
            index.create(connection, checkfirst=True)
        tree = Tree()
        earlier = connection.execute(sa.select(events.c.seq, events.c.body).order_by(events.c.seq))
        for rows in earlier.partitions(1000):
            nodes = []
            for seq, body in rows:
                place = tree.size
                if seq != place + 1:
                    raise self._damaged()
                nodes += [
                    {"level": level, "position": place >> level, "hash": made}
                    for level, made in enumerate(tree.add(body.encode()))
                ]
            connection.execute(sa.insert(audit_nodes), nodes)

    def _check_version(self, found: int | None) -> None:
        if found == SCHEMA_VERSION:
            return
        if found is not None and found > SCHEMA_VERSION:
            raise StateError(
                f"The site's database {self._where} was written by a newer privnb "
                f"(version {found}; this one knows {SCHEMA_VERSION}).",
                hint="Install the newer privnb.",
            )
        if found is not None and found > 0:
            raise StateError(
                f"The site's database {self._where} was written by an older privnb "
                f"(version {found}; this one needs {SCHEMA_VERSION}).",
                hint="Go on with the older privnb. Do not start from an empty database: the ledger "
                "would forget what was spent.",
            )
        raise self._damaged()

    def _damaged(self) -> StateError:
        return StateError(
            f"The site's database {self._where} is damaged.",
            hint="Restore it from a backup. Do not start from an empty one: the ledger would "
            "forget what was spent.",
        )

    @contextlib.contextmanager
    def _told_clearly(self) -> Iterator[None]:
        try:
            yield
        except exc.TimeoutError:
            raise self._busy() from None
        except (exc.IntegrityError, exc.ProgrammingError, exc.DataError):
            raise  # a mistake of ours, not of the database
        except exc.DatabaseError as problem:
            raise self._told(str(problem.orig)) from None
        except sqlite3.Error as problem:  # while connecting, which SQLAlchemy does not translate
            raise self._told(str(problem)) from None

    def _told(self, text: str) -> StateError:
        if "locked" in text or "busy" in text:
            return self._busy()
        if "malformed" in text or "not a database" in text:
            return self._damaged()
        if "full" in text or "disk I/O" in text or "readonly" in text:
            return StateError(
                f"The site's database {self._where} cannot be written: {text}.",
                hint="Make room on the disk and look at the folder's permissions; nothing was "
                "lost, and waiting requests are answered afterwards.",
            )
        return StateError(
            f"The site's database {self._where} cannot be used: {text}.",
            hint="Look at the file, its folder and their permissions.",
        )

    def _busy(self) -> StateError:
        return StateError(
            f"The site's database {self._where} is in use by another process.",
            hint="Try again; if it stays so, look for a backup or database tool that holds it.",
        )


def _add_columns(connection: sa.Connection) -> None:
    """Add the columns that tables of an earlier version lack; all may be empty, or are counts."""
    for column in _SINCE_SUMS:
        kind = column.type.compile(connection.dialect)
        count = "" if column.nullable else " NOT NULL DEFAULT 0"
        connection.exec_driver_sql(
            f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind}{count}"
        )


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    # The driver's own transactions begin too late: reads before the first write would not be
    # part of them. _begin_sqlite begins them instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("privnb_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def utc_now() -> str:
    """Return the wall time as ISO 8601 in UTC, to the second; for people, never for order."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
