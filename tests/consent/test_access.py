"""Asking for access: from the analyst's words to the owner's answer, and where it stands."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from decimal import Decimal
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.errors import AccessRefused, QueryRefused, RequestRefused, UnknownName
from privnb.messages import AccessAsk
from privnb.site import access
from privnb.site import database as store
from privnb.site.database import Database
from privnb.site.grants import Grant, all_grants, record_grant, still_granted

ANA, BO = "ana@uni.example", "bo@uni.example"
TODAY = dt.date(2026, 7, 1)
PURPOSES = tuple(f"purpose-{letter}" for letter in "abcdefgh")
SITE = SimpleNamespace(
    tables=(
        SimpleNamespace(
            schema=TableSchema(
                name="visits",
                columns=(
                    Column(name="person", type="integer"),
                    Column(name="cost", type="integer", bounds=Bounds(lower=0, upper=9)),
                ),
                privacy_unit="person",
                max_rows_per_unit=1,
                delta=1e-6,
                purposes=PURPOSES,
            )
        ),
    )
)


@pytest.fixture
def database(tmp_path):
    database = Database.open(tmp_path / "site.sqlite")
    yield database
    database.close()


def wish(**fields):
    return AccessAsk(
        **{"table": "visits", "purpose": "purpose-a", "reason": "My thesis.", **fields}
    )


def ask(database, *, analyst=ANA, **fields):
    with database.write() as transaction:
        return access.ask(transaction, site=SITE, analyst=analyst, ask=wish(**fields))


def waiting(database, **fields):
    with database.read() as snapshot:
        return access.pending(snapshot, **fields)


def standing(database, *, analyst=ANA, today=TODAY):
    with database.read() as snapshot:
        return access.entries(snapshot, analyst=analyst, today=today)


def grant(database, **fields):
    given = Grant(
        **{
            "analyst": ANA,
            "table": "visits",
            "purpose": "purpose-a",
            "epsilon": Decimal(4),
            **fields,
        }
    )
    with database.write() as transaction:
        record_grant(transaction, given)


def accept(database, asked, *, epsilon=1, until=None):
    with database.write() as transaction:
        access.accept(transaction, asked, epsilon=Decimal(epsilon), until=until)


def refuse(database, asked, reason="Not for this."):
    with database.write() as transaction:
        access.refuse(transaction, asked, reason=reason)


def states(database, **fields):
    return [(entry.state, entry.reason) for entry in standing(database, **fields)]


def test_an_ask_waits_until_it_is_accepted(database):
    entry = ask(database, epsilon="2")
    assert (entry.state, entry.reason) == ("pending", "My thesis.")
    assert standing(database) == (entry,)
    (asked,) = waiting(database)
    assert (asked.analyst, asked.epsilon, asked.reason) == (ANA, Decimal(2), "My thesis.")
    last = dt.date(2027, 1, 1)
    accept(database, asked, epsilon="0.5", until=last)  # less than was asked
    assert waiting(database) == ()
    (entry,) = standing(database)
    assert (entry.state, entry.until) == ("granted", "2027-01-01")
    with database.read() as snapshot:
        (given,) = all_grants(snapshot)
    assert (given.epsilon, given.until) == (Decimal("0.5"), last)


def test_a_refusal_tells_its_reason_and_one_may_ask_again(database):
    ask(database)
    (asked,) = waiting(database)
    refuse(database, asked)
    assert states(database) == [("refused", "Not for this.")]
    ask(database, reason="For the ethics board's project 12.")
    assert states(database) == [("pending", "For the ethics board's project 12.")]


def test_asking_again_replaces_what_waits_under_another_number(database):
    """An owner who accepts a number accepts what they saw, not what replaced it meanwhile."""
    ask(database, epsilon="1")
    (seen,) = waiting(database)
    ask(database, epsilon="20", reason="Much more.")
    (now,) = waiting(database)
    assert now.number != seen.number
    for answer in (accept, refuse):
        with pytest.raises(UnknownName, match="does not wait"):
            answer(database, seen)
    assert [each.epsilon for each in waiting(database)] == [Decimal(20)]


def test_an_ask_is_answered_once(database):
    ask(database)
    (asked,) = waiting(database)
    refuse(database, asked)
    with pytest.raises(UnknownName):
        accept(database, asked)
    assert states(database) == [("refused", "Not for this.")]


def test_a_grant_from_anywhere_answers_the_ask(database):
    ask(database)
    ask(database, analyst=BO)
    grant(database)
    assert [each.analyst for each in waiting(database)] == [BO]
    assert states(database) == [("granted", "")]
    assert states(database, analyst=BO) == [("pending", "My thesis.")]


def test_only_a_few_asks_of_one_analyst_wait_at_a_time(database):
    for purpose in PURPOSES[:5]:
        ask(database, purpose=purpose)
    with pytest.raises(RequestRefused, match="5 of your asks wait") as caught:
        ask(database, purpose=PURPOSES[5])
    assert "visits for purpose-a" in caught.value.hint
    ask(database, purpose=PURPOSES[0], reason="Again.")  # replaces one
    ask(database, purpose=PURPOSES[5], analyst=BO)
    assert len(waiting(database, analyst=ANA)) == 5


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"table": "visit"}, UnknownName, "Did you mean 'visits'?"),
        ({"purpose": "marketing"}, AccessRefused, "Allowed purposes: purpose-a"),
        ({"purpose": ""}, AccessRefused, "Allowed purposes: purpose-a"),
        ({"reason": "  \n"}, RequestRefused, "--reason"),
        ({"reason": "x" * 1001}, RequestRefused, "--reason"),
        ({"epsilon": "1e9"}, QueryRefused, "epsilon"),
        ({"epsilon": "-1"}, QueryRefused, "epsilon"),
    ],
)
def test_what_the_site_does_not_have_is_refused_with_what_there_is(database, fields, error, told):
    with pytest.raises(error) as caught:
        ask(database, **fields)
    assert told in caught.value.hint
    assert waiting(database) == ()
    assert standing(database) == ()


def test_a_refused_replacement_leaves_the_ask_that_waits(database):
    ask(database)
    with pytest.raises(QueryRefused):
        ask(database, epsilon="much")
    assert [each.reason for each in waiting(database)] == ["My thesis."]


def test_a_grant_in_force_stays_granted_whatever_is_asked_since(database):
    grant(database, until=TODAY)
    ask(database, reason="I need more.")
    assert states(database) == [("granted", "A change is pending: I need more.")]
    (asked,) = waiting(database)
    refuse(database, asked, "It is enough.")
    assert states(database) == [("granted", "A change was refused: It is enough.")]


@pytest.mark.parametrize(
    ("last", "state"), [(dt.date(2000, 1, 1), "refused"), (dt.date(2999, 1, 1), "expired")]
)
def test_of_a_refusal_and_an_expiry_the_newest_counts(database, last, state):
    """The refusal is of today, whenever the test runs; the grant ended long ago, or will."""
    grant(database, until=last)
    ask(database)
    refuse(database, *waiting(database))
    assert standing(database, today=last + dt.timedelta(days=1))[0].state == state


def test_expiry_and_withdrawal_end_a_grant(database):
    grant(database, until=TODAY)
    (entry,) = standing(database, today=TODAY + dt.timedelta(days=1))
    assert (entry.state, entry.since, entry.until) == (
        *("expired", "2026-07-02T00:00:00Z", "2026-07-01"),
    )
    grant(database, withdrawn=True)
    assert states(database) == [("withdrawn", "")]
    ask(database)
    assert states(database) == [("pending", "My thesis.")]


def test_a_withdrawal_leaves_an_ask_waiting(database):
    grant(database)
    ask(database)
    grant(database, withdrawn=True)
    assert len(waiting(database)) == 1
    assert states(database) == [("pending", "My thesis.")]


def test_a_withdrawal_counts_at_once(database):
    key = {"analyst": ANA, "table": "visits", "purpose": "purpose-a", "today": TODAY}
    grant(database)
    with database.read() as snapshot:
        assert still_granted(snapshot, **key) is None
    grant(database, withdrawn=True)
    with database.read() as snapshot:
        problem = still_granted(snapshot, **key)
    assert problem is not None
    assert problem.message == (
        "You have no grant any more for table 'visits' and purpose 'purpose-a'."
    )


def test_entries_are_the_analysts_own_one_for_each_table_and_purpose(database):
    ask(database, purpose="purpose-b")
    grant(database, purpose="purpose-a")
    grant(database, analyst=BO, purpose="purpose-c")
    assert [(entry.purpose, entry.state) for entry in standing(database)] == [
        ("purpose-a", "granted"),
        ("purpose-b", "pending"),
    ]


def test_everything_is_an_event_that_names_people_and_their_words_by_commitments_only(database):
    ask(database, reason="My mother is ill.")
    (asked,) = waiting(database)
    refuse(database, asked, "Ask your doctor.")
    ask(database)
    (asked,) = waiting(database)
    accept(database, asked)
    with database.read() as snapshot:
        bodies = snapshot.execute(sa.select(store.events.c.body)).scalars().all()
    kinds = ["access-ask", "access-refusal", "access-ask", "grant"]
    assert [json.loads(body)["kind"] for body in bodies] == kinds
    for body in bodies:
        assert "visits" in body
        for word in (ANA, "mother", "doctor", "thesis"):
            assert word not in body


def test_any_text_may_be_a_reason_and_is_kept_as_one(database):
    reason = "Zürich 🧪 \x1b[2J [bold] \ud800 \u202e"
    ask(database, reason=reason)
    (asked,) = waiting(database)
    assert asked.reason == reason.replace("\ud800", "?")


ASK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_access import SITE, wish
from privnb.site import access
from privnb.site.database import Database
database = Database.open(Path(sys.argv[1]))
for number in range(10):
    with database.write() as transaction:
        access.ask(
            transaction, site=SITE, analyst=sys.argv[3], ask=wish(reason=f"{sys.argv[3]} {number}")
        )
"""


def test_agents_and_owners_in_separate_processes_agree(tmp_path):
    """Two agents take asks in while the owner answers whatever is there: nothing is lost."""
    path = tmp_path / "site.sqlite"
    database = Database.open(path)
    here = str(__file__).rpartition("/")[0]
    agents = [
        subprocess.Popen([sys.executable, "-c", ASK, str(path), here, analyst])
        for analyst in (ANA, BO)
    ]
    answered = 0
    while any(agent.poll() is None for agent in agents):
        for asked in waiting(database):
            try:
                refuse(database, asked)
            except UnknownName:
                continue  # replaced between looking and answering
            answered += 1
    assert [agent.returncode for agent in agents] == [0, 0]
    for asked in waiting(database):
        assert asked.reason.endswith(" 9")  # only the last one can still wait
        accept(database, asked)
        answered += 1
    for analyst in (ANA, BO):
        assert states(database, analyst=analyst)[0][0] in ("granted", "refused")
    with database.read() as snapshot:
        bodies = snapshot.execute(sa.select(store.events.c.body)).scalars().all()
        kinds = [json.loads(body)["kind"] for body in bodies]
    assert kinds.count("access-ask") == 20
    assert kinds.count("access-refusal") + kinds.count("grant") == answered >= 2
    database.close()
