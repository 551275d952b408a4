"""Keys and peers: fingerprints, pinning, and what happens when a file of ours is damaged."""

from __future__ import annotations

import json
import re

import pytest

from privnb.datasite.keys import parse_bundle
from privnb.datasite.pysyft import crypto
from privnb.errors import BadMessage, KeyChanged, NotAPeer, StateError

OWNER = "owner@north.example"
ANA = "ana@uni.example"
BOB = "bob@uni.example"


def test_both_sides_read_out_the_same_fingerprint(owner, ana):
    (peer,) = owner.peers()
    assert peer.fingerprint == ana.fingerprint
    assert re.fullmatch(r"([0-9a-f]{4}-){7}[0-9a-f]{4}", ana.fingerprint)
    assert ana.fingerprint != owner.fingerprint


def test_a_key_survives_opening_again(world, owner, ana):
    assert world.open_owner().fingerprint == owner.fingerprint
    again = world.open_analyst()
    assert again.fingerprint == ana.fingerprint
    assert world.answers(owner, again)


def test_equal_keys_have_one_fingerprint_however_they_are_written(ana):
    document = ana._box.store.get_public_bundle()
    plain = parse_bundle(ANA, document)
    for junk in ({"extra": 1}, {"identity": "other@x.org"}, {"id": "did:syft:other@x.org"}):
        assert parse_bundle(ANA, {**document, **junk}).fingerprint == plain.fingerprint
    assert parse_bundle("other@x.org", document).fingerprint != plain.fingerprint


@pytest.mark.parametrize("document", [None, [], {}, "x", {"keyAgreement": 1}, {"id": "x"}])
def test_what_is_no_key_is_refused(document):
    with pytest.raises(BadMessage, match="not well formed"):
        parse_bundle(ANA, document)


def test_a_key_with_a_foreign_part_is_refused(ana):
    other = crypto.SyftRecoveryKey.generate().derive_keys().to_public_bundle()
    foreign = other.to_did_document("did:syft:x")
    document = {**ana._box.store.get_public_bundle(), "keyAgreement": foreign["keyAgreement"]}
    with pytest.raises(BadMessage, match="not well formed"):
        parse_bundle(ANA, document)


@pytest.mark.parametrize("form", [str, str.upper, lambda text: text.replace("-", " ") + " \n"])
def test_the_owner_can_require_a_fingerprint(world, owner, form):
    ana = world.open_analyst()
    ana.ask(OWNER)
    with pytest.raises(KeyChanged, match="fingerprint") as refused:
        owner.accept(ANA, fingerprint=owner.fingerprint)
    assert ana.fingerprint in refused.value.message
    assert [peer.state for peer in owner.peers()] == ["asked"]
    for wrong in ("", ana.fingerprint[:9], ana.fingerprint + "-0000"):
        with pytest.raises(KeyChanged):
            owner.accept(ANA, fingerprint=wrong)
    assert owner.accept(ANA, fingerprint=form(ana.fingerprint)).state == "accepted"


def test_nobody_is_accepted_without_a_key(world, owner):
    with pytest.raises(NotAPeer, match="has not asked") as refused:
        owner.accept("nobody@x.org")
    assert refused.value.hint
    (world.shared / "eve@x.org" / "bundles").mkdir(parents=True)
    (world.shared / "eve@x.org" / "bundles" / f"{OWNER}.json").write_bytes(b"\xff{")
    with pytest.raises(BadMessage, match="not well formed"):
        owner.accept("eve@x.org")
    assert list(owner.peers()) == []


def test_a_peers_key_swapped_on_the_exchange_is_noticed_and_not_used(world, owner, ana, bob):
    swapped = {"public_encryption_bundle": bob._box.store.get_public_bundle()}
    published = world.shared / ANA / "bundles" / f"{OWNER}.json"
    published.write_text(json.dumps(swapped))
    states = {peer.email: (peer.state, peer.fingerprint) for peer in owner.peers()}
    assert states == {
        ANA: ("key changed", ana.fingerprint),
        BOB: ("accepted", bob.fingerprint),
    }
    with pytest.raises(KeyChanged, match="was pinned") as refused:
        owner.accept(ANA)
    assert ana.fingerprint in refused.value.message
    assert world.answers(owner, ana), "the pinned key still counts"


def test_a_peer_who_lost_their_key_is_accepted_anew_by_fingerprint(world, owner, ana):
    assert world.answers(owner, ana)
    (world.path / ANA / "keys.json").unlink()
    (world.path / ANA / "peers.json").unlink()
    fresh = world.open_analyst()
    fresh.ask(OWNER)
    with pytest.raises(KeyChanged):
        owner.accept(ANA)
    owner.accept(ANA, fingerprint=fresh.fingerprint)
    assert world.answers(owner, fresh)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"email":"owner@north.example"}', b"\xff"])
def test_a_damaged_key_file_is_named(world, owner, damage):
    (world.path / OWNER / "keys.json").write_bytes(damage)
    with pytest.raises(StateError, match=r"keys\.json is damaged") as refused:
        world.open_owner()
    assert "backup" in refused.value.hint


def test_a_home_belongs_to_one_address(world, owner):
    (world.path / OWNER).rename(world.path / "other@x.org")
    with pytest.raises(StateError, match=f"belongs to {OWNER}"):
        world.open_owner("other@x.org")


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"a@x.org":1}', b'{"a@x.org":{"state":"x"}}'])
def test_a_damaged_list_of_peers_is_named(world, owner, ana, damage):
    (world.path / OWNER / "peers.json").write_bytes(damage)
    with pytest.raises(StateError, match=r"peers\.json is damaged"):
        world.open_owner().peers()


def test_key_files_of_others_modes_are_closed(world, owner):
    keys = world.path / OWNER / "keys.json"
    keys.chmod(0o644)
    world.open_owner()
    assert keys.stat().st_mode & 0o777 == 0o600


def test_the_request_never_shows_before_the_key(world, owner, monkeypatch):
    """An owner who accepts the moment a request shows must find the key."""
    ana = world.open_analyst()
    written = []
    write = ana._exchange.write

    def record(data, *path):
        written.append(path[1])
        write(data, *path)

    monkeypatch.setattr(ana._exchange, "write", record)
    ana.ask(OWNER)
    assert written.index("bundles") < written.index("requests")
