"""The agent with the real planner, tables and noise: prices fit grants, answers fit the data."""

from __future__ import annotations

import secrets
import shutil
from decimal import Decimal
from types import SimpleNamespace

import pytest
from site_fakes import ANA, FolderPort, job_files

from privnb.errors import StateError
from privnb.site.agent import Agent
from privnb.site.config import load_config
from privnb.site.data.tables import Tables
from privnb.site.database import Database
from privnb.site.grants import Grant, record_grant
from privnb.site.opening import database_path, open_agent, open_audit

CONFIG = """
name = "northside"
owner = "owner@northside.example"
exchange = "exchange"

[tables.visits]
source = "visits.csv"
privacy_unit = "person"
max_rows_per_unit = 2
delta = 1e-6
total_epsilon = 20
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"

[tables.visits.columns.clinic]
type = "string"
values = ["east", "west"]
nullable = false

[tables.visits.columns.town]
type = "string"

[tables.visits.columns.cost]
type = "integer"
bounds = [0, 100]
"""


@pytest.fixture(scope="module", params=["zcdp", "pure"])
def site(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("site")
    accounting = f'delta = 1e-6\naccounting = "{request.param}"'
    (folder / "site.toml").write_text(CONFIG.replace("delta = 1e-6", accounting))
    rows = [f"{n // 2},{'east' if n % 3 else 'west'},here,{n % 100}" for n in range(4000)]
    (folder / "visits.csv").write_text("\n".join(["person,clinic,town,cost", *rows, ""]))
    config = load_config(folder)
    database = Database.open(database_path(config))
    state = folder / "state"
    port = FolderPort(folder / "exchange")
    agent = Agent(
        config,
        port=port,
        tables=Tables.open(config, state=state / "tables"),
        database=database,
        state=state,
        audit=open_audit(config),
    )
    agent.warm()

    def ask(action="run", *, analyst=ANA, **fields):
        name = secrets.token_hex(16)
        fields = {"purpose": "research", **fields}
        port.submit(analyst, name, job_files(name, action, **fields))
        agent.step()
        (reply,) = port.replies(name, analyst)
        return reply

    def grant(epsilon, analyst=ANA):
        given = Grant(analyst=analyst, table="visits", purpose="research", epsilon=Decimal(epsilon))
        with database.write() as transaction:
            record_grant(transaction, given)

    yield SimpleNamespace(ask=ask, grant=grant, folder=folder, accounting=request.param)
    agent.close()


COUNT = "SELECT clinic, COUNT(*) AS n FROM visits GROUP BY clinic"


@pytest.mark.parametrize("epsilon", ["0.0001", "0.03", "1", "2.5"])
def test_a_grant_pays_exactly_one_release_of_its_own_epsilon(site, epsilon):
    analyst = f"{secrets.token_hex(4)}@uni.example"
    site.grant(epsilon, analyst)
    reply = site.ask(sql=COUNT, epsilon=epsilon, analyst=analyst)
    assert reply.problem is None
    assert reply.budget.epsilon_spent == epsilon
    assert reply.budget.epsilon_left == "0"
    again = site.ask(sql=COUNT, epsilon="0.0001", analyst=analyst)
    assert again.problem.code == "E_BUDGET"


def test_an_answer_lies_near_the_truth_with_the_error_it_states(site):
    site.grant("5")
    reply = site.ask(sql=COUNT, epsilon="2")
    found = {row[0]: (row[1], half[1]) for row, half in
             zip(reply.answer.rows, reply.answer.half_widths, strict=True)}  # fmt: skip
    for clinic, true in (("west", 1334), ("east", 2666)):
        value, half_width = found[clinic]
        assert abs(value - true) < 5 * half_width
        assert 0 < half_width < 100
    assert reply.label.clamps == ("at most 2 rows per person",)


def test_groups_that_are_not_public_pay_a_delta(site):
    site.grant("5")
    reply = site.ask(sql="SELECT town, COUNT(*) AS n FROM visits GROUP BY town", epsilon="1")
    assert [row[0] for row in reply.answer.rows] == ["here"]
    assert reply.label.delta == {"zcdp": "1e-06", "pure": "1e-08"}[site.accounting]


def test_the_label_says_what_the_tables_accounting_guarantees(site):
    site.grant("5")
    label = site.ask(sql=COUNT, epsilon="0.5").label
    what = {
        "zcdp": ("discrete Gaussian noise (OpenDP)", "rho ", "1e-06", "at delta 1e-06"),
        "pure": (
            "discrete Laplace noise (OpenDP)",
            "epsilon 0.5",
            "0",
            "at most delta 1e-06 where",
        ),
    }
    mechanism, loss, delta, words = what[site.accounting]
    assert label.mechanism.startswith(mechanism)
    assert loss in label.mechanism
    assert (label.epsilon, label.delta) == ("0.5", delta)
    assert words in label.budget


def test_two_epsilons_cost_their_sum_only_where_accounting_is_pure(site):
    analyst = f"{secrets.token_hex(4)}@uni.example"
    site.grant("3", analyst)
    budgets = [site.ask(sql=COUNT, epsilon="0.3", analyst=analyst).budget for _ in range(4)]
    spent = Decimal(budgets[-1].epsilon_spent)
    if site.accounting == "pure":
        assert spent == Decimal("1.2")
        assert budgets[-1].epsilon_left == "1.8"
    else:
        assert spent < Decimal("0.7")


def test_another_accounting_is_refused_at_start_once_something_was_charged(site, tmp_path):
    shutil.copytree(site.folder, tmp_path / "site")
    other = {"zcdp": "pure", "pure": "zcdp"}[site.accounting]
    config = tmp_path / "site" / "site.toml"
    config.write_text(config.read_text().replace(f'"{site.accounting}"', f'"{other}"'))
    with pytest.raises(StateError, match="cannot be added up") as refused:
        open_agent(tmp_path / "site")
    assert f'accounting = "{site.accounting}" in [tables.visits]' in refused.value.hint


def test_price_and_refusals_come_without_touching_data(site):
    site.grant("5", "bo@uni.example")
    estimate = site.ask("estimate", sql=COUNT, epsilon="1", analyst="bo@uni.example").estimate
    assert estimate.affordable is True
    assert estimate.epsilon == "1"
    assert site.ask(sql="SELECT person FROM visits").problem.code == "E_PRIVACY_UNIT"
    assert site.ask(sql="SELECT COUNT(*) FROM other").problem.code == "E_NO_TABLE"


def test_the_mock_twin_answers_for_nothing(site):
    reply = site.ask("mock", sql=COUNT, purpose=None, epsilon=None)
    assert reply.label.mock
    assert {row[0] for row in reply.answer.rows} == {"east", "west"}
