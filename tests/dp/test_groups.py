from dataclasses import replace
from decimal import Decimal

import pytest

from privnb.computation import Federation
from privnb.dp.groups import columns_named, united, widened
from privnb.dp.planner import plan
from privnb.dp.sharing import difference
from privnb.errors import QueryRefused

BY_YEAR = "SELECT year, COUNT(*) n FROM visits WHERE plan <> 'other' GROUP BY year"


def changed(schema, name, **changes):
    columns = (replace(c, **changes) if c.name == name else c for c in schema.columns)
    return replace(schema, columns=tuple(columns))


@pytest.fixture
def sites(schema):
    """Three sites that declare different values, one of which may be missing."""
    return {
        "northside": changed(schema, "year", values=(2, 1), nullable=False),
        "riverside": changed(
            changed(schema, "year", values=(2, 3)), "plan", values=("paid", "other")
        ),
        "lakeside": changed(schema, "year", values=(1, 2), nullable=False),
    }


def test_values_of_all_sites_are_united_in_order_with_null_last(sites):
    assert united(sites, columns_named(BY_YEAR)) == {
        "year": [2, 1, 3, None],
        "plan": ["free", "paid", "other"],
    }


def test_columns_that_agree_or_do_not_matter_are_left_alone(sites, schema):
    assert united({"a": schema, "b": schema}, ["plan", "year"]) == {}
    assert united(sites, ["PLAN"]) == {"plan": ["free", "paid", "other"]}
    assert united({}, ["plan"]) == {}


def test_columns_without_public_values_everywhere_are_not_united(sites, schema):
    undeclared = changed(schema, "year", values=None)
    assert "year" not in united(sites | {"hillside": undeclared}, ["year"])
    retyped = changed(schema, "year", type="string", values=("1",))
    assert "year" not in united(sites | {"hillside": retyped}, ["year"])


def test_each_site_answers_for_the_values_of_all(sites, database):
    federation = Federation(
        sites=tuple(sites), threshold=2, groups=united(sites, columns_named(BY_YEAR))
    )
    plans = {
        name: plan(BY_YEAR, tables={"visits": s}, epsilon=Decimal(20), federation=federation)
        for name, s in sites.items()
    }
    assert difference(plans) is None
    assert {query.groups for query in plans.values()} == {((2,), (1,), (3,), (None,))}
    row = ("free", 2, "a", 1, 1.0, "2020-01-01", None, True, 0.5)
    bounded = database([("A", *row), ("B", "paid", 3, *row[2:])], sites["northside"])
    # What a site did not declare is in none of its groups, also where another declared it.
    assert bounded.run(plans["northside"]) == [(2, 1)]
    shares = [
        query.share(bounded.run(query) if name == "northside" else [], pieces=2)
        for name, query in plans.items()
    ]
    assert {len(share) for share in shares} == {4}


def test_sites_that_did_not_unite_their_values_are_told_to(sites):
    plans = {
        name: plan(BY_YEAR.replace("other", "paid"), tables={"visits": s}, epsilon=Decimal(1))
        for name, s in sites.items()
    }
    said = difference(plans)
    assert "'year'" in said
    assert "unite" in said


@pytest.mark.parametrize(
    ("groups", "code", "named"),
    [
        ({"plan": ["free"]}, "E_NO_VALUES", "leave out 1"),
        ({"year": [1, 2, 3]}, "E_NO_VALUES", "NULL"),
        ({"year": [1, 2, 3, None, "4"]}, "E_NO_VALUES", "type integer"),
        ({"year": [1, 2, 3, None, 4.5]}, "E_NO_VALUES", "type integer"),
        ({"year": [1, 2, 3, None, True]}, "E_NO_VALUES", "type integer"),
        ({"plan": ["free", "paid", "a\0b"]}, "E_NO_VALUES", "type string"),
        ({"city": ["a"]}, "E_NO_VALUES", "no public values"),
        ({"person": ["a"]}, "E_NO_COLUMN", "no column"),
        ({"nowhere": ["a"]}, "E_NO_COLUMN", "no column"),
        ({"plan": [f"p{n}" for n in range(5001)]}, "E_NO_VALUES", "at most 5,000"),
    ],
)
def test_values_that_cannot_be_those_of_all_sites_are_refused(groups, code, named, schema):
    with pytest.raises(QueryRefused) as refused:
        widened(schema, groups)
    assert refused.value.code == code
    assert named in refused.value.message


def test_a_value_given_twice_is_one(schema):
    wide = widened(schema, {"year": [3, 2, 2, 1, None, None, 4]}).column("year")
    assert wide.values == (3, 2, 1, 4)
    assert wide.nullable
    assert widened(schema, {}) == schema


def test_a_column_that_may_be_missing_elsewhere_may_be_missing_here(schema):
    assert widened(schema, {"plan": ["paid", "free", None]}).column("plan").nullable
