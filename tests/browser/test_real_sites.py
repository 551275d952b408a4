"""What a person sees in JupyterLab when three real sites answer; the README's picture is this."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("demo")]

ASK = """%%secure --site northside --site riverside --epsilon 1 --purpose utilisation-research
SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits, SUM(meddol) AS dollars
FROM visits GROUP BY plan_type ORDER BY visits DESC"""


def test_real_sites_answer_in_a_real_notebook(lab, demo, screenshots):
    known = {name: value for name, value in demo.items() if name.startswith("PRIVNB_")}
    connect = f"import os; os.environ |= {known!r}\n%load_ext privnb\n%privnb connect"
    lab.write("real.ipynb", [connect, ASK, "%privnb budget", ""])
    page = lab.open("real.ipynb")
    lab.run_all(page)
    page.locator(".pn-budget [role=meter]").nth(2).wait_for()
    release = page.locator(".pn-release").inner_text()
    for words in ("northside", "riverside", "free care", "±", "one person", "Does not protect"):
        assert words in release
    page.wait_for_timeout(1200)  # the meters come to rest
    cells = [page.locator(".jp-Notebook .jp-Cell").nth(number) for number in (1, 2)]
    page.set_viewport_size({"width": 1180, "height": 1500})
    first, last = (cell.bounding_box() for cell in cells)
    page.screenshot(
        path=screenshots / "first_query.png",
        clip={
            "x": first["x"],
            "y": first["y"],
            "width": first["width"],
            "height": last["y"] + last["height"] - first["y"],
        },
    )
