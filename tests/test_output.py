"""Declared outputs: from a cell's value to plain JSON, and back at the other side."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import io
import json
import math
import struct
import zlib

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privnb import wire
from privnb.errors import BadMessage, QueryRefused
from privnb.output import Output, OutputColumn, Undeclarable, check, declare
from privnb.pixels import rewritten, write_png

mpl.use("Agg")

VISITS = pd.DataFrame(
    {
        "ward": ["east", "west", "east", None],
        "cost": [1.5, math.inf, -math.inf, math.nan],
        "days": [1, 2, 3, 4],
        "seen": pd.array([True, None, False, True], dtype="boolean"),
        "born": [dt.date(1990, 1, 1), None, dt.date(2024, 2, 29), dt.date(1, 1, 1)],
        "came": pd.to_datetime(["2024-01-01 10:00", None, "2024-07-01 00:00", "2024-01-03 09:30"]),
        "stay": pd.to_timedelta([1, -4, None, 0.5], unit="h"),
    }
)


def travelled(value):
    """Declare a value, send it as bytes, check it, and rebuild it."""
    output = declare(value)
    check(output, max_rows=100_000, max_bytes=10_000_000)
    arrived = wire.decode(Output, wire.encode(output), what="the output")
    assert arrived == output
    return arrived.value()


def forged(**changes):
    """An output whose parts were changed by somebody else."""
    return dataclasses.replace(declare(VISITS[["ward", "days"]]), **changes)


@pytest.mark.parametrize(
    "value",
    [0, -(2**63), 2**63 - 1, 0.1, math.inf, -math.inf, True, "", "é漢🙂", dt.date(2024, 2, 29)],
)
def test_a_scalar_comes_back_as_it_was(value):
    back = travelled(value)
    assert back == value
    assert type(back) is type(value)


def test_numpy_scalars_become_plain_ones():
    assert travelled(np.int8(3)) == 3
    assert travelled(np.float32(0.5)) == 0.5
    assert travelled(np.bool_(1)) is True
    assert travelled(np.array(7)) == 7
    assert math.isnan(travelled(np.float64("nan")))


def test_times_are_scalars_too():
    assert travelled(pd.Timestamp("2024-01-01 12:00")) == pd.Timestamp("2024-01-01 12:00")
    assert travelled(pd.Timedelta(-1, "ns")) == pd.Timedelta(-1, "ns")
    zoned = pd.Timestamp("2024-07-01 12:00", tz="Europe/Paris")
    assert travelled(zoned) == zoned


def test_a_frame_of_every_type_comes_back():
    back = travelled(VISITS)
    pd.testing.assert_frame_equal(
        back.drop(columns="ward"),
        VISITS.drop(columns="ward"),
        check_dtype=False,
        check_column_type=False,
        check_index_type=False,
    )
    assert back.ward.tolist() == ["east", "west", "east", None]
    assert back.cost.tolist()[1:3] == [math.inf, -math.inf]


def test_a_default_index_is_no_part_of_the_output_and_any_other_is():
    assert [c.role for c in declare(VISITS[["days"]]).columns] == ["value"]
    filtered = declare(VISITS[VISITS.days > 1][["days"]])
    assert [(c.name, c.role) for c in filtered.columns] == [("index", "index"), ("days", "value")]
    assert travelled(VISITS[VISITS.days > 1][["days"]]).index.tolist() == [1, 2, 3]


def test_levels_of_rows_and_columns_become_names():
    grouped = VISITS.groupby("ward").agg({"days": ["mean", "sum"]})
    assert list(travelled(grouped).columns) == ["days_mean", "days_sum"]
    counted = VISITS.groupby(["ward", "days"]).size()
    back = travelled(counted)
    assert back.index.names == ["ward", "days"]
    assert back.loc[("east", 3)] == 1


def test_usual_summaries_come_back():
    table = pd.crosstab(VISITS.ward, VISITS.days)
    assert travelled(table).to_numpy().tolist() == table.to_numpy().tolist()
    described = VISITS[["days"]].describe()
    assert travelled(described).loc["mean", "days"] == 2.5
    both = VISITS[["ward", "days"]].describe(include="all")
    assert travelled(both).loc["top", "ward"] == "east"
    correlated = VISITS[["days"]].assign(twice=2 * VISITS.days).corr()
    assert travelled(correlated).loc["days", "twice"] == pytest.approx(1.0)


def test_a_models_table_comes_back():
    sm = pytest.importorskip("statsmodels.api")
    x = sm.add_constant(pd.DataFrame({"age": [1.0, 2.0, 3.0, 4.0, 5.0]}))
    model = sm.GLM([1, 3, 2, 5, 4], x, family=sm.families.Poisson()).fit()
    coefficients = travelled(model.summary2().tables[1])
    assert list(coefficients.index) == ["const", "age"]
    assert coefficients.loc["age", "P>|z|"] == model.pvalues["age"]
    assert travelled(model.summary2().tables[0]).shape[1] == 4
    assert travelled(model.params).index.tolist() == ["const", "age"]


def test_categories_periods_and_intervals_become_text():
    values = pd.DataFrame(
        {
            "c": pd.Categorical(["a", "b"]),
            "p": pd.period_range("2024-01", periods=2, freq="M"),
            "i": pd.cut([1, 5], [0, 2, 6]),
        }
    )
    assert {c.type for c in declare(values).columns} == {"string"}
    assert travelled(values).iloc[0].tolist() == ["a", "2024-01", "(0, 2]"]


def test_a_time_zone_becomes_utc():
    local = pd.Series(pd.date_range("2024-03-30 12:00", periods=3, tz="Europe/Paris"))
    assert travelled(local).tolist() == local.tolist()
    assert declare(local).rows[0] == ("2024-03-30T11:00:00+00:00",)


def test_names_that_occur_twice_are_numbered():
    twice = pd.DataFrame([[1, 2, 3]], columns=["a", "a", "a_2"])
    names = [c.name for c in declare(twice).columns]
    assert len(set(names)) == 3
    assert names[0] == "a"
    assert names[2] == "a_2"
    indexed = pd.DataFrame({"a": [1]}, index=pd.Index([5], name="a"))
    assert [c.name for c in declare(indexed).columns] == ["a", "a_2"]


def test_an_array_keeps_its_shape():
    array = np.arange(24).reshape(2, 3, 4)
    assert travelled(array).tolist() == array.tolist()
    assert travelled(np.zeros((0, 3))).shape == (0, 3)
    assert travelled(np.arange(20_000)).shape == (20_000,)
    assert travelled(np.array([["a", "b"]])).tolist() == [["a", "b"]]


def test_arrays_of_pandas_are_arrays():
    assert travelled(VISITS.ward.astype("string[pyarrow]").unique()).tolist() == [
        *("east", "west", None)
    ]
    assert travelled(pd.Categorical(["b", "a"])).tolist() == ["b", "a"]
    assert travelled(pd.array([1, 2], dtype="Int64")).tolist() == [1, 2]
    assert travelled(VISITS.came.array).shape == (4,)


@pytest.mark.parametrize("value", [[1, 2], (1, 2), {"a": 1}])
def test_lists_and_dicts_are_refused_with_what_to_do(value):
    with pytest.raises(Undeclarable) as refused:
        declare(value)
    assert "pd.Series(...)" in refused.value.hint


def test_an_empty_frame_comes_back():
    assert travelled(VISITS.iloc[:0]).shape == (0, 7)
    assert travelled(pd.DataFrame()).shape[1] == 0


def test_a_figure_becomes_pixels_however_it_is_named():
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    values = (figure, axes, axes.plot([1, 2]), axes.set_title("t"), np.array([axes], dtype=object))
    pictures = {travelled(value) for value in values}
    plt.close(figure)
    assert len(pictures) <= 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert not any(b"matplotlib" in picture or b"tEXt" in picture for picture in pictures)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "NoneType"),
        ([1], "list"),
        ({"a": 1}, "dict"),
        (object(), "object"),
        (b"x", "bytes"),
        (1j, "complex"),
        (pd.NA, "NAType"),
        (VISITS.groupby("ward"), "DataFrameGroupBy"),
        (np.array([1j]), "complex128"),
        (np.array([object()]), "object"),
        (pd.DataFrame({"a": [[1]]}), "list"),
        (2**63, "int"),
    ],
)
def test_anything_else_is_refused_by_type(value, name):
    with pytest.raises(Undeclarable, match=name) as refused:
        declare(value)
    assert refused.value.code == "E_OUTPUT"
    assert refused.value.type_name == name


def test_an_output_over_a_limit_is_refused():
    output = declare(VISITS)
    check(output, max_rows=4, max_bytes=10_000)
    with pytest.raises(QueryRefused, match="4 rows; at most 3"):
        check(output, max_rows=3, max_bytes=10_000)
    with pytest.raises(QueryRefused, match="at most 100 may leave"):
        check(output, max_rows=4, max_bytes=100)


INTEGER = OutputColumn(name="n", type="integer", role="value")


@pytest.mark.parametrize(
    "output",
    [
        Output(kind="scalar"),
        Output(kind="figure"),
        Output(kind="figure", png="!"),
        Output(kind="figure", png=base64.b64encode(b"hello").decode()),
        Output(kind="frame", png=""),
        Output(kind="frame", columns=(INTEGER,), rows=((1, 2),)),
        Output(kind="frame", columns=(INTEGER,), rows=((),)),
        Output(kind="frame", columns=(INTEGER, INTEGER), rows=()),
        Output(kind="frame", columns=(INTEGER,), rows=((1.0,),)),
        Output(kind="frame", columns=(INTEGER,), rows=((True,),)),
        Output(kind="frame", columns=(INTEGER,), rows=((2**63,),)),
        Output(kind="frame", columns=(INTEGER,), shape=(1,)),
        Output(kind="scalar", columns=(INTEGER,), rows=((1,), (2,))),
        Output(kind="series", columns=(dataclasses.replace(INTEGER, role="index"),)),
        Output(kind="array", columns=(INTEGER,), rows=((1,),)),
        Output(kind="array", columns=(INTEGER,), rows=((1,),), shape=()),
        Output(kind="array", columns=(INTEGER,), rows=((1,),), shape=(2,)),
        Output(kind="array", columns=(INTEGER,), rows=((1,),), shape=(-1, -1)),
        Output(kind="array", columns=(INTEGER,), rows=(), shape=(0, 2**200)),
        Output(kind="array", columns=(INTEGER,), rows=(), shape=(0, 10**12)),
        Output(kind="array", columns=(INTEGER,), rows=(), shape=(10**12, 0)),
        Output(kind="array", columns=(INTEGER,), rows=(), shape=(0, 0, 200, 200)),
        Output(kind="array", columns=(INTEGER,), rows=((1,),) * 10_001, shape=(1, 10_001)),
        Output(kind="array", columns=(INTEGER,), rows=((1,),), shape=(1,) * 33),
    ],
)
def test_parts_that_do_not_fit_are_a_bad_message_and_no_crash(output):
    with pytest.raises(BadMessage):
        output.value()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("float", "nan"),
        ("float", "1.0"),
        ("float", 1),
        ("float", math.nan),
        ("date", "2024-02-30"),
        ("date", "2024-1-1"),
        ("date", "٢٠٢٤-01-01"),
        ("timestamp", "2024-01-01"),
        ("timestamp", "2024-01-01T25:00:00"),
        ("timestamp", "2024-01-01T00:00:00+01:00"),
        ("duration", "1 day"),
        ("duration", "99999999 days 00:00:00"),
        ("string", 1),
        ("boolean", 1),
    ],
)
def test_a_value_of_another_type_or_form_is_a_bad_message(kind, value):
    column = OutputColumn(name="x", type=kind, role="value")
    with pytest.raises(BadMessage):
        Output(kind="frame", columns=(column,), rows=((value,),)).value()


def test_timestamps_with_and_without_a_zone_do_not_mix():
    column = OutputColumn(name="x", type="timestamp", role="value")
    rows = (("2024-01-01T00:00:00",), ("2024-01-01T00:00:00+00:00",))
    with pytest.raises(BadMessage, match="time zone"):
        Output(kind="frame", columns=(column,), rows=rows).value()


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59", "0001-01-01T00:00:00"])
def test_times_far_away_are_rebuilt(text):
    column = OutputColumn(name="x", type="timestamp", role="value")
    frame = Output(kind="frame", columns=(column,), rows=((text,),)).value()
    assert frame.x[0].isoformat() == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("duration", "9999999 days 00:00:00"),
        ("timestamp", "9999-12-31T00:00:00.000000001"),
        ("timestamp", "0001-01-01T00:00:00.000000001"),
    ],
)
@pytest.mark.parametrize("shape", ["scalar", "frame"])
def test_a_time_that_no_type_holds_is_a_bad_message_or_a_value(kind, text, shape):
    column = OutputColumn(name="x", type=kind, role="value")
    output = Output(kind=shape, columns=(column,), rows=((text,),))
    try:
        output.value()
    except BadMessage:
        return


cells = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=30)
)
columns = st.builds(
    OutputColumn,
    name=st.text(max_size=3),
    type=st.sampled_from(
        ["integer", "float", "string", "boolean", "date", "timestamp", "duration"]
    ),
    role=st.sampled_from(["index", "value"]),
)


@given(
    st.builds(
        Output,
        kind=st.sampled_from(["scalar", "array", "series", "frame", "figure"]),
        columns=st.lists(columns, max_size=3).map(tuple),
        rows=st.lists(st.lists(cells, max_size=3).map(tuple), max_size=3).map(tuple),
        shape=st.none() | st.lists(st.integers(-2, 4), max_size=3).map(tuple),
        png=st.none() | st.text(max_size=10),
    )
)
def test_whatever_arrives_is_a_value_or_a_bad_message(output):
    try:
        output.value()
    except BadMessage:
        return
    check(output, max_rows=10, max_bytes=10_000)


START, END = (dt.datetime.fromisoformat(f"{year}-01-01") for year in (1700, 2200))

plain = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.lists(st.floats(allow_nan=False), max_size=5),
    st.lists(st.text(max_size=5), max_size=5),
    st.lists(st.booleans(), max_size=5),
    st.lists(st.dates(), max_size=5),
)


@given(plain)
def test_columns_of_plain_values_come_back_equal(values):
    assert travelled(pd.Series(values, dtype=object)).tolist() == [
        value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for value in values
    ]


@given(st.lists(st.datetimes(START, END), min_size=1, max_size=5))
def test_timestamps_come_back_equal(values):
    assert travelled(pd.Series(values)).tolist() == [pd.Timestamp(value) for value in values]


@given(st.lists(st.timedeltas(dt.timedelta(-9999), dt.timedelta(9999)), min_size=1, max_size=5))
def test_durations_come_back_equal(values):
    assert travelled(pd.Series(values)).tolist() == [pd.Timedelta(value) for value in values]


# Pictures


def chunk(kind, content):
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


WHITE = b"\0" + b"\xff" * 6


def picture(*, header=None, raw=WHITE, pixels=None, before=b"", after=b""):
    """Two white pixels, and what somebody else may have put beside them."""
    header = header or struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(raw, 9) if pixels is None else pixels
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
        + after
    )


def test_of_the_same_pixels_there_is_one_picture():
    assert write_png(2, 1, b"\xff" * 6) == picture() == rewritten(picture())


def stored(*portions):
    """A zlib stream of blocks that are not compressed, as long as somebody likes."""
    body = b"".join(
        bytes([number == len(portions)]) + struct.pack("<HH", len(p), len(p) ^ 0xFFFF) + p
        for number, p in enumerate(portions, 1)
    )
    return b"\x78\x01" + body + struct.pack(">I", zlib.adler32(b"".join(portions)))


@pytest.mark.parametrize(
    "pixels",
    [stored(WHITE[:3], WHITE[3:]), stored(WHITE[:1], WHITE[1:]), stored(b"", WHITE)],
)
def test_lengths_of_blocks_say_nothing(pixels):
    other = picture(pixels=pixels)
    assert rewritten(other) == picture()
    output = Output(kind="figure", png=base64.b64encode(other).decode())
    with pytest.raises(BadMessage, match="packed in another way"):
        check(output, max_rows=1, max_bytes=10_000)


def test_the_last_bits_of_base64_say_nothing():
    honest = base64.b64encode(picture()).decode()
    assert honest.endswith("I=")
    other = Output(kind="figure", png=honest.removesuffix("I=") + "J=")
    assert other.value() == picture()
    with pytest.raises(BadMessage, match="packed in another way"):
        check(other, max_rows=1, max_bytes=10_000)


def test_what_is_transparent_leaves_as_white():
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    figure = Figure(figsize=(1, 1), facecolor=(1, 0, 0, 0))
    figure.figimage(np.full((10, 10, 4), [7, 9, 11, 0], dtype=np.uint8))
    seen = imread(io.BytesIO(travelled(figure)), format="png")
    assert seen.shape == (100, 100, 3)
    assert (seen == 1).all()


def test_colours_of_a_figure_stay_as_they_are():
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    drawn = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    figure = Figure(figsize=(1, 1))
    figure.figimage(drawn)
    seen = imread(io.BytesIO(travelled(figure)), format="png")
    assert (np.rint(seen * 255) == drawn[::-1]).all() or (np.rint(seen * 255) == drawn).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        picture()[:-1],
        picture()[:40],
        picture(before=chunk(b"tEXt", b"row 7")),
        picture(before=chunk(b"IDAT", b"")),
        picture(after=b"row 7"),
        picture()[:-1] + b"7",
        picture(raw=b"\1" + WHITE[1:]),
        picture(pixels=b""),
        picture(pixels=b"no zlib"),
        picture(pixels=zlib.compress(WHITE) + b"row 7"),
        picture(raw=WHITE + b"row 7"),
        picture(raw=b"\0"),
        picture(raw=bytes(50_000_000)),
        picture(header=struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)),
        picture(header=struct.pack(">IIBBBBB", 0, 1, 8, 2, 0, 0, 0)),
        picture(header=struct.pack(">IIBBBBB", 2, 1, 8, 6, 0, 0, 0), raw=b"\0" + b"\xff" * 8),
        picture(header=struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 1)),
        picture(header=b"short"),
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 2**32 - 1, b"IHDR") + bytes(60),
    ],
)
def test_what_is_more_than_pixels_is_a_bad_message(data):
    with pytest.raises(BadMessage):
        rewritten(data)
    with pytest.raises(BadMessage):
        Output(kind="figure", png=base64.b64encode(data).decode()).value()


def test_json_of_another_shape_is_a_bad_message():
    for text in ("[]", "{}", '{"kind":"film"}', '{"kind":"frame","rows":[[[1]]]}'):
        with pytest.raises(BadMessage):
            wire.decode(Output, text.encode(), what="the output")
    honest = json.loads(wire.encode(declare(1)))
    with pytest.raises(BadMessage):
        wire.decode(Output, json.dumps(honest | {"more": 1}).encode(), what="the output")
