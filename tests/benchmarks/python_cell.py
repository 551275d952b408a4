"""A Python cell whose digest is released, over a local folder and two processes: its round trip.

The cell reads the 20,190 person-years of the RAND Health Insurance Experiment. Each one takes a
worker that waits; a new one is started meanwhile, and takes its time: both are shown.

Target: median under 150 ms on an idle machine, while a worker waits.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from privnb.computation import Computation
from privnb.demo.data import randhie_csv
from privnb.demo.serving import ANALYST, PURPOSE, DemoSites
from privnb.session import connect, default_home
from privnb.site.template import init_site

CELLS = 15
CELL = 'visits.groupby("kind").agg(n=("mdvis", "size"), visits=("mdvis", "mean"))\n'
MODEL = """\
import statsmodels.api as sm
x = sm.add_constant(visits[["xage", "disea"]])
sm.GLM(visits.mdvis, x, family=sm.families.Poisson()).fit().summary2().tables[1]
"""
SITE = """
[tables.visits]
source = "visits.parquet"
privacy_unit = "zper"
max_rows_per_unit = 5
delta = 1e-6
total_epsilon = 20
purposes = ["{purpose}"]
[tables.visits.columns.zper]
type = "integer"
[tables.visits.columns.kind]
type = "string"
cases = [{{ when = {{ idp = 1 }}, value = "individual" }}]
otherwise = "other"
[tables.visits.columns.mdvis]
type = "integer"
bounds = [0, 100]
[tables.visits.columns.xage]
type = "float"
bounds = [0, 100]
[tables.visits.columns.disea]
type = "float"
bounds = [0, 100]
[python]
workers = 2
[review]
needed = 1
expires_days = 14
release = [{digests}]
[review.reviewers]
"rita@northside.example" = "{key}"
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        exchange = place / "exchange"
        site = make_site(place / "northside", exchange)
        with DemoSites(place, sites=[site], exchange=exchange, say=lambda line: None) as demo:
            demo.admit_analyst()
            session = connect(
                email=ANALYST, exchange=str(exchange), home=default_home(ANALYST, str(exchange))
            )
            ask(session, CELL)
            time.sleep(PAUSE)
            for name, cell in (("groupby", CELL), ("Poisson regression", MODEL)):
                times = []
                for _ in range(CELLS):
                    times.append(ask(session, cell))
                    time.sleep(PAUSE)  # until the next worker waits
                median = 1000 * statistics.median(times)
                print(f"{name}: median {median:.0f} ms (target < 150 ms)")
                print(f"  fastest {1000 * min(times):.0f} ms, slowest {1000 * max(times):.0f} ms")
            began = time.perf_counter()
            for _ in range(CELLS):
                ask(session, CELL)
            each = (time.perf_counter() - began) / CELLS
            print(f"without a pause: {each:.2f} s each, the time that a new worker takes to start")


PAUSE = 5.0 if len(sys.argv) < 2 else float(sys.argv[1])
"""Seconds between two cells."""


def make_site(folder: Path, exchange: Path) -> Path:
    from privnb.site.reviewing.reviewers import ReviewerKey

    folder.mkdir()
    exchange.mkdir()
    with duckdb.connect() as connection:
        connection.read_csv(str(randhie_csv()), header=True).write_parquet(
            str(folder / "visits.parquet")
        )
    key = ReviewerKey.create(folder.parent / "rita.json", "rita@northside.example")
    digests = ", ".join(
        f'"{Computation(kind="python", source=s, tables=("visits",), purpose=PURPOSE).digest}"'
        for s in (CELL, MODEL)
    )
    init_site(
        folder,
        name="northside",
        owner="owner@northside.example",
        exchange=str(exchange),
        tables=SITE.format(purpose=PURPOSE, digests=digests, key=key.public),
    )
    return folder


def ask(session, cell) -> float:
    began = time.perf_counter()
    session.python(cell, sites=["northside"], tables=["visits"], purpose=PURPOSE).result(60)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
