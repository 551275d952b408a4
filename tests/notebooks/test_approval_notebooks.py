"""The notebooks on approved Python, consent and audit, run against three real sites."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest

pytestmark = pytest.mark.xdist_group("lab and demo")  # one of each serves them all

RELEASE = "application/vnd.privnb.release+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def approved(run_all):
    return run_all("02_approved_python.ipynb")


@pytest.fixture(scope="module")
def consent(run_all):
    return run_all("03_consent_and_audit.ipynb")


def test_a_template_is_released_by_the_owner_s_rule(approved):
    shown = approved.html("by_age")
    for words in ("Approved output from", "free care", "template visits_by_age", "Landlock"):
        assert words in shown


def test_the_mock_run_says_that_it_is_one_and_the_sandbox_lets_nothing_out(approved):
    assert "MOCK" in approved.html("%%secure --site northside --table visits --mock\nimport stats")
    (error,) = approved.outputs("%%secure --site northside --table visits --mock\nimport socket")
    assert "PermissionError in line 2" in error["evalue"]


def test_a_cell_of_one_s_own_waits_and_turns_into_the_result(approved):
    assert "waiting for review at northside" in approved.text("%%secure model")
    assert "waiting for review" in approved.text("%privnb requests")
    released = approved.html("model.result")
    assert "code: rita@northside.example" in released
    assert "output: rita@northside.example" in released
    assert "xage" in approved.text("model.value")


def test_the_reviewer_is_told_what_the_code_imports_and_reads(approved):
    told = approved.text("import os\n\nfrom privnb.owner")
    assert "imports statsmodels" in told
    assert "visits.mdvis" in told


def test_the_inbox_is_a_widget_whose_saved_form_holds_no_output(approved):
    (inbox,) = approved.outputs("%privnb review")
    assert WIDGET in inbox["data"]
    assert "ana@uni.example" in inbox["data"]["text/html"]


def test_a_denial_gives_its_reason_and_holds_for_the_same_text(approved):
    (error,) = approved.outputs("rows.result()")
    assert "These are five people" in error["evalue"]
    again = "%%secure --site northside --purpose utilisation-research --table visits --param seed"
    (refused,) = approved.outputs(again)
    assert "denied before" in refused["evalue"]


def test_access_is_asked_for_and_granted(consent):
    assert "its owner decides" in consent.text("%privnb request-access")
    assert "Do people who consent" in consent.text("%%bash\nprivnb consent list")


def test_who_withdraws_is_not_counted_in_the_next_computation(consent):
    def person_years(cell):
        number = re.search(r"([0-9,]+) ± ([0-9]+)", consent.text(cell))
        return int(number[1].replace(",", "")), int(number[2])

    (before, error), (after, _) = person_years("before"), person_years("after")
    # 500 people have at least one row each; each count is off by more than three of its errors
    # (of 95 %) with a probability below 1e-8
    assert before - after > 500 - 6 * error
    assert after < before
    assert "Counted" in consent.html("after")
    assert "dpv:AcademicResearch" in consent.html("after")


def test_a_grant_that_was_withdrawn_is_refused_at_once(consent):
    (error,) = consent.outputs("%%secure --site lakeside --epsilon 0.5")
    assert error["ename"] == "AccessRefused"


def test_the_trail_is_verified_and_a_forged_log_is_noticed(consent):
    assert "yes" in consent.text("%privnb audit")
    assert "exactly those of the log" in consent.text("%%bash\nprivnb audit export")
    forged = consent.text("%%bash\nKEY")
    assert "not the events of the checkpoint" in forged
    assert "exit status 1" in forged


@pytest.mark.parametrize("name", ["approved", "consent"])
def test_what_the_notebook_shows_can_be_checked_afterwards(request, tmp_path, name):
    notebook = request.getfixturevalue(name).notebook
    assert any(RELEASE in o.get("data", {}) for c in notebook.cells for o in c.get("outputs", ()))
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    check = [sys.executable, "-m", "privnb", "audit", "check-notebook", tmp_path / "saved.ipynb"]
    good = subprocess.run(check, capture_output=True, text=True, check=False)
    # By keys that only the notebook names.
    assert good.returncode == 3, good.stdout + good.stderr
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if RELEASE in output.get("data", {}):
                shown = output["data"]["text/plain"]
                output["data"]["text/plain"] = re.sub("[0-9]", "7", shown)
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
