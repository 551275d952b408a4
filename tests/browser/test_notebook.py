"""What a person sees in JupyterLab."""

from __future__ import annotations

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab")]

ASK = "--site northside --site riverside --epsilon 1 --purpose utilisation-research"
SQL = """SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits, SUM(meddol) AS dollars
FROM visits GROUP BY plan_type ORDER BY visits DESC"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_release_and_a_budget_that_moves(lab, connected, screenshots, theme):
    name = f"{theme.split()[-1].lower()}.ipynb"
    cells = [
        connected,
        "%privnb sites",
        "%privnb schema visits",
        "%privnb budget",
        f"%%secure --site northside --mock\n{SQL}",
        f"%%secure {ASK} --dry-run\n{SQL}",
        f"%%secure {ASK}\n{SQL}",
        f"%%secure again {ASK}\n{SQL}",
        "%%secure --site northsid --epsilon 1 --purpose p\nSELECT 1",
    ]
    lab.write(name, cells)
    page = lab.open(name, theme=theme)
    lab.run_all(page)
    page.wait_for_selector("text=Did you mean 'northside'")
    meters = page.locator(".jp-Cell .pn-budget [role=meter]")
    assert meters.count() == 3
    spoken = [meters.nth(i).get_attribute("aria-valuetext") for i in range(3)]
    assert spoken == ["4 of 4 left", "2.4 of 4 left", "2.4 of 4 left"]
    page.wait_for_timeout(1200)
    for number in range(len(cells)):
        cell = page.locator(".jp-Notebook .jp-Cell").nth(number)
        cell.scroll_into_view_if_needed()
        cell.screenshot(path=screenshots / f"{name}-{number}.png")


def test_what_is_saved_is_a_table_that_needs_no_kernel(lab, connected):
    lab.write("saved.ipynb", [connected, "%privnb budget", f"%%secure {ASK}\n{SQL}"])
    page = lab.open("saved.ipynb")
    lab.run_all(page)
    page.wait_for_selector(".pn-release")
    lab.save(page)
    page.close()
    book = nbformat.read(lab.notebooks / "saved.ipynb", as_version=4)
    (budget,) = book.cells[1].outputs
    assert set(budget["data"]) == {"text/html", "text/plain"}
    assert 'aria-valuetext="3.2 of 4 left"' in budget["data"]["text/html"]
    again = lab.open("saved.ipynb")
    assert again.locator("[aria-label='Privacy budget (epsilon)']").count() == 1
    assert "model not found" not in again.locator(".jp-Notebook").inner_text()


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_live_budget_widget_moves_and_asks_again(lab, connected, screenshots, theme):
    name = f"live-{theme.split()[-1].lower()}.ipynb"
    lab.write(name, [connected, "%privnb budget --live"])
    page = lab.open(name, theme=theme)
    lab.run_all(page)
    widget = page.locator(".jp-OutputArea .pn-budget")
    meters = widget.locator("[role=meter]")
    meters.nth(2).wait_for()
    assert meters.nth(1).get_attribute("aria-valuetext") == "4 of 4 left"
    run(page, f"%%secure answer {ASK}\n{SQL}")
    page.wait_for_selector("[aria-valuetext='3.2 of 4 left']")
    run(page, "datasite.by_name['lakeside'].left = 0.5  # spent in another notebook")
    widget.get_by_role("button", name="Ask the sites again").click()
    page.wait_for_selector("[aria-valuetext='0.5 of 4 left']")
    widget.locator("summary").nth(0).click()
    page.wait_for_timeout(1200)
    assert "running low" in widget.inner_text()
    assert meters.nth(0).locator(".pn-fill").bounding_box()["width"] < 30
    widget.screenshot(path=screenshots / f"{name}.png")


def run(page, code):
    """Run code in the notebook's kernel, as another cell would."""
    page.evaluate(
        """async (code) => {
          const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
          await kernel.requestExecute({ code }).done;
        }""",
        code,
    )
