"""What a person sees in JupyterLab."""

from __future__ import annotations

import nbformat
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

ASK = "--site northside --site riverside --epsilon 1 --purpose utilisation-research"
SQL = """SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits, SUM(meddol) AS dollars
FROM visits GROUP BY plan_type ORDER BY visits DESC"""


def test_a_release_and_a_budget_that_moves(lab, connected, screenshots, theme):
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
    notebook = lab.run(cells, theme=theme)
    expect(notebook.cells.last).to_contain_text("Did you mean 'northside'")
    meters = notebook.page.locator(".jp-Cell .pn-budget [role=meter]")
    expect(meters).to_have_count(3)
    for meter, left in zip(meters.all(), ("4", "2.4", "2.4"), strict=True):
        expect(meter).to_have_attribute("aria-valuetext", f"{left} of 4 left")
    name = theme.split()[-1].lower()
    for number, cell in enumerate(notebook.cells.all()):
        notebook.photograph(cell, screenshots / f"{name}-{number}.png")


def test_what_is_saved_is_a_table_that_needs_no_kernel(lab, connected):
    notebook = lab.run([connected, "%privnb budget", f"%%secure {ASK}\n{SQL}"])
    notebook.page.wait_for_selector(".pn-release")
    notebook.save()
    notebook.close()
    book = nbformat.read(notebook.file, as_version=4)
    (budget,) = book.cells[1].outputs
    assert set(budget["data"]) == {"text/html", "text/plain"}
    assert 'aria-valuetext="3.2 of 4 left"' in budget["data"]["text/html"]
    again = lab.open_afresh(notebook.file)
    expect(again.page.locator("[aria-label='Privacy budget (epsilon)']")).to_have_count(1)
    assert "model not found" not in again.page.locator(".jp-Notebook").inner_text()


def test_the_live_budget_widget_moves_and_asks_again(lab, connected, screenshots, theme):
    notebook = lab.run([connected, "%privnb budget --live"], theme=theme)
    widget = notebook.card("budget")
    meters = widget.locator("[role=meter]")
    expect(meters.nth(1)).to_have_attribute("aria-valuetext", "4 of 4 left")
    notebook.run(f"%%secure answer {ASK}\n{SQL}")
    expect(meters.nth(1)).to_have_attribute("aria-valuetext", "3.2 of 4 left")
    notebook.run("datasite.by_name['lakeside'].left = 0.5  # spent in another notebook")
    widget.get_by_role("button", name="Ask the sites again").click()
    expect(meters.nth(0)).to_have_attribute("aria-valuetext", "0.5 of 4 left")
    assert "running low" in widget.inner_text()
    widget.locator("summary").nth(0).click()
    fill = meters.nth(0).locator(".pn-fill").element_handle()
    notebook.page.wait_for_function("fill => fill.getBoundingClientRect().width < 30", arg=fill)
    picture = screenshots / f"live-{theme.split()[-1].lower()}"
    notebook.look(widget, picture, widths=(1240, 1180, 1040, 850))
