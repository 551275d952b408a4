"""Source code as text: the lines that Python sees, and characters that deceive who reads them."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from privnb.unseen import escaped, is_seen, moves_others

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Remark", "clipped", "lines_of", "shown", "text_remarks"]

Remark = tuple[int, int, str, str]
"""How grave it is, 0 the most; the line, from 1; what it is about; and what to say of it."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_LONG_LINE = 200
_FAR = re.compile(r"\S[ \t]{40,}(?=\S)")
_CLIP = 70
_MOST_NAMED = 4


def lines_of(source: str) -> list[str]:
    """Split where Python ends lines (LF, CR LF, CR), and nowhere else."""
    lines = _LINE_END.split(source)
    return lines[:-1] if len(lines) > 1 and not lines[-1] else lines


def shown(text: str) -> str:
    r"""Write every character that is not seen, or that moves others, as its Python escape.

    >>> shown("a" + chr(0x202E) + "b" + chr(27))
    'a\\u202eb\\x1b'
    """
    return "".join(escaped(c) if not is_seen(c) or moves_others(c) else c for c in text)


def clipped(text: str, *, most: int = _CLIP) -> str:
    """Write a piece of code in one line of bounded length, with nothing hidden in it."""
    text = shown(" ".join(text[: most * 4].split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def text_remarks(source: str) -> Iterator[Remark]:
    """Find what the eye misses: invisible and reversing characters, lookalikes, far-off code."""
    for number in _lone_returns(source):
        told = "ends in a bare carriage return: other programs show the next line as part of it"
        yield 0, number, "hidden", told
    for number, line in enumerate(lines_of(source), 1):
        if line.isascii() and line.isprintable() and len(line) <= _LONG_LINE:
            if _FAR.search(line):
                yield 1, number, "far", "has code far to the right, behind many blanks"
            continue
        odd = {c for c in line if not (c.isascii() and c.isprintable()) and c != "\t"}
        hidden = {c for c in odd if not is_seen(c)}
        turned = {c for c in odd - hidden if moves_others(c)}
        foreign = odd - hidden - turned
        if hidden:
            told = f"has characters that are not seen, or that move others: {_names(hidden)}"
            yield 0, number, "hidden", told
        if turned:
            told = "has letters that programs show in another order than Python reads them"
            yield 0, number, "turned", f"{told}: {_names(turned)}"
        if foreign:
            told = f"has characters that may look like others: {_names(foreign)}"
            yield 2, number, "foreign", told
        if len(line) > _LONG_LINE:
            yield 2, number, "long", f"is {len(line):,} characters long: look at all of it"
        if _FAR.search(line):
            yield 1, number, "far", "has code far to the right, behind many blanks"


def _lone_returns(source: str) -> Iterator[int]:
    if "\r" not in source:
        return
    for number, end in enumerate(_LINE_END.finditer(source), 1):
        if end[0] == "\r":
            yield number


def _names(characters: set[str]) -> str:
    names = [_named(c) for c in sorted(characters)]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _named(character: str) -> str:
    name = unicodedata.name(character, "no name").lower()
    sight = f"{character} " if shown(character) == character else ""
    return f"{sight}U+{ord(character):04X} ({name})"
