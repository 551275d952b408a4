"""Whole runs through the real session: what comes back, and what becomes of them on the way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from in_process import QUICK
from together import PURPOSE, REFUSED, new_kernel, open_exchange

from privnb.errors import (
    AuditBroken,
    BudgetExceeded,
    PrivnbError,
    QueryRefused,
    ResultPending,
    RoundLost,
    RunStalled,
)
from privnb.federated import course
from privnb.federated.history import Checkpoint, RunFiles, RunPlan
from privnb.federated.messages import Told
from privnb.federated.runs import restored
from privnb.messages import Problem
from privnb.notebook_check import check_notebook
from privnb.release import RECORD_TYPE

SITES = ("northside", "riverside", "lakeside")
SQL = "SELECT plan_type, COUNT(*) AS n FROM visits GROUP BY plan_type"
CELL = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(msg, context):
    target = context.node_config["tables"]["visits"]["y"].to_numpy()
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    w = w + rate * (target.mean() - w)
    metrics = {"loss": float(((target - w) ** 2).mean()), "num-examples": len(target)}
    content = {"arrays": ArrayRecord([w]), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=msg)

initial = [np.zeros(1)]
"""
MEANS = (1.0, 2.0, 6.0)


SOON = dataclasses.replace(QUICK, quick=5.0, late=5.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(course, "Pace", lambda deadline: SOON)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "ana"


@pytest.fixture
def opened(home):
    session, datasite = open_exchange(home)
    for place, site in enumerate(datasite.by_name.values()):
        site.exact["rows"] = [("free care", 1000 * (place + 1)), ("cost sharing", 500)]
        site.tables = {"visits": pd.DataFrame({"y": [MEANS[place]] * 10})}
    yield session, datasite
    for site in datasite.by_name.values():
        site.stop()


def totals(session, **options):
    options = {"sites": SITES, "epsilon": 1, "purpose": PURPOSE} | options
    return session.totals(SQL, **options)


def train(session, **options):
    options = {
        "sites": SITES,
        "tables": ["visits"],
        "purpose": PURPOSE,
        "rounds": 4,
        "params": {"rate": 0.5},
    } | options
    return session.train(CELL, **options)


def hold(datasite, number):
    """Let all sites stop before they answer in a round; return what lets them go on."""
    go_on = threading.Event()

    def wait(site, ask, told, vector):
        if ask.work.round == number:
            go_on.wait(20)
        return told, vector

    for site in datasite.by_name.values():
        site.on["contribute"] = wait
    return go_on


def reached(run, number):
    """Wait until a run has finished a round."""
    end = time.monotonic() + 20
    while run.progress.rounds_done < number:
        assert time.monotonic() < end
        time.sleep(0.005)


# What comes back


def test_a_total_is_near_the_truth_and_every_site_proves_its_part(opened):
    session, _ = opened
    release = totals(session).result(timeout=20)
    found = release.df.set_index("plan_type")
    for plan, truth in {"free care": 6000, "cost sharing": 1500}.items():
        # 5 half-widths are 9.8 standard deviations: a false alarm in 1e21 runs
        assert abs(found.n[plan] - truth) < 5 * found["± n"][plan]
    assert set(release.receipts) == set(SITES)
    assert release.problems == {}
    assert release.labels["northside"].epsilon == "1"
    for words in ("3/2 of the variance", "no part of one", "no receipt proves"):
        assert words in release.label
    assert release.value.equals(release.df)


def test_a_training_gives_arrays_history_curves_and_progress(opened):
    session, _ = opened
    run = train(session)
    release = run.result(timeout=20)
    (w,) = release.value
    # every round takes half of what is left to the mean of all sites, 3
    assert w == pytest.approx([3 * (1 - 0.5**4)], abs=1e-6)
    assert release.history["round"].tolist() == [1, 2, 3, 4]
    assert release.history["sites"].tolist() == [3] * 4
    assert release.history["train loss"].is_monotonic_decreasing
    assert release.plot().axes[0].get_title() == "loss"
    assert run.progress.state == "finished"
    assert run.progress.curve("train loss")[0] == [1, 2, 3, 4]
    assert "code: alice@clinic.example" in release.label


def test_initial_arrays_with_names_come_back_with_their_names(opened):
    session, _ = opened
    cell = CELL.replace("[np.zeros(1)]", '{"mean": np.zeros(1, "float32")}').replace(
        "ArrayRecord([w])", 'ArrayRecord({"mean": Array(w.astype("float32"))})'
    )
    cell = "from flwr.app import Array\n" + cell
    run = session.train(
        cell,
        sites=SITES,
        tables="visits",
        purpose=PURPOSE,
        rounds=1,
        params={"rate": 1.0},
    )
    value = run.result(timeout=20).value
    assert list(value) == ["mean"]
    assert value["mean"].dtype == np.float32


def test_a_mock_run_says_so_and_leaves_nothing_behind(opened, home):
    session, datasite = opened
    for ask in (totals, train):
        release = ask(session, mock=True, purpose="").result(timeout=20)
        assert release.mock
        assert "MOCK" in str(release)
        assert "MOCK" in release._repr_html_()
        assert "MOCK" in release.bundle(name="x")["text/plain"]
    assert not any((home / "requests").iterdir())
    assert {s.action for s in datasite.by_name["northside"].submissions} == {"describe", "mock"}


def test_what_a_site_proves_is_checked_like_every_answer(opened):
    session, datasite = opened
    lying = datasite.by_name["lakeside"]
    honest = lying.log.receipt

    def forged(index, **options):
        return dataclasses.replace(honest(index, **options), index=7)

    lying.log.receipt = forged
    release = totals(session).result(timeout=20)
    assert set(release.receipts) == {"northside", "riverside"}
    assert isinstance(release.problems["lakeside"], AuditBroken)
    assert "lakeside" in str(release)


def test_a_site_that_does_not_prove_its_part_in_time_is_named_and_may_later(opened, monkeypatch):
    from privnb.federated import runs

    monkeypatch.setattr(runs, "_PROOF_SECONDS", 0.2)
    session, datasite = opened
    slow = datasite.by_name["lakeside"]
    slow.proves = False
    run = totals(session)
    release = run.result(timeout=20)
    assert "has not proved yet" in str(release.problems["lakeside"])
    slow.finish(True)
    assert run.result(timeout=20).problems == {}


def test_a_site_that_claims_an_answer_of_its_own_is_not_believed(opened):
    from privnb.release import Answer, AnswerColumn

    session, datasite = opened
    site = datasite.by_name["lakeside"]
    honest = site.reply

    def own(request, reply):
        if reply.part is not None:
            column = AnswerColumn(name="n", role="aggregate")
            answer = Answer(columns=(column,), rows=((1,),), half_widths=((None,),))
            reply = dataclasses.replace(reply, part=None, answer=answer)
        honest(request, reply)

    site.reply = own
    release = totals(session).result(timeout=20)
    assert "its own where only sums" in str(release.problems["lakeside"])


# Where it waits, fails or is refused


def test_people_decide_first_and_the_run_says_so(opened):
    session, datasite = opened
    for site in datasite.by_name.values():
        site.deciding = True
    run = train(session)
    run.look()
    assert run.in_review
    with pytest.raises(ResultPending, match="waiting for review") as pending:
        run.result(timeout=0.05)
    assert f"%privnb result {run.id[:8]}" in pending.value.hint
    for site in datasite.by_name.values():
        site.decide()
    assert run.result(timeout=20).value[0] == pytest.approx([2.8125])


def test_a_refusal_ends_the_run_and_the_others_are_told(opened, home):
    session, datasite = opened
    datasite.by_name["lakeside"].problem = REFUSED
    run = totals(session)
    with pytest.raises(BudgetExceeded, match="lakeside takes no part: Too much") as error:
        run.result(timeout=20)
    assert error.value.message.endswith(
        "Charged epsilon 1 for it all the same: northside, riverside."
    )
    assert run.done
    with pytest.raises(BudgetExceeded, match="northside, riverside"):
        new_kernel(datasite, home).request(run.id).result(timeout=5)
    end = time.monotonic() + 20
    while len(run.replies()) < len(SITES):  # they are told, and reply
        run.poll()
        assert time.monotonic() < end
        time.sleep(0.005)
    assert {each.site: each.state for each in session.states()} == {
        "northside": "nothing given",
        "riverside": "nothing given",
        "lakeside": "refused",
    }


def test_code_that_fails_everywhere_fails_once_with_the_sites_names(opened):
    session, datasite = opened
    cell = CELL.replace("w = w +", "w = nothing +")

    for site in datasite.by_name.values():
        honest = site.take_part

        def take_part(submission, site=site, honest=honest):
            honest(submission)

            def work(asked, arrays):
                raise PrivnbError("The code raised NameError.", code="E_EXECUTION")

            site.work = work

        site.take_part = take_part
    run = session.train(
        cell, sites=SITES, tables=["visits"], purpose=PURPOSE, rounds=2, params={"rate": 1}
    )
    with pytest.raises(PrivnbError, match=r"Round 1 failed at .*NameError") as error:
        run.result(timeout=20)
    assert error.value.code == "E_EXECUTION"
    assert run.progress.state == "failed"


def test_a_strategy_of_the_analysts_own_that_raises_can_be_mended(opened, home):
    from flwr.serverapp.strategy import FedAvg

    class Broken(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == 3:
                raise ZeroDivisionError("mine")
            return super().aggregate_train(server_round, replies)

    session, _ = opened
    run = train(session, strategy=Broken())
    with pytest.raises(ZeroDivisionError, match="mine"):
        run.result(timeout=20)
    later = session.request(run.id, strategy=FedAvg())
    assert later.result(timeout=20).value[0] == pytest.approx([2.8125])


# Stopping, and going on


def test_an_interrupt_ends_the_waiting_and_not_the_run(opened, monkeypatch):
    session, datasite = opened
    go_on = hold(datasite, 2)
    run = train(session)
    reached(run, 1)
    with monkeypatch.context() as patched:
        patched.setattr(run, "_is_ready", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.result()
    go_on.set()
    assert len(run.result(timeout=20).history) == 4


def test_a_run_that_was_stopped_goes_on_where_it_was(opened):
    session, datasite = opened
    go_on = hold(datasite, 3)
    run = train(session)
    reached(run, 2)
    run.stop()
    assert run.progress.state == "stopped"
    go_on.set()
    release = run.result(timeout=20)
    assert release.value[0] == pytest.approx([2.8125])
    assert release.history["round"].tolist() == [1, 2, 3, 4]


def test_a_cancelled_run_is_over_and_the_sites_are_told(opened, home):
    session, datasite = opened
    go_on = hold(datasite, 2)
    run = train(session)
    reached(run, 1)
    go_on.set()
    run.cancel()
    assert run.progress.state == "cancelled"
    with pytest.raises(PrivnbError, match="cancelled"):
        run.result(timeout=5)
    with pytest.raises(PrivnbError, match="cancelled"):
        new_kernel(datasite, home).request(run.id).result(timeout=5)
    for site in datasite.by_name.values():
        site.inbox.put(None)
        site.thread.join(10)
        assert site.ended is False


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_a_later_kernel_goes_on_after_the_last_finished_round(opened, home, strategy):
    session, datasite = opened
    options = {"fedavgm": {"server-momentum": "0.9"}}.get(strategy)
    chosen = {"strategy": strategy, "strategy_options": options}
    whole = train(session, **chosen).result(timeout=20)
    go_on = hold(datasite, 3)
    run = train(session, **chosen)
    reached(run, 2)
    run.stop()  # all that a kernel leaves behind is on the disk
    go_on.set()
    later = new_kernel(datasite, home).request(run.id[:8])
    assert (later.progress.state, later.progress.rounds_done) == ("stopped", 2)
    release = later.result(timeout=20)
    np.testing.assert_array_equal(release.value[0], whole.value[0])
    assert release.history["round"].tolist() == [1, 2, 3, 4]
    assert all(site.submissions[-1].request == run.id for site in datasite.by_name.values())


def test_the_result_of_a_finished_run_is_found_by_a_later_kernel(opened, home):
    session, datasite = opened
    run = train(session)
    first = run.result(timeout=20)
    later = new_kernel(datasite, home).request(run.id)
    assert later.done
    second = later.result(timeout=5)
    np.testing.assert_array_equal(first.value[0], second.value[0])
    assert second.label == first.label
    assert second.bundle()["text/html"] == first.bundle()["text/html"]


def test_a_kernel_that_finds_another_one_driving_watches_and_takes_over_when_that_ends(
    opened, home
):
    session, datasite = opened
    go_on = hold(datasite, 3)
    run = train(session)
    reached(run, 2)
    other = new_kernel(datasite, home).request(run.id)
    other.start()
    reached(other, 2)
    with contextlib.suppress(ResultPending):
        other.result(timeout=0.1)
    assert other.progress.state == "running"
    run.stop()
    go_on.set()
    assert other.result(timeout=20).value[0] == pytest.approx([2.8125])
    assert run.result(timeout=5).value[0] == pytest.approx([2.8125])


def test_a_strategy_that_was_an_object_has_to_be_given_again(opened, home):
    from flwr.serverapp.strategy import FedAvgM

    session, datasite = opened
    go_on = hold(datasite, 3)
    run = train(session, strategy=FedAvgM(server_momentum=0.9))
    reached(run, 2)
    run.stop()
    go_on.set()
    with pytest.raises(RunStalled, match="FedAvgM") as stalled:
        new_kernel(datasite, home).request(run.id).result(timeout=5)
    assert f"session.request('{run.id[:8]}', strategy=" in stalled.value.hint
    later = new_kernel(datasite, home).request(run.id, strategy=FedAvgM(server_momentum=0.9))
    resumed = later.result(timeout=20).value[0]
    whole = train(session, strategy="fedavgm", strategy_options={"server_momentum": "0.9"})
    np.testing.assert_array_equal(resumed, whole.result(timeout=20).value[0])


def test_a_site_that_has_gone_stalls_the_run_which_goes_on_once_it_is_back(opened):
    session, datasite = opened
    run = train(session)
    run.stop()
    run._course._pace = dataclasses.replace(QUICK, deadline=0.8)
    gone = datasite.by_name["lakeside"]
    gone.dead = True
    with pytest.raises(RunStalled, match="lakeside has gone"):
        run.result(timeout=20)
    assert run.progress.state == "stopped"
    run._course._pace = SOON
    gone.restart()
    assert len(run.result(timeout=20).history) == 4


def dies_before_it_reveals(site, number=1):
    def die(site, ask, told, vector):
        if site.asked[-2].work.round == number:
            site.dead = True
            return None
        return told, vector

    site.on["reveal"] = die


def test_a_total_whose_sites_went_before_it_was_open_is_had_with_the_same_noise(opened):
    session, datasite = opened
    gone = [datasite.by_name[name] for name in ("riverside", "lakeside")]
    for site in gone:
        dies_before_it_reveals(site)
    run = totals(session)
    run._course._pace = dataclasses.replace(SOON, quick=0.5)
    deadline = time.monotonic() + 20
    while not all(site.dead for site in gone):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    drawn = [dict(site.drawn) for site in datasite.by_name.values()]
    for site in gone:
        site.on.clear()
        site.restart()
    release = run.result(timeout=20)
    assert release.history.sites.tolist() == [3]
    assert [site.drawn for site in datasite.by_name.values()] == drawn
    steps = [ask.step for ask in datasite.by_name["northside"].asked]
    assert steps.count("contribute") == 2


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_round_of_a_model_that_was_not_opened_is_had_again_or_made_up_for(
    home, comes_back, monkeypatch
):
    from privnb.federated import runs

    monkeypatch.setattr(runs, "_PROOF_SECONDS", 0.2)
    pace = dataclasses.replace(SOON, quick=1.0, late=1.5)
    monkeypatch.setattr(course, "Pace", lambda deadline: pace)
    session, datasite = open_exchange(home, names=(*SITES, "hillside"))
    try:
        for site in datasite.by_name.values():
            site.exact["rows"] = [(number, number % 2, 3) for number in range(2000)]
        gone = [datasite.by_name[name] for name in ("riverside", "lakeside")]
        for site in gone:
            dies_before_it_reveals(site, 3)
        run = session.train_model(
            "poisson",
            target="mdvis",
            features=["plan_type"],
            table="visits",
            sites=list(datasite.by_name),
            purpose=PURPOSE,
            epsilon=4,
            rounds=6,
        )
        while not all(site.dead for site in gone):
            assert not run.done
            time.sleep(0.005)
        for site in gone if comes_back else gone[1:]:
            site.on.clear()
            site.restart()
        release = run.result(timeout=40)
    finally:
        for site in datasite.by_name.values():
            site.stop()
    rounds = release.history["round"].tolist()
    assert rounds == [1, 2, *([3] if comes_back else []), 4, 5, 6]
    lost = any("Round 3 can only be summed over" in each for each in release.outcome.remarks)
    assert lost is not comes_back


def test_the_same_training_again_is_summed_over_the_same_sites_where_one_was_missing(opened):
    session, datasite = opened
    away = datasite.by_name["riverside"]

    def fail_once(site, ask, told, vector):
        if ask.work.round != 2:
            return told, vector
        problem = Problem(code="E_EXECUTION", message="It failed.", hint="")
        return Told(step=ask.step, attempt=ask.attempt, problem=problem), b""

    away.on["contribute"] = fail_once
    first = train(session).result(timeout=20)
    assert sorted(first.history.sites.tolist()) == [2, 3, 3, 3]
    away.on.clear()
    again = train(session).result(timeout=20)
    assert again.history.sites.tolist() == first.history.sites.tolist()
    np.testing.assert_array_equal(again.value[0], first.value[0])


def spend(datasite, *spent):
    """Let all but one site say of some rounds that they give nothing more to them."""

    def refuse(site, ask, told, vector):
        if (ask.work.kind, ask.work.round) not in spent:
            return told, vector
        problem = Problem(code="E_SPENT_ROUND", message="It gave its part.", hint="Go on.")
        return Told(step=ask.step, attempt=ask.attempt, problem=problem), b""

    for site in list(datasite.by_name.values())[1:]:
        site.on["contribute"] = refuse


def test_a_training_goes_on_after_a_round_that_is_spent(opened):
    session, datasite = opened
    spend(datasite, ("train", 2))
    release = train(session).result(timeout=20)
    assert release.history["round"].tolist() == [1, 3, 4]
    assert release.value[0] == pytest.approx([2.625])  # as after three rounds
    assert any("Round 2 failed at" in each for each in release.outcome.remarks)


def test_a_training_of_whose_rounds_none_is_left_ends_and_says_that_it_is_over(opened):
    session, datasite = opened
    spend(datasite, *(("train", number) for number in range(1, 5)))
    run = train(session)
    with pytest.raises(RoundLost, match=r"Round 4 failed at .* It gave its part") as lost:
        run.result(timeout=20)
    assert lost.value.hint == "Ask for a new run."
    assert run.progress.state == "failed"


def test_a_run_can_be_awaited(opened):
    session, _ = opened
    run = totals(session)

    async def wait():
        return await run

    assert len(asyncio.run(wait()).df) == 2


# What is kept, and shown


def test_a_checkpoint_holds_arrays_of_all_kinds_and_names(tmp_path):
    files = RunFiles(tmp_path)
    arrays = {"a/b": np.arange(3), "meta": np.zeros((2, 0)), "π": np.float32(1.5) * np.ones(())}
    files.save(Checkpoint(round=2, arrays=arrays, state={"m_t/w": np.ones(2)}))
    found = RunFiles(tmp_path).checkpoint()
    assert list(found.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    assert found.state["m_t/w"].tolist() == [1, 1]


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"\x80\x04\x95", b"0" * 1000])
def test_a_damaged_checkpoint_is_a_clear_error_and_nothing_in_it_is_run(tmp_path, junk):
    (tmp_path / "checkpoint.npz").write_bytes(junk)
    with pytest.raises(PrivnbError, match=r"checkpoint\.npz.* damaged"):
        RunFiles(tmp_path).checkpoint()


def test_a_pickled_array_is_never_loaded(tmp_path):
    with (tmp_path / "checkpoint.npz").open("wb") as file:
        np.savez(file, meta=np.array([object()], dtype=object))
    with pytest.raises(PrivnbError, match="damaged"):
        RunFiles(tmp_path).checkpoint()


def test_attempts_are_counted_on_after_a_restart(tmp_path):
    first = RunFiles(tmp_path)
    used = [first.next_attempt() for _ in range(100)]
    assert RunFiles(tmp_path).next_attempt() > max(used)
    assert used == sorted(set(used))


def test_only_one_thread_of_all_kernels_drives_a_run(tmp_path):
    with RunFiles(tmp_path).locked() as mine, RunFiles(tmp_path).locked() as theirs:
        assert (mine, theirs) == (True, False)
    with RunFiles(tmp_path).locked() as mine:
        assert mine


def test_how_rounds_went_is_read_from_the_checkpoint(opened):
    session, datasite = opened
    datasite.by_name["lakeside"].on["contribute"] = lambda *_: None
    run = train(session, rounds=1)
    run.stop()
    run._course._pace = QUICK
    run.result(timeout=20)
    (first,) = restored(run._files.checkpoint(), run.sites)
    assert first.sites == {"northside": "received", "riverside": "received", "lakeside": "dropped"}
    assert "lakeside does not answer." in run._files.checkpoint().remarks


def test_a_plan_can_be_read_back(tmp_path):
    plan = RunPlan(names={"k": "northside"}, min_sites=3, deadline=1.5, options={"eta": "1"})
    files = RunFiles(tmp_path / "run")
    files.begin(plan, Checkpoint(round=0, arrays={}))
    assert files.plan() == plan


def notebook(tmp_path, *bundles):
    cells = [
        {"cell_type": "code", "execution_count": n, "outputs": [{"data": data}], "source": ""}
        for n, data in enumerate(bundles, 1)
    ]
    path = tmp_path / "published.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "cells": cells}))
    return path


def test_a_published_notebook_proves_who_took_part_and_says_that_the_numbers_are_not_proved(
    opened, tmp_path
):
    session, _ = opened
    shown = [
        totals(session).result(timeout=20).bundle(),
        train(session).result(timeout=20).bundle(),
    ]
    shown.append(train(session).result(timeout=20).bundle(name="model"))
    report = check_notebook(notebook(tmp_path, *shown))
    assert report.status == 3
    assert sum("proved: event" in line for line in report.lines) == 9
    assert sum("not proved: the numbers" in line for line in report.lines) == 3


def test_a_notebook_in_which_the_numbers_or_the_sites_were_changed_is_found_out(opened, tmp_path):
    session, _ = opened
    release = totals(session).result(timeout=20)
    number = f"{release.df.n[0]:,}"
    bundle = release.bundle()
    changed = {**bundle, "text/html": bundle["text/html"].replace(number, "9,999")}
    assert check_notebook(notebook(tmp_path, changed)).status == 1

    record = json.loads(json.dumps(bundle[RECORD_TYPE]))
    outcome = json.loads(record["outcome"])
    key = next(key for key, name in outcome["names"].items() if name == "lakeside")
    outcome["names"][key] = "hillside"
    record["outcome"] = json.dumps(outcome)
    report = check_notebook(notebook(tmp_path, {**bundle, RECORD_TYPE: record}))
    assert report.status == 1
    assert any("lakeside proves its part in another run" in line for line in report.lines)


def test_a_run_shows_how_far_it_is_as_text_and_as_html(opened):
    session, datasite = opened
    go_on = hold(datasite, 2)
    run = train(session)
    reached(run, 1)
    forms = run._repr_mimebundle_()
    assert "round 1 of 4" in forms["text/plain"]
    assert "northside" in forms["text/html"]
    assert "round 1 of 4" in repr(run)
    go_on.set()
    run.result(timeout=20)
    assert RECORD_TYPE in run._repr_mimebundle_()


def test_requests_list_federated_runs_like_all_others(opened):
    session, _ = opened
    run = totals(session)
    run.result(timeout=20)
    listed = session.requests()
    assert listed.request.tolist() == [run.id[:8]]
    assert "released" in listed.state[0]


def test_training_without_flower_is_refused_with_what_to_install(opened, monkeypatch):
    session, _ = opened
    monkeypatch.setitem(sys.modules, "privnb.federated.local_app", None)
    with pytest.raises(QueryRefused, match=r"privnb\[federated\]"):
        train(session)
