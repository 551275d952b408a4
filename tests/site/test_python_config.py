"""What an owner says of Python cells in site.toml, and how mistakes in it are told."""

from __future__ import annotations

import pytest

from privnb.computation import Computation, Federation
from privnb.errors import ConfigError
from privnb.site.config import load_config

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "exchange"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 5
delta = 1e-6
total_epsilon = 10
purposes = ["research", "teaching"]
[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.age]
type = "integer"
bounds = [0, 100]
"""
TEMPLATE = """
[python]
[templates.by_age]
source = "by_age.py"
tables = ["visits"]
[templates.by_age.parameters.age]
type = "integer"
bounds = [18, 65]
"""
CELL = "visits[visits.age >= age].shape[0]\n"


@pytest.fixture
def load(tmp_path):
    (tmp_path / "by_age.py").write_text(CELL)

    def load(more: str):
        (tmp_path / "site.toml").write_text(SITE + more)
        return load_config(tmp_path)

    return load


def test_without_the_section_no_python_is_taken(load):
    config = load("")
    assert config.python is None
    assert config.templates == ()


def test_an_empty_section_takes_python_with_careful_defaults(load):
    python = load("[python]\n").python
    assert "pandas" in python.packages
    assert python.min_units == 10
    assert not python.allow_unsandboxed


def test_the_owner_s_words_count(load):
    python = load('[python]\npackages = ["numpy"]\nseconds = 5\nmin_units = 3\n').python
    assert (python.packages, python.seconds, python.min_units) == (("numpy",), 5, 3)


def computation(**changes):
    said = {"source": CELL, "tables": ("visits",), "parameters": {"age": 40}, "purpose": "research"}
    return Computation(kind="python", **(said | changes))


def test_no_template_is_released_over_several_sites(load):
    """What a template gives at one site alone was looked at by the owner, and not its sums."""
    (template,) = load(TEMPLATE).templates
    several = Federation(sites=("a", "b", "c"), threshold=2)
    assert not template.covers(computation(federation=several))


def test_a_template_covers_its_own_text_with_parameters_it_allows(load):
    (template,) = load(TEMPLATE).templates
    assert template.covers(computation())
    assert template.covers(computation(purpose="teaching"))


@pytest.mark.parametrize(
    "changes",
    [
        {"source": CELL + " "},
        {"source": CELL.replace(">=", ">")},
        {"tables": ("visits", "visits")},
        {"output": "age"},
        {"purpose": "marketing"},
        {"parameters": None},
        {"parameters": {"age": 17}},
        {"parameters": {"age": 66}},
        {"parameters": {"age": 40.5}},
        {"parameters": {"age": True}},
        {"parameters": {"age": "40"}},
        {"parameters": {"age": [40]}},
        {"parameters": {"age": 40, "more": 1}},
    ],
)
def test_a_template_covers_nothing_else(load, changes):
    (template,) = load(TEMPLATE).templates
    assert not template.covers(computation(**changes))


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        ("[python]\nsecond = 5\n", 18, "Did you mean 'seconds'"),
        ("[python]\nseconds = 0\n", 18, "at least 1"),
        ('[python]\npackages = ["numpy==2"]\n', 18, "without a version"),
        (TEMPLATE.replace("[python]\n", ""), 18, "does not take"),
        (TEMPLATE.replace("by_age.py", "nowhere.py"), 20, "cannot be read"),
        (TEMPLATE.replace('["visits"]', '["visit"]'), 21, "no table 'visit'"),
        (TEMPLATE.replace("bounds = [18, 65]", ""), 22, "may be anything"),
        (TEMPLATE.replace('"integer"', '"int"'), 23, "no type 'int'"),
        (TEMPLATE.replace("parameters.age", "parameters.visits"), 22, "cannot be a parameter"),
        (TEMPLATE.replace("templates.by_age]", "templates.By-Age]"), None, "cannot be"),
        (
            TEMPLATE.replace('tables = ["visits"]', 'tables = ["visits"]\npurposes = ["other"]'),
            22,
            "no purpose",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_remedy(load, more, line, said):
    with pytest.raises(ConfigError) as wrong:
        load(more)
    assert said in f"{wrong.value.message} {wrong.value.hint}"
    if line is not None:
        assert f"line {line}:" in wrong.value.message


def test_a_template_that_is_no_python_is_told_with_its_line(load, tmp_path):
    (tmp_path / "by_age.py").write_text("x = 1\nif:\n")
    with pytest.raises(ConfigError, match="line 2 is not Python"):
        load(TEMPLATE)
