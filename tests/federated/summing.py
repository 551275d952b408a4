"""One secure aggregation among sites in this process, in steps that tests take or leave out."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privnb.audit import VerifierKey, origin_of
from privnb.computation import Federation
from privnb.federated.aggregator import Aggregator
from privnb.federated.member import Member

RUN, COMPUTATION, WORK = "run-1", "c" * 64, "w" * 64


@functools.cache
def signing_key(name):
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def verifier_key(name, key=None):
    public = (key or signing_key(name)).public_key().public_bytes_raw()
    return str(VerifierKey(name=origin_of(name, f"owner@{name}.example"), public=public))


def federation_of(n, threshold, colluding=0):
    sites = tuple(sorted(verifier_key(f"site{number:02}") for number in range(n)))
    return Federation(sites=sites, threshold=threshold, colluding=colluding)


def sign_as(site):
    return signing_key(site.split("/")[1]).sign


class Attempted:
    """Members and an aggregator; each step is done by all sites, or by those named."""

    def __init__(self, n=3, threshold=2, *, colluding=0, length=4, min_sites=3, **what):
        self.federation = federation_of(n, threshold, colluding)
        self.sites = self.federation.sites
        self.what = {
            "run": RUN,
            "computation": COMPUTATION,
            "attempt": 1,
            "federation": self.federation,
            "min_sites": min_sites,
        } | what
        self.members = {
            site: Member(me=site, sign=sign_as(site), **self.what) for site in self.sites
        }
        self.aggregator = Aggregator(**self.what)
        numbers = np.random.default_rng(n).integers(0, 2**63, (n, length), np.uint64)
        self.inputs = dict(zip(self.sites, numbers, strict=True))
        self.length = length
        self.adverts = self.inboxes = self.survivors = None

    def advertise(self, sites=None):
        for site in sites or self.sites:
            self.aggregator.advertised(site, self.members[site].advertise())
        self.adverts = self.aggregator.close_adverts()
        return self

    def share(self, sites=None):
        for site in sites or [advert.site for advert in self.adverts]:
            self.aggregator.shared(site, self.members[site].share(self.adverts))
        self.inboxes = self.aggregator.close_shares()
        return self

    def masked(self, site, *, work=WORK):
        return self.members[site].mask(self.inputs[site], self.inboxes[site], work=work)

    def mask(self, sites=None):
        for site in sites or self.inboxes:
            self.contribute(site, *self.masked(site))
        self.survivors = self.aggregator.close_vectors()
        return self

    def contribute(self, site, vector, confirmed, *, work=WORK):
        self.aggregator.masked(
            site, vector.tobytes(), length=self.length, work=work, confirmed=confirmed
        )

    def agree(self, sites=None):
        for site in sites or self.survivors:
            self.aggregator.agreed(site, self.members[site].agree(self.survivors))
        return self

    def reveal(self, sites=None):
        for site in sites or self.survivors:
            reveal = self.members[site].reveal(self.survivors, self.aggregator.agreement)
            self.aggregator.revealed(site, reveal)
        return self

    def until_masked(self):
        return self.advertise().share().mask()

    def sum_of(self, sites):
        return sum(self.inputs[site] for site in sites)
