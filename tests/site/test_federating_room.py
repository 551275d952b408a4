"""How much a site holds and reads for runs, for whom, and what arrays it computes nothing from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from federated_fakes import TOTALS, Attempt, Sites, end, mean_of, train_work
from site_fakes import ANA

from privnb.errors import QueryRefused, RequestRefused
from privnb.federated.messages import MAX_ROUND_BYTES, Ask
from privnb.site.federated.joined import require_room

BOB = "bob@uni.example"
MIB = 2**20


@pytest.fixture
def sites(tmp_path):
    made = Sites(tmp_path)
    yield made
    made.close()


class Held:
    """A run as far as room goes."""

    def __init__(self, sender, held=0, *, mock=False, last=0):
        self.record = SimpleNamespace(sender=sender)
        self.working, self.mock, self.last = held * MIB, mock, last

    @property
    def held(self):
        return self.working + (self.last or 0) * MIB


def has_room(run, size, *others):
    try:
        require_room(run, size * MIB, runs=[run, *others])
    except RequestRefused:
        return False
    return True


@pytest.mark.parametrize(("mock", "most"), [(False, 1024), (True, 256)])
def test_runs_of_one_analyst_leave_half_of_the_room_to_others(mock, most):
    full = [Held(ANA, most // 4, mock=mock) for _ in range(2)]
    assert not has_room(Held(ANA, mock=mock), 5, *full)
    assert has_room(Held(BOB, mock=mock), most // 2, *full)
    assert has_room(Held(ANA, mock=not mock), 5, *full)  # it is another room
    full.append(Held(BOB, most // 2, mock=mock))
    assert not has_room(Held("cy@uni.example", mock=mock), 5, *full)


@pytest.mark.parametrize("mock", [False, True])
def test_what_is_small_is_always_computed(mock):
    full = [Held(who, 512, mock=mock) for who in (ANA, BOB)]
    assert has_room(Held(ANA, mock=mock), 4, *full)
    with pytest.raises(RequestRefused) as busy:
        require_room(Held(ANA, mock=mock), 4 * MIB + 1, runs=full)
    assert busy.value.code == "E_BUSY"


def test_the_largest_round_fits_into_the_half_of_one_analyst():
    assert has_room(Held(ANA), 3 * MAX_ROUND_BYTES // MIB)
    assert has_room(Held(ANA, mock=True), 3 * 8 * 5_000_000 // MIB)
    with pytest.raises(QueryRefused, match="mock twins"):
        has_room(Held(ANA, mock=True), 129)


def test_what_is_kept_to_spare_work_makes_room_and_that_of_others_only_where_it_has_to():
    own, other = Held(ANA, 500, last=12), Held(BOB, 0, last=12)
    assert has_room(Held(ANA), 12, own, other)
    assert (own.last, other.last) == (None, 12)
    full = [Held(ANA, 500), Held(BOB, 500, last=12)]
    assert has_room(Held("cy@uni.example"), 20, *full)
    assert full[1].last is None


def test_an_ask_that_is_larger_than_any_message_is_not_read(sites, monkeypatch):
    computation = sites.totals()
    run = sites.submit(computation)
    Attempt(sites, run, computation).keys()
    site = sites.all[0]
    name = "000001-contribute"
    site.ask_step(run, Ask(step="contribute", attempt=1, work=TOTALS))
    limits = []
    monkeypatch.setattr(site.port, "size", lambda *_: 300 * MIB)
    monkeypatch.setattr(site.port, "hear", lambda *_, limit: limits.append(limit))
    site.step()
    told, _ = site.told(run, name)
    assert told.problem is not None
    assert limits == []
    assert sites.channel.asks == {}


# What a training does not begin with


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_arrays_that_are_not_finite_cost_no_try(sites, kind, number):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    names = {site.name for site in sites.all}
    for attempted in range(1, 5):
        attempt = Attempt(sites, run, computation, number=attempted).keys()
        attempt.contribute(train_work(kind=kind), [np.array([attempted, number])])
        assert attempt.problems == dict.fromkeys(names, "E_WORK")
        assert "NaN or infinite" in attempt.words["northside"]
    box = sites.all[0].training_box
    assert (box.steps, box.twin_steps) == ([], [])
    attempt = Attempt(sites, run, computation, number=5).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    assert mean_of(attempt.open())[2] == pytest.approx(63)
    end(sites, run, 6)
    assert sites.all[0].reply(run).part.contributions == 1


def test_a_mock_run_fails_where_metrics_change_as_it_would_on_rows_and_says_so(sites):
    computation = sites.training(purpose=None)
    run = sites.submit(computation, action="mock")
    for number, config in enumerate([{}, {"metric": "odd"}, {"metric": ""}, {}], 1):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(min(number, 3), config=config), [np.zeros(2)])
        if not config:
            assert attempt.problems == {}
        else:
            assert set(attempt.problems.values()) == {"E_OUTPUT"}
            assert "other metrics than in its first round" in attempt.words["northside"]
    # To evaluate, they may be called otherwise than to train.
    attempt = Attempt(sites, run, computation, number=5).keys()
    attempt.contribute(train_work(kind="evaluate", config={"metric": "odd"}), [np.zeros(2)])
    assert attempt.problems == {}
