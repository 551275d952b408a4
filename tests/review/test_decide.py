"""Decisions move a request on, or end it; each is signed, counted once, and in the audit log."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json

import pytest
from review_site import ALICE, ANA, BOB, CAROL, NOW, OUTPUT, SOURCE, table_output

from privnb import wire
from privnb.computation import Computation
from privnb.errors import ConfigError, PrivnbError, RequestRefused, StateError, UnknownName
from privnb.site import database as tables
from privnb.site.reviewing import review
from privnb.site.reviewing.reviewers import ReviewerKey


def test_the_code_runs_once_enough_reviewers_approve(site):
    name = site.ask()
    first = site.decide(ALICE, name)
    assert (first.state, first.approvals) == ("waiting", (ALICE,))
    second = site.decide(BOB, name)
    assert (second.state, second.approvals) == ("approved", (ALICE, BOB))
    assert site.state(name) == "approved"
    assert site.approvals(name) == (ALICE, BOB)


def test_the_output_leaves_once_enough_reviewers_release_it(site):
    name = site.held()
    site.decide(CAROL, name, stage="output")
    assert site.decide(ALICE, name, stage="output").state == "cleared"
    assert site.approvals(name, "output") == (CAROL, ALICE)
    assert site.approvals(name, "code") == ()


@pytest.mark.parametrize("stage", ["code", "output"])
def test_one_denial_ends_a_request_whoever_approved_before(site, stage):
    name = site.ask() if stage == "code" else site.held()
    site.decide(ALICE, name, stage=stage)
    assert site.decide(BOB, name, "deny", stage=stage, reason="Too fine.").state == "denied"
    assert site.state(name) == "denied"
    assert site.approvals(name, stage) == ()
    with pytest.raises(StateError, match="denied"):
        site.decide(CAROL, name, stage=stage)


def test_a_denial_needs_a_reason(site):
    name = site.ask()
    with pytest.raises(PrivnbError, match="needs a reason"):
        site.decide(ALICE, name, "deny", reason="  \n")
    assert site.state(name) == "waiting"
    assert site.rows(tables.decisions) == []


def test_a_reason_has_a_bounded_length(site):
    with pytest.raises(PrivnbError, match="at most 2000"):
        site.decide(ALICE, site.ask(), "deny", reason="x" * 2001)


def test_a_reviewer_decides_once(site):
    name = site.ask()
    site.decide(ALICE, name)
    with pytest.raises(RequestRefused, match=r"alice.* approved request .* already"):
        site.decide(ALICE, name)
    with pytest.raises(RequestRefused, match="already"):
        site.decide(ALICE, name, "deny", reason="changed my mind")
    assert site.state(name) == "waiting"


def test_code_and_output_are_decided_apart(site):
    name = site.ask()
    site.decide(ALICE, name)
    site.decide(BOB, name)
    with pytest.raises(StateError, match=r"output .* is approved"):
        site.decide(CAROL, name, stage="output")
    site.hold(name)
    assert site.decide(ALICE, name, stage="output").state == "held"
    with pytest.raises(StateError, match="code"):
        site.decide(CAROL, name, stage="code")


def test_somebody_whom_site_toml_does_not_name_cannot_decide(site, tmp_path):
    stranger = ReviewerKey.create(tmp_path / "m.json", "mallory@hospital.example")
    with pytest.raises(RequestRefused, match="not a reviewer"):
        site.decide("", site.ask(), key=stranger)


def test_another_key_under_a_reviewers_address_cannot_decide(site, tmp_path):
    other = ReviewerKey.create(tmp_path / "m.json", ALICE)
    with pytest.raises(RequestRefused, match=r"not the one in site\.toml"):
        site.decide("", site.ask(), key=other)


@pytest.mark.parametrize("address", [ALICE, ALICE.upper(), "Alice@Hospital.Example"])
def test_nobody_decides_on_their_own_request(site, address):
    name = site.ask(analyst=address)
    for verdict in ("approve", "deny"):
        with pytest.raises(RequestRefused, match="own request"):
            site.decide(ALICE, name, verdict, analyst=address)


def test_nobody_decides_on_their_own_request_by_way_of_a_second_address(site):
    name = site.ask(analyst=ANA)
    alice = site.keys[ALICE].public
    twice = dataclasses.replace(
        site.config.review, reviewers=site.config.review.reviewers | {ANA: alice}
    )
    with pytest.raises(RequestRefused, match="own request"):
        site.decide(ALICE, name, config=dataclasses.replace(site.config, review=twice))


def test_a_request_can_be_decided_on_until_it_expires(site):
    name = site.ask()
    last = NOW + dt.timedelta(days=14)
    with pytest.raises(StateError, match="expired at 2027-01-29T12:00:00Z"):
        site.decide(ALICE, name, now=last)
    assert site.decide(ALICE, name, now=last - dt.timedelta(seconds=1)).state == "waiting"


def test_what_a_reviewer_looked_at_must_still_be_there(site):
    name = site.ask()
    with pytest.raises(StateError, match="not what you looked at"):
        site.decide(ALICE, name, seen="0" * 64)
    digest = Computation(
        kind="python", source=SOURCE, purpose="research", tables=("visits",)
    ).digest
    assert site.decide(ALICE, name, seen=digest).approvals == (ALICE,)
    held = site.held()
    with pytest.raises(StateError, match="not what you looked at"):
        site.decide(ALICE, held, stage="output", seen=digest)
    site.decide(ALICE, held, stage="output", seen=wire.sha256_hex(wire.encode(OUTPUT)))


def test_a_request_that_is_not_there_is_named(site):
    with pytest.raises(UnknownName, match="abababab"):
        site.decide(ALICE, "ab" * 16)


def test_without_a_review_section_nobody_decides(site):
    name = site.ask()
    with pytest.raises(ConfigError, match=r"no \[review\]"):
        site.decide(ALICE, name, config=dataclasses.replace(site.config, review=None))


def test_every_decision_is_an_event_and_a_refused_one_is_none(site):
    name = site.ask()
    before = len(site.rows(tables.events))
    site.decide(ALICE, name, reason="Fine with me.")
    with pytest.raises(RequestRefused):
        site.decide(ALICE, name)
    events = [json.loads(row.body) for row in site.rows(tables.events)][before:]
    assert [(e["kind"], e["verdict"], e["stage"], e["state"]) for e in events] == [
        ("review", "approve", "code", "waiting")
    ]
    assert events[0]["request"] == name
    (decision,) = site.rows(tables.decisions)
    assert events[0]["signed"] == wire.sha256_hex(decision.signature)


def test_a_withheld_output_cannot_be_guessed_from_the_log(site):
    """Who knows a digest can try values; so digests of outputs are not in it."""
    name = site.held()
    site.decide(ALICE, name, "deny", stage="output", reason="No.")
    log = "".join(row.body for row in site.rows(tables.events))
    assert wire.sha256_hex(wire.encode(OUTPUT)) not in log


def test_a_denied_computation_is_known_by_its_digest_until_it_is_changed(site):
    digest = Computation(kind="python", source="1", purpose="research", tables=("visits",)).digest
    name = site.ask("1")
    with site.database.read() as snapshot:
        assert review.denial_of(snapshot, digest) is None
    site.decide(ALICE, name, "deny", reason="Say why you need it.")
    with site.database.read() as snapshot:
        assert review.denial_of(snapshot, digest) == "Say why you need it."
        assert review.denial_of(snapshot, digest[::-1]) is None


def test_a_withheld_output_denies_its_computation_too(site):
    name = site.held(source="2")
    site.decide(ALICE, name, "deny", stage="output", reason="Rows of single people.")
    digest = Computation(kind="python", source="2", purpose="research", tables=("visits",)).digest
    with site.database.read() as snapshot:
        assert review.denial_of(snapshot, digest) == "Rows of single people."


def test_an_output_that_is_held_is_never_replaced(site):
    name = site.held()
    with pytest.raises(StateError, match="holds an output already"):
        site.hold(name, table_output((1, 1.0)))
    with site.database.write() as transaction:
        review.drop_output(transaction, analyst=ANA, request=name)
    with pytest.raises(StateError, match="holds an output already"):
        site.hold(name, table_output((1, 1.0)))


def test_an_erased_output_has_no_approvals_and_cannot_be_read(site):
    name = site.held()
    site.decide(ALICE, name, stage="output")
    site.decide(BOB, name, stage="output")
    assert site.found(name).read_output() == OUTPUT
    with site.database.write() as transaction:
        review.drop_output(transaction, analyst=ANA, request=name)
    assert site.found(name).read_output() is None
    assert site.approvals(name, "output") == ()
