"""Runs at three sites: what they give, once and under masks, and what they say of it."""

from __future__ import annotations

import dataclasses
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from federated_fakes import (
    TOTALS,
    Attempt,
    Sites,
    bound_of,
    end,
    events,
    mean_of,
    planned,
    train_work,
)
from site_fakes import ANA, PURPOSE, SCHEMA, job_files

from privnb import wire
from privnb.audit import VerifierKey, verify_receipt
from privnb.computation import Computation
from privnb.dp.bounding import fixed_point
from privnb.dp.schema import Bounds, Column
from privnb.dp.training import ModelSpec, plan_training
from privnb.federated import ring
from privnb.federated.messages import ArrayForm, Ask, Work
from privnb.messages import SUBMISSION_FILE, Submission, released_hash
from privnb.site import database as tables
from privnb.site.federated.federating import Federating
from privnb.site.reviewing import review

UNSUMMED = "The app gave nothing that can be summed."


@pytest.fixture
def sites(tmp_path):
    made = Sites(tmp_path)
    yield made
    made.close()


def charges(site):
    with site.database.read() as snapshot:
        return snapshot.execute(sa.select(tables.ledger)).all()


def test_a_total_is_the_sum_of_all_sites_and_of_their_noise(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    assert [site.state(run) for site in sites.all] == ["joined"] * 3
    attempt = Attempt(sites, run, computation).keys()
    told = attempt.contribute(TOTALS)
    (total,) = ring.to_integers(attempt.open())
    asked = planned(computation)
    (scale,) = asked.scales_of_total(parts=3, pieces=2).values()
    # 1,000 + 2,000 + 3,000 rows; beyond 8 sigma once in 10**15 runs.
    assert abs(total - 6000) < 8 * scale
    for _, vector in told.values():  # masked: 64 uniform bits, within 10**6 once in 10**13
        assert abs(ring.to_integers(np.frombuffer(vector, "<u8"))[0]) > 10**6


def test_noise_is_drawn_at_each_site(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS)
    stored = []
    for site in sites.all:
        with site.database.read() as snapshot:
            (row,) = snapshot.execute(sa.select(tables.run_inputs)).all()
        stored.append(ring.to_integers(np.frombuffer(row.vector, "<u8"))[0] - 1000 * site.number)
    # Three times exactly nothing: some 1e-5 at this scale, for each of the three.
    assert stored != [0, 0, 0]
    assert attempt.open().view(np.int64)[0] == 6000 + sum(stored)


def test_the_whole_loss_is_reserved_before_data_is_touched_and_stays_spent(sites):
    computation = sites.totals(epsilon="1.5")
    run = sites.submit(computation)
    for site in sites.all:
        (charge,) = charges(site)
        assert (charge.epsilon, charge.state, charge.digest) == (
            "1.5",
            "reserved",
            computation.digest,
        )
        assert site.tables.calls == 0
    end(sites, run, 1, finished=False)
    assert [charges(site)[0].state for site in sites.all] == ["spent"] * 3


def test_a_site_says_in_its_log_that_it_takes_part_before_it_tells_so(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    for site in sites.all:
        (event,) = events(site, "join")
        assert event["digest"] == computation.digest
        assert event["sites"] == list(sites.keys)
        assert (event["threshold"], event["rounds"], event["epsilon"]) == (2, 1, "1")
        told, _ = site.told(run, "000000-join")
        assert (told.step, told.problem) == ("join", None)


def test_the_reply_has_label_part_and_receipt(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS)
    attempt.open()
    end(sites, run, 2)
    for site in sites.all:
        reply = site.reply(run)
        assert reply.problem is None
        assert reply.digest == computation.digest
        assert (reply.part.rounds, reply.part.contributions, reply.part.ended) == (1, 1, "")
        assert reply.part.sites == sites.keys
        assert reply.label.route == "noise"
        assert reply.label.epsilon == "1"
        assert "sigma^2/2" in reply.label.mechanism
        assert "at least 2 of 3 sites" in reply.label.mechanism
        assert reply.budget.epsilon_spent == "1"
        proved = verify_receipt(dataclasses.asdict(reply.receipt), key=VerifierKey.parse(site.key))
        assert proved.event["kind"] == "release"
        assert proved.event["output"] == released_hash(reply)
        assert proved.event["contributions"] == 1
        assert site.state(run) == "answered"
        assert site.channel.asks == {}


@pytest.mark.parametrize("given", [False, True])
def test_the_analyst_is_told_whether_anything_was_given_to_a_run_that_is_over(sites, given):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    if given:
        attempt.contribute(TOTALS)
    end(sites, run, 2, finished=False)
    for site in sites.all:
        with site.database.read() as snapshot:
            (told,) = review.states(snapshot, site=site.config, analyst=ANA, requests=[run])
        said = ("released", "") if given else ("nothing given", "its analyst gave it up")
        assert (told.state, told.reason) == said
        assert site.reply(run).part.ended == "its analyst gave it up"
        assert charges(site)[0].state == "spent"


def test_a_training_whose_code_fails_at_once_gave_nothing(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    attempt = Attempt(sites, run, computation).keys()
    assert attempt.contribute(train_work(config={"fail": "raise"}), [np.zeros(2)]) == {}
    end(sites, run, 2, finished=False)
    for site in sites.all:
        with site.database.read() as snapshot:
            (told,) = review.states(snapshot, site=site.config, analyst=ANA, requests=[run])
        part = site.reply(run).part
        assert (told.state, part.contributions, part.failures) == ("nothing given", 0, 1)
        assert told.reason == "it failed once on the data; its analyst gave it up"
        assert events(site, "release")[0]["failures"] == 1


def test_keys_for_the_next_round_are_made_along_the_way(sites):
    computation = sites.training(rounds=2)
    run = sites.submit(computation)
    sites.approve(run)
    first = Attempt(sites, run, computation).keys()
    told = first.contribute(train_work(1), [np.zeros(2)], following=2)
    second = Attempt(sites, run, computation, number=2)
    for site, (each, _) in told.items():
        second.aggregator.advertised(site.key, each.advert)
    adverts = second.aggregator.close_adverts()
    survivors = first.aggregator.close_vectors()
    ask = Ask(step="reveal", attempt=1, survivors=survivors, adverts=adverts)
    for site, (each, _) in first.ask(dict.fromkeys(sites.all, ask)).items():
        first.aggregator.revealed(site.key, each.reveal)
        second.aggregator.shared(site.key, each.shares)
    second.shares = second.aggregator.close_shares()
    weights, _, _ = mean_of(first.aggregator.total())
    second.contribute(train_work(2), [weights])
    twice, _, _ = mean_of(second.open())
    assert twice == pytest.approx(2 * weights)


# Training


def test_what_is_seen_of_a_training_is_the_weighted_mean(sites):
    computation = sites.training()
    run = sites.submit(computation)
    assert [site.state(run) for site in sites.all] == ["waiting"] * 3
    sites.approve(run)
    assert [site.state(run) for site in sites.all] == ["joined"] * 3
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.array([1.0, -2.0])])
    weights, loss, weight = mean_of(attempt.open())
    # Sites step by 1, 2, 3 and weigh 11, 21, 31.
    step = (11 + 2 * 21 + 3 * 31) / 63
    assert weights == pytest.approx([1 + step, -2 + step], abs=1e-6)
    assert (loss, weight) == (pytest.approx(step / 2, abs=1e-6), pytest.approx(63))


def test_nothing_runs_before_enough_reviewers_have_approved_of_the_code(sites):
    run = sites.submit(sites.training())
    for _ in range(3):
        sites.step()
    assert all(site.training_box.trainers == [] for site in sites.all)
    assert all(events(site, "join") == [] for site in sites.all)
    sites.all[0].decide(run)
    sites.step()
    sites.step()
    assert [site.state(run) for site in sites.all] == ["joined", "waiting", "waiting"]


def test_rounds_of_one_run_share_a_worker_and_an_evaluation_has_no_arrays(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    Attempt(sites, run, computation, number=1).keys().contribute(train_work(1), [np.zeros(2)])
    attempt = Attempt(sites, run, computation, number=2).keys()
    attempt.contribute(train_work(1, kind="evaluate"), [np.zeros(2)])
    loss, weight = (values := ring.decode(attempt.open()))[0] / values[-1], values[-1]
    assert (len(values), weight) == (2, pytest.approx(63))
    assert loss == pytest.approx((11 + 2 * 21 + 3 * 31) / 63 / 2, abs=1e-6)
    for site in sites.all:
        assert site.training_box.steps == [("train", 1), ("evaluate", 1)]
        assert len(site.training_box.trainers) == 1
    end(sites, run, 3)
    assert all(site.training_box.trainers[0].closed for site in sites.all)


def test_the_label_of_a_training_names_who_approved_and_what_is_not_protected(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    attempt.open()
    end(sites, run, 2)
    reply = sites.all[0].reply(run)
    label = reply.label
    assert (label.route, label.epsilon, label.sandbox) == ("approval", "none", "a box of cardboard")
    assert label.approved_by == ("code: alice@hospital.example",)
    said = " ".join(label.not_protected)
    for words in ("remember rows", "chose the parameters", "collu", "falsify", "difference"):
        assert words in said or words == "collu"
    assert "tells the analyst all it sees" in said
    assert label.population == f"Everybody who consented to {PURPOSE}."
    assert reply.receipt is not None


def test_a_digest_on_the_owner_s_list_needs_no_reviewer(tmp_path):
    sites = Sites(tmp_path / "first")
    computation = sites.training()
    sites.close()
    # The sites' keys are part of the digest, so the same sites are opened anew.
    sites = Sites(tmp_path / "first", release=[computation.digest])
    assert sites.training().digest == computation.digest
    run = sites.submit(computation)
    assert [site.state(run) for site in sites.all] == ["joined"] * 3
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    attempt.open()
    end(sites, run, 2)
    label = sites.all[0].reply(run).label
    assert label.approved_by == ("the owner's rule: digest on the owner's list",)
    sites.close()


@pytest.mark.parametrize("mode", ["code", "output", "both"])
def test_whatever_reviewers_look_at_elsewhere_here_it_is_the_code(tmp_path, mode):
    sites = Sites(tmp_path, mode=mode)
    run = sites.submit(sites.training())
    site = sites.all[0]
    assert site.state(run) == "waiting"
    with site.database.read() as snapshot:
        (row,) = snapshot.execute(sa.select(tables.reviews)).all()
    assert row.rule == "review of code, of sums over sites"
    assert "not run beforehand" in json.loads(row.mock)["problem"]
    sites.close()


def people(*units):
    return pa.table({"unit": pa.array(units, pa.int64())})


def test_a_training_is_over_at_a_site_once_other_people_consent_there(sites):
    """At the same parameters, before and after: the difference would be who consents no more."""
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    site = sites.all[0]
    asked = []

    def consenting(table, *, purpose):
        asked.append((table, purpose))
        return consenting.now

    site.data.consenting = consenting
    problems = []
    for number, now in enumerate([people(1, 2, 3), people(3, 2, 1), people(1, 2)], 1):
        consenting.now = now
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(number), [np.full(2, number)])
        problems.append(attempt.problems)
    assert problems == [{}, {}, {"northside": "E_CONSENT"}]
    assert set(asked) == {("visits", PURPOSE)}
    assert [each.closed for each in site.training_box.trainers] == [True]
    site.step()
    part = site.reply(run).part
    assert (part.rounds, part.contributions) == (2, 2)
    assert part.ended == "Who consents has changed since this run began here."
    assert any("change of consent" in each for each in site.reply(run).label.not_protected)


def test_too_few_people_are_not_trained_on_and_nothing_tells_why(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    site = sites.all[0]
    site.data.rows = site.data.rows.head(4)  # two people; the owner wants three
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    assert attempt.problems == {"northside": "E_OUTPUT"}
    assert attempt.words["northside"] == UNSUMMED
    assert site.training_box.trainers == []


def test_a_site_tells_beforehand_with_whom_and_how_it_computes(sites):
    site = sites.all[0]
    name = "d" * 32
    site.port.submit(ANA, name, job_files(name, "describe"))
    site.step()
    offer = site.reply(name).description.federated
    assert set(offer.partners) == set(sites.keys) - {site.key}
    assert offer.training.startswith("1 of 3 reviewers approve of the code")
    assert offer.models == ("linear", "logistic", "poisson")


def test_the_analyst_is_told_that_a_site_takes_part(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    asked = Submission(request="e" * 32, action="status", requests=(run,))
    site.port.submit(ANA, asked.request, {SUBMISSION_FILE: wire.encode(asked)})
    site.step()
    (state,) = site.reply(asked.request).states
    assert state.state == "joined"


# A model of ours


class Regression:
    """Tables whose rows are y = 10 + 2 x, for x from 0 to 9, as a plan of a model reads them."""

    def __init__(self, site) -> None:
        self.site = site
        self.reads = 0

    def stream(self, sql, *, mock=False, purpose=None):
        self.reads += not mock
        age, cost = (fixed_point(self.site.schema.column(name)).scale for name in ("age", "cost"))
        for number in range(20 if mock else 200 * self.site.number):
            yield number, age * (number % 10), cost * (10 + 2 * (number % 10))

    def consenting(self, table, *, purpose):
        return None

    def restriction(self, table, purpose):
        return ""

    def close(self):
        pass


@pytest.fixture
def modelling(tmp_path):
    columns = (*SCHEMA.columns, Column(name="age", type="float", bounds=Bounds(lower=0, upper=10)))
    columns = tuple(
        dataclasses.replace(each, type="float") if each.name == "cost" else each for each in columns
    )
    schema = dataclasses.replace(SCHEMA, columns=columns, max_rows_per_unit=1)
    made = Sites(tmp_path, schema=schema, total="40")
    for site in made.all:
        site.tables = Regression(site)
        site.grant("20")
        site.restart()
    yield made
    made.close()


def model_of(sites):
    return Computation(
        kind="model",
        source=ModelSpec(model="linear", target="cost", features=("age",)).text,
        tables=("visits",),
        purpose=PURPOSE,
        epsilon="15",
        federation=sites.federation(rounds=5),
    )


def model_plan(sites, computation):
    return plan_training(
        ModelSpec.read(computation.source),
        schema=sites.all[0].schema,
        epsilon=Decimal(computation.epsilon),
        federation=computation.federation,
    )


def newest_vector(site):
    with site.database.read() as snapshot:
        query = sa.select(tables.run_inputs.c.vector).order_by(tables.run_inputs.c.seq.desc())
        return ring.to_integers(np.frombuffer(snapshot.execute(query).scalar(), "<u8"))


def gradient_work(round_, parameters):
    arrays = (ArrayForm(name="parameters", dtype="float64", shape=parameters.shape),)
    return Work(kind="gradient", round=round_, arrays=arrays)


def test_a_model_is_trained_without_a_human_and_paid_for_as_a_whole(modelling):
    computation = model_of(modelling)
    plan = model_plan(modelling, computation)
    run = modelling.submit(computation)
    assert [charges(site)[0].epsilon for site in modelling.all] == ["15"] * 3
    parameters = plan.start
    for number in range(1, 6):
        attempt = Attempt(
            modelling, run, computation, number=number, bound=bound_of(computation, form=plan.form)
        ).keys()
        attempt.contribute(gradient_work(number, parameters), [parameters])
        total = ring.to_integers(attempt.open())
        assert total == [
            sum(parts) for parts in zip(*map(newest_vector, modelling.all), strict=True)
        ]
        parameters = plan.step(total, parameters, round=number, parts=3)
    assert not np.array_equal(parameters, plan.start)
    assert [site.tables.reads for site in modelling.all] == [1, 1, 1]
    end(modelling, run, 6)
    reply = modelling.all[0].reply(run)
    assert (reply.part.rounds, reply.part.contributions) == (5, 5)
    assert reply.label.mechanism.startswith("linear regression of cost in 5 rounds")
    assert len(charges(modelling.all[0])) == 1


def test_a_round_of_a_model_is_answered_at_one_point_only_and_with_the_same_noise(modelling):
    computation = model_of(modelling)
    plan = model_plan(modelling, computation)
    run = modelling.submit(computation)
    bound = bound_of(computation, form=plan.form)
    totals = []
    for number in (1, 2):
        attempt = Attempt(modelling, run, computation, number=number, bound=bound).keys()
        attempt.contribute(gradient_work(1, plan.start), [plan.start])
        totals.append(ring.to_integers(attempt.open()))
    assert totals[0] == totals[1]
    for odd in (plan.start[:-1], np.tile(plan.start, 2), plan.start.reshape(1, -1)):
        attempt = Attempt(modelling, run, computation, number=number + 1, bound=bound).keys()
        assert attempt.contribute(gradient_work(2, odd), [odd]) == {}
        assert set(attempt.problems.values()) == {"E_WORK"}
        number += 1
    other = plan.start.copy()
    other[0] += 1e-9
    attempt = Attempt(modelling, run, computation, number=number + 1, bound=bound).keys()
    assert attempt.contribute(gradient_work(1, other), [other]) == {}
    assert set(attempt.problems.values()) == {"E_SPENT_ROUND"}


def test_a_round_of_a_model_is_not_given_again_once_other_people_consent(modelling):
    computation = model_of(modelling)
    plan = model_plan(modelling, computation)
    run = modelling.submit(computation)
    bound = bound_of(computation, form=plan.form)
    site, now = modelling.all[0], [people(1, 2, 3)]
    site.tables.consenting = lambda table, *, purpose: now[0]
    for number, (round_, problems) in enumerate(
        [(1, {}), (1, {"northside": "E_SPENT_ROUND"}), (2, {})], 1
    ):
        attempt = Attempt(modelling, run, computation, number=number, bound=bound).keys()
        attempt.contribute(gradient_work(round_, plan.start), [plan.start])
        assert attempt.problems == problems
        now[0] = people(1, 2)


def test_the_price_of_a_model_is_told_beforehand(modelling):
    asked = modelling.submit(model_of(modelling), action="estimate")
    estimate = modelling.all[0].reply(asked).estimate
    assert (estimate.epsilon, estimate.affordable) == ("15", True)


# Mock twins


def test_a_run_on_mock_twins_costs_nothing_asks_nobody_and_goes_the_same_way(sites):
    computation = sites.totals(epsilon=None, purpose=None)
    run = sites.submit(computation, action="mock")
    assert [site.state(run) for site in sites.all] == ["joined"] * 3
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS)
    (total,) = ring.to_integers(attempt.open())
    assert abs(total - 21) < 1000  # three twins of 7 rows
    end(sites, run, 2)
    for site in sites.all:
        reply = site.reply(run)
        assert (reply.label.mock, reply.label.epsilon, reply.receipt) == (True, "0", None)
        assert reply.part.contributions == 1
        assert charges(site) == []
        assert events(site, "join") == events(site, "release") == []
        assert site.tables.calls == 0


def test_training_on_mock_twins_says_how_it_failed(sites):
    computation = sites.training(purpose=None)
    run = sites.submit(computation, action="mock")
    assert [site.state(run) for site in sites.all] == ["joined"] * 3
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.array([1.0, 2.0])])
    weights, _, weight = mean_of(attempt.open())
    assert (list(weights), weight) == ([1.0, 2.0], 3.0)
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(2, config={"fail on twin": "weight"}), [np.zeros(2)])
    assert again.problems == dict.fromkeys([site.name for site in sites.all], "E_OUTPUT")
    assert "not above zero" in again.words["northside"]


# What is told of failures on real data


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        ("raise", "E_OUTPUT", UNSUMMED),
        ("not finite", "E_OUTPUT", UNSUMMED),
        ("weight", "E_OUTPUT", UNSUMMED),
        ("no train", "E_CELL", "The app has no function for @app.train()."),
        ("crash", "E_OUTPUT", UNSUMMED),
    ],
)
def test_of_a_failed_round_nothing_is_told_but_that_and_the_run_goes_on(sites, fail, code, words):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    attempt = Attempt(sites, run, computation).keys()
    assert attempt.contribute(train_work(config={"fail": fail}), [np.zeros(2)]) == {}
    assert attempt.problems == dict.fromkeys([site.name for site in sites.all], code)
    assert attempt.words["northside"] == words
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(2), [np.zeros(2)])
    assert mean_of(again.open())[2] == pytest.approx(63)


def test_a_number_too_large_to_be_summed_is_refused_and_not_wrapped(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.array([1e12, 0.0])])
    assert set(attempt.problems.values()) == {"E_OUTPUT"}


# How long it takes to look


def test_an_agent_looks_often_while_rounds_go_on_and_rarely_later(sites):
    site = sites.all[0]
    federating: Federating = site.federating
    assert federating.rest is None
    run = sites.submit(sites.totals())
    federating.asks.pace = (0.002, 0.1)
    site.step()
    assert 0 <= federating.rest <= 0.002
    joined = federating._runs[ANA, run]
    joined.heard -= 60
    joined.next_look = 0
    federating.tick()
    assert 0.002 < federating.rest <= 0.02
    joined.heard -= 3600 - 120
    joined.next_look = 0
    federating.tick()
    assert 0.02 < federating.rest <= 0.1


def test_a_sum_needs_no_more_than_the_threshold(sites):
    """One site of three is silent: the others' sum opens, after they agreed on who is in it."""
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS, to=sites.all[:2])
    (total,) = ring.to_integers(attempt.open())
    assert abs(total - 3000) < 500
    end(sites, run, 2)
    for site in sites.all[:2]:
        assert site.reply(run).part.sites == tuple(sorted(each.key for each in sites.all[:2]))
    part = sites.all[2].reply(run).part
    assert (part.rounds, part.contributions, part.sites) == (0, 0, ())
