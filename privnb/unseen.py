"""Characters of which nothing is seen, or that move others: where a text could hide what it says.

Letters that look like others are not among them: nobody can list those.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "brief",
    "clean",
    "escaped",
    "has_clear_edges",
    "in_quotes",
    "is_seen",
    "moves_others",
]

_PRINTABLE_BUT_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Joiners, fillers, blank Braille, variation selectors: Python calls them printable."""

_RIGHT_TO_LEFT = ("R", "AL", "AN")
"""Bidirectional classes (Unicode's annex 9) of letters and digits that turn what is around them."""

_LINE_END = re.compile(r"\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def is_seen(character: str) -> bool:
    """Tell whether something is seen of a character, and it is no control of any kind."""
    return character.isprintable() and character not in _PRINTABLE_BUT_UNSEEN


def moves_others(character: str) -> bool:
    """Tell whether a letter or digit is written from right to left: its neighbours change places.

    >>> moves_others("a"), moves_others(chr(0x5D0))
    (False, True)
    """
    return unicodedata.bidirectional(character) in _RIGHT_TO_LEFT


def escaped(character: str) -> str:
    """Write a character as Python's escape of it."""
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def has_clear_edges(text: str) -> bool:
    """Tell whether one sees where a text begins and ends: it has no blank there, and no quote."""
    return text == text.strip() and text[:1] not in ("", '"')


def in_quotes(text: str) -> str:
    """Put text into quotes; those within it are doubled.

    >>> in_quotes('a "b" ')
    '"a ""b"" "'
    """
    return '"' + text.replace('"', '""') + '"'


def clean(text: object) -> str:
    """Make text from elsewhere one line without controls or characters that are not seen.

    Line ends become blanks, so that no text can add a line to what is shown. Letters that are
    written from right to left stay, as whole languages are.

    >>> clean("a" + chr(0x202E) + "b" + chr(27) + "[31m" + chr(10) + "c")
    'a�b�[31m c'
    """
    line = _LINE_END.sub(" ", str(text))
    return "".join(c if is_seen(c) else "�" for c in line)


def brief(text: object, most: int = 500) -> str:
    """Make text from elsewhere harmless as `clean` does, and no longer than ``most`` characters.

    >>> brief("a" * 9, 4)
    'aaa…'
    """
    text = str(text)
    return clean(text) if len(text) <= most else f"{clean(text[: most - 1])}…"
