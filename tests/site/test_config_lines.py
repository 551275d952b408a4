"""The scanner that finds the line of every key of a TOML text."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privnb.site.toml_lines import locate

DOCUMENT = '''\
# a comment with = and [brackets]
name = "a # not a comment"   # line 2
"quoted key" = 'x = 1'
dotted . deep."er.x" = 4
text = """
fake = 1
[fake.table]
\\""" still
"""
after = """ends with quote"\\n""""
literal = \'\'\'
]]} \'\'\'

[tables.visits]  # line 14
bounds = [
  # a comment ] in an array
  0,
  [1, 2],
  { when = { coins = 0, idp.deep = 0 }, value = "}" },
]
when = 2026-01-01T00:00:00Z
[[cases]]
a = 1
[[cases]]
a = 2
  [cases.sub]
  b = 3
[tables]
z = inf
'''


def paths(tree, path=()):
    """Every key path of a parsed document."""
    children = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in children:
        yield (*path, key)
        yield from paths(value, (*path, key))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_key_has_its_line(newline):
    tomllib.loads(DOCUMENT)
    lines = locate(DOCUMENT.replace("\n", newline))
    assert {
        path: lines[path]
        for path in [
            ("name",),
            ("quoted key",),
            ("dotted",),
            ("dotted", "deep", "er.x"),
            ("text",),
            ("after",),
            ("literal",),
            ("tables", "visits"),
            ("tables", "visits", "bounds", 0),
            ("tables", "visits", "bounds", 1, 1),
            ("tables", "visits", "bounds", 2, "when", "idp", "deep"),
            ("tables", "visits", "bounds", 2, "value"),
            ("tables", "visits", "when"),
            ("cases", 0, "a"),
            ("cases", 1),
            ("cases", 1, "sub", "b"),
            ("tables",),
            ("tables", "z"),
        ]
    } == {
        ("name",): 2,
        ("quoted key",): 3,
        ("dotted",): 4,
        ("dotted", "deep", "er.x"): 4,
        ("text",): 5,
        ("after",): 10,
        ("literal",): 11,
        ("tables", "visits"): 14,
        ("tables", "visits", "bounds", 0): 17,
        ("tables", "visits", "bounds", 1, 1): 18,
        ("tables", "visits", "bounds", 2, "when", "idp", "deep"): 19,
        ("tables", "visits", "bounds", 2, "value"): 19,
        ("tables", "visits", "when"): 21,
        ("cases", 0, "a"): 23,
        ("cases", 1): 24,
        ("cases", 1, "sub", "b"): 27,
        ("tables",): 28,
        ("tables", "z"): 29,
    }


def test_the_keys_found_are_exactly_those_that_tomllib_reads():
    assert set(locate(DOCUMENT)) == set(paths(tomllib.loads(DOCUMENT)))


scalars = st.sampled_from(
    ["1", "-2.5", "true", '"a\\"b]"', "'}'", '"""x\ny = 1\n"""', "'''[z]\n'''", "1979-05-27", "nan"]
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # c\n" + ",\n".join(items) + "\n]"),
        st.lists(inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"k{i} = {v}" for i, v in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["", "\n", "# = [\n", "[t{0}]\n", "[[l]]\n"]), values)))
def test_any_document_is_located_wholly_and_in_order(statements):
    text, expected = "", []
    for number, (before, value) in enumerate(statements):
        text += before.format(number)
        expected.append(text.count("\n") + 1)
        text += f"key{number} = {value}\n"
    found = locate(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    starts = {path[-1]: line for path, line in found.items() if str(path[-1]).startswith("key")}
    assert [starts[f"key{number}"] for number in range(len(statements))] == expected
