"""A job goes there and its reply comes back: in one process, between two, over every storage."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import uuid
from functools import partial
from pathlib import Path

import pytest

from privnb.datasite.analyst import AnalystDatasite
from privnb.datasite.owner import OwnerDatasite
from privnb.errors import BadMessage, ConfigError, ExchangeUnavailable, NotAPeer

OWNER = "owner@north.example"
ANA = "ana@uni.example"
FILES = {"computation.json": b'{"request":"r"}', "query.sql": b"SELECT 1", "raw.bin": b"\x00\xff"}


@pytest.mark.parametrize("kind", ["path", "file://", "memory://"])
def test_a_job_and_its_reply_arrive_over(kind, tmp_path, world):
    url = {
        "path": str(tmp_path / "x"),
        "file://": (tmp_path / "x y").as_uri(),
        "memory://": f"memory://{uuid.uuid4().hex}/exchange",
    }[kind]
    owner = OwnerDatasite.open(tmp_path / "o", email=OWNER, exchange=url)
    ana = AnalystDatasite.open(tmp_path / "a", email=ANA, exchange=url)
    owner.publish_card("northside")
    ana.ask(OWNER)
    owner.accept(ANA, fingerprint=ana.fingerprint)
    (site,) = ana.sites()
    assert (site.name, site.owner, site.state) == ("northside", OWNER, "accepted")
    assert site.fingerprint == owner.fingerprint
    assert site.last_seen == pytest.approx(time.time(), abs=60)

    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    assert (job.sender, job.name, job.files) == (ANA, name, FILES)
    assert list(owner.poll(world.seen)) == [job], "it is returned until it is retired"

    outputs = {"reply.json": b"{}", "plots/a.png": b"\x89\xff"}
    owner.reply(job, outputs, succeeded=True)
    assert list(owner.poll(world.seen)) == []
    (reply,) = ana.poll(OWNER)
    assert (reply.owner, reply.name, reply.files) == (OWNER, name, outputs)
    assert list(ana.poll(OWNER)) == [reply], "it is returned until it is retired"
    ana.retire(OWNER, name)
    ana.retire(OWNER, name)
    assert list(ana.poll(OWNER)) == []


def test_a_failed_job_brings_its_outputs_too(world, owner, ana):
    ana.submit(OWNER, world.new_name(), FILES)
    (job,) = owner.poll(world.seen)
    owner.reply(job, {"reply.json": b"why"}, succeeded=False)
    assert [reply.files for reply in ana.poll(OWNER)] == [{"reply.json": b"why"}]


def test_an_analysts_own_entry_point_is_kept(world, owner, ana):
    ana.submit(OWNER, world.new_name(), {"main.py": b"print(1)", "lib/a.py": b""})
    (job,) = owner.poll(world.seen)
    assert job.files == {"main.py": b"print(1)", "lib/a.py": b""}


def test_nothing_readable_is_on_the_exchange(world, owner, ana):
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (message,) = world.inbox().iterdir()
    sent = message.read_bytes()
    assert b"SELECT" not in sent
    assert name.encode() not in sent
    (job,) = owner.poll(world.seen)
    owner.reply(job, {"reply.json": b"secret"}, succeeded=True)
    (message,) = world.outbox().iterdir()
    assert b"secret" not in message.read_bytes()
    assert b"reply" not in message.read_bytes()


def test_a_job_does_not_tell_where_the_analysts_home_is(world, owner, ana):
    ana.submit(OWNER, world.new_name(), FILES)
    owner.poll(world.seen)
    received = [path for path in (world.path / OWNER / "box").rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in received)
    for path in received:
        if "inbox" in path.parts and path.name != "syft.pub.yaml":
            assert str(world.path).encode() not in path.read_bytes()


def test_the_homes_are_private(world, owner, ana):
    for email in (OWNER, ANA):
        home = world.path / email
        assert home.stat().st_mode & 0o777 == 0o700
        for name in ("keys.json", "peers.json"):
            assert (home / name).stat().st_mode & 0o777 == 0o600


def test_nothing_grows_with_the_number_of_jobs(world, owner, ana):
    def files():
        return sorted(
            str(path.relative_to(world.path)) for path in world.path.rglob("*") if path.is_file()
        )

    assert world.answers(owner, ana)
    after_one = files()
    for _ in range(5):
        assert world.answers(owner, ana)
    assert files() == after_one
    cache = owner._box.owner_syncer.event_cache
    assert not cache.file_hashes
    assert not ana._box.watcher_syncer.datasite_watcher_cache.file_hashes


def test_several_jobs_wait_side_by_side(world, owner, ana, bob):
    for analyst in (ana, bob, ana):
        analyst.submit(OWNER, world.new_name(), FILES)
    jobs = owner.poll(world.seen)
    assert sorted(job.sender for job in jobs) == [ANA, ANA, "bob@uni.example"]
    for job in jobs[1:]:
        owner.reply(job, {"r": job.name.encode()}, succeeded=True)
    assert list(owner.poll(world.seen)) == [jobs[0]]
    owner.retire(jobs[0])
    owner.retire(jobs[0])
    assert not owner._box.owner_syncer.event_cache.file_hashes
    assert list(owner.poll(world.seen)) == []
    assert len(ana.poll(OWNER)) + len(bob.poll(OWNER)) == 2


def test_a_reply_taken_in_by_one_kernel_is_there_for_the_other(world, owner, ana):
    other = world.open_analyst()
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    owner.reply(job, {"r": b"1"}, succeeded=True)
    assert [reply.name for reply in other.poll(OWNER)] == [name]
    assert [reply.name for reply in ana.poll(OWNER)] == [name]
    other.retire(OWNER, name)
    assert list(ana.poll(OWNER)) == []


def test_peers_accepted_in_another_process_are_polled_at_once(world, owner):
    assert list(owner.poll(world.seen)) == []
    ana = world.open_analyst()
    ana.ask(OWNER)
    world.open_owner().accept(ANA)
    ana.submit(OWNER, world.new_name(), FILES)
    assert len(owner.poll(world.seen)) == 1


def test_nothing_is_sent_before_both_sides_agreed(world, owner):
    ana = world.open_analyst()
    with pytest.raises(NotAPeer, match="not asked"):
        ana.submit(OWNER, world.new_name(), FILES)
    ana.ask(OWNER)
    ana.ask(OWNER)
    assert [(peer.email, peer.state) for peer in owner.peers()] == [(ANA, "asked")]
    with pytest.raises(NotAPeer, match="not accepted") as refused:
        ana.submit(OWNER, world.new_name(), FILES)
    assert ana.fingerprint in refused.value.hint
    assert not world.inbox().exists()
    owner.accept(ANA)
    owner.accept(ANA)
    assert [(peer.email, peer.state) for peer in owner.peers()] == [(ANA, "accepted")]
    ana.submit(OWNER, world.new_name(), FILES)


def test_a_rejected_peer_is_not_heard_until_accepted_again(world, owner, ana):
    assert owner.reject(ANA).state == "rejected"
    ana.submit(OWNER, world.new_name(), FILES)
    assert list(owner.poll(world.seen)) == []
    assert owner.accept(ANA).state == "accepted"
    (job,) = owner.poll(world.seen)
    owner.reject(ANA)
    assert list(owner.poll(world.seen)) == []
    with pytest.raises(NotAPeer):
        owner.reply(job, {"r": b""}, succeeded=True)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../evil": b""},
        {"/etc/passwd": b""},
        {".hidden": b""},
        {"a": b"", "a/b": b""},
        {"a": b"", "A": b""},
        {"syft.pub.yaml": b""},
        {"a/b/c/d/e": b""},
        {"é": b""},
        {"x" * 101: b""},
        {f"f{number}": b"" for number in range(60)},
        {"big": bytes(16 * 1024 * 1024 + 1)},
    ],
    ids=lambda files: f"{len(files)}-{min(files, default='')[:20]!a}",
)
def test_files_that_the_other_side_would_refuse_are_not_sent(world, owner, ana, files):
    with pytest.raises(BadMessage):
        ana.submit(OWNER, world.new_name(), files)
    ana.submit(OWNER, world.new_name(), FILES)
    (job,) = owner.poll(world.seen)
    with pytest.raises(BadMessage):
        owner.reply(job, files, succeeded=True)
    assert list(owner.poll(world.seen)) == [job]


@pytest.mark.parametrize("name", ["", "x", "A" * 32, "../" + "a" * 29, "v1", "0" * 31 + "g"])
def test_job_names_are_restricted(owner, ana, name):
    with pytest.raises(BadMessage, match="32 hexadecimal"):
        ana.submit(OWNER, name, FILES)


@pytest.mark.parametrize(
    "email",
    [
        "", "ana", "@x.org", "ana@", "../a@x.org", "a/b@x.org", "a@x.org/..", "a@x..org",
        ".a@x.org",
        "a@x.org\n", "a\x00@x.org", "Ana@x.org", "a b@x.org", "à@x.org", f"{'a' * 130}@x.org",
        "a@-x.org", "a@b@c",
    ],
)  # fmt: skip
def test_emails_that_are_no_safe_folder_names_are_refused(tmp_path, owner, ana, email):
    for side in (OwnerDatasite, AnalystDatasite):
        with pytest.raises(ConfigError, match="cannot be used as"):
            side.open(tmp_path / "n", email=email, exchange=str(tmp_path))
    assert not (tmp_path / "n").exists()
    for call in (owner.accept, owner.reject, ana.ask, ana.poll):
        with pytest.raises(ConfigError, match="cannot be used as"):
            call(email)


def test_one_address_is_one_party(owner, ana):
    for call in (lambda: owner.accept(OWNER), lambda: ana.ask(ANA)):
        with pytest.raises(ConfigError, match="your own address"):
            call()


def test_an_analyst_does_not_make_an_exchange_by_a_misspelt_path(tmp_path):
    with pytest.raises(ExchangeUnavailable, match="does not exist") as refused:
        AnalystDatasite.open(tmp_path / "a", email=ANA, exchange=str(tmp_path / "misspelt"))
    assert refused.value.hint
    assert not (tmp_path / "misspelt").exists()


def test_an_unknown_protocol_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nosuch"):
        AnalystDatasite.open(tmp_path / "a", email=ANA, exchange="nosuch://bucket")


def test_the_ports_alone_do_not_import_pysyft():
    code = "import sys, privnb.datasite.ports; print([m for m in sys.modules if 'syft' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pysyft_is_silent_for_us_and_not_for_others(capfd, world, owner, ana):
    assert world.answers(owner, ana)
    assert capfd.readouterr() == ("", "")
    import syft_job.client

    syft_job.client.print("somebody else's")
    assert capfd.readouterr().out == "somebody else's\n"


def test_an_idle_poll_is_cheap(world, owner, ana):
    assert world.answers(owner, ana)
    for poll in (partial(owner.poll, world.seen), partial(ana.poll, OWNER)):
        start = time.process_time()
        for _ in range(200):
            poll()
        assert (time.process_time() - start) / 200 < 0.002, "ten times what it takes"


AGENT = """
import sys, time
from pathlib import Path
from privnb.datasite.owner import OwnerDatasite
class Seen(set):
    def seen(self, sender, name): return (sender, name) in self
home, exchange, analyst = sys.argv[1:]
site = OwnerDatasite.open(Path(home), email="owner@north.example", exchange=exchange)
site.publish_card("northside")
seen = Seen()
accepted = False
while True:
    if not accepted and any(peer.email == analyst for peer in site.peers()):
        site.accept(analyst)
        accepted = True
    for job in site.poll(seen):
        seen.add((job.sender, job.name))
        site.reply(job, {"reply.json": job.files["computation.json"]}, succeeded=True)
    time.sleep(0.003)
"""


@pytest.fixture
def agent(tmp_path):
    """Start agents as processes of their own; they are killed afterwards."""
    started = []

    def start():
        script = tmp_path / "agent.py"
        script.write_text(textwrap.dedent(AGENT))
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / OWNER), str(tmp_path / "exchange"), ANA],
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_two_processes_talk_and_a_killed_agent_is_replaced(agent, world):
    first = agent()
    wait_for((world.shared / OWNER / "site.json").exists)
    ana = world.open_analyst()
    ana.ask(OWNER)
    wait_for(lambda: [site for site in ana.sites() if site.state == "accepted"])
    second = agent()  # stands by
    for number in range(6):
        name = world.new_name()
        asked = b'{"n":%d}' % number
        ana.submit(OWNER, name, {"computation.json": asked})
        if number == 3:
            first.kill()
            first.wait()
        (reply,) = wait_for(lambda: ana.poll(OWNER))
        assert (reply.name, reply.files) == (name, {"reply.json": asked})
        ana.retire(OWNER, name)
    assert second.poll() is None
    assert Path(world.path / OWNER / "keys.json").exists()
