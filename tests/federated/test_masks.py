from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from privnb.federated import masks

PLACE = {"context": "c", "sender": "north", "receiver": "lake"}


def mask_of(key, length=8):
    vector = np.zeros(length, np.uint64)
    masks.add_mask(vector, key)
    return vector


def words(key):
    return np.frombuffer(key, "<u4")


@pytest.mark.parametrize("length", [0, 1, 16 * 1024, 16 * 1024 + 1, 50_000])
def test_the_mask_is_the_ciphers_key_stream_for_every_length(length):
    stream = Cipher(AES(b"k" * 32), CTR(bytes(16))).encryptor().update(bytes(8 * length))
    assert mask_of(b"k" * 32, length).tobytes() == stream


def test_a_mask_is_taken_off_again():
    vector = np.arange(20_000, dtype=np.uint64)
    masks.add_mask(vector, b"k" * 32)
    masks.subtract_mask(vector, b"k" * 32)
    assert (vector == np.arange(20_000)).all()


def test_every_bit_of_a_key_changes_its_mask():
    key = bytes(range(32))
    seen = {mask_of(key).tobytes()}
    for bit in range(256):
        changed = (int.from_bytes(key) ^ (1 << bit)).to_bytes(32)
        seen.add(mask_of(changed).tobytes())
    assert len(seen) == 257


def test_keys_whose_words_fold_to_the_same_32_bits_give_different_masks():
    # A mask from a generator that is seeded with the words' XOR would have 32 bits of strength.
    one = bytes(range(32))
    other = one[4:8] + one[:4] + one[8:]  # the same words, two of them swapped
    flipped = bytes(byte ^ 0xA5 for byte in one[:8]) + one[8:]
    for same in (other, flipped):
        assert np.bitwise_xor.reduce(words(one)) == np.bitwise_xor.reduce(words(same))
        assert (mask_of(one) != mask_of(same)).all()


def test_the_two_of_a_pair_derive_the_same_key_and_nobody_else_does():
    north, lake, river = (X25519PrivateKey.generate() for _ in range(3))
    ours, theirs, others = (
        masks.exchange(a, b.public_key().public_bytes_raw())
        for a, b in ((north, lake), (lake, north), (river, lake))
    )
    key = masks.pair_key(ours, context="c", one="north", other="lake")
    assert key == masks.pair_key(theirs, context="c", one="lake", other="north")
    assert key != masks.pair_key(others, context="c", one="north", other="lake")
    assert key != masks.pair_key(ours, context="d", one="north", other="lake")
    assert key != masks.pair_key(ours, context="c", one="north", other="river")


def test_keys_of_one_secret_for_different_purposes_have_nothing_in_common():
    seed = b"s" * 32
    made = {
        masks.seed_check(seed),
        masks.seed_key(seed, context="c", site="north"),
        masks.seed_key(seed, context="c", site="lake"),
        masks.seed_key(seed, context="d", site="north"),
        masks.pair_key(seed, context="c", one="north", other="lake"),
    }
    assert len(made) == 5


@pytest.mark.parametrize("changed", ["context", "sender", "receiver"])
def test_a_sealed_share_opens_only_where_it_belongs(changed):
    sealed = masks.seal(b"share", b"k" * 32, **PLACE)
    assert masks.unseal(sealed, b"k" * 32, **PLACE) == b"share"
    with pytest.raises(masks.NotSealed):
        masks.unseal(sealed, b"k" * 32, **PLACE | {changed: "river"})


def test_a_sealed_share_of_which_one_bit_was_changed_does_not_open():
    sealed = masks.seal(b"share", b"k" * 32, **PLACE)
    for place in range(len(sealed)):
        tampered = bytearray(sealed)
        tampered[place] ^= 1
        with pytest.raises(masks.NotSealed):
            masks.unseal(bytes(tampered), b"k" * 32, **PLACE)


def test_the_same_share_is_sealed_differently_in_both_directions():
    there = masks.seal(b"share", b"k" * 32, **PLACE)
    back = masks.seal(b"share", b"k" * 32, context="c", sender="lake", receiver="north")
    assert there != back
