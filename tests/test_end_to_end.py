"""The way of a cell through the whole house: session, PySyft, agent, ledger, noise, and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal

import pytest

import privnb
from privnb.errors import AccessRefused, KeyChanged, NotAPeer, QueryRefused, ResultPending
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.grants import Grant, record_grant
from privnb.site.opening import database_path, open_agent, open_datasite

pytestmark = pytest.mark.xdist_group("end to end")  # one agent serves most of them

ANA = "ana@uni.example"
PURPOSE = "utilisation-research"
PACKAGES = ("numpy", "pandas")
BY_PLAN = "SELECT plan_type, COUNT(*) AS n FROM visits GROUP BY plan_type ORDER BY n DESC"
NORTHSIDE = {"cost sharing": 2751, "free care": 2106, "individual deductible": 2041}


def admit(site):
    """What the owner does with ``privnb site accept`` and ``privnb site grant``."""
    config = load_config(site)
    open_datasite(config).accept(ANA)
    grant = Grant(analyst=ANA, table="visits", purpose=PURPOSE, epsilon=Decimal(4))
    database = Database.open(database_path(config))
    with database.write() as transaction:
        record_grant(transaction, grant)
    database.close()


@pytest.fixture(scope="module")
def in_memory(build_sites, tmp_path_factory):
    """One site on ``memory://``: its agent in a thread, the analyst's session beside it."""
    folder = tmp_path_factory.mktemp("memory")
    exchange = "memory://end-to-end"
    site = build_sites(folder, exchange, packages=PACKAGES)[0]
    agent = open_agent(site)
    stop = threading.Event()
    agent.warm()
    serving = threading.Thread(target=agent.run, args=(stop,))
    serving.start()
    try:
        session = privnb.connect(email=ANA, exchange=exchange, home=folder / "ana")
        while "northside" not in session.site_names():
            time.sleep(0.01)
        with pytest.raises(NotAPeer, match="has not accepted"):
            ask(session)
        admit(site)
        yield session
    finally:
        stop.set()
        serving.join(30)
        agent.close()


def ask(session, sql=BY_PLAN, **options):
    options = {"sites": ["northside"], "epsilon": 1, "purpose": PURPOSE} | options
    return session.secure(sql, **options)


def test_an_answer_is_near_the_truth_and_paid_for(in_memory):
    before = in_memory.budget().set_index("site").loc["northside"]
    release = ask(in_memory).result(timeout=30)
    found = release.df.set_index("plan_type")
    assert set(found.index) == set(NORTHSIDE)
    assert found.n.is_monotonic_decreasing
    for plan, people in NORTHSIDE.items():
        # 5 half-widths are 9.8 standard deviations: a false alarm in 1e21 runs
        assert abs(found.n[plan] - people) < 5 * found["± n"][plan]
    after = in_memory.budget().set_index("site").loc["northside"]
    assert after.spent > before.spent
    assert after.charges == before.charges + 1
    assert "one person" in release.label


def test_a_dry_run_and_a_mock_answer_cost_nothing(in_memory):
    before = in_memory.budget().spent.tolist()
    estimates = in_memory.estimate(BY_PLAN, sites=["northside"], epsilon=1, purpose=PURPOSE)
    assert estimates.df["± expected"].iloc[0] > 0
    assert in_memory.mock(BY_PLAN, sites=["northside"]).mock
    assert in_memory.budget().spent.tolist() == before


def test_refusals_say_what_to_do(in_memory):
    with pytest.raises(QueryRefused) as refused:
        ask(in_memory, "SELECT mdvis FROM visits").result(timeout=30)
    assert refused.value.hint
    with pytest.raises(AccessRefused) as refused:
        ask(in_memory, purpose="teaching").result(timeout=30)
    assert refused.value.code == "E_NO_GRANT"
    assert "privnb site grant" in refused.value.hint


def test_parameters_are_values_and_never_sql(in_memory):
    sql = "SELECT COUNT(*) AS n FROM visits WHERE plan_type = :plan"
    with pytest.raises(QueryRefused) as refused:
        ask(in_memory, sql, params={"plan": "free care' OR '1'='1"}).result(timeout=30)
    assert refused.value.code == "E_VALUE"  # the whole text is one value, and no plan's
    assert "Did you mean 'free care'?" in refused.value.hint
    release = ask(in_memory, sql, params={"plan": "free care"}).result(timeout=30)
    assert abs(release.df.n[0] - NORTHSIDE["free care"]) < 5 * release.df["± n"][0]


@pytest.fixture
def apart(build_sites, tmp_path):
    """One site over a folder, its agent a process of its own that can be killed."""
    exchange = tmp_path / "exchange"
    site = build_sites(tmp_path, str(exchange), packages=PACKAGES)[0]
    agents = []

    def start():
        with (tmp_path / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", "privnb", "site", "serve", str(site)]
            agents.append(subprocess.Popen(command, stdout=log, stderr=log))
        return agents[-1]

    session = privnb.connect(email=ANA, exchange=str(exchange), home=tmp_path / "ana")
    yield session, site, start
    for agent in agents:
        agent.kill()
        agent.wait()


@pytest.mark.timeout(300)
def test_a_request_outlives_agents_that_are_killed_and_is_paid_once(apart):
    session, site, start = apart
    agent = start()
    deadline = time.monotonic() + 120
    while "northside" not in session.site_names() and time.monotonic() < deadline:
        time.sleep(0.05)
    session.ask_sites()
    admit(site)
    assert ask(session, epsilon="0.5").result(timeout=60).sites == ("northside",)

    os.kill(agent.pid, signal.SIGKILL)
    agent.wait()
    request = ask(session, epsilon="0.5")
    with pytest.raises(ResultPending):
        request.result(timeout=0.2)
    again = start()
    assert session.request(request.id[:10]).result(timeout=120).sites == ("northside",)
    assert session.budget().charges.tolist() == [2]

    again.send_signal(signal.SIGTERM)
    assert again.wait(30) == 0


def test_a_swapped_key_is_noticed_before_anything_is_sent(apart, tmp_path):
    session, site, _ = apart
    config = load_config(site)
    open_datasite(config).publish_card(config.name)
    session.ask_sites()
    admit(site)
    session.ask_sites()  # sees that we are accepted, and pins the key
    (site / "datasite").rename(tmp_path / "old")  # somebody else with another key takes its place
    open_datasite(config).accept(ANA)
    with pytest.raises(KeyChanged):
        ask(session)
    assert session.sites().state.tolist() == ["KEY CHANGED: do not use"]
