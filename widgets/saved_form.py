"""What stands in the place of a widget where none can live: saved notebooks, paper, terminals."""

from __future__ import annotations

from typing import Any

import anywidget

__all__ = ["WidgetWithSavedForm"]


class WidgetWithSavedForm(anywidget.AnyWidget):
    """A widget that front ends without widgets, and saved notebooks, show as a static table."""

    def saved_form(self) -> tuple[str, str]:
        """Return what is shown instead of the widget: as HTML, and as plain text."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["text/html"], data["text/plain"] = self.saved_form()
        return data, metadata
