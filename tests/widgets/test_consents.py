from __future__ import annotations

import json

import pytest
from fake_desk import HOSTILE, OFFERS, FakeSession, consents

from privnb.errors import ExchangeUnavailable
from privnb.messages import ConsentEntry
from privnb.widgets.consent import ConsentWidget
from privnb.widgets.consent_card import consents_html, consents_text


def asked(widget, **changes):
    message = {
        "ask": "access",
        "site": "riverside",
        "table": "visits",
        "purpose": "utilisation-research",
        "reason": " The board has agreed. ",
        "epsilon": "",
    }
    sent = []
    widget.send = sent.append
    widget._handle_custom_msg(message | changes, [])
    return sent[-1] if sent else None


@pytest.mark.parametrize("render", [consents_html, consents_text])
def test_each_consent_says_its_state_until_when_and_why(render):
    shown = render(consents())
    for words in (
        *("✓", "granted", "2027-06-30", "pending", "A course in spring.", "refused"),
        *("The ethics board", "expired", "2026-10-31", "withdrawn", "The project has ended."),
    ):
        assert words in shown


def test_what_sites_offer_and_nobody_asked_for_is_shown_too():
    shown = consents_text(consents(), offered=[("northside", "plans", "teaching")])
    assert "northside  plans   teaching              ○ not asked" in shown
    again = [("northside", "visits", "teaching")]
    assert "not asked" not in consents_text(consents(), offered=again)


@pytest.mark.parametrize("render", [consents_html, consents_text])
def test_without_consents_the_next_step_is_shown(render):
    assert "%privnb sites" in render([])


def test_hostile_text_is_only_text():
    entry = ConsentEntry(table=HOSTILE, purpose=HOSTILE, state="refused", since="", reason=HOSTILE)
    shown = consents_html([(HOSTILE, entry)])
    assert "<img" not in shown
    assert "\u202e" not in shown


def test_the_widget_draws_consents_and_offers_and_a_static_table_for_others():
    widget = ConsentWidget(FakeSession(consents(), (), OFFERS))
    states = [consent["state"]["word"] for consent in widget.consents]
    assert states == ["withdrawn", "expired", "not asked", "pending", "granted", "refused"]
    assert [c["open"] for c in widget.consents] == [True, True, True, False, False, True]
    assert widget.consents[2]["offer"] == ["northside", "plans", "teaching"]
    data, _ = widget._repr_mimebundle_()
    assert "not asked" in data["text/html"]
    assert "withdrawn" in data["text/plain"]


def test_what_no_site_offers_any_more_cannot_be_asked_for():
    widget = ConsentWidget(FakeSession(consents()))
    assert all(consent["offer"] is None for consent in widget.consents)


def test_asking_reaches_the_site_and_is_shown_as_pending():
    session = FakeSession(consents(), (), OFFERS)
    widget = ConsentWidget(session)
    answer = asked(widget, epsilon="2")
    assert answer["said"].startswith("Asked riverside. Its owner decides")
    assert session.asked == [
        ("riverside", "visits", "utilisation-research", "The board has agreed.", "2")
    ]
    assert widget.consents[-1]["state"]["word"] == "pending"


def test_an_empty_epsilon_is_none_and_a_reason_is_needed():
    session = FakeSession(consents(), (), OFFERS)
    widget = ConsentWidget(session)
    asked(widget)
    assert session.asked[-1][-1] is None
    assert "No reason was given." in asked(widget, reason="  ")["refused"]
    assert len(session.asked) == 1


def test_a_refusal_and_a_silent_exchange_are_said():
    session = FakeSession(consents(), (), OFFERS)
    widget = ConsentWidget(session)
    refused = "riverside takes no such request. Ask for research."
    assert asked(widget, reason="to sell it")["refused"] == refused
    session.error = ExchangeUnavailable("The exchange is gone.", hint="Mount it.")
    assert asked(widget)["refused"] == "The exchange is gone. Mount it."
    assert widget.problem == "The exchange is gone. Mount it."
    assert len(widget.consents) == 6


@pytest.mark.parametrize("message", [{"ask": "access"}, {"ask": "else"}, None])
def test_any_other_message_is_ignored(message):
    session = FakeSession(consents(), (), OFFERS)
    widget = ConsentWidget(session)
    widget._handle_custom_msg(message, [])
    assert session.asked == []


def test_asking_again_draws_what_the_sites_say_now():
    session = FakeSession(consents(), (), OFFERS)
    widget = ConsentWidget(session)
    sent = []
    widget.send = sent.append
    session.entries = []
    widget._handle_custom_msg({"ask": "refresh"}, [])
    assert sent == [{"answered": "refresh"}]
    assert {c["state"]["word"] for c in widget.consents} == {"not asked"}
    assert json.dumps(widget.consents)
