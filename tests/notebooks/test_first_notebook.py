"""The first notebook, run against three real sites as a newcomer would run it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

pytestmark = pytest.mark.xdist_group("lab and demo")  # one of each serves them all

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
FIRST = NOTEBOOKS / "01_first_secure_query.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def ran(run_all):
    return run_all(FIRST.name)


def test_it_is_kept_without_outputs():
    for cell in nbformat.read(FIRST, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_loading_shows_nothing(ran):
    assert ran.outputs("%load_ext") == []


def test_the_mock_answer_says_that_it_is_one(ran):
    assert "MOCK" in ran.html("%%secure --site northside --mock")


def test_the_dry_run_tells_price_and_error_and_spends_nothing(ran):
    shown = ran.html("%%secure --site northside --epsilon 1")
    assert "nothing was spent" in shown
    assert shown.count("± ") >= 3


def test_the_answer_has_a_block_per_site_and_a_label(ran):
    shown = ran.html("visits_by_plan")
    assert shown.count('scope="rowgroup"') == 2
    for words in ("Privacy label", "epsilon 1, delta", "Does not protect", "free care"):
        assert words in shown


def test_its_frame_has_an_error_beside_every_aggregate(ran):
    text = ran.outputs("visits_by_plan.df")[0]["data"]["text/html"]
    for name in ("person_years", "visits", "dollars"):
        assert f"± {name}" in text


def test_its_plot_is_a_picture(ran):
    assert "image/png" in ran.outputs("visits_by_plan.plot()")[0]["data"]


def test_the_budget_moved_after_the_cells_below_it_and_is_saved_as_a_table(ran):
    (shown,) = ran.outputs("%privnb budget")
    assert WIDGET not in shown["data"]
    meters = re.findall(r'aria-valuenow="([0-9.]+)"', shown["data"]["text/html"])
    assert len(meters) == 3
    assert all(0 < float(left) < 4 for left in meters)  # lakeside was asked in a later cell


def test_what_goes_wrong_is_one_error_of_two_lines(ran):
    (error,) = ran.outputs(
        "%%secure --site northside --epsilon 1 --purpose utilisation-research\nSELECT zper"
    )
    assert error["ename"] == "QueryRefused"
    assert len(error["traceback"]) == 2


def test_converted_it_needs_no_widget(ran):
    page, _ = HTMLExporter().from_notebook_node(ran.notebook)
    assert page.count('role="meter"') == 3
    assert WIDGET not in page


@pytest.mark.parametrize("name", sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")))
def test_nbval_runs_every_notebook(run_all, name):
    assert run_all(name).notebook.cells
