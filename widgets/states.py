"""How a state looks: a word that says it, a mark before it for the eye, a tone that colours both.

The colour repeats what the word says, for those who see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb.markup import MUTED, Html, tag

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Look", "Tone", "look", "state_for_widget", "state_html", "state_text"]

Tone: TypeAlias = Literal["good", "warn", "bad", "quiet"]
Look: TypeAlias = tuple[str, Tone]
"""A mark of one character, and a tone."""

_COLOURS: Mapping[Tone, str] = {
    "good": "color:var(--jp-success-color1,#2e7d32)",
    "warn": "color:var(--jp-warn-color1,#c77700)",
    "bad": "color:var(--jp-error-color1,#d32f2f)",
    "quiet": MUTED,
}


def look(looks: Mapping[str, Look], state: str) -> Look:
    """Return how a state looks; one that nobody told us of looks quiet."""
    return looks.get(state, ("·", "quiet"))


def state_text(look: Look, word: str) -> str:
    """Write a state as plain text.

    >>> state_text(("✓", "good"), "granted")
    '✓ granted'
    """
    return f"{look[0]} {word}"


def state_html(look: Look, word: str) -> Html:
    """Draw a state; the mark is not read out."""
    mark, tone = look
    style = f"white-space:nowrap;font-weight:600;{_COLOURS[tone]}"
    return tag("span", tag("span", f"{mark} ", aria_hidden="true"), word, style=style)


def state_for_widget(look: Look, word: str) -> dict[str, str]:
    """Describe a state for ``state()`` of the widgets' shared script."""
    return {"mark": look[0], "word": word, "tone": look[1]}
