"""kill -9 at every step of an agent's life: nothing is lost, and one payment is one release."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from site_fakes import ANA, FolderPort, Site

CHILD = str(Path(__file__).with_name("crash_child.py"))


class Nursery:
    """Starts agents, one life each."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def live(self, folder, fatal=0):
        """Run one agent; tell whether it died at that step, and how many steps it took."""
        self._process.stdin.write(f"{folder} {fatal}\n")
        self._process.stdin.flush()
        ended, steps = map(int, self._process.stdout.readline().split())
        assert ended in ({0, -signal.SIGKILL} if fatal else {0})
        return ended == -signal.SIGKILL, steps

    def close(self):
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a site with a grant and four waiting requests: paid, over budget, free, malformed."""
    folder = tmp_path_factory.mktemp("template")
    site = Site(folder)
    site.grant("2")
    names = {
        "paid": site.send(epsilon="1", name="a" * 32),
        "refused": site.send(epsilon="3", name="b" * 32),
        "mock": site.send("mock", name="c" * 32),
    }
    names["malformed"] = "f" * 32
    site.port.submit(ANA, names["malformed"], {"computation.json": b"{"})
    site.agent.close()
    return folder, names


def rows(folder, sql, *values):
    """Ask a site's database while no agent has it open."""
    with contextlib.closing(sqlite3.connect(folder / "state" / "site.sqlite")) as connection:
        return connection.execute(sql, values).fetchall()


def check_invariants(folder, names):
    port = FolderPort(folder / "exchange")
    charges = rows(folder, "SELECT request, state FROM ledger")
    owed = rows(folder, "SELECT name FROM requests WHERE owed")
    # Every request was answered, and as often as it was, with the same bytes.
    replies = {}
    for what, name in names.items():
        sent = {path.read_bytes() for path in port.outbox.glob(f"{ANA}-{name}.*")}
        assert sent, f"{what} was never answered"
        if what != "mock":  # free: computed again
            assert len(sent) == 1, f"{what} has two answers"
        replies[what] = port.replies(name)[0]
    assert owed == []
    assert list(port.tree.iterdir()) == list(port.inbox.iterdir()) == []
    # One payment, for the one release that was asked for, and none for anything else; or none at
    # all, when agents died over the request before they decided on it.
    paid = replies["paid"]
    assert paid.answer is not None or paid.problem.code == "E_EXECUTION"
    if paid.answer is not None or charges:
        assert charges == [(names["paid"], "spent")]
        assert paid.budget.epsilon_spent == "1"
    assert replies["refused"].problem.code in {"E_BUDGET", "E_EXECUTION"}
    assert replies["malformed"].problem.code in {"E_BAD_MESSAGE", "E_EXECUTION"}
    return paid


def check_nothing_was_released_unpaid(folder, names):
    """Hold at any moment, also right after a kill."""
    port = FolderPort(folder / "exchange")
    sent = [reply for reply in port.replies(names["paid"]) if reply.answer is not None]
    if not sent:
        return
    assert rows(folder, "SELECT state FROM ledger") == [("spent",)]
    ((stored,),) = rows(folder, "SELECT reply FROM requests WHERE name = ?", names["paid"])
    assert {path.read_bytes() for path in port.outbox.glob(f"{ANA}-{names['paid']}.*")} == {stored}


@pytest.fixture
def copied(tmp_path, template):
    source, names = template
    numbers = itertools.count()

    def copy():
        folder = tmp_path / str(next(numbers))
        shutil.copytree(source, folder)
        return folder, names

    return copy


def test_a_kill_at_any_step_loses_nothing_and_pays_once(nursery, copied):
    for fatal in itertools.count(1):
        folder, names = copied()
        killed, steps = nursery.live(folder, fatal)
        check_nothing_was_released_unpaid(folder, names)
        if not killed:
            break
        nursery.live(folder)
        # One crash is forgiven: it is computed once more under the same reservation.
        assert check_invariants(folder, names).answer is not None
    assert fatal == steps + 1 > 30


def test_two_kills_end_in_an_answer_or_in_a_failure_that_says_whether_it_was_charged(
    nursery, copied
):
    folder, _ = copied()
    _, steps = nursery.live(folder)
    outcomes = set()
    for first, second in itertools.product(range(2, steps, 6), range(1, steps, 7)):
        folder, names = copied()
        assert nursery.live(folder, first)[0]
        nursery.live(folder, second)
        check_nothing_was_released_unpaid(folder, names)
        nursery.live(folder)
        paid = check_invariants(folder, names)
        outcomes.add("answer" if paid.answer else "charged" if paid.budget else "not charged")
    assert {"answer", "charged"} <= outcomes


def test_two_agents_one_of_which_is_killed_answer_everything_once(nursery, copied):
    folder, names = copied()
    _, steps = nursery.live(folder)
    for fatal in range(1, steps, 5):
        folder, names = copied()
        survivor = Site(folder)
        nursery.live(folder, fatal)
        while survivor.agent.step():
            pass
        survivor.agent.close()
        check_invariants(folder, names)
