"""One secure aggregation beside a plain sum of the same vectors: no network, no files, one process.

Whole: all that all sites and the analyst compute, from fresh keys to the sum, one after the other,
as messages in memory. A site: what one of them computes of it, which in a run happens at all sites
at once. Keys and shares for a round are made while the round before is under way, so that a round
then waits for what follows them: masking at a site, adding and unmasking at the analyst's. Plain:
numpy adds the vectors up. All times are of CPU: nothing waits.

Targets: masking a million numbers at three sites takes a site 50 ms at most.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privnb.audit import VerifierKey, origin_of
from privnb.computation import Federation
from privnb.federated.aggregator import Aggregator
from privnb.federated.member import Member

WORK = "0" * 64
CASES = [(3, 20, 30), (10, 20, 15), (50, 20, 3), (3, 1_000_000, 7), (10, 1_000_000, 3)]
"""Sites, numbers in each vector, and how often it is done."""


@dataclass
class Times:
    """Seconds of CPU, of one aggregation."""

    keys: float = 0
    """Of all sites: advertising, sharing, and the analyst's checks of it."""
    mask: list[float] = field(default_factory=list)
    """By site."""
    reveal: list[float] = field(default_factory=list)
    """By site."""
    add: float = 0
    """At the analyst's: checks, adding, and taking the masks off."""
    plain: float = 0

    @property
    def whole(self) -> float:
        return self.keys + sum(self.mask) + sum(self.reveal) + self.add


class Clock:
    """Seconds of CPU since it was last read: all of it is computing, on one core."""

    def __init__(self) -> None:
        self._last = time.process_time()

    def lap(self) -> float:
        now = time.process_time()
        took, self._last = now - self._last, now
        return took


def sites(n: int) -> dict[str, Ed25519PrivateKey]:
    """Make signing keys, by verifier key."""
    made = {}
    for number in range(n):
        key = Ed25519PrivateKey.generate()
        name = origin_of(f"site{number}", f"owner@site{number}.example")
        made[str(VerifierKey(name=name, public=key.public_key().public_bytes_raw()))] = key
    return made


def aggregate(keys: dict[str, Ed25519PrivateKey], vectors: list[np.ndarray]) -> Times:
    """Do one aggregation and check its sum."""
    federation = Federation(sites=tuple(sorted(keys)), threshold=len(keys) // 2 + 1)
    what = {
        "run": "run",
        "computation": WORK,
        "attempt": 1,
        "federation": federation,
        "min_sites": 3,
    }
    times, clock = Times(), Clock()
    members = {site: Member(me=site, sign=keys[site].sign, **what) for site in keys}
    aggregator = Aggregator(**what)
    for site, member in members.items():
        aggregator.advertised(site, member.advertise())
    adverts = aggregator.close_adverts()
    for site, member in members.items():
        aggregator.shared(site, member.share(adverts))
    inboxes = aggregator.close_shares()
    times.keys = clock.lap()
    for (site, member), vector in zip(members.items(), vectors, strict=True):
        masked, confirmed = member.mask(vector, inboxes[site], work=WORK)
        times.mask.append(clock.lap())
        aggregator.masked(
            site,
            memoryview(masked).cast("B"),
            length=vector.size,
            work=WORK,
            confirmed=confirmed,
        )
        times.add += clock.lap()
    survivors = aggregator.close_vectors()
    for site in list(members)[: federation.threshold]:
        clock.lap()
        reveal = members[site].reveal(survivors)
        times.reveal.append(clock.lap())
        aggregator.revealed(site, reveal)
        times.add += clock.lap()
    total = aggregator.total()
    times.add += clock.lap()
    plain = np.zeros_like(vectors[0])
    for vector in vectors:
        plain += vector
    times.plain = clock.lap()
    if not (total == plain).all():
        raise AssertionError("the sum is wrong")
    return times


def milliseconds(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def main() -> None:
    for n, length, rounds in CASES:
        keys = sites(n)
        rng = np.random.default_rng(n)
        vectors = [rng.integers(0, 2**60, length, np.uint64) for _ in range(n)]
        done = [aggregate(keys, vectors) for _ in range(rounds)]
        whole = milliseconds([each.whole for each in done])
        mask = milliseconds([took for each in done for took in each.mask])
        print(f"{n} sites, {length:,} numbers each, {rounds} times, medians:")
        print(
            f"  whole {whole:.1f} ms, {whole / milliseconds([d.plain for d in done]):,.0f} times a "
            f"plain sum; keys and shares {milliseconds([d.keys / n for d in done]):.1f} ms a site"
        )
        target = " (target 50 ms at most)" if (n, length) == (3, 1_000_000) else ""
        print(
            f"  a site masks in {mask:.1f} ms{target}, reveals in "
            f"{milliseconds([took for d in done for took in d.reveal]):.1f} ms; adding and taking "
            f"the masks off {milliseconds([d.add for d in done]):.1f} ms"
        )


if __name__ == "__main__":
    main()
