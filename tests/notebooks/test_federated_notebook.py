"""The notebook on several sites as one, run against three real sites."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest

pytestmark = pytest.mark.xdist_group("lab and demo")  # one of each serves them all

RELEASE = "application/vnd.privnb.release+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
CHECK = (sys.executable, "-m", "privnb", "audit", "check-notebook")
SITES = ("northside", "riverside", "lakeside")


@pytest.fixture(scope="module")
def federated(run_all):
    return run_all("04_federated.ipynb")


def numbers(text, row):
    """The numbers in the row of a frame that begins with these words."""
    (line,) = [line for line in text.splitlines() if line.startswith(row)]
    return [float(word) for word in line.removeprefix(row).split()]


def test_the_dry_run_tells_the_error_together_and_one_by_one(federated):
    assert "if each site were asked alone" in federated.html("%%federated --site northside")


def test_a_total_says_that_only_the_sum_was_seen_and_proves_that_all_took_part(federated):
    shown = federated.html("national")
    for words in ("Total of all sites", "no part of one", "Proof", *SITES):
        assert words in shown


def test_together_there_is_less_noise_than_one_by_one(federated):
    text = federated.text("import numpy as np")
    for plan in ("cost sharing", "free care", "individual deductible"):
        alone, error_alone, together, error_together = numbers(text, plan)
        assert error_alone == pytest.approx(error_together * 2**0.5, rel=0.02)
        # errors of 95 %: each is off by more than three of them with a probability below 1e-8
        assert abs(alone - together) < 3 * (error_alone + error_together)


def test_masked_vectors_tell_nothing_and_their_sum_is_exact(federated):
    text = federated.text("secrets =")
    assert "the sum of the three: [295, 21]" in text
    masked = re.findall(r"you see \[ *([0-9]+) +([0-9]+)\]", text)
    # below 2**40 by chance: six times 1 in 16 million
    assert min(int(number) for pair in masked for number in pair) > 2**40


def test_a_dropout_is_shown_and_the_sum_goes_on_without_it(federated):
    (shown,) = federated.outputs("import time\n\nfrom privnb.federated.progress")
    assert set(shown["data"]) == {"text/html", "text/plain"}
    assert re.search(r"lake +✓ +✓ +✗ +✗ +✗ +✓ +✓ +✓", shown["data"]["text/plain"])
    assert "total patients 540" in shown["data"]["text/plain"]
    assert "data:image/png" in shown["data"]["text/html"]


def test_a_training_waits_for_the_reviewers_of_all_sites_and_names_them(federated):
    assert "waiting for review at riverside" in federated.text("%%federated model")
    released = federated.html("trained")
    for name in (
        "northside: code: rita@",
        "riverside: code: rita@",
        "raj@",
        "lakeside: code: rita@",
    ):
        assert name in released
    assert "image/png" in federated.outputs("trained.plot()")[0]["data"]


def test_the_sites_together_find_what_all_data_in_one_place_would_say(federated):
    text = federated.text("import statsmodels.api as sm")
    pooled, together = numbers(text, "all data in one place"), numbers(text, "federated")
    assert together == pytest.approx(pooled, rel=0.01)
    for site in SITES:
        assert numbers(text, f"{site} alone") != pytest.approx(pooled, rel=0.05)


def test_a_model_without_code_is_charged_and_near_the_truth(federated):
    assert "epsilon 2 at each site" in federated.text("%federated private")
    text = federated.text("exact =")
    for term in ("intercept", "xage", "disea"):
        exact, private, error = numbers(text, term)
        # limits on single people move it a little too
        assert abs(exact - private) < 4 * error + 0.05 * abs(exact)


def test_nothing_that_is_saved_needs_a_kernel(federated):
    outputs = [o for cell in federated.notebook.cells for o in cell.get("outputs", ())]
    assert not any(WIDGET in output.get("data", {}) for output in outputs)


def test_what_the_notebook_shows_can_be_checked_afterwards(federated, tmp_path):
    saved = tmp_path / "saved.ipynb"
    nbformat.write(federated.notebook, saved)
    good = subprocess.run([*CHECK, saved], capture_output=True, text=True, check=False)
    assert good.returncode == 3, good.stdout + good.stderr  # by keys that only the notebook names
    forged = nbformat.read(saved, as_version=4)
    for cell in forged.cells:
        for output in cell.get("outputs", ()):
            if RELEASE in output.get("data", {}):
                shown = output["data"]["text/plain"]
                output["data"]["text/plain"] = re.sub("[0-9]", "7", shown)
    nbformat.write(forged, saved)
    assert subprocess.run([*CHECK, saved], capture_output=True, check=False).returncode == 1
