"""A receipt proves one event, and nothing that differs from it in a single bit."""

from __future__ import annotations

import copy

import pytest
from audited_site import ANA, BOB, plain

from privnb.audit import (
    Unproved,
    VerifierKey,
    commitment,
    leaf_hash,
    read_event,
    verify_inclusion,
    verify_receipt,
)


@pytest.fixture
def receipt(log):
    log.fill(5)
    index = log.append("release", output="ab" * 32, purpose="naïve “research”")
    log.fill(7)
    return plain(log.receipt(index, held=(3, 9)))


def test_it_proves_its_event(log, receipt):
    proved = verify_receipt(receipt, key=log.key)
    assert proved.event["kind"] == "release"
    assert proved.event["output"] == "ab" * 32
    assert (proved.index, proved.checkpoint.size) == (5, 13)
    assert receipt["openings"]["analyst"]["value"] == ANA


def texts(value, way=()):
    """Every text in a receipt that is checked, with the way to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name != "consistency":
                yield from texts(inner, (*way, name))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from texts(inner, (*way, place))
    elif isinstance(value, str):
        yield way, value


def changed(receipt, way, value):
    made = copy.deepcopy(receipt)
    made["proof"] = list(made["proof"])
    inner = made
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    return made


@pytest.mark.parametrize("bit", [1, 32])
def test_any_flipped_bit_is_refused(log, receipt, bit):
    ways = list(texts(receipt))
    assert {way[0] for way, _ in ways} == {"event", "proof", "checkpoint", "openings"}
    for way, text in ways:
        for place, letter in enumerate(text):
            flipped = f"{text[:place]}{chr(ord(letter) ^ bit)}{text[place + 1 :]}"
            with pytest.raises(Unproved):
                verify_receipt(changed(receipt, way, flipped), key=log.key)


def test_any_shortened_or_lengthened_part_is_refused(log, receipt):
    for way, text in texts(receipt):
        for other in ("", text[1:], text[:-1], f"{text} ", f" {text}", f"{text}\n", text + text):
            with pytest.raises(Unproved):
                verify_receipt(changed(receipt, way, other), key=log.key)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("index", 4),
        ("index", 6),
        ("index", 13),
        ("index", -1),
        ("index", True),
        ("index", "5"),
        ("index", 5.0),
        ("index", None),
        ("proof", []),
        ("proof", None),
        ("proof", "00"),
        ("proof", ["00"] * 4),
        ("proof", [0] * 4),
        ("proof", ["0" * 64] * 1000),
        ("event", None),
        ("event", {}),
        ("event", "[]"),
        ("event", "{}"),
        ("checkpoint", None),
        ("checkpoint", b""),
        ("openings", []),
        ("openings", {"analyst": None}),
        ("openings", {"analyst": {}}),
        ("openings", {"analyst": []}),
        ("openings", {"analyst": "salt value"}),
        ("openings", {"kind": {"salt": "0" * 64, "value": "release"}}),
        ("openings", {"reviewer": {"salt": "0" * 64, "value": BOB}}),
    ],
)
def test_a_part_that_is_another_or_no_such_thing_is_refused(log, receipt, field, value):
    with pytest.raises(Unproved):
        verify_receipt({**receipt, field: value}, key=log.key)


@pytest.mark.parametrize("field", ["event", "index", "proof", "checkpoint"])
def test_a_part_that_is_missing_is_refused(log, receipt, field):
    del receipt[field]
    with pytest.raises(Unproved, match="not well formed"):
        verify_receipt(receipt, key=log.key)


@pytest.mark.parametrize("receipt", [None, [], "receipt", 7])
def test_what_is_no_receipt_is_refused(log, receipt):
    with pytest.raises(Unproved, match="not well formed"):
        verify_receipt(receipt, key=log.key)


def test_an_opening_with_one_more_part_is_refused(log, receipt):
    receipt["openings"]["analyst"]["note"] = ""
    with pytest.raises(Unproved, match="opening of 'analyst'"):
        verify_receipt(receipt, key=log.key)


def test_the_receipt_of_another_log_is_refused(log, receipt, tmp_path):
    from audited_site import AuditedSite

    other = AuditedSite(tmp_path / "other")
    with pytest.raises(Unproved, match="not signed by the key"):
        verify_receipt(receipt, key=other.key)
    named = VerifierKey(name="privnb/other/x", public=log.key.public)
    with pytest.raises(Unproved, match="of the log"):
        verify_receipt(receipt, key=named)
    other.database.close()


def test_an_inner_node_cannot_pass_for_an_event(log):
    log.fill(4)
    two = plain(log.receipt(0))
    inner = bytes.fromhex(two["proof"][0]) + bytes.fromhex(two["proof"][1])
    with pytest.raises(Unproved):
        verify_inclusion(leaf_hash(inner), index=0, size=2, proof=[], root=bytes(32))
    with pytest.raises(Unproved):
        verify_receipt({**two, "event": inner.decode("latin-1")}, key=log.key)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        '{"b":1,"a":2}',
        '{"a": 1}',
        '{"a":1}\n',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":1e999}',
        '{"a":1.0e0}',
        '{"a":"\\u0041"}',
        '{"a":"\\ud800"}',
        "[1]",
        '"text"',
        "",
        "[" * 100_000,
        '{"a":' * 100_000,
        f'{{"a":{"9" * 5000}}}',
    ],
)
def test_an_event_that_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(Unproved, match="canonical"):
        read_event(text)


def test_a_commitment_is_hmac_sha256_keyed_by_its_salt():
    # RFC 4231, test case 2, has a shorter key; its construction is the same.
    import hashlib
    import hmac

    salt = bytes(range(32))
    expected = hmac.new(salt, b"ana@uni.example", hashlib.sha256).hexdigest()
    assert commitment(salt, "ana@uni.example") == expected
    assert commitment(bytes(32), "ana@uni.example") != expected
