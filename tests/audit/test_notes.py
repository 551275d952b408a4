"""Keys and checkpoints are C2SP's, read strictly: nobody's text is taken for a site's statement."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privnb.audit import (
    Checkpoint,
    Unproved,
    VerifierKey,
    open_checkpoint,
    origin_of,
    sign_checkpoint,
    site_of,
)

SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = SIGNING.public_key().public_bytes_raw()
KEY = VerifierKey(name="privnb/northside/owner@north.example", public=PUBLIC)
STATED = Checkpoint(origin=KEY.name, size=12, root=bytes(range(32)))
NOTE = sign_checkpoint(STATED, SIGNING)


def signed(body: str, *, name: str = KEY.name, signing=SIGNING) -> str:
    """Sign any text at all, as who has the key can."""
    raw = VerifierKey(name=name, public=signing.public_key().public_bytes_raw()).id
    line = base64.b64encode(raw + signing.sign(body.encode())).decode()
    return f"{body}\n— {name} {line}\n"


@pytest.mark.parametrize(
    ("text", "name", "number"),
    [  # of golang.org/x/mod/sumdb/note, and of the Go checksum database
        (
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann",
            "c74f20a3",
        ),
        (
            "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
            "sum.golang.org",
            "033de0ae",
        ),
    ],
)
def test_keys_that_others_published_are_read(text, name, number):
    key = VerifierKey.parse(text)
    assert (key.name, key.id.hex()) == (name, number)
    assert str(key) == text


def test_a_note_that_others_signed_has_the_signature_that_ours_would_check():
    key = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    raw = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    assert raw[:4] == key.id
    Ed25519PublicKey.from_public_bytes(key.public).verify(raw[4:], text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+",
        "name+c74f20a3",
        str(KEY)[:-1],
        f"{KEY}=",
        f"{KEY}\n",
        f" {KEY}",
        str(KEY).replace("northside", "southside"),  # the ID is of the name too
        str(KEY).replace("+", "+0", 1),
        str(KEY).upper(),
        "name+" + str(KEY).partition("+")[2],
        "ñame+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # no Ed25519
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(Unproved):
        VerifierKey.parse(text)


def test_a_signed_checkpoint_is_read_back():
    assert open_checkpoint(NOTE, KEY) == STATED
    assert open_checkpoint(NOTE, None) == STATED
    assert NOTE.split("\n")[:3] == [KEY.name, "12", base64.b64encode(STATED.root).decode()]


def test_signatures_of_witnesses_beside_the_sites_are_allowed():
    other = Ed25519PrivateKey.generate()
    theirs = signed(STATED.body, name="witness.example", signing=other).rpartition("\n— ")[2]
    assert open_checkpoint(f"{NOTE}— {theirs}", KEY) == STATED


@pytest.mark.parametrize(
    "note",
    [
        "",
        NOTE[:-1],
        f"{NOTE}\n",
        f"\n{NOTE}",
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("\n12\n", "\n012\n"),
        NOTE.replace("\n12\n", "\n+12\n"),
        NOTE.replace("\n12\n", "\n13\n"),
        NOTE.replace("\n12\n", "\n\uff11\uff12\n"),  # digits, but not those
        NOTE.replace("—", "-"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n\n", "\n\n\n"),
        NOTE.partition("\n\n")[0] + "\n\n",
        NOTE + NOTE.rpartition("\n— ")[2],
        f"{NOTE}— {NOTE.rpartition(chr(10) + '— ')[2]}",  # signed twice by one key
        NOTE + NOTE,
        NOTE.replace("northside", "northside\u2028"),
        "\ufeff" + NOTE,
        NOTE.replace("northside", "north\x0bside"),
        "x" * 20000 + NOTE,
        NOTE.replace("northside", "\ud800"),
    ],
)
def test_what_is_no_checkpoint_of_the_key_is_refused(note):
    with pytest.raises(Unproved):
        open_checkpoint(note, KEY)


@pytest.mark.parametrize(
    "body",
    [
        f"{KEY.name}\n12\n{'A' * 43}=\nextension\n",
        f"{KEY.name}\n12\n",
        f"{KEY.name}\n12\nAAAA\n",
        f"{KEY.name}\n12\n{'A' * 43}\n",
        f"{KEY.name}\n12\n{'A' * 42}B=\n",  # bits that no byte has
        f"{KEY.name}\n-1\n{'A' * 43}=\n",
        f"{KEY.name}\n1e3\n{'A' * 43}=\n",
        f"{KEY.name}\n{'9' * 40}\n{'A' * 43}=\n",
        f"{KEY.name}\u20285\n12\n{'A' * 43}=\n",
        f"{KEY.name}\x0b12\n12\n{'A' * 43}=\n",
        f"{KEY.name} \n12\n{'A' * 43}=\n",
        f"other\n12\n{'A' * 43}=\n",
        f"\n{KEY.name}\n12\n{'A' * 43}=\n",
    ],
)
def test_even_what_the_key_signed_must_be_a_checkpoint_of_its_own_log(body):
    with pytest.raises(Unproved):
        open_checkpoint(signed(body), KEY)


def test_another_key_and_another_name_of_the_key_are_refused():
    other = Ed25519PrivateKey.generate()
    with pytest.raises(Unproved, match="not signed by the key"):
        open_checkpoint(signed(STATED.body, signing=other), KEY)
    with pytest.raises(Unproved, match="not signed by the key"):
        open_checkpoint(signed(STATED.body, name="privnb/southside/x"), KEY)
    renamed = VerifierKey(name="privnb/southside/x", public=PUBLIC)
    with pytest.raises(Unproved, match="of the log"):
        open_checkpoint(NOTE, renamed)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "ä", "x" * 600])
def test_a_name_that_notes_or_keys_would_misread_cannot_be_one(name):
    with pytest.raises(Unproved):
        VerifierKey(name=name, public=PUBLIC)


def test_the_name_of_a_log_says_whose_it_is_whatever_the_email_has():
    origin = origin_of("northside", "a+b%c@north.example")
    assert origin == "privnb/northside/a%2Bb%25c@north.example"
    assert VerifierKey(name=origin, public=PUBLIC).name == origin
    assert site_of(origin, "a+b%c@north.example") == "northside"
    assert site_of(origin, "a@north.example") is None
    assert site_of("privnb/x/y/a@north.example", "a@north.example") is None
    assert site_of("log.example", "a@north.example") is None
    assert site_of("privnb//a@north.example", "a@north.example") is None


# The heights of all points whose order divides 8, in every way they can be written: as libsodium
# refuses them.
SMALL_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("height", SMALL_ORDER)
def test_no_key_is_taken_to_which_one_signature_fits_whatever_is_signed(height, sign):
    public = bytearray.fromhex(height)
    public[-1] |= sign
    with pytest.raises(Unproved, match="small order"):
        VerifierKey(name="log.example", public=bytes(public))
