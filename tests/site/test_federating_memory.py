"""What a site remembers beyond a crash, a run and an analyst, so that no second sum tells more."""

from __future__ import annotations

import contextlib
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
from privnb.errors import RosterRefused, StateError
from privnb.federated import ring
from privnb.federated.messages import ArrayForm, Ask, Work
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
    for number in range(1, 3):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(config={"fail": fault, "bit": number}), [np.zeros(2)])
        assert attempt.words["northside"] == UNSUMMED
        restart(sites)
    assert len(site.training_box.steps) == 2
    again = Attempt(sites, run, computation, number=3).keys()
    again.contribute(train_work(config={"fail": fault, "bit": 1}), [np.zeros(2)])
    assert again.words["northside"] == UNSUMMED
    assert len(site.training_box.steps) == 2  # what failed is not computed again, either
    third = Attempt(sites, run, computation, number=4).keys()
    third.contribute(train_work(), [np.zeros(2)])
    assert third.problems == {}
    other = Attempt(sites, run, computation, number=5).keys()
    other.contribute(train_work(config={"bit": 4}), [np.zeros(2)])
    assert set(other.problems.values()) == {"E_SPENT_ROUND"}
    end(sites, run, 6)
    part = site.reply(run).part
    assert (part.contributions, part.failures) == (1, 2)
    (event,) = events(site, "release")
    assert (event["contributions"], event["failures"]) == (1, 2)


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


@pytest.mark.parametrize("fixed", [False, True])
def test_what_sites_agree_to_without_a_sum_being_opened_binds_nobody(four, fixed):
    """Each of four agrees to other three: were they bound by it, no sum could be had any more."""
    for site in four.all:
        site.settings_of(fixed_sites=fixed)
    computation = training_of(four)
    run = begun(four, computation)
    first = Attempt(four, run, computation).keys()
    first.contribute(train_work(), [np.zeros(2)])
    survivors = first.aggregator.close_vectors()
    keys = sorted(survivors)
    for number, key in enumerate(keys):
        others = {each: survivors[each] for each in keys if each != keys[number - 1]}
        told = told_in(four.by_key[key], run, Ask(step="agree", attempt=1, survivors=others))
        assert told.problem is None
    again = Attempt(four, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)])
    assert mean_of(again.open())[2] == pytest.approx(11 + 21 + 31 + 41)


def test_of_two_sums_that_were_agreed_to_one_is_opened(four):
    computation = training_of(four)
    run = begun(four, computation)
    told = []
    for number, sites in enumerate((four.all[:3], four.all[1:]), 1):
        attempt = Attempt(four, run, computation, number=number).keys()
        attempt.contribute(train_work(), [np.zeros(2)])
        vectors = attempt.aggregator.close_vectors()
        survivors = {site.key: vectors[site.key] for site in sites}
        ask = Ask(step="agree", attempt=number, survivors=survivors)
        agreed = {site.key: told_in(site, run, ask).agreed for site in sites}
        ask = Ask(step="reveal", attempt=number, survivors=survivors, agreed=agreed)
        told.append((sites, ask))
    codes = []
    for sites, ask in told:
        said = [told_in(site, run, ask).problem for site in sites]
        codes.append([each and each.code for each in said])
    assert codes == [[None] * 3, ["E_ROSTER", "E_ROSTER", None]]


def test_the_same_numbers_are_the_same_input_whatever_they_are_called_and_stored_as(four):
    computation = training_of(four)
    run = begun(four, computation)
    first = Attempt(four, run, computation).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    renamed = Work(kind="train", round=1, arrays=(_form("v", "float64"),))
    smaller = Work(kind="train", round=2, arrays=(_form("w", "int64"),))
    for number, (work, numbers) in enumerate(
        [(renamed, np.zeros(2)), (train_work(3), np.full(2, -0.0)), (smaller, np.zeros(2))], 2
    ):
        fewer = Attempt(four, run, computation, number=number, among=four.all[:3]).keys()
        fewer.contribute(work, [numbers])
        assert set(fewer.problems.values()) == {"E_ROSTER"}


def _form(name, dtype):
    return ArrayForm(name=name, dtype=dtype, shape=(2,))


def test_a_sum_that_the_disk_did_not_let_open_is_opened_later(sites):
    computation = sites.training()
    run = begun(sites, computation)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    ask = Ask(step="reveal", attempt=1, survivors=attempt.aggregator.close_vectors())
    site = sites.all[0]
    contributing = site.federating.asks._contributing
    whole = contributing._database

    class Full:
        def __getattr__(self, name):
            return getattr(whole, name)

        def write(self):
            raise StateError("The disk is full.")

    contributing._database = Full()
    site.ask_step(run, ask)
    with pytest.raises(StateError):
        site.step()
    contributing._database = whole
    assert told_in(site, run, ask).problem is None


def test_attempts_that_end_in_another_order_do_not_make_keys_twice(sites):
    computation = sites.training()
    run = begun(sites, computation)
    second, third = (Attempt(sites, run, computation, number=each).keys() for each in (2, 3))
    third.contribute(train_work(), [np.zeros(2)])
    second.contribute(train_work(), [np.zeros(2)])
    site = sites.all[0]
    site.restart()
    site.step()
    told = told_in(site, run, Ask(step="advertise", attempt=3))
    assert told.problem.code == "E_ROSTER"


def test_what_is_taken_back_in_two_threads_at_once_is_taken_back_once(sites):
    """A failure is written down while its analyst ends the run: the sum before it stays counted."""
    computation = sites.training()
    run = begun(sites, computation)
    first = Attempt(sites, run, computation).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    site = sites.all[0]
    contributing = site.federating.asks._contributing
    whole, joined = contributing._database, site.federating._runs[ANA, run]
    written, go = threading.Event(), threading.Event()

    class Slow:
        def __getattr__(self, name):
            return getattr(whole, name)

        @contextlib.contextmanager
        def write(self):
            counted = joined.counted
            with whole.write() as transaction:
                yield transaction
            if counted and threading.current_thread() is not threading.main_thread():
                written.set()
                go.wait(20)

    contributing._database = Slow()
    second = Attempt(sites, run, computation, number=2).keys()
    work = train_work(2, config={"fail": "raise"})
    ask = Ask(step="contribute", attempt=2, shares=second.shares[site.key], work=work)
    site.ask_step(run, ask, np.zeros(2).tobytes())
    site.step()
    assert written.wait(20)
    site.ask_step(run, Ask(step="end", attempt=3))
    site.step()
    go.set()
    site.finish_parts()
    site.step()
    (event,) = events(site, "release")
    assert (event["rounds"], event["contributions"], event["failures"]) == (1, 1, 1)


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


def test_a_training_goes_not_on_with_other_people_though_the_site_was_restarted(sites):
    computation = sites.training()
    run = begun(sites, computation)
    site, now = sites.all[0], [people(1, 2, 3)]
    site.data.consenting = lambda table, *, purpose: now[0]
    Attempt(sites, run, computation).keys().contribute(train_work(), [np.zeros(2)])
    now[0] = people(1, 2, 3, 4)
    site.restart()
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(2), [np.full(2, 1e-9)])
    assert again.problems == {"northside": "E_CONSENT"}
    assert len(site.training_box.steps) == 1
    site.step()
    assert site.state(run) == "answered"


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
    assert (told.problem.code, vector) == ("E_CONSENT", b"")
    site.step()
    assert site.reply(run).problem.code == "E_CONSENT"
    assert events(site, "refusal")[0]["contributions"] == 0


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
