"""The tree is RFC 6962's: for every size up to 64, every proof, against the RFC word for word."""

from __future__ import annotations

import hashlib

import direct_merkle as direct
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.audit import (
    Tree,
    Unproved,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from privnb.site import merkle
from privnb.site.database import Database

LEAVES = tuple(f"event {number}".encode() for number in range(64))
SIZES = range(len(LEAVES) + 1)
# The reference vectors of Certificate Transparency's own tests.
VECTORS = [
    ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
    ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
    ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
    ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
    ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
    (
        "606162636465666768696a6b6c6d6e6f",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ),
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A transaction on a log of all the leaves."""
    database = Database.open(tmp_path_factory.mktemp("tree") / "site.sqlite")
    with database.write() as transaction:
        for leaf in LEAVES:
            merkle.append(transaction, leaf.decode())
    with database.read() as snapshot:
        yield snapshot
    database.close()


def proof(stored, ranges):
    found = merkle.hashes(stored, ranges)
    return [found[each] for each in ranges]


def test_the_roots_are_those_of_certificate_transparency():
    tree = Tree()
    assert tree.root == hashlib.sha256(b"").digest()
    for leaf, root in VECTORS:
        tree.add(bytes.fromhex(leaf))
        assert tree.root.hex() == root


@pytest.mark.parametrize("size", SIZES)
def test_the_root_of_every_size_is_that_of_the_rfc(stored, size):
    tree = Tree()
    for leaf in LEAVES[:size]:
        tree.add(leaf)
    assert tree.size == size
    assert tree.root == direct.mth(LEAVES[:size])
    assert merkle.hashes(stored, [(0, size)])[0, size] == tree.root


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_proof_is_that_of_the_rfc_and_verifies(stored, size):
    root = direct.mth(LEAVES[:size])
    for index in range(size):
        path = proof(stored, merkle.inclusion(index, size))
        assert path == direct.path(index, LEAVES[:size])
        verify_inclusion(leaf_hash(LEAVES[index]), index=index, size=size, proof=path, root=root)


@pytest.mark.parametrize("size", SIZES)
def test_every_consistency_proof_is_that_of_the_rfc_and_verifies(stored, size):
    root = direct.mth(LEAVES[:size])
    for old in range(1, size + 1):
        path = proof(stored, merkle.consistency(old, size))
        assert path == direct.proof(old, LEAVES[:size])
        verify_consistency(
            old_size=old, old_root=direct.mth(LEAVES[:old]), size=size, root=root, proof=path
        )


def wrong_paths(path):
    """Every proof that differs from a right one in one hash, in length or in order."""
    for place, right in enumerate(path):
        yield [*path[:place], bytes([right[0] ^ 1, *right[1:]]), *path[place + 1 :]]
        yield path[:place]
        yield [*path[:place], *path[place + 1 :]]
    yield [*path, bytes(32)]
    yield [bytes(32), *path]
    if len(path) > 1:
        yield path[::-1]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 11, 16, 21])
def test_no_other_inclusion_proof_verifies(size):
    leaves = LEAVES[:size]
    root = direct.mth(leaves)
    for index in range(size):
        right = direct.path(index, leaves)
        leaf = leaf_hash(leaves[index])
        for path in wrong_paths(right):
            with pytest.raises(Unproved):
                verify_inclusion(leaf, index=index, size=size, proof=path, root=root)
        for other in {*range(-1, size + 2)} - {index}:
            with pytest.raises(Unproved):
                verify_inclusion(leaf, index=other, size=size, proof=right, root=root)
        with pytest.raises(Unproved):
            verify_inclusion(leaf_hash(b"other"), index=index, size=size, proof=right, root=root)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 11, 16, 21])
def test_no_other_consistency_proof_verifies(size):
    leaves = LEAVES[:size]
    root = direct.mth(leaves)
    for old in range(1, size + 1):
        old_root = direct.mth(leaves[:old])
        right = direct.proof(old, leaves)
        for path in wrong_paths(right):
            with pytest.raises(Unproved):
                verify_consistency(
                    old_size=old, old_root=old_root, size=size, root=root, proof=path
                )
        for other_old, other_new in ((bytes(32), root), (old_root, bytes(32))):
            with pytest.raises(Unproved):
                verify_consistency(
                    old_size=old, old_root=other_old, size=size, root=other_new, proof=right
                )
    for old in (-1, size + 1):
        with pytest.raises(Unproved):
            verify_consistency(old_size=old, old_root=root, size=size, root=root, proof=[])


def test_nothing_is_the_beginning_of_everything_and_needs_no_proof():
    nothing = direct.mth(())
    root = direct.mth(LEAVES)
    verify_consistency(old_size=0, old_root=nothing, size=64, root=root, proof=[])
    for old_root, path in ((bytes(32), []), (nothing, [bytes(32)])):
        with pytest.raises(Unproved):
            verify_consistency(old_size=0, old_root=old_root, size=64, root=root, proof=path)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=100).map(tuple), st.data())
def test_a_log_of_any_leaves_proves_each_of_them(leaves, data):
    tree = Tree()
    nodes = {}
    for leaf in leaves:
        index = tree.size
        nodes |= {(level, index >> level): made for level, made in enumerate(tree.add(leaf))}
    assert tree.root == direct.mth(leaves)
    assert len(nodes) == sum(len(leaves) >> level for level in range(9))
    index = data.draw(st.integers(0, len(leaves) - 1))
    verify_inclusion(
        leaf_hash(leaves[index]),
        index=index,
        size=len(leaves),
        proof=direct.path(index, leaves),
        root=tree.root,
    )
