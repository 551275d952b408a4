"""Numbered identifiers are seen in outputs, and counts and positions are not taken for them."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from privnb.output import declare
from privnb.site.config import load_config
from privnb.site.data.tables import Tables
from privnb.site.gate import judge
from privnb.site.python_config import PythonConfig

COUNT = 120
SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[tables.people]
source = "people.parquet"
privacy_unit = "person"
max_rows_per_unit = 1
delta = 1e-6
total_epsilon = 10
purposes = ["research"]

[tables.people.columns.person]
type = "integer"
[tables.people.columns.age]
type = "integer"
bounds = [0, 120]
[tables.people.columns.income]
type = "float"
bounds = [0, 1e6]
"""
DRAW = random.Random(2026)  # noqa: S311 - test data
ROWS = {
    "person": list(range(1, COUNT + 1)),
    "age": [DRAW.randrange(20, 30) for _ in range(COUNT)],
    "income": [DRAW.uniform(20_000, 90_000) for _ in range(COUNT)],
    # Hidden:
    "bed": DRAW.sample(range(301, 301 + COUNT), COUNT),
}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    (directory / "site.toml").write_text(SITE)
    pyarrow.parquet.write_table(pa.table(ROWS), directory / "people.parquet")
    with Tables.open(load_config(directory), state=directory / "state") as tables:
        yield tables.frames


@pytest.fixture(scope="module")
def people(frames):
    """What a cell is given, and two columns that it must never have."""
    rows = frames.frame("people", purpose="research").to_pandas()
    for name in ("person", "bed"):
        rows[name] = rows.income.map(dict(zip(ROWS["income"], ROWS[name], strict=True)))
    return rows


@pytest.fixture
def hidden_in(frames):
    schema = load_config(frames._config.directory).tables[0].schema

    def look(value: object) -> list[str]:
        found = judge(
            declare(value),
            limits=PythonConfig(min_units=3),
            schemas={"people": schema},
            purpose="research",
            counts=frames,
        )
        return [finding for finding in found if "holds the values of" in finding]

    return look


UNIT = "people.person, which is the privacy unit."
COPIES = {
    "all of them": lambda v: v.person.rename("n"),
    "in another order": lambda v: v.person.sort_values(ascending=False).to_numpy(),
    "as text": lambda v: v.person.astype(str).to_numpy(dtype=object),
    "as floats": lambda v: v.person / 1.0,
    "in an index": lambda v: v.set_index("person").age,
    "most of them": lambda v: v.person.sample(90, random_state=1).to_numpy(),
    "the first rows": lambda v: v.person.head(8).to_numpy(),
    "chosen rows": lambda v: v.person[v.age == 25].to_numpy(),
    "in an array": lambda v: v[["person", "age"]].to_numpy(),
    "in a row of an array": lambda v: v[["age", "person"]].to_numpy().T,
    "in a row of a table": lambda v: v[["age", "person"]].T,
    "as names of columns": lambda v: v.set_index("person")[["age", "income"]].T,
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_numbered_units_are_seen(hidden_in, people, copy):
    said = hidden_in(copy(people))
    assert {finding.partition(" holds the values of ")[2] for finding in said} == {UNIT}


def test_a_numbered_hidden_column_is_seen_whatever_its_order(hidden_in, people):
    (said,) = hidden_in(people.bed.sample(70, random_state=1).to_numpy())
    assert said == "Column 'value' holds the values of people.bed, which is hidden."


HONEST = {
    "a count": len,
    "counts of groups": lambda v: v.groupby("age").size(),
    "counts of many groups": lambda v: v.income.round(-3).value_counts(),
    "a cross table": lambda v: pd.crosstab(v.age, v.income > 50_000),
    "a description": lambda v: v[["age", "income"]].describe(),
    "rows by position": lambda v: v.income.round(-3).reset_index(drop=True),
    "rows by position, kept": lambda v: v.income[:100].round(-3).reset_index(),
    "ranks of some": lambda v: v.age.head(80).rank(method="first"),
    "percentages": lambda v: np.arange(0, 101),
    "running counts": lambda v: (v.age > 25).cumsum().to_numpy(),
    "a histogram": lambda v: np.histogram(v.age)[0],
    "sums of groups": lambda v: v.groupby("age").income.sum().round(),
}


@pytest.mark.parametrize("output", HONEST.values(), ids=HONEST)
def test_counts_and_positions_are_not_taken_for_them(hidden_in, people, output):
    assert hidden_in(output(people.drop(columns=["person", "bed"]))) == []
