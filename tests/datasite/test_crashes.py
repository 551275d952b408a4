"""Killed at any moment, folders gone and back, disks full: nothing is lost and nothing is stuck."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from privnb.datasite.home import Home
from privnb.errors import ExchangeUnavailable, StateError

OWNER = "owner@north.example"
ANA = "ana@uni.example"
FILES = {"computation.json": b"{}"}
REPLY = {"reply.json": b"{}", "more.bin": b"\xff"}


class KilledError(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


def kill_at(monkeypatch, thing, name, *, after=False):
    """End the process, so to speak, before or after a call."""
    real = getattr(thing, name)

    def stop(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise KilledError

    monkeypatch.setattr(thing, name, stop)


def reopen(world, owner):
    """Leave the owner as a killed process would, and start another one."""
    owner._release()  # the system releases a dead process's locks
    return world.open_owner()


@pytest.mark.parametrize(
    "moment",
    [
        ("receive_job", False),
        ("receive_job", True),
        ("_apply", False),
        ("_apply", True),
        ("remove", False),
        ("remove", True),
        ("write_file", True),
    ],
)
def test_killed_while_taking_in_a_job(world, owner, ana, monkeypatch, moment):
    at, after = moment
    owner.poll(world.seen)
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    with monkeypatch.context() as patched:
        if at == "write_file":
            files = owner._box.owner_syncer.event_cache.file_connection
            kill_at(patched, type(files), at, after=after)
        else:
            thing = {"receive_job": owner._box.jobs, "remove": owner._exchange}.get(at, owner)
            kill_at(patched, thing, at, after=after)
        with pytest.raises(KilledError):
            owner.poll(world.seen)
    again = reopen(world, owner)
    (job,) = again.poll(world.seen)
    assert (job.sender, job.name, job.files) == (ANA, name, FILES)
    assert world.warned() == []
    assert list(world.inbox().iterdir()) == []
    again.reply(job, REPLY, succeeded=True)
    assert [reply.files for reply in ana.poll(OWNER)] == [REPLY]


@pytest.mark.parametrize(
    "moment",
    [
        ("_deposit", False),
        ("_deposit", True),
        ("_send", False),
        ("_send", True),
        ("discard", False),
    ],
)
def test_killed_while_replying(world, owner, ana, monkeypatch, moment):
    at, after = moment
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    world.seen.record(job)
    with monkeypatch.context() as patched:
        kill_at(patched, owner._home if at == "discard" else owner, at, after=after)
        with pytest.raises(KilledError):
            owner.reply(job, REPLY, succeeded=True)
    again = reopen(world, owner)
    (same,) = again.poll(world.seen)
    assert same == job, "what was not retired is returned again"
    again.reply(same, REPLY, succeeded=True)
    again.reply(same, REPLY, succeeded=True)
    replies = ana.poll(OWNER)
    assert [(reply.name, reply.files) for reply in replies] == [(name, REPLY)]
    assert list(world.outbox().iterdir()) == []
    ana.retire(OWNER, name)
    assert world.answers(again, ana)


@pytest.mark.parametrize("moment", list(itertools.product(["write_file", "remove"], [False, True])))
def test_killed_while_taking_in_a_reply(world, owner, ana, monkeypatch, moment):
    at, after = moment
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    owner.reply(job, REPLY, succeeded=True)
    with monkeypatch.context() as patched:
        files = type(ana._box.watcher_syncer.datasite_watcher_cache.file_connection)
        kill_at(patched, files if at == "write_file" else ana._exchange, at, after=after)
        with pytest.raises(KilledError):
            ana.poll(OWNER)
    again = world.open_analyst()
    assert [reply.files for reply in again.poll(OWNER)] == [REPLY]
    assert list(world.outbox().iterdir()) == []
    assert world.warned() == []


@pytest.mark.parametrize(
    "moment", list(itertools.product(["submit_python_job", "write"], [False, True]))
)
def test_killed_while_submitting(world, owner, ana, monkeypatch, moment):
    at, after = moment
    name = world.new_name()
    with monkeypatch.context() as patched:
        kill_at(
            patched, ana._box.jobs if at == "submit_python_job" else ana._exchange, at, after=after
        )
        with pytest.raises(KilledError):
            ana.submit(OWNER, name, FILES)
    again = world.open_analyst()
    again.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    assert job.files == FILES
    owner.reply(job, REPLY, succeeded=True)
    assert [reply.files for reply in again.poll(OWNER)] == [REPLY]


def test_a_crash_leaves_no_rubbish_for_ever(world, owner):
    home = world.path / OWNER
    (home / "trash" / "x").mkdir()
    (home / "staging" / "old").mkdir()
    os.utime(home / "staging" / "old", (0, 0))
    (home / "box-events").mkdir(exist_ok=True)
    (home / "box-events" / "cut").write_text('{"events": [')
    world.open_owner()
    assert not list((home / "trash").iterdir())
    assert not list((home / "staging").iterdir())


def test_a_rule_file_cut_short_is_mended(world, owner, ana):
    rules = [path for path in owner._home.box.rglob("syft.pub.yaml") if ANA in path.parts]
    assert len(rules) == 2
    for path in rules:
        path.write_text("rules:\n- {patt")
    again = world.open_owner()
    assert world.answers(again, ana)
    for path in rules:
        path.write_text("rules:\n- {patt")
    assert world.answers(again, ana), "also while the agent runs"


KILLED = """
import os, signal, sys, threading, random
from pathlib import Path
from privnb.datasite.owner import OwnerDatasite
class Seen:
    def seen(self, sender, name): return False
home, exchange, delay = sys.argv[1:]
site = OwnerDatasite.open(Path(home), email="owner@north.example", exchange=exchange)
threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()
while True:
    for job in site.poll(Seen()):
        site.reply(job, {"reply.json": job.name.encode()}, succeeded=True)
"""


@pytest.mark.parametrize("delay", [0.001, 0.004, 0.01, 0.03])
def test_a_process_killed_at_a_random_moment(world, ana, owner, delay):
    names = [world.new_name() for _ in range(8)]
    for name in names:
        ana.submit(OWNER, name, FILES)
    script = world.path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), str(world.path / OWNER), str(world.shared), str(delay)]
    killed = subprocess.run(command, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    for job in owner.poll(world.seen):
        owner.reply(job, {"reply.json": job.name.encode()}, succeeded=True)
    replies = {reply.name: reply.files["reply.json"].decode() for reply in ana.poll(OWNER)}
    assert replies == {name: name for name in names}
    assert world.warned() == []


def test_the_exchange_gone_and_back(world, owner, ana):
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    away = world.path / "away"
    world.shared.rename(away)
    for call in (
        lambda: owner.poll(world.seen),
        owner.peers,
        lambda: owner.publish_card("north"),
        lambda: owner.reply(job, REPLY, succeeded=True),
        lambda: ana.submit(OWNER, world.new_name(), FILES),
        lambda: ana.poll(OWNER),
        ana.sites,
        lambda: ana.ask("new@south.example"),
        world.open_analyst,
        world.open_owner,
    ):
        with pytest.raises(ExchangeUnavailable) as gone:
            call()
        assert gone.value.hint
    assert not world.shared.exists()
    away.rename(world.shared)
    assert list(owner.poll(world.seen)) == [job]
    owner.reply(job, REPLY, succeeded=True)
    assert [reply.files for reply in ana.poll(OWNER)] == [REPLY]
    assert world.answers(owner, ana)


def test_an_exchange_emptied_is_used_on(world, owner, ana):
    shutil.rmtree(world.shared)
    world.shared.mkdir()
    assert world.answers(owner, ana)


def full_disk(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(
        "syft.sync.sync.caches.cache_file_writer_connection.FSFileConnection.write_file", full
    )


def test_full_disks_stop_nobody_for_good(world, owner, ana, monkeypatch):
    waiting, name = world.new_name(), world.new_name()
    ana.submit(OWNER, waiting, FILES)
    (job,) = owner.poll(world.seen)
    ana.submit(OWNER, name, FILES)
    with monkeypatch.context() as patched:
        full_disk(patched)
        with pytest.raises(ExchangeUnavailable, match="No space") as refused:
            owner.poll(world.seen)
        assert "Free space" in refused.value.hint
        with pytest.raises((ExchangeUnavailable, StateError)):
            owner.reply(job, REPLY, succeeded=True)
        with pytest.raises((ExchangeUnavailable, StateError)):
            ana.submit(OWNER, world.new_name(), FILES)
        with pytest.raises(ExchangeUnavailable, match="full"):
            owner.publish_card("north")
    for each in owner.poll(world.seen):
        owner.reply(each, REPLY, succeeded=True)
    with monkeypatch.context() as patched:
        full_disk(patched)
        with pytest.raises(ExchangeUnavailable, match="No space"):
            ana.poll(OWNER)
    assert sorted(reply.name for reply in ana.poll(OWNER)) == sorted([waiting, name])
    assert world.warned() == []


def test_a_message_that_cannot_be_removed_does_not_make_the_agent_spin(
    world, owner, ana, monkeypatch
):
    def readonly(*path):
        raise ExchangeUnavailable("read-only")

    (world.inbox()).mkdir(parents=True, exist_ok=True)
    (world.inbox() / "noise").write_bytes(b"noise")
    (world.outbox()).mkdir(parents=True, exist_ok=True)
    (world.outbox() / "noise").write_bytes(b"noise")
    with monkeypatch.context() as patched:
        patched.setattr(owner._exchange, "remove", readonly)
        patched.setattr(ana._exchange, "remove", readonly)
        for _ in range(5):
            assert list(owner.poll(world.seen)) == []
            assert list(ana.poll(OWNER)) == []
    assert len(world.quarantined(OWNER)) == len(world.quarantined(ANA)) == 1
    assert len(world.warned()) == 4
    assert world.answers(owner, ana)


def test_a_second_agent_stands_by_and_takes_over(world, owner, ana):
    ana.submit(OWNER, world.new_name(), FILES)
    (job,) = owner.poll(world.seen)
    other = world.open_owner()
    assert list(other.poll(world.seen)) == []
    assert list(other.poll(world.seen)) == []
    (line,) = world.warned()
    assert "standing by" in line
    owner.close()
    assert list(other.poll(world.seen)) == [job]
    assert list(owner.poll(world.seen)) == []
    owner.reply(job, REPLY, succeeded=True)
    assert list(other.poll(world.seen)) == [], "a reply from another process is noticed"


def test_threads_of_one_analyst_do_not_disturb_each_other(world, owner, ana):
    names = [world.new_name() for _ in range(12)]
    failures = []

    def submit(some):
        try:
            for name in some:
                ana.submit(OWNER, name, {"computation.json": name.encode()})
                ana.poll(OWNER)
        except Exception as failure:  # noqa: BLE001 - a thread's failure is shown below
            failures.append(failure)

    threads = [threading.Thread(target=submit, args=(names[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    jobs = owner.poll(world.seen)
    assert {job.name: job.files["computation.json"].decode() for job in jobs} == {
        name: name for name in names
    }


def test_a_lock_kept_by_a_stopped_process_is_reported(world, owner, ana, monkeypatch):
    monkeypatch.setattr("privnb.datasite.home._LOCK_PATIENCE", 0.05)
    with Home(world.path / ANA).lock(), pytest.raises(StateError, match="locked"):
        ana.submit(OWNER, world.new_name(), FILES)
    assert world.answers(owner, ana)


def test_a_home_that_cannot_be_made_is_named(tmp_path, world):
    (tmp_path / OWNER).write_text("a file")
    with pytest.raises(StateError, match="cannot be used"):
        world.open_owner()
