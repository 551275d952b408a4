"""The live view of a federated run: a row per site, a column per round, curves as they come.

It is drawn while a cell runs, when the kernel can tell the front end something but hears nothing:
so it has nothing to click. What it shows is what the run tells everybody who watches it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import traitlets

from privnb.widgets.assets import script, style
from privnb.widgets.run_card import (
    SITE_LOOKS,
    caption,
    curves_in_words,
    earlier,
    joined_look,
    newest_remarks,
    newest_rounds,
    run_html,
    run_text,
    tells_joining,
)
from privnb.widgets.saved_form import WidgetWithSavedForm
from privnb.widgets.states import state_for_widget
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.federated.progress import Progress
    from privnb.widgets.curves import Picture

__all__ = ["FederatedWidget"]

_ADVICE = "Interrupt the kernel to stop waiting."


class FederatedWidget(WidgetWithSavedForm):
    """One run, as far as it was when `show` was called last.

    Parameters
    ----------
    run
        Its id.
    progress
        How far it is.
    twin
        Class of what is hidden while a view of the widget is there: what a notebook is saved with.
    """

    _esm = script("federated")
    _css = style("federated")

    view: traitlets.Dict[str, Any] = traitlets.Dict(
        help="What is drawn, but for the curves: plain text, and words for states."
    ).tag(sync=True)
    curves: traitlets.List[dict[str, Any]] = traitlets.List(
        help="Pictures: a PNG in base64, its width, and what it shows in words."
    ).tag(sync=True)

    twin = traitlets.Unicode(help="The class of what to hide; empty for nothing.").tag(sync=True)

    def __init__(self, run: str, progress: Progress, *, twin: str = "") -> None:
        super().__init__(twin=twin)
        self._run = run
        self._progress = progress
        self._curves: Sequence[Picture] = ()
        self.show(progress, seconds=0)

    def show(self, progress: Progress, *, seconds: float) -> None:
        """Draw how far the run is, ``seconds`` after it was begun to be watched."""
        self._progress = progress
        shown = newest_rounds(progress)
        self.view = {
            "caption": caption(progress, run=self._run),
            "seconds": f"{seconds:.0f} s",
            "rounds": [each.number for each in shown],
            "sites": [
                {
                    "name": visible(site),
                    "joined": _drawable_joined(progress.joined.get(site, "")),
                    "told": tells_joining(progress, site),
                    "rounds": [each.sites.get(site, "waiting") for each in shown],
                }
                for site in progress.sites
            ],
            "looks": {word: state_for_widget(look, word) for word, look in SITE_LOOKS.items()},
            "earlier": earlier(progress),
            "measured": curves_in_words(progress),
            "remarks": newest_remarks(progress),
            "advice": _ADVICE,
        }

    def draw(self, curves: Sequence[Picture]) -> None:
        """Show other curves."""
        self._curves = curves
        self.curves = [asdict(picture) for picture in curves]

    def live_form(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return data and metadata of a view that nobody needs where it cannot live."""
        bundle = self._repr_mimebundle_()
        if bundle is None:
            return {"text/plain": ""}, {}
        data, metadata = bundle
        del data["text/html"]
        return {**data, "text/plain": ""}, metadata

    def saved_form(self) -> tuple[str, str]:
        """Return what is drawn as a table and a picture that need no kernel."""
        return (
            run_html(self._progress, run=self._run, curves=self._curves),
            run_text(self._progress, run=self._run),
        )


def _drawable_joined(words: str) -> dict[str, str]:
    return state_for_widget(joined_look(words), visible(words))
