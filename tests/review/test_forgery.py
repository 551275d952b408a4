"""What was signed for one thing counts for nothing else, whatever the database says."""

from __future__ import annotations

import json
import logging

import pytest
import sqlalchemy as sa
from review_site import ALICE, ANA, BOB, CAROL, SOURCE, ReviewSite, table_output

from privnb import wire
from privnb.computation import Computation
from privnb.errors import StateError
from privnb.site import database as tables
from privnb.site.reviewing.reviewers import ReviewerKey


def computation(source):
    return Computation(kind="python", source=source, purpose="research", tables=("visits",))


@pytest.fixture
def approved(site):
    """A request that Alice and Bob approved."""
    name = site.ask()
    site.decide(ALICE, name)
    site.decide(BOB, name)
    assert site.approvals(name) == (ALICE, BOB)
    return name


def insert(site, row, **changed):
    values = {c.name: getattr(row, c.name) for c in tables.decisions.c if c.name != "seq"}
    with site.database.write() as transaction:
        transaction.execute(sa.insert(tables.decisions).values(**(values | changed)))


def test_changing_one_byte_of_the_computation_needs_new_decisions(site, approved):
    stored = wire.encode(computation(SOURCE))
    for place in range(0, len(stored), 7):
        changed = bytearray(stored)
        changed[place] ^= 1
        site.tamper("UPDATE reviews SET computation = :c", c=bytes(changed))
        assert site.approvals(approved) == ()
    site.tamper("UPDATE reviews SET computation = :c", c=stored)
    assert site.approvals(approved) == (ALICE, BOB)


def test_swapping_the_computation_and_its_digest_needs_new_decisions(site, approved):
    other = computation(SOURCE + " ")
    site.tamper(
        "UPDATE reviews SET computation = :c, digest = :d",
        c=wire.encode(other),
        d=other.digest,
    )
    site.tamper("UPDATE decisions SET digest = :d", d=other.digest)
    assert site.approvals(approved) == ()


def test_changing_one_byte_of_the_output_needs_new_decisions(site):
    name = site.held()
    site.decide(ALICE, name, stage="output")
    site.decide(BOB, name, stage="output")
    assert len(site.approvals(name, "output")) == 2
    other = wire.encode(table_output((30, 1.25), (40, 2.25)))
    site.tamper("UPDATE reviews SET output = :o", o=other)
    assert site.approvals(name, "output") == ()
    site.tamper("UPDATE reviews SET output_digest = :d", d=wire.sha256_hex(other))
    assert site.approvals(name, "output") == ()


def test_nobody_signs_what_was_changed(site):
    name = site.ask()
    site.tamper("UPDATE reviews SET computation = :c", c=wire.encode(computation("rows")))
    with pytest.raises(StateError, match="not what came in"):
        site.decide(ALICE, name)
    held = site.held()
    site.tamper("UPDATE reviews SET output = :o WHERE request = :r", o=b"{}", r=held)
    with pytest.raises(StateError, match="not what came in"):
        site.decide(ALICE, held, stage="output")


def test_an_approval_cannot_be_replayed_for_another_request(site, approved):
    again = site.ask()  # the very same computation, asked once more
    for row in site.rows(tables.decisions):
        insert(site, row, request=again)
    assert site.approvals(again) == ()


def test_an_approval_cannot_be_replayed_for_another_analyst(site, approved):
    site.ask(analyst="ben@uni.example", name=approved)
    for row in site.rows(tables.decisions):
        insert(site, row, analyst="ben@uni.example")
    assert site.approvals(approved, analyst="ben@uni.example") == ()


def test_an_approval_of_the_code_is_none_of_the_output(site, approved):
    site.hold(approved)
    for row in site.rows(tables.decisions):
        insert(site, row, stage="output")
    assert site.approvals(approved, "output") == ()


def test_an_approval_cannot_be_replayed_at_another_site(site, approved, tmp_path):
    other = ReviewSite(tmp_path / "southside", keys=tmp_path / "home" / "reviewer")
    other.folder.mkdir(exist_ok=True)
    other.write_config()
    text = (other.folder / "site.toml").read_text().replace("northside", "southside")
    (other.folder / "site.toml").write_text(text)
    other.ask(name=approved)
    for row in site.rows(tables.decisions):
        insert(other, row)
    assert other.approvals(approved) == ()
    other.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("reason", "Another reason."),
        ("at", "2027-01-01T00:00:00Z"),
        ("reviewer", CAROL),
        ("signature", b"\0" * 64),
        ("signature", b""),
        ("statement", b"{}"),
        ("statement", b"\xff"),
    ],
)
def test_a_changed_decision_counts_for_nothing_and_is_logged(site, approved, column, value, caplog):
    site.tamper(f"UPDATE decisions SET {column} = :v WHERE reviewer = :r", v=value, r=BOB)  # noqa: S608 - our own column
    with caplog.at_level(logging.WARNING, logger="privnb.site"):
        assert site.approvals(approved) == (ALICE,)
    assert f"a decision on request {approved} counts for nothing" in caplog.text


def test_a_denial_that_was_turned_into_an_approval_counts_for_nothing(site):
    name = site.ask()
    site.decide(ALICE, name, "deny", reason="no")
    site.tamper("UPDATE decisions SET verdict = 'approve'")
    assert site.approvals(name) == ()


def test_a_state_that_was_set_past_a_denial_does_not_bring_approvals_back(site):
    name = site.ask()
    site.decide(ALICE, name)
    site.decide(BOB, name)
    site.hold(name)
    site.decide(CAROL, name, "deny", stage="output", reason="no")
    site.tamper("UPDATE requests SET state = 'approved'")
    assert site.approvals(name, "code") == ()


def test_a_foreign_key_signs_for_nobody(site, approved, tmp_path):
    foreign = ReviewerKey.create(tmp_path / "f.json", CAROL)
    row = site.rows(tables.decisions)[0]
    statement = json.loads(row.statement) | {"reviewer": CAROL}
    written = wire.canonical_json(statement)
    insert(site, row, reviewer=CAROL, statement=written, signature=foreign.sign(written))
    assert site.approvals(approved) == (ALICE, BOB)


def test_a_reviewer_who_was_removed_counts_no_more(site, approved):
    site.write_config(reviewers={e: site.keys[e].public for e in (ALICE, CAROL)})
    assert site.approvals(approved) == (ALICE,)
    site.write_config()
    assert site.approvals(approved) == (ALICE, BOB)


def test_a_reviewer_whose_key_was_changed_counts_no_more(site, approved, tmp_path):
    fresh = ReviewerKey.create(tmp_path / "new.json", BOB)
    named = {e: k.public for e, k in site.keys.items()} | {BOB: fresh.public}
    site.write_config(reviewers=named)
    assert site.approvals(approved) == (ALICE,)


def test_approvals_of_a_removed_reviewer_do_not_make_a_quorum_later(site):
    name = site.ask()
    site.decide(ALICE, name)
    site.write_config(reviewers={e: site.keys[e].public for e in (BOB, CAROL)})
    assert site.decide(BOB, name).state == "waiting"
    assert site.decide(CAROL, name).state == "approved"


def test_an_own_approval_that_got_in_counts_for_nothing(site):
    """As when an analyst's address was made a reviewer's after the decision."""
    name = site.ask(analyst=ANA)
    site.decide(ALICE, name)
    site.tamper("UPDATE reviews SET analyst = :a", a=ALICE)
    site.tamper("UPDATE requests SET sender = :a", a=ALICE)
    site.tamper("UPDATE decisions SET analyst = :a", a=ALICE)
    assert site.approvals(name, analyst=ALICE) == ()


def test_the_database_itself_keeps_decisions_as_they_are(site, approved):
    for sql in ("DELETE FROM decisions", "UPDATE decisions SET reason = 'x'"):
        with (
            pytest.raises(sa.exc.IntegrityError, match="append-only"),
            site.database.write() as transaction,
        ):
            transaction.execute(sa.text(sql))
    assert site.approvals(approved) == (ALICE, BOB)
