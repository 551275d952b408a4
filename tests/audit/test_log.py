"""The site's log: one line of events whoever appends, whole whatever is killed, naming nobody."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from audited_site import ANA, BOB, CAROL, OWNER, AuditedSite, plain
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.audit import (
    Tree,
    open_checkpoint,
    origin_of,
    read_event,
    verify_consistency,
    verify_receipt,
)
from privnb.errors import AuditBroken, StateError
from privnb.site import database as tables
from privnb.site.audit import AuditLog, erase, record_event
from privnb.site.audit_reading import check_log
from privnb.site.database import Database

APPENDER = str(Path(__file__).with_name("appender.py"))


def start(*words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, APPENDER, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def appenders():
    running = [start() for _ in range(3)]
    yield running
    for each in running:
        each.communicate()
        assert each.returncode == 0


def size_of(database) -> int:
    with database.read() as snapshot:
        return check_log(snapshot).size


# What is recorded


def test_an_event_is_canonical_json_with_commitments_in_the_place_of_people(log):
    with log.database.write() as transaction:
        first = record_event(transaction, "start")
        second = record_event(
            transaction,
            "review",
            private={"analyst": ANA, "reviewer": CAROL, "reason": "too small groups"},
            digest="d" * 64,
            purpose="research",
            epsilon="0.5",
        )
    assert (first, second) == (0, 1)
    body = log.bodies()[1]
    event = read_event(body)
    assert (event["kind"], event["digest"], event["epsilon"]) == ("review", "d" * 64, "0.5")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["at"])
    for field in ("analyst", "reviewer", "reason"):
        assert set(event[field]) == {"commitment"}
    for word in (ANA, CAROL, "small"):
        assert word not in body


def test_the_same_name_is_committed_to_differently_each_time(log):
    log.fill(3)
    commitments = {json.loads(body)["analyst"]["commitment"] for body in log.bodies()}
    assert len(commitments) == 3


@pytest.mark.parametrize(
    ("private", "fields", "error"),
    [
        ({}, {"epsilon": 0.5}, TypeError),
        ({}, {"parts": [{"loss": 1.0}]}, TypeError),
        ({}, {"epsilon": float("nan")}, TypeError),
        ({"analyst": ANA}, {"analyst": ANA}, ValueError),
        ({"kind": "x"}, {}, ValueError),
        ({"at": "x"}, {}, ValueError),
        ({}, {"at": "2026-01-01"}, ValueError),
        ({}, {"when": object()}, TypeError),
    ],
)
def test_what_would_be_ambiguous_is_not_recorded(log, private, fields, error):
    with pytest.raises(error), log.database.write() as transaction:
        record_event(transaction, "decision", private=private, **fields)
    assert log.bodies() == []


def test_a_failed_transaction_leaves_no_event_no_node_and_no_opening(log):
    log.fill(3)

    def fail(transaction):
        record_event(transaction, "decision", private={"analyst": ANA})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), log.database.write() as transaction:
        fail(transaction)
    assert size_of(log.database) == 3
    assert log.append() == 3


def test_grants_and_decisions_name_their_analyst_by_commitment_only(log):
    from decimal import Decimal
    from types import SimpleNamespace

    from privnb.site.grants import Grant, record_grant
    from privnb.site.reporting import About, record_decision

    given = Grant(analyst=ANA, table="visits", purpose="research", epsilon=Decimal(4))
    job = SimpleNamespace(sender=ANA, name="a" * 32)
    decision = SimpleNamespace(outcome="release", rule="budget")
    with log.database.write() as transaction:
        record_grant(transaction, given)
        record_decision(transaction, job, decision, About(digest="d" * 64, table="visits"))
    assert [ANA in body for body in log.bodies()] == [False, False]
    with log.database.read() as snapshot:
        trail = log.log.trail(snapshot, analyst=ANA)
    kinds = [read_event(receipt.event)["kind"] for receipt in trail]
    assert kinds == ["grant", "decision"]


# Several processes


@settings(max_examples=8, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=3, max_size=3))
def test_batches_of_several_processes_make_one_whole_log(appenders, batches):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.sqlite"
        Database.open(path).close()
        for process, sizes in zip(appenders, batches, strict=True):
            process.stdin.write(f"{path} {' '.join(map(str, sizes))}\n")
            process.stdin.flush()
        for process in appenders:
            assert process.stdout.readline() == "done\n"
        database = Database.open(path)
        assert size_of(database) == sum(map(sum, batches))
        database.close()


def test_kill_9_at_any_statement_leaves_whole_batches_and_their_nodes(tmp_path):
    path = tmp_path / "site.sqlite"
    database = Database.open(path)
    with database.write() as transaction:
        for _ in range(3):
            record_event(transaction, "start")
    database.close()
    process = start("--crash", path, 4)
    said, _ = process.communicate()
    assert process.returncode == 0
    sizes = [int(line.split()[1]) for line in said.splitlines()]
    assert len(sizes) > 12
    assert sizes[0] == 3
    assert sizes == sorted(sizes)
    assert {(size - 3) % 4 for size in sizes} == {0}
    assert sizes[-1] > sizes[0]


def test_kill_9_at_any_moment_leaves_a_whole_log(tmp_path):
    path = tmp_path / "site.sqlite"
    Database.open(path).close()
    before = 0
    for pause in (0.0, 0.01, 0.02, 0.05, 0.1):
        process = start()
        process.stdin.write(f"{path} {' '.join(['3'] * 1000)}\n")
        process.stdin.flush()
        database = Database.open(path)
        while size_of(database) == before:
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        after = size_of(database)
        database.close()
        assert after > before
        assert after % 3 == 0
        before = after


# Receipts


def test_receipts_prove_growth_from_the_sizes_held_and_pass_over_impossible_ones(log):
    log.fill(20)
    earlier = {}
    for size in (1, 7, 16):
        with log.database.read() as snapshot:
            checkpoint = open_checkpoint(log.log.checkpoint(snapshot), log.key)
        tree = Tree()
        for body in log.bodies()[:size]:
            tree.add(body.encode())
        earlier[size] = tree.root
    receipt = log.release(held=(1, 7, 16, 16, 0, -4, 21, 22, 10**30))
    assert set(receipt.consistency) == {"1", "7", "16"}
    proved = verify_receipt(plain(receipt), key=log.key)
    assert proved.checkpoint.size == checkpoint.size + 1
    for size, root in earlier.items():
        verify_consistency(
            old_size=size,
            old_root=root,
            size=proved.checkpoint.size,
            root=proved.checkpoint.root,
            proof=[bytes.fromhex(node) for node in receipt.consistency[str(size)]],
        )


def test_a_receipt_answers_at_most_sixteen_sizes_the_largest(log):
    log.fill(40)
    receipt = log.release(held=range(1, 41))
    assert sorted(map(int, receipt.consistency)) == list(range(25, 41))


def test_a_receipt_opens_the_analysts_own_name_and_nothing_else(log):
    with log.database.write() as transaction:
        private = {"analyst": ANA, "reviewer": CAROL, "reason": "fine"}
        index = record_event(transaction, "release", private=private)
        receipt = log.log.receipt(transaction, index)
    assert {field: each.value for field, each in receipt.openings.items()} == {"analyst": ANA}
    assert CAROL not in str(plain(receipt))


def test_the_checkpoint_of_an_empty_log_is_that_of_nothing(log):
    with log.database.read() as snapshot:
        checkpoint = open_checkpoint(log.log.checkpoint(snapshot), log.key)
    assert (checkpoint.size, checkpoint.root) == (0, Tree().root)


def test_a_lost_node_is_said_when_a_proof_needs_it(log):
    log.fill(8)
    log.run("DELETE FROM audit_nodes WHERE level = 1 AND position = 1")
    with pytest.raises(StateError, match="lacks node 1 of level 1"):
        log.receipt(0)
    log.run("DELETE FROM audit_nodes WHERE level = 3")
    with pytest.raises(StateError, match="audit log is damaged"):
        log.fill(8)


# Trails


def test_a_trail_is_the_analysts_own_events_and_names_nobody_else(log):
    with log.database.write() as transaction:
        for analyst in (ANA, BOB, ANA):
            private = {"analyst": analyst, "reviewer": CAROL, "reason": f"{BOB} may see it"}
            record_event(transaction, "review", private=private)
        # To review is not to ask: what one decided on is no event about oneself.
        record_event(transaction, "review", private={"analyst": BOB, "reviewer": ANA})
        trail = log.log.trail(transaction, analyst=ANA, held=(1, 2, 4))
    assert [receipt.index for receipt in trail] == [0, 2]
    for receipt in trail:
        assert verify_receipt(plain(receipt), key=log.key).checkpoint.size == 4
        assert set(receipt.openings) == {"analyst"}
        assert all(word not in str(plain(receipt)) for word in (BOB, CAROL))
    assert trail[0].consistency is None
    assert set(trail[1].consistency) == {"1", "2"}


def test_a_trail_is_the_newest_events_oldest_first(log):
    log.fill(10)
    with log.database.read() as snapshot:
        trail = log.log.trail(snapshot, analyst=ANA, newest=3)
        assert [receipt.index for receipt in trail] == [7, 8, 9]
        assert log.log.trail(snapshot, analyst="nobody@uni.example") == ()


# Erasure


def test_an_erased_person_is_gone_and_every_receipt_still_verifies(log):
    with log.database.write() as transaction:
        private = {"analyst": ANA, "reviewer": CAROL, "reason": "Ana asked nicely"}
        record_event(transaction, "review", private=private)
        private = {"analyst": BOB, "reviewer": ANA, "reason": "no"}
        record_event(transaction, "review", private=private)
        private = {"analyst": BOB, "approved_by": f"code: {ANA}; code: {CAROL}"}
        record_event(transaction, "release", private=private)
        record_event(transaction, "review", private={"analyst": BOB, "reason": "my own words"})
    before = log.bodies()
    given = log.receipt(0)
    with log.database.write() as transaction:
        assert erase(transaction, ANA) == 5
    with log.database.read() as snapshot:
        openings = snapshot.execute(
            sa.select(tables.audit_openings.c.event, tables.audit_openings.c.value)
        ).all()
    assert sorted(map(tuple, openings)) == [
        (1, CAROL),
        (2, BOB),
        (3, BOB),
        (4, BOB),
        (4, "my own words"),
    ]
    assert log.bodies() == before
    assert size_of(log.database) == 4
    assert log.receipt(0).openings is None
    verify_receipt(plain(log.receipt(0)), key=log.key)
    # Who was given the opening before still can show what it was.
    verify_receipt(plain(given), key=log.key)


def test_erasing_overwrites_the_name_in_the_file(log, tmp_path):
    name = "zenobia.unmistakable@uni.example"
    log.append(analyst=name)
    with log.database.write() as transaction:
        assert erase(transaction, name) == 1
    log.database.close()  # the last connection takes the journal into the database
    assert name.encode() not in (log.folder / "site.sqlite").read_bytes()


def test_a_name_within_another_is_not_that_person(log):
    log.append(analyst=f"jo{ANA}")
    with log.database.write() as transaction:
        assert erase(transaction, ANA) == 0
        assert erase(transaction, "%") == 0


def test_words_that_contain_the_name_of_somebody_else_stay(log):
    mentions = {
        "A sound analysis of plans": False,
        f"jo{ANA} asked": False,
        f"x.{ANA} asked": False,
        f"{ANA}.org asked": False,
        f"As {ANA}, I say so": True,
        f"It was ({ANA}).": True,
    }
    with log.database.write() as transaction:
        for words in mentions:
            record_event(transaction, "review", private={"analyst": BOB, "reason": words})
        assert erase(transaction, "ana") == 0
        assert erase(transaction, ANA) == 0
        record_event(transaction, "review", private={"analyst": ANA})
        assert erase(transaction, ANA) == 3
    with log.database.read() as snapshot:
        left = set(snapshot.execute(sa.select(tables.audit_openings.c.value)).scalars())
    assert left == {BOB} | {words for words, gone in mentions.items() if not gone}


# The key


def test_the_key_is_made_once_for_its_owner_only(log):
    path = log.folder / "audit.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = AuditLog.open(log.folder, origin=origin_of("northside", OWNER))
    assert again.verifier_key == log.log.verifier_key
    assert sorted(each.name for each in log.folder.iterdir() if "key" in each.name) == ["audit.key"]
    other = AuditLog.open(log.folder / "other", origin=origin_of("northside", OWNER))
    assert other.fingerprint != log.log.fingerprint


def test_processes_that_start_at_once_get_one_key(tmp_path):
    code = (
        "import sys, pathlib\nfrom privnb.site.audit import AuditLog\ninput()\n"
        "print(AuditLog.open(pathlib.Path(sys.argv[1]), origin='privnb/n/o').verifier_key)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "state")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    time.sleep(0.5)
    for each in processes:
        each.stdin.write("go\n")
        each.stdin.flush()
    keys = {each.communicate()[0] for each in processes}
    assert [each.returncode for each in processes] == [0] * 4
    assert len(keys) == 1
    assert keys == {AuditLog.open(tmp_path / "state", origin="privnb/n/o").verifier_key + "\n"}


def test_a_damaged_key_is_an_error_and_is_kept(tmp_path):
    path = tmp_path / "audit.key"
    for content in (
        b"",
        b"no key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ):
        path.write_bytes(content)
        with pytest.raises(StateError, match=r"audit key .* is damaged") as refused:
            AuditLog.open(tmp_path, origin="privnb/n/o")
        assert "backup" in refused.value.hint
        assert path.read_bytes() == content


def test_a_key_of_another_kind_is_damaged_too(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    (tmp_path / "audit.key").write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(StateError, match="damaged"):
        AuditLog.open(tmp_path, origin="privnb/n/o")


def test_what_a_crash_left_of_making_a_key_is_swept_away(log):
    left_over = log.folder / ".audit-key-abc"
    left_over.write_bytes(b"never used")
    AuditLog.open(log.folder, origin=origin_of("northside", OWNER))
    assert not left_over.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_key_that_cannot_be_made_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StateError, match="cannot be used"):
        AuditLog.open(tmp_path / "state", origin="privnb/n/o")


# What the owner's check finds


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET body = replace(body, 'decision', 'decisiom') WHERE seq = 3", "event 2"),
        ("UPDATE events SET body = replace(body, ',', ', ') WHERE seq = 3", "event 2"),
        ("UPDATE events SET body = '[]' WHERE seq = 3", "event 2"),
        ("DELETE FROM events WHERE seq = 3", "event 2 is missing"),
        ("DELETE FROM events WHERE seq = 1", "event 0 is missing"),
        ("DELETE FROM events WHERE seq = 9", "nodes of events that are not there"),
        ("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 0 AND position = 4", "event 4"),
        ("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 2", "events from 0 on"),
        ("DELETE FROM audit_nodes WHERE level = 3", "events from 0 on"),
        ("INSERT INTO audit_nodes VALUES (0, 9, zeroblob(32))", "nodes of events that are not"),
        ("UPDATE audit_openings SET value = 'bob' WHERE event = 5", "event 4: The opening of"),
        ("UPDATE audit_openings SET salt = 'x' WHERE event = 5", "event 4: The opening of"),
    ],
)
def test_the_check_names_the_event_that_was_tampered_with(log, statement, said):
    log.fill(9)
    assert size_of(log.database) == 9
    log.run(statement)
    with pytest.raises(AuditBroken, match=said):
        size_of(log.database)


def test_events_and_nodes_rewritten_together_are_found_by_an_earlier_checkpoint(log, tmp_path):
    log.fill(9)
    with log.database.read() as snapshot:
        earlier = open_checkpoint(log.log.checkpoint(snapshot), log.key)
    other = AuditedSite(tmp_path / "other")
    other.fill(12)
    with other.database.read() as snapshot, pytest.raises(AuditBroken, match="rewritten"):
        check_log(snapshot, checkpoints=[earlier])
    other.database.close()
    shorter = AuditedSite(tmp_path / "shorter")
    shorter.fill(4)
    with shorter.database.read() as snapshot, pytest.raises(AuditBroken, match="shortened"):
        check_log(snapshot, checkpoints=[earlier])
    shorter.database.close()
    log.fill(3)
    with log.database.read() as snapshot:
        assert check_log(snapshot, checkpoints=[earlier]).size == 12


def test_the_check_reads_logs_longer_than_it_reads_at_once(log):
    log.fill(4097)
    assert size_of(log.database) == 4097
    log.run("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 0 AND position = 4096")
    with pytest.raises(AuditBroken, match="event 4096"):
        size_of(log.database)
