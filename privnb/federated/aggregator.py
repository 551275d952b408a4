"""The analyst's side of one secure aggregation: passes messages on, adds up, takes masks off.

It sees what `privnb.federated.member` says it sees, and needs no secret of its own. It checks what
sites send as they check what it sends, so that who is wrong is named and left out, and the sum of
the others stays right.
"""

from __future__ import annotations

import functools
import hmac
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privnb.computation import Federation
from privnb.errors import BadMessage, RosterRefused
from privnb.federated import masks, shamir
from privnb.federated.attempt import Attempt, bytes_of, name_of
from privnb.federated.member import SEALED_BYTES
from privnb.federated.messages import Advert, Reveal
from privnb.federated.ring import Vector

__all__ = ["Aggregator"]

_MOST_TRIES, _LATER_TRIES = 1000, 50
"""How many choices of shares are tried, where some are wrong; and of further sites, once no choice
fits for one of them."""


class Aggregator:
    """One attempt, in memory.

    Each step takes what sites send, until it is closed: who comes later would make the sites see
    different things, and is out. The steps: `advertised`, `close_adverts`; `shared`,
    `close_shares`; `masked`, `close_vectors`; where `needs_agreement`, `agreed` until there is an
    `agreement`; `revealed` until there are `enough`; `total`.

    Raises
    ------
    BadMessage
        By everything that a site sends, where it cannot be used: that site is named, and is out of
        this step; all else is as before.
    RosterRefused
        When a step is closed with too few sites; it names who is missing.
    """

    def __init__(
        self,
        *,
        run: str,
        computation: str,
        attempt: int,
        federation: Federation,
        min_sites: int = 3,
    ) -> None:
        self.wrong: tuple[str, ...] = ()
        """After `total`: whose shares did not fit. Of a share's giver and its maker, that is the
        one with more such shares, the giver if in doubt."""
        self.doubted: tuple[str, ...] = ()
        """After a `total` that raised: whose shares do not fit together, where those of others do.
        Most likely they made them wrongly."""
        self._attempt = Attempt(
            run=run,
            computation=computation,
            number=attempt,
            federation=federation,
            min_sites=min_sites,
        )
        self._threshold = federation.threshold
        self._adverts: dict[str, Advert] = {}
        self._context: str | None = None
        self._shares: dict[str, dict[str, str]] = {}
        self._roster: tuple[str, ...] | None = None
        self._sum: Vector | None = None
        self._survivors: dict[str, str] = {}
        self._views: dict[str, str] = {}
        self._closed = False
        self._agreed: dict[str, str] = {}
        self._reveals: dict[str, Reveal] = {}
        self._total: Vector | None = None

    @property
    def adverts(self) -> tuple[Advert, ...]:
        """Whose keys are there, sorted by site."""
        return tuple(advert for _, advert in sorted(self._adverts.items()))

    def advertised(self, site: str, advert: Advert) -> None:
        """Take a site's keys."""
        self._require_open(site, closed=self._context is not None, said=self._adverts)
        if advert.site != site:
            raise BadMessage(f"{name_of(site)} sent keys of {name_of(advert.site)}.")
        self._attempt.require_sound(advert)
        self._adverts[site] = advert

    def close_adverts(self) -> tuple[Advert, ...]:
        """Return what everybody in the attempt is told to share with."""
        self._require_enough(self._adverts, self._attempt.least, "advertised keys")
        self._context = self._attempt.context(self._adverts.values())
        return self.adverts

    def shared(self, site: str, shares: Mapping[str, str]) -> None:
        """Take what a site sealed for each of the others."""
        self._require_open(site, closed=self._roster is not None, said=self._shares)
        if self._context is None or site not in self._adverts:
            raise BadMessage(f"{name_of(site)} is not in this attempt.")
        if shares.keys() != self._adverts.keys() - {site}:
            raise BadMessage(f"{name_of(site)} did not make a share for every other site.")
        for text in shares.values():
            bytes_of(text, size=SEALED_BYTES, what=f"A share that {name_of(site)} sealed")
        self._shares[site] = dict(shares)

    def close_shares(self) -> dict[str, dict[str, str]]:
        """Return what is sent to each site of the roster, by receiver and then by sender."""
        self._require_enough(self._shares, self._threshold, "made shares")
        self._roster = tuple(sorted(self._shares))
        return {
            receiver: {
                sender: sealed[receiver]
                for sender, sealed in self._shares.items()
                if sender != receiver
            }
            for receiver in self._roster
        }

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose vectors are in the sum, sorted."""
        return tuple(sorted(self._survivors))

    def masked(
        self, site: str, vector: bytes | memoryview, *, length: int, work: str, confirmed: str
    ) -> None:
        """Add a site's masked vector to the sum; nothing is kept of it.

        Parameters
        ----------
        vector
            ``length`` little-endian numbers of 64 bits.
        work
            The digest of what all sites were asked for.
        confirmed
            What the site signed with its vector.
        """
        self._require_open(site, closed=self._closed, said=self._survivors)
        if self._roster is None or self._context is None or site not in self._roster:
            raise BadMessage(f"{name_of(site)} is not in this attempt.")
        if len(vector) != 8 * length or (self._sum is not None and self._sum.size != length):
            raise BadMessage(f"{name_of(site)} sent a vector of the wrong length.")
        view = self._attempt.view(self._context, roster=self._roster, work=work)
        said = self._attempt.confirmation(site, view)
        self._attempt.require_signed(site, said, confirmed)
        if self._sum is None:
            self._sum = np.zeros(length, np.uint64)
        self._sum += np.frombuffer(vector, "<u8")
        self._survivors[site] = confirmed
        self._views[site] = view

    def close_vectors(self) -> dict[str, str]:
        """Return who survived, with the signature that each sent."""
        self._require_enough(self._survivors, self._threshold, "sent masked vectors")
        if len(set(self._views.values())) != 1:
            raise ValueError("the vectors of one sum answer one work")
        self._closed = True
        return dict(sorted(self._survivors.items()))

    @property
    def needs_agreement(self) -> bool:
        """Whether somebody dropped out since shares were made."""
        return self._closed and self._survivors.keys() != self._shares.keys()

    def agreed(self, site: str, signature: str) -> None:
        """Take a survivor's signature over who survived."""
        self._require_survivor(site, said=self._agreed)
        said = self._attempt.agreement(site, self._views[site], self._survivors)
        self._attempt.require_signed(site, said, signature)
        self._agreed[site] = signature

    @property
    def agreement(self) -> dict[str, str] | None:
        """The signatures of all who agreed, once they are enough."""
        return dict(self._agreed) if len(self._agreed) >= self._threshold else None

    def revealed(self, site: str, reveal: Reveal) -> None:
        """Take a survivor's shares."""
        self._require_survivor(site, said=self._reveals)
        if reveal.masks.keys() != self._survivors.keys() or reveal.keys.keys() != self._dropped:
            raise BadMessage(f"{name_of(site)} revealed shares of other sites than it was asked.")
        for text in (*reveal.masks.values(), *reveal.keys.values()):
            bytes_of(text, size=shamir.SHARE_BYTES, what=f"A share that {name_of(site)} revealed")
        self._reveals[site] = reveal

    @property
    def enough(self) -> bool:
        """Whether the masks can be taken off."""
        return len(self._reveals) >= self._threshold

    def total(self) -> Vector:
        """Take the masks off; return the sum of the survivors' vectors.

        Raises
        ------
        RosterRefused
            Too few have revealed; it names who has not.
        BadMessage
            Shares are wrong, and too few are right: those who are in doubt are named. More of them
            may still be taken.
        """
        if self._total is None:
            self._require_enough(self._reveals, self._threshold, "revealed shares")
            seeds, keys = self._recovered()
            self._total = self._unmasked(seeds, keys)
        return self._total

    @property
    def _dropped(self) -> set[str]:
        return self._shares.keys() - self._survivors.keys()

    def _recovered(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Find the survivors' seeds, and the mask keys of those who dropped out."""
        points = {site: number for number, site in enumerate(sorted(self._adverts), 1)}
        misfits: list[tuple[str, str]] = []
        doubted: list[str] = []

        def recover(maker: str, shares: Mapping[str, str], fits: Callable[[bytes], bool]) -> bytes:
            given = {points[site]: bytes.fromhex(share) for site, share in shares.items()}
            tries = _LATER_TRIES if doubted else _MOST_TRIES
            found = _fitting(given, self._threshold, fits, tries=tries)
            if found is None:
                doubted.append(maker)
                return b""
            secret, wrong = found
            misfits.extend((site, maker) for site in shares if points[site] in wrong)
            return secret

        seeds = {
            site: recover(
                site,
                {giver: reveal.masks[site] for giver, reveal in self._reveals.items()},
                functools.partial(self._is_seed, site),
            )
            for site in self.survivors
        }
        keys = {
            site: recover(
                site,
                {giver: reveal.keys[site] for giver, reveal in self._reveals.items()},
                functools.partial(self._is_key, site),
            )
            for site in sorted(self._dropped)
        }
        self.doubted = ()
        if doubted:
            everybody = len(doubted) == len(seeds) + len(keys)
            self.doubted = () if everybody else tuple(sorted(doubted))
            makers = "any site" if everybody else _named(self.doubted)
            raise BadMessage(
                f"The shares of {makers} that were revealed do not fit together: they were made"
                f" wrongly, or too many were changed of those by {_named(self._reveals)}."
            )
        self.wrong = _blamed(misfits)
        return seeds, keys

    def _is_seed(self, site: str, seed: bytes) -> bool:
        return _same(masks.seed_check(seed), self._adverts[site].seed_check)

    def _is_key(self, site: str, key: bytes) -> bool:
        public = X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
        return _same(public, self._adverts[site].mask_key)

    def _unmasked(self, seeds: Mapping[str, bytes], keys: Mapping[str, bytes]) -> Vector:
        total, context = self._sum, self._context
        if total is None or context is None:
            raise ValueError("there is no sum")
        for site, seed in seeds.items():
            masks.subtract_mask(total, masks.seed_key(seed, context=context, site=site))
        for gone, key in keys.items():
            private = X25519PrivateKey.from_private_bytes(key)
            for site in self._survivors:
                public = bytes.fromhex(self._adverts[site].mask_key)
                secret = masks.exchange(private, public)
                mask = masks.pair_key(secret, context=context, one=gone, other=site)
                if site < gone:
                    masks.subtract_mask(total, mask)
                else:
                    masks.add_mask(total, mask)
        return total

    def _require_open(self, site: str, *, closed: bool, said: Mapping[str, object]) -> None:
        self._attempt.require_known(site)
        if site in said:
            raise BadMessage(f"{name_of(site)} answered twice.")
        if closed:
            raise BadMessage(f"{name_of(site)} came too late for this attempt.")

    def _require_survivor(self, site: str, *, said: Mapping[str, object]) -> None:
        self._require_open(site, closed=False, said=said)
        if not self._closed or site not in self._survivors:
            raise BadMessage(f"{name_of(site)} has no vector in this sum.")

    def _require_enough(self, there: Mapping[str, object], least: int, did: str) -> None:
        if len(there) < least:
            sites = self._attempt.federation.sites
            missing = ", ".join(name_of(site) for site in sites if site not in there)
            raise RosterRefused(
                f"{len(there)} sites {did}; at least {least} are needed. Missing: {missing}."
            )


def _same(found: bytes, advertised: str) -> bool:
    return hmac.compare_digest(found.hex(), advertised)


def _fitting(
    shares: Mapping[int, bytes], threshold: int, fits: Callable[[bytes], bool], *, tries: int
) -> tuple[bytes, set[int]] | None:
    """Find the secret, and the points of the shares that are not on its polynomial."""
    for chosen in itertools.islice(_choices(sorted(shares), threshold), tries):
        right = {point: shares[point] for point in chosen}
        secret = shamir.join(right)
        if secret is not None and fits(secret):
            others = shares.keys() - right.keys()
            return secret, {
                point for point in others if shamir.predict(right, point=point) != shares[point]
            }
    return None


def _choices(points: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Choose points: first neighbours, which leaves each one out early, then in all ways."""
    ring = (*points, *points)
    for start in range(len(points) if size < len(points) else 1):
        yield tuple(sorted(ring[start : start + size]))
    yield from itertools.combinations(points, size)


def _named(sites: Iterable[str]) -> str:
    return ", ".join(name_of(site) for site in sorted(sites))


def _blamed(misfits: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Choose, of the giver and the maker of each wrong share, who has more of them."""
    counts = Counter(itertools.chain.from_iterable(misfits))
    return tuple(
        sorted({giver if counts[giver] >= counts[maker] else maker for giver, maker in misfits})
    )
