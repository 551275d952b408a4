from __future__ import annotations

import pytest

from privnb.errors import ExchangeUnavailable
from privnb.messages import Budget, BudgetEntry
from privnb.widgets.budget import BudgetWidget
from privnb.widgets.budget_card import budgets_html, budgets_text, share_left


def budget(left, *, granted="4", history=(), table="visits"):
    return Budget(
        table=table,
        purpose="research",
        epsilon_granted=granted,
        epsilon_spent="1.6",
        epsilon_left=left,
        until=None,
        history=history,
    )


ENTRY = BudgetEntry(
    at="2026-11-23T09:30:00+00:00", request="ab" * 16, digest="cd" * 32, epsilon="0.5"
)


class FakeSession:
    """Answers with these budgets, or with this error."""

    def __init__(self, *budgets):
        self.answers = budgets
        self.error = None

    def budgets(self):
        if self.error is not None:
            raise self.error
        return self.answers


def test_a_meter_speaks_its_value():
    html = budgets_html([("northside", budget("2.4"))])
    assert 'role="meter"' in html
    assert 'aria-valuenow="2.4"' in html
    assert 'aria-valuemax="4"' in html
    assert 'aria-valuetext="2.4 of 4 left"' in html
    assert "width:60.0%" in html


def test_what_runs_low_is_said_in_words_too():
    assert "running low" in budgets_html([("northside", budget("0.4"))])
    assert "running low" not in budgets_html([("northside", budget("2.4"))])


def test_the_history_names_time_price_and_request():
    html = budgets_html([("northside", budget("2.4", history=(ENTRY,)))])
    assert "1 charge<" in html
    assert "2026-11-23 09:30 · epsilon 0.5 · request abababab" in html


def test_a_static_table_has_no_animation_and_a_moving_one_respects_reduced_motion():
    assert "<style>" not in budgets_html([("northside", budget("2.4"))])
    moving = budgets_html(
        [("northside", budget("2.4"))], before={("northside", "visits", "research"): 1.0}
    )
    assert "--pn-from:100.0%" in moving
    assert "prefers-reduced-motion" in moving


@pytest.mark.parametrize("render", [budgets_html, budgets_text])
def test_without_a_grant_the_next_step_is_shown(render):
    assert "%privnb sites shows whom to ask" in render([])


@pytest.mark.parametrize(
    ("left", "granted", "share"),
    [("2", "4", 0.5), ("9", "4", 1), ("-1", "4", 0), ("x", "4", 0), ("1", "0", 0), ("nan", "4", 0)],
)
def test_a_share_is_always_between_nothing_and_all(left, granted, share):
    assert share_left(budget(left, granted=granted)) == share


def test_the_widget_holds_what_it_draws_and_a_static_table_for_others():
    widget = BudgetWidget(FakeSession(("northside", budget("2.4", history=(ENTRY,)))))
    (grant,) = widget.budgets
    assert (grant["site"], grant["left"], grant["share"]) == ("northside", "2.4", 0.6)
    assert grant["history"][0]["request"] == "abababab"
    data, _ = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert 'role="meter"' in data["text/html"]
    assert "northside" in data["text/plain"]


def test_a_click_asks_again_and_an_error_is_shown_in_the_widget():
    session = FakeSession(("northside", budget("2.4")))
    widget = BudgetWidget(session)
    session.answers = (("northside", budget("1.2")),)
    widget._handle_custom_msg({"ask": "refresh"}, [])
    assert widget.budgets[0]["left"] == "1.2"
    session.error = ExchangeUnavailable("The exchange is gone.", hint="Mount it again.")
    widget._handle_custom_msg({"ask": "refresh"}, [])
    assert widget.problem == "[E_EXCHANGE_UNAVAILABLE] The exchange is gone. Mount it again."
    assert widget.budgets[0]["left"] == "1.2"


def test_any_other_message_is_ignored():
    session = FakeSession(("northside", budget("2.4")))
    widget = BudgetWidget(session)
    session.answers = ()
    widget._handle_custom_msg({"ask": "something else"}, [])
    assert len(widget.budgets) == 1
