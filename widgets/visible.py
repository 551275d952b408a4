"""Text as a reviewer has to see it: highlighted code, differences, and what stands in cells.

A control, or a character of which nothing is seen, is written as its Python escape. Letters are
left as they are: those that merely look like others, and those that are written from right to left,
which the style sheet keeps in the order in which Python reads them. Lines end where Python ends
them (LF, CR LF, CR) and nowhere else: a lone CR must not let code look like the rest of a comment.
"""

# Pygments has no types:
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, TypeAlias

from privnb.unseen import escaped, is_seen

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Line", "code_lines", "difference_lines", "visible"]

Line: TypeAlias = list[tuple[str, str]]
"""Pieces of one line: a class for the style sheet, empty for plain text, and the text."""

ESCAPE = "escape"

_LINE_END = re.compile(r"\r\n|\r|\n")


def visible(text: object) -> str:
    r"""Write controls and characters that are not seen as escapes; line ends and tabs stay.

    >>> visible("a" + chr(0x202E) + "b" + chr(0))
    'a\\u202eb\\x00'
    """
    return "".join(piece for _, piece in _pieces("", str(text)))


def code_lines(source: str) -> list[Line]:
    """Split Python code into the lines that Python sees, and each line into highlighted pieces.

    The pieces of all lines together say everything that the source says.
    """
    lines: list[Line] = [[]]
    for kind, text in _tokens(_LINE_END.sub("\n", source)):
        for number, part in enumerate(text.split("\n")):
            if number:
                lines.append([])
            for piece in _pieces(kind, part):
                _append(lines[-1], piece)
    if len(lines) > 1 and not lines[-1]:
        lines.pop()  # a line end at the very end begins no line
    return lines


def difference_lines(difference: str) -> list[tuple[str, Line]]:
    r"""Split a unified difference into lines, each with its sign: ``+``, ``-``, ``@`` or a space.

    >>> difference_lines("@@ -1 +1 @@\n-a\n+b\n")
    [('@', [('', '@@ -1 +1 @@')]), ('-', [('', 'a')]), ('+', [('', 'b')])]
    """
    lines: list[tuple[str, Line]] = []
    within = False  # the files' names stand above the first @@; below it, +++ is an added ++
    for text in _LINE_END.split(difference.rstrip("\r\n")):
        within = within or text.startswith("@@")
        if text.startswith("@@") or not within:
            lines.append(("@", list(_pieces("", text))))
        else:
            lines.append((text[:1], list(_pieces("", text[1:]))))
    return lines if difference.strip() else []


def _append(line: Line, piece: tuple[str, str]) -> None:
    """Add a piece; what looks the same is one piece, so that a page has fewer elements."""
    if line and line[-1][0] == piece[0] != ESCAPE:
        line[-1] = (piece[0], line[-1][1] + piece[1])
    else:
        line.append(piece)


def _pieces(kind: str, text: str) -> Iterator[tuple[str, str]]:
    plain = ""
    for character in text:
        if character in "\n\t" or is_seen(character):
            plain += character
            continue
        if plain:
            yield kind, plain
            plain = ""
        yield ESCAPE, escaped(character)
    if plain:
        yield kind, plain


def _tokens(source: str) -> Iterator[tuple[str, str]]:
    from pygments.lexers.python import PythonLexer  # noqa: PLC0415 - only where code is shown
    from pygments.token import STANDARD_TYPES  # noqa: PLC0415 - only where code is shown

    for _, token, text in PythonLexer().get_tokens_unprocessed(source):
        yield _style(STANDARD_TYPES.get(token, "")), text


@functools.cache
def _style(short: str) -> str:
    """Reduce Pygments' many short names to the few that we colour."""
    exact = {"nf": "name", "nc": "name", "nd": "decorator", "nb": "builtin", "bp": "builtin"}
    return exact.get(short) or {
        "k": "keyword",
        "s": "string",
        "c": "comment",
        "m": "number",
        "o": "operator",
    }.get(short[:1], "")
