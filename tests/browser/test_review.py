"""What a reviewer sees in JupyterLab, and that no request can do more than be read."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab")]

FAKES = Path(__file__).parent.parent / "widgets"
THEMES = ["JupyterLab Light", "JupyterLab Dark"]
WIDTHS = (1180, 700)
START = f"""\
import sys
sys.path.insert(0, {str(FAKES)!r})
from fake_desk import *
from privnb.widgets.review import ReviewWidget
desk = FakeDesk({{items}})
widget = ReviewWidget(desk)
widget"""
TWO = "held_item(2), review_item(1)"


def opened(lab, name, items=TWO, *, theme="JupyterLab Light"):
    """Open a notebook that shows an inbox with these items."""
    lab.write(name, [START.format(items=items)])
    page = lab.open(name, theme=theme)
    lab.run_all(page)
    inbox = page.locator(".jp-OutputArea .pn-review")
    inbox.locator(".pn-items").wait_for()
    return page, inbox


def pick(inbox, analyst):
    inbox.locator(".pn-item", has_text=analyst).click()
    inbox.locator(".pn-title", has_text=analyst).wait_for()


def said(inbox, words):
    inbox.locator(".pn-status", has_text=words).wait_for()


def decisions(page):
    """Return what has reached the desk in the kernel."""
    return page.evaluate(
        """async () => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          const run = kernel.requestExecute({
            code: "", user_expressions: { said: "decisions_of(desk)" },
          });
          const reply = await run.done;
          return reply.content.user_expressions.said.data["text/plain"];
        }"""
    ).strip("'")


def run(page, code):
    page.evaluate(
        """async (code) => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          await kernel.requestExecute({ code }).done;
        }""",
        code,
    )


def look(page, inbox, picture):
    """Take pictures of a wide and of a narrow notebook, neither of which needs scrolling."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 3000})
        assert inbox.evaluate("e => e.scrollWidth <= e.clientWidth")
        inbox.screenshot(path=picture.with_name(f"{picture.name}-{width}.png"))


@pytest.mark.parametrize("theme", THEMES)
def test_the_inbox_shows_code_and_output(lab, screenshots, theme):
    name = f"review-{theme.split()[-1].lower()}"
    page, inbox = opened(lab, f"{name}.ipynb", theme=theme)
    pick(inbox, "ana@uni.example")
    shown = inbox.inner_text()
    for words in (
        *("2 for you", "utilisation-research", "code to review", "1 of 2"),
        *("runs text as code", "sm.GLM", "18", "Result on the mock twin", "epsilon 0.8"),
        *("Changes since the nearest approved request · 5e6f7a8b", "statsmodels.api"),
        *("Approve", "Deny", "bob@hospital.example"),
    ):
        assert words in shown
    assert inbox.locator(".pn-lines .pn-t-keyword").count() > 3
    look(page, inbox, screenshots / f"{name}-code")
    pick(inbox, "ben@institute.example")
    shown = inbox.inner_text()
    for words in ("Real data.", "0.0317629744", "none", "fewer than 10 people", "Release"):
        assert words in shown
    look(page, inbox, screenshots / f"{name}-output")


def test_a_figure_is_shown_as_a_picture_with_words_for_it(lab, screenshots):
    _, inbox = opened(lab, "figure.ipynb", "held_item(2, output=figure(), gate=())")
    pick(inbox, "ben@institute.example")
    picture = inbox.locator("img")
    assert picture.get_attribute("alt") == "figure, 480 \u00d7 300 pixels"
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 480
    assert "The gate has no objection." in inbox.inner_text()
    inbox.screenshot(path=screenshots / "review-figure.png")


def test_a_double_click_approves_once_and_the_list_moves_on(lab):
    page, inbox = opened(lab, "double.ipynb", "review_item(1), review_item(3, analyst='c@d.ef')")
    pick(inbox, "ana@uni.example")
    inbox.get_by_role("button", name="✓ Approve").dblclick()
    said(inbox, "Approved. The site's agent runs it next.")
    assert decisions(page) == "approve"
    assert "Others · 1" in inbox.inner_text()
    assert inbox.get_by_role("button", name="✓ Approve").count() == 0
    assert page.evaluate("document.activeElement.classList.contains('pn-title')")


def test_a_denial_needs_a_reason_which_reaches_the_desk(lab):
    page, inbox = opened(lab, "deny.ipynb")
    pick(inbox, "ana@uni.example")
    inbox.get_by_role("button", name="✗ Deny").click()
    said(inbox, "Say why before you deny")
    reason = inbox.get_by_label("Reason")
    assert reason.get_attribute("aria-invalid") == "true"
    assert decisions(page) == ""
    page.keyboard.type("eval hides what runs")
    inbox.get_by_role("button", name="✗ Deny").click()
    said(inbox, "Denied. The analyst will read your reason.")
    assert decisions(page) == "deny eval hides what runs"


def test_an_output_is_released_or_withheld(lab):
    items = "held_item(2), held_item(3, analyst='c@d.ef')"
    page, inbox = opened(lab, "release.ipynb", items)
    pick(inbox, "ben@institute.example")
    inbox.get_by_role("button", name="✓ Release").click()
    said(inbox, "Released.")
    pick(inbox, "c@d.ef")
    inbox.get_by_label("Reason").fill("small groups")
    inbox.get_by_role("button", name="✗ Withhold").click()
    said(inbox, "Withheld. The output stays at the site")
    assert decisions(page) == "release; withhold small groups"
    assert "Real data." not in inbox.inner_text()


def test_a_refused_decision_says_why_and_keeps_the_reason_typed(lab):
    page, inbox = opened(lab, "refused.ipynb")
    pick(inbox, "ana@uni.example")
    inbox.get_by_label("Reason").fill("looks fine")
    for change, words in (
        ("digest='0' * 64", "The request changed while you looked; nothing was decided."),
        ("reviewers=(BOB, CAROL)", "alice@hospital.example is not a reviewer of this site"),
    ):
        run(page, f"desk.change(review_item(1), {change})")
        inbox.get_by_role("button", name="✓ Approve").click()
        said(inbox, words)
        assert inbox.locator("textarea").input_value() == "looks fine"
        run(page, "desk.change(review_item(1))")
        inbox.get_by_role("button", name="Look again").click()
        inbox.get_by_role("button", name="✓ Approve").wait_for()
    assert decisions(page) == ""


def test_a_refusal_is_told_also_to_a_reader_who_has_gone_on(lab):
    page, inbox = opened(lab, "gone-on.ipynb")
    pick(inbox, "ana@uni.example")
    run(page, "desk.change(review_item(1), reviewers=(BOB, CAROL))")
    # both clicks come before the kernel's first answer
    page.evaluate(
        """() => {
          document.querySelector(".pn-review .pn-yes").click();
          const entries = [...document.querySelectorAll(".pn-review .pn-item")];
          entries.find((entry) => entry.textContent.includes("ben@institute")).click();
        }"""
    )
    inbox.locator(".pn-title", has_text="ben@institute").wait_for()
    said(inbox, "alice@hospital.example is not a reviewer of this site")
    assert "ana@uni.example/" in inbox.locator(".pn-status").inner_text()
    inbox.get_by_role("button", name="✓ Release").click()
    said(inbox, "Released.")
    assert decisions(page) == "release"


def test_without_a_key_everything_can_be_read_and_nothing_decided(lab):
    _, inbox = opened(lab, "reader.ipynb", f"{TWO}, reviewer=None")
    assert "read only" in inbox.inner_text()
    pick(inbox, "ana@uni.example")
    assert "There is no reviewer's key here" in inbox.inner_text()
    assert inbox.get_by_role("button", name="✓ Approve").count() == 0


def test_everything_works_from_the_keyboard(lab):
    page, inbox = opened(lab, "keys.ipynb")
    inbox.locator(".pn-item").nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.innerText").startswith("ben@institute")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    inbox.locator(".pn-title", has_text="ana@uni.example").wait_for()
    inbox.get_by_role("button", name="line 11").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.line") == "11"
    assert inbox.locator(".pn-lit").inner_text().strip().startswith("return eval")
    inbox.get_by_role("button", name="Look again").focus()
    page.keyboard.press("Space")
    inbox.locator("[aria-disabled=false]", has_text="Look again").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Look again"
    inbox.get_by_role("button", name="✓ Approve").focus()
    page.keyboard.press("Enter")
    said(inbox, "Approved.")
    # keys that delete, cut or run cells in a notebook did nothing of the kind
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1


def test_looking_again_keeps_focus_reason_and_place(lab):
    page, inbox = opened(lab, "again.ipynb")
    pick(inbox, "ana@uni.example")
    inbox.get_by_label("Reason").fill("half a thought")
    inbox.locator(".pn-item[aria-current]").focus()
    run(page, "desk.change(review_item(5, analyst='new@uni.example'))")
    run(page, "widget.refresh()")
    inbox.locator(".pn-item", has_text="new@uni.example").wait_for()
    assert "ana@uni.example" in page.evaluate("document.activeElement.innerText")
    assert inbox.get_by_label("Reason").input_value() == "half a thought"


def test_hostile_text_is_only_text(lab, screenshots):
    hostile = (
        "review_item(1, source=HOSTILE + chr(10) + 'x = 1 #' + ' ' * 900 + 'evil()'"
        " + chr(10) + 'y' * 3000, analyst=HOSTILE, purpose=HOSTILE, parameters={HOSTILE: HOSTILE},"
        " findings=(HOSTILE,), difference='+' + HOSTILE, rule=HOSTILE, budget=HOSTILE,"
        " history=(HOSTILE,), imports=(HOSTILE,), columns=('c' * 2000,), mock_problem=HOSTILE)"
    )
    page, inbox = opened(lab, "hostile.ipynb", hostile)
    page.set_viewport_size({"width": 1180, "height": 3000})
    inbox.locator(".pn-item").click()
    inbox.locator(".pn-title").wait_for()
    assert inbox.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    shown = inbox.inner_text()
    assert "\u202e" not in shown
    assert "\u200b" not in shown
    assert inbox.locator(".pn-lines .pn-t-escape", has_text=r"\u202e").count() > 0
    # what a line pushes far to the right is still on the page
    pane = inbox.locator(".pn-pane").first
    assert pane.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert inbox.evaluate("e => e.scrollWidth <= e.clientWidth")
    inbox.screenshot(path=screenshots / "review-hostile.png")


IN_ORDER_OF_SIGHT = """elements => elements.map((element) => {
  const seen = [];
  const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    for (let at = 0; at < node.length; at += 1) {
      const range = document.createRange();
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      seen.push([range.getBoundingClientRect().left, node.data[at]]);
    }
  }
  const sight = seen.toSorted(([a], [b]) => a - b).map(([, text]) => text).join("");
  return [element.textContent, sight];
})"""


def test_letters_of_right_to_left_scripts_turn_nothing_around(lab):
    source = "\u05d0 = 7\nresult = \u05d0 - \u05d1\nx = ['\u0627', 1, 2, '\u0628']"
    item = f"review_item(1, source={source!r}, findings=(), parameters={{'\u05d0': '\u05d1 - 1'}})"
    _, inbox = opened(lab, "right-to-left.ipynb", item)
    pick(inbox, "ana@uni.example")
    for texts in (".pn-pane >> nth=0 >> .pn-lines code", ".pn-facts dd", ".pn-facts dt"):
        found = inbox.locator(texts).evaluate_all(IN_ORDER_OF_SIGHT)
        assert found
        for text, seen in found:
            assert len(text) > 40 or seen == text  # a longer one may fill several lines


def test_two_hundred_requests_stay_usable(lab, screenshots):
    _, inbox = opened(lab, "many.ipynb", "*[review_item(n) for n in range(200)]")
    assert inbox.locator(".pn-item").count() == 200
    assert inbox.bounding_box()["height"] < 900
    assert inbox.locator(".pn-item[tabindex='0']").count() == 1
    inbox.locator(".pn-item").nth(150).click()
    inbox.locator(".pn-lines").first.wait_for()
    inbox.locator(".pn-list").screenshot(path=screenshots / "review-many.png")


def test_nothing_unreleased_is_saved_with_the_notebook(lab):
    lab.configure("../@jupyter-widgets/jupyterlab-manager/plugin", {"saveState": True})
    page, inbox = opened(lab, "kept.ipynb")
    pick(inbox, "ben@institute.example")
    assert "0.0317629744" in inbox.inner_text()
    lab.save(page)
    page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
    written = (lab.notebooks / "kept.ipynb").read_text()
    assert "application/vnd.jupyter.widget-state+json" in written
    assert "0.0317629744" not in written
    assert "sm.GLM" not in written
    book = nbformat.read(lab.notebooks / "kept.ipynb", as_version=4)
    assert "output to review" in book.cells[0].outputs[0]["data"]["text/html"]


def test_closing_a_view_takes_its_listeners_away(lab):
    page, inbox = opened(lab, "closed.ipynb")
    pick(inbox, "ana@uni.example")
    approve = inbox.get_by_role("button", name="✓ Approve").element_handle()
    page.evaluate("window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    inbox.wait_for(state="detached")
    approve.evaluate("button => button.click()")
    run(page, "widget.refresh()")
    assert decisions(page) == ""
