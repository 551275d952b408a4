"""What an owner types about the audit log, and reads."""

from __future__ import annotations

import dataclasses
import io
import stat

import pytest
import sqlalchemy as sa
from rich.console import Console
from typer.testing import CliRunner

from privnb import wire
from privnb.cli import app
from privnb.cli.audit import _print_events
from privnb.messages import Reply
from privnb.site import database as tables
from privnb.site.audit import record_event
from privnb.site.audit_reading import shown_events
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.opening import database_path, open_audit

ANA = "ana@uni.example"
BOB = "bob@uni.example"
CAROL = "carol@north.example"
CONFIG = """
name = "northside"
owner = "data+owner@north.example"
exchange = "exchange"

[tables.visits]
source = "visits.csv"
privacy_unit = "person"
max_rows_per_unit = 1
delta = 1e-6
total_epsilon = 5
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"
"""


@pytest.fixture
def folder(tmp_path):
    site = tmp_path / "north"
    site.mkdir()
    (site / "site.toml").write_text(CONFIG)
    with_database(site, fill)
    return site


def fill(transaction):
    record_event(
        transaction, "decision", private={"analyst": ANA}, decision="release", rule="grant"
    )
    private = {"analyst": BOB, "reviewer": CAROL, "reason": "[bold]no\x1b[2J\nnever[/bold]"}
    record_event(transaction, "review", private=private, verdict="deny", digest="d" * 64)
    record_event(transaction, "release", private={"analyst": ANA}, output="0" * 64, until=None)


def with_database(site, act):
    database = Database.open(database_path(load_config(site)))
    with database.write() as transaction:
        act(transaction)
    database.close()


def privnb(*words):
    return CliRunner().invoke(app, ["audit", *(str(word) for word in words)])


def test_help_names_the_commands():
    text = privnb("--help").output
    for command in ("show", "verify", "export", "key", "erase", "check-notebook"):
        assert command in text


def test_show_lists_events_with_the_names_that_the_log_only_commits_to(folder):
    lines = privnb("show", folder).output.splitlines()
    assert lines[0].split() == ["no.", "at", "kind", "who", "what"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
    assert f"analyst {ANA}" in lines[1]
    assert "decision release, rule grant" in lines[1]
    assert f"reviewer {CAROL}" in lines[2]
    assert "until" not in lines[3]


def test_show_prints_the_words_of_people_as_text_that_does_nothing(folder):
    shown = privnb("show", folder).output
    assert "[bold]no�[2J never[/bold]" in shown
    assert "\x1b" not in shown


def test_on_a_terminal_events_are_folded_into_its_width(folder):
    with_database(folder, lambda transaction: record_event(transaction, "note", rule="é" * 200))
    database = Database.open(database_path(load_config(folder)))
    with database.read() as snapshot:
        events = shown_events(snapshot, last=3)
    database.close()
    written = io.StringIO()
    terminal = Console(file=written, width=80, force_terminal=True, color_system=None)
    _print_events(terminal, events)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if not line.startswith("    ")] == [
        f"{event.index}  {event.at}  {event.kind}" for event in events
    ]
    text = " ".join(line.strip() for line in lines)
    assert f"analyst {BOB}, reason [bold]no�[2J never[/bold]" in text
    assert "é" * 200 in text.replace(" ", "")
    assert "digest " + "d" * 64 in text


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--analyst", ANA), ["0", "2"]),
        (("--analyst", BOB), ["1"]),
        (("--analyst", CAROL), []),
        (("--kind", "review"), ["1"]),
        (("--kind", "nothing"), []),
        (("--kind", "release", "--analyst", ANA), ["2"]),
        (("--last", "2"), ["1", "2"]),
        (("--last", "1", "--analyst", ANA), ["2"]),
    ],
)
def test_show_can_be_narrowed(folder, words, numbers):
    shown = privnb("show", folder, *words)
    assert shown.exit_code == 0
    assert [line.split()[0] for line in shown.output.splitlines()[1:]] == numbers
    if not numbers:
        assert shown.output == "Nothing of this kind has happened.\n"


def test_show_finds_the_analyst_of_events_from_before_commitments(folder):
    with_database(folder, lambda transaction: record_event(transaction, "decision", analyst=BOB))
    lines = privnb("show", folder, "--analyst", BOB).output.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["1", "3"]


def test_an_erased_person_is_not_shown_and_the_log_verifies(folder):
    erased = privnb("erase", folder, BOB, "--yes")
    assert erased.output.splitlines() == [
        "Erased 2 names and words. The log's tree is unchanged.",
        "Still naming them: grants, ledger, requests, reviews, and what was exported.",
    ]
    shown = privnb("show", folder).output
    assert BOB not in shown
    assert "never" not in shown
    assert "analyst (erased)" in shown
    assert privnb("verify", folder).exit_code == 0
    again = privnb("erase", folder, BOB)
    assert again.exit_code == 1
    assert "Nobody in the audit log has the name" in again.stderr


def test_erasing_says_how_much_and_asks(folder):
    asked = privnb("erase", folder, BOB)
    assert asked.exit_code == 1
    assert "Erase 2 names and words, for good?" in asked.output
    assert BOB in privnb("show", folder).output


def test_key_prints_what_analysts_and_auditors_need(folder):
    result = privnb("key", folder)
    assert result.stdout.startswith("privnb/northside/data%2Bowner@north.example+")
    assert len(result.stdout.splitlines()) == 1
    assert "Fingerprint" in result.stderr
    assert privnb("key", folder).stdout == result.stdout
    assert stat.S_IMODE((folder / "state" / "audit.key").stat().st_mode) == 0o600


def test_export_and_verify_with_the_key(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    written = privnb("export", folder, out)
    assert written.exit_code == 0
    assert "They name people" in written.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert CAROL in out.read_text()
    key = privnb("key", folder).stdout.strip()
    checked = privnb("verify", out, "--checkpoint", tmp_path / "out.checkpoint", "--key", key)
    assert checked.exit_code == 0
    assert "3 events, exactly those of the log privnb/northside/" in checked.output
    anonymous = privnb("export", folder, out, "--without-names", "--force")
    assert "They name people" not in anonymous.output
    assert CAROL not in out.read_text()
    assert privnb("verify", out, "--checkpoint", tmp_path / "out.checkpoint").exit_code == 0


def test_an_export_replaces_nothing_unless_it_is_told_to(folder, tmp_path):
    out, note = tmp_path / "out.jsonl", tmp_path / "out.checkpoint"
    note.write_text("mine")
    refused = privnb("export", folder, out)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[0].endswith(f"There is {note} already.")
    assert not out.exists()
    assert note.read_text() == "mine"
    assert privnb("export", folder, out, "--force").exit_code == 0
    assert privnb("verify", out, "--checkpoint", note).exit_code == 0
    refused = privnb("export", folder, out)
    assert f"There is {out} and {note} already." in refused.stderr
    assert "--force" in refused.stderr


def test_a_changed_export_is_two_clear_lines(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    privnb("export", folder, out)
    out.write_text(out.read_text().replace("grant", "grand"))
    result = privnb("verify", out, "--checkpoint", tmp_path / "out.checkpoint")
    assert result.exit_code == 1
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"Error: [E_AUDIT] {out}: The first 3 lines are not the events")
    assert hint.startswith("Hint: Do not rely on it")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{out}",), "checked against a signed checkpoint"),
        (("{out}", "--checkpoint", "{out}"), "not three lines"),
        (("{out}", "--checkpoint", "nowhere"), "nowhere cannot be read"),
        (("nowhere", "--checkpoint", "{note}"), "nowhere cannot be read"),
        (("{out}", "--checkpoint", "{note}", "--key", "x"), "no verifier key"),
    ],
)
def test_a_wrong_question_about_a_file_is_an_error(folder, tmp_path, words, said):
    out, note = tmp_path / "out.jsonl", tmp_path / "out.checkpoint"
    privnb("export", folder, out)
    result = privnb("verify", *(word.format(out=out, note=note) for word in words))
    assert result.exit_code == 1
    assert said in result.stderr


def test_verify_of_a_folder_checks_the_tree_and_what_went_out(folder, tmp_path):
    privnb("export", folder, tmp_path / "early.jsonl")
    answer(folder)
    result = privnb("verify", folder, "--checkpoint", tmp_path / "early.checkpoint")
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == f"{folder}: 4 events, whose tree is whole."
    assert "agrees with 1 checkpoints in answers that went out and 1 that were given" in (
        result.output
    )
    key = privnb("key", folder).stdout.strip()
    assert privnb("verify", folder, "--key", key).exit_code == 0
    other = key.replace("northside", "southside")
    assert privnb("verify", folder, "--key", other).exit_code == 1


def answer(folder):
    """Have the site send an answer with a receipt."""
    log = open_audit(load_config(folder))

    def release(transaction):
        index = record_event(transaction, "release", private={"analyst": ANA}, output="1" * 64)
        reply = Reply(
            request="a" * 32, digest="d" * 64, receipt=log.receipt(transaction, index, held=(1,))
        )
        transaction.execute(
            sa.insert(tables.requests).values(
                at="", sender=ANA, name="a" * 32, action="run", state="answered", agent="x",
                attempts=1, reply=wire.encode(reply), succeeded=True, owed=False,
            )
        )  # fmt: skip

    with_database(folder, release)


def test_verify_of_a_folder_finds_a_log_shortened_since_an_answer(folder):
    answer(folder)

    def shorten(transaction):
        for trigger in ("events_keep_rows", "audit_nodes_keep_rows"):
            transaction.exec_driver_sql(f"DROP TRIGGER {trigger}")
        transaction.exec_driver_sql("DELETE FROM events WHERE seq > 2")
        transaction.exec_driver_sql("DELETE FROM audit_openings WHERE event > 2")
        transaction.exec_driver_sql("DELETE FROM audit_nodes WHERE (position + 1) << level > 2")

    with_database(folder, shorten)
    result = privnb("verify", folder)
    assert result.exit_code == 1
    assert "it has 2 events, and had 4 when a checkpoint was signed" in result.stderr


def test_verify_of_a_folder_finds_an_event_that_was_changed(folder):
    def change(transaction):
        transaction.exec_driver_sql("DROP TRIGGER events_keep_bodies")
        transaction.exec_driver_sql("UPDATE events SET body = replace(body, 'deny', 'dený')")

    with_database(folder, change)
    result = privnb("verify", folder)
    assert result.exit_code == 1
    assert "event 1: changed since the tree was made" in result.stderr


def test_a_folder_that_is_no_site_is_an_error_with_a_hint(tmp_path):
    for command in (("show",), ("export", tmp_path / "x.jsonl"), ("key",), ("erase", ANA)):
        result = privnb(command[0], tmp_path / "nowhere", *command[1:])
        assert result.exit_code == 1
        assert "Hint: Make a site with: privnb site init" in result.stderr


def test_an_export_that_cannot_be_written_leaves_nothing(folder, tmp_path):
    result = privnb("export", folder, tmp_path / "nowhere" / "out.jsonl")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    result = privnb("export", folder, tmp_path / "out.checkpoint")
    assert result.exit_code == 1
    assert "Name it OUT.jsonl" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north"]


def test_the_reply_that_holds_a_receipt_is_as_it_travels(folder):
    answer(folder)
    database = Database.open(database_path(load_config(folder)))
    with database.read() as snapshot:
        data = snapshot.execute(sa.select(tables.requests.c.reply)).scalar_one()
    database.close()
    receipt = wire.decode(Reply, data, what="the reply").receipt
    assert dataclasses.asdict(receipt)["openings"]["analyst"]["value"] == ANA
