"""What a person sees in JupyterLab."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

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
