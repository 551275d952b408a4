"""What a Python cell gets of a table, and the exact counts that the gate asks for."""

from __future__ import annotations

import datetime as dt
import math

import pyarrow as pa
import pyarrow.parquet
import pytest
from consent_site import (
    NOON,
    PEOPLE,
    RESEARCH,
    ROWS,
    SITE,
    TEACHING,
    given,
    opened,
    write_register,
    write_site,
)
from hypothesis import HealthCheck, settings
from hypothesis import given as whenever
from hypothesis import strategies as st

from privnb.errors import SiteFailure, UnknownName
from privnb.site.data.mock import mock_rows

TYPES = {
    "mark": pa.int64(),
    "cost": pa.float64(),
    "day": pa.date32(),
    "seen": pa.timestamp("us"),
    "fit": pa.bool_(),
    "age_group": pa.string(),
}


@pytest.fixture
def site(tmp_path):
    directory = write_site(tmp_path / "site")
    write_register(directory, [*given(*PEOPLE), *given(1, 2, purpose=TEACHING)])
    return directory


@pytest.fixture
def frames(site):
    with opened(site) as tables:
        yield tables.frames


def test_a_frame_has_all_rows_of_the_declared_columns_unclamped_and_without_the_unit(frames):
    frame = frames.frame("visits", purpose=RESEARCH)
    assert {field.name: field.type for field in frame.schema} == TYPES
    assert frame.num_rows == 12  # nobody's row is not there
    costs = frame["cost"].to_pylist()
    assert 12345.678 in costs  # the bounds end at 10
    assert costs.count(None) == 3  # NULL, NaN and infinity, as in SQL
    assert set(frame["age_group"].to_pylist()) == {"child", "adult"}
    assert frame["seen"].to_pylist() == [NOON] * 12


def test_a_frame_becomes_a_pandas_frame(frames):
    frame = frames.frame("visits", purpose=RESEARCH).to_pandas()
    assert frame.groupby("mark").cost.count().sum() == 9


def test_the_order_of_rows_is_fixed_and_not_the_sources(site):
    """Two orders of the source, one with each unit's rows together, give the same frame."""
    found = []
    orders = (list(range(13)), sorted(range(13), key=lambda row: ROWS["person"][row] or 0))
    for order in orders:
        table = pa.table(ROWS).take(order)
        pyarrow.parquet.write_table(table, site / "visits.parquet")
        with opened(site) as tables:
            found.append(tables.frames.frame("visits", purpose=RESEARCH))
            marks = found[-1]["mark"].to_pylist()
            assert marks != [mark for mark in table["mark"].to_pylist() if mark != 99]
    assert found[0].equals(found[1])


def test_restricting_keeps_the_order_of_the_rows_that_remain(frames):
    everybody = frames.frame("visits", purpose=RESEARCH).to_pylist()
    some = frames.frame("visits", purpose=TEACHING).to_pylist()
    key = str
    assert [key(row) for row in everybody if row["mark"] in (10, 20)] == [key(row) for row in some]


def test_a_large_frame_keeps_its_order_too(site):
    rows = 300_000  # several of DuckDB's row groups
    table = pa.table(
        {name: pa.array([values[0]] * rows) for name, values in ROWS.items()}
        | {"person": pa.array([row % 6 + 1 for row in range(rows)]), "mark": pa.array(range(rows))}
    )
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    with opened(site) as tables:
        everybody = tables.frames.frame("visits", purpose=RESEARCH)["mark"].to_pylist()
        some = tables.frames.frame("visits", purpose=TEACHING)["mark"].to_pylist()
    assert sorted(everybody) == list(range(rows))
    assert [mark for mark in everybody if mark % 6 < 2] == some
    assert everybody[:100] != sorted(everybody)[:100]


def test_the_frame_of_a_mock_twin_is_made_up_and_needs_no_consent(site, frames):
    (site / "consents.parquet").unlink()
    frame = frames.frame("visits", purpose=RESEARCH, mock=True)
    assert {field.name: field.type for field in frame.schema} == TYPES
    with opened(write_site(site.parent / "other")) as other:
        schema = other.schemas["visits"]
    assert frame.equals(mock_rows(schema).drop_columns(["person"]))
    with pytest.raises(SiteFailure):
        frames.frame("visits", purpose=RESEARCH)


def test_an_unknown_table_is_named_with_what_there_is(frames):
    with pytest.raises(UnknownName) as caught:
        frames.frame("visit", purpose=RESEARCH)
    assert caught.value.code == "E_NO_TABLE"
    assert "'visits'" in caught.value.hint


# Units behind the rows of an output


def test_units_behind_counts_people_not_rows(frames):
    groups = [("age_group", ["adult", "child", "old"])]
    assert frames.units_behind("visits", purpose=RESEARCH, keys=groups) == [5, 1, 0]
    assert frames.units_behind("visits", purpose=TEACHING, keys=groups) == [1, 1, 0]
    assert frames.units("visits", purpose=TEACHING) == 2


def test_null_is_a_value_and_several_keys_belong_together(frames):
    keys = [("fit", [None, True, None]), ("mark", [20, 20, 10])]
    assert frames.units_behind("visits", purpose=RESEARCH, keys=keys) == [1, 1, 0]


@pytest.mark.parametrize(
    ("column", "value", "units"),
    [
        ("mark", 10, 1),
        ("mark", 10.0, 1),
        ("mark", 10.5, 0),
        ("mark", "10", 0),
        ("mark", True, 0),
        ("mark", 1e300, 0),
        ("mark", math.inf, 0),
        ("mark", 2**70, 0),
        ("cost", 1, 6),
        ("cost", 0.1, 1),
        ("cost", 0.1 + 1e-12, 0),
        ("cost", math.nan, 3),
        ("cost", "inf", 0),
        ("day", "2026-01-02", 6),
        ("day", "the 2nd", 0),
        ("day", 5, 0),
        ("seen", "2026-01-02T12:00:00", 6),
        ("seen", "2026-01-02T13:00:00+01:00", 6),
        ("seen", "2026-01-02", 0),
        ("fit", True, 6),
        ("fit", 1, 0),
        ("age_group", "adult", 5),
        ("age_group", 5, 0),
    ],
)
def test_values_are_compared_exactly_and_in_the_columns_type(frames, column, value, units):
    assert frames.units_behind("visits", purpose=RESEARCH, keys=[(column, [value])]) == [units]


def test_equal_rows_of_an_output_each_get_their_count(frames):
    keys = [("age_group", ["adult"] * 500 + ["child"])]
    assert frames.units_behind("visits", purpose=RESEARCH, keys=keys) == [5] * 500 + [1]


def test_the_unit_is_no_key(frames):
    for name in ("person", "_unit", "name", 'mark" = 1 --'):
        with pytest.raises(UnknownName):
            frames.units_behind("visits", purpose=RESEARCH, keys=[(name, [1])])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@whenever(
    wanted=st.lists(
        st.tuples(
            st.sampled_from([10, 20, 30, None, 99]),
            st.sampled_from([0.1, 1.0, 6.0, None]),
            st.sampled_from(["adult", "child", None]),
        ),
        max_size=8,
    )
)
def test_units_behind_agrees_with_counting_by_hand(shared_frames, wanted):
    marks, costs, groups = zip(*wanted, strict=True) if wanted else ((), (), ())
    keys = [("mark", marks), ("cost", costs), ("age_group", groups)]
    rows = shared_frames.frame("visits", purpose=RESEARCH).to_pylist()
    by_hand = [
        len(
            {
                row["mark"]  # stands for the person
                for row in rows
                if (row["mark"], row["cost"], row["age_group"]) == triple
            }
        )
        for triple in wanted
    ]
    assert shared_frames.units_behind("visits", purpose=RESEARCH, keys=keys) == by_hand


@pytest.fixture(scope="module")
def shared_frames(tmp_path_factory):
    directory = write_site(tmp_path_factory.mktemp("site"))
    write_register(directory, given(*PEOPLE))
    with opened(directory) as tables:
        yield tables.frames


def test_what_goes_wrong_inside_looks_the_same_from_outside(site, caplog):
    with opened(site) as tables:
        tables.frames.close()
        for attempt in (
            lambda: tables.frames.frame("visits", purpose=RESEARCH),
            lambda: tables.frames.units("visits", purpose=RESEARCH),
        ):
            with pytest.raises(SiteFailure) as caught:
                attempt()
            assert caught.value.message == "The site could not compute the answer."
    assert "rows of table visits cannot be had" in caplog.text


def test_what_is_registered_is_for_the_owners_eyes_only(site):
    opened(site).close()
    (folder,) = (site / "state" / "tables").glob("visits-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_another_consent_register_does_not_mean_registering_again(site):
    opened(site).close()
    (before,) = (site / "state" / "tables").glob("visits-*")
    (site / "site.toml").write_text(SITE.replace('unit = "who"', 'unit = "who"\nat = "at"'))
    opened(site).close()
    (after,) = (site / "state" / "tables").glob("visits-*")
    assert (after, after.stat().st_mtime_ns) == (before, before.stat().st_mtime_ns)


def test_dates_that_no_type_can_carry_are_missing(tmp_path):
    site = write_site(tmp_path / "site")
    days = pa.array([10_000_000] + [0] * 12, pa.int32()).cast(pa.date32())  # in the year 29349
    table = pa.table(ROWS)
    table = table.set_column(table.column_names.index("day"), "day", days)
    pyarrow.parquet.write_table(table, site / "visits.parquet")
    write_register(site, given(*PEOPLE))
    with opened(site) as tables:
        found = tables.frames.frame("visits", purpose=RESEARCH)["day"].to_pylist()
    assert found.count(None) == 1
    assert set(found) - {None} == {dt.date(1970, 1, 1)}
