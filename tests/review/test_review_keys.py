"""Reviewers' keys: made once, readable by one, and recognised by their public half."""

from __future__ import annotations

import json
import stat
from types import SimpleNamespace

import pytest
from review_site import ALICE, BOB

from privnb.errors import ConfigError, StateError, UnknownName
from privnb.site.reviewing.desk import choose_key
from privnb.site.reviewing.reviewers import ReviewerKey, key_folder, known_keys, read_public, verify


def test_a_key_comes_back_as_it_was_made(tmp_path):
    made = ReviewerKey.create(tmp_path / "keys" / "a.json", ALICE)
    loaded = ReviewerKey.load(tmp_path / "keys" / "a.json")
    assert loaded == made
    assert verify(made.public, loaded.sign(b"yes"), b"yes")


def test_only_its_owner_can_read_a_key_and_printing_it_tells_nothing(tmp_path):
    path = tmp_path / "keys" / "a.json"
    key = ReviewerKey.create(path, ALICE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text())["private"] not in repr(key)
    assert list(path.parent.iterdir()) == [path]


def test_a_key_is_never_replaced(tmp_path):
    first = ReviewerKey.create(tmp_path / "a.json", ALICE)
    with pytest.raises(StateError, match="is a key"):
        ReviewerKey.create(tmp_path / "a.json", ALICE)
    assert ReviewerKey.load(tmp_path / "a.json") == first


def test_a_key_that_others_can_read_is_not_used(tmp_path):
    ReviewerKey.create(tmp_path / "a.json", ALICE)
    (tmp_path / "a.json").chmod(0o640)
    with pytest.raises(StateError, match="read by others"):
        ReviewerKey.load(tmp_path / "a.json")


@pytest.mark.parametrize("field", ["email", "public", "private"])
def test_a_damaged_key_is_not_used(tmp_path, field):
    path = tmp_path / "a.json"
    ReviewerKey.create(path, ALICE)
    for value in (None, 7, "", "QUJD"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
        with pytest.raises((StateError, ConfigError)):
            ReviewerKey.load(path)


def test_an_address_that_is_none_gets_no_key(tmp_path):
    with pytest.raises(ConfigError, match="reviewer's address"):
        ReviewerKey.create(tmp_path / "a.json", "Alice")
    assert not (tmp_path / "a.json").exists()


def test_a_signature_is_of_one_key_and_one_statement(tmp_path):
    alice = ReviewerKey.create(tmp_path / "a.json", ALICE)
    bob = ReviewerKey.create(tmp_path / "b.json", BOB)
    signature = alice.sign(b"statement")
    assert verify(alice.public, signature, b"statement")
    assert not verify(bob.public, signature, b"statement")
    assert not verify(alice.public, signature, b"Statement")
    assert not verify(alice.public, signature[:-1], b"statement")
    assert not verify("ed25519:nonsense", signature, b"statement")


def test_a_public_key_has_one_spelling(tmp_path):
    public = ReviewerKey.create(tmp_path / "a.json", ALICE).public
    assert len(read_public(public)) == 32
    for other in (
        public.removeprefix("ed25519:"),
        public + "=",
        public.rstrip("="),
        public + "\n",
        "ed25519:" + "A" * 40,
        "ED25519:" + public[8:],
        # the last digit before "=" has two bits that say nothing
        public[:-2] + chr(ord(public[-2]) + 1) + "=",
        "",
    ):
        with pytest.raises(ValueError, match="not"):
            read_public(other)


def test_the_only_key_is_chosen_and_of_several_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIVNB_HOME", str(tmp_path))
    assert choose_key(None) is None
    alice = ReviewerKey.create(key_folder() / f"{ALICE}.json", ALICE)
    assert choose_key(None) == alice
    bob = ReviewerKey.create(key_folder() / f"{BOB}.json", BOB)
    assert choose_key(None) is None
    assert choose_key(BOB) == bob
    assert known_keys(key_folder()) == (alice, bob)
    with pytest.raises(UnknownName, match="carol"):
        choose_key("carol@hospital.example")
    with pytest.raises(ConfigError):
        choose_key("../../etc/passwd")


def test_of_several_keys_the_one_that_a_reviewer_of_the_site_has_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIVNB_HOME", str(tmp_path))
    alice = ReviewerKey.create(key_folder() / f"{ALICE}.json", ALICE)
    ReviewerKey.create(key_folder() / f"{BOB}.json", BOB)
    site = SimpleNamespace(review=SimpleNamespace(reviewers={ALICE: alice.public}))
    assert choose_key(None, site=site) == alice
    assert choose_key(None) is None
