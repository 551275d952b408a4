"""What the analyst and the storage see of a sum, and that it tells nothing but the sum.

The first test reads like the protocol: it collects all that passes through the analyst.

False alarms: the masks come from the machine's randomness, so that the statistical tests can fail
by chance. Each of the at most 100 comparisons below does so once in 10**11 runs, all of them
together once in 10**9.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats
from summing import Attempted

from privnb.federated import masks, ring, shamir
from privnb.federated.messages import Ask, Told, pack

FALSE_ALARM = 1e-11
LENGTH, ATTEMPTS = 400, 40


def test_what_a_curious_analyst_or_storage_sees():
    """Everything that passes, in the order it does; the storage sees it encrypted once more."""
    visits = {"site00": [3.0, 10.5], "site01": [4.0, 0.25], "site02": [5.0, -2.5]}
    one = Attempted(3, 2, length=2)
    one.inputs = {
        site: ring.encode(values, parties=3)
        for site, values in zip(one.sites, visits.values(), strict=True)
    }
    seen = []

    # 1. Public keys, signed, and commitments.
    for site in one.sites:
        advert = one.members[site].advertise()
        seen.append(pack(Told(step="advertise", attempt=1, advert=advert)))
        one.aggregator.advertised(site, advert)
    one.adverts = one.aggregator.close_adverts()
    secrets = [
        secret
        for member in one.members.values()
        for secret in (
            member._step.seed,
            member._step.mask_key.private_bytes_raw(),
            member._step.share_key.private_bytes_raw(),
        )
    ]

    # 2. Shares, sealed for the others.
    for site in one.sites:
        shares = one.members[site].share(one.adverts)
        seen.append(pack(Told(step="share", attempt=1, shares=shares)))
        one.aggregator.shared(site, shares)
    one.inboxes = one.aggregator.close_shares()

    # 3. Vectors under masks, and signatures.
    for site in one.sites:
        vector, confirmed = one.masked(site)
        told = Told(step="contribute", attempt=1, confirmed=confirmed)
        seen.append(pack(told, vector.tobytes()))
        one.contribute(site, vector, confirmed)
    one.survivors = one.aggregator.close_vectors()

    # 4. Shares of what takes the self masks off; the pairwise masks cancel out in the sum alone.
    for site in one.sites:
        reveal = one.members[site].reveal(one.survivors)
        seen.append(pack(Ask(step="reveal", attempt=1, survivors=one.survivors)))
        seen.append(pack(Told(step="reveal", attempt=1, reveal=reveal)))
        one.aggregator.revealed(site, reveal)

    everything = b"".join(seen)
    assert ring.decode(one.aggregator.total()).tolist() == [12.0, 8.25]
    for vector in one.inputs.values():
        for number in vector:
            assert number.tobytes() not in everything
    for secret in secrets:
        assert secret not in everything
        assert secret.hex().encode() not in everything


# The statistical tests


@dataclasses.dataclass
class View:
    """All that the analyst sees of some attempts, as bytes of each kind."""

    masked: np.ndarray
    """By attempt, site and place: vectors as they came."""
    unmasked: np.ndarray
    """The same without the self masks, whose seeds the reveals give."""
    reveals: np.ndarray
    """By attempt: the shares."""


def views(inputs):
    """The views of many attempts with the same inputs, one row for each of three sites."""
    masked, unmasked, reveals = [], [], []
    for _ in range(ATTEMPTS):
        one = Attempted(3, 2, length=LENGTH).advertise().share()
        one.inputs = dict(zip(one.sites, inputs, strict=True))
        vectors = {}
        for site in one.sites:
            vectors[site], confirmed = one.masked(site)
            one.contribute(site, vectors[site], confirmed)
        one.survivors = one.aggregator.close_vectors()
        one.reveal()
        assert (one.aggregator.total() == sum(inputs)).all()
        masked.append(np.stack(list(vectors.values())))
        seeds, _ = one.aggregator._recovered()
        for site, seed in seeds.items():
            key = masks.seed_key(seed, context=one.aggregator._context, site=site)
            masks.subtract_mask(vectors[site], key)
        unmasked.append(np.stack(list(vectors.values())))
        # Without the first byte of each share, which is zero for a prime just above 2**256.
        reveals.append(
            b"".join(
                bytes.fromhex(share)[1:]
                for reveal in one.aggregator._reveals.values()
                for share in reveal.masks.values()
            )
        )
    return View(
        masked=np.stack(masked),
        unmasked=np.stack(unmasked),
        reveals=np.frombuffer(b"".join(reveals), np.uint8),
    )


def histogram(numbers):
    return np.bincount(
        np.frombuffer(np.ascontiguousarray(numbers).tobytes(), np.uint8), minlength=256
    )


def uniform(numbers):
    return stats.chisquare(histogram(numbers)).pvalue


def alike(one, other):
    return stats.chi2_contingency([histogram(one), histogram(other)]).pvalue


@pytest.fixture(scope="module")
def inputs():
    """Two ways in which three sites make the same sum: small numbers, and the same moved about."""
    rng = np.random.default_rng(20)
    rows = rng.integers(0, 100, (3, LENGTH), np.uint64)
    moved = rng.integers(0, 2**40, LENGTH, np.uint64)
    other = np.stack([rows[0] + moved, rows[1] - moved, rows[2]])
    assert (rows.sum(axis=0) == other.sum(axis=0)).all()
    return rows, other


@pytest.fixture(scope="module")
def both(inputs):
    return tuple(views(rows) for rows in inputs)


def test_the_view_is_distributed_alike_whoever_has_what_of_the_sum(both):
    one, other = both
    for site in range(3):
        assert alike(one.masked[:, site], other.masked[:, site]) > FALSE_ALARM
        assert alike(one.unmasked[:, site], other.unmasked[:, site]) > FALSE_ALARM
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # Any two of the three vectors; all three are bound by the sum.
        joint = [view.unmasked[:, first] + 3 * view.unmasked[:, second] for view in both]
        assert alike(*joint) > FALSE_ALARM
    assert alike(one.reveals, other.reveals) > FALSE_ALARM


def test_what_is_left_once_the_self_masks_are_off_is_uniform(both):
    for view in both:
        for site in range(3):
            assert uniform(view.masked[:, site]) > FALSE_ALARM
            assert uniform(view.unmasked[:, site]) > FALSE_ALARM
        assert uniform(view.reveals) > FALSE_ALARM


def test_guessing_a_sites_numbers_rightly_shows_nowhere(both, inputs):
    for view in both:
        for rows in inputs:  # the right guess for one of the views, the wrong one for the other
            for site in range(3):
                assert uniform(view.unmasked[:, site] - rows[site]) > FALSE_ALARM


def test_the_vectors_fit_every_input_that_has_the_sum(both, inputs):
    """To each view and each other way to make the sum there are masks by which it came about."""
    for view in both:
        for rows in inputs:
            pairwise = view.unmasked - rows  # would have to cancel out
            assert (pairwise.sum(axis=1) == 0).all()


def test_a_missing_mask_would_be_noticed(inputs):
    """The comparisons above find what they are for: here each vector has its self mask only."""
    seen = []
    for rows in inputs:
        left = [row.copy() for row in rows for _ in range(ATTEMPTS)]
        seen.append(np.stack(left).reshape(3, ATTEMPTS, LENGTH))
    assert uniform(seen[0][0]) < FALSE_ALARM
    assert alike(seen[0][0], seen[1][0]) < FALSE_ALARM


def test_a_mask_that_repeats_would_be_noticed(inputs):
    stream = np.random.default_rng(7).integers(0, 2**63, 64, np.uint64)  # 64 numbers, over again
    vectors = np.stack([inputs[0][0] + np.resize(stream, LENGTH) for _ in range(ATTEMPTS)])
    assert uniform(vectors) < FALSE_ALARM


def test_shares_below_the_threshold_are_distributed_alike_for_every_secret():
    draws = 3000
    ones, others = (
        b"".join(shamir.split(secret, threshold=2, shares=2)[0][1:] for _ in range(draws))
        for secret in (b"\0" * 32, b"\xff" * 32)
    )
    assert alike(np.frombuffer(ones, np.uint8), np.frombuffer(others, np.uint8)) > FALSE_ALARM


def test_a_dropped_sites_late_vector_is_uniform_though_its_pairwise_masks_are_known():
    seen = []
    for _ in range(ATTEMPTS):
        one = Attempted(4, 3, length=LENGTH).advertise().share()
        late, *others = one.sites
        one.inputs[late] = np.zeros(LENGTH, np.uint64)
        vector, _ = one.masked(late)
        one.mask(others).agree().reveal()
        _, keys = one.aggregator._recovered()
        assert set(keys) == {late}
        seen.append(without_pairwise(one, vector, late, keys[late]))
    assert uniform(np.stack(seen)) > FALSE_ALARM


def without_pairwise(one, vector, late, key):
    """Take off what the revealed key lets the analyst compute."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    private = X25519PrivateKey.from_private_bytes(key)
    for advert in one.adverts:
        if advert.site != late:
            secret = masks.exchange(private, bytes.fromhex(advert.mask_key))
            pair = masks.pair_key(
                secret, context=one.aggregator._context, one=late, other=advert.site
            )
            (masks.subtract_mask if late < advert.site else masks.add_mask)(vector, pair)
    return vector
