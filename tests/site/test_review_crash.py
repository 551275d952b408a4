"""kill -9 at every step of a review: nothing is lost, and nothing is released twice."""

from __future__ import annotations

import shutil

import pytest
from approval_fakes import ANA, BOB, PythonSite
from test_crash import Nursery, rows

NAME = "a" * 32
MEAN = 19.5


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def arrived(tmp_path_factory):
    """A site to which one cell has come that nobody has taken in yet."""
    folder = tmp_path_factory.mktemp("review")
    site = PythonSite(folder)
    site.send_cell(name=NAME)
    site.agent.close()
    site.database.close()
    return folder


def state_of(folder):
    states = rows(folder, "SELECT state FROM requests")
    ((releases,),) = rows(
        folder, """SELECT count(*) FROM events WHERE instr(body, '"kind":"release"')"""
    )
    return states[0][0] if states else None, releases


def decide(folder, **decision):
    site = PythonSite(folder)
    site.decide(NAME, **decision)
    replies = site.port.replies(NAME)
    site.agent.close()
    return replies


PHASES = [
    ("waiting", {}),
    ("held", {"by": BOB, "stage": "output"}),
    ("answered", None),
]


@pytest.mark.parametrize("phase", range(3), ids=["intake", "run", "release"])
def test_a_kill_at_any_step_of_a_review_loses_nothing_and_releases_once(
    nursery, arrived, tmp_path, phase
):
    ready = tmp_path / "ready"
    shutil.copytree(arrived, ready)
    for _, decision in PHASES[:phase]:
        nursery.live(ready)
        assert decide(ready, **decision) == []
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(ready, undisturbed)
    _, steps = nursery.live(undisturbed)
    assert state_of(undisturbed)[0] == PHASES[phase][0]
    killed = 0
    for fatal in range(1, steps + 1):
        folder = tmp_path / str(fatal)
        shutil.copytree(ready, folder)
        died, _ = nursery.live(folder, fatal)
        killed += died
        while (now := state_of(folder)[0]) != "answered":
            nursery.live(folder)  # another agent takes over
            now, releases = state_of(folder)
            if now == "answered":
                break
            assert releases == 0
            (decision,) = [each for state, each in PHASES if state == now]
            assert decide(folder, **decision) == []
        nursery.live(folder)
        site = PythonSite(folder)
        sent = {path.read_bytes() for path in site.port.outbox.glob(f"{ANA}-{NAME}.*")}
        assert len(sent) == 1
        assert site.port.replies(NAME)[0].output.value() == MEAN
        assert list(site.port.tree.iterdir()) == []
        site.agent.close()
        assert state_of(folder) == ("answered", 1)
        shutil.rmtree(folder)
    assert killed >= steps * 0.8
