"""Attacks on an analyst by an accepted but malicious owner, or by the storage, with real PySyft."""

from __future__ import annotations

import json
import time
from pathlib import Path
from uuid import uuid4

import pytest

from privnb.datasite.keys import parse_bundle
from privnb.datasite.pysyft import FileChangeEvent, FileChangeEventsMessage
from privnb.errors import KeyChanged, NotAPeer

OWNER = "owner@north.example"
SOUTH = "owner@south.example"
ANA = "ana@uni.example"
FILES = {"computation.json": b"{}"}


@pytest.fixture
def south(world, ana):
    site = world.open_owner(SOUTH)
    world.befriend(site, ana)
    return site


@pytest.fixture
def asked(world, owner, ana):
    """The name of a job of Ana's that the owner has."""
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (job,) = owner.poll(world.seen)
    world.seen.record(job)
    return name


def events(datasite, files, **event):
    now = time.time()
    return FileChangeEventsMessage(
        events=[
            FileChangeEvent(
                id=uuid4(),
                path_in_datasite=Path(path),
                datasite_email=datasite,
                content=content,
                submitted_timestamp=now,
                timestamp=now,
                **event,
            )
            for path, content in files.items()
        ]
    )


def send(site, message):
    site._box.owner_syncer.connection_router.owner_write_event_messages_to_outbox(ANA, message)


def review(name, analyst=ANA):
    return f"app_data/job/review/{analyst}/v1/{name}"


def contained(world, *, by=OWNER, reason=""):
    ana = world.ana
    before = files_in(ana)
    assert list(ana.poll(by)) == []
    assert files_in(ana) == before
    assert list(world.outbox(owner=by).iterdir()) == []
    assert len(world.quarantined(ANA)) == 1
    (line,) = world.warned()
    assert by in line
    assert reason in line


def files_in(analyst):
    box = [path for path in analyst._home.box.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in [*box, analyst._home.keys, analyst._home.peers]}


def test_one_site_does_not_answer_for_another(world, owner, ana, south, asked):
    send(south, events(OWNER, {f"{review(asked)}/outputs/r": "forged"}))
    contained(world, by=SOUTH, reason="another datasite")
    send(
        south, events(SOUTH, {f"{review(asked)}/outputs/r": "x", f"{review(asked)}/state.yaml": ""})
    )
    assert list(ana.poll(SOUTH)) == []
    assert "no open job" in world.warned()[-1]
    assert list(ana.poll(OWNER)) == []
    assert world.answers(south, ana)


def test_the_analysts_own_keys_are_not_overwritten(world, owner, ana):
    send(owner, events(ANA, {"private/crypto_keys.json": "{}"}))
    contained(world, reason="another datasite")
    assert world.answers(owner, ana)


@pytest.mark.parametrize(
    "path",
    [
        "syft.pub.yaml",
        "public/syft_datasets/x/mock.csv",
        f"app_data/job/inbox/{ANA}/v1/NAME/run.sh",
        "app_data/job/review/bob@uni.example/v1/NAME/outputs/r",
        f"app_data/job/review/{ANA}/v1/NAME/../../../../../../{ANA}/private/x",
        f"app_data/job/review/{ANA}/v1/NAME/outputs/../../x",
        f"app_data/job/review/{ANA}/v1/NAME/outputs/\x00",
        f"app_data/job/review/{ANA}/v1/NAME/outputs/{'x' * 300}",
        f"app_data/job/review/{ANA}/v1/other/outputs/r",
        "/etc/passwd",
    ],
    ids=ascii,
)
def test_path_tricks(world, owner, ana, asked, path):
    name = path.replace("NAME", asked)
    send(owner, events(OWNER, {name: "evil", f"{review(asked)}/state.yaml": ""}))
    contained(world)
    assert world.answers(owner, ana)


def test_deletions(world, owner, ana, asked):
    send(owner, events(OWNER, {f"{review(asked)}/state.yaml": "x"}, is_deleted=True))
    contained(world, reason="deletes")


def test_a_reply_without_its_state(world, owner, ana, asked):
    send(owner, events(OWNER, {f"{review(asked)}/outputs/r": "x"}))
    contained(world, reason="no state")


def test_a_reply_nobody_asked_for(world, owner, ana):
    name = world.new_name()
    send(owner, events(OWNER, {f"{review(name)}/outputs/r": "", f"{review(name)}/state.yaml": ""}))
    contained(world, reason="no open job")


@pytest.mark.parametrize("data", [b"", b"noise", b"SYC2\x01\xff\xff\xff\xff"])
def test_noise_and_plain_text(world, owner, ana, asked, data):
    world.outbox().mkdir(parents=True, exist_ok=True)
    (world.outbox() / "syfteventsmessagev3_1").write_bytes(data)
    contained(world, reason="not encrypted")
    message = events(OWNER, {f"{review(asked)}/outputs/r": "", f"{review(asked)}/state.yaml": ""})
    (world.outbox() / "syfteventsmessagev3_2").write_bytes(message.as_compressed_data())
    assert list(ana.poll(OWNER)) == []
    assert "not encrypted" in world.warned()[-1]


def test_a_reply_repeated_by_the_storage_or_after_a_crash(world, owner, ana, asked):
    (job,) = owner.poll(world.seen)
    owner.reply(job, {"r": b"first"}, succeeded=True)
    (message,) = world.outbox().iterdir()
    data = message.read_bytes()
    first = ana.poll(OWNER)
    message.write_bytes(data)
    assert ana.poll(OWNER) == first
    assert world.warned() == []
    ana.retire(OWNER, asked)
    message.write_bytes(data)
    contained(world, reason="no open job")


def test_a_second_reply_does_not_replace_the_first(world, owner, ana, asked):
    for content in ("first", "second"):
        base = review(asked)
        send(owner, events(OWNER, {f"{base}/outputs/r": content, f"{base}/state.yaml": ""}))
        kernel = world.open_analyst()
        assert [reply.files for reply in kernel.poll(OWNER)] == [{"r": b"first"}]


def as_if_of(email, other):
    return parse_bundle(email, other._box.store.get_public_bundle())


def swap_key(world, *, of, as_seen_by, other):
    """Let the storage present another valid key in the place of somebody's."""
    bundle = {"public_encryption_bundle": other._box.store.get_public_bundle()}
    (world.shared / of / "bundles" / f"{as_seen_by}.json").write_text(json.dumps(bundle))


def test_a_swapped_key_of_a_site_is_refused_loudly(world, owner, ana, south):
    swap_key(world, of=OWNER, as_seen_by=ANA, other=south)
    with pytest.raises(KeyChanged) as refused:
        ana.submit(OWNER, world.new_name(), FILES)
    assert owner.fingerprint in refused.value.message
    assert as_if_of(OWNER, south).fingerprint in refused.value.message
    assert refused.value.hint
    assert not any(world.inbox().glob("*"))
    owner.publish_card("northside")
    states = {site.owner: (site.state, site.fingerprint) for site in ana.sites()}
    assert states == {OWNER: ("key changed", owner.fingerprint)}
    assert world.answers(south, ana), "other sites are not affected"


def test_a_malformed_key_of_a_site_is_refused_loudly(world, owner, ana):
    (world.shared / OWNER / "bundles" / f"{ANA}.json").write_text("{}")
    with pytest.raises(KeyChanged, match="no sound key"):
        ana.submit(OWNER, world.new_name(), FILES)


def test_a_new_key_is_pinned_only_by_its_fingerprint(world, owner, ana, south):
    swap_key(world, of=OWNER, as_seen_by=ANA, other=south)
    with pytest.raises(KeyChanged, match="not"):
        ana.ask(OWNER, fingerprint=owner.fingerprint)
    ana.ask(OWNER)
    assert ana._box.refresh()[OWNER].bundle.fingerprint == owner.fingerprint
    swapped = as_if_of(OWNER, south).fingerprint
    ana.ask(OWNER, fingerprint=swapped.upper().replace("-", " "))
    assert ana._box.refresh()[OWNER].bundle.fingerprint == swapped


def test_without_a_pinned_key_nothing_is_sent(world, owner):
    ana = world.open_analyst()
    ana.ask(OWNER)
    owner.accept(ANA)
    (world.shared / OWNER / "bundles" / f"{ANA}.json").unlink()
    with pytest.raises(NotAPeer, match="not accepted"):
        ana.submit(OWNER, world.new_name(), FILES)
    assert not world.inbox().exists()


def test_a_missing_key_file_does_no_harm_once_pinned(world, owner, ana):
    (world.shared / OWNER / "bundles" / f"{ANA}.json").unlink()
    assert world.answers(owner, ana)


def test_even_if_pysyft_forgets_the_key_no_plain_text_leaves(world, owner, ana):
    """PySyft's ``encrypt_if_needed`` returns plain text for a peer it does not know."""
    assert ana._box.store.encrypt_if_needed("nobody@x.org", b"secret") == b"secret"
    ana._box.store.set_peers([])
    with pytest.raises(NotAPeer, match="not encrypted"):
        ana._push(OWNER, world.new_name(), FILES | {"main.py": b""})
    assert not any(world.inbox().glob("*"))
    owner._box.store.set_peers([])
    with pytest.raises(NotAPeer, match="not encrypted"):
        owner._send(ANA, {Path("x"): b""})
    assert not any(world.outbox().glob("*"))


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"name":"x"}',
        b'{"name":"x","owner":"other@x.org","seen":1}',
        b'{"name":"a\\nb","owner":"owner@north.example"}',
        b'{"name":"\\u202eevil","owner":"owner@north.example"}',
        b'{"name":"' + b"x" * 5000 + b'","owner":"owner@north.example"}',
        b'{"name":["x"],"owner":"owner@north.example"}',
        b'{"name":"south@owner@south.example","owner":"owner@north.example"}',
        b"[" * 4000,
        '{"name":"n\u043erthside","owner":"owner@north.example"}'.encode(),  # a Cyrillic o
    ],
    ids=lambda card: card[:12],
)
def test_hostile_cards_are_not_shown(world, owner, ana, card):
    (world.shared / OWNER / "site.json").write_bytes(card)
    assert list(ana.sites()) == []


@pytest.mark.parametrize(
    "seen", ["NaN", "Infinity", "1e300", "-1", "true", '"now"', "[]", "1" * 400]
)
def test_a_card_with_a_senseless_time_shows_none(world, owner, ana, seen):
    card = f'{{"name":"north","owner":"{OWNER}","seen":{seen}}}'
    (world.shared / OWNER / "site.json").write_text(card)
    (site,) = ana.sites()
    assert site.last_seen is None
