"""That no character of a cell is hidden from whoever decides about it."""

from __future__ import annotations

import ast
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privnb.widgets.visible import ESCAPE, code_lines, difference_lines, visible


def text_of(line):
    return "".join(text for _, text in line)


def test_code_is_highlighted_line_by_line():
    first, second = code_lines("@memo\ndef f(x): return 'a' + 1  # one\n")
    assert first == [("decorator", "@memo")]
    assert ("keyword", "def") in second
    assert ("name", "f") in second
    assert ("string", "'a'") in second
    assert ("comment", "# one") in second


@pytest.mark.parametrize(
    ("character", "escape"),
    [
        ("\u202e", r"\u202e"),
        ("\u200b", r"\u200b"),
        ("\x00", r"\x00"),
        ("\x0c", r"\x0c"),
        ("\ufeff", r"\ufeff"),
        ("\u3164", r"\u3164"),
        ("\ufe0f", r"\ufe0f"),
        ("\U0001d159", r"\U0001d159"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_cannot_be_seen_is_written_as_its_escape(character, escape):
    assert visible(f"a{character}b") == f"a{escape}b"
    (line,) = code_lines(f"x = 'a{character}b'")
    assert (ESCAPE, escape) in line


def test_a_lone_carriage_return_does_not_hide_code_in_a_comment():
    source = "# harmless\rx = 1\r\ny = 2\n"
    lines = code_lines(source)
    assert [text_of(line) for line in lines] == ["# harmless", "x = 1", "y = 2"]
    assert [node.lineno for node in ast.parse(source).body] == [2, 3]


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\u2028", "\x85"])
def test_only_line_ends_of_python_begin_lines(end):
    assert len(code_lines(f"a{end}b")) == 1


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"]), max_size=80))
def test_everything_a_cell_says_is_shown(source):
    shown = "\n".join(text_of(line) for line in code_lines(source))
    plain = source.replace("\r\n", "\n").replace("\r", "\n")
    assert shown == visible(plain.removesuffix("\n") if plain != "\n" else "")
    seen = [c for c in shown if c not in "\n\t"]
    assert not any(unicodedata.category(c)[0] == "C" for c in seen)


def test_an_added_line_that_looks_like_a_heading_is_an_added_line():
    lines = difference_lines("--- earlier\n+++ this one\n@@ -1 +1,2 @@\n a\n+++evil()\n--b")
    assert [sign for sign, _ in lines] == ["@", "@", "@", " ", "+", "-"]
    assert text_of(lines[4][1]) == "++evil()"


def test_an_empty_difference_has_no_lines():
    assert difference_lines("") == []


@pytest.mark.parametrize("source", ["(" * 60_000, "f'{" * 20_000, "\\" * 60_000, "\n" * 60_000])
def test_hostile_code_of_the_greatest_length_is_split_up(source):
    assert "".join(text_of(line) for line in code_lines(source)) == source.replace("\n", "")
