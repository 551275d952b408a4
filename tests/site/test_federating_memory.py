"""What a site remembers beyond a crash, a run and an analyst, so that no second sum tells more."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from federated_fakes import SCHEMA, TOTALS, Attempt, Sites, end, events, mean_of, train_work
from site_fakes import ANA
from test_federating_restart import Crashing, inputs

from privnb.audit import VerifierKey, verify_receipt
from privnb.errors import RosterRefused
from privnb.federated import ring
from privnb.federated.messages import Ask
from privnb.messages import released_hash
from privnb.site import database as tables
from privnb.site.database import Database
from privnb.site.federated.book import Input, RunBook

BOB = "bob@uni.example"
UNSUMMED = "The app gave nothing that can be summed."


@pytest.fixture
def sites(tmp_path):
    made = Sites(tmp_path)
    yield made
    made.close()


@pytest.fixture
def four(tmp_path):
    made = Sites(tmp_path, names=("northside", "riverside", "lakeside", "hillside"))
    yield made
    made.close()


def begun(sites, computation):
    run = sites.submit(computation)
    sites.approve(run)
    return run


def training_of(sites):
    """A training over all four, of whom three are enough."""
    return sites.training(federation=sites.federation(threshold=3, rounds=3))


def restart(sites):
    for site in sites.all:
        site.restart()


def people(*units):
    return pa.table({"unit": pa.array(units, pa.int64())})


def told_in(site, run, ask):
    """Ask one site, and return all that it tells."""
    site.ask_step(run, ask)
    for _ in range(50):
        site.step()
        told, _ = site.told(run, f"{ask.attempt:06d}-{ask.step}")
        if told is not None:
            return told
    raise AssertionError("nothing was told")


# Tries


@pytest.mark.parametrize("fault", ["raise", "weight", "crash"])
def test_what_failed_stays_failed_and_a_try_when_the_site_is_restarted(sites, fault):
    """Else whoever can have a site restarted could ask one bit after the other."""
    computation = sites.training()
    run = begun(sites, computation)
    site = sites.all[0]
    for number in range(1, 4):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(config={"fail": fault, "bit": number}), [np.zeros(2)])
        assert attempt.words["northside"] == UNSUMMED
        restart(sites)
    assert len(site.training_box.steps) == 3
    again = Attempt(sites, run, computation, number=4).keys()
    again.contribute(train_work(config={"fail": fault, "bit": 1}), [np.zeros(2)])
    assert again.words["northside"] == UNSUMMED
    other = Attempt(sites, run, computation, number=5).keys()
    other.contribute(train_work(config={"bit": 4}), [np.zeros(2)])
    assert set(other.problems.values()) == {"E_SPENT_ROUND"}
    assert len(site.training_box.steps) == 3  # what failed is not computed again, either
    end(sites, run, 6)
    assert site.reply(run).part.contributions == 0
    assert events(site, "release")[0]["contributions"] == 0


class Gate:
    """Holds back whoever waits, and tells that somebody does."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.set = self.go.set

    def wait(self, seconds):
        self.reached.set()
        return self.go.wait(seconds)


def held(sites, run, computation, *, number=1):
    """Have one site begin to compute a part, and stay at it."""
    attempt = Attempt(sites, run, computation, number=number).keys()
    site = sites.all[0]
    site.training_box.let_go = Gate()
    ask = Ask(step="contribute", attempt=number, shares=attempt.shares[site.key], work=train_work())
    site.ask_step(run, ask, np.zeros(2).tobytes())
    site.step()
    assert site.training_box.let_go.reached.wait(20)
    return site


def test_what_a_crash_cut_off_may_be_computed_again_as_the_same_try(sites):
    computation = sites.training()
    run = begun(sites, computation)
    site = held(sites, run, computation)
    (cut,) = inputs(site)
    assert cut.failed is None
    site.restart()
    site.training_box.let_go.set()
    attempt = Attempt(sites, run, computation, number=2).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    assert mean_of(attempt.open())[2] == pytest.approx(63)
    assert len(inputs(site)) == 1


def test_a_site_that_is_stopped_in_a_round_does_not_take_that_for_a_failure(sites):
    computation = sites.training()
    run = begun(sites, computation)
    site = held(sites, run, computation)
    site.federating.close()
    site.training_box.let_go.set()
    site.finish_parts()
    site.restart()
    attempt = Attempt(sites, run, computation, number=2).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    assert attempt.problems == {}


def test_what_was_begun_and_never_sent_is_not_counted_at_the_end(sites):
    computation = sites.training()
    run = begun(sites, computation)
    site = held(sites, run, computation)
    end(sites, run, 2, finished=False)
    site.training_box.let_go.set()
    part = site.reply(run).part
    assert (part.rounds, part.contributions, part.sites) == (0, 0, ())


@pytest.mark.parametrize("kind", ["totals", "training"])
def test_a_round_waits_for_the_disk_twice(sites, kind):
    """Once before the part, or what it is computed on, is final, and once before its sum opens."""
    computation = sites.totals() if kind == "totals" else sites.training()
    run = sites.submit(computation) if kind == "totals" else begun(sites, computation)
    site = sites.all[0]
    counting = site.database = Crashing(site.database)
    site.restart()
    site.step()
    counting.writes = 0
    attempt = Attempt(sites, run, computation).keys()
    work, arrays = (TOTALS, ()) if kind == "totals" else (train_work(), [np.zeros(2)])
    attempt.contribute(work, arrays)
    assert counting.writes == 1
    attempt.open()
    assert counting.writes == 2


# One input, one set of sites


def test_the_same_parameters_in_another_round_are_summed_over_the_same_sites(four):
    """All four, then three: the difference would be the fourth's update."""
    computation = training_of(four)
    run = begun(four, computation)
    first = Attempt(four, run, computation).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    steps = len(four.all[0].training_box.steps)
    fewer = Attempt(four, run, computation, number=2, among=four.all[:3]).keys()
    fewer.contribute(train_work(2, config={"lr": 0.1}), [np.zeros(2)])
    assert set(fewer.problems.values()) == {"E_ROSTER"}
    assert fewer.words["northside"].startswith(
        "The same was summed over hillside, lakeside, northside and riverside before"
    )
    assert len(four.all[0].training_box.steps) == steps
    # At other parameters three are enough, and so is evaluating at these.
    other = Attempt(four, run, computation, number=3, among=four.all[:3]).keys()
    other.contribute(train_work(2), [np.ones(2)])
    other.open()
    third = Attempt(four, run, computation, number=4, among=four.all[:3]).keys()
    third.contribute(train_work(2, kind="evaluate"), [np.zeros(2)])
    third.open()


def test_another_run_of_the_same_code_gets_no_sum_over_other_sites(four):
    computation = training_of(four)
    run = begun(four, computation)
    first = Attempt(four, run, computation, among=four.all[:3]).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    end(four, run, 2)
    restart(four)
    run = begun(four, computation)
    more = Attempt(four, run, computation).keys()
    more.contribute(train_work(), [np.zeros(2)])
    survivors = more.aggregator.close_vectors()
    ask = Ask(step="reveal", attempt=1, survivors=survivors)
    said = [told_in(site, run, ask) for site in four.all]
    assert [told.problem and told.problem.code for told in said] == ["E_ROSTER"] * 3 + [None]
    assert {told.only for told in said[:3]} == {tuple(sorted(site.key for site in four.all[:3]))}
    # Over the very same sites it may be had again.
    again = Attempt(four, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)], to=four.all[:3])
    again.open()


def test_another_analyst_gets_no_sum_over_other_sites_either(tmp_path):
    keys = [f"privnb/{name}/o@{name}.example+0a0b0c0d+AT8=" for name in ("one", "two", "three")]
    database = Database.open(tmp_path / "site.sqlite")
    given = Input(round=1, kind="train", work="w1", input="i1")
    with database.write() as connection:
        for who in (ANA, BOB):
            RunBook.open_run(connection, who, "r", digest="d1")
            RunBook.contribute(connection, who, "r", attempt=1, new=given, label=None)
        RunBook.settle(connection, ANA, "r", work="w1", sites=keys)
    with database.write() as connection:
        RunBook.close_run(connection, ANA, "r", me=keys[0], ended="")
        with pytest.raises(RosterRefused, match="over one, three and two before") as refused:
            RunBook.settle(connection, BOB, "r", work="w1", sites=keys[:2])
        RunBook.settle(connection, BOB, "r", work="w1", sites=keys[::-1])
    assert set(refused.value.only) == set(keys)
    database.close()


def test_with_fixed_sites_nearly_the_same_parameters_do_not_help_either(four):
    for site in four.all:
        site.settings_of(fixed_sites=True)
    computation = training_of(four)
    run = begun(four, computation)
    first = Attempt(four, run, computation).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    steps = len(four.all[0].training_box.steps)
    fewer = Attempt(four, run, computation, number=2, among=four.all[:3]).keys()
    fewer.contribute(train_work(2, kind="evaluate"), [np.full(2, 1e-9)])
    assert set(fewer.problems.values()) == {"E_ROSTER"}
    words = fewer.words["northside"]
    assert words.startswith("This computation was summed over hillside, lakeside, northside and")
    assert len(four.all[0].training_box.steps) == steps
    whole = Attempt(four, run, computation, number=3).keys()
    whole.contribute(train_work(2), [np.ones(2)])
    dropped = Attempt(four, run, computation, number=4).keys()
    dropped.contribute(train_work(3), [np.ones(2)], to=four.all[:3])
    ask = Ask(step="agree", attempt=4, survivors=dropped.aggregator.close_vectors())
    assert told_in(four.all[0], run, ask).problem.code == "E_ROSTER"
    whole.open()
    end(four, run, 5)
    said = four.all[0].reply(run).label.not_protected
    assert any("one set of sites only" in each for each in said)


def test_made_up_rows_are_summed_over_whom_one_likes(sites):
    computation = sites.training(purpose=None)
    run = sites.submit(computation, action="mock")
    for number, among in enumerate((sites.all, sites.all[:2]), 1):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(number), [np.zeros(2)], to=among)
        attempt.open()


# Consents


def test_totals_are_not_given_again_once_other_people_consent(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    site, now = sites.all[0], [people(1, 2, 3)]
    site.tables.consenting = lambda table, *, purpose: now[0]
    Attempt(sites, run, computation).keys().contribute(TOTALS)
    now[0] = people(3, 1, 2)  # the same, read anew
    site.restart()
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(TOTALS)
    assert again.problems == {}
    now[0] = people(1, 2)
    last = Attempt(sites, run, computation, number=3).keys()
    last.contribute(TOTALS)
    assert last.problems == {"northside": "E_SPENT_ROUND"}
    assert site.tables.calls == 1  # nor is noise drawn anew
    # The others' sum is theirs; over whom it is was never settled.
    assert abs(ring.to_integers(last.open())[0] - 5000) < 500


def test_a_training_does_not_compute_a_round_again_on_other_people(sites):
    computation = sites.training()
    run = begun(sites, computation)
    site, now = sites.all[0], [people(1, 2, 3)]
    site.data.consenting = lambda table, *, purpose: now[0]
    Attempt(sites, run, computation).keys().contribute(train_work(), [np.zeros(2)])
    now[0] = people(1, 2, 3, 4)
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)])
    assert again.problems == {"northside": "E_SPENT_ROUND"}
    assert len(site.training_box.steps) == 1
    # Another input is another try, on those who consent now.
    other = Attempt(sites, run, computation, number=3).keys()
    other.contribute(train_work(), [np.ones(2)])
    assert other.problems == {}


def test_a_consent_that_changes_while_a_part_is_computed_keeps_it_in(sites):
    computation = sites.training()
    run = begun(sites, computation)
    now = [people(1, 2, 3)]
    sites.all[0].data.consenting = lambda table, *, purpose: now[0]
    site = held(sites, run, computation)
    now[0] = people(1, 2)
    site.training_box.let_go.set()
    site.finish_parts()
    site.step()
    told, vector = site.told(run, "000001-contribute")
    assert (told.problem.code, vector) == ("E_SPENT_ROUND", b"")
    end(sites, run, 2)
    assert site.reply(run).part.contributions == 0


def test_who_consents_is_not_to_be_guessed_from_what_is_stored(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    for site in sites.all:
        site.tables.consenting = lambda table, *, purpose: people(1)
    Attempt(sites, run, computation).keys().contribute(TOTALS)
    stored = {inputs(site)[0].consents for site in sites.all}
    assert len(stored) == 3  # the same people: each site has a key of its own


# What is said of it


def test_what_was_given_is_on_record_though_nobody_can_describe_it_any_more(sites):
    computation = sites.totals("SELECT COUNT(*) AS n FROM visits WHERE cost > 3")
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS)
    attempt.open()
    site = sites.all[0]
    site.schema = dataclasses.replace(SCHEMA, columns=SCHEMA.columns[:1])  # there is no cost now
    site.restart()
    for _ in range(3):
        site.step()
    reply = site.reply(run)
    assert reply.problem is None
    assert (reply.part.rounds, reply.part.contributions) == (1, 1)
    assert reply.part.ended != ""
    assert reply.label.route == "noise"
    assert reply.label.epsilon == "1"
    (event,) = events(site, "release")
    assert (event["contributions"], event["digest"]) == (1, computation.digest)
    proved = verify_receipt(dataclasses.asdict(reply.receipt), key=VerifierKey.parse(site.key))
    assert proved.event["output"] == released_hash(reply)


def test_a_training_on_the_owner_s_list_is_had_so_often_and_no_oftener(tmp_path):
    sites = Sites(tmp_path / "first")
    computation = sites.training()
    sites.close()
    sites = Sites(tmp_path / "first", release=[computation.digest])
    site = sites.all[0]
    for _ in range(20):
        assert site.state(sites.submit(computation, to=[site])) == "joined"
    refused = site.reply(sites.submit(computation, to=[site])).problem
    assert (refused.code, "20 times" in refused.message) == ("E_LIMIT", True)
    site.grant(analyst=BOB)
    run = sites.submit(computation, to=[site], sender=BOB)
    with site.database.read() as snapshot:
        states = sa.select(tables.requests.c.state).where(tables.requests.c.name == run)
        assert snapshot.execute(states).scalar() == "joined"
    sites.close()
