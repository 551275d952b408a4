"""Matplotlib figures of releases, with their error bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from privnb.errors import UnknownName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from privnb.computation import Scalar
    from privnb.release import Release, SiteRelease

__all__ = ["draw_release"]

_PANEL = (4.6, 3.6)
"""Inches per aggregate."""


def draw_release(release: Release) -> Figure:
    """Draw one panel per aggregate: a bar per group and site, a whisker for its 95 % interval.

    Groups are labelled with their keys. A value without an interval has no whisker. The figure
    says below that values are noisy, or that they come from mock twins.
    """
    names = [column.name for column in release.parts[0].answer.columns if column.role != "key"]
    if not names:
        raise UnknownName("There is no aggregate to draw.", hint="Add one, such as COUNT(*).")
    groups = list(dict.fromkeys(key for part in release.parts for key in _keys(part)))
    width, height = _PANEL
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(width * len(names), height),
        squeeze=False,
        layout="constrained",
    )
    for panel, name in zip(panels[0], names, strict=True):
        _draw_aggregate(panel, release, name, groups)
    if len(release.parts) > 1:
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    source = "mock twin: synthetic values" if release.mock else "noisy values"
    figure.supxlabel(f"{source}; whiskers: 95 % intervals", fontsize="medium", color="gray")
    plt.close(figure)  # the notebook shows what is returned; an open figure would show twice
    return figure


def _draw_aggregate(panel: Axes, release: Release, name: str, groups: list[str]) -> None:
    thickness = 0.8 / len(release.parts)
    for number, part in enumerate(release.parts):
        position = next(i for i, c in enumerate(part.answer.columns) if c.name == name)
        places, heights, errors = [], [], []
        for key, row, half in zip(
            _keys(part), part.answer.rows, part.answer.half_widths, strict=True
        ):
            value = row[position]
            if not isinstance(value, int | float):
                continue
            places.append(groups.index(key) + (number - (len(release.parts) - 1) / 2) * thickness)
            heights.append(float(value))
            errors.append(np.nan if (error := half[position]) is None else error)
        panel.bar(places, heights, thickness * 0.92, label=part.site, yerr=errors, capsize=3)
    panel.set_title(name, fontsize="large")
    panel.yaxis.set_major_formatter("{x:,.10g}")
    panel.tick_params(labelsize="medium")
    panel.set_xticks(range(len(groups)), groups, rotation=20 if max(map(len, groups)) > 8 else 0)  # noqa: PLR2004 - characters that fit under a bar
    panel.spines[["top", "right"]].set_visible(False)
    panel.axhline(0, color="gray", linewidth=0.8)


def _keys(part: SiteRelease) -> list[str]:
    places = [i for i, column in enumerate(part.answer.columns) if column.role == "key"]
    return [_words([row[i] for i in places]) for row in part.answer.rows]


def _words(keys: list[Scalar]) -> str:
    return ", ".join("(none)" if key is None else str(key) for key in keys) or "all"
