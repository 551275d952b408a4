"""What is asked of several sites together: refused before anything is sent, with both names."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from together import PURPOSE, REFUSED, VISITS, open_exchange

from privnb.dp.schema import Bounds
from privnb.errors import (
    AccessRefused,
    BudgetExceeded,
    NotAPeer,
    QueryRefused,
    RequestRefused,
    ResultPending,
    UnknownName,
)
from privnb.federated.local_app import run_here
from privnb.federated.strategies import made
from privnb.federated_questions import roster, would_refuse
from privnb.messages import Problem

SITES = ("northside", "riverside", "lakeside")
SQL = "SELECT plan_type, COUNT(*) AS n, AVG(mdvis) AS visits FROM visits GROUP BY plan_type"
CELL = """
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(msg, context): ...
initial = [np.zeros(2)]
"""


@pytest.fixture
def opened(tmp_path):
    session, datasite = open_exchange(tmp_path)
    yield session, datasite
    for site in datasite.by_name.values():
        site.stop()


def totals(session, sql=SQL, **options):
    return session.totals(sql, **{"sites": SITES, "epsilon": 1, "purpose": PURPOSE} | options)


def train(session, source=CELL, **options):
    options = {"sites": SITES, "tables": ["visits"], "purpose": PURPOSE, "rounds": 2} | options
    return session.train(source, **options)


def model(session, **options):
    options = {
        "target": "mdvis",
        "features": ["plan_type"],
        "table": "visits",
        "sites": SITES,
        "purpose": PURPOSE,
        "epsilon": 1,
        "rounds": 10,
    } | options
    return session.train_model(options.pop("model", "poisson"), **options)


def sent(datasite):
    """What was asked of any site but what it says of itself."""
    return [
        submission.action
        for site in datasite.by_name.values()
        for submission in site.submissions
        if submission.action != "describe"
    ]


def change(datasite, at, **changes):
    """Let a site publish its table otherwise."""
    site = datasite.by_name[at]
    site.schema = dataclasses.replace(site.schema, **changes)


def with_column(name, **changes):
    columns = tuple(
        dataclasses.replace(column, **changes) if column.name == name else column
        for column in VISITS.columns
    )
    return {"columns": columns}


# With whom


def test_sites_that_do_not_list_each_other_are_named_with_the_command_for_the_owner(opened):
    session, datasite = opened
    lakeside = datasite.by_name["lakeside"].verifier_key
    datasite.by_name["riverside"].partners.remove(lakeside)
    with pytest.raises(
        RequestRefused, match="riverside does not compute together with lakeside"
    ) as e:
        totals(session)
    assert e.value.code == "E_PARTNERS"
    assert e.value.hint.startswith("Ask owner@riverside.example to run: privnb site partner DIR '")
    assert lakeside in e.value.hint
    assert not sent(datasite)


def test_a_partner_that_was_added_meanwhile_counts(opened):
    session, datasite = opened
    lakeside = datasite.by_name["lakeside"].verifier_key
    datasite.by_name["riverside"].partners.remove(lakeside)
    session.descriptions()
    datasite.by_name["riverside"].partners.append(lakeside)
    datasite.by_name["northside"].exact["rows"] = []
    totals(session).cancel()


@pytest.mark.parametrize("ask", [totals, train, model])
def test_a_site_that_computes_with_nobody_is_named(opened, ask):
    session, datasite = opened
    datasite.by_name["lakeside"].offer = None
    with pytest.raises(RequestRefused, match="lakeside computes nothing together") as refused:
        ask(session)
    assert "owner@lakeside.example" in refused.value.hint
    assert not sent(datasite)


def test_fewer_sites_than_one_of_them_wants_are_refused(opened):
    session, datasite = opened
    datasite.by_name["riverside"].offer = {"min_sites": 4}
    with pytest.raises(RequestRefused, match="riverside takes part with at least 4 sites, and 3"):
        totals(session)


def descriptions(datasite):
    return {name: site.description() for name, site in datasite.by_name.items()}


@pytest.mark.parametrize(
    ("sites", "colluding", "exact", "threshold"),
    [(3, 0, False, 2), (4, 0, False, 3), (5, 0, False, 3), (5, 1, True, 4), (5, 2, False, 4)],
)
def test_the_threshold_is_the_fewest_that_protect(tmp_path, sites, colluding, exact, threshold):
    names = ("a", "b", "c", "d", "e")[:sites]
    _, datasite = open_exchange(tmp_path, names=names)
    try:
        who = roster(descriptions(datasite), exact=exact, colluding=colluding)
        assert who.threshold == threshold
        federation = who.federation()
        assert 2 * federation.threshold > sites + colluding
        assert federation.sites == tuple(sorted(federation.sites))
        assert {who.names[key] for key in federation.sites} == set(names)
    finally:
        for site in datasite.by_name.values():
            site.stop()


def test_what_the_strictest_site_wants_holds_for_all(opened):
    _, datasite = opened
    datasite.by_name["lakeside"].offer = {"colluding": 1}
    datasite.by_name["riverside"].offer = {"min_summed": 3}
    who = roster(descriptions(datasite), exact=False)
    assert (who.colluding, who.threshold) == (1, 3)


def test_a_threshold_that_protects_nobody_or_cannot_be_is_refused(opened):
    session, datasite = opened
    for threshold in (1, 4):
        with pytest.raises(RequestRefused, match="at least 2 and at most 3") as refused:
            totals(session, threshold=threshold)
        assert "threshold=2" in refused.value.hint
    with pytest.raises(RequestRefused, match="no sum would protect anybody"):
        totals(session, colluding=3)
    assert not sent(datasite)


def test_a_site_that_has_not_accepted_us_or_is_not_there_is_named(opened):
    session, datasite = opened
    datasite.by_name["lakeside"].state = "asked"
    with pytest.raises(NotAPeer, match="lakeside has not accepted"):
        totals(session)
    with pytest.raises(UnknownName, match="eastside"):
        totals(session, sites=[*SITES, "eastside"])


def test_a_site_that_never_said_what_it_offers_is_named(opened, monkeypatch):
    session, datasite = opened
    monkeypatch.setattr("privnb.dispatch.QUICK_SECONDS", 0.1)
    monkeypatch.setattr(datasite.by_name["lakeside"], "take_job", lambda *_: None)
    with pytest.raises(ResultPending, match="lakeside has not said yet"):
        totals(session)


# Totals


def test_sites_that_publish_different_bounds_are_told_apart_before_anything_is_sent(opened):
    session, datasite = opened
    change(datasite, "lakeside", **with_column("mdvis", bounds=Bounds(lower=0.0, upper=50.0)))
    with pytest.raises(QueryRefused, match=r"'mdvis' is limited to .*lakeside") as refused:
        totals(session)
    assert refused.value.code == "E_DIFFERENT"
    assert not sent(datasite)


def test_groups_are_the_union_of_what_the_sites_declare(opened):
    session, datasite = opened
    wider = with_column("plan_type", values=("free care", "cost sharing", "hmo"))
    change(datasite, "lakeside", **wider)
    for site in datasite.by_name.values():
        site.exact["rows"] = []
    run = totals(session, "SELECT plan_type, COUNT(*) AS n FROM visits GROUP BY plan_type")
    groups = run.computation.federation.groups
    assert groups == {"plan_type": ["free care", "cost sharing", "hmo"]}
    found = run.result(timeout=20).df
    assert found.plan_type.tolist() == ["free care", "cost sharing", "hmo"]


def test_groups_that_are_not_public_are_refused_with_what_to_do(opened):
    session, datasite = opened
    with pytest.raises(QueryRefused) as refused:
        totals(session, "SELECT mdvis, COUNT(*) FROM visits GROUP BY mdvis")
    assert refused.value.code == "E_NO_VALUES"
    assert "declare" in refused.value.hint
    assert not sent(datasite)


def test_a_table_that_only_one_site_lacks_is_said_with_its_name(opened):
    session, datasite = opened
    change(datasite, "lakeside", name="visits2")
    with pytest.raises(QueryRefused, match=r"At lakeside: .*no table") as refused:
        totals(session)
    assert refused.value.code == "E_NO_TABLE"


@pytest.mark.parametrize("sql", ["", "SELECT 1", "DROP TABLE visits", "SELECT mdvis FROM visits"])
def test_sql_that_makes_no_sense_is_refused_before_anything_is_sent(opened, sql):
    session, datasite = opened
    with pytest.raises(QueryRefused):
        totals(session, sql)
    assert not sent(datasite)


def test_a_purpose_and_an_epsilon_are_needed(opened):
    session, _ = opened
    with pytest.raises(RequestRefused, match="No purpose"):
        totals(session, purpose="")
    with pytest.raises(QueryRefused, match="epsilon"):
        totals(session, epsilon=None)


def test_a_dry_run_tells_the_error_of_the_total_and_of_asking_each_alone(opened):
    session, datasite = opened
    estimates = session.estimate_totals(SQL, sites=SITES, epsilon=1, purpose=PURPOSE)
    (whole,) = estimates.by_site.values()
    assert list(estimates.by_site) == ["northside + riverside + lakeside"]
    assert whole.affordable is True
    assert "if each site were asked alone" in whole.lines[0].note
    assert set(sent(datasite)) == {"estimate"}


# What it costs


def too_small(datasite, **left):
    """Let sites have too little left for anything."""
    for name, epsilon in left.items():
        datasite.by_name[name].refusal = REFUSED
        datasite.by_name[name].left = epsilon


@pytest.mark.parametrize("ask", [totals, model])
def test_a_budget_too_small_at_some_sites_is_one_error_before_any_is_charged(opened, ask):
    session, datasite = opened
    too_small(datasite, riverside="0.346", lakeside="0.5")
    with pytest.raises(BudgetExceeded) as error:
        ask(session)
    assert error.value.message == (
        "This costs epsilon 1 at each site, and less is left at riverside (0.346) and lakeside"
        " (0.5). Nothing was charged anywhere."
    )
    assert error.value.hint == (
        "Ask with epsilon 0.346 or less, which fits all sites, or ask for a larger grant:"
        " owner@riverside.example and owner@lakeside.example."
    )
    assert set(sent(datasite)) == {"estimate"}
    assert session.states() == ()


def test_where_nothing_is_left_only_the_owner_can_help(opened):
    session, datasite = opened
    too_small(datasite, riverside="0")
    with pytest.raises(BudgetExceeded, match=r"left at riverside \(nothing\)\.") as error:
        totals(session)
    assert error.value.hint == "Ask for a larger grant: owner@riverside.example."


def test_what_a_site_would_refuse_for_another_reason_is_said_in_its_words(opened):
    session, datasite = opened
    site = datasite.by_name["lakeside"]
    site.refusal = Problem(code="E_NO_GRANT", message="You have no grant.", hint="Ask the owner.")
    with pytest.raises(AccessRefused, match=r"lakeside would take no part: You have no grant\."):
        totals(session)
    site.refusal = REFUSED  # though all is left: it is about something else than epsilon
    with pytest.raises(BudgetExceeded, match=r"lakeside would take no part: Too much\."):
        totals(session)
    assert set(sent(datasite)) == {"estimate"}


@pytest.mark.parametrize("left", ["NaN", "-1", "lots", "1" + "0" * 90, "1e-999999999"])
def test_a_site_that_tells_nonsense_of_its_budget_is_still_a_site_that_refuses(opened, left):
    session, datasite = opened
    too_small(datasite, riverside=left)
    with pytest.raises(BudgetExceeded, match="riverside would take no part"):
        totals(session)


def test_a_silent_site_is_left_out_of_what_fits():
    priced = SimpleNamespace(refusal=REFUSED, budget=SimpleNamespace(epsilon_left="0.2500"))
    replies = {"northside": priced, "lakeside": ResultPending("Silent.")}
    owners = {name: f"owner@{name}.example" for name in replies}
    refusal = would_refuse(replies, epsilon="1", owners=owners)
    assert refusal.hint.startswith("Ask with epsilon 0.25 or less, which fits all sites that")
    assert would_refuse({"lakeside": ResultPending("Silent.")}, epsilon="1", owners=owners) is None


def test_mock_twins_cost_nothing_so_nobody_is_asked_for_the_price(opened):
    session, datasite = opened
    too_small(datasite, riverside="0")
    totals(session, mock=True)
    assert set(sent(datasite)) == {"mock"}


def test_a_dry_run_says_where_the_budget_is_too_small_and_what_is_left(opened):
    session, datasite = opened
    too_small(datasite, riverside="0.346")
    estimates = session.estimate_totals(SQL, sites=SITES, epsilon=1, purpose=PURPOSE)
    (whole,) = estimates.by_site.values()
    assert whole.affordable is False
    for shown in (str(estimates), estimates._repr_html_()):
        assert "more than your budget" in shown
        assert "less is left at riverside (0.346)" in shown
        assert "Ask with epsilon 0.346 or less, which fits all sites" in shown


# Training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("initial = ", "app = 3\ninitial = "), "app is a int, not a Flower ClientApp"),
        (("@app.train()", ""), "does not say how it trains"),
        (("initial = [np.zeros(2)]", ""), "sets no initial arrays"),
        (("[np.zeros(2)]", "3"), "initial is a int"),
        (("[np.zeros(2)]", "[]"), "initial has no arrays"),
        (("np.zeros(2)", "np.array([np.nan])"), "not finite"),
        (("np.zeros(2)", "np.array(['a'])"), "has type str"),
        (("np.zeros(2)", "np.zeros(2, complex)"), "has type complex"),
        (("np.zeros(2)", "1 / 0"), "Line 6 of the cell raises ZeroDivisionError"),
        (("initial = [", "initial = (["), "is not Python"),
        (("app = ClientApp()", "model = ClientApp()"), "never assigns 'app'"),
    ],
)
def test_a_cell_that_is_no_training_is_refused_before_anything_is_sent(opened, change, said):
    session, datasite = opened
    with pytest.raises(QueryRefused) as refused:
        train(session, CELL.replace(*change))
    assert said in refused.value.message
    assert refused.value.hint
    assert not sent(datasite)


def test_parameters_are_variables_of_the_cell_here_too(opened):
    app = run_here(CELL.replace("zeros(2)", "zeros(size)"), parameters={"size": 5})
    assert app.initial["0"].shape == (5,)
    assert (app.by_name, app.evaluates) == (False, False)


def test_a_training_is_for_sites_that_take_code_and_have_the_table(opened):
    session, datasite = opened
    datasite.by_name["lakeside"].offer = {"training": ""}
    with pytest.raises(RequestRefused, match="lakeside trains no models by code"):
        train(session)
    with pytest.raises(UnknownName, match="northside has no table 'others'"):
        train(session, tables=["others"])
    assert not sent(datasite)


def test_a_strategy_that_cannot_work_is_refused_before_anything_is_sent(opened):
    session, datasite = opened
    with pytest.raises(QueryRefused, match="Krum"):
        train(session, strategy="krum")
    with pytest.raises(QueryRefused, match="Options are for strategies by name"):
        train(session, strategy=made("fedavg", {}), strategy_options={"a": "1"})
    assert not sent(datasite)


@pytest.mark.parametrize("rounds", [0, -1, 10**6, 2.5, "many"])
def test_a_number_of_rounds_that_makes_no_sense_is_refused(opened, rounds):
    session, datasite = opened
    with pytest.raises(QueryRefused, match="rounds"):
        train(session, rounds=rounds)
    assert not sent(datasite)


def test_a_dry_run_tells_who_decides_and_what_is_seen(opened):
    session, datasite = opened
    preview = session.preview_training(
        CELL, sites=SITES, tables=["visits"], purpose=PURPOSE, rounds=7
    )
    facts = dict(preview.facts("northside"))
    assert facts["Who decides"] == "1 of 2 reviewers approve of the code"
    assert "at least 2 of 3 sites" in facts["Seen"]
    assert facts["Rounds"].startswith("at most 7")
    assert "Seen" in str(preview)
    assert not sent(datasite)


# Models of ours


def test_a_model_is_planned_before_anything_is_sent(opened):
    session, datasite = opened
    with pytest.raises(QueryRefused, match="'linear', 'logistic' or 'poisson'"):
        model(session, model="forest")
    with pytest.raises(QueryRefused):
        model(session, target="nothing")
    with pytest.raises(QueryRefused, match="rounds"):
        model(session, rounds=1)
    change(datasite, "lakeside", **with_column("mdvis", bounds=Bounds(lower=0.0, upper=50.0)))
    with pytest.raises(QueryRefused, match="lakeside"):
        model(session)
    assert not sent(datasite)


def test_a_dry_run_of_a_model_tells_the_price(opened):
    session, datasite = opened
    estimates = session.estimate_model(
        "poisson",
        target="mdvis",
        features=["plan_type"],
        table="visits",
        sites=SITES,
        epsilon=2,
        rounds=10,
    )
    (whole,) = estimates.by_site.values()
    assert whole.epsilon == "2"
    assert set(sent(datasite)) == {"estimate"}


def test_a_model_comes_back_as_coefficients_in_the_units_of_the_data(opened):
    session, datasite = opened
    rng = np.random.default_rng(0)
    for site in datasite.by_name.values():
        plan = rng.integers(0, 2, 3000)
        visits = np.minimum(rng.poisson(np.exp(1.0 + 0.5 * plan)), 30)
        rows = zip(range(3000), plan.tolist(), visits.tolist(), strict=True)
        site.exact["rows"] = list(rows)
    release = model(session, epsilon=4).result(timeout=60)
    found = release.df.set_index("term").coefficient
    # the noise of 9,000 people at epsilon 4 is a hundredth of this
    assert found["plan_type = cost sharing"] == pytest.approx(0.5, abs=0.1)
    assert release.outcome.kind == "model"
    assert "each sum over 3 sites has 3/2 of the variance" in release.label
    assert len(release.history) == 10
    rows = [axes for axes in release.plot().axes if axes.lines]
    labels = [axes.get_yticklabels()[0].get_text() for axes in rows]
    assert labels == release.df.term.tolist()
    for axes, value in zip(rows, release.df.coefficient, strict=True):
        left, right = axes.get_xlim()
        assert left == -right
        assert abs(value) > right / 10  # it is not lost beside a larger one
