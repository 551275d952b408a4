"""What a person sees in JupyterLab when three real sites answer; the README's picture is this."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("lab and demo")]

ASK = """%%secure --site northside --site riverside --epsilon 1 --purpose utilisation-research
SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits, SUM(meddol) AS dollars
FROM visits GROUP BY plan_type ORDER BY visits DESC"""


def test_real_sites_answer_in_a_real_notebook(lab, demo, screenshots):
    known = {name: value for name, value in demo.items() if name.startswith("PRIVNB_")}
    connect = f"import os; os.environ |= {known!r}\n%load_ext privnb\n%privnb connect"
    notebook = lab.run([connect, ASK, "%privnb budget", ""])
    expect(notebook.page.locator(".pn-budget [role=meter]")).to_have_count(3)
    release = notebook.page.locator(".pn-release").inner_text()
    for words in ("northside", "riverside", "free care", "±", "one person", "Does not protect"):
        assert words in release
    notebook.resize(1180, 1500)
    first, last = (notebook.cells.nth(number).bounding_box() for number in (1, 2))
    notebook.page.screenshot(
        path=screenshots / "first_query.png",
        animations="disabled",
        clip={
            "x": first["x"],
            "y": first["y"],
            "width": first["width"],
            "height": last["y"] + last["height"] - first["y"],
        },
    )
