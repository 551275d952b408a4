"""Matplotlib figures of releases: noisy values with their error bars, approved ones as they are.

What is drawn of numbers is legible on light and on dark paper: its ground is transparent.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from privnb.errors import UnknownName
from privnb.rendering import aggregate_text
from privnb.tabular import part_frame
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from privnb.computation import Scalar
    from privnb.release import Answer, Release, SiteRelease

__all__ = ["INK", "draw_coefficients", "draw_release", "legible"]

_PANEL = (4.6, 3.6)
"""Inches per aggregate."""
_WIDEST = 16
"""Inches of a figure of figures."""
_MOST_PANELS = 6
_MOST_BARS = 40
"""Groups up to which there are bars; above, a line."""
_LONGEST_LABEL = 60
_BESIDE = 40
"""Characters that the labels of all groups may have below bars; with more, bars lie beside them."""
_LYING = 0.3
"""Inches per group of bars that lie."""

INK = "#808080"
"""At least 3.9 to 1 against white, and against JupyterLab's dark paper."""
_LEGIBLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "figure.facecolor": "none",
    "legend.labelcolor": INK,
}


def legible() -> AbstractContextManager[None]:
    """Let what is drawn within be read on light and on dark paper."""
    return plt.rc_context(_LEGIBLE)


@dataclass(frozen=True, kw_only=True)
class _Series:
    """The values of one site for one panel, by group."""

    site: str
    groups: Sequence[str]
    values: Sequence[float]
    errors: Sequence[float]
    """Half-widths of 95 % intervals; NaN where there is none."""


def draw_release(release: Release) -> Figure:
    """Draw one panel per column of numbers: a bar per group and site.

    Groups are labelled with their keys. Noisy values have a whisker for their 95 % interval where
    there is one, and the figure says below that they are noisy, or that they come from mock twins.
    Figures that sites released are shown side by side.
    """
    if any(part.output is not None and part.output.kind == "figure" for part in release.parts):
        figure = _draw_pictures(release)
    else:
        with legible():
            figure = _draw_panels(release)
    plt.close(figure)  # the notebook shows what is returned; an open figure would show twice
    return figure


def _draw_panels(release: Release) -> Figure:
    series: dict[str, list[_Series]] = {}
    for part in release.parts:
        read = _noisy(part.site, part.answer) if part.answer is not None else _exact(part)
        for name, one in read.items():
            series.setdefault(name, []).append(one)
    if not series:
        raise UnknownName(
            "There is no column of numbers to draw.",
            hint="Add an aggregate, such as COUNT(*); in Python, let out numbers.",
        )
    names = list(series)[:_MOST_PANELS]
    groups = list(dict.fromkeys(g for each in series.values() for one in each for g in one.groups))
    width, height = _PANEL
    lying = 1 < len(groups) <= _MOST_BARS and sum(map(len, map(_label, groups))) > _BESIDE
    if lying:
        thickest = max(map(len, series.values()))
        height = max(height, 1 + _LYING * len(groups) * max(1, thickest / 2))
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(width * len(names) + (2 if lying else 0), height),
        squeeze=False,
        sharey=lying,
        layout="constrained",
    )
    if lying:
        panels[0][0].invert_yaxis()  # the first group on top
    for panel, name in zip(panels[0], names, strict=True):
        _draw_column(panel, name, series[name], groups, lying=lying)
    if len(release.parts) > 1:
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(_origin(release), fontsize="medium")
    return figure


def _origin(release: Release) -> str:
    noisy = any(part.answer is not None for part in release.parts)
    if release.mock:
        source = "mock twin: synthetic values"
    else:
        source = "noisy values" if noisy else "exact values, approved by the site"
    return f"{source}; whiskers: 95 % intervals" if noisy else source


def _draw_column(
    panel: Axes, name: str, series: Sequence[_Series], groups: Sequence[str], *, lying: bool
) -> None:
    thickness = 0.8 / len(series)
    place = {group: number for number, group in enumerate(groups)}
    for number, one in enumerate(series):
        places = np.array([place[group] for group in one.groups], dtype=float)
        if len(groups) > _MOST_BARS:
            panel.plot(places, one.values, label=_label(one.site))
            continue
        places += (number - (len(series) - 1) / 2) * thickness
        bars: Any = panel.barh if lying else panel.bar
        bars(
            places,
            one.values,
            thickness * 0.92,
            label=_label(one.site),
            **{"xerr" if lying else "yerr": one.errors},
            capsize=3,
            ecolor=INK,
            alpha=0.75,
        )
    panel.set_title(_label(name), fontsize="large")
    (panel.xaxis if lying else panel.yaxis).set_major_formatter("{x:,.10g}")
    panel.tick_params(labelsize="medium", colors=INK)
    panel.grid(axis="x" if lying else "y")
    labels = [_label(group) for group in groups]
    if lying:
        panel.set_yticks(range(len(labels)), labels)
        panel.tick_params(axis="x", rotation=20)
    elif len(groups) <= _MOST_BARS:
        panel.set_xticks(range(len(labels)), labels)
    panel.spines[["top", "right"]].set_visible(False)
    (panel.axvline if lying else panel.axhline)(0, color=INK, linewidth=0.8)


def draw_coefficients(answer: Answer, *, mock: bool = False) -> Figure:
    """Draw each coefficient as a dot with its 95 % interval, beside zero and its own numbers.

    Each has a scale of its own, since a coefficient per year is small beside an intercept.
    """
    with legible():
        figure = _draw_rows(answer, mock=mock)
    plt.close(figure)
    return figure


def _draw_rows(answer: Answer, *, mock: bool) -> Figure:
    keys = [i for i, column in enumerate(answer.columns) if column.role == "key"]
    at = next(i for i, column in enumerate(answer.columns) if column.role == "aggregate")
    drawn = [
        (_words([row[i] for i in keys]), row[at], halves[at])
        for row, halves in zip(answer.rows[:_MOST_BARS], answer.half_widths, strict=False)
    ]
    figure, panels = plt.subplots(
        max(len(drawn), 1),
        1,
        figsize=(_PANEL[0] + 2, 0.8 + 0.5 * len(drawn)),
        squeeze=False,
        layout="constrained",
    )
    for (panel,), (name, value, half) in zip(panels, drawn, strict=False):
        panel.set_yticks([0], [_label(name)])
        panel.tick_params(axis="y", length=0, colors=INK)
        panel.tick_params(axis="x", labelbottom=False, length=0)
        panel.spines[:].set_visible(False)
        panel.axvline(0, color=INK, linewidth=0.8)
        written = panel.secondary_yaxis("right")
        written.set_yticks([0], [" ".join(aggregate_text(value, half)).strip()])
        written.tick_params(axis="y", length=0, colors=INK)
        written.spines[:].set_visible(False)
        panel.set_xlim(-1, 1)
        if isinstance(value, int | float) and math.isfinite(value):
            panel.errorbar([value], [0], xerr=[half or 0], fmt="o", capsize=4)
            widest = 1.15 * (abs(value) + (half or 0)) or 1
            panel.set_xlim(-widest, widest)  # zero is below zero
        panel.set_ylim(-1, 1)
    source = "mock twin: synthetic values" if mock else "noisy values"
    words = f"{source}; whiskers: 95 % intervals; line: 0; each on its own scale"
    figure.supxlabel(words, fontsize="medium")
    return figure


def _noisy(site: str, answer: Answer) -> dict[str, _Series]:
    keys = [i for i, column in enumerate(answer.columns) if column.role == "key"]
    series = {}
    for position, column in enumerate(answer.columns):
        if column.role == "key":
            continue
        drawn = [
            (_words([row[i] for i in keys]), float(value), halves[position])
            for row, halves in zip(answer.rows, answer.half_widths, strict=True)
            if isinstance(value := row[position], int | float)
        ]
        series[column.name] = _Series(
            site=site,
            groups=[group for group, _, _ in drawn],
            values=[value for _, value, _ in drawn],
            errors=[np.nan if error is None else error for _, _, error in drawn],
        )
    return series


def _exact(part: SiteRelease) -> dict[str, _Series]:
    """Read a table: numbers are drawn, by the index and the text beside them."""
    frame = part_frame(part)
    index = [c.name for c in part.output.columns if c.role == "index"] if part.output else []
    numbers = [c for c in frame.columns if c not in index and _is_numeric(frame[c])]
    keys = [name for name in frame.columns if name in index or name not in numbers]
    groups = (
        [_words([None if pd.isna(k) else k for k in row]) for row in frame[keys].to_numpy()]
        if keys
        else [str(number) for number in range(len(frame))]
    )
    if len(frame) == 1 and not keys:
        groups = ["all"]
    return {
        str(name): _Series(
            site=part.site,
            groups=groups,
            values=frame[name].to_numpy(dtype=float, na_value=np.nan).tolist(),
            errors=[np.nan] * len(frame),
        )
        for name in numbers
    }


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _draw_pictures(release: Release) -> Figure:
    pictures = [
        (part.site, plt.imread(io.BytesIO(value), format="png"))
        for part in release.parts
        if part.output is not None and isinstance(value := part.output.value(), bytes)
    ]
    width = sum(picture.shape[1] for _, picture in pictures) / 100
    height = max(picture.shape[0] for _, picture in pictures) / 100
    scale = min(1, _WIDEST / max(width, height))
    figure, panels = plt.subplots(
        1,
        len(pictures),
        figsize=(width * scale, height * scale),
        squeeze=False,
        layout="constrained",
    )
    for panel, (site, picture) in zip(panels[0], pictures, strict=True):
        panel.imshow(picture)
        panel.set_axis_off()
        if len(pictures) > 1:
            panel.set_title(_label(site), fontsize="large")
    if release.mock:
        figure.supxlabel(_origin(release), fontsize="medium", color="gray")
    return figure


def _words(keys: Sequence[Scalar]) -> str:
    return ", ".join("(none)" if key is None else str(key) for key in keys) or "all"


def _label(text: str) -> str:
    """Write text of a site as it is: matplotlib would read what stands between dollars as TeX."""
    return brief(text, _LONGEST_LABEL).replace("$", r"\$")
