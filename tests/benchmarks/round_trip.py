"""Round trip of a cell over a local folder, two processes, as past cells pile up.

Targets: median under 60 ms on an idle machine; the median at 1,000 past cells at most 1.2 times
that at 10.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from privnb.demo.data import build_demo
from privnb.demo.serving import ANALYST, PURPOSE, DemoSites
from privnb.session import connect, default_home

EARLY, LATE, WINDOW = 10, 1000, 50
EPSILON = "0.01"
QUESTION = """
SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits
FROM visits GROUP BY plan_type ORDER BY visits DESC
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        exchange = place / "exchange"
        sites = build_demo(place, str(exchange))[:1]
        with DemoSites(place, sites=sites, exchange=exchange, say=lambda line: None) as demo:
            demo.admit_analyst()
            session = connect(
                email=ANALYST, exchange=str(exchange), home=default_home(ANALYST, str(exchange))
            )
            times = [ask(session) for _ in range(LATE + WINDOW)]
    early = statistics.median(times[EARLY : EARLY + WINDOW])
    late = statistics.median(times[LATE : LATE + WINDOW])
    whole = sorted(times)
    print(f"round trip: median {1000 * statistics.median(times):.1f} ms (target < 60 ms)")
    print(f"            95 % under {1000 * whole[int(0.95 * len(whole))]:.1f} ms")
    print(f"after {EARLY} cells {1000 * early:.1f} ms, after {LATE} cells {1000 * late:.1f} ms")
    print(f"ratio {late / early:.2f} (target <= 1.2)")


def ask(session) -> float:
    began = time.perf_counter()
    session.secure(QUESTION, sites=["northside"], epsilon=EPSILON, purpose=PURPOSE).result(60)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
