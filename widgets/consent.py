"""The live consent widget: what may be used for what, and a form that asks owners for more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import traitlets

from privnb.errors import PrivnbError
from privnb.widgets.assets import script, style
from privnb.widgets.consent_card import STATES, consent_rows, consents_html, consents_text
from privnb.widgets.saved_form import WidgetWithSavedForm
from privnb.widgets.states import look, state_for_widget
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.messages import ConsentEntry, SiteDescription
    from privnb.widgets.consent_card import Offer

__all__ = ["AccessAsker", "ConsentWidget"]


class AccessAsker(Protocol):
    """What of a session the widget needs."""

    def consents(self) -> Sequence[tuple[str, ConsentEntry]]:
        """Each consent of ours, with its site, asked of the sites now."""

    def known_descriptions(self) -> Mapping[str, SiteDescription]:
        """Tell what sites said about themselves when they were last asked."""

    def request_access(
        self, site: str, table: str, purpose: str, reason: str, epsilon: str | None = None
    ) -> ConsentEntry:
        """Ask an owner for a grant."""


class ConsentWidget(WidgetWithSavedForm):
    """Consents of one session by site, table and purpose, and a form to ask for another.

    Its view lives as long as the kernel. Front ends without widgets show a static table.

    Parameters
    ----------
    session
        Whose consents to show.

    Attributes
    ----------
    shown
        The consents that are drawn, as pairs of site and entry.
    offered
        What sites have, as site, table and purpose.
    """

    _esm = script("consent")
    _css = style("consent")

    consents: traitlets.List[dict[str, Any]] = traitlets.List(
        help="One mapping per site, table and purpose, ready to be drawn."
    ).tag(sync=True)
    problem = traitlets.Unicode(help="Why the last question failed; empty if not.").tag(sync=True)

    def __init__(self, session: AccessAsker) -> None:
        super().__init__()
        self._session = session
        self.shown: tuple[tuple[str, ConsentEntry], ...] = ()
        self.offered: tuple[Offer, ...] = ()
        self.on_msg(self._heard)
        self.refresh()

    def refresh(self) -> None:
        """Ask the sites again. An error is shown in the widget, not raised."""
        try:
            self.shown = tuple(self._session.consents())
            self.problem = ""
        except PrivnbError as error:
            self.problem = _words(error)
        self.offered = tuple(
            (site, table.name, purpose)
            for site, described in self._session.known_descriptions().items()
            for table in described.tables
            for purpose in table.purposes
        )
        self.consents = self._drawable()

    def _drawable(self) -> list[dict[str, Any]]:
        offered = {tuple(map(visible, offer)): list(offer) for offer in self.offered}
        return [
            {
                "site": site,
                "table": table,
                "purpose": purpose,
                "state": state_for_widget(look(STATES, state), state),
                "since": since,
                "until": until,
                "reason": reason,
                # what goes back to the site must be what it said, not what is shown of it
                "offer": offered.get((site, table, purpose)),
                "open": state not in ("granted", "pending"),
            }
            for site, table, purpose, state, since, until, reason in consent_rows(
                self.shown, offered=self.offered
            )
        ]

    def _heard(self, _: object, content: object, __: object) -> None:
        match content:
            case {"ask": "refresh"}:
                self.refresh()
                self.send({"answered": "refresh"})
            case {
                "ask": "access",
                "site": str(site),
                "table": str(table),
                "purpose": str(purpose),
                "reason": str(reason),
                "epsilon": str(epsilon),
            }:
                said, refused = self._request((site, table, purpose), reason, epsilon)
                self.refresh()
                self.send({"answered": "access", "said": said, "refused": refused})

    def _request(self, offer: Offer, reason: str, epsilon: str) -> tuple[str, str]:
        """Ask for access; return what to say when that worked, or why it did not."""
        site, table, purpose = offer
        if not reason.strip():
            return "", "No reason was given. The owner decides by it."
        try:
            entry = self._session.request_access(
                site, table, purpose, reason.strip(), epsilon.strip() or None
            )
        except PrivnbError as error:
            return "", _words(error)
        if entry.state == "pending":
            return visible(f"Asked {site}. Its owner decides; this stays pending until then."), ""
        return visible(f"{site} answers: {entry.state}. {entry.reason}".strip()), ""

    def saved_form(self) -> tuple[str, str]:
        """Return what is drawn as a table that needs no kernel."""
        return consents_html(self.shown, offered=self.offered), consents_text(
            self.shown, offered=self.offered
        )


def _words(error: PrivnbError) -> str:
    return visible(f"{error.message} {error.hint}".strip())
