"""What would become of a Python cell at each site, told from what sites say about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.computation import Computation, Federation
    from privnb.messages import PythonOffer, SiteDescription

__all__ = ["Preview"]


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What each site would do with a Python cell. Nothing was asked of the data, nothing spent."""

    computation: Computation
    sites: Mapping[str, SiteDescription]
    """What each site says about itself."""
    silent: tuple[str, ...] = ()
    """Sites that have never said anything about themselves."""

    def facts(self, site: str) -> tuple[tuple[str, str], ...]:
        """List what would happen at one site, as pairs of subject and words."""
        offer = self.sites[site].python
        if offer is None:
            return (("Who decides", "nobody: this site takes no Python cells"),)
        federation, together = self.computation.federation, self.sites[site].federated
        if federation is not None and together is not None:
            return (
                ("Who decides", together.training),
                ("Consent", self._consent(site)),
                ("Seen", self._sums(federation)),
                ("Rounds", f"at most {federation.rounds}; each step at most {offer.seconds} s"),
                ("Packages", ", ".join(offer.packages)),
                ("Sandbox", offer.sandbox),
            )
        return (
            ("Who decides", self._decides(site, offer)),
            ("Consent", self._consent(site)),
            ("Output", f"at most {offer.max_rows:,} rows and {offer.max_bytes:,} bytes"),
            ("Groups", f"at least {offer.min_units} behind each recognised, or a reviewer decides"),
            ("Runs for", f"at most {offer.seconds} seconds"),
            ("Packages", ", ".join(offer.packages)),
            ("Sandbox", offer.sandbox),
        )

    def template(self, site: str) -> str | None:
        """Name the owner's template that this cell is for its purpose, if it is one.

        Whether its parameters are among those allowed is for the site to tell.
        """
        asked = self.computation
        offer = self.sites[site].python
        for template in offer.templates if offer else ():
            same = (template.source, template.output) == (asked.source, asked.output)
            if (
                same
                and set(template.tables) == set(asked.tables or ())
                and set(template.parameters) == set(asked.parameters or {})
                and (asked.purpose is None or asked.purpose in template.purposes)
            ):
                return template.name
        return None

    @staticmethod
    def _sums(federation: Federation) -> str:
        few, many = federation.threshold, len(federation.sites)
        harmless = f", even if {federation.colluding} collude" if federation.colluding else ""
        return f"exact sums over at least {few} of {many} sites{harmless}; no part of one"

    def _decides(self, site: str, offer: PythonOffer) -> str:
        name = self.template(site)
        if name is None:
            return offer.review
        allowed = next(each.parameters for each in offer.templates if each.name == name)
        purpose = "" if self.computation.purpose else " for some purposes"
        given = "; ".join(f"{parameter}: {what}" for parameter, what in allowed.items())
        within = f" while its parameters are as allowed ({given})" if given else ""
        return f"nobody has to: the owner's template {name} is released at once{purpose}{within}"

    def _consent(self, site: str) -> str:
        purpose = self.computation.purpose
        if purpose is None:
            return "say --purpose to see whether it covers this"
        granted = {
            entry.table
            for entry in self.sites[site].consents
            if entry.state == "granted" and entry.purpose == purpose
        }
        uncovered = [table for table in self.computation.tables or () if table not in granted]
        if not uncovered:
            return "covers this"
        return (
            f"none for {', '.join(uncovered)} and {purpose}: ask for it with %privnb request-access"
        )

    def __str__(self) -> str:
        from privnb.request_rendering import preview_text  # noqa: PLC0415 - it reads previews

        return preview_text(self)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        del cycle
        printer.text(str(self))  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        from privnb.request_rendering import preview_html  # noqa: PLC0415 - it reads previews

        return preview_html(self)
