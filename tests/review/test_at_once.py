"""Reviewers in two processes, and reviewers who are killed: one outcome, whole or not at all."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from review_site import ALICE, BOB, CAROL, ReviewSite

from privnb.site import database as tables

pytestmark = pytest.mark.xdist_group("reviewers at once")  # two processes serve them all

CHILD = str(Path(__file__).with_name("decide_child.py"))


class Reviewer:
    """Somebody with a process, which decides when it is told to."""

    def __init__(self, site, who, process):
        self.site, self.who = site, who
        self._process = process

    def start(self, name, verdict="approve", *, fatal=0, folder=None):
        order = {
            "folder": str(folder or self.site.folder),
            "key": str(self.site.folder.parent / "home" / "reviewer" / f"{self.who}.json"),
            "request": name,
            "verdict": verdict,
            "fatal": fatal,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def result(self):
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def processes():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, CHILD], **pipes) for _ in range(2)]
    yield started
    for process in started:
        process.communicate()
        assert process.returncode == 0


@pytest.fixture
def reviewers(site, processes):
    return [Reviewer(site, *each) for each in zip((ALICE, BOB), processes, strict=True)]


def events(site):
    return [json.loads(row.body) for row in site.rows(tables.events)]


def test_of_two_who_approve_at_once_one_is_late_when_one_is_enough(site, reviewers):
    site.write_config(needed=1)
    for _ in range(5):
        name = site.ask()
        for each in reviewers:
            each.start(name)
        results = [each.result() for each in reviewers]
        won, late = sorted(results, key=lambda result: "error" in result)
        assert won["state"] == "approved"
        assert late["error"] == "StateError"
        assert "is not to be decided on: the request is approved" in late["said"]
        assert len(site.approvals(name)) == 1


def test_two_who_approve_at_once_are_both_counted_when_both_are_needed(site, reviewers):
    for _ in range(5):
        name = site.ask()
        for each in reviewers:
            each.start(name)
        assert sorted(each.result()["state"] for each in reviewers) == ["approved", "waiting"]
        assert set(site.approvals(name)) == {ALICE, BOB}


def test_approval_and_denial_at_once_have_one_outcome(site, reviewers):
    site.write_config(needed=1)
    for number in range(5):
        name = site.ask(parameters={"round": number})  # what was denied once stays denied
        reviewers[0].start(name)
        reviewers[1].start(name, "deny")
        results = [each.result() for each in reviewers]
        won = next(result for result in results if "state" in result)
        late = next(result for result in results if "error" in result)
        assert site.state(name) == won["state"]
        assert f"the request is {won['state']}" in late["said"]
        assert len(site.approvals(name)) == (won["state"] == "approved")


@pytest.mark.parametrize("verdict", ["approve", "deny"])
def test_a_reviewer_killed_at_any_step_has_decided_wholly_or_not_at_all(
    site, reviewers, verdict, tmp_path
):
    site.write_config(needed=1)
    name = site.ask()
    site.close()
    moved = "approved" if verdict == "approve" else "denied"
    outcomes = []
    for fatal in itertools.count(1):
        folder = shutil.copytree(site.folder, tmp_path / f"killed-{fatal}")
        reviewers[0].start(name, verdict, fatal=fatal, folder=folder)
        result = reviewers[0].result()
        if "killed" not in result:
            break
        assert result["killed"] == -signal.SIGKILL
        left = ReviewSite(folder, keys=tmp_path / "home" / "reviewer")
        state = left.state(name)
        logged = [each for each in events(left) if each.get("request") == name]
        whole = (state, len(left.rows(tables.decisions)), len(logged))
        assert whole in {("waiting", 0, 0), (moved, 1, 1)}
        outcomes.append(state)
        if state == "waiting":  # nothing stands in the way of doing it again
            assert left.decide(CAROL, name, verdict).state == moved
        left.close()
    assert result["steps"] == fatal - 1
    assert outcomes == sorted(outcomes, key=["waiting", moved].index)
    assert set(outcomes) == {"waiting", moved}
