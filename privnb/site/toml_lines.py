"""Find the line of every key of a TOML text, so that an error can name it."""

from __future__ import annotations

import re
import tomllib
from typing import Any, TypeAlias

__all__ = ["KeyPath", "locate"]

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys from the top of the document down; the items of an array are numbered from 0."""

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_KEY = re.compile(rf"{_KEY_PART}(?:[ \t]*\.[ \t]*{_KEY_PART})*")
_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\n]+")


def locate(text: str) -> dict[KeyPath, int]:
    r"""Map each key and array item of a *valid* TOML text to its line, counted from 1.

    A table has the line of its header, or of the first key that implies it. The text must have
    been accepted by `tomllib`; for another text the answer means nothing.

    >>> locate('a = 1\n[t]\nb = [2,\n3]')[("t", "b", 1)]
    4
    """
    return _Scanner(text).scan()


class _Scanner:
    """One pass over the text: a method reads from ``self.at`` on and moves it behind."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.lengths: dict[KeyPath, int] = {}
        self._counted_to = 0
        self._line = 1

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK_LINES)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK_LINES)
        return self.lines

    def _header(self) -> KeyPath:
        line = self._line_here()
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        self._skip(_BLANK)
        path = self._resolve((), self._key(), line)
        self._skip(_BLANK)
        self.at += 2 if array else 1
        if array:
            number = self.lengths.get(path, 0)
            self.lengths[path] = number + 1
            self.lines.setdefault(path, line)
            path = (*path, number)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line_here()
        path = self._resolve(table, self._key(), line)
        self.lines[path] = line
        self._skip(_BLANK)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _resolve(self, table: KeyPath, key: list[str], line: int) -> KeyPath:
        """Follow a dotted key; a part that names an array of tables means its last table."""
        path = table
        for part in key[:-1]:
            path = (*path, part)
            self.lines.setdefault(path, line)
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
        return (*path, key[-1])

    def _value(self, path: KeyPath) -> None:
        match self.text[self.at]:
            case "[":
                self._items(path)
            case "{":
                self._inline_table(path)
            case '"' | "'":
                self._skip(_TEXT)
            case _:
                self._skip(_PLAIN)

    def _items(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        while not self._closes("]"):
            self.lines[(*path, number)] = self._line_here()
            self._value((*path, number))
            number += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while not self._closes("}"):
            self._pair(path)

    def _closes(self, bracket: str) -> bool:
        """Step over white space and a comma; tell whether the bracket ended there."""
        self._skip(_BLANK_LINES)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_BLANK_LINES)
        closed = self.text[self.at] == bracket
        self.at += closed
        return closed

    def _key(self) -> list[str]:
        raw = self._skip(_KEY)
        parts: list[str] = []
        tree: Any = tomllib.loads(f"{raw} = 0")
        while isinstance(tree, dict):
            part = next(iter(tree))
            parts.append(part)
            tree = tree[part]
        return parts

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError("The text is not valid TOML.")
        self.at = found.end()
        return found.group()

    def _line_here(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
