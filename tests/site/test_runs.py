"""Work beside the agent's thread: senders take turns, and nothing is started twice."""

from __future__ import annotations

import threading

import pytest

from privnb.site.runs import Runs


@pytest.fixture
def gate():
    """Holds the one thread at its first function until it is opened."""
    return threading.Event()


@pytest.fixture
def runs(gate):
    runs = Runs(threads=1, most_per_sender=3)
    started = threading.Event()
    runs.start(("first", "0", "run"), lambda: (started.set(), gate.wait(10)))
    assert started.wait(10)
    yield runs
    gate.set()
    runs.close()


def test_senders_take_turns(runs, gate):
    order = []
    for sender, name in (("ana", "1"), ("ana", "2"), ("ana", "3"), ("bo", "1")):
        runs.start((sender, name, "run"), lambda it=(sender, name): order.append(it))
    gate.set()
    runs.wait(seconds=10)
    assert order == [("ana", "1"), ("bo", "1"), ("ana", "2"), ("ana", "3")]


def test_one_sender_has_only_so_many(runs):
    assert all(runs.start(("ana", str(n), "run"), int) for n in range(3))
    assert not runs.start(("ana", "3", "run"), int)
    assert runs.start(("bo", "0", "run"), int)


def test_a_key_is_started_once_and_taken_once(runs, gate):
    calls = []
    key = ("ana", "1", "run")
    assert runs.start(key, lambda: calls.append(1))
    assert runs.start(key, lambda: calls.append(2))
    assert runs.take(key) is None
    assert runs.unfinished("ana", "1")
    gate.set()
    runs.wait(seconds=10)
    assert not runs.unfinished("ana", "1")
    assert runs.take(key).result() is None
    assert runs.take(key) is None
    assert calls == [1]


def test_what_a_function_raises_is_raised_where_the_result_is_taken(runs, gate):
    key = ("ana", "1", "run")
    runs.start(key, lambda: 1 / 0)
    gate.set()
    runs.wait(seconds=10)
    assert isinstance(runs.take(key).exception(), ZeroDivisionError)


def test_nothing_is_started_after_the_end(runs, gate):
    calls = []
    runs.start(("ana", "1", "run"), lambda: calls.append(1))
    runs.close()
    gate.set()
    for thread in runs._threads:
        thread.join(10)
        assert not thread.is_alive()
    assert calls == []


def test_what_is_cancelled_is_not_started_and_nothing_comes_of_what_runs(runs, gate):
    calls = []
    runs.start(("ana", "1", "run"), lambda: calls.append(1))
    runs.start(("ana", "2", "run"), lambda: calls.append(2))
    runs.cancel("ana", "1")
    runs.cancel("first", "0")
    assert not runs.has(("ana", "1", "run"))
    assert not runs.start(("first", "0", "run"), int), "its first function still runs"
    gate.set()
    runs.wait(seconds=10)
    assert calls == [2]
    assert runs.done() == [("ana", "2", "run")]
    assert runs.start(("first", "0", "run"), int)


def test_what_was_cancelled_counts_among_its_sender_s_until_it_ends(runs, gate):
    for name in ("1", "2"):
        runs.start(("first", name, "run"), int)
    assert not runs.has_room(("first", "3", "run"))
    runs.cancel("first", "1")
    assert runs.has_room(("first", "3", "run"))
    runs.start(("first", "3", "run"), int)
    runs.cancel("first", "0")
    assert not runs.has_room(("first", "4", "run"))
    gate.set()
    runs.wait(seconds=10)
    assert runs.has_room(("first", "4", "run"))
