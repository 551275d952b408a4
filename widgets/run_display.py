"""A federated run in the output of the cell that waits for it: live, then as it can be saved.

A widget's view is gone once its kernel is ("model not found"). So the widget is there only while
the cell waits, and is then replaced by a table and a picture. A twin of these is beneath the widget
all the time, which hides it: should the kernel die in the middle, a saved notebook still has it. It
then hides what JupyterLab says in the place of the widget.
"""

# IPython's display functions have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import uuid4

from IPython.display import clear_output, display

from privnb.markup import Html, tag
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
_BETWEEN_TWINS = 5.0
"""Seconds after which what a notebook is saved with is brought up to date."""
_BETWEEN_LINES = 1.0


def _alone(twin: str) -> Html:
    """Hide the output right above a twin, unless a view is drawn in it: for JupyterLab's pages."""
    return Html(
        f".jp-OutputArea-child:has(+ .jp-OutputArea-child .{twin}):not(:has(.pn-federated))"
        "{display:none}"
    )


class RunDisplay:
    """Where one cell shows one run.

    Parameters
    ----------
    run
        The run's id.
    live
        Whether the front end can replace what it shows. If not, lines of text are written.
    display, clear, clock
        What puts something into the output of the cell, clears it as soon as there is more to come,
        and tells seconds that only grow.
    """

    def __init__(
        self,
        run: str,
        *,
        live: bool,
        display: Callable[..., object] = display,
        clear: Callable[..., object] = clear_output,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._live = live
        self._display = display
        self._clear = clear
        self._clock = clock
        self._twin = f"pn-twin-{uuid4().hex}"
        self._shown = False
        self._widget: FederatedWidget | None = None
        self._curves: tuple[Picture, ...] = ()
        self._drawn_rounds = 0
        self._next_curves = 0.0
        self._next_twin = 0.0
        self._next_line = 0.0
        self._told = 0

    def show(self, progress: Progress, *, seconds: float) -> None:
        """Draw how far the run is, ``seconds`` after the cell began to wait."""
        if not self._live:
            self._write(progress, seconds=seconds)
            return
        if self._widget is None:
            from privnb.widgets.federated import FederatedWidget  # noqa: PLC0415 - anywidget

            self._widget = FederatedWidget(self._run, progress, twin=self._twin)
            self._shown = True  # first: an interrupt may come while it is shown
            data, metadata = self._widget.live_form()
            self._display(data, metadata=metadata, raw=True)
        self._widget.show(progress, seconds=seconds)
        if self._clock() >= self._next_twin:
            update, self._next_twin = self._next_twin > 0, self._clock() + _BETWEEN_TWINS
            form = self._form(progress)
            form["text/html"] = tag(
                "div", tag("style", _alone(self._twin)), form["text/html"], class_=self._twin
            )
            self._display(form, raw=True, display_id=self._twin, update=update)
        self._draw(progress)

    def close(self, progress: Progress) -> None:
        """Put what can be saved into the place of what is live, if anything was shown."""
        if not self._shown:
            return
        if self._live:
            self._draw(progress, at_once=True)
            self._clear(wait=True)
        self._display(self._form(progress), raw=True)
        if self._widget is not None:
            self._widget.close()
            self._widget = None

    def _form(self, progress: Progress) -> dict[str, str]:
        return {
            "text/html": run_html(progress, run=self._run, curves=self._curves),
            "text/plain": run_text(progress, run=self._run),
        }

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
