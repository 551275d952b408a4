"""What an analyst sees of consents in JupyterLab, and how they ask for more."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

START = """\
from privnb.errors import ExchangeUnavailable
from privnb.widgets.consent import ConsentWidget
session = FakeSession({made})
widget = ConsentWidget(session)"""
ALL = "consents(), (), OFFERS"
ASKED = "'; '.join(' · '.join(map(str, ask)) for ask in session.asked)"


def opened(lab, made=ALL, **more):
    """Open a notebook that shows the consents of such a session."""
    return lab.show(START.format(made=made), "consent", **more)


def said(card, words):
    card.locator(".pn-status", has_text=words).wait_for()


def test_every_consent_says_its_state_in_a_word(lab, screenshots, theme):
    notebook, card = opened(lab, theme=theme)
    rows = card.locator("tbody tr")
    assert rows.count() == 6
    words = [rows.nth(i).locator(".pn-state").inner_text().split()[-1] for i in range(6)]
    assert words == ["withdrawn", "expired", "asked", "pending", "granted", "refused"]
    assert "2027-06-30" in rows.nth(4).inner_text()
    assert "ethics board" in rows.nth(5).inner_text()
    assert card.locator("caption").inner_text() == "Consent: which table, for what purpose"
    notebook.look(card, screenshots / f"consent-{theme.split()[-1].lower()}")


def test_a_row_fills_the_form_and_the_answer_appears_in_the_table(lab):
    notebook, card = opened(lab)
    card.get_by_role("button", name="Ask riverside for visits, utilisation-research").click()
    assert card.get_by_label("site").input_value() == "riverside"
    card.get_by_role("button", name="Ask the owner").click()
    said(card, "Say what you want to find out")
    notebook.keyboard.type("The board has agreed.")
    card.get_by_label("budget hoped for").fill("2")
    # both clicks come before the kernel's answer
    card.get_by_role("button", name="Ask the owner").evaluate("b => { b.click(); b.click(); }")
    said(card, "Asked riverside. Its owner decides")
    asked = "riverside · visits · utilisation-research · The board has agreed. · 2"
    assert notebook.value(ASKED) == asked
    assert "pending" in card.locator("tr", has_text="riverside").inner_text()
    assert card.get_by_label("reason").input_value() == ""


def test_choices_hold_only_what_goes_together(lab):
    _, card = opened(lab)
    card.get_by_label("site").select_option("northside")
    card.get_by_label("table").select_option("plans")
    assert card.get_by_label("purpose").locator("option").all_inner_texts() == ["teaching"]
    card.get_by_label("site").select_option("lakeside")
    assert card.get_by_label("table").locator("option").all_inner_texts() == ["visits"]
    assert card.get_by_label("purpose").locator("option").count() == 2


def test_a_refusal_is_said_and_what_was_typed_stays(lab):
    _, card = opened(lab)
    card.get_by_label("reason").fill("to sell it")
    card.get_by_role("button", name="Ask the owner").click()
    said(card, "takes no such request. Ask for research.")
    assert card.get_by_label("reason").input_value() == "to sell it"


def test_asking_again_keeps_the_form_and_shows_problems(lab):
    notebook, card = opened(lab)
    card.get_by_label("site").select_option("riverside")
    card.get_by_label("reason").fill("half a thought")
    notebook.run("session.entries = session.entries[:1]")
    again = card.get_by_role("button", name="Ask the sites again")
    again.focus()
    notebook.keyboard.press("Enter")
    said(card, "Asked just now.")
    assert notebook.focused("textContent") == "Ask the sites again"
    assert card.locator(".pn-state", has_text="not asked").count() == 5
    assert card.get_by_label("site").input_value() == "riverside"
    assert card.get_by_label("reason").input_value() == "half a thought"
    notebook.run("session.error = ExchangeUnavailable('The exchange is gone.', hint='Mount it.')")
    again.click()
    said(card, "The exchange is gone. Mount it.")
    assert notebook.cells.count() == 1


def test_hostile_text_is_only_text(lab):
    entry = (
        "ConsentEntry(table=HOSTILE, purpose=HOSTILE, state='refused', since='', reason=HOSTILE)"
    )
    notebook, card = opened(lab, f"[(HOSTILE, {entry})], (), OFFERS")
    assert card.locator("img").count() == 0
    assert notebook.page.evaluate("window.hacked") is None
    assert "<img src=x" in card.inner_text()
    assert "\u202e" not in card.inner_text()


def test_without_sites_the_card_says_so(lab):
    _, card = opened(lab, "")
    said(card, "No site has said anything about consent yet.")
    assert not card.locator("form").is_visible()


def test_closing_a_view_takes_its_listeners_away(lab):
    notebook, card = opened(lab)
    card.get_by_label("reason").fill("because")
    send = card.get_by_role("button", name="Ask the owner").element_handle()
    notebook.clear()
    card.wait_for(state="detached")
    send.evaluate("button => button.click()")
    assert notebook.run("widget.refresh()", ASKED) == ""
