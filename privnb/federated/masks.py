"""Keys agreed in pairs, the masks drawn from them, and shares sealed for one reader.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), AES-256 in counter mode, ChaCha20-Poly1305
(RFC 8439). Every key made here serves one purpose, for one pair or site in one attempt, so that
counters and nonces begin at zero. ``context`` is what all keys of one attempt are bound to; see
`privnb.federated.attempt`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privnb.federated.ring import Vector
from privnb.wire import canonical_json

__all__ = [
    "KEY_BYTES",
    "NotSealed",
    "add_mask",
    "exchange",
    "pair_key",
    "seal",
    "seed_check",
    "seed_key",
    "subtract_mask",
    "unseal",
]

KEY_BYTES = 32
_VERSION = "privnb secure aggregation v1"
_ONCE = bytes(12)
_COUNTER = bytes(16)
# What fits into a core's own cache: a mask is drawn and added while it is there.
_PIECE = 16 * 1024
_ZEROS = bytes(8 * _PIECE)


class NotSealed(Exception):
    """What should have been sealed for us was not, or was changed or moved."""


def exchange(private: X25519PrivateKey, public: bytes) -> bytes:
    """Agree on a secret; ValueError if the public key is a point of small order."""
    # With such a point the secret would be zero, whatever our key is.
    return private.exchange(X25519PublicKey.from_public_bytes(public))


def pair_key(secret: bytes, *, context: str, one: str, other: str) -> bytes:
    """Derive the key of the mask that two sites have in common, whichever is named first."""
    return _derive(secret, "pair mask", context, *sorted((one, other)))


def seed_key(seed: bytes, *, context: str, site: str) -> bytes:
    """Derive the key of the mask that is a site's own."""
    return _derive(seed, "self mask", context, site)


def seed_check(seed: bytes) -> bytes:
    """Commit to a seed: another one would not fit, and this tells nothing about it or its mask."""
    return _derive(seed, "seed check")


def add_mask(vector: Vector, key: bytes) -> None:
    """Add the mask of a key to a vector, in place."""
    _combine(np.add, vector, key)


def subtract_mask(vector: Vector, key: bytes) -> None:
    """Subtract the mask of a key from a vector, in place."""
    _combine(np.subtract, vector, key)


def seal(share: bytes, secret: bytes, *, context: str, sender: str, receiver: str) -> bytes:
    """Encrypt what one site tells another, such that it opens as nothing else.

    >>> told = {"context": "c", "sender": "north", "receiver": "lake"}
    >>> unseal(seal(b"share", b"k" * 32, **told), b"k" * 32, **told)
    b'share'
    """
    key, bound = _sealing(secret, context, sender, receiver)
    return key.encrypt(_ONCE, share, bound)


def unseal(sealed: bytes, secret: bytes, *, context: str, sender: str, receiver: str) -> bytes:
    """Open what `seal` made; `NotSealed` if it is not that."""
    key, bound = _sealing(secret, context, sender, receiver)
    try:
        return key.decrypt(_ONCE, sealed, bound)
    except InvalidTag:
        raise NotSealed from None


def _sealing(
    secret: bytes, context: str, sender: str, receiver: str
) -> tuple[ChaCha20Poly1305, bytes]:
    key = _derive(secret, "sealed share", context, sender, receiver)
    return ChaCha20Poly1305(key), canonical_json([context, sender, receiver])


def _derive(secret: bytes, purpose: str, *bound: str) -> bytes:
    info = canonical_json([_VERSION, purpose, *bound])
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def _combine(operation: Callable[..., object], vector: Vector, key: bytes) -> None:
    stream = Cipher(AES(key), CTR(_COUNTER)).encryptor()
    drawn = bytearray(8 * min(_PIECE, vector.size))
    into, mask = memoryview(drawn), np.frombuffer(drawn, "<u8")
    for start in range(0, vector.size, _PIECE):
        piece = vector[start : start + _PIECE]
        length = 8 * piece.size
        stream.update_into(memoryview(_ZEROS)[:length], into[:length])
        operation(piece, mask[: piece.size], out=piece)
