"""What a reviewer has before their eyes, and what they can do from there."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
import sqlalchemy as sa
from review_site import ALICE, ANA, BOB, OUTPUT, SOURCE, table_output

from privnb import wire
from privnb.errors import ConfigError, RequestRefused, StateError, UnknownName
from privnb.owner import open_desk
from privnb.site import database as tables
from privnb.site.grants import Grant, record_grant
from privnb.site.reviewing import review


@pytest.fixture
def now(site, monkeypatch):
    """Requests of these tests are new: the desk goes by the real clock."""
    import review_site

    moment = dt.datetime.now(dt.UTC)
    monkeypatch.setattr(review_site, "NOW", moment)
    return moment


@pytest.fixture
def desk(site, now):
    desk = open_desk(site.folder, ALICE)
    yield desk
    desk.close()


@pytest.fixture
def bob(site, now):
    desk = open_desk(site.folder, BOB)
    yield desk
    desk.close()


def approve(site, name, *, now, stage="code"):
    for who in (ALICE, BOB):
        site.decide(who, name, stage=stage, now=now)


def test_what_waits_is_listed_oldest_first_and_what_is_past_apart(site, desk, now):
    first, second = site.ask("1"), site.ask("2")
    held, past = site.held(source="3"), site.ask("4", state="answered")
    assert [item.request for item in desk.items()] == [first, second, held]
    assert [item.stage for item in desk.items()] == ["code", "code", "output"]
    assert [(item.request, item.stage) for item in desk.past()] == [(past, None)]


def test_the_list_has_no_outputs_in_it(site, desk):
    site.held()
    assert desk.items()[0].output is None


def test_the_list_reads_no_code(site, desk, monkeypatch):
    def scanned(*_, **__):
        raise AssertionError

    name = site.ask("eval('x')")
    monkeypatch.setattr("privnb.site.reviewing.desk.scan", scanned)
    assert [item.source for item in desk.items()] == ["eval('x')"]
    with pytest.raises(AssertionError):
        desk.item(name)


def test_a_request_is_shown_with_all_that_was_found_out(site, desk):
    name = site.ask(parameters={"age": 40}, output="table")
    mock = review.MockRun(output=OUTPUT)
    with site.database.write() as transaction:
        review.keep_mock(transaction, analyst=ANA, request=name, run=mock)
    item = desk.item(name)
    assert (item.analyst, item.purpose, item.tables) == (ANA, "research", ("visits",))
    assert (item.source, item.parameters, item.output_name) == (SOURCE, {"age": 40}, "table")
    assert item.findings == ("line 1: cannot tell where table gets its value",)
    assert (item.mock_output, item.mock_problem) == (OUTPUT, "")
    assert (item.needed, item.approvals, len(item.reviewers)) == (2, (), 3)
    assert item.rule == "review of code and output"
    assert item.seen == item.digest


def test_what_is_not_known_yet_is_said_to_be_so(site, desk):
    item = desk.item(site.ask())
    assert item.mock_problem == "The cell has not been run on the mock twin yet."
    assert (item.difference_to, item.denied_to, item.history) == ("", "", ())
    assert item.budget == "visits: no grant for research"


def test_an_output_in_review_is_there_to_look_at(site, desk):
    name = site.held(gate=("Rows with fewer than 10 people.",))
    item = desk.item(name)
    assert (item.output, item.gate) == (OUTPUT, ("Rows with fewer than 10 people.",))
    assert item.seen == item.output_digest == wire.sha256_hex(wire.encode(OUTPUT))


def test_an_output_is_there_only_while_it_is_to_be_decided_on(site, desk, now):
    name = site.held()
    approve(site, name, now=now, stage="output")
    item = desk.item(name)
    assert (item.state, item.output) == ("cleared", None)
    assert item.approvals == (ALICE, BOB)


def test_code_is_compared_with_the_most_similar_that_was_approved(site, desk, now):
    base = "a = visits.mdvis\nb = a.mean()\nc = b * 2\nc\n"
    far = site.ask("import numpy\nnumpy.pi\n")
    near = site.ask(base)
    never = site.ask(base.replace("2", "3"))
    for name in (far, near):
        approve(site, name, now=now)
    denied = site.ask(base.replace("2", "5"))
    site.decide(ALICE, denied, "deny", reason="no", now=now)
    item = desk.item(site.ask(base.replace("2", "4")))
    assert item.difference_to == near != never
    assert "-c = b * 2\n+c = b * 4" in item.difference
    assert item.denied_to == denied
    assert "-c = b * 5\n+c = b * 4" in item.denied_difference


def test_budget_and_history_of_the_analyst_are_told(site, desk, now):
    with site.database.write() as transaction:
        record_grant(
            transaction,
            Grant(
                analyst=ANA,
                table="visits",
                purpose="research",
                epsilon=Decimal(4),
                until=dt.date(2099, 6, 30),
            ),
        )
        transaction.execute(
            sa.insert(tables.ledger).values(
                at="2027-01-02T00:00:00Z",
                table_name="visits",
                analyst=ANA,
                purpose="research",
                request="ee" * 16,
                digest="d" * 64,
                accounting="zcdp",
                loss=10**12,
                delta=0,
                epsilon="0.5",
                state="spent",
            )
        )
    denied = site.ask("1")
    site.decide(ALICE, denied, "deny", reason="Say why.", now=now)
    item = desk.item(site.ask("2"))
    assert item.budget.startswith("visits: epsilon ")
    assert item.budget.endswith(" of 4 spent for research until 2099-06-30")
    told = "\n".join(item.history)
    assert f"{denied[:8]}, Python, research: refused (denied by {ALICE}): Say why." in told
    assert "2027-01-02  eeeeeeee, SQL on visits, research: epsilon 0.5" in told


def test_two_desks_bring_a_request_through(site, desk, bob, now):
    name = site.ask()
    assert desk.approve(name[:6]).state == "waiting"
    assert bob.approve(name[:6], "Fine.", seen=bob.item(name).seen).state == "approved"
    site.hold(name)
    assert desk.release(name).state == "held"
    assert bob.withhold(name, "A row of three people.").state == "denied"
    assert site.told(name).reason == "A row of three people."


def test_a_denial_from_the_desk(site, desk):
    name = site.ask()
    assert desk.deny(name, "no").state == "denied"
    assert site.state(name) == "denied"


def test_who_may_decide_is_asked_when_it_is_decided(site, desk):
    name = site.ask()
    site.write_config(reviewers={BOB: site.keys[BOB].public}, needed=1)
    with pytest.raises(RequestRefused, match="not a reviewer"):
        desk.approve(name)


def test_without_a_key_one_can_look_but_not_decide(site, now, monkeypatch, tmp_path):
    monkeypatch.setenv("PRIVNB_HOME", str(tmp_path / "nobody"))
    desk = open_desk(str(site.folder))
    name = site.ask()
    assert desk.reviewer is None
    assert desk.item(name).source == SOURCE
    with pytest.raises(RequestRefused, match="no reviewer's key") as refused:
        desk.approve(name)
    assert "privnb review key" in refused.value.hint
    desk.close()


def test_the_beginning_of_an_id_is_enough_where_it_is_one_request(site, desk):
    one, other = site.ask(name="ab" * 16), site.ask(name="ab" * 15 + "ff")
    assert desk.item("ab" * 15 + "f").request == other
    assert desk.item(one).request == one
    with pytest.raises(UnknownName, match="Several requests begin with 'abab'"):
        desk.item("abab")
    for nothing in ("", "%", "_", "cd", "a" * 100, "\x1b[31m"):
        with pytest.raises(UnknownName, match="no request"):
            desk.item(nothing)


def test_two_analysts_with_the_same_id_are_told_apart(site, desk):
    site.ask(name="ab" * 16)
    site.ask(name="ab" * 16, analyst="ben@uni.example")
    with pytest.raises(UnknownName, match="Several") as error:
        desk.approve("ab" * 16)
    assert f"ben@uni.example/{'ab' * 16}" in error.value.hint
    assert desk.item("ben@uni.example/abab").analyst == "ben@uni.example"


def test_a_request_that_somebody_changed_hides_no_other_and_cannot_be_approved(site, desk):
    bad, good = site.ask(), site.ask()
    site.tamper("UPDATE reviews SET computation = :c WHERE request = :r", c=b"{", r=bad)
    assert [item.request for item in desk.items()] == [bad, good]
    assert "somebody changed" in desk.item(bad).findings[0]
    with pytest.raises(StateError, match="not what came in"):
        desk.approve(bad)


def test_an_output_that_somebody_changed_is_not_shown(site, desk):
    name = site.held()
    other = wire.encode(table_output((1, 1.0)))
    site.tamper("UPDATE reviews SET output = :o", o=other)
    assert desk.item(name).output is None
    with pytest.raises(StateError, match="not what came in"):
        desk.release(name)


def test_a_site_without_reviews_has_no_desk(site):
    text = (site.folder / "site.toml").read_text()
    (site.folder / "site.toml").write_text(text.partition("[review]")[0])
    with pytest.raises(ConfigError, match=r"no \[review\]"):
        open_desk(site.folder)
