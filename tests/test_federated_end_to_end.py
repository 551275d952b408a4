"""Several sites as one, with nothing faked: three agents in their processes, PySyft, reviewers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

import privnb
from privnb.demo.data import DEMO_SITES
from privnb.errors import BudgetExceeded, RunStalled
from privnb.owner import open_desk
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.grants import Grant, record_grant
from privnb.site.opening import database_path, open_datasite

pytestmark = pytest.mark.xdist_group("together")  # one set of agents serves them all

ANA = "ana@uni.example"
PURPOSE = "utilisation-research"
SITES = ("northside", "riverside", "lakeside")
BY_PLAN = "SELECT plan_type, COUNT(*) AS n, AVG(mdvis) AS visits FROM visits GROUP BY plan_type"
CELL = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(msg, context):
    import time
    time.sleep(pause)
    table = context.node_config["tables"]["visits"]
    x = np.column_stack([np.ones(len(table)), table["xage"] / 65])
    y = (table["mdvis"] > 0).to_numpy(float)
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    w = w - 2.0 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    loss = float(np.mean(np.log1p(np.exp(x @ w)) - y * (x @ w)))
    metrics = MetricRecord({"loss": loss, "num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord([w]), "metrics": metrics}), reply_to=msg)

initial = [np.zeros(2)]
"""


class Agents:
    """The demo's agents, each a process of its own that can be killed and started again."""

    def __init__(self, folder, build_sites):
        self.folder = folder
        self.exchange = folder / "exchange"
        built = build_sites(folder, str(self.exchange), packages=("numpy", "pandas"))
        self.sites = {path.name: path for path in built}
        self.running = {}

    def start(self, *names):
        before, deadline = time.time(), time.monotonic() + 180
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                command = [sys.executable, "-m", "privnb", "site", "serve", str(self.sites[name])]
                self.running[name] = subprocess.Popen(command, stdout=log, stderr=log)
        for name in names:
            card = self.exchange / f"owner@{name}.example" / "site.json"
            while not (card.exists() and card.stat().st_mtime >= before):
                said = (self.folder / f"{name}.log").read_text()
                assert time.monotonic() < deadline, said
                assert self.running[name].poll() is None, said
                time.sleep(0.02)

    def kill(self, name):
        os.kill(self.running[name].pid, signal.SIGKILL)
        self.running.pop(name).wait()

    def stop(self):
        for agent in self.running.values():
            agent.terminate()
        for agent in self.running.values():
            agent.wait(30)

    def admit(self, name):
        """What an owner does with ``privnb site accept`` and ``privnb site grant``."""
        open_datasite(load_config(self.sites[name])).accept(ANA)
        self.grant(name, 20)

    def grant(self, name, epsilon, *, purpose=PURPOSE):
        config = load_config(self.sites[name])
        grant = Grant(analyst=ANA, table="visits", purpose=purpose, epsilon=Decimal(epsilon))
        database = Database.open(database_path(config))
        with database.write() as transaction:
            record_grant(transaction, grant)
        database.close()

    def approve(self, request):
        """Let every reviewer of every site approve of the code, as far as it takes them."""
        for site in DEMO_SITES:
            for email in site.reviewers[: site.needed]:
                desk = open_desk(self.sites[site.name], email)
                deadline = time.monotonic() + 60
                while not any(item.request == request for item in desk.items()):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                desk.approve(request)
                desk.close()

    def people(self):
        """All rows of all sites in one place, as nobody has them."""
        tables = [pd.read_parquet(path / "visits.parquet") for path in self.sites.values()]
        return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def agents(build_sites, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    before = os.environ.get("PRIVNB_HOME")
    os.environ["PRIVNB_HOME"] = str(folder / "people")  # where the reviewers' keys are
    agents = Agents(folder, build_sites)
    try:
        agents.start(*SITES)
        yield agents
    finally:
        agents.stop()
        if before is None:
            os.environ.pop("PRIVNB_HOME")
        else:
            os.environ["PRIVNB_HOME"] = before


@pytest.fixture(scope="module")
def session(agents):
    session = privnb.connect(email=ANA, exchange=str(agents.exchange), home=agents.folder / "ana")
    for name in SITES:
        agents.admit(name)
    session.ask_sites()
    return session


def train(session, agents, **options):
    options = {
        "sites": SITES,
        "tables": ["visits"],
        "purpose": PURPOSE,
        "rounds": 5,
        "params": {"pause": 0.0},
    } | options
    run = session.train(CELL, **options)
    agents.approve(run.id)
    return run


def reached(run, number):
    deadline = time.monotonic() + 120
    while run.progress.rounds_done < number:
        assert time.monotonic() < deadline, run.progress
        time.sleep(0.01)


@pytest.mark.timeout(300)
def test_totals_are_near_the_truth_cost_each_site_its_price_and_are_proved(session, agents):
    people = agents.people()
    free, deductible = people.coins == 0, people.idp == 1
    truth = {
        "individual deductible": deductible.sum(),
        "free care": (free & ~deductible).sum(),
        "cost sharing": (~free & ~deductible).sum(),
    }
    release = session.totals(BY_PLAN, sites=SITES, epsilon=2, purpose=PURPOSE).result(timeout=120)
    found = release.df.set_index("plan_type")
    for plan, count in truth.items():
        # 5 half-widths are 9.8 standard deviations: a false alarm in 1e21 runs
        assert abs(found.n[plan] - count) < 5 * found["± n"][plan]
    assert set(release.receipts) == set(SITES)
    assert release.problems == {}
    assert {label.epsilon for label in release.labels.values()} == {"2"}
    assert session.budget().set_index("site").charges.to_dict() == dict.fromkeys(SITES, 1)
    events = session.audit()
    assert events.verified.all()
    assert set(events[events.what.str.startswith("join")].site) == set(SITES)
    # neither rounds nor answers are left on the exchange
    left = [path for kind in ("rounds", "told") for path in agents.exchange.glob(f"*/{kind}/*/*/*")]
    assert not left


@pytest.mark.timeout(300)
def test_a_dry_run_and_a_mock_run_cost_nothing(session):
    before = session.budget().spent.tolist()
    estimates = session.estimate_totals(BY_PLAN, sites=SITES, epsilon=1, purpose=PURPOSE)
    (whole,) = estimates.by_site.values()
    assert whole.affordable is True
    release = session.totals(BY_PLAN, sites=SITES, epsilon=1, purpose="", mock=True).result(120)
    assert release.mock
    trained = session.train(
        CELL, sites=SITES, tables=["visits"], purpose="", rounds=2, params={"pause": 0}, mock=True
    ).result(timeout=120)
    assert trained.mock
    assert session.budget().spent.tolist() == before


@pytest.mark.timeout(300)
def test_a_budget_that_is_too_small_at_one_site_costs_nothing_at_the_others(session, agents):
    for name, epsilon in (("northside", 4), ("riverside", "0.5"), ("lakeside", "0.3")):
        agents.grant(name, epsilon, purpose="teaching")

    def spent():
        budgets = session.budget()
        return budgets[budgets.purpose == "teaching"].set_index("site").spent.to_dict()

    left = r"less is left at riverside \(0\.5\) and lakeside \(0\.3\)\."
    with pytest.raises(BudgetExceeded, match=left) as error:
        session.totals(BY_PLAN, sites=SITES, epsilon=1, purpose="teaching")
    assert "Ask with epsilon 0.3 or less, which fits all sites" in error.value.hint
    with pytest.raises(BudgetExceeded, match=left):
        session.train_model(
            "logistic",
            target="mdvis > 0",
            features=["xage"],
            table="visits",
            sites=SITES,
            purpose="teaching",
            epsilon=1,
        )
    assert spent() == dict.fromkeys(SITES, 0)
    session.totals(BY_PLAN, sites=SITES, epsilon="0.3", purpose="teaching").result(timeout=120)
    assert spent() == dict.fromkeys(SITES, pytest.approx(0.3))


@pytest.mark.timeout(300)
def test_a_model_of_ours_needs_no_human(session):
    release = session.train_model(
        "logistic",
        target="mdvis > 0",
        features=["xage"],
        table="visits",
        sites=SITES,
        purpose=PURPOSE,
        epsilon=4,
        rounds=8,
    ).result(timeout=120)
    assert release.df.term.tolist() == ["intercept", "xage"]
    assert {label.epsilon for label in release.labels.values()} == {"4"}


@pytest.mark.timeout(300)
def test_a_training_that_reviewers_approve_reaches_what_all_data_together_would(session, agents):
    run = session.train(
        CELL, sites=SITES, tables=["visits"], purpose=PURPOSE, rounds=8, params={"pause": 0.0}
    )
    run.look()
    assert run.in_review
    agents.approve(run.id)
    release = run.result(timeout=120)
    table, w = agents.people(), np.zeros(2)
    x = np.column_stack([np.ones(len(table)), table["xage"] / 65])
    y = (table["mdvis"] > 0).to_numpy(float)
    for _ in range(8):
        w = w - 2.0 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    assert release.history.sites.tolist() == [3] * 8, release.outcome.remarks
    np.testing.assert_allclose(release.value[0], w, rtol=1e-5)
    assert set(release.receipts) == set(SITES)
    assert release.history["train loss"].is_monotonic_decreasing


@pytest.mark.timeout(300)
def test_a_site_killed_in_a_round_and_restarted_is_in_the_sums_again(session, agents):
    run = train(session, agents, rounds=6, params={"pause": 0.3})
    reached(run, 1)
    agents.kill("riverside")
    agents.start("riverside")
    release = run.result(timeout=180)
    assert len(release.history) == 6
    assert release.history.sites.iloc[-1] == 3
    assert set(release.receipts) == set(SITES)
    assert any("riverside" in remark for remark in release.outcome.remarks)


@pytest.mark.timeout(300)
def test_a_site_whose_code_gives_no_number_is_left_out_and_named(session, agents):
    smallest = min(len(pd.read_parquet(p / "visits.parquet")) for p in agents.sites.values())
    cell = CELL.replace("return Message(", "w = w / (len(y) != smallest)\n    return Message(")
    options = {"rounds": 2, "params": {"pause": 0.0, "smallest": smallest}}
    run = session.train(cell, sites=SITES, tables=["visits"], purpose=PURPOSE, **options)
    agents.approve(run.id)
    release = run.result(timeout=180)
    assert np.isfinite(release.value[0]).all()
    assert release.history.sites.tolist() == [2, 2]
    assert any("riverside is left out" in remark for remark in release.outcome.remarks)
    assert run.progress.by_round[0].sites["riverside"] == "dropped"


KERNEL = """
import json, sys
import privnb
email, exchange, home, cell, asked = sys.argv[1:]
session = privnb.connect(email=email, exchange=exchange, home=home)
run = session.train(cell, **json.loads(asked))
print(run.id, flush=True)
run.result()
"""


@pytest.mark.timeout(300)
def test_a_later_kernel_goes_on_where_one_was_killed_in_a_round(session, agents):
    asked = {
        "sites": SITES,
        "tables": ["visits"],
        "purpose": PURPOSE,
        "rounds": 6,
        "params": {"pause": 0.31},
    }
    said = (ANA, str(agents.exchange), str(agents.folder / "ana"), CELL, json.dumps(asked))
    command = [sys.executable, "-c", KERNEL, *said]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kernel:
        request = kernel.stdout.readline().strip()
        agents.approve(request)
        deadline = time.monotonic() + 120
        while session.request(request).progress.rounds_done < 2:
            assert kernel.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kernel.kill()
        kernel.wait()
    run = session.request(request[:10])
    assert run.progress.state == "stopped"
    assert run.progress.rounds_done < 6
    release = run.result(timeout=120)
    assert release.history["round"].tolist() == [1, 2, 3, 4, 5, 6]
    assert release.history.sites.tolist() == [3] * 6, release.outcome.remarks
    assert set(release.receipts) == set(SITES)


@pytest.mark.timeout(300)
def test_a_site_gone_for_good_ends_it_with_its_name_until_it_is_back(session, agents):
    run = train(session, agents, rounds=4, params={"pause": 0.2}, deadline=12.0)
    reached(run, 1)
    agents.kill("lakeside")
    with pytest.raises(RunStalled, match="lakeside has gone") as stalled:
        run.result(timeout=180)
    assert f"%privnb result {run.id[:8]}" in stalled.value.hint
    agents.start("lakeside")
    assert len(run.result(timeout=180).history) == 4
