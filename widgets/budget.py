"""The live budget widget: what each grant has left, asked again on a click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import traitlets

from privnb.errors import PrivnbError
from privnb.widgets.assets import script, style
from privnb.widgets.budget_card import budgets_html, budgets_text, share_left
from privnb.widgets.saved_form import WidgetWithSavedForm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privnb.messages import Budget
    from privnb.session import Session

__all__ = ["BudgetWidget"]


class BudgetWidget(WidgetWithSavedForm):
    """Meters of all grants of one session, with a button that asks the sites again.

    Its view lives as long as the kernel; for something that is saved with the notebook use
    `privnb.widgets.budget_display.BudgetDisplay`. Front ends without widgets show a static table.

    Parameters
    ----------
    session
        Whose budgets to show.

    Attributes
    ----------
    shown
        What is drawn, as pairs of site and budget.
    """

    _esm = script("budget")
    _css = style("budget")

    budgets: traitlets.List[dict[str, Any]] = traitlets.List(
        help="One mapping per grant, ready to be drawn."
    ).tag(sync=True)
    problem = traitlets.Unicode(help="Why the last question failed; empty if not.").tag(sync=True)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.shown: tuple[tuple[str, Budget], ...] = ()
        self.on_msg(self._clicked)
        self.refresh()

    def refresh(self) -> None:
        """Ask the sites what is left. An error is shown in the widget, not raised."""
        try:
            self.show(self._session.budgets())
            self.problem = ""
        except PrivnbError as error:
            self.problem = f"{error} {error.hint}".strip()

    def show(self, budgets: Iterable[tuple[str, Budget]]) -> None:
        """Draw these budgets."""
        self.shown = tuple(budgets)
        self.budgets = [_drawable(site, budget) for site, budget in self.shown]

    def _clicked(self, _: object, content: object, __: object) -> None:
        if content == {"ask": "refresh"}:
            self.refresh()
            self.send({"answered": "refresh"})  # nothing may have changed, but the wait is over

    def saved_form(self) -> tuple[str, str]:
        """Return what is drawn as a table that needs no kernel."""
        return budgets_html(self.shown), budgets_text(self.shown)


def _drawable(site: str, budget: Budget) -> dict[str, Any]:
    return {
        "site": site,
        "table": budget.table,
        "purpose": budget.purpose,
        "granted": budget.epsilon_granted,
        "spent": budget.epsilon_spent,
        "left": budget.epsilon_left,
        "share": share_left(budget),
        "until": budget.until or "no end",
        "history": [
            {"at": entry.at, "epsilon": entry.epsilon, "request": entry.request[:8]}
            for entry in reversed(budget.history)
        ],
    }
