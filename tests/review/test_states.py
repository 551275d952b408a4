"""What the analyst is told of a request, and what is stored of it for reviewers."""

from __future__ import annotations

import datetime as dt

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from review_site import ALICE, ANA, BOB, CAROL, NOW

from privnb import wire
from privnb.computation import Computation
from privnb.messages import Problem, Reply
from privnb.site import database as tables
from privnb.site.reviewing import review

LATER = NOW + dt.timedelta(days=14)


def test_while_it_waits_it_is_told_who_decided_and_who_can(site):
    name = site.ask()
    assert site.told(name).deciders == (
        f"0 of 2 approvals; still to decide: {ALICE}, {BOB}, {CAROL}"
    )
    site.decide(ALICE, name)
    told = site.told(name)
    assert told.state == "waiting for review"
    assert told.deciders == f"1 of 2 approvals ({ALICE}); still to decide: {BOB}, {CAROL}"
    assert (told.since, told.until) == ("2027-01-15T12:00:00Z", "2027-01-29T12:00:00Z")


def test_an_analyst_who_is_a_reviewer_is_not_among_those_to_decide(site):
    name = site.ask(analyst=BOB)
    assert site.told(name, analyst=BOB).deciders.endswith(f"still to decide: {ALICE}, {CAROL}")


def test_a_denial_is_told_with_its_reason(site):
    name = site.ask()
    site.decide(BOB, name, "deny", reason="Group ages by ten years.")
    told = site.told(name)
    assert (told.state, told.deciders, told.until) == ("refused", f"denied by {BOB}", None)
    assert told.reason == "Group ages by ten years."


def test_an_output_in_review_and_its_release_are_told(site):
    name = site.ask()
    site.decide(ALICE, name)
    site.decide(BOB, name)
    assert site.told(name).state == "approved"
    site.hold(name)
    assert site.told(name).state == "output in review"
    assert site.told(name).deciders.startswith("0 of 2 approvals; still to decide: ")
    for who in (BOB, CAROL):
        site.decide(who, name, stage="output")
    site.tamper("UPDATE requests SET state = 'answered'")
    with site.database.write() as transaction:
        review.drop_output(transaction, analyst=ANA, request=name)
    told = site.told(name)
    assert told.state == "released"
    assert told.deciders == f"code approved by {ALICE}, {BOB}; output approved by {BOB}, {CAROL}"


def test_what_a_rule_let_pass_is_told_as_such(site):
    assert site.told(site.ask(state="answered")).deciders == "review of code and output"


def test_forged_approvals_are_not_told(site):
    name = site.ask()
    site.decide(ALICE, name)
    site.tamper("UPDATE decisions SET signature = :s", s=b"x" * 64)
    assert site.told(name).deciders.startswith("0 of 2")


def test_other_peoples_requests_are_unknown(site):
    name = site.ask()
    assert site.told(name, analyst="ben@uni.example").state == "unknown"
    assert site.told("ab" * 16).state == "unknown"


def test_states_come_in_the_order_asked(site):
    names = [site.ask() for _ in range(3)]
    asked = [names[2], "ff" * 16, names[0], names[2]]
    with site.database.read() as snapshot:
        told = review.states(snapshot, site=site.config, analyst=ANA, requests=asked)
    assert [each.request for each in told] == asked


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ("answered", "released"),
        ("reserved", "running"),
        ("refused", "refused"),
        ("served", "unknown"),
    ],
)
def test_a_query_is_told_about_too(site, stored, told):
    problem = Problem(code="E_BUDGET", message="Too much.", hint="Ask for less.")
    reply = wire.encode(Reply(request="cd" * 16, digest=None, problem=problem))
    with site.database.write() as transaction:
        transaction.execute(
            sa.insert(tables.requests).values(
                at="2027-01-15T12:00:00Z",
                sender=ANA,
                name="cd" * 16,
                action="run",
                state=stored,
                agent="",
                attempts=1,
                reply=reply,
                succeeded=False,
                owed=False,
            )
        )
    state = site.told("cd" * 16)
    assert state.state == told
    assert state.reason == ("Too much." if told == "refused" else "")


@given(hours=st.integers(-(10**6), 10**6))
def test_whatever_the_clock_says_nothing_is_approved_by_it(hours):
    moment = NOW + dt.timedelta(hours=hours)
    assert (review.stamp(moment) >= review.stamp(LATER)) == (moment >= LATER)


def test_a_moment_in_another_time_zone_is_the_same_moment():
    zone = dt.timezone(dt.timedelta(hours=9))
    assert review.stamp(NOW.astimezone(zone)) == review.stamp(NOW) == "2027-01-15T12:00:00Z"
    with pytest.raises(ValueError, match="time zone"):
        review.stamp(dt.datetime(2027, 1, 15))  # noqa: DTZ001 - that is what is refused


def test_a_computation_that_was_changed_cannot_be_read_and_has_no_approvals(site):
    name = site.ask("1")
    for who in (ALICE, BOB):
        site.decide(who, name)
    assert site.found(name).read_computation().source == "1"
    assert site.approvals(name) == (ALICE, BOB)
    site.tamper("UPDATE reviews SET computation = :c", c=b"{")
    assert site.found(name).read_computation() is None
    assert site.approvals(name) == ()


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    source=TEXTS,
    parameters=st.dictionaries(TEXTS, SCALARS | TEXTS | st.lists(SCALARS | TEXTS), max_size=4),
)
def test_a_stored_computation_keeps_its_digest(source, parameters):
    computation = Computation(
        kind="python", source=source, parameters=parameters, purpose="research", tables=("visits",)
    )
    stored = wire.decode(Computation, wire.encode(computation), what="it")
    assert stored.digest == computation.digest
