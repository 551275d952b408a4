"""``[federated]`` in ``site.toml``: with which sites the owner computes, under which conditions."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass

from privnb.audit import Unproved, VerifierKey, origin_of
from privnb.site.toml_reader import Section

__all__ = ["FEWEST", "FederatedConfig", "read_federated", "read_partner"]

FEWEST = 2
"""Of fewer sites a sum would be one site's own input."""
_MOST_MINUTES = 7 * 24 * 60
_KEY_HINT = (
    "Add what `privnb site identity DIR` prints at the partner's: privnb site partner DIR KEY"
)


@dataclass(frozen=True, kw_only=True)
class FederatedConfig:
    """With whom a site computes what only several sites together may show.

    Attributes
    ----------
    partners
        The identities of the other sites: the keys that sign their audit logs.
    min_sites
        How many sites must take part in a round, at least.
    min_summed
        How many sites must be in a sum, at least.
    colluding
        How many sites that tell the analyst all they see must do no harm.
    idle_minutes
        After how long without a word of the analyst's a run ends.
    fixed_sites
        Whether all sums of what one approved computation gives without noise are over the same
        sites. Otherwise those at the very same parameters are.
    """

    partners: tuple[VerifierKey, ...]
    min_sites: int = 3
    min_summed: int = 2
    colluding: int = 0
    idle_minutes: int = 60
    fixed_sites: bool = False


def read_federated(section: Section, *, own: str) -> FederatedConfig:
    """Read ``[federated]``; raise `ConfigError` at the first mistake.

    Parameters
    ----------
    own
        The name of this site's own key, which is no partner's.
    """
    default = FederatedConfig(partners=())

    def number(key: str, usual: int, *, lowest: int, what: str, most: int | None = None) -> int:
        hint = f"Say {what}, for example {key} = {usual}."
        value = section.integer(key, lowest=lowest, hint=hint) if section.has(key) else usual
        if most is not None and value > most:
            section.fail(f"{key!r} must be at most {most}, not {value}.", key, hint=hint)
        return value

    config = FederatedConfig(
        partners=_read_partners(section, own=own),
        min_sites=number(
            "min_sites",
            default.min_sites,
            lowest=FEWEST,
            what="how many sites must take part in every round",
        ),
        min_summed=number(
            "min_summed",
            default.min_summed,
            lowest=FEWEST,
            what="how many sites must be in every sum",
        ),
        colluding=number(
            "colluding",
            default.colluding,
            lowest=0,
            what="how many sites that work with the analyst must do no harm",
        ),
        idle_minutes=number(
            "idle_minutes",
            default.idle_minutes,
            lowest=1,
            most=_MOST_MINUTES,
            what="after how many minutes without a word of the analyst's a run ends",
        ),
        fixed_sites=section.flag(
            "fixed_sites",
            hint="Say whether a training stops where a site is lost, for example"
            " fixed_sites = true.",
            default=default.fixed_sites,
        ),
    )
    section.finish()
    return config


def _read_partners(section: Section, *, own: str) -> tuple[VerifierKey, ...]:
    partners: list[VerifierKey] = []
    for number, text in enumerate(section.texts("partners", hint=_KEY_HINT)):
        try:
            partner = read_partner(text)
        except Unproved as wrong:
            section.fail(str(wrong), "partners", number, hint=_KEY_HINT)
        if partner.name == own:
            problem = f"{own!r} is this site itself."
            section.fail(problem, "partners", number, hint="Name only the others.")
        for other in partners:
            if other.name == partner.name:
                problem = f"{partner.name!r} has two keys here."
                section.fail(problem, "partners", number, hint="Keep the one that is theirs.")
            if other.public == partner.public:
                problem = f"{partner.name!r} has the same key as {other.name!r}."
                remedy = "Each site has a key of its own: ask for their fingerprints."
                section.fail(problem, "partners", number, hint=remedy)
        partners.append(partner)
    return tuple(partners)


def read_partner(text: str) -> VerifierKey:
    """Read the identity of a site; raises `Unproved` if it is none, or is written otherwise.

    >>> key = VerifierKey(name="privnb/lakeside/owner@lake.example", public=bytes([2, *[0] * 31]))
    >>> read_partner(str(key)).name
    'privnb/lakeside/owner@lake.example'
    """
    key = VerifierKey.parse(text)
    _, _, rest = key.name.partition("/")
    site, _, owner = map(urllib.parse.unquote, rest.partition("/"))
    if not (site and owner) or origin_of(site, owner) != key.name or str(key) != text:
        raise Unproved(f"{text[:80]!a} is not the key of a site: privnb/SITE/OWNER+ID+KEY.")
    return key
