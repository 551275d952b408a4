"""Mock twins: made from the schema, and only from it."""

import datetime as dt
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from privnb.dp.schema import Bounds, Column, TableSchema, UnitBounds
from privnb.site.data.mock import mock_rows

WORDS = st.text("abcxyz é'\"", min_size=1, max_size=5)
FLOATS = st.floats(-1e6, 1e6)


@st.composite
def columns(draw, name):
    constant = draw(st.booleans())
    kind = draw(
        st.sampled_from(["integer", "float", "string", "boolean", "date", "timestamp", "listed"])
    )
    nullable = draw(st.booleans())
    match kind:
        case "integer" | "float":
            lower = draw(st.integers(-50, 50))
            upper = lower + draw(st.integers(1, 100))
            bounds = Bounds(lower=float(lower), upper=float(upper))
            total = UnitBounds(lower=0.0, upper=5.0)
            return Column(
                name=name,
                type=kind,
                nullable=nullable,
                bounds=bounds,
                unit_bounds=total,
                constant=constant,
            )
        case "listed":
            values = tuple(draw(st.lists(WORDS, min_size=1, max_size=4, unique=True)))
            return Column(
                name=name, type="string", nullable=nullable, values=values, constant=constant
            )
        case _:
            return Column(name=name, type=kind, nullable=nullable, constant=constant)


@st.composite
def schemas(draw):
    unit = Column(name="unit", type=draw(st.sampled_from(["integer", "string"])), nullable=False)
    others = [draw(columns(f"c{number}")) for number in range(draw(st.integers(1, 4)))]
    return TableSchema(
        name="t",
        columns=(unit, *others),
        privacy_unit="unit",
        max_rows_per_unit=draw(st.integers(1, 6)),
        unique_keys=draw(st.sampled_from([(), (("unit", "c0"),)])),
        delta=1e-6,
        public_rows=draw(st.integers(1, 200)),
    )


PYTHON = {
    "integer": int,
    "float": float,
    "string": str,
    "boolean": bool,
    "date": dt.date,
    "timestamp": dt.datetime,
}


@settings(max_examples=40, deadline=None)
@given(schemas())
def test_a_mock_twin_honours_its_schema(schema):
    rows = mock_rows(schema).to_pylist()
    assert 1 <= len(rows) <= schema.public_rows
    sizes = {}
    for row in rows:
        sizes[row["unit"]] = sizes.get(row["unit"], 0) + 1
        for column in schema.columns:
            value = row[column.name]
            if value is None:
                assert column.nullable
                continue
            assert type(value) is PYTHON[column.type]
            assert column.values is None or value in column.values
            if column.bounds is not None:
                assert column.bounds.lower <= value <= column.bounds.upper
                assert math.isfinite(value)
    assert None not in sizes
    for column in schema.columns:
        if column.constant:
            values = {(row["unit"], row[column.name]) for row in rows}
            assert len(values) == len(sizes)
    assert max(sizes.values()) <= schema.max_rows_per_unit
    for key in schema.unique_keys:
        keys = [tuple(row[name] for name in key) for row in rows]
        assert len(keys) == len(set(keys))


@settings(max_examples=10, deadline=None)
@given(schemas())
def test_the_same_schema_gives_the_same_twin(schema):
    assert mock_rows(schema).equals(mock_rows(schema))
