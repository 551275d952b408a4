"""Whatever is killed when: no run is lost, no noise is drawn twice, no reply comes twice."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import sqlalchemy as sa
from federated_fakes import TOTALS, Attempt, Sites, end, events, mean_of, train_work
from site_fakes import ANA

from privnb.errors import ExchangeUnavailable, StateError
from privnb.federated import ring
from privnb.federated.messages import Ask
from privnb.site import database as tables


class Killed(BaseException):
    """What ends a process here: nothing of ours catches it."""


class Crashing:
    """A database that ends the process at one of its writing transactions, before or after it."""

    def __init__(self, database) -> None:
        self._database = database
        self.writes = 0
        self.at = 0
        self.after = False

    @contextlib.contextmanager
    def write(self):
        self.writes += 1
        now = self.writes == self.at
        if now and not self.after:
            raise Killed
        with self._database.write() as transaction:
            yield transaction
        if now:
            raise Killed

    def __getattr__(self, name):
        return getattr(self._database, name)


@pytest.fixture
def sites(tmp_path):
    made = Sites(tmp_path)
    yield made
    made.close()


def inputs(site):
    with site.database.read() as snapshot:
        return snapshot.execute(sa.select(tables.run_inputs)).all()


def test_a_site_that_was_restarted_joins_again_and_says_that_its_keys_are_gone(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    site.told(run, "000000-join")
    site.restart()
    attempt.contribute(TOTALS)
    assert attempt.problems == {"northside": "E_RESTARTED"}
    assert site.told(run, "000000-join")[0].problem is None
    assert len(events(site, "join")) == 1
    # The others' sum opens without it, and the next attempt has it again.
    assert abs(ring.to_integers(attempt.open())[0] - 5000) < 500


def test_all_sites_restarted_in_the_middle_of_a_round_go_on(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    for site in sites.all:
        site.restart()
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)])
    assert mean_of(again.open())[2] == pytest.approx(63)
    end(sites, run, 3)
    part = sites.all[0].reply(run).part
    assert (part.rounds, part.contributions) == (1, 2)


def test_a_restarted_site_takes_no_attempt_for_new_that_it_gave_something_to(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    Attempt(sites, run, computation, number=5).keys().contribute(TOTALS)
    site = sites.all[0]
    site.restart()
    site.ask_step(run, Ask(step="advertise", attempt=5))
    site.step()
    assert site.told(run, "000005-advertise")[0].problem.code == "E_ROSTER"


def test_the_noise_of_a_round_is_drawn_once_however_often_it_is_asked_for(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    Attempt(sites, run, computation, number=1).keys().contribute(TOTALS)
    first = [each.vector for site in sites.all for each in inputs(site)]
    for site in sites.all:
        site.restart()
    attempt = Attempt(sites, run, computation, number=2).keys()
    attempt.contribute(TOTALS)
    assert [each.vector for site in sites.all for each in inputs(site)] == first
    numbers = [ring.to_integers(np.frombuffer(vector, "<u8"))[0] for vector in first]
    assert ring.to_integers(attempt.open()) == [sum(numbers)]
    assert [site.tables.calls for site in sites.all] == [1, 1, 1]


def test_a_run_is_left_to_the_agent_that_has_it_while_that_one_lives(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    other = site.new_agent()
    for _ in range(3):
        other.step()
    assert not other._answering.federating.is_joined(ANA, run)
    site.agent._lock.release()
    other._answering.federating._next_look = 0
    other.step()
    assert other._answering.federating.is_joined(ANA, run)
    # The first one, if it lives after all, contributes nothing any more.
    site.agent = other


def test_an_agent_whose_run_was_taken_over_sends_nothing_more(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    with site.database.write() as transaction:
        transaction.execute(sa.update(tables.requests).values(agent="another"))
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=TOTALS)
    site.ask_step(run, message)
    site.federating._next_look = float("inf")
    site.step()
    site.finish_parts()
    site.step()
    assert site.told(run, "000001-contribute") == (None, b"")
    assert inputs(site) == []


def test_what_the_exchange_did_not_take_is_sent_later(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=TOTALS)
    site.ask_step(run, message)
    site.step()
    site.finish_parts()
    whole = site.port.tell

    def unavailable(*_):
        raise ExchangeUnavailable("The exchange is away.")

    site.port.tell = unavailable
    for _ in range(3):
        with pytest.raises(ExchangeUnavailable):
            site.step()
    site.port.tell = whole
    site.step()
    told, vector = site.told(run, "000001-contribute")
    assert (told.problem, len(vector)) == (None, 8)
    assert len(inputs(site)) == site.tables.calls == 1


def test_what_the_disk_did_not_take_is_written_down_later_and_not_computed_again(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    site.ask_step(
        run, Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=TOTALS)
    )
    site.step()
    site.finish_parts()
    whole = site.federating.asks._contributing._database

    class Full:
        def __getattr__(self, name):
            return getattr(whole, name)

        def write(self):
            raise StateError("The disk is full.")

    site.federating.asks._contributing._database = Full()
    for _ in range(3):
        with pytest.raises(StateError):
            site.step()
    assert site.told(run, "000001-contribute") == (None, b"")
    site.federating.asks._contributing._database = whole
    site.step()
    assert site.told(run, "000001-contribute")[0].problem is None
    assert len(inputs(site)) == site.tables.calls == 1


def dies_once(site, at, *, after):
    """Have a site's agent die at its ``at``-th writing transaction, and be started again."""
    crashing = Crashing(site.database)
    site.database = crashing
    site.restart()
    crashing.writes, crashing.at, crashing.after = 0, at, after

    def step():
        site.look()
        try:
            site.agent.step()
        except Killed:
            crashing.at = 0
            site.restart()

    site.step = step
    return crashing


def drive(sites, computation, run, site, *asked):
    """Bring a run to its end as a patient analyst does; return the sum, and all that was drawn."""
    vectors = set()
    for number in range(1, 10):
        attempt = Attempt(sites, run, computation, number=number)
        with contextlib.suppress(AssertionError):  # somebody was silent: begin anew
            attempt.keys()
            attempt.contribute(*asked)
            vectors |= {each.vector for each in inputs(site)}
            if not attempt.problems:
                total = attempt.open()
                end(sites, run, number + 1)
                return total, vectors
    raise AssertionError("the run came to no end")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_kill_9_at_any_transaction_of_a_run_neither_loses_nor_doubles_anything(tmp_path, after):
    """Every writing transaction of one site, from the request to its reply, is where it dies."""
    at, died = 0, True
    while died:
        at += 1
        sites = Sites(tmp_path / str(at))
        site = sites.all[0]
        crashing = dies_once(site, at, after=after)
        computation = sites.totals()
        run = sites.submit(computation)
        for _ in range(3):
            sites.step()
        total, vectors = drive(sites, computation, run, site, TOTALS)
        (total,) = ring.to_integers(total)
        for _ in range(5):
            site.federating._next_look = 0
            sites.step()
        died, crashing.at = crashing.at == 0, 0
        assert abs(total - 6000) < 500
        assert len(vectors) == 1
        assert len(events(site, "join")) == len(events(site, "release")) == 1
        replies = site.port.replies(run)
        assert len({each.salt for each in replies}) == 1  # the same bytes, if they came twice
        assert replies[0].part.rounds == 1
        with site.database.read() as snapshot:
            (charge,) = snapshot.execute(sa.select(tables.ledger)).all()
        assert charge.state == "spent"
        sites.close()
    assert at > 4  # joining, contributing, settling whom it is summed over, and the reply


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_kill_9_at_any_transaction_of_a_training_loses_no_round(tmp_path, after):
    sites = Sites(tmp_path / "0")
    digest = sites.training().digest
    sites.close()
    at, died = 0, True
    while died:
        at += 1
        # Keys are part of the digest, so all times it is the same sites, on other data.
        for site in (tmp_path / "0").iterdir():
            (tmp_path / str(at) / site.name / "state").mkdir(parents=True)
            key = site / "state" / "audit.key"
            (tmp_path / str(at) / site.name / "state" / "audit.key").write_bytes(key.read_bytes())
        sites = Sites(tmp_path / str(at), release=[digest])
        site = sites.all[0]
        crashing = dies_once(site, at, after=after)
        computation = sites.training()
        run = sites.submit(computation)
        for _ in range(3):
            sites.step()
        total, _ = drive(sites, computation, run, site, train_work(), [np.zeros(2)])
        for _ in range(5):
            site.federating._next_look = 0
            sites.step()
        died, crashing.at = crashing.at == 0, 0
        assert mean_of(total)[2] == pytest.approx(63)
        assert len(events(site, "join")) == len(events(site, "release")) == 1
        part = site.port.replies(run)[0].part
        assert part.rounds == 1
        # What was cut off before it was sent is counted too, since nobody can tell any more.
        assert part.contributions in {1, 2}
        remembered = []
        for each in sites.all:
            with each.database.read() as snapshot:
                remembered.append(len(snapshot.execute(sa.select(tables.run_sums)).all()))
        # Who died before it opened the sum does not know of it, but as many as open one do.
        assert remembered in ([1, 1, 1], [0, 1, 1])
        sites.close()
    assert at > 4  # joining, what is computed on, whom it is summed over, and the reply
