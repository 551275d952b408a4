"""The channel for the messages of rounds: both ways, and what a storage or a peer may do to it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from privnb.datasite import ports, rounds
from privnb.datasite.analyst import AnalystDatasite
from privnb.datasite.owner import OwnerDatasite
from privnb.datasite.pysyft import crypto
from privnb.errors import BadMessage, ConfigError, ExchangeUnavailable, KeyChanged, NotAPeer
from privnb.federated import messages

OWNER = "owner@north.example"
SOUTH = "owner@south.example"
ANA = "ana@uni.example"
BOB = "bob@uni.example"
RUN = "0123456789abcdef" * 2
OTHER_RUN = "f" * 32
SHARE = "000001-share"
SECRET = b"masked weights " * 100


def ask_file(world, name=SHARE, *, run=RUN, owner=OWNER, analyst=ANA):
    return world.shared / owner / "rounds" / analyst / run / name


def answer_file(world, name=SHARE, *, run=RUN, owner=OWNER, analyst=ANA):
    return world.shared / owner / "told" / analyst / run / name


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def refused_by_owner(world, *, reason, by=ANA, run=RUN, name=SHARE):
    """The owner hears of it once, and is then as well off as before."""
    with pytest.raises(BadMessage, match=reason) as refused:
        world.owner.hear(by, run, name)
    assert by in refused.value.message
    assert world.owner.hear(by, run, name) is None, "it is refused once"
    assert world.owner.asked(by, run) == []
    assert len(world.quarantined()) == 1
    (line,) = world.warned()
    assert by in line


def refused_by_analyst(world, *, reason, by=OWNER, run=RUN, name=SHARE):
    with pytest.raises(BadMessage, match=reason) as refused:
        world.ana.hear(by, run, name)
    assert by in refused.value.message
    assert world.ana.hear(by, run, name) is None, "it is refused once"
    assert len(world.quarantined(ANA)) == 1


@pytest.mark.parametrize("kind", ["path", "memory://"])
@pytest.mark.parametrize("data", [b"", b"\x00\n{}" * 100_000], ids=["empty", "large"])
def test_an_ask_and_its_answer_arrive_over(kind, data, tmp_path):
    url = str(tmp_path / "x") if kind == "path" else f"memory://{uuid.uuid4().hex}"
    owner = OwnerDatasite.open(tmp_path / "o", email=OWNER, exchange=url)
    ana = AnalystDatasite.open(tmp_path / "a", email=ANA, exchange=url)
    ana.ask(OWNER)
    owner.accept(ANA)

    assert owner.asked(ANA, RUN) == []
    assert owner.hear(ANA, RUN, SHARE) is None
    ana.tell(OWNER, RUN, "000002-contribute", data)
    ana.tell(OWNER, RUN, SHARE, b"ask")
    assert owner.asked(ANA, RUN) == [SHARE, "000002-contribute"]
    assert owner.asked(ANA, OTHER_RUN) == []
    assert owner.hear(ANA, RUN, "000002-contribute") == data
    assert owner.hear(ANA, RUN, "000002-contribute") == data, "it waits until it is answered"

    assert ana.hear(OWNER, RUN, SHARE) is None
    owner.tell(ANA, RUN, SHARE, data)
    assert owner.asked(ANA, RUN) == ["000002-contribute"]
    assert ana.hear(OWNER, RUN, SHARE) == data
    assert ana.hear(OWNER, RUN, SHARE) is None, "what was heard is gone"


def test_a_site_tells_without_being_asked(owner, ana):
    owner.tell(ANA, RUN, "000000-join", b"first")
    owner.tell(ANA, RUN, "000000-join", b"again")
    assert ana.hear(OWNER, RUN, "000000-join") == b"again"


def test_a_restarted_site_still_hears_what_it_was_asked(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    assert owner.hear(ANA, RUN, SHARE) == b"ask"
    again = world.open_owner()
    assert again.asked(ANA, RUN) == [SHARE]
    assert again.hear(ANA, RUN, SHARE) == b"ask"


def test_a_forgotten_run_leaves_nothing_and_the_others_alone(world, owner, ana):
    for run in (RUN, OTHER_RUN):
        ana.tell(OWNER, run, SHARE, b"ask")
        owner.tell(ANA, run, "000000-join", b"join")
    owner.forget_run(ANA, RUN)
    assert not ask_file(world).parent.exists()
    assert not answer_file(world).parent.exists()
    assert ana.hear(OWNER, RUN, "000000-join") is None
    assert owner.hear(ANA, OTHER_RUN, SHARE) == b"ask"
    ana.forget_run(OWNER, OTHER_RUN)
    assert owner.asked(ANA, OTHER_RUN) == []
    owner.forget_run(ANA, RUN)
    ana.forget_run(OWNER, RUN)


def test_storage_sees_who_and_when_but_nothing_of_what_is_said(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, SECRET)
    owner.tell(ANA, RUN, "000000-join", SECRET)
    for file in (ask_file(world), answer_file(world, "000000-join")):
        stored = file.read_bytes()
        assert SECRET[:15] not in stored
        assert RUN.encode() not in stored
        assert b"receiver" not in stored
    files = [path for path in world.shared.rglob("*") if path.is_file()]
    assert not any(b"masked weights" in path.read_bytes() for path in files)


def test_equal_messages_are_not_seen_to_be_equal(world, owner, ana):
    for name in (SHARE, "000002-share"):
        ana.tell(OWNER, RUN, name, SECRET)
    one, other = (ask_file(world, name).read_bytes() for name in (SHARE, "000002-share"))
    assert one[-1000:] != other[-1000:]


def test_both_rooms_agree_on_the_largest_message():
    assert messages.MAX_ROUND_BYTES == ports.MAX_ROUND_BYTES


def test_the_largest_message_passes_and_a_larger_one_is_not_sent(world, owner, ana, monkeypatch):
    margin = rounds.MAX_ROUND_ENVELOPE - rounds.MAX_ROUND_BYTES
    monkeypatch.setattr(rounds, "MAX_ROUND_BYTES", 100_000)
    monkeypatch.setattr(rounds, "MAX_ROUND_ENVELOPE", 100_000 + margin)
    ana.tell(OWNER, RUN, SHARE, bytes(100_000))
    assert owner.hear(ANA, RUN, SHARE) == bytes(100_000)
    with pytest.raises(BadMessage, match="100001 bytes") as refused:
        ana.tell(OWNER, RUN, "000002-share", bytes(100_001))
    assert refused.value.hint
    assert owner.asked(ANA, RUN) == [SHARE]


BAD_RUNS = ["", "a" * 31, "A" * 32, "../" + "a" * 29, "a" * 32 + "\n"]
BAD_NAMES = ["", "1-share", "000001-", "000001-Share", "../../x", "000001-share\n", "000001-a/b"]


@pytest.mark.parametrize(
    ("run", "name"), [(r, SHARE) for r in BAD_RUNS] + [(RUN, n) for n in BAD_NAMES], ids=ascii
)
def test_names_that_could_lead_elsewhere_are_refused(owner, ana, run, name):
    for call in (
        lambda: ana.tell(OWNER, run, name, b""),
        lambda: ana.hear(OWNER, run, name),
        lambda: owner.hear(ANA, run, name),
        lambda: owner.size(ANA, run, name),
        lambda: owner.tell(ANA, run, name, b""),
    ):
        with pytest.raises(BadMessage, match="is no"):
            call()
    if run != RUN:
        for forget in (
            lambda: owner.asked(ANA, run),
            lambda: owner.forget_run(ANA, run),
            lambda: ana.forget_run(OWNER, run),
        ):
            with pytest.raises(BadMessage, match="is no"):
                forget()


@pytest.mark.parametrize("email", ["../x", "", "a/b@x.org"])
def test_addresses_that_could_lead_elsewhere_are_refused(owner, ana, email):
    for call in (
        lambda: ana.tell(email, RUN, SHARE, b""),
        lambda: ana.hear(email, RUN, SHARE),
        lambda: ana.forget_run(email, RUN),
        lambda: owner.tell(email, RUN, SHARE, b""),
        lambda: owner.forget_run(email, RUN),
    ):
        with pytest.raises(ConfigError):
            call()
    assert owner.asked(email, RUN) == []
    assert owner.hear(email, RUN, SHARE) is None


def test_an_ask_moved_to_another_run(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    copy(ask_file(world), ask_file(world, run=OTHER_RUN))
    refused_by_owner(world, run=OTHER_RUN, reason="another step, run, party or direction")
    assert owner.hear(ANA, RUN, SHARE) == b"ask"


@pytest.mark.parametrize("name", ["000002-share", "000001-reveal"])
def test_an_old_ask_replayed_under_a_new_name(world, owner, ana, name):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    old = ask_file(world).read_bytes()
    owner.tell(ANA, RUN, SHARE, b"answer")
    ask_file(world, name).write_bytes(old)
    refused_by_owner(world, name=name, reason="another step, run, party or direction")


@pytest.mark.parametrize("name", ["000002-share", "000001-reveal"])
def test_an_answer_moved_to_another_step(world, owner, ana, name):
    owner.tell(ANA, RUN, SHARE, b"answer")
    answer_file(world).rename(answer_file(world, name))
    refused_by_analyst(world, name=name, reason="another step, run, party or direction")


def test_an_ask_served_back_as_the_answer_to_it(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    copy(ask_file(world), answer_file(world))
    refused_by_analyst(world, reason="not signed by the pinned key")


def test_an_answer_served_back_as_an_ask(world, owner, ana):
    owner.tell(ANA, RUN, SHARE, b"answer")
    copy(answer_file(world), ask_file(world))
    refused_by_owner(world, reason="not signed by the pinned key")


def test_two_who_are_site_and_analyst_to_each_other_cannot_be_answered_by_their_asks(tmp_path):
    """Each has one key for both roles: what A asks B is then signed as what A would answer B."""
    ends = {}
    for email in (OWNER, SOUTH):
        home = tmp_path / email
        ends[email] = OwnerDatasite.open(home, email=email, exchange=str(tmp_path / "x"))
    pairs = ((OWNER, SOUTH), (SOUTH, OWNER))
    asking = {
        email: AnalystDatasite.open(tmp_path / email, email=email, exchange=str(tmp_path / "x"))
        for email in ends
    }
    for me, peer in pairs:
        asking[me].ask(peer)
    for me, peer in pairs:
        ends[me].accept(peer)
    asking[OWNER].tell(SOUTH, RUN, SHARE, b"ask")
    asked = tmp_path / "x" / SOUTH / "rounds" / OWNER / RUN / SHARE
    # South, as an analyst, waits for what the owner answers in a run of the same name.
    copy(asked, tmp_path / "x" / OWNER / "told" / SOUTH / RUN / SHARE)
    with pytest.raises(BadMessage, match="direction"):
        asking[SOUTH].hear(OWNER, RUN, SHARE)
    assert ends[SOUTH].hear(OWNER, RUN, SHARE) == b"ask"


def test_an_ask_of_another_analyst(world, owner, ana, bob):
    bob.tell(OWNER, RUN, SHARE, b"ask")
    copy(ask_file(world, analyst=BOB), ask_file(world))
    refused_by_owner(world, reason="not signed by the pinned key")
    assert owner.hear(BOB, RUN, SHARE) == b"ask"


def test_an_ask_for_another_site(world, owner, ana):
    south = world.open_owner(SOUTH)
    world.befriend(south, ana)
    ana.tell(SOUTH, RUN, SHARE, b"ask")
    copy(ask_file(world, owner=SOUTH), ask_file(world))
    refused_by_owner(world, reason="meant for somebody else")


def test_an_answer_of_another_site(world, owner, ana):
    south = world.open_owner(SOUTH)
    world.befriend(south, ana)
    south.tell(ANA, RUN, SHARE, b"answer")
    copy(answer_file(world, owner=SOUTH), answer_file(world))
    refused_by_analyst(world, reason="not signed by the pinned key")


def test_an_answer_for_another_analyst(world, owner, ana, bob):
    owner.tell(BOB, RUN, SHARE, b"answer")
    copy(answer_file(world, analyst=BOB), answer_file(world))
    refused_by_analyst(world, reason="meant for somebody else")


@pytest.mark.parametrize("field", ["kind", "name", "receiver", "run", "sender"])
def test_every_field_of_the_line_counts(world, owner, ana, field):
    right = {"kind": "ask", "name": SHARE, "receiver": OWNER, "run": RUN, "sender": ANA}
    for fields in ({**right, field: "x"}, {k: v for k, v in right.items() if k != field}):
        seal(world, line(fields) + b"\nask")
        with pytest.raises(BadMessage, match="another step, run, party or direction"):
            owner.hear(ANA, RUN, SHARE)
    seal(world, line(right) + b"\nask")
    assert owner.hear(ANA, RUN, SHARE) == b"ask", "only the wrong field was refused"


@pytest.mark.parametrize("plain", [b"", b"\n", b"{}", b"{}\n", b"[" * 100_000, b"\xff\xfe\n"])
def test_poison_inside_a_valid_envelope(world, owner, ana, plain):
    seal(world, plain)
    refused_by_owner(world, reason="another step, run, party or direction")


def line(fields):
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def seal(world, plain):
    put(world, world.ana._box.store.encrypt(OWNER, plain))


def put(world, data):
    ask_file(world).parent.mkdir(parents=True, exist_ok=True)
    ask_file(world).write_bytes(data)


def test_a_job_is_no_ask_and_an_ask_is_no_job(world, owner, ana):
    ana.submit(OWNER, RUN, {"computation.json": b"{}"})
    (job,) = world.inbox().iterdir()
    copy(job, ask_file(world))
    refused_by_owner(world, reason="another step, run, party or direction")
    job.unlink()
    ana.tell(OWNER, RUN, SHARE, b"ask")
    copy(ask_file(world), job)
    assert owner.poll(world.seen) == []
    assert len(world.quarantined()) == 2


@pytest.mark.parametrize("data", [b"", b"ask", b"SYC2", b"SYC2\x01" + b"\xff" * 5000])
def test_what_is_not_encrypted(world, owner, ana, data):
    put(world, data)
    refused_by_owner(world, reason="not encrypted")


def test_an_ask_signed_by_an_unknown_key(world, owner, ana):
    eve = crypto.SyftRecoveryKey.generate().derive_keys()
    to = crypto.EncryptionRecipient(OWNER, owner._box.store.public_key)
    put(world, crypto.encrypt_message(ANA, eve, [to], b"ask"))
    refused_by_owner(world, reason="not signed by the pinned key")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9999])
def test_a_message_cut_short(world, owner, ana, part):
    ana.tell(OWNER, RUN, SHARE, SECRET)
    data = ask_file(world).read_bytes()
    put(world, data[: int(len(data) * part)])
    refused_by_owner(world, reason="it ")


@pytest.mark.parametrize("place", [0, 100, -2000, -100, -1])
def test_a_message_with_one_bit_changed(world, owner, ana, place):
    owner.tell(ANA, RUN, SHARE, SECRET * 10)
    data = bytearray(answer_file(world).read_bytes())
    data[place] ^= 1
    answer_file(world).write_bytes(data)
    refused_by_analyst(world, reason="it ")


def test_no_change_of_bytes_changes_what_is_heard(world, owner, ana):
    owner.tell(ANA, RUN, SHARE, b"answer")
    sound = answer_file(world).read_bytes()
    heard = []
    for place in range(0, len(sound), 61):
        data = bytearray(sound)
        data[place] ^= 0x40
        answer_file(world).write_bytes(data)
        try:
            heard.append(ana.hear(OWNER, RUN, SHARE))
        except BadMessage:
            heard.append(None)
    # PySyft fills its envelopes up with bytes that nobody reads, nor signs.
    assert set(heard) == {None, b"answer"}


def test_the_data_of_one_message_behind_the_signature_of_another(world, owner, ana):
    sealed = []
    for data in (b"a" * 1000, b"b" * 1000):
        ana.tell(OWNER, RUN, SHARE, data)
        sealed.append(ask_file(world).read_bytes())
    one, other = sealed
    put(world, one[: len(one) - 900] + other[len(other) - 900 :])
    refused_by_owner(world, reason="it ")


def test_an_enormous_file_is_not_even_read(world, owner, ana):
    put(world, b"")
    os.truncate(ask_file(world), 1 << 40)
    refused_by_owner(world, reason="at most")


def test_what_is_larger_than_it_may_be_is_refused_before_it_is_decrypted(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, bytes(200_000))
    assert 200_000 <= owner.size(ANA, RUN, SHARE) < 210_000
    assert owner.hear(ANA, RUN, SHARE, limit=200_000) == bytes(200_000)
    with pytest.raises(BadMessage, match="at most"):
        owner.hear(ANA, RUN, SHARE, limit=100_000)
    assert owner.size(ANA, RUN, SHARE) == 0
    assert owner.asked(ANA, RUN) == []


def test_a_large_refused_message_is_kept_only_in_part(world, owner, ana):
    put(world, bytes(1 << 20))
    refused_by_owner(world, reason="not encrypted")
    (kept,) = world.quarantined()
    assert kept.stat().st_size < 100_000


def test_special_files_stop_nobody(world, owner, ana, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    folder = ask_file(world).parent
    folder.mkdir(parents=True)
    os.mkfifo(folder / "000001-fifo")
    (folder / "000001-link").symlink_to(outside / "precious")
    (folder / "000001-folder" / "x").mkdir(parents=True)
    (folder / "000001-linked").symlink_to(outside)
    (folder / "readme.txt").touch()
    names = owner.asked(ANA, RUN)
    assert names == ["000001-fifo", "000001-folder", "000001-link", "000001-linked"]
    for name in names:
        with pytest.raises(BadMessage, match="not a plain file"):
            owner.hear(ANA, RUN, name)
    assert owner.asked(ANA, RUN) == []
    assert (outside / "precious").read_text() == "kept"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_that_links_elsewhere_is_not_followed(world, owner, ana, tmp_path, depth):
    outside = tmp_path / "outside"
    ana.tell(OWNER, RUN, SHARE, b"ask")
    folder = ask_file(world).parents[depth]
    folder.rename(outside)
    folder.symlink_to(outside)
    assert owner.asked(ANA, RUN) == []
    with pytest.raises(BadMessage):
        owner.hear(ANA, RUN, SHARE)
    if depth == 0:  # the link itself is the run's folder
        owner.forget_run(ANA, RUN)
        assert not folder.is_symlink()
    assert next(outside.rglob(SHARE)).is_file()


def test_a_flood_of_files_is_looked_at_in_part(world, owner, ana):
    folder = ask_file(world).parent
    folder.mkdir(parents=True)
    for number in range(200):
        (folder / f"{number:06d}-x").touch()
    assert owner.asked(ANA, RUN) == [f"{number:06d}-x" for number in range(64)]


def test_what_cannot_be_removed_is_not_heard_again(world, owner, ana, monkeypatch):
    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    owner.tell(ANA, RUN, SHARE, b"answer")
    ana.tell(OWNER, RUN, SHARE, b"ask")
    with monkeypatch.context() as storage:
        storage.setattr(os, "unlink", read_only)
        assert ana.hear(OWNER, RUN, SHARE) == b"answer"
        assert ana.hear(OWNER, RUN, SHARE) is None
        owner.tell(ANA, RUN, SHARE, b"answer")
        assert owner.asked(ANA, RUN) == []
        assert owner.hear(ANA, RUN, SHARE) is None
        owner.forget_run(ANA, RUN)
    assert len(world.warned()) >= 2
    assert owner.hear(ANA, RUN, SHARE) is None, "it is removed now"
    ana.tell(OWNER, RUN, SHARE, b"ask")
    assert owner.asked(ANA, RUN) == [SHARE]


def test_an_exchange_that_is_gone_says_so_and_comes_back(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    world.shared.rename(world.path / "gone")
    for call in (
        lambda: ana.tell(OWNER, RUN, SHARE, b""),
        lambda: ana.hear(OWNER, RUN, SHARE),
        lambda: owner.asked(ANA, RUN),
        lambda: owner.hear(ANA, RUN, SHARE),
        lambda: owner.tell(ANA, RUN, SHARE, b""),
    ):
        with pytest.raises(ExchangeUnavailable):
            call()
    owner.forget_run(ANA, OTHER_RUN)
    ana.forget_run(OWNER, OTHER_RUN)
    (world.path / "gone").rename(world.shared)
    assert owner.hear(ANA, RUN, SHARE) == b"ask"


def test_a_rejected_analyst_is_neither_heard_nor_told(world, owner, ana):
    ana.tell(OWNER, RUN, SHARE, b"ask")
    owner.reject(ANA)
    assert owner.asked(ANA, RUN) == []
    assert owner.hear(ANA, RUN, SHARE) is None
    with pytest.raises(NotAPeer, match="not an accepted peer"):
        owner.tell(ANA, RUN, SHARE, b"answer")
    assert not answer_file(world).exists()
    owner.accept(ANA)
    assert owner.hear(ANA, RUN, SHARE) == b"ask"


def test_a_stranger_is_neither_heard_nor_told(world, owner, ana):
    put(world, b"noise")
    copy(ask_file(world), ask_file(world, analyst="eve@x.org"))
    assert owner.asked("eve@x.org", RUN) == []
    assert owner.hear("eve@x.org", RUN, SHARE) is None
    with pytest.raises(NotAPeer):
        owner.tell("eve@x.org", RUN, SHARE, b"")


@pytest.mark.parametrize("asked", [False, True])
def test_a_site_that_has_not_accepted_us_is_neither_heard_nor_asked(world, owner, asked):
    ana = world.open_analyst()
    if asked:
        ana.ask(OWNER)
    for call in (lambda: ana.tell(OWNER, RUN, SHARE, b""), lambda: ana.hear(OWNER, RUN, SHARE)):
        with pytest.raises(NotAPeer) as refused:
            call()
        assert refused.value.hint
    assert not ask_file(world).exists()


def test_an_owners_key_swapped_on_the_exchange_is_noticed_and_not_used(world, owner, ana, bob):
    owner.tell(ANA, RUN, SHARE, b"answer")
    swapped = {"public_encryption_bundle": bob._box.store.get_public_bundle()}
    (world.shared / OWNER / "bundles" / f"{ANA}.json").write_text(json.dumps(swapped))
    with pytest.raises(KeyChanged, match="was pinned"):
        ana.tell(OWNER, RUN, SHARE, b"ask")
    assert not ask_file(world).exists()
    assert ana.hear(OWNER, RUN, SHARE) == b"answer", "it is signed by the pinned key"


def test_an_analysts_key_swapped_on_the_exchange_changes_nothing(world, owner, ana, bob):
    swapped = {"public_encryption_bundle": bob._box.store.get_public_bundle()}
    (world.shared / ANA / "bundles" / f"{OWNER}.json").write_text(json.dumps(swapped))
    ana.tell(OWNER, RUN, SHARE, b"ask")
    assert owner.hear(ANA, RUN, SHARE) == b"ask"
    owner.tell(ANA, RUN, SHARE, b"answer")
    assert ana.hear(OWNER, RUN, SHARE) == b"answer"


def test_a_new_key_of_an_analyst_is_refused_until_it_is_accepted(world, owner, ana):
    shutil.rmtree(world.path / ANA)
    anew = world.open_analyst()
    anew.ask(OWNER)
    anew.tell(OWNER, RUN, SHARE, b"ask")
    refused_by_owner(world, reason="not signed by the pinned key")
    owner.accept(ANA, fingerprint=anew.fingerprint)
    anew.tell(OWNER, RUN, SHARE, b"ask")
    assert owner.hear(ANA, RUN, SHARE) == b"ask"


def test_many_threads_talk_to_many_sites_while_peers_are_accepted(world, owner, ana):
    sites = [owner, world.open_owner(SOUTH), world.open_owner("owner@east.example")]
    for site in sites[1:]:
        world.befriend(site, ana)
    steps = [f"{number:06d}-share" for number in range(1, 16)]

    def serve(site):
        for name in steps:
            while (ask := site.hear(ANA, RUN, name)) is None:
                pass
            site.tell(ANA, RUN, name, ask[::-1])

    def talk(site):
        heard = []
        for number, name in enumerate(steps):
            ana.tell(site._email, RUN, name, f"{site._email} {number} ".encode() * 500)
            while (answer := ana.hear(site._email, RUN, name)) is None:
                pass
            heard.append(answer)
        return heard

    with ThreadPoolExecutor(7) as threads:
        served = [threads.submit(serve, site) for site in sites]
        talked = [threads.submit(talk, site) for site in sites]
        world.befriend(owner, world.open_analyst(BOB))
        for each in served:
            each.result(timeout=60)
        for site, said in zip(sites, talked, strict=True):
            assert said.result(timeout=60) == [
                (f"{site._email} {number} ".encode() * 500)[::-1] for number in range(len(steps))
            ]
    assert world.warned() == []


def test_both_may_forget_a_run_at_once_while_one_still_tells(world, owner, ana):
    barrier = threading.Barrier(3)

    def all_at_once(call):
        barrier.wait()
        call()

    for _ in range(20):
        for number in range(8):
            ana.tell(OWNER, RUN, f"{number:06d}-share", b"ask")
        with ThreadPoolExecutor(3) as threads:
            done = [
                threads.submit(all_at_once, lambda: owner.forget_run(ANA, RUN)),
                threads.submit(all_at_once, lambda: ana.forget_run(OWNER, RUN)),
                threads.submit(all_at_once, lambda: owner.tell(ANA, RUN, "000009-share", b"late")),
            ]
            for each in done:
                each.result(timeout=60)
        assert not ask_file(world).parent.exists()


def test_rounds_go_between_two_processes(world, owner, ana):
    site = textwrap.dedent(f"""
        from pathlib import Path
        from privnb.datasite.owner import OwnerDatasite
        site = OwnerDatasite.open(
            Path({str(world.path / OWNER)!r}), email={OWNER!r}, exchange={str(world.shared)!r}
        )
        for _ in range(20):
            while not (names := site.asked({ANA!r}, {RUN!r})):
                pass
            for name in names:
                site.tell({ANA!r}, {RUN!r}, name, site.hear({ANA!r}, {RUN!r}, name) + b"!")
    """)
    with subprocess.Popen([sys.executable, "-c", site]) as process:
        for number in range(20):
            name = f"{number:06d}-share"
            ana.tell(OWNER, RUN, name, name.encode())
            while (answer := ana.hear(OWNER, RUN, name)) is None:
                assert process.poll() is None, "the site ended"
            assert answer == name.encode() + b"!"
    assert process.returncode == 0


def test_looking_for_an_answer_lists_no_folder(world, owner, ana, monkeypatch):
    owner.tell(ANA, RUN, "000000-join", b"join")

    def fail(*args):
        raise AssertionError(args)

    monkeypatch.setattr(os, "listdir", fail)
    assert ana.hear(OWNER, RUN, SHARE) is None
    assert ana.hear(OWNER, RUN, "000000-join") == b"join"


def test_messages_of_rounds_do_not_wait_for_the_disk(owner, ana, monkeypatch):
    def fail(fd):
        raise AssertionError(fd)

    monkeypatch.setattr(os, "fsync", fail)
    ana.tell(OWNER, RUN, SHARE, b"ask")
    owner.tell(ANA, RUN, SHARE, b"answer")
    assert ana.hear(OWNER, RUN, SHARE) == b"answer"
