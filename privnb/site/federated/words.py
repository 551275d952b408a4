"""A federation in words, for reviewers: with whom, in which sums, and what nobody looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privnb.computation import Federation

__all__ = ["facts_of"]


def facts_of(federation: Federation | None) -> tuple[tuple[str, str], ...]:
    """Say what a computation over several sites asks of one; nothing for one site alone.

    >>> from privnb.computation import Federation
    >>> sites = ("privnb/lakeside/o@l.example+1+A", "privnb/northside/o@n.example+2+B")
    >>> dict(facts_of(Federation(sites=sites, threshold=2)))["sums"]
    'of at least 2 of 2 sites; none of them may collude with the analyst'
    """
    if federation is None:
        return ()
    names = ", ".join(site.partition("+")[0] for site in federation.sites)
    count = federation.colluding
    collude = "none of them" if count == 0 else f"at most {count} of them"
    sums = f"of at least {federation.threshold} of {len(federation.sites)} sites"
    rounds = f"at most {federation.rounds}; the analyst chooses the parameters of each"
    return (
        ("sites", names),
        ("sums", f"{sums}; {collude} may collude with the analyst"),
        ("rounds", f"{rounds}, and nobody looks at the sums"),
    )
