"""A federated run as it is written down while it goes on, without any site behind it.

Kernels of the browser tests import it too, so it needs nothing of pytest.
"""

from __future__ import annotations

import math

from privnb.federated.progress import Board

RUN = "ab12cd34" * 4
SITES = ("northside", "riverside", "lakeside")


def begun(rounds=10, sites=SITES):
    """A run that all of its sites have joined."""
    board = Board(sites, rounds=rounds)
    for site in sites:
        board.joined(site, "joined")
    board.state("running")
    return board


def played(board, first, last, *, missing=()):
    """Let rounds go by, in which the losses fall; sites that are missing drop out of them."""
    sites = board.progress.sites
    for number in range(first, last + 1):
        board.sites(number, dict.fromkeys(sites, "training"))
        board.sites(number, {s: "dropped" if s in missing else "received" for s in sites})
        loss = 0.35 + 0.35 * math.exp(-number / 4)
        metrics = {
            "train loss": loss,
            "evaluate loss": 1.05 * loss,
            "evaluate accuracy": 1.2 - loss,
        }
        board.measured(number, metrics)
        board.done(number, seconds=0.2)
    return board


def under_way():
    """A run in its seventh round, with one of each state, and a remark."""
    board = played(begun(), 1, 4)
    board.remark("lakeside did not answer in time; round 5 goes on without it.")
    played(board, 5, 6, missing=["lakeside"])
    board.sites(7, {"northside": "received", "riverside": "training", "lakeside": "late"})
    return board
