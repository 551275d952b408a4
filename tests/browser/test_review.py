"""What a reviewer sees in JupyterLab, and that no request can do more than be read."""

from __future__ import annotations

import nbformat
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

START = """\
from privnb.widgets.review import ReviewWidget
desk = FakeDesk({items})
widget = ReviewWidget(desk)"""
TWO = "held_item(2), review_item(1)"
DECISIONS = "decisions_of(desk)"
COUNTED = "looks, items = [], desk.items; desk.items = lambda: looks.append(1) or items()"
TURNED = """(seen) => {
  for (const now of seen) {
    Object.defineProperty(document, "hidden", { configurable: true, value: !now });
    document.dispatchEvent(new Event("visibilitychange"));
  }
}"""


def opened(lab, items=TWO, **more):
    """Open a notebook that shows an inbox with these items."""
    return lab.show(START.format(items=items), "review", **more)


def pick(inbox, analyst):
    inbox.locator(".pn-item", has_text=analyst).click()
    inbox.locator(".pn-title", has_text=analyst).wait_for()


def turn(notebook, *seen):
    """Let the page be hidden or seen, one after the other, before anything else happens in it."""
    notebook.page.evaluate(TURNED, seen)


def said(inbox, words):
    inbox.locator(".pn-status", has_text=words).wait_for()


def test_the_inbox_shows_code_and_output(lab, screenshots, theme):
    name = f"review-{theme.split()[-1].lower()}"
    notebook, inbox = opened(lab, theme=theme)
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
    notebook.look(inbox, screenshots / f"{name}-code")
    pick(inbox, "ben@institute.example")
    shown = inbox.inner_text()
    for words in ("Real data.", "0.0317629744", "none", "fewer than 10 people", "Release"):
        assert words in shown
    notebook.look(inbox, screenshots / f"{name}-output")


def test_a_figure_is_shown_as_a_picture_with_words_for_it(lab, screenshots):
    notebook, inbox = opened(lab, "held_item(2, output=figure(), gate=())")
    pick(inbox, "ben@institute.example")
    picture = inbox.locator("img")
    assert picture.get_attribute("alt") == "figure, 480 \u00d7 300 pixels"
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 480
    assert "The gate has no objection." in inbox.inner_text()
    notebook.photograph(inbox, screenshots / "review-figure.png")


def test_a_double_click_approves_once_and_the_list_moves_on(lab):
    notebook, inbox = opened(lab, "review_item(1), review_item(3, analyst='c@d.ef')")
    pick(inbox, "ana@uni.example")
    # both clicks come before the kernel's answer
    inbox.get_by_role("button", name="✓ Approve").evaluate("b => { b.click(); b.click(); }")
    said(inbox, "Approved. The site's agent runs it next; what comes of it appears here.")
    assert notebook.value(DECISIONS) == "approve"
    assert "Others · 1" in inbox.inner_text()
    assert inbox.get_by_role("button", name="✓ Approve").count() == 0
    assert "pn-title" in notebook.focused("className")


def test_a_denial_needs_a_reason_which_reaches_the_desk(lab):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    inbox.get_by_role("button", name="✗ Deny").click()
    said(inbox, "Say why before you deny")
    reason = inbox.get_by_label("Reason")
    assert reason.get_attribute("aria-invalid") == "true"
    assert notebook.value(DECISIONS) == ""
    notebook.keyboard.type("eval hides what runs")
    inbox.get_by_role("button", name="✗ Deny").click()
    said(inbox, "Denied. The analyst will read your reason.")
    assert notebook.value(DECISIONS) == "deny eval hides what runs"


def test_an_output_is_released_or_withheld(lab):
    items = "held_item(2), held_item(3, analyst='c@d.ef')"
    notebook, inbox = opened(lab, items)
    pick(inbox, "ben@institute.example")
    inbox.get_by_role("button", name="✓ Release").click()
    said(inbox, "Released.")
    pick(inbox, "c@d.ef")
    inbox.get_by_label("Reason").fill("small groups")
    inbox.get_by_role("button", name="✗ Withhold").click()
    said(inbox, "Withheld. The output stays at the site")
    assert notebook.value(DECISIONS) == "release; withhold small groups"
    assert "Real data." not in inbox.inner_text()


@pytest.mark.parametrize(
    ("change", "words", "shown"),
    [
        (
            "digest='0' * 64",
            "The request changed while you looked; nothing was decided.",
            "0" * 64,
        ),
        (
            "reviewers=(BOB, CAROL)",
            "alice@hospital.example is not a reviewer of this site",
            "may still decide: carol@hospital.example",
        ),
    ],
    ids=["another request", "other reviewers"],
)
def test_a_refused_decision_says_why_and_keeps_the_reason_typed(lab, change, words, shown):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    inbox.get_by_label("Reason").fill("looks fine")
    turn(notebook, False)  # it must not find the change by itself
    notebook.run(f"desk.change(review_item(1), {change})")
    inbox.get_by_role("button", name="✓ Approve").click()
    said(inbox, words)
    turn(notebook, True)
    assert inbox.locator("textarea").input_value() == "looks fine"
    assert shown in inbox.inner_text()
    notebook.run("desk.change(review_item(1))")
    inbox.get_by_role("button", name="Look again").click()
    expect(inbox).not_to_contain_text(words)
    expect(inbox).not_to_contain_text(shown)
    expect(inbox.get_by_role("button", name="✓ Approve")).to_be_visible()
    assert inbox.get_by_label("Reason").input_value() == "looks fine"
    assert notebook.value(DECISIONS) == ""


def test_a_refusal_is_told_also_to_a_reader_who_has_gone_on(lab):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    notebook.run("desk.change(review_item(1), reviewers=(BOB, CAROL))")
    # both clicks come before the kernel's first answer
    notebook.page.evaluate(
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
    assert notebook.value(DECISIONS) == "release"


def test_without_a_key_everything_can_be_read_and_nothing_decided(lab):
    _, inbox = opened(lab, f"{TWO}, reviewer=None")
    assert "read only" in inbox.inner_text()
    pick(inbox, "ana@uni.example")
    assert "There is no reviewer's key here" in inbox.inner_text()
    assert inbox.get_by_role("button", name="✓ Approve").count() == 0


def test_everything_works_from_the_keyboard(lab):
    notebook, inbox = opened(lab)
    inbox.locator(".pn-item").nth(0).focus()
    notebook.keyboard.press("ArrowDown")
    notebook.keyboard.press("ArrowUp")
    notebook.keyboard.press("End")
    assert notebook.focused("innerText").startswith("ben@institute")
    notebook.keyboard.press("Home")
    notebook.keyboard.press("Enter")
    inbox.locator(".pn-title", has_text="ana@uni.example").wait_for()
    inbox.get_by_role("button", name="line 11").focus()
    notebook.keyboard.press("Enter")
    assert notebook.focused("dataset.line") == "11"
    assert inbox.locator(".pn-lit").inner_text().strip().startswith("return eval")
    inbox.get_by_role("button", name="Look again").focus()
    notebook.keyboard.press("Space")
    inbox.locator("[aria-disabled=false]", has_text="Look again").wait_for()
    assert notebook.focused("textContent") == "Look again"
    inbox.get_by_role("button", name="✓ Approve").focus()
    notebook.keyboard.press("Enter")
    said(inbox, "Approved.")
    # keys that delete, cut or run cells in a notebook did nothing of the kind
    assert notebook.cells.count() == 1


def test_looking_again_keeps_focus_reason_and_place(lab):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    inbox.get_by_label("Reason").fill("half a thought")
    inbox.locator(".pn-item[aria-current]").focus()
    notebook.run("desk.change(review_item(5, analyst='new@uni.example'))")
    notebook.run("widget.refresh()")
    inbox.locator(".pn-item", has_text="new@uni.example").wait_for()
    assert "ana@uni.example" in notebook.focused("innerText")
    assert inbox.get_by_label("Reason").input_value() == "half a thought"


def test_what_comes_of_a_decision_appears_without_a_click(lab):
    notebook, inbox = opened(lab, "review_item(1)")
    pick(inbox, "ana@uni.example")
    inbox.get_by_role("button", name="✓ Approve").click()
    said(inbox, "Approved.")
    notebook.run("desk.change(review_item(1), state='running', stage=None)")
    said(inbox, "Now: running.")
    notebook.run("desk.change(held_item(1, analyst=ANA))")
    said(inbox, "Now: output to review.")
    assert "For you to decide · 1" in inbox.inner_text()
    assert "0.0317629744" in inbox.inner_text()
    inbox.get_by_role("button", name="✓ Release").click()
    said(inbox, "Released.")
    notebook.run("desk.change(review_item(1), state='answered', stage=None)")
    said(inbox, "Now: released.")
    assert "Real data." not in inbox.inner_text()
    assert notebook.value(DECISIONS) == "approve; release"


def test_what_appears_by_itself_leaves_the_reader_where_they_are(lab):
    cell = "source='x = 1\\n' * 100, findings=('line 90: too much',)"
    notebook, inbox = opened(lab, f"review_item(1, state='running', stage=None, {cell})")
    pick(inbox, "ana@uni.example")
    inbox.get_by_role("button", name="line 90").click()
    pane = inbox.get_by_role("region", name="Code, 100 lines")
    scrolled = pane.evaluate("e => e.scrollTop")
    notebook.run(f"desk.change(held_item(1, analyst=ANA, {cell}))")
    said(inbox, "Now: output to review.")
    assert "0.0317629744" in inbox.inner_text()
    assert notebook.focused("dataset.line") == "90"
    assert pane.evaluate("e => e.scrollTop") == scrolled > 0


def test_new_requests_are_counted_until_they_are_opened(lab, screenshots):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    inbox.get_by_label("Reason").press_sequentially("half a thought")
    notebook.run("desk.change(review_item(5, analyst='new@uni.example'))")
    turn(notebook, True)
    expect(inbox.locator(".pn-news")).to_have_text("1 new")
    assert "new · 2 days" in inbox.locator(".pn-item", has_text="new@uni").inner_text()
    assert inbox.locator(".pn-status").inner_text() == ""
    assert notebook.focused("value") == "half a thought"
    notebook.photograph(inbox, screenshots / "review-new.png")
    pick(inbox, "new@uni.example")
    expect(inbox.locator(".pn-news")).to_be_empty()
    expect(inbox.locator(".pn-item", has_text="new ·")).to_have_count(0)


def test_what_is_being_decided_on_stays_until_the_reader_looks_again(lab):
    notebook, inbox = opened(lab, "review_item(1)")
    pick(inbox, "ana@uni.example")
    notebook.run("desk.change(held_item(1, analyst=ANA))")
    turn(notebook, True)
    said(inbox, "This request has changed: output to review. Look again before you decide.")
    assert inbox.get_by_role("button", name="✓ Approve").is_visible()
    assert "Real data." not in inbox.inner_text()
    inbox.get_by_role("button", name="Look again").click()
    expect(inbox.get_by_role("button", name="✓ Release")).to_be_visible()
    assert "Real data." in inbox.inner_text()


def test_nothing_is_asked_twice_at_once_nor_while_the_page_is_hidden(lab):
    notebook, _ = opened(lab)
    turn(notebook, False)
    before = notebook.run(COUNTED, "len(looks)")
    turn(notebook, False)
    assert notebook.value("len(looks)") == before
    turn(notebook, *[True] * 5, False)
    assert notebook.value("len(looks)") <= before + 1
    turn(notebook, True)


def test_hostile_text_is_only_text(lab, screenshots):
    hostile = (
        "review_item(1, source=HOSTILE + chr(10) + 'x = 1 #' + ' ' * 900 + 'evil()'"
        " + chr(10) + 'y' * 3000, analyst=HOSTILE, purpose=HOSTILE, parameters={HOSTILE: HOSTILE},"
        " findings=(HOSTILE,), difference='+' + HOSTILE, rule=HOSTILE, budget=HOSTILE,"
        " history=(HOSTILE,), imports=(HOSTILE,), columns=('c' * 2000,), mock_problem=HOSTILE)"
    )
    notebook, inbox = opened(lab, hostile)
    inbox.locator(".pn-item").click()
    inbox.locator(".pn-title").wait_for()
    assert inbox.locator("img").count() == 0
    assert notebook.page.evaluate("window.hacked") is None
    shown = inbox.inner_text()
    assert "\u202e" not in shown
    assert "\u200b" not in shown
    assert inbox.locator(".pn-lines .pn-t-escape", has_text=r"\u202e").count() > 0
    # what a line pushes far to the right is still on the page
    pane = inbox.locator(".pn-pane").first
    assert pane.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert inbox.evaluate("e => e.scrollWidth <= e.clientWidth")
    notebook.photograph(inbox, screenshots / "review-hostile.png")


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
    _, inbox = opened(lab, item)
    pick(inbox, "ana@uni.example")
    for texts in (".pn-pane >> nth=0 >> .pn-lines code", ".pn-facts dd", ".pn-facts dt"):
        found = inbox.locator(texts).evaluate_all(IN_ORDER_OF_SIGHT)
        assert found
        for text, seen in found:
            assert len(text) > 40 or seen == text  # a longer one may fill several lines


def test_two_hundred_requests_stay_usable(lab, screenshots):
    notebook, inbox = opened(lab, "*[review_item(n) for n in range(200)]")
    assert inbox.locator(".pn-item").count() == 200
    assert inbox.bounding_box()["height"] < 900
    assert inbox.locator(".pn-item[tabindex='0']").count() == 1
    inbox.locator(".pn-item").nth(150).click()
    inbox.locator(".pn-lines").first.wait_for()
    notebook.photograph(inbox.locator(".pn-list"), screenshots / "review-many.png")


def test_closing_a_view_takes_its_listeners_away(lab):
    notebook, inbox = opened(lab)
    pick(inbox, "ana@uni.example")
    approve = inbox.get_by_role("button", name="✓ Approve").element_handle()
    notebook.clear()
    inbox.wait_for(state="detached")
    notebook.run(COUNTED)
    approve.evaluate("button => button.click()")
    turn(notebook, True)
    assert notebook.run("widget.refresh()", DECISIONS) == ""
    assert notebook.value("len(looks)") == 1  # the refresh


def test_nothing_unreleased_is_saved_with_the_notebook(lab):
    with lab.settings("../@jupyter-widgets/jupyterlab-manager/plugin", {"saveState": True}):
        notebook, inbox = opened(lab)
        pick(inbox, "ben@institute.example")
        assert "0.0317629744" in inbox.inner_text()
        notebook.save()
    written = notebook.file.read_text()
    assert "application/vnd.jupyter.widget-state+json" in written
    assert "0.0317629744" not in written
    assert "sm.GLM" not in written
    book = nbformat.read(notebook.file, as_version=4)
    assert "output to review" in book.cells[0].outputs[0]["data"]["text/html"]
