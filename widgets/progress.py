"""The table of sites that appears while a cell waits, and is gone when the wait is over.

It is HTML that Python replaces, not a widget with a comm: it works in every front end, and a
notebook that is saved halfway holds a table that can be read.
"""

# IPython's display functions have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from IPython.display import clear_output, display

from privnb.markup import MUTED, plain_table, table, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Progress"]

_MARKS = {"waiting": "…", "released": "✓", "refused": "✗", "failed": "✗", "cancelled": "–"}  # noqa: RUF001 - a dash


class Progress:
    """Progress of one request in the output of the running cell.

    Parameters
    ----------
    live
        Whether the front end can replace what it shows. If not, one line of text is written.
    """

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._handle = f"privnb-progress-{uuid4().hex}"
        self._shown = False

    def show(self, status: Mapping[str, str], *, seconds: float) -> None:
        """Draw how far each site is, ``seconds`` after the request was sent."""
        if self._shown and not self._live:
            return
        html = tag(
            "div",
            table(
                f"Waiting for an answer · {seconds:.0f} s",
                ("site", "state"),
                [(site, f"{_MARKS.get(state, '')} {state}") for site, state in status.items()],
            ),
            tag(
                "div",
                "Interrupt the kernel to stop waiting; the request goes on without you.",
                style=f"padding:4px 12px;font-size:12px;{MUTED}",
            ),
            class_="pn-progress",
            role="status",
            aria_live="polite",
        )
        text = plain_table(("site", "state"), list(status.items()))
        bundle = {
            "text/html": html,
            "text/plain": f"Waiting for an answer (interrupt to stop waiting)\n{text}",
        }
        display(bundle, raw=True, display_id=self._handle, update=self._shown)
        self._shown = True

    def close(self) -> None:
        """Take the table away as soon as something else is shown."""
        if self._shown and self._live:
            clear_output(wait=True)
