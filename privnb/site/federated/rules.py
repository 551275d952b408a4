"""Whether a site computes together with others as it is asked to: by its own ``site.toml`` alone.

Pure: the same computation and the same file give the same decision, and no data is touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import QueryRefused, RequestRefused

if TYPE_CHECKING:
    from privnb.computation import Computation, Federation
    from privnb.site.federated.config import FederatedConfig

__all__ = ["MOST_ROUNDS", "MOST_SITES", "check_federation"]

MOST_ROUNDS = 1000
MOST_SITES = 1000
_MOST_COLUMNS = 64
_MOST_VALUES = 5000
_LONGEST_KEY = 1024


def check_federation(
    computation: Computation, *, config: FederatedConfig | None, own: str
) -> Federation:
    """Refuse a federation that this site does not take part in; return the one it does.

    With ``n`` sites, of which ``c`` may collude, a sum opens by ``t`` of them. That ``2t > n + c``
    keeps any two sums that are opened from meeting in colluding sites only.

    Parameters
    ----------
    own
        This site's verifier key, as its partners pin it.

    Raises
    ------
    QueryRefused
        The federation makes no sense, whichever site is asked.
    RequestRefused
        E_NO_FEDERATION, E_PARTNERS or E_THRESHOLD: not here, not with those, not so few.
    """
    federation = computation.federation
    if federation is None:
        raise QueryRefused(
            "A model is trained over several sites.", hint="Name them, with %%federated."
        )
    if config is None:
        raise RequestRefused(
            "This site computes nothing together with others.",
            hint="Its owner may add [federated] to site.toml.",
            code="E_NO_FEDERATION",
        )
    _check_sense(computation, federation)
    _check_sites(federation, config, own)
    _check_numbers(computation, federation, config)
    return federation


def _check_sense(computation: Computation, federation: Federation) -> None:
    sites = federation.sites
    if not 0 < len(sites) <= MOST_SITES or any(len(site) > _LONGEST_KEY for site in sites):
        raise QueryRefused(f"At most {MOST_SITES} sites compute together.")
    if list(sites) != sorted(set(sites)):
        raise QueryRefused("The sites of a federation are named once each, sorted.")
    if not 1 <= federation.rounds <= MOST_ROUNDS:
        raise QueryRefused(
            f"A run has 1 to {MOST_ROUNDS} rounds, not {federation.rounds}.", hint="--rounds 10"
        )
    if computation.kind == "sql" and federation.rounds != 1:
        raise QueryRefused("Totals take one round.", hint="Leave --rounds out.")
    if computation.output is not None:
        raise QueryRefused(
            "Several sites give sums only, and no variable.", hint="Leave --output out."
        )
    groups = federation.groups or {}
    if groups and computation.kind == "python":
        raise QueryRefused("An app of one's own knows no groups.")
    if len(groups) > _MOST_COLUMNS or any(len(each) > _MOST_VALUES for each in groups.values()):
        raise QueryRefused(
            f"The groups have more than {_MOST_COLUMNS} columns, or {_MOST_VALUES} values.",
            hint="Group more coarsely.",
        )


def _check_sites(federation: Federation, config: FederatedConfig, own: str) -> None:
    if own not in federation.sites:
        raise RequestRefused(
            "This site, by the key it has, is not among the sites of the computation.",
            hint="Ask the sites for their keys anew: %privnb sites",
            code="E_PARTNERS",
        )
    pinned = {str(partner) for partner in config.partners}
    strangers = [site for site in federation.sites if site != own and site not in pinned]
    if strangers:
        names = ", ".join(site.partition("+")[0][:80] for site in strangers[:5])
        raise RequestRefused(
            f"This site does not compute together with {names}.",
            hint="Its owner adds a site by: privnb site partner DIR KEY",
            code="E_PARTNERS",
        )


def _check_numbers(
    computation: Computation, federation: Federation, config: FederatedConfig
) -> None:
    count, threshold, colluding = (
        len(federation.sites),
        federation.threshold,
        federation.colluding,
    )
    if count < config.min_sites:
        raise RequestRefused(
            f"This site takes part with at least {config.min_sites} sites, not {count}.",
            hint="Ask more of its partners.",
            code="E_THRESHOLD",
        )
    if colluding < config.colluding:
        raise RequestRefused(
            f"At this site {config.colluding} colluding sites must do no harm, not {colluding}.",
            hint=f"Allow for as many: colluding={config.colluding}",
            code="E_THRESHOLD",
        )
    # Sites whose parts are exact need another honest one to be hidden behind.
    honest = 2 if computation.kind == "python" else 1
    least = max((count + colluding) // 2 + 1, config.min_summed, colluding + honest)
    if least > count:
        raise RequestRefused(
            f"Of {count} sites, {colluding} may not collude: too few would be left.",
            hint="Ask more sites.",
            code="E_THRESHOLD",
        )
    if not least <= threshold <= count:
        raise RequestRefused(
            f"A sum over {count} sites of which {colluding} may collude opens here by {least} to"
            f" {count} of them, not by {threshold}.",
            hint=f"Ask with threshold={least}, or leave it out.",
            code="E_THRESHOLD",
        )
