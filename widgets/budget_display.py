"""Budgets in a notebook: a static table that is replaced in place as cells spend.

A widget's view is gone once its kernel is ("model not found"). So what stands in the notebook is
HTML under a display id; front ends replace it wherever it is shown, in earlier cells too, and what
is saved is always the last table.
"""

# IPython's display functions have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from IPython.display import display

from privnb.widgets.budget_card import budgets_html, budgets_text, share_left

if TYPE_CHECKING:
    from collections.abc import Iterable

    from privnb.messages import Budget
    from privnb.widgets.budget import BudgetWidget

__all__ = ["BudgetDisplay"]


class BudgetDisplay:
    """All places of one notebook that show one analyst's budgets.

    Parameters
    ----------
    live
        Whether the front end can replace what it shows; a terminal cannot.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._handle = f"privnb-budget-{uuid4().hex}"
        self._budgets: dict[tuple[str, str, str], tuple[str, Budget]] = {}
        self._shown = False
        self._widgets: list[BudgetWidget] = []

    @property
    def budgets(self) -> tuple[tuple[str, Budget], ...]:
        """What is shown, as pairs of site and budget."""
        return tuple(self._budgets.values())

    def follow(self, widget: BudgetWidget) -> None:
        """Keep a live widget up to date as well."""
        self._widgets.append(widget)
        self._budgets |= {_key(site, budget): (site, budget) for site, budget in widget.shown}

    def show(self, budgets: Iterable[tuple[str, Budget]]) -> None:
        """Show the budgets in the running cell, and bring every earlier place up to date."""
        self._budgets = {_key(site, budget): (site, budget) for site, budget in budgets}
        if self._shown and self._live:
            display(self._bundle(), raw=True, display_id=self._handle, update=True)
        display(self._bundle(), raw=True, display_id=self._handle)
        self._shown = True

    def update(self, changed: Iterable[tuple[str, Budget]]) -> None:
        """Let the meters of these budgets move, wherever they are shown."""
        changes = {_key(site, budget): (site, budget) for site, budget in changed}
        if not changes:
            return
        before = {key: share_left(budget) for key, (_, budget) in self._budgets.items()}
        self._budgets |= changes
        for widget in self._widgets:
            widget.show(self.budgets)
        if self._shown and self._live:
            bundle = self._bundle(before=before)
            display(bundle, raw=True, display_id=self._handle, update=True)

    def _bundle(self, *, before: dict[tuple[str, str, str], float] | None = None) -> dict[str, str]:
        return {
            "text/html": budgets_html(self.budgets, before=before),
            "text/plain": budgets_text(self.budgets),
        }


def _key(site: str, budget: Budget) -> tuple[str, str, str]:
    return site, budget.table, budget.purpose
