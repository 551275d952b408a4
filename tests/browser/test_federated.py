"""What a person sees in JupyterLab of a federated run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

WIDGETS = Path(__file__).parent.parent / "widgets"
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"  # not awaited
START = """\
from fake_run import *
from privnb.widgets.curves import draw
from privnb.widgets.federated import FederatedWidget
board = {run}
widget = FederatedWidget(RUN, board.progress)
widget.draw(draw(board.progress))"""
# A cell that is busy for as long as it shows a run; a file says when it may go on.
RUNNING = """\
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_run import *
from privnb.widgets.run_display import RunDisplay
board, shown = played(begun(), 1, 3), RunDisplay(RUN, live=True)
shown.show(board.progress, seconds=3)
while not Path("first").exists(): time.sleep(0.02)
played(board, 4, 6, missing=["lakeside"])
shown.show(board.progress, seconds=6)
while not Path("second").exists(): time.sleep(0.02)
played(board, 7, 10)
board.state("finished")
shown.close(board.progress)"""


def opened(lab, run, **more):
    """Open a notebook that shows such a run."""
    return lab.show(START.format(run=run), "federated", **more)


def test_rounds_curves_and_who_dropped_out(lab, screenshots, theme):
    notebook, card = opened(lab, "under_way()", theme=theme)
    rows = card.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("received")
    expect(rows.nth(1)).to_contain_text("training")
    expect(rows.nth(2)).to_contain_text("late")
    expect(card.get_by_role("img", name="dropped")).to_have_count(2)
    expect(card).to_contain_text("lakeside did not answer in time")
    pictures = card.get_by_role("img", name="by round")
    expect(pictures).to_have_count(2)
    for picture in pictures.all():
        assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 400
    notebook.look(card, screenshots / f"federated-{theme.split()[-1].lower()}")


def test_of_many_rounds_and_sites_the_newest_rounds_are_seen(lab, screenshots):
    sites = "[f'hospital number {n}' for n in range(12)]"
    run = f"played(begun(rounds=120, sites={sites}), 1, 104, missing=['hospital number 3'])"
    notebook, card = opened(lab, run)
    expect(card.locator("tbody tr")).to_have_count(12)
    expect(card.locator("thead th.pn-round")).to_have_count(20)
    expect(card).to_contain_text("84 earlier rounds not shown")
    notebook.look(card, screenshots / "federated-many")


def test_a_run_that_sites_decide_about_says_who_has_joined(lab, screenshots):
    run = "Board(SITES, rounds=3)"
    change = (
        "\nboard.joined('northside', 'joined'); board.joined('riverside', 'waiting for review')"
        "\nboard.joined('lakeside', 'No grant covers visits for this purpose. ' * 3)"
        "\nwidget.show(board.progress, seconds=4)"
    )
    notebook, card = lab.show(START.format(run=run) + change, "federated")
    expect(card).to_contain_text("the sites decide whether they take part")
    expect(card).to_contain_text("waiting for review")
    notebook.look(card, screenshots / "federated-joining")


def test_it_is_drawn_while_the_kernel_is_busy_and_then_needs_none(lab, screenshots):
    notebook = lab.open([RUNNING.format(tests=str(WIDGETS))])
    notebook.page.evaluate(RUN_ALL)
    card = notebook.card("federated")
    expect(card).to_contain_text("round 3 of 10")
    (lab.notebooks / "first").touch()
    expect(card).to_contain_text("round 6 of 10")
    expect(card.get_by_role("img", name="dropped")).to_have_count(2)
    (lab.notebooks / "second").touch()
    saved = notebook.card("run")
    expect(saved).to_contain_text("10 of 10 rounds done")
    expect(card).to_have_count(0)
    notebook.photograph(saved, screenshots / "federated-saved.png")
    notebook.photograph(saved, screenshots / "federated-saved-narrow.png", width=700)
    last = saved.locator("tbody td").last
    right = "e => e.getBoundingClientRect().right"
    assert last.evaluate(right) <= saved.evaluate(right)
    notebook.save()
    notebook.close()
    book = nbformat.read(notebook.file, as_version=4)
    ((output,),) = [cell.outputs for cell in book.cells]
    assert set(output["data"]) == {"text/html", "text/plain"}
    again = lab.open_afresh(notebook.file)
    expect(again.card("run")).to_contain_text("10 of 10 rounds done")


def test_a_notebook_that_was_saved_before_its_kernel_died_shows_how_far_the_run_was(
    lab, screenshots
):
    notebook = lab.open([RUNNING.format(tests=str(WIDGETS)).replace('"first"', '"never"')])
    notebook.page.evaluate(RUN_ALL)
    expect(notebook.card("federated")).to_contain_text("round 3 of 10")
    notebook.card("run").wait_for(state="attached")
    expect(notebook.card("run")).to_be_hidden()
    notebook.save()
    notebook.close()
    again = lab.open_afresh(notebook.file)
    saved = again.card("run")
    expect(saved).to_be_visible()
    expect(saved).to_contain_text("round 3 of 10")
    expect(saved).to_contain_text("%privnb result ab12cd34")
    (shown,) = [each for each in again.outputs if each.is_visible()]
    expect(shown).to_contain_text("round 3 of 10")
    again.photograph(again.cells.first, screenshots / "federated-gone.png")


def test_hostile_text_is_only_text(lab):
    run = "begun(sites=(HOSTILE, 'b', 'c'))\nboard.remark(HOSTILE)\nboard.measured(1, {HOSTILE: 1})"
    notebook, card = opened(lab, run)
    expect(card.locator("tbody tr")).to_have_count(3)
    assert notebook.page.evaluate("window.hacked") is None
    assert "\u202e" not in card.inner_text()
