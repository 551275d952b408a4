"""What is drawn of a federated run: live, saved, and as text."""

from __future__ import annotations

import base64

import pytest
from fake_desk import HOSTILE
from fake_run import RUN, SITES, begun, played, under_way
from ipywidgets.widgets.widget import _instances

from privnb.federated.progress import Board
from privnb.widgets.curves import draw
from privnb.widgets.federated import FederatedWidget
from privnb.widgets.run_card import caption, run_html, run_text
from privnb.widgets.run_display import RunDisplay

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("render", [run_html, run_text])
def test_each_site_says_what_it_does_in_each_round(render):
    shown = render(under_way().progress, run=RUN)
    for words in (
        *("Run ab12cd34 · round 7 of 10", "northside", "riverside", "lakeside"),
        *("after round 6:", "train loss 0.4281", "lakeside did not answer in time"),
        *("received", "training", "late", "dropped", "%privnb result ab12cd34"),
    ):
        assert words in shown


def test_no_state_is_told_by_colour_alone():
    shown = run_html(under_way().progress, run=RUN)
    assert shown.count('aria-label="dropped"') == 2
    assert shown.count('title="round 5: dropped"') == 1
    for sign in "✓…!✗·":
        assert sign in shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [("waiting for review", "◇ waiting for review"), ("Denied: too few.", "✗ Denied: too few.")],
)
def test_before_the_first_round_it_says_who_decides_and_who_is_out(words, shown):
    board = Board(SITES, rounds=3)
    board.joined("riverside", words)
    text = run_text(board.progress, run=RUN)
    assert "the sites decide whether they take part" in text
    assert shown in text
    assert "… decides" in text
    assert "takes part" in run_html(board.progress, run=RUN)


@pytest.mark.parametrize("render", [run_html, run_text])
def test_once_there_are_rounds_only_who_is_out_is_told(render):
    board = played(begun(), 1, 2)
    assert "joined" not in render(board.progress, run=RUN)
    board.joined("riverside", "The data has changed.")
    shown = render(board.progress, run=RUN)
    assert "The data has changed." in shown
    assert "joined" not in shown


def test_of_many_rounds_the_newest_are_shown_and_the_others_counted():
    progress = played(begun(rounds=50), 1, 33).progress
    html, text = run_html(progress, run=RUN), run_text(progress, run=RUN)
    assert html.count('scope="col"') == 1 + 20
    assert 'title="round 13"' not in html
    assert 'title="round 14"' in html
    assert "13 earlier rounds not shown" in html
    assert "23 earlier rounds not shown" in text
    assert len(max(text.splitlines()[:6], key=len)) < 80


def test_of_many_remarks_the_newest_are_shown_and_the_others_counted():
    board = begun()
    for number in range(20):
        board.remark(f"remark {number}.")
    shown = run_text(board.progress, run=RUN)
    assert "12 earlier remarks not shown" in shown
    assert "remark 11." not in shown
    assert "remark 19." in shown


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("joining", "the sites decide"),
        ("running", "round 3 of 10"),
        ("ending", "3 of 10 rounds done; the sites prove their part"),
        ("finished", "3 of 10 rounds done"),
        ("stopped", "stopped, 3 of 10 rounds done"),
        ("cancelled", "given up, 3 of 10 rounds done"),
        ("failed", "failed, 3 of 10 rounds done"),
    ],
)
def test_the_caption_says_how_far_it_is(state, said):
    board = played(begun(), 1, 3)
    board.state(state)
    assert said in caption(board.progress, run=RUN)


def test_a_run_that_is_over_gives_no_advice():
    board = played(begun(rounds=3), 1, 3)
    board.state("finished")
    assert "%privnb" not in run_html(board.progress, run=RUN)


def test_hostile_text_is_only_text():
    board = begun(sites=(HOSTILE, "b", "c"))
    board.remark(HOSTILE)
    board.measured(1, {HOSTILE: 1.0})
    board.joined(HOSTILE, HOSTILE)
    for shown in (run_html(board.progress, run=RUN), run_text(board.progress, run=RUN)):
        assert "\u202e" not in shown
    assert "<img" not in run_html(board.progress, run=RUN)


def test_curves_are_drawn_once_there_is_something_to_draw():
    assert draw(begun().progress) == ()
    curves = draw(under_way().progress)
    assert [each.alt for each in curves] == ["Curve of loss by round", "Curve of accuracy by round"]
    html = run_html(under_way().progress, run=RUN, curves=curves)
    for each in curves:
        assert base64.b64decode(each.png).startswith(b"\x89PNG")
        assert f'src="data:image/png;base64,{each.png}" alt="{each.alt}"' in html


def test_the_widget_draws_what_is_told_and_a_static_table_for_others():
    widget = FederatedWidget(RUN, under_way().progress)
    assert widget.view["rounds"] == [1, 2, 3, 4, 5, 6, 7]
    assert [site["rounds"][-1] for site in widget.view["sites"]] == ["received", "training", "late"]
    assert widget.curves == []
    widget.draw(draw(under_way().progress))
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "data:image/png" in data["text/html"]
    assert "round 7 of 10" in data["text/plain"]


def test_fifty_sites_over_a_thousand_rounds_stay_a_small_message():
    names = [f"site {number}" for number in range(50)]
    progress = played(begun(rounds=1000, sites=names), 1, 100).progress
    widget = FederatedWidget(RUN, progress)
    assert len(widget.view["rounds"]) == 20
    assert len(str(widget.view)) < 40_000


# In the output of a cell


class Output:
    """What a cell shows, and a clock that stands still until it is told."""

    def __init__(self):
        self.shown = []
        self.now = 0.0

    def opened(self, *, live=True):
        return RunDisplay(
            RUN, live=live, display=self.display, clear=self.clear, clock=lambda: self.now
        )

    def display(self, what, **how):
        self.shown.append((what, how))

    def clear(self, *, wait):
        assert wait
        self.shown.clear()

    @property
    def widget(self):
        """The widget that is shown."""
        (model,) = [what[VIEW]["model_id"] for what, _ in self.shown if VIEW in what]
        return _instances[model]


@pytest.fixture
def output():
    return Output()


def test_what_is_live_is_replaced_by_what_can_be_saved(output):
    board, display = under_way(), output.opened()
    display.show(board.progress, seconds=1)
    widget = output.widget
    played(board, 7, 10)
    display.show(board.progress, seconds=2)
    assert widget.view["caption"].endswith("round 10 of 10")
    board.state("finished")
    display.close(board.progress)
    ((form, _),) = output.shown
    assert set(form) == {"text/html", "text/plain"}
    assert "10 of 10 rounds done" in form["text/plain"]
    assert "data:image/png" in form["text/html"]
    assert widget.comm is None


def test_beneath_what_is_live_is_what_a_notebook_is_saved_with_now_and_then_brought_up_to_date(
    output,
):
    board, display = begun(rounds=100), output.opened()
    for number in range(1, 4):
        output.now += 2.5
        board.site(number, "northside", "training")
        display.show(board.progress, seconds=output.now)
    (live, _), (twin, first), (newer, second) = output.shown
    assert live == {VIEW: live[VIEW], "text/plain": ""}
    assert (first["update"], second["update"]) == (False, True)
    assert first["display_id"] == second["display_id"]
    assert ("round 1 of" in twin["text/html"], "round 3 of" in newer["text/html"]) == (True, True)
    assert f'<div class="{output.widget.twin}">' in newer["text/html"]
    assert f".{output.widget.twin}):not(:has(.pn-federated)){{display:none}}" in newer["text/html"]


def test_nothing_is_left_of_what_was_never_shown(output):
    output.opened().close(under_way().progress)
    assert output.shown == []


def test_curves_are_drawn_no_more_often_than_they_can_be_looked_at(output):
    board, display, drawn = begun(rounds=100), output.opened(), []
    display.show(board.progress, seconds=0)
    output.widget.observe(lambda change: drawn.append(board.progress.rounds_done), "curves")
    for number in range(1, 17):
        output.now += 0.125
        played(board, number, number)
        display.show(board.progress, seconds=output.now)
    assert drawn == [1, 5, 9, 13]
    played(board, 17, 17)
    display.close(board.progress)
    assert drawn[-1] == 17


def test_a_terminal_gets_a_line_for_rounds_that_are_done(output):
    board, display = begun(), output.opened(live=False)
    for number in range(1, 4):
        played(board, number, number, missing=["lakeside"])
        display.show(board.progress, seconds=2 * number)
    first, second, third = (what["text/plain"] for what, _ in output.shown)
    assert "northside  ✓" in first
    assert second.startswith("round 2 · ✓ northside, ✓ riverside, ✗ lakeside · 0.20 s · train loss")
    assert third.startswith("round 3 · ")
