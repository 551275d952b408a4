"""What an analyst sees of their requests in JupyterLab."""

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
from dataclasses import replace
from fake_desk import *
from privnb.errors import ExchangeUnavailable
from privnb.widgets.requests import RequestsWidget
session = FakeSession((), {{standings}})
widget = RequestsWidget(session)
widget"""


def opened(lab, name, standings="standings()", *, theme="JupyterLab Light"):
    """Open a notebook that shows such requests."""
    lab.write(name, [START.format(standings=standings)])
    page = lab.open(name, theme=theme)
    lab.run_all(page)
    card = page.locator(".jp-OutputArea .pn-requests")
    card.locator(".pn-status").wait_for(state="attached")
    return page, card


def run(page, code):
    page.evaluate(
        """async (code) => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          await kernel.requestExecute({ code }).done;
        }""",
        code,
    )


@pytest.mark.parametrize("theme", THEMES)
def test_each_request_says_where_it_stands_and_what_to_do(lab, screenshots, theme):
    name = f"requests-{theme.split()[-1].lower()}"
    page, card = opened(lab, f"{name}.ipynb", theme=theme)
    rows = card.locator("tbody tr")
    assert rows.count() == 6
    waiting, _, _, released, refused, _ = (rows.nth(i).inner_text() for i in range(6))
    for words in ("waiting for review", "1 of 2 approvals", "alice@hospital.example", "until"):
        assert words in waiting
    assert "%privnb result " in released
    assert "names single households" in refused
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1500})
        assert card.evaluate("e => e.scrollWidth <= e.clientWidth")
        card.screenshot(path=screenshots / f"{name}-{width}.png")


def test_asking_again_shows_what_has_happened_and_keeps_the_focus(lab):
    page, card = opened(lab, "again.ipynb")
    again = card.get_by_role("button", name="Ask the sites again")
    again.focus()
    run(page, "session.standings[0] = replace(session.standings[0], state='released')")
    page.keyboard.press("Enter")
    card.locator(".pn-status", has_text="Asked just now.").wait_for()
    assert "%privnb result " in card.locator("tbody tr").nth(0).inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Ask the sites again"
    run(page, "session.error = ExchangeUnavailable('The exchange is gone.', hint='Mount it.')")
    again.click()
    card.locator(".pn-status", has_text="The exchange is gone. Mount it.").wait_for()
    assert card.locator("tbody tr").count() == 6


def test_hostile_text_is_only_text_and_long_text_stays_on_the_page(lab):
    hostile = (
        "[replace(s, site=HOSTILE, question=HOSTILE + 'x' * 4000, deciders=HOSTILE + 'y' * 500,"
        " reason=HOSTILE, state=HOSTILE) for s in standings()]"
    )
    page, card = opened(lab, "hostile.ipynb", hostile)
    assert card.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert "\u202e" not in card.inner_text()


def test_two_hundred_requests_are_drawn(lab):
    _, card = opened(lab, "many.ipynb", "list(standings()) * 34")
    assert card.locator("tbody tr").count() == 204


def test_nothing_asked_is_said(lab):
    _, card = opened(lab, "none.ipynb", "()")
    card.locator(".pn-status", has_text="You have asked nothing yet.").wait_for()
    assert not card.locator("table").is_visible()


def test_closing_a_view_takes_its_listeners_away(lab):
    page, card = opened(lab, "closed.ipynb")
    again = card.get_by_role("button", name="Ask the sites again").element_handle()
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    card.wait_for(state="detached")
    run(page, "session.states = lambda: print('asked')")
    again.evaluate("button => button.click()")
    assert again.text_content() == "Ask the sites again"
    assert again.get_attribute("aria-disabled") == "false"
