"""Code in plain words: what it touches, what is odd about it, and what changed."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privnb import wire
from privnb.computation import MAX_SOURCE_BYTES, Computation
from privnb.dp.schema import Column, TableSchema
from privnb.site.scanning.scan import Scan, difference, scan, similarity
from privnb.site.scanning.text import lines_of

PACKAGES = ("numpy", "pandas", "scikit-learn", "statsmodels")
VISITS = TableSchema(
    name="visits",
    columns=tuple(
        Column(name=name, type="integer") for name in ("person", "xage", "mdvis", "plan", "size")
    ),
    privacy_unit="person",
    max_rows_per_unit=5,
    delta=1e-6,
)


def look(source, **fields):
    computation = Computation(
        kind="python", source=source, **({"tables": ("visits",), "purpose": "p"} | fields)
    )
    return scan(computation, packages=PACKAGES, schemas=(VISITS,))


def findings(source, **fields):
    return "\n".join(look(source, **fields).findings)


def test_an_ordinary_model_has_nothing_unusual():
    found = look(
        "import statsmodels.api as sm\n"
        'x = sm.add_constant(visits[["xage", "plan"]])\n'
        "model = sm.GLM(visits.mdvis, x, family=sm.families.Poisson()).fit()\n"
        "model.summary2().tables[1]\n"
    )
    assert found == Scan(
        findings=(),
        imports=("statsmodels.api",),
        columns=("visits.mdvis", "visits.plan", "visits.xage"),
        lines=4,
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("open('/etc/passwd').read()", "line 1: opens a file: open('/etc/passwd')"),
        ("x = 1\neval('x')", "line 2: runs text as code: eval('x')"),
        ("exec(code)", "runs text as code"),
        ("f = eval\nf('1')", "runs text as code"),
        ("__import__('os')", "loads a module by a name made at run time"),
        ("getattr(visits, 'a' + b)", "reaches parts of an object by names made at run time"),
        ("visits.__class__.__base__", "uses Python's inner names: .__class__"),
        ("'__globals__'", "names Python's inner names"),
        ("import os", "line 1: reaches the operating system: import os"),
        ("import subprocess as s", "starts other programs or threads"),
        ("from socket import socket", "reaches the network"),
        ("import ctypes.util", "runs machine code past Python's rules: import ctypes.util"),
        ("import pickle", "rebuilds objects from bytes"),
        ("import numpy as np\nnp.os.getcwd()", "line 2: reaches the operating system, by way of"),
        ("import importlib", "looks into Python itself"),
        ("globals()['x']", "reaches all variables at once"),
        ("pd.read_csv('/data/x.csv')", "reads or writes a file, an address or a text"),
        ("visits.to_csv()", "reads or writes a file, an address or a text"),
        ("import os\nos.system('ls')  # nosec", "line 2: runs a command through the shell"),
        ("try:\n    x\nexcept Exception: pass\nx", "goes on silently after any error"),
        ("import requests", "imports requests, which is not offered here"),
        ("import torch.nn", "imports torch.nn, which is not offered here"),
        ("''.join(chr(i) for i in visits.mdvis)", "encodes values: rows can be hidden"),
        ("f'{visits.mdvis[0]}'", "builds text out of values: f'{visits.mdvis[0]}'"),
        ("'%s' % visits", "builds text out of values"),
        ("visits.mdvis.max()", "may show values of single people"),
        ("visits.person", "names 'person', which tells whose row it is"),
        ("for r in visits.itertuples(): pass", "goes through rows one by one: visits.itertuples()"),
        ("[x for x in visits.mdvis]", "goes through rows one by one: visits.mdvis"),
        ("for i in range(len(visits)): pass", "goes through rows one by one: range(len(visits))"),
        ("visits.apply(f, axis=1)", "goes through rows one by one"),
        ("while True: pass", "may go on without end"),
        ("def f():\n    return 1\n    g()\nf()", "line 3: is never reached: g()"),
        ("if False:\n    x = 1\nx", "line 1: never runs"),
        ("def f(): pass\n1", "makes f, which is never used"),
        ("import numpy\n1", "imports numpy, which is never used"),
        ("x = '" + "a" * 600 + "'\nx", "holds a text of 600 characters"),
        ("x = 1" + " " * 60 + "; import os\nx", "line 1: has code far to the right"),
        ("x = [" + "1, " * 100 + "]\nx", "line 1: is 306 characters long"),
        ("x = 1", "does not end with an expression, so there is no output"),
    ],
)
def test_what_matters_is_said_with_its_line(source, words):
    assert words in findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "visits",
        "visits.head(20)",
        "visits[visits.xage > 90]",
        "visits.iloc[0]",
        "visits.sample(3)",
        "visits.to_dict()",
        "visits.values",
        "visits.xage * 2",
        "[visits.xage.tolist()]",
        "list(visits.xage)",
        "old = visits[visits.xage > 90]\nold.sort_values('mdvis')",
        "pd.DataFrame(visits)",
        "{'rows': visits.mdvis}",
        "sorted(x + 1 for x in visits.mdvis)",
    ],
)
def test_an_output_of_rows_is_said_to_be_one(source):
    assert "lets out rows of the data" in findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "visits.groupby('plan')['mdvis'].mean()",
        "visits.mdvis.mean()",
        "len(visits)",
        "visits.mdvis.sum() / len(visits)",
        "visits = visits.mdvis.mean()\nvisits",
    ],
)
def test_a_summary_is_not_said_to_be_rows(source):
    assert "lets out rows" not in findings(source)
    assert "cannot tell whether" not in findings(source)


def test_a_declared_variable_is_looked_at_instead_of_the_last_expression():
    source = "table = visits.head()\n1"
    assert "line 1: lets out rows of the data" in findings(source, output="table")
    assert "lets out rows" not in findings(source)
    assert "cannot tell where missing gets its value" in findings(source, output="missing")


@pytest.mark.parametrize(
    ("source", "columns", "why"),
    [
        ("visits.mdvis.mean()", ("visits.mdvis",), None),
        ("visits['mdvis'].mean()", ("visits.mdvis",), None),
        ("visits.loc[visits.xage > 9, 'mdvis'].mean()", ("visits.mdvis", "visits.xage"), None),
        ("visits[visits.xage > 9].mdvis.mean()", ("visits.mdvis", "visits.xage"), None),
        ("smf.ols('mdvis ~ C(plan)', data=visits)", ("visits.mdvis", "visits.plan"), "all columns"),
        ("visits[names].mean()", (), "computes the names of columns"),
        ("visits['x' + 'age'].mean()", (), "computes the names of columns"),
        ("visits[f'{a}'].mean()", (), "computes the names of columns"),
        ("visits.describe()", (), "uses all columns"),
        ("f(visits)", (), "uses all columns"),
    ],
)
def test_columns_are_told_or_it_is_said_that_they_cannot_be(source, columns, why):
    found = look(source)
    told = "\n".join(found.findings)
    if why is None:
        assert found.columns == columns
        assert "cannot tell which columns" not in told
    else:
        assert found.columns == ("visits: all", *columns)
        assert "cannot tell which columns of visits are used" in told
        assert why in told


def test_columns_of_tables_that_the_cell_does_not_get_are_not_told():
    assert look("visits.mdvis.mean()", tables=("other",)).columns == ()


def test_imports_are_told_with_whether_they_are_there():
    found = look("import json, httpx\nfrom sklearn.svm import SVC\nfrom . import x\nSVC")
    assert found.imports == (
        "json (part of Python)",
        "httpx (not offered)",
        "sklearn.svm",
        ". (not offered)",
    )


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u202e", "U+202E (right-to-left override)"),
        ("\u2066", "U+2066 (left-to-right isolate)"),
        ("\u200b", "U+200B (zero width space)"),
        ("\u00ad", "U+00AD (soft hyphen)"),
        ("\u3164", "U+3164 (hangul filler)"),
        ("\ufe0f", "U+FE0F (variation selector-16)"),
        ("\x1b", "U+001B (no name)"),
        ("\x0c", "U+000C (no name)"),
    ],
)
def test_characters_that_are_not_seen_are_named_and_never_printed(character, name):
    found = look(f"x = 'a{character}b'  # {character}\nx + open(x)")
    assert found.findings[0].startswith("line 1: has characters that are not seen")
    assert name in found.findings[0]
    assert character not in wire.encode(found).decode()


def test_letters_that_look_like_others_are_named():
    assert "line 1: has characters that may look like others: а U+0430 (cyrillic small" in findings(  # noqa: RUF001 - that is what is found
        "p\u0430ndas = 1\np\u0430ndas"
    )


@pytest.mark.parametrize("letter", ["\u05d0", "\u0627", "\u0661"])
def test_letters_that_turn_code_around_are_said_first_and_written_as_escapes(letter):
    found = look(f"total = visits.mdvis.mean()\nround(total - {letter!r})\n")
    assert found.findings[0].startswith("line 2: has letters that programs show in another order")
    assert f"U+{ord(letter):04X}" in found.findings[0]
    assert letter not in wire.encode(found).decode()


def test_code_behind_a_bare_carriage_return_is_not_part_of_the_comment():
    found = findings("# harmless\rimport os\rx")
    assert "line 1: ends in a bare carriage return" in found
    assert "line 2: reaches the operating system: import os" in found


def test_lines_end_where_python_ends_them():
    assert lines_of("a\r\nb\rc\nd\u2028e\x0cf\n") == ["a", "b", "c", "d\u2028e\x0cf"]


def test_code_that_python_cannot_read_is_said_to_be_so():
    assert "Python cannot read this code" in findings("def f(:\n")
    assert "Python cannot read this code" in findings("x = '\0'")


NASTY = {
    "minus": "-" * 60000 + "1",
    "not": "not " * 15000 + "1",
    "lambda": "lambda:" * 9000 + "1",
    "brackets": "(" * 60000,
    "attributes": "a" + ".b" * 30000,
    "attributes that parse": "visits" + ".b" * 900,
    "calls": "a" + "()" * 30000,
    "sum": "+".join(["visits"] * 9000),
    "sum that parses": "+".join(["visits.mdvis"] * 900),
    "conditional": "x if y else " * 5000 + "1",
    "elif": "if 1: pass\n" + "elif 1: pass\n" * 5000,
    "elif that parses": "if 1: pass\n" + "elif 1: pass\n" * 200,
    "many calls": "a()\n" * 16000,
    "many names": "visits," * 9000,
    "many evals": "eval('x')\n" * 6000,
    "many imports": "import os as b\n" * 4000,
    "long alias": "import " + "x" * 30000 + " as a\n" + "a.b()\n" * 5000,
    "blanks": "x" + " " * 65000 + "y",
    "blank blocks": ("x" + " " * 39) * 1600,
    "lines": "(\n" + "\n" * 60000 + "1)",
    "returns": "\r" * 65000,
    "hidden": "\u202e" * 20000,
    "indents": "\n".join(" " * i + "if 1:" for i in range(99)) + "\n" + " " * 99 + "pass",
    "texts": "'select ' " * 6000,
    "assignments": "a=" * 30000 + "visits",
    "loops": "for x in visits: pass\n" * 2900,
    "comprehensions": "[x for x in " * 60 + "visits" + "]" * 60,
    "escapes": "'\\d'\n" * 10000,
    "digits": "9" * 60000,
    "zero": "\0",
    "empty": "",
    "nothing": "# nothing",
    "surrogate": "x = '\ud800'\nx",
    "match": "match x:\n case " + "|".join(["1"] * 20000) + ": pass",
    "f-strings": "f'{f\"{x}\"}'\n" * 3000,
}


@pytest.mark.parametrize("name", NASTY)
def test_any_code_is_scanned(name):
    found = look(NASTY[name][:MAX_SOURCE_BYTES])
    assert len(found.findings) <= 121
    assert all(len(words) < 500 for words in found.findings)
    assert len(wire.encode(found)) < 200_000


WORDS = """visits .mdvis ['xage'] .head() .mean() ( ) [ ] { } : = + - * ** . , lambda for in if else
import os from def class return while try except with open eval f'{x}' 'text' # @ await async
match case yield := ... 0 1.5"""
PIECES = st.sampled_from([*WORDS.split(), "\\", "\u202e", "\u00e9", "\n", "\r", "\t", "    "])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.lists(PIECES, max_size=60).map(" ".join))
def test_arbitrary_text_is_scanned_and_shown_safely(source):
    found = look(source)
    assert found == look(source)
    assert found.lines == len(lines_of(source))
    for words in (*found.findings, *found.imports, *found.columns):
        assert words.isprintable()


def test_a_scan_travels_as_it_is():
    found = look("import os\nvisits.head()")
    assert wire.decode(Scan, wire.encode(found), what="the scan") == found


# Differences


def computation(source, **fields):
    return Computation(kind="python", source=source, **fields)


def test_a_difference_shows_changed_lines_and_nothing_where_nothing_changed():
    before, after = computation("a\nb\nc\n"), computation("a\nB\nc\n")
    assert difference(before, after).split("\n") == [
        "--- earlier",
        "+++ this one",
        "@@ -1,3 +1,3 @@",
        " a",
        "-b",
        "+B",
        " c",
    ]
    assert difference(before, before) == ""


def test_a_difference_shows_what_goes_with_the_code():
    before = computation("a", purpose="p", tables=("visits",), parameters={"x": 1, "y": "u"})
    after = computation("a", purpose="q", tables=("visits",), parameters={"x": 2}, output="t")
    assert difference(before, after).split("\n") == [
        "@@ what goes with the code @@",
        "-purpose: p",
        "+purpose: q",
        "-output: the last expression",
        "+output: t",
        "-parameter x: 1",
        "+parameter x: 2",
        '-parameter y: "u"',
    ]


def test_code_too_long_to_compare_is_said_to_be_so():
    before, after = computation("a\n" * 20000), computation("b\n" * 20001)
    assert difference(before, after) == "@@ too long to compare: 20,000 and 20,001 lines @@"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_two_cells_can_be_compared(before, after):
    assert 0 <= similarity(before, after) <= 1
    told = difference(computation(before), computation(after))
    assert (told == "") == (lines_of(before) == lines_of(after))


def test_no_name_can_add_lines_to_a_difference():
    earlier = Computation(kind="python", source="1", parameters={"k": 1}, purpose="p")
    later = dataclasses.replace(
        earlier,
        parameters={"k": 1, "z\n-parameter seed: 7\r+parameter seed": 8},
        output="m\n-purpose: p\n+purpose: approved-by-ethics-board",
        tables=("a\n+b",),
    )
    lines = re.split(r"[\r\n]", difference(earlier, later))
    assert [line.partition(": ")[0] for line in lines] == [
        *("@@ what goes with the code @@", "-tables", "+tables", "-output", "+output"),
        r"+parameter z\n-parameter seed",
    ]
