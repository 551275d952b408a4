"""What an analyst sees of consents in JupyterLab, and how they ask for more."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab")]

FAKES = Path(__file__).parent.parent / "widgets"
THEMES = ["JupyterLab Light", "JupyterLab Dark"]
WIDTHS = (1180, 700)
START = f"""\
import sys
sys.path.insert(0, {str(FAKES)!r})
from fake_desk import *
from privnb.errors import ExchangeUnavailable
from privnb.widgets.consent import ConsentWidget
session = FakeSession({{made}})
widget = ConsentWidget(session)
widget"""
ALL = "consents(), (), OFFERS"


def opened(lab, name, made=ALL, *, theme="JupyterLab Light"):
    """Open a notebook that shows the consents of such a session."""
    lab.write(name, [START.format(made=made)])
    page = lab.open(name, theme=theme)
    lab.run_all(page)
    card = page.locator(".jp-OutputArea .pn-consent")
    card.locator(".pn-status").wait_for(state="attached")
    return page, card


def said(card, words):
    card.locator(".pn-status", has_text=words).wait_for()


def run(page, code):
    """Run code in the notebook's kernel; return what the session was asked for so far."""
    return page.evaluate(
        """async ([code, told]) => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          const reply = await kernel.requestExecute({ code, user_expressions: { told } }).done;
          return reply.content.user_expressions.told.data["text/plain"];
        }""",
        [code, "'; '.join(' · '.join(map(str, ask)) for ask in session.asked)"],
    ).strip("'")


@pytest.mark.parametrize("theme", THEMES)
def test_every_consent_says_its_state_in_a_word(lab, screenshots, theme):
    name = f"consent-{theme.split()[-1].lower()}"
    page, card = opened(lab, f"{name}.ipynb", theme=theme)
    rows = card.locator("tbody tr")
    assert rows.count() == 6
    words = [rows.nth(i).locator(".pn-state").inner_text().split()[-1] for i in range(6)]
    assert words == ["withdrawn", "expired", "asked", "pending", "granted", "refused"]
    assert "2027-06-30" in rows.nth(4).inner_text()
    assert "ethics board" in rows.nth(5).inner_text()
    assert card.locator("caption").inner_text() == "Consent: which table, for what purpose"
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1500})
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth")
        card.screenshot(path=screenshots / f"{name}-{width}.png")


def test_a_row_fills_the_form_and_the_answer_appears_in_the_table(lab):
    page, card = opened(lab, "ask.ipynb")
    card.get_by_role("button", name="Ask riverside for visits, utilisation-research").click()
    assert card.get_by_label("site").input_value() == "riverside"
    card.get_by_role("button", name="Ask the owner").click()
    said(card, "Say what you want to find out")
    page.keyboard.type("The board has agreed.")
    card.get_by_label("budget hoped for").fill("2")
    card.get_by_role("button", name="Ask the owner").dblclick()
    said(card, "Asked riverside. Its owner decides")
    asked = "riverside · visits · utilisation-research · The board has agreed. · 2"
    assert run(page, "") == asked
    assert "pending" in card.locator("tr", has_text="riverside").inner_text()
    assert card.get_by_label("reason").input_value() == ""


def test_choices_hold_only_what_goes_together(lab):
    _, card = opened(lab, "choices.ipynb")
    card.get_by_label("site").select_option("northside")
    card.get_by_label("table").select_option("plans")
    assert card.get_by_label("purpose").locator("option").all_inner_texts() == ["teaching"]
    card.get_by_label("site").select_option("lakeside")
    assert card.get_by_label("table").locator("option").all_inner_texts() == ["visits"]
    assert card.get_by_label("purpose").locator("option").count() == 2


def test_a_refusal_is_said_and_what_was_typed_stays(lab):
    _, card = opened(lab, "refusal.ipynb")
    card.get_by_label("reason").fill("to sell it")
    card.get_by_role("button", name="Ask the owner").click()
    said(card, "takes no such request. Ask for research.")
    assert card.get_by_label("reason").input_value() == "to sell it"


def test_asking_again_keeps_the_form_and_shows_problems(lab):
    page, card = opened(lab, "again.ipynb")
    card.get_by_label("site").select_option("riverside")
    card.get_by_label("reason").fill("half a thought")
    run(page, "session.entries = session.entries[:1]")
    again = card.get_by_role("button", name="Ask the sites again")
    again.focus()
    page.keyboard.press("Enter")
    said(card, "Asked just now.")
    assert page.evaluate("document.activeElement.textContent") == "Ask the sites again"
    assert card.locator(".pn-state", has_text="not asked").count() == 5
    assert card.get_by_label("site").input_value() == "riverside"
    assert card.get_by_label("reason").input_value() == "half a thought"
    run(page, "session.error = ExchangeUnavailable('The exchange is gone.', hint='Mount it.')")
    again.click()
    said(card, "The exchange is gone. Mount it.")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1


def test_hostile_text_is_only_text(lab):
    entry = (
        "ConsentEntry(table=HOSTILE, purpose=HOSTILE, state='refused', since='', reason=HOSTILE)"
    )
    page, card = opened(lab, "hostile.ipynb", f"[(HOSTILE, {entry})], (), OFFERS")
    assert card.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert "<img src=x" in card.inner_text()
    assert "\u202e" not in card.inner_text()


def test_without_sites_the_card_says_so(lab):
    _, card = opened(lab, "empty.ipynb", "")
    said(card, "No site has said anything about consent yet.")
    assert not card.locator("form").is_visible()


def test_closing_a_view_takes_its_listeners_away(lab):
    page, card = opened(lab, "closed.ipynb")
    card.get_by_label("reason").fill("because")
    send = card.get_by_role("button", name="Ask the owner").element_handle()
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    card.wait_for(state="detached")
    send.evaluate("button => button.click()")
    assert run(page, "widget.refresh()") == ""
