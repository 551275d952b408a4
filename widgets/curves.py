"""The curves of a federated run as pictures that are legible on light and on dark paper."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from privnb.federated.progress import Progress

__all__ = ["Picture", "draw"]

_DOTS_PER_INCH = 128
_CSS_PIXELS_PER_INCH = 76
_MOST_PICTURES = 6
_COEFFICIENTS = "coefficient "


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The curves that share their axes."""

    alt: str
    """What is drawn, in words."""
    png: str
    """In base64."""
    width: int
    """How wide it is meant to be, in CSS pixels."""


def draw(progress: Progress) -> tuple[Picture, ...]:
    """Draw every metric of a run by round, up to six pictures; none while nothing was measured.

    What is measured in training and in evaluation shares a picture, as do coefficients.
    """
    together: dict[str, list[str]] = {}
    for name in progress.metrics:
        what = "coefficients" if name.startswith(_COEFFICIENTS) else name.partition(" ")[2] or name
        together.setdefault(what, []).append(name)
    return tuple(
        _picture(progress, what, names) for what, names in list(together.items())[:_MOST_PICTURES]
    )


def _picture(progress: Progress, what: str, names: list[str]) -> Picture:
    from privnb.federated.drawing import draw_curves  # noqa: PLC0415 - it loads pyplot

    figure = draw_curves({name: progress.curve(name) for name in names})
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DOTS_PER_INCH, transparent=True)
    return Picture(
        alt=f"Curve of {visible(what)} by round",
        png=base64.b64encode(png.getvalue()).decode("ascii"),
        width=round(figure.get_figwidth() * _CSS_PIXELS_PER_INCH),
    )
