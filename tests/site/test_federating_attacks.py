"""What an analyst, a storage or another site may try, and what a site answers: nothing of use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sqlalchemy as sa
from federated_fakes import (
    COUNT,
    SCHEMA,
    TOTALS,
    Attempt,
    Sites,
    bound_of,
    end,
    events,
    mean_of,
    train_work,
)
from site_fakes import ANA, PURPOSE

from privnb.audit import VerifierKey, origin_of
from privnb.errors import BadMessage, QueryRefused, StateError
from privnb.federated import ring
from privnb.federated.messages import ArrayForm, Ask, Told, Work, pack, unpack
from privnb.site import database as tables
from privnb.site.federated import contributing, federating, joined
from privnb.site.federated.asks import Asks
from privnb.site.federated.ending import RunEndings
from privnb.site.federated.modelling import Model
from privnb.site.federated.training import Training

BOB = "bob@uni.example"


@pytest.fixture
def sites(tmp_path):
    made = Sites(tmp_path)
    yield made
    made.close()


@pytest.fixture
def training(sites):
    """A training that all three take part in: the computation, and its run."""
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    return computation, run


def problem(site, run, name):
    told, blob = site.told(run, name)
    assert blob == b""
    assert told.problem is not None
    return told.problem


def ask(site, run, message, blob=b""):
    """Ask one site, and return the problem it tells."""
    site.ask_step(run, message, blob)
    for _ in range(50):
        site.step()
        told, _ = site.told(run, f"{message.attempt:06d}-{message.step}")
        if told is not None:
            return told.problem and told.problem.code
    raise AssertionError("nothing was told")


# Before a run begins


@pytest.mark.parametrize("action", ["run", "mock", "estimate"])
def test_a_site_without_partners_takes_part_in_nothing(sites, action):
    site = sites.all[0]
    site.federated = None
    site.restart()
    for computation in (sites.totals(), sites.training()):
        run = sites.submit(computation, action=action, to=[site])
        reply = site.reply(run)
        assert reply.problem.code == "E_NO_FEDERATION"
    assert events(site, "join") == []


def test_a_site_that_is_no_partner_is_never_computed_with(sites):
    stranger = VerifierKey(name=origin_of("evil", "e@evil.example"), public=bytes([2, *[0] * 31]))
    keys = tuple(sorted([sites.all[0].key, sites.all[1].key, str(stranger)]))
    for action in ("run", "mock"):
        purpose = PURPOSE if action == "run" else None
        computation = sites.totals(federation=sites.federation(sites=keys), purpose=purpose)
        run = sites.submit(computation, action=action, to=[sites.all[0]])
        assert sites.all[0].reply(run).problem.code == "E_PARTNERS"


def test_the_owner_s_number_of_colluding_sites_is_kept(sites):
    site = sites.all[0]
    site.settings_of(colluding=1)
    run = sites.submit(sites.totals(), to=[site])
    assert site.reply(run).problem.code == "E_THRESHOLD"
    federation = sites.federation(threshold=3, colluding=1)
    run = sites.submit(sites.totals(federation=federation), to=[site])
    assert site.state(run) == "joined"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"epsilon": "100"}, "E_EPSILON"),
        ({"epsilon": "9"}, "E_BUDGET"),
        ({"purpose": "marketing"}, "E_PURPOSE"),
        ({"sql": "SELECT cost FROM visits"}, "E_NOT_GROUPED"),
        ({"sql": "SELECT cost, COUNT(*) AS n FROM visits GROUP BY cost"}, "E_NO_VALUES"),
    ],
)
def test_totals_are_decided_on_like_any_question(sites, changes, code):
    site = sites.all[0]
    run = sites.submit(sites.totals(**changes), to=[site])
    assert site.reply(run).problem.code == code
    assert events(site, "join") == []


def test_a_table_of_pure_accounting_has_no_totals(tmp_path):
    sites = Sites(tmp_path, schema=dataclasses.replace(SCHEMA, accounting="pure"))
    run = sites.submit(sites.totals(), to=sites.all[:1])
    assert sites.all[0].reply(run).problem.code == "E_ACCOUNTING"
    sites.close()


def test_an_analyst_has_so_many_runs_at_a_time_and_no_more(sites):
    site = sites.all[0]
    site.grant("9")
    for _ in range(20):
        run = sites.submit(sites.totals(epsilon="0.01"), to=[site])
        assert site.state(run) == "joined"
    run = sites.submit(sites.totals(epsilon="0.01"), to=[site])
    assert site.reply(run).problem.code == "E_BUSY"
    run = sites.submit(sites.totals(purpose=None), action="mock", to=[site])
    assert site.reply(run).problem.code == "E_BUSY"


def test_an_estimate_tells_the_price_and_costs_nothing(sites):
    asked = sites.submit(sites.totals(), action="estimate")
    estimate = sites.all[0].reply(asked).estimate
    assert (estimate.epsilon, estimate.affordable) == ("1", True)
    asked = sites.submit(sites.training(), action="estimate")
    assert sites.all[0].reply(asked).problem is not None


# Other computations, rosters and keys under the name of one run


def test_sites_that_were_asked_for_different_things_are_in_no_sum_together(sites):
    """The others' noise protects too: with a fiftieth of it, one site would stand bare."""
    first, *others = sites.all
    careful, careless = sites.totals(epsilon="0.5"), sites.totals(epsilon="3.5")
    run = sites.submit(careful, to=[first])
    sites.submit(careless, to=others, name=run)
    adverts = []
    for site in sites.all:
        site.ask_step(run, Ask(step="advertise", attempt=1))
        site.step()
        adverts.append(site.told(run, "000001-advertise")[0].advert)
    for site in sites.all:
        message = Ask(step="share", attempt=1, adverts=tuple(adverts))
        assert ask(site, run, message) == "E_BAD_MESSAGE"


@pytest.mark.parametrize("purpose", [PURPOSE, None])
def test_real_parts_are_in_no_sum_with_made_up_ones(sites, purpose):
    """Who knows the mock twins, as everybody does, knows what these give, and the rest with it."""
    computation = sites.training(purpose=purpose)
    first, *others = sites.all
    run = sites.submit(computation, to=[first])
    sites.submit(computation, action="mock", to=others, name=run)
    # With a purpose no twin takes part, and without one no data does.
    codes = [site.reply(run).problem.code for site in (others if purpose else [first])]
    assert set(codes) == {"E_PURPOSE"}


@pytest.mark.parametrize("kind", ["sql", "python"])
def test_sites_that_compute_for_different_analysts_are_in_no_sum_together(sites, kind):
    first, *others = sites.all
    for site in others:
        site.grant(analyst=BOB)
    computation = sites.totals() if kind == "sql" else sites.training()
    run = sites.submit(computation, to=[first])
    sites.submit(computation, to=others, name=run, sender=BOB)
    if kind == "python":
        for site in sites.all:
            site.decide(run, sender=ANA if site is first else BOB)
        sites.step()
        sites.step()
    shared = {"advertise": [], "share": []}
    for step, heard in shared.items():
        adverts = tuple(told.advert for told in shared["advertise"])
        for site in sites.all:
            whose = (site.port.email, ANA if site is first else BOB, run, f"000001-{step}")
            message = Ask(step=step, attempt=1, adverts=adverts if step == "share" else ())
            sites.channel.asks[whose] = pack(message)
            site.step()
            heard.append(unpack(Told, sites.channel.answers.pop(whose), what="it")[0])
    # The two who compute for Bob would be enough for a sum; the roster names three.
    assert [told.problem.code for told in shared["share"]] == ["E_BAD_MESSAGE"] * 3


@pytest.mark.parametrize("kind", ["sql", "python"])
def test_keys_for_data_are_no_keys_for_mock_twins(sites, kind):
    computation = sites.totals() if kind == "sql" else sites.training()
    run = sites.submit(computation)
    if kind == "python":
        sites.approve(run)
    real = bound_of(computation)
    attempt = Attempt(sites, run, computation, bound=real.replace("run/", "mock/", 1))
    site = sites.all[0]
    told, _ = attempt.ask({site: Ask(step="advertise", attempt=1)})[site]
    with pytest.raises(BadMessage):
        attempt.aggregator.advertised(site.key, told.advert)
    Attempt(sites, run, computation, bound=real).aggregator.advertised(site.key, told.advert)


def test_keys_that_somebody_else_made_are_refused(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    other = sites.submit(dataclasses.replace(computation, source=f"{COUNT} WHERE cost > 3"))
    attempt = Attempt(sites, run, computation)
    told = attempt.ask({site: Ask(step="advertise", attempt=1) for site in sites.all})
    strange = Attempt(sites, other, computation)
    elsewhere = strange.ask({site: Ask(step="advertise", attempt=1) for site in sites.all})
    first, second, third = (told[site][0].advert for site in sites.all)
    swapped = dataclasses.replace(second, mask_key=third.mask_key)
    from_elsewhere = elsewhere[sites.all[1]][0].advert
    for adverts in (
        (first, swapped, third),
        (first, from_elsewhere, third),
        (first, second, second),
        (first, second),
        (second, third),
        (dataclasses.replace(first, mask_key=third.mask_key), second, third),
    ):
        code = ask(sites.all[0], run, Ask(step="share", attempt=1, adverts=adverts))
        assert code in {"E_BAD_MESSAGE", "E_ROSTER"}
    # What was refused changed nothing.
    message = Ask(step="share", attempt=1, adverts=(first, second, third))
    assert ask(sites.all[0], run, message) is None


def test_a_roster_below_the_owner_s_minimum_is_refused(sites):
    """The federation names three sites; two of them are too few for a round."""
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation)
    told = attempt.ask({site: Ask(step="advertise", attempt=1) for site in sites.all[:2]})
    adverts = tuple(each.advert for each, _ in told.values())
    assert ask(sites.all[0], run, Ask(step="share", attempt=1, adverts=adverts)) == "E_ROSTER"


# Within a run


def test_one_attempt_s_keys_mask_one_vector(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    site = sites.all[0]
    shares = attempt.shares[site.key]
    message = Ask(step="contribute", attempt=1, shares=shares, work=train_work(2))
    assert ask(site, run, message, np.ones(2).tobytes()) == "E_ROSTER"
    assert mean_of(attempt.open())[2] == pytest.approx(63)


def test_a_site_is_not_both_alive_and_gone(sites, training):
    """Two lists of survivors: a site that revealed for one reveals for no other."""
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    survivors = attempt.aggregator.close_vectors()
    fewer = dict(list(survivors.items())[:2])
    site = sites.by_key[next(iter(fewer))]
    assert ask(site, run, Ask(step="reveal", attempt=1, survivors=survivors)) is None
    assert ask(site, run, Ask(step="reveal", attempt=1, survivors=fewer)) == "E_ROSTER"
    # Without the others' agreement, nobody reveals for fewer than the roster.
    other = sites.by_key[list(fewer)[1]]
    assert ask(other, run, Ask(step="reveal", attempt=1, survivors=fewer)) == "E_ROSTER"
    alone = {site.key: survivors[site.key]}
    assert ask(other, run, Ask(step="reveal", attempt=1, survivors=alone)) == "E_ROSTER"


def test_the_same_input_is_summed_over_the_same_sites_or_not_at_all(sites, training):
    """All three, then all but one: the difference would be one site's update."""
    computation, run = training
    first = Attempt(sites, run, computation, number=1).keys()
    first.contribute(train_work(), [np.zeros(2)])
    first.open()
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)], to=sites.all[:2])
    survivors = again.aggregator.close_vectors()
    for site in sites.all[:2]:
        assert ask(site, run, Ask(step="agree", attempt=2, survivors=survivors)) == "E_ROSTER"
    # The very same sites may have it again, and it is the same.
    third = Attempt(sites, run, computation, number=3).keys()
    third.contribute(train_work(), [np.zeros(2)])
    assert mean_of(third.open())[2] == pytest.approx(63)


def test_whom_a_sum_is_for_outlasts_a_restart_of_all_sites(sites, training):
    computation, run = training
    first = Attempt(sites, run, computation, number=1).keys()
    first.contribute(train_work(), [np.zeros(2)], to=sites.all[:2])
    first.open()
    for site in sites.all:
        site.restart()
    again = Attempt(sites, run, computation, number=2).keys()
    again.contribute(train_work(), [np.zeros(2)])
    survivors = again.aggregator.close_vectors()
    codes = [
        ask(site, run, Ask(step="reveal", attempt=2, survivors=survivors)) for site in sites.all
    ]
    # The two that gave it before refuse; the third alone opens nothing.
    assert codes == ["E_ROSTER", "E_ROSTER", None]


def test_a_round_has_a_few_inputs_and_no_more(sites, training):
    computation, run = training
    for number, start in enumerate((0.0, 1.0, 2.0), 1):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(), [np.full(2, start)])
        assert attempt.problems == {}
    attempt = Attempt(sites, run, computation, number=4).keys()
    attempt.contribute(train_work(), [np.full(2, 3.0)])
    assert set(attempt.problems.values()) == {"E_SPENT_ROUND"}


@pytest.mark.parametrize("fault", ["raise", "weight"])
def test_what_failed_was_a_try_as_well(sites, training, fault):
    """Were it none, an analyst could ask one bit after the other whether the app fails."""
    computation, run = training
    codes = []
    for number in range(1, 4):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(config={"fail": fault, "bit": number}), [np.zeros(2)])
        codes.append(attempt.problems["northside"])
    assert codes == ["E_OUTPUT", "E_OUTPUT", "E_LIMIT"]
    assert len(sites.all[0].training_box.steps) == 3


def test_code_that_failed_on_data_three_times_is_not_run_on_it_again(sites):
    """Each failure tells one bit of what the analyst chose: in all rounds and runs, so many."""
    computation = sites.training()
    site = sites.all[0]
    for number in range(1, 4):
        run = sites.submit(computation)
        sites.approve(run)
        attempt = Attempt(sites, run, computation).keys()
        kind = "evaluate" if number == 2 else "train"
        work = train_work(number, kind=kind, config={"fail": "raise"})
        attempt.contribute(work, [np.full(2, number)], to=[site])
        assert attempt.problems == {"northside": "E_OUTPUT" if number < 3 else "E_LIMIT"}
        end(sites, run, 2)
    reply = site.reply(run)
    assert reply.problem.code == "E_LIMIT"
    again = site.reply(sites.submit(computation, to=[site]))
    assert again.problem.code == "E_LIMIT"
    assert "failed 3 times" in again.problem.message
    assert len(site.training_box.steps) == 3
    # Other code is another matter, and so is what fails on mock twins.
    other = sites.submit(sites.training(source="app = ClientApp()  # mended"))
    assert site.state(other) == "waiting"


def test_failures_on_the_mock_twin_and_outages_of_the_site_are_not_counted(sites, training):
    computation, run = training
    site = sites.all[0]
    whole, site.data.frame = site.data.frame, None

    def away(table, *, purpose, mock=False):
        if mock:
            return whole(table, purpose=purpose, mock=mock)
        raise StateError("The table cannot be read now.")

    site.data.frame = away
    for number in range(1, 5):
        config = {"fail on twin": "weight", "n": number} if number < 4 else None
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(1 + number // 4, config=config), [np.zeros(2)])
        assert attempt.problems["northside"] == ("E_OUTPUT" if number < 4 else "E_EXECUTION")
    site.data.frame = whole
    again = Attempt(sites, run, computation, number=5).keys()
    again.contribute(train_work(2), [np.zeros(2)])
    assert again.problems == {}
    end(sites, run, 6)
    part = site.reply(run).part
    assert (part.contributions, part.failures) == (1, 0)


def test_the_same_is_computed_a_few_times_and_no_more(sites, training, monkeypatch):
    """An app with noise of its own would be averaged over attempts."""
    monkeypatch.setattr(contributing, "_KEPT_BYTES", 0)
    computation, run = training
    for number in range(1, 7):
        if number == 4:
            for site in sites.all:
                site.restart()
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(), [np.zeros(2)])
        spent = dict.fromkeys([site.name for site in sites.all], "E_SPENT_ROUND")
        assert attempt.problems == ({} if number < 6 else spent)
    assert [len(site.training_box.steps) for site in sites.all] == [5, 5, 5]


def test_what_was_computed_is_kept_until_something_else_is(sites, training):
    computation, run = training
    for number in range(1, 9):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(), [np.zeros(2)])
        assert mean_of(attempt.open())[2] == pytest.approx(63)
    assert [len(site.training_box.steps) for site in sites.all] == [1, 1, 1]
    attempt = Attempt(sites, run, computation, number=9).keys()
    attempt.contribute(train_work(2), [np.ones(2)])
    assert [len(site.training_box.steps) for site in sites.all] == [2, 2, 2]


@pytest.mark.parametrize("restarted", [False, True])
def test_metrics_are_called_what_they_are_called_on_the_mock_twin(sites, training, restarted):
    """Names leave unmasked: chosen by the rows, in any round, they could spell them out."""
    computation, run = training
    codes = []
    for number, config in enumerate(
        [{"metric on rows": "odd"}, {}, {"metric": "odd"}, {"metric on rows": "odd"}], 1
    ):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work(min(number, 3), config=config), [np.zeros(2)])
        codes.append(attempt.problems.get("northside"))
        assert "odd" not in "".join(attempt.words.values())
        if restarted:
            for site in sites.all:
                site.restart()
    # Whatever they were called by the first work after a restart is as public as the twin.
    # The third failure on rows is the end.
    assert codes == [
        "E_OUTPUT",
        None,
        *([None, "E_OUTPUT"] if restarted else ["E_OUTPUT", "E_LIMIT"]),
    ]


@pytest.mark.parametrize(
    "config", [{"metric": "", "metric on rows": "odd"}, {"metric on rows": ""}]
)
def test_no_metric_is_told_of_that_there_is_on_rows_only_or_on_the_twin_only(
    sites, training, config
):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(config=config), [np.zeros(2)])
    assert attempt.problems["northside"] == "E_OUTPUT"


def test_names_are_looked_for_on_the_mock_twin_once_for_each_kind(sites, training):
    computation, run = training
    for number, kind in enumerate(["train", "evaluate", "train", "evaluate"], 1):
        attempt = Attempt(sites, run, computation, number=number).keys()
        attempt.contribute(train_work((number + 1) // 2, kind=kind), [np.zeros(2)])
        assert attempt.problems == {}
    box = sites.all[0].training_box
    assert box.twin_steps == [("train", 1), ("evaluate", 1)]
    assert len(box.steps) == 4


def test_an_app_that_fails_on_the_mock_twin_sees_no_row(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(config={"fail on twin": "weight"}), [np.zeros(2)])
    assert attempt.problems["northside"] == "E_OUTPUT"
    assert attempt.words["northside"].startswith("On the mock twin: ")
    assert sites.all[0].training_box.steps == []


@pytest.mark.parametrize(
    ("work", "blob", "code"),
    [
        (train_work(0), np.zeros(2), "E_WORK"),
        (train_work(4), np.zeros(2), "E_WORK"),
        (TOTALS, np.zeros(0), "E_WORK"),
        # A metric that is large at one site only would make its part the mean.
        (dataclasses.replace(train_work(), weighted_by="loss"), np.zeros(2), "E_WORK"),
        (Work(kind="gradient", round=1, arrays=train_work().arrays), np.zeros(2), "E_WORK"),
        (train_work(), np.zeros(1), "E_BAD_MESSAGE"),
        (train_work(), np.zeros(3), "E_BAD_MESSAGE"),
        (dataclasses.replace(train_work(), arrays=train_work().arrays * 2), np.zeros(4),
         "E_BAD_MESSAGE"),
        (Work(kind="train", round=1, arrays=(
            ArrayForm(name="w", dtype="float64", shape=(-1, -2)),)), np.zeros(2), "E_BAD_MESSAGE"),
        (Work(kind="train", round=1, arrays=(
            ArrayForm(name="w" * 201, dtype="float64", shape=(2,)),)), np.zeros(2),
         "E_BAD_MESSAGE"),
        (Work(kind="train", round=1, arrays=(
            ArrayForm(name="w", dtype="float64", shape=(10**9, 10**9)),)), np.zeros(2),
         "E_BAD_MESSAGE"),
        (None, np.zeros(0), "E_BAD_MESSAGE"),
    ],
)  # fmt: skip
def test_work_that_is_none_of_the_run_s_is_refused(sites, training, work, blob, code):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=work)
    assert ask(site, run, message, blob.tobytes()) == code
    assert site.training_box.steps == []


def test_totals_are_asked_for_with_nothing_beside(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    for work in (
        dataclasses.replace(TOTALS, config={"x": 1}),
        dataclasses.replace(TOTALS, round=2),
        train_work(),
    ):
        message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=work)
        blob = np.zeros(2).tobytes() if work.arrays else b""
        assert ask(site, run, message, blob) == "E_WORK"
    assert site.tables.calls == 0


def test_totals_are_given_for_one_work_whatever_it_is_called(sites):
    """A part of the work that does not matter would otherwise buy fresh noise on the same data."""
    computation = sites.totals()
    run = sites.submit(computation)
    Attempt(sites, run, computation, number=1).keys().contribute(TOTALS)
    attempt = Attempt(sites, run, computation, number=2).keys()
    attempt.contribute(dataclasses.replace(TOTALS, weighted_by="something else"))
    assert set(attempt.problems.values()) == {"E_SPENT_ROUND"}
    assert [site.tables.calls for site in sites.all] == [1, 1, 1]


def test_attempts_do_not_come_twice(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    site = sites.all[0]
    assert ask(site, run, Ask(step="advertise", attempt=7)) is None
    assert ask(site, run, Ask(step="advertise", attempt=7)) == "E_ROSTER"
    assert ask(site, run, Ask(step="advertise", attempt=6)) == "E_ROSTER"
    assert ask(site, run, Ask(step="advertise", attempt=8)) is None


def test_a_step_out_of_turn_is_refused(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    site = sites.all[0]
    assert ask(site, run, Ask(step="share", attempt=1)) == "E_RESTARTED"
    assert ask(site, run, Ask(step="advertise", attempt=1)) is None
    for message in (
        Ask(step="agree", attempt=1, survivors={}),
        Ask(step="reveal", attempt=1, survivors={site.key: "00"}),
        Ask(step="contribute", attempt=1, shares={}, work=TOTALS),
    ):
        assert ask(site, run, message) == "E_ROSTER"
    for number in range(2, 8):
        assert ask(site, run, Ask(step="advertise", attempt=number)) is None
    assert ask(site, run, Ask(step="share", attempt=1)) == "E_ROSTER"  # long given up


def test_who_gave_nothing_to_a_sum_opens_none(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)], to=sites.all[:2])
    survivors = attempt.aggregator.close_vectors()
    for step in ("agree", "reveal"):
        assert ask(sites.all[2], run, Ask(step=step, attempt=1, survivors=survivors)) == "E_ROSTER"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("000001-advertise", b""),
        ("000001-advertise", b"\xff\xff\xff\xff{}"),
        ("000001-advertise", pack(Ask(step="share", attempt=1))),
        ("000001-advertise", pack(Ask(step="advertise", attempt=2))),
        ("000001-advertise", pack(Ask(step="advertise", attempt=1), b"more")),
        ("000000-join", pack(Ask(step="join", attempt=0))),
        ("000001-dance", pack(Ask(step="advertise", attempt=1))),
        ("000000-advertise", pack(Ask(step="advertise", attempt=0))),
        ("000001-contribute", pack(Ask(step="contribute", attempt=1), b"\0" * 100)),
    ],
)
def test_nonsense_is_answered_and_harms_nobody(sites, name, data):
    computation = sites.totals()
    run = sites.submit(computation)
    site = sites.all[0]
    site.told(run, "000000-join")
    sites.channel.asks[site.port.email, ANA, run, name] = data
    site.step()
    assert problem(site, run, name).code in {"E_BAD_MESSAGE", "E_RESTARTED"}
    attempt = Attempt(sites, run, computation, number=3).keys()
    attempt.contribute(TOTALS)
    assert abs(ring.to_integers(attempt.open())[0] - 6000) < 500


def test_what_unforeseen_happens_in_one_run_ends_that_run_alone(sites, training, monkeypatch):
    _, run = training
    other = sites.submit(sites.totals())
    site = sites.all[0]
    whole = Asks._answer

    def broken(self, joined, name):
        if joined.record.name == run:
            raise ZeroDivisionError("a bug")
        return whole(self, joined, name)

    monkeypatch.setattr(Asks, "_answer", broken)
    site.ask_step(run, Ask(step="advertise", attempt=1))
    site.step()
    site.step()
    assert site.reply(run).problem.code == "E_EXECUTION"
    assert ask(site, other, Ask(step="advertise", attempt=1)) is None


# The owner has the last word


def test_a_grant_that_is_withdrawn_stops_the_run_before_the_next_part_leaves(sites, training):
    computation, run = training
    Attempt(sites, run, computation, number=1).keys().contribute(train_work(), [np.zeros(2)])
    attempt = Attempt(sites, run, computation, number=2).keys()
    site = sites.all[0]
    site.federating._next_patrol = float("inf")
    site.grant(withdrawn=True)
    attempt.contribute(train_work(2), [np.zeros(2)])
    assert attempt.problems == {"northside": "E_NO_GRANT"}
    site.step()
    reply = site.reply(run)
    # What left before was released, and is told of as such; why it ended is told too.
    assert (reply.problem, reply.part.contributions) == (None, 1)
    assert reply.part.ended.startswith("You have no grant any more")
    assert site.training_box.steps == [("train", 1)]
    assert site.training_box.trainers[0].closed
    (event,) = events(site, "release")
    assert event["contributions"] == 1


def test_a_grant_withdrawn_before_the_sum_opens_keeps_it_closed(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    survivors = attempt.aggregator.close_vectors()
    site = sites.all[0]
    site.federating._next_patrol = float("inf")
    site.grant(withdrawn=True)
    assert ask(site, run, Ask(step="reveal", attempt=1, survivors=survivors)) == "E_NO_GRANT"


def test_a_run_whose_end_cannot_be_described_ends_all_the_same(sites, training, monkeypatch):
    """Were it tried again for ever, no other run of the site would go on."""
    computation, run = training
    other = sites.submit(sites.totals())
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)])
    site = sites.all[0]

    def no_label(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Training, "label", no_label)
    end(sites, run, 2)
    site.step()
    reply = site.reply(run)
    assert (reply.problem, reply.part.contributions) == (None, 1)
    assert reply.label.mechanism.startswith("no noise")  # as it was said when the part was given
    assert ask(site, other, Ask(step="advertise", attempt=1)) is None


def test_a_grant_withdrawn_while_a_part_is_computed_keeps_it_in(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    site.federating._next_patrol = float("inf")
    site.training_box.let_go.clear()
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=train_work())
    site.ask_step(run, message, np.zeros(2).tobytes())
    site.step()
    site.grant(withdrawn=True)
    site.training_box.let_go.set()
    site.finish_parts()
    site.step()
    assert problem(site, run, "000001-contribute").code == "E_NO_GRANT"
    site.step()
    assert site.reply(run).problem.code == "E_NO_GRANT"
    assert events(site, "release") == []


def test_after_a_grant_is_withdrawn_not_even_a_failure_is_told(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    site.federating._next_patrol = float("inf")
    site.training_box.let_go.clear()
    work = train_work(config={"fail": "raise"})
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=work)
    site.ask_step(run, message, np.zeros(2).tobytes())
    site.step()
    site.grant(withdrawn=True)
    site.training_box.let_go.set()
    site.finish_parts()
    site.step()
    assert problem(site, run, "000001-contribute").code == "E_NO_GRANT"


def test_no_row_is_read_for_what_waited_while_the_grant_was_withdrawn(sites, training):
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    site = sites.all[0]
    site.federating._next_patrol = float("inf")
    part = site.federating._runs[ANA, run]
    work = train_work()
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=work)
    make = site.federating.asks._contributing.prepare(part, message, np.zeros(2).tobytes())
    site.grant(withdrawn=True)
    with pytest.raises(contributing.Objection, match="grant"):
        make()
    assert site.training_box.trainers == []


def test_without_a_word_of_the_analyst_s_a_lost_grant_ends_the_run_too(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    site.grant(withdrawn=True)
    site.federating._next_patrol = 0
    site.step()
    site.step()
    assert site.reply(run).problem.code == "E_NO_GRANT"
    assert site.reply(run).budget.epsilon_spent == "1"


def test_a_denial_of_the_same_computation_elsewhere_stops_the_run(sites, training):
    computation, run = training
    site = sites.all[0]
    site.grant(analyst=BOB)
    other = sites.submit(computation, to=[site], sender=BOB)
    site.decide(other, sender=BOB, verdict="deny", reason="no")
    site.federating._next_patrol = 0
    site.step()
    site.step()
    assert site.reply(run).problem.code == "E_DENIED"
    assert "no" not in site.reply(run).problem.message.partition(":")[2]  # said to another


def test_a_partner_that_the_owner_removes_is_computed_with_no_more(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    site = sites.all[0]
    partners = site.partners(site)
    site.partners = lambda _: partners[:1]
    site.restart()
    for _ in range(3):
        site.step()
    assert site.reply(run).problem.code == "E_PARTNERS"


def test_an_approval_that_does_not_verify_lets_nothing_run(sites):
    run = sites.submit(sites.training())
    site = sites.all[0]
    with site.database.write() as transaction:
        transaction.exec_driver_sql("UPDATE requests SET state = 'joined'")
        transaction.exec_driver_sql(
            "INSERT INTO runs (at, analyst, request, digest) SELECT at, analyst, request, digest"
            " FROM reviews"
        )
    site.restart()
    for _ in range(3):
        site.step()
    assert site.reply(run).problem.code == "E_DENIED"
    assert site.training_box.trainers == []


def test_another_computation_in_the_place_of_the_approved_one_does_not_run(sites):
    computation = sites.training()
    run = sites.submit(computation)
    sites.approve(run)
    site = sites.all[0]
    with site.database.write() as transaction:
        transaction.exec_driver_sql(
            "UPDATE requests SET submission = replace(submission, 'ClientApp', 'EvilApp__')"
        )
    site.restart()
    for _ in range(3):
        site.step()
    assert site.reply(run).problem.code == "E_EXECUTION"
    assert site.training_box.trainers == []


def test_a_run_of_which_nobody_says_anything_ends_by_itself(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    joined = site.federating._runs[ANA, run]
    joined.heard -= 59 * 60
    site.federating._next_patrol = 0
    site.step()
    assert site.state(run) == "joined"
    joined.heard -= 2 * 60
    site.federating._next_patrol = 0
    site.step()
    site.step()
    reply = site.reply(run)
    assert reply.part.contributions == 0
    assert reply.part.ended == "nobody asked for anything for 60 minutes"


def test_a_run_may_be_given_up(sites, training):
    _, run = training
    end(sites, run, 1, finished=False)
    for site in sites.all:
        assert site.reply(run).part.ended == "its analyst gave it up"
        assert site.training_box.trainers == []


def test_nobody_else_s_channel_moves_a_run(sites):
    computation = sites.totals()
    run = sites.submit(computation)
    site = sites.all[0]
    name = (site.port.email, "eve@uni.example", run, "000001-end")
    sites.channel.asks[name] = pack(Ask(step="end", attempt=1))
    site.step()
    assert site.state(run) == "joined"


def test_the_work_that_sites_sign_is_the_work_they_were_sent(sites, training):
    """One site is sent other parameters: its vector is in no sum with the others'."""
    computation, run = training
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(train_work(), [np.zeros(2)], to=sites.all[:2])
    site = sites.all[2]
    message = Ask(step="contribute", attempt=1, shares=attempt.shares[site.key], work=train_work())
    told = attempt.ask({site: message}, blob=np.ones(2).tobytes())[site]
    survivors = attempt.aggregator.close_vectors() | {site.key: told[0].confirmed}
    for each in sites.all:
        code = ask(each, run, Ask(step="reveal", attempt=1, survivors=survivors))
        assert code == "E_BAD_MESSAGE"


# What is held, read and computed for it


def begin_mock_training(sites):
    """A run on mock twins, and the step after keys: who asks one site for its part."""
    computation = sites.training(purpose=None)
    run = sites.submit(computation, action="mock")
    attempt = Attempt(sites, run, computation).keys()
    return run, lambda site, **kwargs: contribute(attempt, site, **kwargs)


def contribute(attempt, site, *, size=2, held=False):
    message = Ask(
        step="contribute",
        attempt=attempt.number,
        shares=attempt.shares[site.key],
        work=train_work(size=size, config={"held": True} if held else None),
    )
    site.ask_step(attempt.run, message, bytes(8 * size))


def test_mock_twins_are_in_nobody_s_way(sites, training):
    """However many free runs there are, whoever pays, or was approved of, does not wait."""
    site = sites.all[0]
    computation, run = training
    paid = Attempt(sites, run, computation).keys()
    for _ in range(4):
        _, ask_for_part = begin_mock_training(sites)
        ask_for_part(site, held=True)
    site.step()
    totals = sites.totals()
    other = Attempt(sites, sites.submit(totals), totals).keys()
    other.contribute(TOTALS)
    paid.contribute(train_work(), [np.zeros(2)])
    assert (other.problems, paid.problems) == ({}, {})
    site.training_box.held_go.set()
    site.finish_parts()


def test_what_waits_for_a_run_that_ended_is_not_computed(sites):
    site = sites.all[0]
    first, ask_first = begin_mock_training(sites)
    second, ask_second = begin_mock_training(sites)
    ask_first(site, held=True)
    site.step()
    ask_second(site)
    site.step()
    end(sites, second, 2, finished=False)
    site.training_box.held_go.set()
    site.finish_parts()
    site.step()
    assert site.told(first, "000001-contribute")[0].problem is None
    assert len(site.training_box.twin_steps) == 1


@pytest.mark.parametrize("kind", ["sql", "model"])
def test_no_row_is_read_for_a_run_that_is_over(sites, kind):
    site = sites.all[0]
    run = sites.submit(sites.totals())
    part = site.federating._runs[ANA, run].part
    if kind == "model":
        part = Model.__new__(Model)
        part._closed, part._rows = False, None
    part.close()
    with pytest.raises(QueryRefused, match="over"):
        part.compute(TOTALS, [], parties=3)
    assert site.tables.calls == 0


def test_what_is_computed_for_mock_twins_is_not_written_down(sites):
    computation = sites.totals(epsilon=None, purpose=None)
    run = sites.submit(computation, action="mock")
    attempt = Attempt(sites, run, computation).keys()
    attempt.contribute(TOTALS)
    site = sites.all[0]
    with site.database.read() as snapshot:
        vectors = snapshot.execute(sa.select(tables.run_inputs.c.vector)).scalars().all()
    assert vectors == [None]
    assert site.federating._runs[ANA, run].last is not None
    attempt.open()
    assert site.federating._runs[ANA, run].last is not None


def test_more_than_the_site_has_room_for_is_refused_unread(sites, monkeypatch):
    """What others hold counts, whatever their runs are called; a run that is paid for has room."""
    site = sites.all[0]
    first, ask_first = begin_mock_training(sites)
    second, ask_second = begin_mock_training(sites)
    monkeypatch.setattr(joined, "_MOST_MOCK_BYTES", 80 * 2**20)
    size = 2**20  # numbers: an ask of 8 MiB
    ask_first(site, size=size, held=True)
    site.step()
    ask_second(site, size=size)
    site.step()
    told = problem(site, second, "000001-contribute")
    assert (told.code, told.message) == ("E_BUSY", "The site is busy.")
    assert (site.port.email, ANA, second, "000001-contribute") not in sites.channel.heard
    totals = sites.totals()
    Attempt(sites, sites.submit(totals), totals).keys().contribute(TOTALS)
    site.training_box.held_go.set()
    site.finish_parts()
    site.step()
    assert site.told(first, "000001-contribute")[0].problem is None


def test_mock_twins_are_not_computed_on_at_any_size(sites, monkeypatch):
    monkeypatch.setattr(joined, "_MOST_MOCK_BYTES", 2**20)
    site = sites.all[0]
    run, ask_for_part = begin_mock_training(sites)
    ask_for_part(site, size=2**17)
    site.step()
    assert problem(site, run, "000001-contribute").code == "E_WORK"
    assert site.training_box.twin_steps == []


def test_of_large_asks_one_is_read_at_a_time(sites):
    site = sites.all[0]
    runs = [begin_mock_training(sites) for _ in range(3)]
    sites.channel.heard.clear()
    for _, ask_for_part in runs:
        ask_for_part(site, size=2**20)
    for number in (1, 2, 3):
        site.federating.tick()
        assert len(sites.channel.heard) == number
    assert len(set(sites.channel.heard)) == 3
    site.finish_parts()


@pytest.mark.parametrize("name", ["000001-advertise", "000007-contribute", "000001-dance"])
def test_a_large_file_under_a_name_that_needs_none_is_not_read(sites, name):
    """Reading one takes long, and whoever can write to the storage can put it there."""
    run = sites.submit(sites.totals())
    site = sites.all[0]
    sites.channel.asks[site.port.email, ANA, run, name] = bytes(8 * 2**20)
    site.step()
    assert sites.channel.heard == []
    assert sites.channel.asks == {}
    assert ask(site, run, Ask(step="advertise", attempt=1)) is None


def test_what_cannot_be_answered_keeps_no_run_alive(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    started = site.federating._runs[ANA, run].heard
    for name, data in (
        ("000001-dance", b""),
        ("000001-end", b"forged"),
        ("000001-share", pack(Ask(step="share", attempt=1))),
        ("000009-contribute", pack(Ask(step="contribute", attempt=9))),
    ):
        sites.channel.asks[site.port.email, ANA, run, name] = data
        site.step()
    assert site.federating._runs[ANA, run].heard == started
    assert sites.channel.asks == {}
    assert ask(site, run, Ask(step="advertise", attempt=1)) is None
    assert site.federating._runs[ANA, run].heard > started


def test_names_that_are_no_steps_come_after_those_that_are(sites):
    run = sites.submit(sites.totals())
    site = sites.all[0]
    for number in range(8):
        sites.channel.asks[site.port.email, ANA, run, f"00000{number}-dance"] = b""
    site.ask_step(run, Ask(step="advertise", attempt=9))
    site.step()
    assert site.told(run, "000009-advertise")[0].problem is None


# When not even an end can be had


def test_a_run_that_cannot_begin_ends(sites, training, monkeypatch):
    _, run = training
    site = sites.all[0]

    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(federating, "part_of", broken)
        site.restart()
        site.step()
        site.step()
    assert site.reply(run).problem.code == "E_EXECUTION"


def test_a_run_that_cannot_even_be_ended_is_left_alone_until_a_restart(
    sites, training, monkeypatch
):
    _, run = training
    other = sites.submit(sites.totals())
    site = sites.all[0]
    tries = []

    def broken(self, record, *_, **__):
        tries.append(record.name)
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(RunEndings, "end", broken)
        site.ask_step(run, Ask(step="end", attempt=1))
        for _ in range(3):
            site.federating._next_look = 0
            site.step()
        assert ask(site, other, Ask(step="advertise", attempt=1)) is None
        assert set(tries) == {run}
        assert len(tries) == 3  # with all that is known, with a failure, with nothing; then no more
    assert site.state(run) == "joined"
    site.restart()
    end(sites, run, 2)
    site.step()
    assert site.reply(run).problem is None
