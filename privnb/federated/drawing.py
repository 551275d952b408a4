"""Matplotlib figures of federated runs: curves as they come, totals and coefficients at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from privnb.drawing import INK, draw_coefficients, draw_release, legible
from privnb.release import PrivacyLabel, Release, SiteRelease
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from privnb.federated.release import FederatedRelease

__all__ = ["draw_answer", "draw_curves"]

_PANEL = (4.6, 3.2)
"""Inches per panel."""
_MOST_PANELS = 6
_MOST_LINES = 12
_KINDS = ("train ", "evaluate ", "coefficient ")
_EXPLAINED = {
    "change": ("change per round", "how far the coefficients moved: good near 0"),
    "share over the limit": (
        "share over the limit",
        "people whose part was shortened to bound it:\ngood if small; each biases the model",
    ),
}
"""What a model of the project itself measures: its title, what it is, and what is good."""
_FEW = 30
"""Rounds up to which each is marked by a point."""


def draw_answer(release: FederatedRelease) -> Figure:
    """Draw totals or coefficients of all sites together, with the error bars that they have."""
    sites = len(release.outcome.history[-1].summed) if release.outcome.history else 0
    if release.outcome.kind == "model" and release.outcome.answer is not None:
        return draw_coefficients(release.outcome.answer, mock=release.mock)
    label = PrivacyLabel(
        mechanism="", epsilon="0", delta="0", unit="", budget="", mock=release.mock
    )
    whole = SiteRelease(site=f"{sites} sites together", answer=release.outcome.answer, label=label)
    return draw_release(Release(request="", digest="", parts=(whole,)))


def draw_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, mock: bool = False
) -> Figure:
    """Draw metrics by round; ``train loss`` and ``evaluate loss`` share a panel.

    Parameters
    ----------
    curves
        By metric, the numbers of rounds and the values.
    mock
        Whether they come from mock twins, which is said below.
    """
    with legible():
        return _draw_curves(curves, mock=mock)


def _draw_curves(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, mock: bool
) -> Figure:
    panels: dict[str, list[tuple[str, Sequence[int], Sequence[float]]]] = {}
    for name, (numbers, values) in curves.items():
        kind = next((kind for kind in _KINDS if name.startswith(kind)), "")
        what = name.removeprefix(kind)
        title, line = ("coefficients", what) if kind == _KINDS[2] else (what, kind.strip())
        panels.setdefault(title, []).append((line, numbers, values))
    drawn = list(panels.items())[:_MOST_PANELS]
    width, height = _PANEL
    figure, axes = plt.subplots(
        1,
        max(len(drawn), 1),
        figsize=(width * max(len(drawn), 1), height),
        squeeze=False,
        layout="constrained",
    )
    for panel, (title, lines) in zip(axes[0], drawn, strict=False):
        for line, numbers, values in lines[:_MOST_LINES]:
            marker = "o" if len(numbers) <= _FEW else ""
            panel.plot(numbers, values, marker=marker, markersize=3, label=_label(line) or None)
        name, meaning = _EXPLAINED.get(title, (title, ""))
        panel.set_title(_label(name), fontsize="large")
        panel.set_xlabel(f"round\n{meaning}" if meaning else "round")
        panel.tick_params(colors=INK)
        panel.grid(axis="y")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
        if any(line for line, _, _ in lines):
            panel.legend(frameon=False, fontsize="small")
    if mock:
        figure.supxlabel("mock twins: synthetic rows", fontsize="medium")
    plt.close(figure)  # the notebook shows what is returned; an open figure would show twice
    return figure


def _label(text: str) -> str:
    """Write text as it is: matplotlib would read what stands between dollars as TeX."""
    return brief(text, 60).replace("$", r"\$")
