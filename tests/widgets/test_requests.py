from __future__ import annotations

from dataclasses import replace

import pytest
from fake_desk import HOSTILE, FakeSession, standings

from privnb.errors import ExchangeUnavailable
from privnb.widgets.requests import RequestsWidget
from privnb.widgets.requests_card import RequestRow, requests_html, requests_text

ROWS = tuple(map(RequestRow.of, standings()))


@pytest.mark.parametrize("render", [requests_html, requests_text])
def test_each_request_says_where_it_stands_who_decides_and_what_to_do(render):
    shown = render(ROWS)
    for words in (
        *("waiting for review", "1 of 2 approvals; alice@hospital.example", "until 20"),
        *("output in review", "running", "released", f"%privnb result {ROWS[3].request[:8]}"),
        *("refused", "Denied: names single households.", "cancelled"),
    ):
        assert words in shown


def test_only_what_has_arrived_is_said_to_be_there_to_get():
    arriving = replace(ROWS[3], state="released, on its way here")
    assert "%privnb result" not in requests_text([arriving])


def test_a_run_to_which_a_site_gave_nothing_is_not_said_to_be_released():
    row = replace(ROWS[3], state="nothing given", reason="its analyst gave it up")
    shown = requests_text([row])
    assert f"its analyst gave it up; %privnb result {row.request[:8]} tells more" in shown
    assert "released" not in shown


def test_a_question_is_shown_from_where_it_tells_something():
    assert ROWS[0].first_words.startswith("exog = sm.add_constant")
    only = replace(ROWS[0], question="import os\n")
    assert only.first_words == "import os"
    sql = replace(ROWS[0], question="SELECT 1\nfrom visits")
    assert sql.first_words == "SELECT 1 from visits"


def test_of_a_model_it_says_what_is_explained_by_what():
    source = '{"features":["xage","disea"],"model":"poisson","target":"mdvis"}'
    row = RequestRow.of(replace(standings()[0], kind="model", question=source))
    assert row.first_words == "poisson regression: mdvis by xage, disea"


def test_who_joined_a_run_waits_for_its_analyst_to_go_on():
    row = replace(ROWS[0], state="joined")
    assert f"%privnb result {row.request[:8]}" in requests_text([row])


@pytest.mark.parametrize("render", [requests_html, requests_text])
def test_nothing_asked_is_said(render):
    assert "You have asked nothing yet." in render([])


def test_hostile_text_is_only_text():
    hostile = replace(ROWS[0], site=HOSTILE, state=HOSTILE, deciders=HOSTILE, reason=HOSTILE)
    shown = requests_html([hostile])
    assert "<img" not in shown
    assert "\u202e" not in shown


def test_the_widget_draws_rows_and_a_static_table_for_others():
    widget = RequestsWidget(FakeSession((), standings()))
    assert [row["state"]["word"] for row in widget.rows][:2] == [
        "waiting for review",
        "output in review",
    ]
    assert [row["ready"] for row in widget.rows] == [False, False, False, True, False, False]
    data, _ = widget._repr_mimebundle_()
    assert "waiting for review" in data["text/html"]
    assert "waiting for review" in data["text/plain"]


def test_a_click_asks_again_and_an_error_is_shown_in_the_widget():
    session = FakeSession((), standings())
    widget = RequestsWidget(session)
    session.standings = session.standings[:1]
    widget._handle_custom_msg({"ask": "refresh"}, [])
    assert len(widget.rows) == 1
    session.error = ExchangeUnavailable("The exchange is gone.", hint="Mount it.")
    widget._handle_custom_msg({"ask": "refresh"}, [])
    assert widget.problem == "The exchange is gone. Mount it."
    widget._handle_custom_msg({"ask": "something else"}, [])
    assert len(widget.rows) == 1
