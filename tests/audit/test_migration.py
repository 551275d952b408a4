"""A database from before the audit log grows into one of today, in one step, whatever is killed."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from audited_site import ANA, OWNER, plain

from privnb.audit import VerifierKey, origin_of, verify_receipt
from privnb.errors import StateError
from privnb.site import database as tables
from privnb.site.audit import AuditLog, record_event
from privnb.site.audit_reading import check_log
from privnb.site.database import SCHEMA_VERSION, Database

APPENDER = str(Path(__file__).with_name("appender.py"))

# As version 2 made it, word for word.
VERSION_2 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE grants (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, analyst TEXT NOT NULL,
    table_name TEXT NOT NULL, purpose TEXT NOT NULL, epsilon TEXT NOT NULL, until TEXT,
    withdrawn BOOLEAN NOT NULL
);
CREATE INDEX grants_by_analyst ON grants (analyst, table_name, purpose, seq);
CREATE TABLE ledger (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, table_name TEXT NOT NULL,
    analyst TEXT NOT NULL, purpose TEXT NOT NULL, request TEXT NOT NULL, digest TEXT NOT NULL,
    accounting TEXT NOT NULL, loss BIGINT NOT NULL, delta BIGINT NOT NULL, epsilon TEXT NOT NULL,
    state TEXT NOT NULL,
    UNIQUE (analyst, request),
    CHECK (loss > 0 AND delta >= 0),
    CHECK (accounting IN ('zcdp', 'pure')),
    CHECK (state IN ('reserved', 'spent'))
);
CREATE INDEX ledger_by_grant
    ON ledger (table_name, analyst, purpose, seq, accounting, loss, delta);
CREATE TABLE requests (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, sender TEXT NOT NULL,
    name TEXT NOT NULL, action TEXT NOT NULL, state TEXT NOT NULL, agent TEXT NOT NULL,
    attempts INTEGER NOT NULL, submission BLOB, reply BLOB, succeeded BOOLEAN NOT NULL,
    owed BOOLEAN NOT NULL,
    UNIQUE (sender, name)
);
CREATE INDEX requests_owed ON requests (owed);
CREATE TABLE events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER ledger_keeps_charges BEFORE UPDATE OF seq, at, table_name, analyst, purpose, request,
    digest, accounting, loss, delta, epsilon ON ledger
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER events_keep_rows BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER events_keep_bodies BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'append-only'); END;
INSERT INTO schema_version VALUES (2);
INSERT INTO ledger VALUES (1, '2026-01-01T00:00:00Z', 'visits', 'ana@uni.example', 'research',
    'aaaa', 'dddd', 'zcdp', 5, 0, '0.5', 'spent');
"""


def older(path: Path, events: int) -> list[str]:
    """Make a database of version 2 with so many events, and return these."""
    bodies = [
        json.dumps(
            {"analyst": ANA, "at": "2026-01-01T00:00:00Z", "kind": "decision", "number": number},
            separators=(",", ":"),
        )
        for number in range(events)
    ]
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_2)
    connection.executemany("INSERT INTO events (body) VALUES (?)", [(body,) for body in bodies])
    connection.commit()
    connection.close()
    return bodies


def layout(path: Path) -> set[tuple[str, str]]:
    connection = sqlite3.connect(path)
    found = set(connection.execute("SELECT type, name FROM sqlite_master"))
    connection.close()
    return found


@pytest.mark.parametrize("count", [0, 1, 5, 64, 2501])
def test_it_keeps_what_was_there_and_can_prove_it(tmp_path, count):
    bodies = older(tmp_path / "site.sqlite", count)
    database = Database.open(tmp_path / "site.sqlite")
    log = AuditLog.open(tmp_path, origin=origin_of("northside", OWNER))
    with database.read() as snapshot:
        assert check_log(snapshot).size == count
        query = sa.select(tables.events.c.body).order_by(tables.events.c.seq)
        assert list(snapshot.execute(query).scalars()) == bodies
        assert snapshot.execute(sa.select(tables.ledger.c.loss)).scalar() == 5
    with database.write() as transaction:
        assert record_event(transaction, "release", private={"analyst": ANA}) == count
        receipt = log.receipt(transaction, count // 2)
    proved = verify_receipt(plain(receipt), key=VerifierKey.parse(log.verifier_key))
    assert proved.event["kind"] == ("decision" if count else "release")
    database.close()


def test_it_then_has_all_that_a_new_one_has(tmp_path):
    older(tmp_path / "old.sqlite", 3)
    for name in ("old.sqlite", "new.sqlite"):
        Database.open(tmp_path / name).close()
    assert layout(tmp_path / "old.sqlite") == layout(tmp_path / "new.sqlite")
    connection = sqlite3.connect(tmp_path / "old.sqlite")
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [
        (SCHEMA_VERSION,)
    ]
    for statement in ("DELETE FROM audit_nodes", "DELETE FROM events", "DELETE FROM ledger"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_it_happens_once(tmp_path):
    older(tmp_path / "site.sqlite", 3)
    Database.open(tmp_path / "site.sqlite").close()
    before = (tmp_path / "site.sqlite").read_bytes()
    Database.open(tmp_path / "site.sqlite").close()
    assert (tmp_path / "site.sqlite").read_bytes() == before


def test_a_gap_in_the_events_is_damage_and_is_left_alone(tmp_path):
    path = tmp_path / "site.sqlite"
    older(path, 5)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER events_keep_rows")
    connection.execute("DELETE FROM events WHERE seq = 2")
    connection.commit()
    connection.close()
    before = layout(path)
    with pytest.raises(StateError, match="damaged"):
        Database.open(path)
    assert layout(path) == before


def test_kill_9_at_any_statement_of_it_leaves_the_old_or_the_new(tmp_path):
    source = tmp_path / "source.sqlite"
    older(source, 20)
    before = len(layout(source))
    done = subprocess.run(
        [sys.executable, APPENDER, "--migrate", source, tmp_path / "site.sqlite"],
        capture_output=True,
        text=True,
        check=True,
    )
    states = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(states) > 20
    *early, last = states
    after = last[2]
    assert after > before
    found = {(version, schema) for _, version, schema, _ in states}
    assert found == {(2, before), (SCHEMA_VERSION, after)}
    assert sum(version == 2 for _, version, _, _ in early) > 20
    # Opened again, each becomes whole.
    assert {size for *_, size in states} == {20}


def test_several_processes_that_open_it_at_once_grow_it_once(tmp_path):
    path = tmp_path / "site.sqlite"
    older(path, 2000)
    code = (
        "import sys\nfrom pathlib import Path\nfrom privnb.site.database import Database\n"
        "input()\nDatabase.open(Path(sys.argv[1])).close()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for each in processes:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in processes:
        each.communicate()
    assert [each.returncode for each in processes] == [0, 0, 0]
    database = Database.open(path)
    with database.read() as snapshot:
        assert check_log(snapshot).size == 2000
    database.close()
