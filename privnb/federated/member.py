"""A site in one secure aggregation: what it tells, and what it refuses to.

The analyst, through whom everything goes, may be curious or lie. It sees public keys, sealed
shares, vectors under masks, shares of what takes the masks off their sum, and so the sum; see
`privnb.federated.attempt` for what is protected under which condition, and what is not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privnb.computation import Federation
from privnb.errors import BadMessage, RosterRefused
from privnb.federated import masks, shamir
from privnb.federated.attempt import Attempt, bytes_of, name_of
from privnb.federated.messages import Advert, Reveal
from privnb.federated.ring import Vector

__all__ = ["SEALED_BYTES", "Member"]

_BOTH = 2 * shamir.SHARE_BYTES
_TAG_BYTES = 16
SEALED_BYTES = _BOTH + _TAG_BYTES
"""How long a sealed share is: one of the mask key, one of the seed, and the seal."""


@dataclass(frozen=True, kw_only=True)
class _Advertised:
    """What has been made: three secrets."""

    mask_key: X25519PrivateKey
    share_key: X25519PrivateKey
    seed: bytes
    advert: Advert


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What is known once all keys are: no secret of the other sites."""

    context: str
    pair_secrets: Mapping[str, bytes]
    seal_secrets: Mapping[str, bytes]
    seed: bytes
    own: bytes


@dataclass(frozen=True, kw_only=True)
class _Masked:
    """What is left once the vector is masked: nothing that could mask another."""

    view: str
    held: Mapping[str, bytes]
    """By site of the roster, this site's shares of both its secrets."""
    agreed: frozenset[str] | None = None


class Member:
    """One site in one attempt. Its secrets live only here, are used once and then forgotten.

    Each step is taken once, in this order: `advertise`, `share`, `mask`, `agree` where it is asked
    for, `reveal`. A step that raises leaves everything as it was, and tells nothing.

    Parameters
    ----------
    run, computation, attempt
        What the sum is of: masks and signatures are worth nothing in any other. ``computation``
        stands for all that the sites must have in common to add up, such as its digest.
    me
        This site's verifier key.
    sign
        Signs bytes by this site's key (Ed25519), and returns 64 bytes.
    min_sites
        How many sites have to advertise their keys.

    Raises
    ------
    RosterRefused
        By any step, where a rule would be broken.
    BadMessage
        By any step, where something is malformed or forged; it names whose it is.

    Examples
    --------
    See ``tests/federated/test_view.py``.
    """

    def __init__(  # noqa: PLR0913 - what the attempt is, who takes part, and by which rules
        self,
        *,
        run: str,
        computation: str,
        attempt: int,
        me: str,
        federation: Federation,
        sign: Callable[[bytes], bytes],
        min_sites: int,
    ) -> None:
        self.roster: tuple[str, ...] = ()
        """Who advertised; once the vector is masked, who is in the sum or dropped out of it."""
        self._attempt = Attempt(
            run=run,
            computation=computation,
            number=attempt,
            federation=federation,
            min_sites=min_sites,
        )
        if me not in federation.sites:
            raise RosterRefused("This site is not in the federation.")
        self._me = me
        self._sign = sign
        self._step: _Advertised | _Shared | _Masked | None = None
        self._begun = False

    def advertise(self) -> Advert:
        """Make this attempt's keys."""
        if self._begun:
            raise _out_of_order("keys were made")
        mask_key, share_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        seed = secrets.token_bytes(shamir.SECRET_BYTES)
        advert = Advert(
            site=self._me,
            mask_key=mask_key.public_key().public_bytes_raw().hex(),
            share_key=share_key.public_key().public_bytes_raw().hex(),
            seed_check=masks.seed_check(seed).hex(),
            signature="",
        )
        signature = self._sign(self._attempt.advertisement(advert))
        advert = replace(advert, signature=signature.hex())
        self._step = _Advertised(mask_key=mask_key, share_key=share_key, seed=seed, advert=advert)
        self._begun = True
        return advert

    def share(self, adverts: Sequence[Advert]) -> dict[str, str]:
        """Split both secrets among everybody who advertised; return the others' shares, sealed.

        Refused unless all are of the federation, each once, this site's own unchanged among them.
        """
        step = self._step
        if not isinstance(step, _Advertised):
            raise _out_of_order("shares are made once, after the keys")
        by_site = {advert.site: advert for advert in adverts}
        if len(by_site) != len(adverts):
            raise RosterRefused("A site is in the roster twice.")
        if by_site.get(self._me) != step.advert:
            raise RosterRefused("This site's own keys are not in the roster, or are other ones.")
        for advert in adverts:
            if advert.site != self._me:
                self._attempt.require_sound(advert)
        if len(by_site) < self._attempt.least:
            raise RosterRefused(
                f"{len(by_site)} sites advertised their keys; {self._attempt.least} are needed."
            )
        roster = sorted(by_site)
        context = self._attempt.context(adverts)
        others = [site for site in roster if site != self._me]
        seal_secrets = {
            site: masks.exchange(step.share_key, bytes.fromhex(by_site[site].share_key))
            for site in others
        }
        keys, seeds = (
            shamir.split(secret, threshold=self._attempt.federation.threshold, shares=len(roster))
            for secret in (step.mask_key.private_bytes_raw(), step.seed)
        )
        shares = {s: key + seed for s, key, seed in zip(roster, keys, seeds, strict=True)}
        sealed = {
            site: masks.seal(
                shares[site], seal_secrets[site], context=context, sender=self._me, receiver=site
            ).hex()
            for site in others
        }
        self._step = _Shared(
            context=context,
            pair_secrets={
                site: masks.exchange(step.mask_key, bytes.fromhex(by_site[site].mask_key))
                for site in others
            },
            seal_secrets=seal_secrets,
            seed=step.seed,
            own=shares[self._me],
        )
        self.roster = tuple(roster)
        return sealed

    def mask(self, vector: Vector, shares: Mapping[str, str], *, work: str) -> tuple[Vector, str]:
        """Mask the vector, and sign what it was masked for.

        Parameters
        ----------
        vector
            This site's numbers; see `privnb.federated.ring`. It is not changed.
        shares
            What others sealed for this site, by sender. The senders and this site are the roster:
            at least the threshold of those who advertised.
        work
            A digest of what the vector answers; see `privnb.federated.messages.work_digest`.

        Returns
        -------
        masked, confirmed
            The vector plus its masks, and the signature that all who reveal will look at.
        """
        step = self._step
        if not isinstance(step, _Shared):
            raise _out_of_order("one vector is masked, once shares are made")
        if not shares.keys() <= set(self.roster) - {self._me}:
            raise BadMessage("There are shares of sites that advertised no keys.")
        roster = sorted({self._me, *shares})
        if len(roster) < self._attempt.federation.threshold:
            raise RosterRefused(
                f"{len(roster)} sites made shares; {self._attempt.federation.threshold} are needed."
            )
        held = {self._me: step.own}
        for site, text in shares.items():
            what = f"The share that {name_of(site)} sealed"
            sealed = bytes_of(text, size=SEALED_BYTES, what=what)
            try:
                held[site] = masks.unseal(
                    sealed,
                    step.seal_secrets[site],
                    context=step.context,
                    sender=site,
                    receiver=self._me,
                )
            except masks.NotSealed:
                raise BadMessage(f"{what} was not for this site now, or was changed.") from None
        view = self._attempt.view(step.context, roster=roster, work=work)
        confirmed = self._sign(self._attempt.confirmation(self._me, view)).hex()
        masked = vector.copy()
        masks.add_mask(masked, masks.seed_key(step.seed, context=step.context, site=self._me))
        for site in shares:
            key = masks.pair_key(
                step.pair_secrets[site], context=step.context, one=self._me, other=site
            )
            if self._me < site:
                masks.add_mask(masked, key)
            else:
                masks.subtract_mask(masked, key)
        self._step = _Masked(view=view, held=held)
        self.roster = tuple(roster)
        return masked, confirmed

    def agree(self, survivors: Mapping[str, str]) -> str:
        """Sign who survived; from then on, this site reveals for them or for nobody.

        Parameters
        ----------
        survivors
            Whose vectors are in the sum, this site's among them; with the ``confirmed`` of each.
        """
        step = self._masked()
        chosen = self._chosen(step, survivors)
        signature = self._sign(self._attempt.agreement(self._me, step.view, chosen)).hex()
        self._step = replace(step, agreed=chosen)
        return signature

    def reveal(
        self,
        survivors: Mapping[str, str],
        agreed: Mapping[str, str] | None = None,
        *,
        settle: Callable[[], None] = lambda: None,
    ) -> Reveal:
        """Give shares of the survivors' seeds, and of the mask keys of those who dropped out.

        Parameters
        ----------
        survivors
            As for `agree`.
        agreed
            Where somebody dropped out: signatures of a threshold of the survivors, by `agree`.
        settle
            Called once all of that holds, before anything is given: what it raises is raised.
        """
        step = self._masked()
        chosen = self._chosen(step, survivors)
        if len(chosen) < len(self.roster):
            self._require_agreement(step, chosen, agreed or {})
        settle()
        self._step = None
        cut = shamir.SHARE_BYTES
        return Reveal(
            masks={site: step.held[site][cut:].hex() for site in sorted(chosen)},
            keys={site: step.held[site][:cut].hex() for site in self.roster if site not in chosen},
        )

    def _masked(self) -> _Masked:
        if not isinstance(self._step, _Masked):
            raise _out_of_order("shares are revealed once, after a vector was masked")
        return self._step

    def _chosen(self, step: _Masked, survivors: Mapping[str, str]) -> frozenset[str]:
        chosen = frozenset(survivors)
        if not chosen <= set(self.roster):
            raise RosterRefused("There are survivors that were not in the roster.")
        if self._me not in chosen:
            raise RosterRefused("This site masked its vector, and is said to have dropped out.")
        if len(chosen) < self._attempt.federation.threshold:
            raise RosterRefused(
                f"{len(chosen)} sites survived; {self._attempt.federation.threshold} are needed."
            )
        if step.agreed is not None:
            if chosen != step.agreed:
                raise RosterRefused("This site agreed to other survivors.")
            return chosen
        for site, confirmed in survivors.items():
            if site != self._me:
                said = self._attempt.confirmation(site, step.view)
                self._attempt.require_signed(site, said, confirmed)
        return chosen

    def _require_agreement(
        self, step: _Masked, chosen: frozenset[str], agreed: Mapping[str, str]
    ) -> None:
        if not agreed.keys() <= chosen or len(agreed) < self._attempt.federation.threshold:
            raise RosterRefused(
                f"{len(agreed)} sites agreed on who survived; "
                f"{self._attempt.federation.threshold} of these are needed."
            )
        for site, signature in agreed.items():
            said = self._attempt.agreement(site, step.view, chosen)
            self._attempt.require_signed(site, said, signature)


def _out_of_order(rule: str) -> RosterRefused:
    return RosterRefused(f"This step is not the next one of the attempt: {rule}.")
