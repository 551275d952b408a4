"""What an owner types, and reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from privnb.cli import app
from privnb.site import ledger
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.grants import all_grants
from privnb.site.opening import database_path

ANA = "ana@uni.example"
CONFIG = """
name = "northside"
owner = "owner@northside.example"
exchange = "exchange"

[tables.visits]
source = "visits.csv"
privacy_unit = "person"
max_rows_per_unit = 1
delta = 1e-6
total_epsilon = 5
purposes = ["research", "quality"]

[tables.visits.columns.person]
type = "integer"

[tables.visits.columns.cost]
type = "integer"
bounds = [0, 100]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "site.toml").write_text(CONFIG)
    rows = "\n".join(f"{number},{number % 100}" for number in range(500))
    (tmp_path / "visits.csv").write_text(f"person,cost\n{rows}\n")
    (tmp_path / "exchange").mkdir()
    return tmp_path


def privnb(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def grant(folder, *words, table="visits", purpose="research"):
    return privnb("site", "grant", folder, ANA, "--table", table, "--purpose", purpose, *words)


def grants(folder):
    database = Database.open(database_path(load_config(folder)))
    with database.read() as snapshot:
        found = all_grants(snapshot)
    database.close()
    return found


def test_help_names_the_owners_commands():
    text = privnb("site", "--help").output
    for command in (
        "init",
        "check",
        "serve",
        "identity",
        "partner",
        "peers",
        "accept",
        "grant",
        "budget",
    ):
        assert command in text


def test_a_grant_is_recorded_and_shown(folder):
    given = grant(folder, "--epsilon", "4", "--until", "2999-06-30")
    assert given.exit_code == 0
    assert given.output == (
        f"{ANA} may use table 'visits' for 'research' up to epsilon 4 until 2999-06-30.\n"
    )
    (found,) = grants(folder)
    assert found.epsilon == Decimal(4)
    shown = privnb("site", "budget", folder).output
    row = next(line for line in shown.splitlines() if line.startswith(ANA))
    assert row.split() == [ANA, "visits", "research", "4", "0", "4", "2999-06-30"]


def test_a_withdrawn_grant_is_shown_as_withdrawn(folder):
    grant(folder, "--epsilon", "4")
    taken = grant(folder, "--withdraw")
    assert taken.output == f"{ANA} may no longer use table 'visits' for 'research'.\n"
    assert "withdrawn" in privnb("site", "budget", folder).output
    again = grant(folder, "--withdraw")
    assert again.exit_code == 1
    assert "has no grant" in again.stderr


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        ({"table": "visit", "words": ("--epsilon", "1")}, "no table 'visit'", "'visits'"),
        ({"purpose": "marketing", "words": ("--epsilon", "1")}, "'marketing'", "quality, research"),
        ({"words": ()}, "needs an epsilon", "--epsilon 4"),
        ({"words": ("--epsilon", "lots")}, "not 'lots'", "--epsilon 4"),
        ({"words": ("--epsilon", "-1")}, "not '-1'", "--epsilon 4"),
        ({"words": ("--epsilon", "1", "--until", "soon")}, "not a date", "2027-06-30"),
        ({"words": ("--epsilon", "1", "--until", "2001-01-01")}, "is over", "still to come"),
    ],
)
def test_a_wrong_grant_is_two_clear_lines_and_no_grant(folder, words, problem, hint):
    words = dict(words)
    result = grant(folder, *words.pop("words"), **words)
    assert result.exit_code == 1
    error, remedy = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert problem in error
    assert remedy.startswith("Hint: ")
    assert hint in remedy
    assert list(grants(folder)) == []


def test_a_folder_that_is_no_site_is_an_error_with_a_hint(tmp_path):
    result = privnb("site", "budget", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "Hint: Make a site with: privnb site init" in result.stderr


def test_the_budget_shows_what_was_spent_per_grant_and_per_table(folder):
    grant(folder, "--epsilon", "4")
    config = load_config(folder)
    terms = ledger.terms_of(config)["visits"]
    database = Database.open(database_path(config))
    entry = ledger.Charge(
        table="visits", analyst=ANA, purpose="research", request="a" * 32, digest="d" * 64,
        accounting="zcdp", loss=terms.loss_cap // 4, delta=10**10, epsilon="2",
    )  # fmt: skip
    with database.write() as transaction:
        today = ledger.dt.date(2027, 1, 1)
        after = ledger.reserve(transaction, entry, terms, today=today)
    database.close()
    shown = privnb("site", "budget", folder, "--history").output
    assert f"{after.epsilon_spent:f}" in shown
    assert ledger.in_words(after.epsilon_left) in shown
    assert ledger.in_words(after.table.epsilon_left) in shown
    assert "1e-08" in shown
    assert "zcdp" in shown
    assert f"reserved  {'a' * 32}" in shown


def test_peers_shows_the_own_fingerprint_and_that_nobody_asked(folder):
    shown = privnb("site", "peers", folder).output
    assert "fingerprint: " in shown
    assert "Nobody has asked yet." in shown


def test_nobody_is_accepted_who_has_not_asked(folder):
    result = privnb("site", "accept", folder, ANA)
    assert result.exit_code == 1
    assert "E_NOT_A_PEER" in result.stderr


def test_a_served_site_says_it_is_ready_and_ends_cleanly_on_sigterm(folder):
    agent = subprocess.Popen(
        [sys.executable, "-m", "privnb", "site", "serve", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    try:
        lines = []
        for line in agent.stderr:
            lines.append(line)
            if " ready: " in line:
                break
        assert lines, "the agent said nothing"
        assert " ready: " in lines[-1]
        agent.send_signal(signal.SIGTERM)
        _, rest = agent.communicate(timeout=60)
    finally:
        agent.kill()
        agent.wait()
    assert agent.returncode == 0
    assert " ended: " in rest.splitlines()[-1]
    assert list((folder / "state" / "agents").glob("*.lock")) == []
    assert (folder / "state" / "site.sqlite").stat().st_mode & 0o777 == 0o600
    assert (folder / "state").stat().st_mode & 0o777 == 0o700
