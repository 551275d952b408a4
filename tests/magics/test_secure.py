from __future__ import annotations

import pytest

from privnb.messages import Problem
from privnb.release import Estimates, Release
from privnb.request import Request

ASK = "--epsilon 1 --purpose utilisation-research"
SQL = "SELECT plan_type, COUNT(*) AS person_years FROM visits GROUP BY plan_type\n"


def test_a_release_is_displayed_and_is_the_last_value(notebook):
    release = notebook.run(f"%%secure --site northside {ASK}\n{SQL}")
    assert isinstance(release, Release)
    assert notebook.run("_") is release
    assert release.sites == ("northside",)


def test_with_a_name_the_release_is_stored_and_one_line_says_so(notebook):
    value = notebook.run(f"%%secure visits_by_plan --site northside --site riverside {ASK}\n{SQL}")
    assert value is None
    release = notebook.shell.user_ns["visits_by_plan"]
    assert release.sites == ("northside", "riverside")
    assert "visits_by_plan: 6 rows from northside, riverside · epsilon 1 each" in notebook.text
    assert release.digest[:16] in notebook.text


def test_the_name_may_stand_after_the_options(notebook):
    notebook.run(f"%%secure --site northside {ASK} answer\n{SQL}")
    assert notebook.shell.user_ns["answer"].sites == ("northside",)


def test_the_cell_is_sent_byte_for_byte(notebook):
    notebook.shell.user_ns["mdvis"] = "not what is asked"
    cell = "SELECT  AVG($mdvis), '{mdvis}' -- as it stands \n FROM visits;\n"
    notebook.run(f"%%secure --site northside {ASK}\n{cell}")
    assert notebook.datasite.runs[-1].computation.source == cell


@pytest.mark.parametrize(
    "cell", ["SELECT COUNT(*) FROM visits;\n", "SELECT (\n  1\n FROM visits\n"]
)
def test_an_answer_that_was_paid_for_is_shown_whatever_the_sql_looks_like_to_python(notebook, cell):
    assert isinstance(notebook.run(f"%%secure --site northside {ASK}\n{cell}"), Release)
    assert notebook.error is None


def test_parameters_are_bound_from_the_notebook(notebook):
    notebook.run("year = 3\nplans = ['free care', 'cost sharing']")
    notebook.run(f"%%secure --site northside {ASK} --param year --param plans\n{SQL}")
    bound = notebook.datasite.runs[-1].computation.parameters
    assert bound == {"year": 3, "plans": ["free care", "cost sharing"]}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("{'a': 1}", "dict"),
        ("float('nan')", "not finite"),
        ("[1, [2]]", "list"),
        ("object()", "object"),
    ],
)
def test_a_parameter_of_another_type_is_refused_before_anything_is_sent(notebook, value, kind):
    notebook.run(f"p = {value}")
    notebook.run(f"%%secure --site northside {ASK} --param p\n{SQL}")
    assert notebook.error.code == "E_PARAMETER"
    assert kind in notebook.error.message
    assert notebook.datasite.submitted == []


def test_a_dry_run_shows_price_and_error_and_spends_nothing(notebook):
    estimates = notebook.run(f"%%secure --site northside {ASK} --dry-run\n{SQL}")
    assert isinstance(estimates, Estimates)
    assert "± 9,120" in estimates._repr_html_()
    assert notebook.datasite.by_name["northside"].left == 4


def test_a_dry_run_of_what_would_be_refused_says_where_and_why(notebook):
    notebook.datasite.by_name["riverside"].left = 0.25
    asked = f"--site northside --site riverside {ASK} --dry-run\n{SQL}"
    why = "epsilon 0.25 more fits. Ask for less."
    estimates = notebook.run(f"%%secure {asked}")
    assert f"riverside: This costs epsilon 1, but at most {why}" in estimates._repr_html_()
    assert why in str(estimates)
    notebook.run(f"%%secure price {asked}")
    assert "price: estimate from northside, riverside · would be refused" in notebook.text
    assert f"riverside: This costs epsilon 1, but at most {why}" in notebook.text


def test_a_mock_answer_needs_no_epsilon_and_says_what_it_is(notebook):
    release = notebook.run(f"%%secure --site northside --mock\n{SQL}")
    assert release.mock
    assert "MOCK" in release._repr_html_()
    assert "MOCK" in str(release)
    assert notebook.datasite.by_name["northside"].left == 4


def test_without_waiting_there_is_a_request_whose_answer_comes_later(notebook):
    request = notebook.run(f"%%secure --site northside {ASK} --no-wait\n{SQL}")
    assert isinstance(request, Request)
    release = notebook.run(f"%privnb result {request.id[:8]}")
    assert release.request == request.id
    notebook.run(f"%privnb result {request.id[:8]} later")
    assert notebook.shell.user_ns["later"].digest == request.digest


def test_a_site_that_refuses_is_named_beside_the_others_answers(notebook):
    notebook.datasite.by_name["riverside"].problem = Problem(
        code="E_BUDGET", message="Too much is asked.", hint="Ask for epsilon 0.5."
    )
    notebook.run(f"%%secure both --site northside --site riverside {ASK}\n{SQL}")
    assert "Nothing from riverside: [E_BUDGET] Too much is asked." in notebook.text
    release = notebook.shell.user_ns["both"]
    assert "Nothing from riverside" in release._repr_html_()


def test_a_refusal_by_all_sites_is_two_lines_and_stops_the_cell(notebook):
    notebook.datasite.by_name["northside"].problem = Problem(
        code="E_BUDGET", message="Too much is asked.", hint="Ask for epsilon 0.5."
    )
    notebook.run(f"%%secure --site northside {ASK}\n{SQL}")
    assert notebook.error._render_traceback_() == [
        "BudgetExceeded: [E_BUDGET] Too much is asked.",
        "Hint: Ask for epsilon 0.5.",
    ]


def test_a_plain_notebook_error_stays_pythons(notebook):
    notebook.run("1 / 0")
    assert isinstance(notebook.error, ZeroDivisionError)
