"""The gate sees copies, small groups and single people's values, and lets aggregates by."""

from __future__ import annotations

import pandas as pd
import pytest

from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.output import Output, declare
from privnb.site.gate import judge
from privnb.site.python_config import PythonConfig

PLANS = ("free care", "cost sharing")
VISITS = TableSchema(
    name="visits",
    columns=(
        Column(name="person", type="integer"),
        Column(name="plan", type="string", values=PLANS),
        Column(name="town", type="string"),
        Column(name="year", type="integer", bounds=Bounds(lower=1, upper=5)),
        Column(name="age", type="integer", bounds=Bounds(lower=0, upper=100)),
        Column(name="income", type="float", bounds=Bounds(lower=0, upper=1e5)),
    ),
    privacy_unit="person",
    max_rows_per_unit=5,
    delta=1e-6,
)
LIMITS = PythonConfig(min_units=3, max_rows=50, max_bytes=10_000)


class Counts:
    """Counts units in a frame, as the site counts them in its database."""

    def __init__(self, frame):
        self.frame = frame

    def units(self, table, *, purpose):
        return self.frame.person.nunique()

    def units_behind(self, table, *, purpose, keys):
        rows = zip(*(values for _, values in keys), strict=True)
        return [self._count([name for name, _ in keys], row) for row in rows]

    def _count(self, names, row):
        found = self.frame
        for name, value in zip(names, row, strict=True):
            column = found[name]
            found = found[column.isna() if value is None else column == value]
        return found.person.nunique()

    def matches_hidden(self, table, *, purpose, columns):
        known = set(self.frame.person)
        return [
            "person" if len(set(values)) >= 3 and set(values) <= known else None
            for values in columns
        ]


@pytest.fixture(scope="module")
def visits():
    people = range(1001, 1041)
    return pd.DataFrame(
        {
            "person": [p for p in people for _ in range(2)],
            "plan": [PLANS[p % 2] for p in people for _ in range(2)],
            "town": [f"town {p % 7 if p > 1002 else 99}" for p in people for _ in range(2)],
            "year": [1, 2] * 40,
            "age": [(p - 1001) * 7 % 60 + 20 if p > 1001 else 99 for p in people for _ in range(2)],
            "income": [p**1.9 / 7 + y for p in people for y in (0.1, 0.2)],
        }
    )


@pytest.fixture
def findings(visits):
    def look(value: object) -> str:
        output = value if isinstance(value, Output) else declare(value)
        return " | ".join(
            judge(
                output,
                limits=LIMITS,
                schemas={"visits": VISITS},
                purpose="research",
                counts=Counts(visits),
            )
        )

    return look


@pytest.mark.parametrize(
    "aggregate",
    [
        lambda v: v.income.mean(),
        len,
        lambda v: v.describe(),
        lambda v: v.groupby("plan").income.mean(),
        lambda v: v.groupby(["plan", "year"]).agg(n=("income", "size"), mean=("income", "mean")),
        lambda v: v.groupby("plan", as_index=False).income.mean(),
        lambda v: pd.crosstab(v.plan, v.year),
        lambda v: v[["income", "year"]].corr(),
        lambda v: v.income.to_numpy()[:40].reshape(2, 20).sum(axis=1),
        lambda v: pd.DataFrame({"coef": [0.31, -1.2], "p": [0.01, 0.5]}, index=["const", "year"]),
    ],
)
def test_an_aggregate_over_large_groups_may_leave(findings, visits, aggregate):
    answer = aggregate(visits.drop(columns="person"))
    if isinstance(answer, pd.DataFrame) and "max" in answer.index:  # extremes are single people's
        answer = answer.drop(index=["min", "max"])
    assert findings(answer) == ""


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (lambda v: v.groupby("town").income.mean(), "fewer than 3 persons stand behind 1 of"),
        (lambda v: v.groupby("town", as_index=False).income.mean(), "Fewer than 3 persons stand"),
        (lambda v: pd.crosstab(v.plan, v.town), "Fewer than 3 persons stand"),
        (lambda v: v.head(10), "Fewer than 3 persons stand behind 10"),
        (lambda v: v.income.max(), "is the income of fewer than 3 persons, exactly"),
        (lambda v: v.agg({"town": "max"}).iloc[0], "is the town of fewer than 3 persons"),
        (lambda v: int(v.age.max()), "is the age of fewer than 3 persons"),
        (lambda v: int((v.age > 90).sum()), "if it counts people, they are few"),
        (lambda v: v.year[:30], "the same year comes in several rows"),
        (lambda v: v[v.town == "town 99"].pivot_table("income", "plan", "year"), "fewer than 3"),
        (lambda v: v.describe(), "is the income of fewer than 3 persons, exactly"),
        (lambda v: v[["income"]].rename(columns={"income": "x"})[:5], "'x' holds a value"),
        (
            lambda v: v.town.drop_duplicates().to_numpy(dtype=object),
            "holds only values of visits.town",
        ),
        (lambda v: v.rename(columns={"town": "a", "plan": "b"})[["a"]][:20], "a copy of rows"),
        (lambda v: pd.concat([v, v]).year.cumsum(), "at most 50 leave unseen"),
    ],
)
def test_what_may_be_about_single_people_is_held_back(findings, visits, output, said):
    assert said.lower() in findings(output(visits.drop(columns="person"))).lower()


def test_the_privacy_unit_under_another_name_is_recognised(findings, visits):
    assert "which is the privacy unit" in findings(visits.person.drop_duplicates().rename("n"))


def test_a_figure_is_always_looked_at(findings):
    assert "figure" in findings(Output(kind="figure", png="iVBORw0KGgo="))


def test_too_many_bytes_are_looked_at(findings):
    assert "bytes; at most 10,000 leave unseen" in findings("x" * 10_001)


def test_a_table_with_too_few_people_is_held_back_whatever_comes_of_it(visits):
    few = Counts(visits[visits.person < 1003])
    found = judge(
        declare(3), limits=LIMITS, schemas={"visits": VISITS}, purpose="research", counts=few
    )
    assert found == ("visits holds fewer than 3 persons for this purpose.",)


def test_a_missing_key_is_a_group_like_any_other(findings, visits):
    holes = visits.assign(town=visits.town.where(visits.person > 1001, None))
    by_town = holes.groupby("town", dropna=False).income.mean()
    found = judge(
        declare(by_town),
        limits=LIMITS,
        schemas={"visits": VISITS},
        purpose="research",
        counts=Counts(holes),
    )
    assert "Fewer than 3" in " ".join(found)
