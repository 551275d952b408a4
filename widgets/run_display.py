"""A federated run in the output of the cell that waits for it: live, then as it can be saved.

A widget's view is gone once its kernel is ("model not found"). So the widget is there only while
the cell waits, and is then replaced, in place, by a table and a picture.
"""

# IPython's display functions have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from IPython.display import display

from privnb.widgets.run_card import round_line, run_html, run_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from privnb.federated.progress import Progress
    from privnb.widgets.curves import Picture
    from privnb.widgets.federated import FederatedWidget

__all__ = ["RunDisplay"]

_BETWEEN_CURVES = 0.5
_SHARE_OF_CURVES = 0.15
"""Drawing curves takes the run's own time: so much of it at most."""
_BETWEEN_FORMS = 30.0
"""Seconds after which what a notebook is saved with is brought up to date."""
_BETWEEN_LINES = 1.0


class RunDisplay:
    """Where one cell shows one run.

    Parameters
    ----------
    run
        The run's id.
    live
        Whether the front end can replace what it shows. If not, lines of text are written.
    display, clock
        What puts something into the output of the cell, and tells seconds that only grow.
    """

    def __init__(
        self,
        run: str,
        *,
        live: bool,
        display: Callable[..., object] = display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._live = live
        self._display = display
        self._clock = clock
        self._handle = f"privnb-run-{uuid4().hex}"
        self._shown = False
        self._widget: FederatedWidget | None = None
        self._curves: tuple[Picture, ...] = ()
        self._drawn_rounds = 0
        self._next_curves = 0.0
        self._next_form = 0.0
        self._next_line = 0.0
        self._told = 0

    def show(self, progress: Progress, *, seconds: float) -> None:
        """Draw how far the run is, ``seconds`` after the cell began to wait."""
        if not self._live:
            self._write(progress, seconds=seconds)
            return
        if self._widget is None:
            from privnb.widgets.federated import FederatedWidget  # noqa: PLC0415 - anywidget

            self._widget = FederatedWidget(self._run, progress)
        self._widget.show(progress, seconds=seconds)
        self._draw(progress)
        now = self._clock()
        if now >= self._next_form:
            self._next_form = now + _BETWEEN_FORMS
            before, self._shown = self._shown, True  # first: an interrupt may come while it draws
            self._display(self._widget, display_id=self._handle, update=before)

    def close(self, progress: Progress) -> None:
        """Put what can be saved into the place of what is live, if anything was shown."""
        if not self._shown:
            return
        if self._live:
            self._draw(progress, at_once=True)
        form = {
            "text/html": run_html(progress, run=self._run, curves=self._curves),
            "text/plain": run_text(progress, run=self._run),
        }
        if self._live:
            self._display(form, raw=True, display_id=self._handle, update=True)
        else:
            self._display(form, raw=True)
        if self._widget is not None:
            self._widget.close()
            self._widget = None

    def _draw(self, progress: Progress, *, at_once: bool = False) -> None:
        """Draw the curves, if there is more to draw and the last time is long enough ago."""
        measured = sum(bool(each.metrics) for each in progress.by_round)
        start = self._clock()
        if measured == self._drawn_rounds or (start < self._next_curves and not at_once):
            return
        from privnb.widgets.curves import draw  # noqa: PLC0415 - pyplot is slow to load

        self._curves = draw(progress)
        self._drawn_rounds = measured
        took = self._clock() - start
        self._next_curves = start + took + max(_BETWEEN_CURVES, took / _SHARE_OF_CURVES)
        if self._widget is not None:
            self._widget.draw(self._curves)

    def _write(self, progress: Progress, *, seconds: float) -> None:
        """Write the newest round that is done, where nothing can be replaced."""
        if not self._shown:
            self._shown = True
            self._line(run_text(progress, run=self._run))
            self._told = progress.rounds_done
        done = [each for each in progress.by_round if each.done]
        if len(done) > self._told and seconds >= self._next_line:
            self._told, self._next_line = len(done), seconds + _BETWEEN_LINES
            self._line(round_line(done[-1]))

    def _line(self, text: str) -> None:
        self._display({"text/plain": text}, raw=True)
