"""What an analyst sees of their requests in JupyterLab."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

START = """\
from dataclasses import replace
from privnb.errors import ExchangeUnavailable
from privnb.widgets.requests import RequestsWidget
session = FakeSession((), {standings})
widget = RequestsWidget(session)"""


def opened(lab, standings="standings()", **more):
    """Open a notebook that shows such requests."""
    return lab.show(START.format(standings=standings), "requests", **more)


def test_each_request_says_where_it_stands_and_what_to_do(lab, screenshots, theme):
    notebook, card = opened(lab, theme=theme)
    rows = card.locator("tbody tr")
    assert rows.count() == 6
    waiting, _, _, released, refused, _ = (rows.nth(i).inner_text() for i in range(6))
    for words in ("waiting for review", "1 of 2 approvals", "alice@hospital.example", "until"):
        assert words in waiting
    assert "%privnb result " in released
    assert "names single households" in refused
    notebook.look(card, screenshots / f"requests-{theme.split()[-1].lower()}")


def test_asking_again_shows_what_has_happened_and_keeps_the_focus(lab):
    notebook, card = opened(lab)
    again = card.get_by_role("button", name="Ask the sites again")
    again.focus()
    notebook.run("session.standings[0] = replace(session.standings[0], state='released')")
    notebook.keyboard.press("Enter")
    card.locator(".pn-status", has_text="Asked just now.").wait_for()
    assert "%privnb result " in card.locator("tbody tr").nth(0).inner_text()
    assert notebook.focused("textContent") == "Ask the sites again"
    notebook.run("session.error = ExchangeUnavailable('The exchange is gone.', hint='Mount it.')")
    again.click()
    card.locator(".pn-status", has_text="The exchange is gone. Mount it.").wait_for()
    assert card.locator("tbody tr").count() == 6


def test_hostile_text_is_only_text_and_long_text_stays_on_the_page(lab):
    hostile = (
        "[replace(s, site=HOSTILE, question=HOSTILE + 'x' * 4000, deciders=HOSTILE + 'y' * 500,"
        " reason=HOSTILE, state=HOSTILE) for s in standings()]"
    )
    notebook, card = opened(lab, hostile)
    assert card.locator("img").count() == 0
    assert notebook.page.evaluate("window.hacked") is None
    assert "\u202e" not in card.inner_text()


def test_two_hundred_requests_are_drawn(lab):
    _, card = opened(lab, "list(standings()) * 34")
    assert card.locator("tbody tr").count() == 204


def test_nothing_asked_is_said(lab):
    _, card = opened(lab, "()")
    card.locator(".pn-status", has_text="You have asked nothing yet.").wait_for()
    assert not card.locator("table").is_visible()


def test_closing_a_view_takes_its_listeners_away(lab):
    notebook, card = opened(lab)
    again = card.get_by_role("button", name="Ask the sites again").element_handle()
    notebook.clear()
    card.wait_for(state="detached")
    notebook.run("session.states = lambda: print('asked')")
    again.evaluate("button => button.click()")
    assert again.text_content() == "Ask the sites again"
    assert again.get_attribute("aria-disabled") == "false"
