"""Python cells: what is sent, what comes back at once, and what waits for people."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_exchange import COEFFICIENTS, PYTHON
from IPython.core.error import UsageError

from privnb import wire
from privnb.errors import PrivnbError, ResultPending
from privnb.messages import Problem
from privnb.notebook_check import check_notebook
from privnb.preview import Preview
from privnb.release import RECORD_TYPE, Release
from privnb.request import Request

ASK = "--site northside --purpose utilisation-research --table visits"
CELL = 'fit = visits[["xage"]].mean()\nfit  # {x} and $y stay as they are\n'


@pytest.fixture
def reviewed(notebook):
    """A notebook whose site northside lets people look at the code first."""
    notebook.datasite.by_name["northside"].review = "waiting for review"
    return notebook


def test_the_cell_is_sent_byte_for_byte_with_its_tables_and_parameters(notebook):
    notebook.run("lowest = 3")
    notebook.run(f"%%secure {ASK} --output fit --param lowest\n{CELL}")
    assert notebook.error is None
    (submission,) = notebook.datasite.runs
    asked = submission.computation
    assert (asked.kind, asked.source, asked.output) == ("python", CELL, "fit")
    assert (asked.tables, asked.parameters, asked.epsilon) == (("visits",), {"lowest": 3}, None)


def test_what_a_rule_releases_comes_back_at_once(notebook):
    release = notebook.run(f"%%secure {ASK}\n{CELL}")
    assert isinstance(release, Release)
    assert release.value["n"].tolist()[:2] == [20186, 20186]
    assert list(release.df.columns) == ["site", "term", "Coef.", "n"]
    assert "Approved output from northside" in notebook.html
    assert notebook.datasite.asked("status") == []


def test_with_a_name_one_line_says_who_released_it(notebook):
    notebook.run(f"%%secure survival {ASK}\n{CELL}")
    assert "survival: 3 rows from northside · approved output, released by code:" in notebook.text
    assert isinstance(notebook.shell.user_ns["survival"], Release)


def test_a_cell_that_waits_for_people_gives_its_handle_and_says_who_decides(reviewed):
    request = reviewed.run(f"%%secure {ASK}\n{CELL}")
    assert isinstance(request, Request)
    for words in ("waiting for review", "alice@clinic.example", "2026-12-07 09:30", "%privnb"):
        assert words in reviewed.html
        assert words in reviewed.text
    with pytest.raises(ResultPending, match="waiting for review: 0 of 2 approvals"):
        _ = request.value


def test_a_stored_handle_turns_into_the_result_when_it_is_released(reviewed):
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    assert "survival: waiting for review at northside" in reviewed.text
    assert "0 of 2 approvals; alice@clinic.example" in reviewed.text
    assert "until 2026-12-07 09:30 UTC" in reviewed.text
    reviewed.datasite.decide("northside")
    request = reviewed.run("survival")
    assert "Approved output from northside" in reviewed.html
    assert RECORD_TYPE in reviewed.outputs[0].data
    assert request.value.equals(COEFFICIENTS.value())
    assert request.df.site.tolist() == ["northside"] * 3
    assert [axes.get_title() for axes in request.plot().axes] == ["Coef.", "n"]


def test_the_output_in_review_is_waited_for_as_the_code_is(reviewed):
    reviewed.datasite.by_name["northside"].review = "output in review"
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    assert "survival: output in review at northside" in reviewed.text


def test_a_denial_shows_the_reviewers_reason(reviewed):
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    reason = "alice@clinic.example denied it: ages of single people would be told."
    denial = Problem(code="E_DENIED", message=reason, hint="Change the cell.")
    reviewed.datasite.decide("northside", problem=denial)
    reviewed.run("survival")
    assert "ages of single people" in reviewed.html
    reviewed.run("survival.result()")
    assert reason in reviewed.error.message


def test_the_result_is_fetched_by_its_id_also_after_a_restart(reviewed):
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    short = reviewed.shell.user_ns.pop("survival").id[:8]
    reviewed.run(f"%privnb result {short}")
    assert "waiting for review" in reviewed.html
    reviewed.datasite.decide("northside")
    reviewed.run(f"%privnb result {short} survival")
    assert reviewed.shell.user_ns["survival"].sites == ("northside",)


def test_what_one_site_released_is_shown_while_people_decide_at_another(reviewed):
    request = reviewed.run(f"%%secure {ASK} --site lakeside\n{CELL}")
    assert not request.done
    assert "Approved output from lakeside" in reviewed.html
    assert "Nothing from northside: " in reviewed.html
    assert "waiting for review" in reviewed.html


def test_showing_a_handle_asks_each_site_once_and_not_again_at_once(reviewed):
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    asked = len(reviewed.datasite.asked("status"))
    reviewed.run("survival")
    assert len(reviewed.datasite.asked("status")) == asked


def test_requests_asks_each_site_once_for_all_that_waits_there(reviewed):
    for _ in range(3):
        reviewed.run(f"%%secure {ASK} --no-wait r\n{CELL}")
    before = len(reviewed.datasite.asked("status"))
    reviewed.run("%privnb requests")
    asked = reviewed.datasite.asked("status")[before:]
    assert [(site, len(submission.requests)) for site, submission in asked] == [("northside", 3)]
    assert reviewed.text.count("waiting for review") == 3


def test_a_mock_run_needs_no_purpose_and_says_what_it_is(notebook):
    release = notebook.run(f"%%secure --site northside --table visits --mock\n{CELL}")
    assert release.mock
    assert "MOCK" in notebook.html
    (part,) = notebook.outputs[-1].data[RECORD_TYPE]["parts"]
    assert part["receipt"] is None
    assert notebook.datasite.runs == []


def test_a_dry_run_tells_who_decides_and_sends_nothing_to_run(notebook):
    preview = notebook.run(f"%%secure {ASK} --dry-run\n{CELL}")
    assert isinstance(preview, Preview)
    for words in ("2 of alice@clinic.example", "covers this", "200 rows", "60 seconds", "level 3"):
        assert words in notebook.html
        assert words in notebook.text
    assert {submission.action for _, submission in notebook.datasite.submitted} == {"describe"}
    facts = dict(preview.facts("northside"))
    assert facts["Consent"] == "covers this"
    assert facts["Groups"].endswith(" behind each recognised, or a reviewer decides")
    notebook.run(f"%%secure plan {ASK} --dry-run\n{CELL}")
    assert "plan: what northside would do · nothing spent" in notebook.text


def test_a_dry_run_draws_the_beginning_of_what_a_site_says(notebook):
    site = notebook.datasite.by_name["northside"]
    site.python = replace(site.python, review="r" * 100_000, packages=("p" * 100_000,))
    notebook.run(f"%%secure {ASK} --dry-run\n{CELL}")
    assert len(notebook.html) < 10_000
    assert len(notebook.text) < 10_000


def test_a_dry_run_knows_a_template_and_a_missing_consent(notebook):
    notebook.datasite.by_name["northside"].consents = ()
    notebook.run("lowest_age = 40")
    (template,) = PYTHON.templates
    preview = notebook.run(f"%%secure {ASK} --param lowest_age --dry-run\n{template.source}")
    assert preview.template("northside") == "visits_by_age"
    assert dict(preview.facts("northside"))["Consent"].startswith("none for ")
    assert "the owner's template visits_by_age is released at once while" in notebook.text
    assert "lowest_age: integer, 0 to 65" in notebook.text
    assert "%privnb request-access" in notebook.text
    other = ASK.replace("utilisation-research", "advertising")
    preview = notebook.run(f"%%secure {other} --param lowest_age --dry-run\n{template.source}")
    assert preview.template("northside") is None
    assert "released at once" not in notebook.text


def test_an_interrupt_leaves_the_request_and_no_question_behind(reviewed, tmp_path):
    port = reviewed.datasite
    poll = port.poll

    def interrupted(owner):
        if port.asked("status"):
            raise KeyboardInterrupt
        return poll(owner)

    port.poll = interrupted
    reviewed.run(f"%%secure survival {ASK}\n{CELL}")
    port.poll = poll
    assert isinstance(reviewed.error, ResultPending)
    assert "You stopped waiting for northside" in reviewed.error.message
    kept = [json.loads(p.read_text())["action"] for p in tmp_path.rglob("record.json")]
    assert "status" not in kept
    reviewed.datasite.decide("northside")
    reviewed.run(reviewed.error.hint.partition(": ")[2])
    assert reviewed.shell.user_ns["survival"].sites == ("northside",)


def test_a_published_notebook_can_be_checked_for_what_it_shows_and_stores(notebook, tmp_path):
    cells = []
    for line in (f"%%secure {ASK}", f"%%secure survival {ASK} --site lakeside"):
        notebook.run(f"{line}\n{CELL}")
        data = [o.data for o in notebook.outputs if RECORD_TYPE in o.data]
        cells.append({"cell_type": "code", "outputs": [{"data": d} for d in data]})
    file = tmp_path / "published.ipynb"
    # JavaScript saves it: 1.0 becomes 1
    file.write_text(json.dumps({"cells": cells, "nbformat": 4}).replace("1.0,", "1,"))
    report = check_notebook(file)
    assert report.status == 3, report.lines  # by keys that only the notebook names
    cells[1]["outputs"][0]["data"]["text/html"] += "<p>and more</p>"
    file.write_text(json.dumps({"cells": cells, "nbformat": 4}))
    assert check_notebook(file).status == 1


def test_the_name_of_a_stored_release_cannot_say_more_than_a_name(notebook, tmp_path):
    notebook.run(f"%%secure survival {ASK}\n{CELL}")
    (data,) = [o.data for o in notebook.outputs if RECORD_TYPE in o.data]
    data[RECORD_TYPE]["name"] = said = "everybody lives: 9 rows from northside"
    for mime in ("text/html", "text/plain"):
        data[mime] = data[mime].replace("survival", said)
    file = tmp_path / "forged.ipynb"
    cell = {"cell_type": "code", "outputs": [{"data": data}]}
    file.write_text(json.dumps({"cells": [cell], "nbformat": 4}))
    assert check_notebook(file).status == 1


def test_the_record_beside_an_output_is_what_the_log_has_the_hash_of(notebook):
    notebook.run(f"%%secure {ASK}\n{CELL}")
    record = notebook.outputs[-1].data[RECORD_TYPE]
    (part,) = record["parts"]
    event = json.loads(part["receipt"]["event"])
    assert event["output"] == wire.sha256_hex(part["released"].encode())
    assert json.loads(part["released"])["digest"] == record["digest"]


# What newcomers get wrong


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{ASK} --epsilon 1", "--epsilon has no meaning for Python"),
        ("--site northside --table visits --language sql", "--table has no meaning for SQL"),
        ("--site northside --output x --language sql", "--output has no meaning for SQL"),
        (f"{ASK} --language R", "invalid choice: 'R'"),
        (f"{ASK} --output 2nd", "'2nd' cannot be the name of a variable"),
        (f"{ASK} --table a,b", "option: --table a --table b"),
        (f"{ASK} --dry-run --mock", "exclude each other"),
    ],
)
def test_grammar_is_a_usage_error(notebook, line, said):
    notebook.run(f"%%secure {line}\n{CELL}")
    assert isinstance(notebook.error, UsageError)
    assert said in str(notebook.error)
    assert notebook.datasite.submitted == []


@pytest.mark.parametrize(
    ("cell", "code", "message", "hint"),
    [
        ("x = (1 +\n", "E_PYTHON", "Line 1 of the cell is not Python", "x = (1 +"),
        ("visits\n  y", "E_PYTHON", "Line 2", "The line reads: y"),
        ("%matplotlib inline\nvisits", "E_PYTHON", "Line 1", "command of the notebook"),
        ("!pip install x\n1", "E_PYTHON", "Line 1", "command of the notebook"),
        ("SELECT COUNT(*) FROM visits", "E_PYTHON", "reads as SQL", "Leave out --table"),
        ("-- all\nWITH a AS (SELECT 1) SELECT 2", "E_PYTHON", "reads as SQL", "Leave out"),
        ("return visits", "E_PYTHON", "'return' outside function", "return visits"),
        ("visits\0", "E_PYTHON", "null", ""),
        ("x = visits.mean()", "E_OUTPUT", "declares no output", "Add a last line x"),
        ("for x in 1, 2:\n    x", "E_OUTPUT", "declares no output", "End the cell with"),
        ("print(visits.mean())", "E_OUTPUT", "ends with print()", "stays at the site"),
        ("# nothing\n", "E_OUTPUT", "no code", "End the cell with"),
    ],
)
def test_a_cell_that_cannot_give_anything_is_sent_nowhere(notebook, cell, code, message, hint):
    notebook.run(f"%%secure {ASK}\n{cell}\n")
    assert isinstance(notebook.error, PrivnbError)
    assert notebook.error.code == code
    assert message in notebook.error.message
    assert hint in notebook.error.hint
    assert len(notebook.error._render_traceback_()) == 2
    assert notebook.datasite.runs == []


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ("--purpose p --language python", "E_NO_TABLE", "No table was named", "--table visits"),
        ("--purpose p --table visit", "E_NO_TABLE", "no table 'visit'", "Did you mean 'visits'"),
        ("--table visits", "E_PURPOSE", "No purpose was given", "utilisation-research"),
        ("--purpose p --table visits --output mod", "E_OUTPUT", "never assigns 'mod'", "fit"),
        ("--purpose p --table visits --param visits", "E_PARAMETER", "a parameter and a", "name"),
        ("--purpose p --table visits --param xx", "E_PARAMETER", "no variable 'xx'", "Assign"),
    ],
)
def test_meaning_is_an_error_with_a_hint(notebook, line, code, message, hint):
    notebook.run("visits = 3")
    notebook.session.descriptions()
    notebook.run(f"%%secure --site northside {line}\n{CELL}")
    assert notebook.error.code == code
    assert message in notebook.error.message
    assert hint in notebook.error.hint
    assert notebook.datasite.runs == []


def test_python_without_a_table_is_told_what_to_add(notebook):
    notebook.run(f"%%secure --site northside --epsilon 1 --purpose p\n{CELL}")
    assert notebook.error.code == "E_NOT_SELECT"
    assert "add --table" in notebook.error.hint


def test_a_package_that_is_not_here_is_for_the_site_to_judge(notebook):
    notebook.run(f"%%secure {ASK}\nimport no_such_package\nno_such_package.fit(visits)\n")
    assert notebook.error is None


def test_a_site_that_takes_no_python_says_so_until_its_owner_allows_it(notebook):
    site = notebook.datasite.by_name["northside"]
    site.python = None
    notebook.run(f"%%secure {ASK}\n{CELL}")
    assert notebook.error.message == "northside takes no Python cells."
    site.python = PYTHON
    notebook.run(f"%%secure {ASK}\n{CELL}")
    assert notebook.error is None
