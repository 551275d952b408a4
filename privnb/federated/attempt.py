"""One secure aggregation, as all who take part see it: who may, what is signed, what keys mean.

The protocol is that of Bonawitz et al. ("Practical secure aggregation for privacy-preserving
machine learning", CCS 2017) against a server that does not keep to it, with ``n`` sites, of which a
``threshold`` opens a sum, and at most ``colluding`` tell the analyst all they see.

What holds where ``2 * threshold > n + colluding``
    Whatever the analyst sends to whom, the sites open at most one sum in an attempt. It is over at
    least ``threshold`` of them, all of which saw the same keys, the same roster and the same work,
    and of the vectors in it nothing is seen but their sum:

    - Two rosters, two works or two sets of survivors would each need ``threshold - colluding``
      sites that keep to the rules. One of them would be in both, and it takes part once.
    - Each survivor's signature over its roster and work is looked at by all who reveal. So nobody
      can be made to mask with others, or at another model, than those who open the sum.
    - Where somebody dropped out, sites reveal only after a threshold has signed who survived.
      Without, the analyst could name other survivors to each, and open a sum of fewer sites.

What does not hold, and has to be kept up elsewhere
    - A sum is what it is: over few sites, or with one value known to come from one of them, it
      tells much. Sums with the same inputs over other survivors tell their difference: each site
      remembers whom they were over, and opens no others (`privnb.site.federated.book`).
    - Who gives wrong numbers within range falsifies the sum, and nobody notices.
    - Any site can spoil an attempt, as by wrong shares. It is named where that can be told.
    - Who takes part, when, and how long the vectors are, is seen by the analyst and the storage.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privnb import wire
from privnb.audit import Unproved, VerifierKey
from privnb.computation import Federation
from privnb.errors import BadMessage, RosterRefused
from privnb.federated import masks
from privnb.federated.messages import Advert

__all__ = ["Attempt", "bytes_of", "name_of"]

_DOMAIN = b"privnb secure aggregation v1\n"
"""What is signed begins with it; a space in the first line is in no checkpoint of an audit log."""
_SIGNATURE_BYTES = 64
_FEWEST = 2
"""Of how many sites a sum is, at least, whatever else is allowed."""
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def name_of(site: str) -> str:
    """Return the name within a site's verifier key.

    >>> name_of("privnb/northside/owner@north.example+1a2b3c4d+AT8=")
    'privnb/northside/owner@north.example'
    """
    return site.partition("+")[0][:200]


def bytes_of(text: object, *, size: int, what: str) -> bytes:
    """Read as many bytes in lower-case hexadecimal digits; raises `BadMessage`."""
    if not isinstance(text, str) or len(text) != 2 * size or not _HEX.fullmatch(text):
        raise BadMessage(f"{what} is not {size} bytes in hexadecimal digits.")
    return bytes.fromhex(text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """Which aggregation it is, and the rules that everybody checks.

    Raises
    ------
    RosterRefused
        The federation is too small, or its threshold too low to protect anybody.
    """

    run: str
    computation: str
    """What is computed, as every site has to have decided on it: a digest."""
    number: int
    """Counts a run's attempts; never comes twice with other keys."""
    federation: Federation
    min_sites: int
    """How many have to take part until keys are exchanged."""

    def __post_init__(self) -> None:
        sites, threshold = self.federation.sites, self.federation.threshold
        colluding = self.federation.colluding
        if list(sites) != sorted(set(sites)):
            raise RosterRefused("The sites of the federation are not sorted, or one comes twice.")
        if len(sites) < self.min_sites:
            raise RosterRefused(
                f"The federation has {len(sites)} sites; at least {self.min_sites} are needed."
            )
        if not _FEWEST <= threshold <= len(sites) or colluding < 0:
            raise RosterRefused(f"Of {len(sites)} sites, {threshold} cannot be the threshold.")
        if 2 * threshold <= len(sites) + colluding:
            raise RosterRefused(
                f"A threshold of {threshold} does not protect {len(sites)} sites of which "
                f"{colluding} may collude.",
                hint=f"Set it to {(len(sites) + colluding) // 2 + 1} or more.",
            )
        if len({key.public for key in self._keys.values()}) != len(sites):
            raise RosterRefused("Two sites of the federation have the same key.")

    @cached_property
    def _keys(self) -> dict[str, VerifierKey]:
        try:
            return {site: VerifierKey.parse(site) for site in self.federation.sites}
        except Unproved as problem:
            raise RosterRefused(f"A site of the federation has no key: {problem}") from None

    @cached_property
    def _probe(self) -> X25519PrivateKey:
        """A key that is only tried on others: all keys of small order fail with it, as with any."""
        return X25519PrivateKey.generate()

    @property
    def least(self) -> int:
        """How many sites have to advertise their keys."""
        return max(self.min_sites, self.federation.threshold)

    # What is signed, and what it is bound to

    def advertisement(self, advert: Advert) -> bytes:
        """Return what a site signs to say that these are its keys."""
        said = dataclasses.asdict(advert)
        del said["signature"]
        return self._statement(
            "advert", run=self.run, computation=self.computation, attempt=self.number, **said
        )

    def context(self, adverts: Iterable[Advert]) -> str:
        """Return what all keys are bound to: the attempt, and the keys of everybody in it."""
        said = [dataclasses.asdict(each) for each in sorted(adverts, key=lambda each: each.site)]
        return wire.sha256_hex(
            self._statement(
                "context",
                run=self.run,
                computation=self.computation,
                attempt=self.number,
                adverts=said,
            )
        )

    def view(self, context: str, *, roster: Sequence[str], work: str) -> str:
        """Return, in short, what a site has seen when it masks its vector."""
        return wire.sha256_hex(
            self._statement("view", context=context, roster=sorted(roster), work=work)
        )

    def confirmation(self, site: str, view: str) -> bytes:
        """Return what a site signs to say what it has seen."""
        return self._statement("confirmed", site=site, view=view)

    def agreement(self, site: str, view: str, survivors: Iterable[str]) -> bytes:
        """Return what a site signs to say for whom it will reveal, and for nobody else."""
        return self._statement("agreed", site=site, view=view, survivors=sorted(survivors))

    def _statement(self, kind: str, **said: object) -> bytes:
        return _DOMAIN + wire.canonical_json({"kind": kind} | said)

    # What is checked

    def require_known(self, site: str) -> None:
        """Raise `BadMessage` unless this is a site of the federation."""
        if site not in self._keys:
            raise BadMessage(f"{name_of(site)} is not a site of this federation.")

    def require_signed(self, site: str, data: bytes, signature: object) -> None:
        """Raise `BadMessage` unless this site, of the federation, signed the data."""
        self.require_known(site)
        who = name_of(site)
        raw = bytes_of(signature, size=_SIGNATURE_BYTES, what=f"The signature of {who}")
        if not self._keys[site].verifies(raw, data):
            raise BadMessage(f"The signature of {who} is not by its key, or not for this.")

    def require_sound(self, advert: Advert) -> None:
        """Raise `BadMessage` unless a site of the federation signed these keys, all usable."""
        self.require_known(advert.site)
        who = name_of(advert.site)
        bytes_of(advert.seed_check, size=masks.KEY_BYTES, what=f"The commitment of {who}")
        for text in (advert.mask_key, advert.share_key):
            public = bytes_of(text, size=masks.KEY_BYTES, what=f"A key of {who}")
            try:
                masks.exchange(self._probe, public)
            except ValueError:
                raise BadMessage(f"A key of {who} would give everybody the same secret.") from None
        self.require_signed(advert.site, self.advertisement(advert), advert.signature)
