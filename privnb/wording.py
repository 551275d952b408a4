"""Words for several things, as a person puts them together."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed"]


def listed(words: Sequence[str]) -> str:
    """Join one word or more.

    >>> listed(["northside"]), listed(["northside", "riverside", "lakeside"])
    ('northside', 'northside, riverside and lakeside')
    """
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
