"""Attacks on a site, each mounted with the real PySyft; afterwards the site still answers.

The attacker is an accepted analyst with a valid key (Ana), or the storage itself.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from privnb.datasite import envelope
from privnb.datasite.pysyft import ProposedFileChange, ProposedFileChangesMessage, crypto

OWNER = "owner@north.example"
ANA = "ana@uni.example"
BOB = "bob@uni.example"
FILES = {"computation.json": b"{}"}


def contained(world, *, reason, by=ANA):
    """Poll, and check that the attack was refused, kept, logged, and did no lasting harm."""
    owner = world.owner
    before = files_in(owner)
    assert list(owner.poll(world.seen)) == []
    assert files_in(owner) == before
    assert list(world.inbox(by).iterdir()) == [], "what was refused does not stay on the exchange"
    assert len(world.quarantined()) == 1
    (line,) = world.warned()
    assert by in line
    assert reason in line
    assert list(owner.poll(world.seen)) == []
    assert len(world.warned()) == 1, "it is refused once, not at every poll"
    assert world.answers(owner, world.ana)


def files_in(owner):
    return sorted(path for path in owner._home.box.rglob("*") if path.is_file())


def raw(owner_email, sender, files, **change):
    """Return a proposal as PySyft packs it, before encryption."""
    return ProposedFileChangesMessage(
        sender_email=sender,
        proposed_file_changes=[
            ProposedFileChange(
                path_in_datasite=Path(path), content=content, datasite_email=owner_email, **change
            )
            for path, content in files.items()
        ],
    ).as_compressed_data()


def put(world, data, *, sender=ANA, name="msgv2_1.0_x.tar.gz"):
    world.inbox(sender).mkdir(parents=True, exist_ok=True)
    (world.inbox(sender) / name).write_bytes(data)


def encrypted(analyst, data, *, to=OWNER):
    return analyst._box.store.encrypt(to, data)


@pytest.mark.parametrize("claimed", [BOB, OWNER])
def test_a_sender_forged_inside_the_message(world, owner, ana, bob, claimed):
    world.propose(ana, world.complete_job(world.new_name(), sender=claimed), claims=claimed)
    contained(world, reason=f"claims inside to come from {claimed!r}")


@pytest.mark.parametrize(
    "path",
    [
        "syft.pub.yaml",
        "private/crypto_keys.json",
        f"app_data/job/review/{ANA}/v1/{'a' * 32}/state.yaml",
        f"app_data/job/inbox/{ANA}/syft.pub.yaml",
        f"app_data/job/inbox/{BOB}/v1/{'a' * 32}/run.sh",
    ],
)
@pytest.mark.parametrize("claimed", [ANA, OWNER])
def test_the_owners_own_files_are_not_overwritten(world, owner, ana, path, claimed):
    world.propose(ana, {path: "evil"}, claims=claimed)
    reason = "outside the sender's own job folders" if claimed == ANA else "claims inside"
    contained(world, reason=reason)


BASE = f"app_data/job/inbox/{ANA}/v1/{'a' * 32}"


@pytest.mark.parametrize(
    "path",
    [
        f"app_data/job/inbox/{ANA}/../{BOB}/v1/{'a' * 32}/run.sh",
        f"app_data/job/inbox/{ANA}/../../../../../escaped.txt",
        f"{BASE}/../../../../escaped.txt",
        f"{BASE}/code/../../../../../review/{ANA}/v1/{'a' * 32}/state.yaml",
        "/etc/cron.d/evil",
        f"{BASE}/code/\x00",
        f"{BASE}/code/{'x' * 300}",
        f"{BASE}/code/ab\ncd",
        f"{BASE}/code/..",
        f"{BASE}/code/syft.pub.yaml",
        f"{BASE}/code/.git/config",
        f"{BASE}/" + "/".join("abcdefgh"),
        f"app_data/job/inbox/{ANA}/v1/NOTHEX/run.sh",
        f"app_data/job/inbox/{ANA}/{'a' * 32}/run.sh",
        f"{BASE}",
        "",
    ],
    ids=ascii,
)
def test_path_tricks(world, owner, ana, path):
    world.propose(ana, {path: "evil"})
    contained(world, reason="")


def test_a_file_that_is_also_a_folder(world, owner, ana):
    name = world.new_name()
    world.propose(
        ana, {**world.complete_job(name), f"app_data/job/inbox/{ANA}/v1/{name}/code/main.py/x": ""}
    )
    contained(world, reason="both as a file and as a folder")


def test_a_job_without_its_parts(world, owner, ana):
    world.propose(ana, {f"app_data/job/inbox/{ANA}/v1/{world.new_name()}/code/main.py": "x"})
    contained(world, reason="not a complete job")


@pytest.mark.parametrize("name", ["v1", "x", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "\n"])
def test_a_complete_job_with_an_unusual_name(world, owner, ana, name):
    world.propose(ana, world.complete_job(name))
    contained(world, reason="outside the sender's own job folders")


def test_two_jobs_in_one_message(world, owner, ana):
    world.propose(
        ana, {**world.complete_job(world.new_name()), **world.complete_job(world.new_name())}
    )
    contained(world, reason="exactly one job")


@pytest.mark.parametrize("change", [{"is_deleted": True}, {"old_hash": "x"}])
def test_deleting_and_changing(world, owner, ana, change):
    world.propose(ana, world.complete_job(world.new_name()), **change)
    contained(world, reason="deletes or changes")


def test_a_message_for_another_datasite(world, owner, ana):
    world.propose(ana, world.complete_job(world.new_name()), datasite="other@south.example")
    contained(world, reason="another datasite")


def test_an_envelope_moved_from_another_sender(world, ana, bob):
    bob.submit(OWNER, world.new_name(), FILES)
    (message,) = world.inbox(BOB).iterdir()
    put(world, message.read_bytes())
    message.unlink()
    contained(world, reason="not signed by the pinned key")


def test_an_envelope_moved_from_another_site(world, owner, ana):
    other = world.open_owner("owner@south.example")
    world.befriend(other, ana)
    ana.submit("owner@south.example", world.new_name(), FILES)
    (message,) = world.inbox(owner="owner@south.example").iterdir()
    put(world, message.read_bytes())
    contained(world, reason="meant for somebody else")


def test_an_envelope_signed_by_an_unknown_key(world, owner, ana):
    eve = crypto.SyftRecoveryKey.generate().derive_keys()
    to = crypto.EncryptionRecipient(OWNER, owner._box.store.public_key)
    packed = raw(OWNER, ANA, world.complete_job(world.new_name()))
    put(world, crypto.encrypt_message(ANA, eve, [to], packed))
    contained(world, reason="not signed by the pinned key")


def test_plain_text(world, owner, ana):
    put(world, raw(OWNER, ANA, world.complete_job(world.new_name())))
    contained(world, reason="not encrypted")


@pytest.mark.parametrize("data", [b"", b"SYC2", b"\x00" * 100, b"SYC2\x01" + b"\xff" * 5000])
def test_noise(world, owner, ana, data):
    put(world, data)
    contained(world, reason="not encrypted")


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file(world, owner, ana, part):
    ana.submit(OWNER, world.new_name(), FILES)
    (message,) = world.inbox().iterdir()
    data = message.read_bytes()
    message.write_bytes(data[: int(len(data) * part)])
    contained(world, reason="")


@pytest.mark.parametrize(
    "inside",
    # Without the time of day, so that parallel workers collect tests of the same names.
    [b"", b"not an archive", gzip.compress(b"not a tar", mtime=0), gzip.compress(b"", mtime=0)],
)
def test_poison_inside_a_valid_envelope(world, owner, ana, inside):
    put(world, encrypted(ana, inside))
    contained(world, reason="")


def packed(content, *, name="proposed_file_changes.json", **attributes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in attributes.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"null",
        b'"x"',
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"sender_email":"ana@uni.example","proposed_file_changes":[null]}',
        b'{"sender_email":"ana@uni.example","proposed_file_changes":[{}]}',
        b'{"sender_email":"ana@uni.example","proposed_file_changes":[]}',
        (
            b'{"sender_email":"ana@uni.example","proposed_file_changes":[{"path_in_datasite":"a",'
            b'"content":"%%%","content_type":"binary","datasite_email":"owner@north.example"}]}'
        ),
        (
            b'{"sender_email":"ana@uni.example","proposed_file_changes":[{"path_in_datasite":"a",'
            b'"content":"\\ud800","datasite_email":"owner@north.example"}]}'
        ),
        (
            b'{"sender_email":"ana@uni.example","proposed_file_changes":[{"path_in_datasite":"a",'
            b'"content":"x","submitted_timestamp":NaN,"datasite_email":"owner@north.example"}]}'
        ),
        b"\xff\xfe{}",
    ],
    ids=lambda document: document[:12],
)
def test_poison_documents(world, owner, ana, document):
    put(world, encrypted(ana, packed(document)))
    contained(world, reason="")


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "other.json"},
        {"name": "../../escaped.json"},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
    ids=str,
)
def test_odd_archive_members(world, owner, ana, attributes):
    put(world, encrypted(ana, packed(b"{}", **attributes)))
    contained(world, reason="members")


def test_a_decompression_bomb_is_not_unpacked(world, owner, ana, monkeypatch):
    monkeypatch.setattr(envelope, "MAX_UNPACKED", 1 << 20)
    put(world, encrypted(ana, packed(bytes(64 << 20))))
    contained(world, reason="unpacks to more than")


def test_an_oversized_file_is_not_even_read(world, owner, ana):
    world.inbox().mkdir(parents=True)
    with (world.inbox() / "msgv2_1.0_x.tar.gz").open("wb") as file:
        file.truncate(1 << 40)
    contained(world, reason="at most")


def test_special_files_do_not_stop_the_agent(world, owner, ana, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    world.inbox().mkdir(parents=True)
    os.mkfifo(world.inbox() / "a")
    (world.inbox() / "b").symlink_to(outside / "precious")
    (world.inbox() / "c").symlink_to(outside)
    (world.inbox() / "d" / "e").mkdir(parents=True)
    start = time.monotonic()
    assert list(owner.poll(world.seen)) == []
    assert time.monotonic() - start < 5
    assert list(world.inbox().iterdir()) == []
    assert len(world.warned()) == 4
    assert (outside / "precious").read_text() == "kept"
    assert world.answers(owner, ana)


def test_an_inbox_that_links_elsewhere_is_not_followed(world, owner, ana, bob, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    world.inbox().parent.mkdir(parents=True)
    world.inbox().symlink_to(outside)
    assert list(owner.poll(world.seen)) == []
    assert (outside / "precious").read_text() == "kept"
    assert world.answers(owner, bob), "the others are still served"


def test_a_replay_while_the_job_is_open_changes_nothing(world, owner, ana, bob):
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (message,) = world.inbox().iterdir()
    data = message.read_bytes()
    (job,) = owner.poll(world.seen)
    put(world, data)
    assert list(owner.poll(world.seen)) == [job]
    assert list(world.inbox().iterdir()) == []

    world.propose(ana, world.complete_job(name))
    assert list(owner.poll(world.seen)) == [job], "another job of the same name is refused"
    assert "changes a job that is open" in world.warned()[-1]
    owner.reply(job, {"r": b""}, succeeded=True)
    assert world.answers(owner, ana)


def test_a_replay_after_the_job_was_retired_does_not_run_it_again(world, owner, ana):
    ana.submit(OWNER, world.new_name(), FILES)
    (message,) = world.inbox().iterdir()
    data = message.read_bytes()
    (job,) = owner.poll(world.seen)
    world.seen.record(job)
    owner.reply(job, {"r": b""}, succeeded=True)
    put(world, data)
    contained(world, reason="repeats a job")


def test_one_name_is_free_for_each_sender(world, owner, ana, bob):
    name = world.new_name()
    for analyst in (ana, bob):
        analyst.submit(OWNER, name, FILES)
        (job,) = owner.poll(world.seen)
        assert job.sender == analyst._email
        world.seen.record(job)
        owner.retire(job)


def test_a_stranger_is_not_heard(world, owner, ana):
    data = encrypted(
        ana, raw(OWNER, "eve@x.org", world.complete_job(world.new_name(), sender="eve@x.org"))
    )
    put(world, data, sender="eve@x.org")
    assert list(owner.poll(world.seen)) == []
    assert world.warned() == []
    assert [peer.email for peer in owner.peers()] == [ANA]
    assert world.answers(owner, ana)


def test_hostile_requests_are_shown_safely(world, owner, ana):
    requests = world.shared / OWNER / "requests"
    for name in ("x" * 200, "a b@x.org", "..@x.org", OWNER, "eve@x.org"):
        (requests / name).touch()
    shown = [(peer.email, peer.fingerprint, peer.state) for peer in owner.peers()]
    assert shown == [(ANA, ana.fingerprint, "accepted"), ("eve@x.org", None, "asked")]


def test_a_flood_of_noise_is_kept_only_in_part(world, owner, ana):
    for number in range(300):
        put(world, b"noise", name=f"msgv2_{number}")
    for _ in range(12):
        owner.poll(world.seen)
    assert len(world.warned()) == 300
    assert len(world.quarantined()) == 200
    assert world.answers(owner, ana)


def test_open_jobs_of_one_sender_are_bounded(world, owner, ana, bob, monkeypatch):
    monkeypatch.setattr("privnb.datasite.owner._OPEN_JOBS", 3)
    for _ in range(5):
        ana.submit(OWNER, world.new_name(), FILES)
    assert len(owner.poll(world.seen)) == 3
    assert len(owner.poll(world.seen)) == 3
    bob.submit(OWNER, world.new_name(), FILES)
    jobs = owner.poll(world.seen)
    assert len(jobs) == 4
    owner.retire(jobs[0])
    assert len(owner.poll(world.seen)) == 4


def test_large_open_jobs_of_one_sender_are_bounded(world, owner, ana, monkeypatch):
    monkeypatch.setattr("privnb.datasite.owner._OPEN_BYTES", 100)
    for _ in range(3):
        ana.submit(OWNER, world.new_name(), {"a": bytes(60)})
    jobs = owner.poll(world.seen)
    assert len(jobs) == 2
    owner.retire(jobs[0])
    assert len(owner.poll(world.seen)) == 2
