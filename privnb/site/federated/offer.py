"""What a site tells analysts of computing together with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.messages import FederatedOffer

if TYPE_CHECKING:
    from privnb.site.config import SiteConfig
    from privnb.site.federated.config import FederatedConfig

__all__ = ["MODELS", "offer_of"]

MODELS = ("linear", "logistic", "poisson")
"""What `privnb.dp.training` can train."""


def offer_of(config: SiteConfig, *, trains: bool) -> FederatedOffer | None:
    """Say under which conditions a site computes together with others; None where it does not.

    Parameters
    ----------
    trains
        Whether it has a sandbox that can train: one may be declared, and not be there.
    """
    federated = config.federated
    if federated is None:
        return None
    return FederatedOffer(
        partners=tuple(map(str, federated.partners)),
        min_sites=federated.min_sites,
        min_summed=federated.min_summed,
        colluding=federated.colluding,
        idle_minutes=federated.idle_minutes,
        training=_training(config, federated) if trains else "",
        models=MODELS,
    )


def _training(config: SiteConfig, federated: FederatedConfig) -> str:
    review = config.review
    if review is None:
        return ""
    but = ", or what is on the owner's list" if review.release else ""
    fixed = ", which are all over the same sites" if federated.fixed_sites else ""
    return (
        f"{review.needed} of {len(review.reviewers)} reviewers approve of the code{but}; nobody"
        f" looks at the sums of single rounds{fixed}"
    )
