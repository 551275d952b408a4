from __future__ import annotations

import pytest

from privnb.errors import ResultPending

ASK = "--site northside --epsilon 1 --purpose utilisation-research"
SQL = "SELECT COUNT(*) FROM visits\n"


@pytest.fixture
def front_end(notebook):
    """A front end that can replace what it shows, as a kernel's can."""
    notebook.shell.kernel = object()
    yield notebook
    del notebook.shell.kernel


def test_a_slow_site_shows_progress_that_goes_away(front_end):
    front_end.magics.progress_after = 0.01
    front_end.datasite.by_name["northside"].delay = 0.2
    events = []
    publish = front_end.shell.display_pub

    class Recorder(type(publish)):
        def publish(self, data, **more):
            events.append(data["text/plain"])

        def clear_output(self, wait=False):
            events.append(f"cleared, waiting for the next output: {wait}")

    front_end.shell.display_pub = Recorder(shell=front_end.shell)
    front_end.shell.run_cell(f"%%secure answer {ASK}\n{SQL}")
    front_end.shell.display_pub = publish
    progress, cleared, answer = events
    assert "Waiting for an answer" in progress
    assert "northside  waiting" in progress
    assert cleared == "cleared, waiting for the next output: True"
    assert answer.startswith("answer: 3 rows from northside")
    assert front_end.shell.user_ns["answer"].sites == ("northside",)


def test_a_quick_site_shows_none(front_end):
    front_end.run(f"%%secure answer {ASK}\n{SQL}")
    assert "Waiting" not in front_end.html


def test_when_time_is_over_the_request_lives_on(notebook):
    notebook.datasite.by_name["northside"].delay = 0.3
    notebook.run(f"%%secure answer {ASK} --timeout 0.05\n{SQL}")
    assert isinstance(notebook.error, ResultPending)
    line = notebook.error.hint.partition(": ")[2]
    assert line.startswith("%privnb result ")
    assert line.endswith(" answer")
    notebook.run(line)
    assert notebook.shell.user_ns["answer"].sites == ("northside",)


def test_an_interrupt_detaches_and_says_how_to_get_the_result(notebook):
    port = notebook.datasite
    port.by_name["northside"].delay = 0.1
    poll, port.poll = port.poll, interrupt_once(port)
    notebook.run(f"%%secure answer {ASK}\n{SQL}")
    port.poll = poll
    assert isinstance(notebook.error, ResultPending)
    assert "You stopped waiting for northside" in notebook.error.message
    notebook.run(notebook.error.hint.partition(": ")[2])
    assert notebook.shell.user_ns["answer"].sites == ("northside",)


def interrupt_once(port):
    """A port that is interrupted while it looks for answers."""

    def poll(owner):
        raise KeyboardInterrupt

    return poll


def test_budgets_shown_earlier_move_when_a_cell_spends(front_end):
    front_end.run("%privnb budget")
    first = front_end.outputs[0]
    assert 'aria-valuetext="4 of 4 left"' in first.data["text/html"]
    front_end.run(f"%%secure answer {ASK}\n{SQL}")
    moved = [o for o in front_end.outputs if o.transient and o.update]
    assert [o.transient for o in moved] == [first.transient]
    html = moved[0].data["text/html"]
    assert 'aria-valuetext="3.2 of 4 left"' in html
    assert "--pn-from:100.0%;width:80.0%" in html
    assert "prefers-reduced-motion" in html


@pytest.mark.parametrize("word", ["answer", "$answer", "$rid", "{rid}", "{answer.id}", "{rid[:8]}"])
def test_a_request_may_be_named_by_a_variable(notebook, word):
    notebook.run(f"%%secure answer {ASK} --no-wait\n{SQL}")
    notebook.run("rid = answer.id")
    notebook.run(f"%privnb result {word} later")
    assert notebook.error is None
    assert notebook.shell.user_ns["later"].sites == ("northside",)


@pytest.mark.parametrize("command", ["result", "cancel"])
def test_a_variable_that_is_not_there_is_an_error_that_names_it(notebook, command):
    notebook.run(f"%privnb {command} $rid")
    assert notebook.error.message == "There is no variable $rid in this notebook."
