"""Rounds of a training over three agents, a local folder between them: what they cost beside it.

Every agent is a process of its own, each message an envelope of PySyft, each sum under masks. The
curve over more sites has them in this process, so it shows what the sums cost, and no files.

Targets, on an idle machine: with 20 parameters a median under 100 ms per round; with a million at
most 0.6 s per round beyond training; with local epochs of one second at most 1.15 times as long as
a plain FedAvg loop in numpy, whose sites train side by side in its own process.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from privnb.demo.data import DEMO_SITES, build_demo
from privnb.demo.serving import ANALYST, PURPOSE, DemoSites
from privnb.owner import open_desk
from privnb.session import connect, default_home

sys.path.insert(0, str(Path(__file__).parent.parent / "federated"))

SITES = [site.name for site in DEMO_SITES]
CELL = """
import time
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(msg, context):
    end = time.perf_counter() + seconds
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    w = w + 1.0
    time.sleep(max(end - time.perf_counter(), 0))
    metrics = MetricRecord({"num-examples": 100})
    return Message(RecordDict({"arrays": ArrayRecord([w]), "metrics": metrics}), reply_to=msg)

initial = [np.zeros(size)]
"""
SMALL, LARGE = 20, 1_000_000
EPOCH = 1.0
"""Seconds of training in the comparison with a plain loop."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        exchange = place / "exchange"
        sites = build_demo(place, str(exchange))
        with DemoSites(place, sites=sites, exchange=exchange, say=lambda line: None) as demo:
            demo.admit_analyst()
            os.environ.update(demo.environment)
            session = connect(
                email=ANALYST, exchange=str(exchange), home=default_home(ANALYST, str(exchange))
            )
            small = rounds_of(session, place, size=SMALL, rounds=40)
            median = 1000 * statistics.median(small)
            print(f"{SMALL} parameters, 3 sites: median {median:.0f} ms per round (target < 100)")
            print(f"  fastest {1000 * min(small):.0f} ms, slowest {1000 * max(small):.0f} ms")

            large = rounds_of(session, place, size=LARGE, rounds=8)
            beyond = statistics.median(large) - training(LARGE)
            print(f"{LARGE:,} parameters, 3 sites: {beyond:.2f} s per round beyond training")
            print(
                f"  (target <= 0.6 s; fastest round {min(large):.2f} s, slowest {max(large):.2f})"
            )

            ours = sum(rounds_of(session, place, size=SMALL, rounds=10, seconds=EPOCH))
            plain = plain_loop(size=SMALL, rounds=10, seconds=EPOCH)
            print(f"epochs of {EPOCH:g} s: {ours:.2f} s for 10 rounds, a plain loop {plain:.2f} s,")
            print(f"  ratio {ours / plain:.3f} (target <= 1.15)")
    for count in (3, 10, 50):
        seconds = in_process(count, rounds=10)
        print(
            f"{count:3} sites in this process, {SMALL} parameters: {1000 * seconds:.0f} ms a round"
        )


def rounds_of(session, place, *, size, rounds, seconds=0.0) -> list[float]:
    """How long each round took but the first, in which workers start."""
    run = session.train(
        CELL,
        sites=SITES,
        tables=["visits"],
        purpose=PURPOSE,
        rounds=rounds + 1,
        params={"size": size, "seconds": seconds},
    )
    approve(run.id, place)
    release = run.result(timeout=600)
    assert np.allclose(release.value[0], rounds + 1)
    return [row.seconds for row in release.outcome.history[1:]]


def approve(request, place) -> None:
    for site in DEMO_SITES:
        for email in site.reviewers[: site.needed]:
            desk = open_desk(place / site.name, email)
            while not any(item.request == request for item in desk.items()):
                time.sleep(0.02)
            desk.approve(request)
            desk.close()


def training(size) -> float:
    """What the cell itself takes for one round."""
    w, times = np.zeros(size), []
    for _ in range(20):
        began = time.perf_counter()
        w = w + 1.0
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def plain_loop(*, size, rounds, seconds) -> float:
    """FedAvg as one would write it in numpy: three sites side by side, then their mean."""

    def epoch(w):
        end = time.perf_counter() + seconds
        w = w + 1.0
        time.sleep(max(end - time.perf_counter(), 0))
        return w, 100

    w = np.zeros(size)
    with ThreadPoolExecutor(len(SITES)) as threads:
        began = time.perf_counter()
        for _ in range(rounds):
            parts = list(threads.map(epoch, [w] * len(SITES)))
            total = sum(weight for _, weight in parts)
            w = sum(part * weight for part, weight in parts) / total
        return time.perf_counter() - began


def in_process(count, *, rounds) -> float:
    """The median round over many sites, none of which does anything but add up."""
    from in_process import Troupe, vector_of

    from privnb.federated.asking import Pace
    from privnb.federated.messages import Work
    from privnb.federated.vectors import forms_of, packed

    sent = {"0": np.zeros(SMALL)}

    def work(asked, arrays):
        return vector_of([np.ones(SMALL)], {}, 100.0, parties=count)

    with Troupe([work] * count, rounds=rounds, pace=Pace(settle=60)) as troupe:
        troupe.gather()
        summed = [
            troupe.conductor.sum(
                Work(kind="train", round=number, arrays=forms_of(sent)), packed(sent)
            )
            for number in range(1, rounds + 1)
        ]
        assert all(len(each.sites) == count for each in summed)
        return statistics.median(each.seconds for each in summed[1:])


if __name__ == "__main__":
    main()
