"""The live list of an analyst's requests: where each stands, asked again on a click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import traitlets

from privnb.errors import PrivnbError
from privnb.widgets.assets import script, style
from privnb.widgets.moments import minute
from privnb.widgets.requests_card import (
    RequestRow,
    next_step,
    requests_html,
    requests_text,
    state_look,
)
from privnb.widgets.saved_form import WidgetWithSavedForm
from privnb.widgets.states import state_for_widget
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.standing import Standing

__all__ = ["RequestsWidget", "StandingTeller"]


class StandingTeller(Protocol):
    """What of a session the widget needs."""

    def states(self) -> Sequence[Standing]:
        """Where each request of ours stands at each site, newest first, asked of the sites now."""


class RequestsWidget(WidgetWithSavedForm):
    """Requests of one session, with a button that asks the sites again.

    Its view lives as long as the kernel. Front ends without widgets show a static table.

    Parameters
    ----------
    session
        Whose requests to show.

    Attributes
    ----------
    shown
        What is drawn.
    """

    _esm = script("requests")
    _css = style("requests")

    rows: traitlets.List[dict[str, Any]] = traitlets.List(
        help="One mapping per request and site, ready to be drawn."
    ).tag(sync=True)
    problem = traitlets.Unicode(help="Why the last question failed; empty if not.").tag(sync=True)

    def __init__(self, session: StandingTeller) -> None:
        super().__init__()
        self._session = session
        self.shown: tuple[RequestRow, ...] = ()
        self.on_msg(self._heard)
        self.refresh()

    def refresh(self) -> None:
        """Ask the sites again. An error is shown in the widget, not raised."""
        try:
            self.shown = tuple(map(RequestRow.of, self._session.states()))
            self.problem = ""
        except PrivnbError as error:
            self.problem = visible(f"{error.message} {error.hint}".strip())
        self.rows = [_drawable(row) for row in self.shown]

    def _heard(self, _: object, content: object, __: object) -> None:
        if content == {"ask": "refresh"}:
            self.refresh()
            self.send({"answered": "refresh"})  # nothing may have changed, but the wait is over

    def saved_form(self) -> tuple[str, str]:
        """Return what is drawn as a table that needs no kernel."""
        return requests_html(self.shown), requests_text(self.shown)


def _drawable(row: RequestRow) -> dict[str, Any]:
    return {
        "request": row.request[:8],
        "asked": minute(row.asked),
        "site": visible(row.site),
        "purpose": visible(row.purpose),
        "state": state_for_widget(state_look(row.state), visible(row.state)),
        "since": minute(row.since),
        "deciders": visible(row.deciders),
        "until": minute(row.until),
        "question": row.first_words,
        "next": next_step(row),
        "ready": row.state == "released",
    }
