"""The site's database says clearly why it cannot be used, and never starts over by itself."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest
import sqlalchemy as sa

from privnb.errors import StateError
from privnb.site import database as tables
from privnb.site.audit import record_event
from privnb.site.database import Database


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "site.sqlite"


def test_only_the_owner_can_read_it(path):
    Database.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_waits_for_the_disk_at_every_commit(path):
    database = Database.open(path)
    with database.read() as snapshot:
        assert snapshot.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert snapshot.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    database.close()


def test_a_failed_transaction_leaves_nothing_behind(path):
    database = Database.open(path)

    def fail(transaction):
        record_event(transaction, "start")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), database.write() as transaction:
        fail(transaction)
    with database.read() as snapshot:
        assert snapshot.execute(sa.select(sa.func.count()).select_from(tables.events)).scalar() == 0
    database.close()


def test_what_was_committed_is_there_after_reopening(path):
    database = Database.open(path)
    with database.write() as transaction:
        record_event(transaction, "start", site="northside")
    database.close()
    database = Database.open(path)
    with database.read() as snapshot:
        assert '"site":"northside"' in snapshot.execute(sa.select(tables.events.c.body)).scalar()
    database.close()


def test_a_newer_database_is_not_touched(path):
    Database.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="newer privnb"):
        Database.open(path)


def test_a_database_of_an_older_layout_is_not_touched_and_not_called_damaged(path):
    Database.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 1")
    connection.commit()
    connection.close()
    with pytest.raises(StateError, match="older privnb"):
        Database.open(path)


def test_a_database_without_runs_gets_their_tables(path):
    """Version 3 was the same but for the tables of federated runs."""
    Database.open(path).close()
    connection = sqlite3.connect(path)
    whole = set(connection.execute("SELECT type, name FROM sqlite_master"))
    connection.executescript(
        "DROP TABLE runs; DROP TABLE run_inputs; DROP TABLE run_sums;"
        "UPDATE schema_version SET version = 3;"
        "INSERT INTO grants VALUES (1, 'now', 'ana', 'visits', 'research', '4', NULL, 0);"
    )
    connection.close()
    database = Database.open(path)
    with database.read() as snapshot:
        assert snapshot.execute(sa.select(tables.grants.c.epsilon)).scalar() == "4"
    database.close()
    connection = sqlite3.connect(path)
    assert set(connection.execute("SELECT type, name FROM sqlite_master")) == whole
    version = connection.execute("SELECT version FROM schema_version").fetchall()
    connection.close()
    assert version == [(tables.SCHEMA_VERSION,)]


def test_a_database_without_the_memory_of_sums_gets_it(path):
    """Version 4 knew runs, but neither their labels nor what failed, consented or was summed."""
    Database.open(path).close()
    connection = sqlite3.connect(path)
    whole = set(connection.execute("SELECT type, name FROM sqlite_master"))
    connection.executescript(
        "DROP TABLE run_sums; DROP TRIGGER runs_keep_labels; DROP TRIGGER run_inputs_keep_failures;"
        "DROP TRIGGER run_inputs_keep_consents; ALTER TABLE runs DROP COLUMN label;"
        "DROP TRIGGER runs_keep_failures; ALTER TABLE runs DROP COLUMN failures;"
        "DROP TRIGGER run_inputs_keep_times; ALTER TABLE run_inputs DROP COLUMN times;"
        "ALTER TABLE run_inputs DROP COLUMN input;"
        "ALTER TABLE run_inputs DROP COLUMN consents; ALTER TABLE run_inputs DROP COLUMN failed;"
        "UPDATE schema_version SET version = 4;"
        "INSERT INTO runs VALUES (1, 'now', 'ana', 'one', 'd1', 7, 3);"
        "INSERT INTO run_inputs VALUES (1, 'now', 'ana', 'one', 2, 'totals', 'w', X'00', NULL);"
    )
    connection.close()
    database = Database.open(path)
    with database.read() as snapshot:
        run = snapshot.execute(sa.select(tables.runs)).one()
        given = snapshot.execute(sa.select(tables.run_inputs)).one()
    database.close()
    assert (run.attempt, run.contributions, run.label, run.failures) == (7, 3, None, 0)
    assert (given.round, given.vector) == (2, b"\0")
    assert (given.input, given.consents, given.failed, given.times) == (None, None, None, 0)
    connection = sqlite3.connect(path)
    assert set(connection.execute("SELECT type, name FROM sqlite_master")) == whole
    version = connection.execute("SELECT version FROM schema_version").fetchall()
    connection.close()
    assert version == [(tables.SCHEMA_VERSION,)]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_a_damaged_database_is_named_and_kept(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateError, match="damaged") as refused:
        Database.open(path)
    assert "backup" in refused.value.hint
    assert path.read_bytes() == content


def test_a_database_held_by_another_process_is_an_error_not_a_hang(path, monkeypatch):
    monkeypatch.setattr(tables, "_BUSY_SECONDS", 0.1)
    database = Database.open(path)
    holder = sqlite3.connect(path)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="in use"), database.write():
        pass
    holder.close()
    with database.write() as transaction:
        record_event(transaction, "start")
    database.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="cannot be opened"):
        Database.open(tmp_path / "state" / "site.sqlite")


def test_a_folder_where_the_database_should_be_is_an_error(path):
    path.mkdir(parents=True)
    with pytest.raises(StateError, match="cannot be opened"):
        Database.open(path)
