"""What an owner types to answer asks, and reads."""

from __future__ import annotations

import pytest
from consent_site import SITE, write_site
from typer.testing import CliRunner

from privnb.cli import app
from privnb.messages import AccessAsk
from privnb.site import access
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.grants import all_grants
from privnb.site.opening import database_path

ANA = "ana@uni.example"


@pytest.fixture
def folder(tmp_path):
    return write_site(tmp_path / "site")


def privnb(*words):
    return CliRunner().invoke(app, ["consent", *map(str, words)])


def open_database(folder):
    return Database.open(database_path(load_config(folder)))


def ask(folder, *, analyst=ANA, purpose="research", epsilon="2", reason="My thesis."):
    """Ask, as the agent does for an analyst; return the ask's number."""
    wish = AccessAsk(table="visits", purpose=purpose, reason=reason, epsilon=epsilon)
    database = open_database(folder)
    try:
        with database.write() as transaction:
            access.ask(transaction, site=load_config(folder), analyst=analyst, ask=wish)
            return access.pending(transaction)[-1].number
    finally:
        database.close()


def granted(folder):
    database = open_database(folder)
    try:
        with database.read() as snapshot:
            return [
                (each.purpose, str(each.epsilon), each.withdrawn) for each in all_grants(snapshot)
            ]
    finally:
        database.close()


def test_list_shows_who_waits_for_what_and_why(folder):
    number = ask(folder)
    text = privnb("list", folder).output
    assert "Waiting for you" in text
    (line,) = [line for line in text.splitlines() if ANA in line]
    assert line.split()[:5] == [str(number), ANA, "visits", "research", "2"]
    assert line.endswith("My thesis.")


def test_an_analysts_words_cannot_steer_the_terminal(folder):
    ask(folder, reason="[bold]fine[/] \x1b[2J\u202eevil\n2  owner  all granted")
    output = privnb("list", folder).output
    assert "[bold]fine[/]" in output
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert sum("granted" in line for line in output.splitlines()) == 1


def test_a_number_accepts_what_was_asked_or_less(folder):
    text = privnb("accept", folder, ask(folder)).output
    assert text == f"{ANA} may use table 'visits' for 'research' up to epsilon 2.\n"
    number = ask(folder, purpose="teaching")
    text = privnb("accept", folder, number, "--epsilon", "0.5", "--until", "2999-01-01").output
    assert text.endswith("up to epsilon 0.5 until 2999-01-01.\n")
    assert granted(folder) == [("research", "2", False), ("teaching", "0.5", False)]
    assert "Nobody waits" in privnb("list", folder).output


def test_an_address_needs_an_epsilon_for_the_ask_may_have_been_replaced(folder):
    ask(folder)
    refused = privnb("accept", folder, ANA, "--table", "visits", "--purpose", "research")
    assert refused.exit_code == 1
    assert "they asked for 2" in refused.output
    assert granted(folder) == []
    assert privnb("accept", folder, ANA, "--epsilon", "1").exit_code == 0
    assert granted(folder) == [("research", "1", False)]


def test_an_ask_without_an_epsilon_leaves_it_to_the_owner(folder):
    number = ask(folder, epsilon=None)
    assert "Say how much" in privnb("accept", folder, number).output
    assert privnb("accept", folder, number, "--epsilon", "1").exit_code == 0


def test_several_asks_of_one_analyst_are_told_apart(folder):
    ask(folder)
    number = ask(folder, purpose="teaching")
    unclear = privnb("refuse", folder, ANA, "--reason", "No.")
    assert unclear.exit_code == 1
    assert f"{number}: visits for teaching" in unclear.output
    done = privnb("refuse", folder, ANA, "--purpose", "teaching", "--reason", "No.")
    assert done.output == f"Refused: {ANA}, table 'visits' for 'teaching'.\n"
    assert "teaching" not in privnb("list", folder).output


def test_a_refusal_has_a_reason(folder):
    number = ask(folder)
    assert privnb("refuse", folder, number).exit_code != 0
    assert "The reason is empty" in privnb("refuse", folder, number, "--reason", " ").output


def test_nobody_who_did_not_ask_is_accepted(folder):
    ask(folder)
    missing = privnb("accept", folder, "bo@uni.example", "--epsilon", "1")
    assert missing.exit_code == 1
    assert ANA in missing.output
    assert granted(folder) == []


def test_a_grant_is_withdrawn_and_listed_so(folder):
    privnb("accept", folder, ask(folder))
    words = ("--table", "visits", "--purpose", "research")
    assert privnb("withdraw", folder, ANA, *words).output == (
        f"{ANA} may no longer use table 'visits' for 'research'.\n"
    )
    assert granted(folder) == [("research", "2", True)]
    (line,) = [line for line in privnb("list", folder).output.splitlines() if ANA in line]
    assert "withdrawn" in line
    assert privnb("withdraw", folder, ANA, *words).exit_code == 1


def test_a_grant_above_the_tables_total_is_warned_of(folder):
    text = privnb("accept", folder, ask(folder), "--epsilon", "11").output
    assert "Warning: all analysts together have only epsilon 10 (visits)." in text


def test_asks_for_a_table_that_is_gone_can_still_be_answered(folder):
    number = ask(folder)
    (folder / "site.toml").write_text(SITE.partition("[purposes")[0])
    assert privnb("refuse", folder, number, "--reason", "The table is gone.").exit_code == 0
