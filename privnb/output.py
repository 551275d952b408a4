"""The declared output of an approved computation, as it crosses process boundaries.

It goes from the worker that ran a cell to the site's agent, to the reviewer and to the analyst.
Whoever reads one treats its writer as hostile: it is plain JSON, rebuilt by `wire.decode`.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from privnb import wire
from privnb.computation import Scalar
from privnb.errors import BadMessage, QueryRefused
from privnb.pixels import rewritten, write_png

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Output", "OutputColumn", "Undeclarable", "check", "declare"]

ColumnType: TypeAlias = Literal[
    "integer", "float", "string", "boolean", "date", "timestamp", "duration"
]

_VALUE = "value"
_INDEX = "index"
_MOST_COLUMNS = 10_000
_MOST_DIMENSIONS = 32
_CONTAINERS = ("list", "tuple", "dict")
_ACCEPTED = "a number, text, date, array, Series, DataFrame or matplotlib figure"


@wire.message
class OutputColumn:
    """A column of an output: part of its index, or a value."""

    name: str
    type: ColumnType
    role: Literal["index", "value"]


@wire.message
class Output:
    """What a computation declared: a scalar, array, series, frame, or a figure as PNG.

    A missing value is ``None`` in every type. Infinite floats are the texts ``"inf"`` and
    ``"-inf"``, as JSON has no numbers for them. Dates and timestamps are ISO 8601; a timestamp with
    a time zone is given in UTC. A duration reads ``"1 days 02:00:00"``, to the nanosecond.

    Attributes
    ----------
    columns, rows
        The table of it. A scalar is one row of one column, an array one row per element in C order;
        a figure has neither.
    shape
        Of an array; its product is the number of rows.
    png
        Of a figure: PNG in base64, of nothing but pixels (which may hide bits of their own).
    """

    kind: Literal["scalar", "array", "series", "frame", "figure"]
    columns: tuple[OutputColumn, ...] = ()
    rows: tuple[tuple[Scalar, ...], ...] = ()
    shape: tuple[int, ...] | None = None
    png: str | None = None

    def value(self) -> object:
        """Rebuild what was declared: a scalar, ndarray, Series, DataFrame, or the bytes of a PNG.

        Raises `BadMessage` when the parts do not fit each other.

        >>> declare(0.5).value()
        0.5
        """
        _require_consistent(self)
        if self.kind == "figure":
            return base64.b64decode(self.png or "")
        if self.kind == "scalar":
            return _python_scalar(self.columns[0].type, self.rows[0][0])
        try:
            return _rebuild(self)
        except (ValueError, TypeError, OverflowError, MemoryError):
            raise BadMessage("The output cannot be rebuilt from its parts.") from None


class Undeclarable(QueryRefused):
    """What a cell declares is of a type that cannot leave a site.

    Attributes
    ----------
    type_name
        The type's own name, as the cell's code may have chosen it.
    """

    default_code = "E_OUTPUT"

    def __init__(self, type_name: str, *, where: str = "The output") -> None:
        wrap = " A list or a dict may leave as pd.Series(...)." if type_name in _CONTAINERS else ""
        super().__init__(
            f"{where} is of type {type_name:.60}, which cannot leave a site.",
            hint=f"End the cell with {_ACCEPTED}.{wrap}",
        )
        self.type_name = type_name


def declare(value: object) -> Output:
    """Describe a value that a cell computed, for the way out.

    What pandas calls an array, as `Series.unique` gives, is an array. A default `RangeIndex` is
    left away; any other index becomes columns of role ``index``. Labels of several levels are
    joined by ``_``, and names that occur twice are numbered. Categories, periods and intervals
    become text.

    Raises `Undeclarable`, naming the type, for anything else.

    >>> declare(3).columns[0].type
    'integer'
    """
    import numpy as np  # noqa: PLC0415 - stays out of start-up
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    if isinstance(value, pd.DataFrame):
        return _tabular("frame", _index_columns(value.index), _frame_columns(value))
    if isinstance(value, pd.Series):
        return _tabular("series", _index_columns(value.index), [(_label(value.name, 0), value)])
    figure = _figure_of(value)
    if figure is not None:
        return Output(kind="figure", png=_pixels(figure))
    if isinstance(value, np.ndarray) and value.ndim > 0:
        if value.dtype.kind not in "biufUOMm":
            raise Undeclarable(str(value.dtype), where="The array's element")
        return _array(pd.Series(value.ravel()), value.shape)
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _array(pd.Series(value), value.shape)
    plain = value.item() if isinstance(value, np.ndarray) else value
    if plain is None or plain is pd.NA or not pd.api.types.is_scalar(plain):
        raise Undeclarable(type(plain).__name__)
    return _tabular("scalar", [], [(_VALUE, pd.Series([plain]))])


def check(output: Output, *, max_rows: int, max_bytes: int) -> None:
    """Make sure that an output of unknown origin is well formed and small enough.

    Raises `BadMessage` when its parts do not fit each other, and `QueryRefused` with the code
    ``E_OUTPUT`` when it has more than ``max_rows`` rows or more than ``max_bytes`` bytes as JSON.
    A picture must have been packed on this machine: another packing could carry more than pixels.
    """
    _require_consistent(output)
    if output.png is not None and _repacked(output.png) != output.png:
        raise BadMessage("The figure is packed in another way than its pixels need.")
    if len(output.rows) > max_rows:
        raise QueryRefused(
            f"The output has {len(output.rows):,} rows; at most {max_rows:,} may leave.",
            hint="Aggregate further, or declare fewer rows.",
            code="E_OUTPUT",
        )
    size = len(wire.encode(output))
    if size > max_bytes:
        raise QueryRefused(
            f"The output has {size:,} bytes; at most {max_bytes:,} may leave.",
            hint="Aggregate further, or draw a smaller figure.",
            code="E_OUTPUT",
        )


# The way out


_Named: TypeAlias = "tuple[str, pd.Series[Any]]"


def _tabular(
    kind: Literal["scalar", "series", "frame"], index: list[_Named], values: list[_Named]
) -> Output:
    names = _unique([name for name, _ in (*index, *values)])
    columns, cells = [], []
    for position, (_, series) in enumerate((*index, *values)):
        kind_of_column, written = _column(series, names[position])
        role: Literal["index", "value"] = "index" if position < len(index) else "value"
        columns.append(OutputColumn(name=names[position], type=kind_of_column, role=role))
        cells.append(written)
    return Output(kind=kind, columns=tuple(columns), rows=tuple(zip(*cells, strict=True)))


def _array(flat: pd.Series[Any], shape: tuple[int, ...]) -> Output:
    column_type, cells = _column(flat, "array")
    return Output(
        kind="array",
        columns=(OutputColumn(name=_VALUE, type=column_type, role="value"),),
        rows=tuple((cell,) for cell in cells),
        shape=tuple(int(length) for length in shape),
    )


def _index_columns(index: pd.Index[Any]) -> list[_Named]:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    if isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1):
        return []
    levels = [index.get_level_values(level) for level in range(index.nlevels)]
    unnamed = [f"level_{n}" for n in range(len(levels))] if len(levels) > 1 else [_INDEX]
    return [
        (unnamed[n] if level.name is None else _label(level.name, n), pd.Series(level))
        for n, level in enumerate(levels)
    ]


def _frame_columns(frame: pd.DataFrame) -> list[_Named]:
    return [(_label(name, n), frame.iloc[:, n]) for n, name in enumerate(frame.columns)]


def _label(name: object, position: int) -> str:
    if isinstance(name, tuple):
        return "_".join(text for part in name if (text := _text(part))) or f"column_{position}"
    if name is None:
        return _VALUE
    return _text(name)


def _unique(names: list[str]) -> list[str]:
    """Put numbers behind names that occur twice, without meeting a name that is there."""
    taken, found = set(names), set()
    result = []
    for name in names:
        new, n = name, 2
        while new in found or (new != name and new in taken):
            new, n = f"{name}_{n}", n + 1
        found.add(new)
        result.append(new)
    return result


def _column(series: pd.Series[Any], name: str) -> tuple[ColumnType, list[Scalar]]:
    """Find a column's type, and write each of its values."""
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    missing = series.isna().tolist()
    column_type = _by_dtype(series)
    values = series.astype(object).tolist()
    if column_type is None:
        present = [value for value, gone in zip(values, missing, strict=True) if not gone]
        column_type = _by_values(present, name)
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        values = series.dt.tz_convert("UTC").astype(object).tolist()
    write = _WRITERS[column_type]
    return column_type, [
        None if gone else write(value) for value, gone in zip(values, missing, strict=True)
    ]


def _by_dtype(series: pd.Series[Any]) -> ColumnType | None:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    types = pd.api.types
    dtype = series.dtype
    if isinstance(dtype, (pd.CategoricalDtype, pd.PeriodDtype, pd.IntervalDtype)):
        return "string"
    tests: tuple[tuple[Callable[[Any], bool], ColumnType], ...] = (
        (types.is_bool_dtype, "boolean"),
        (types.is_integer_dtype, "integer"),
        (types.is_float_dtype, "float"),
        (types.is_datetime64_any_dtype, "timestamp"),
        (types.is_timedelta64_dtype, "duration"),
    )
    if types.is_object_dtype(dtype):
        return None
    return next((name for test, name in tests if test(dtype)), None)


def _by_values(values: list[Any], name: str) -> ColumnType:
    """Judge a column of Python objects by what it holds; mixed plain values become text."""
    import decimal  # noqa: PLC0415 - rarely needed

    import numpy as np  # noqa: PLC0415 - stays out of start-up
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    families: tuple[tuple[ColumnType, tuple[type, ...]], ...] = (
        ("boolean", (bool, np.bool_)),
        ("integer", (int, np.integer)),
        ("float", (float, np.floating, decimal.Decimal)),
        ("timestamp", (dt.datetime, np.datetime64)),
        ("date", (dt.date,)),
        ("duration", (dt.timedelta, np.timedelta64)),
        ("string", (str, pd.Period, pd.Interval)),
    )
    found: set[ColumnType] = set()
    for value in values:
        family = next((kind for kind, types in families if isinstance(value, types)), None)
        if family is None:
            raise Undeclarable(type(value).__name__, where=f"A value in {name!r}")
        found.add(family)
    if len(found) == 1:
        return found.pop()
    if found == {"integer", "float"}:
        return "float"
    return "string"


def _write_integer(value: Any) -> int:
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise Undeclarable("int", where="A number of more than 64 bits")
    return number


def _write_float(value: Any) -> float | str | None:
    number = float(value)
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    return None if math.isnan(number) else number


def _write_timestamp(value: Any) -> str:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    stamp = pd.Timestamp(value)
    return (stamp if stamp.tzinfo is None else stamp.tz_convert("UTC")).isoformat()


def _write_duration(value: Any) -> str:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    return str(pd.Timedelta(value))


def _text(value: Any) -> str:
    """Text that UTF-8 can carry."""
    return str(value).encode("utf-8", "replace").decode()


_WRITERS: dict[ColumnType, Callable[[Any], Scalar]] = {
    "integer": _write_integer,
    "float": _write_float,
    "string": _text,
    "boolean": bool,
    "date": dt.date.isoformat,
    "timestamp": _write_timestamp,
    "duration": _write_duration,
}


def _figure_of(value: object) -> Figure | None:
    """Find the figure of a Figure, Axes or any other artist, or of a collection of them."""
    import sys  # noqa: PLC0415 - a figure exists only where matplotlib is loaded already

    import numpy as np  # noqa: PLC0415 - stays out of start-up

    if "matplotlib.figure" not in sys.modules:
        return None
    from matplotlib.artist import Artist  # noqa: PLC0415 - stays out of start-up
    from matplotlib.figure import Figure, SubFigure  # noqa: PLC0415 - stays out of start-up

    first: object = value
    if isinstance(value, np.ndarray) and value.dtype == object and value.size:
        first = value.flat[0]
    elif isinstance(value, (list, tuple)) and value:
        first = value[0]
    if isinstance(first, (Figure, SubFigure)):
        return first.figure
    if isinstance(first, Artist) and first.figure is not None:
        return first.figure.figure
    return None


def _pixels(figure: Figure) -> str:
    import io  # noqa: PLC0415 - only for figures

    import numpy as np  # noqa: PLC0415 - stays out of start-up
    from matplotlib.image import imread  # noqa: PLC0415 - a figure exists only where it is loaded

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    picture = imread(buffer, format="png")  # height, width, RGBA, from 0 to 1
    alpha = picture[..., 3:]
    on_white = np.rint(255 * (picture[..., :3] * alpha + (1 - alpha))).astype(np.uint8)
    height, width, _ = on_white.shape
    return base64.b64encode(write_png(width, height, on_white.tobytes())).decode()


# The way in


_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIMESTAMP = re.compile(rf"{_DATE}T[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{6,9}})?(\+00:00)?")
_DURATION = re.compile(r"-?[0-9]{1,7} days \+?[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6,9})?")


def _is_date(value: Scalar) -> bool:
    return isinstance(value, str) and re.fullmatch(_DATE, value) is not None and _in_calendar(value)


def _is_timestamp(value: Scalar) -> bool:
    return (
        isinstance(value, str)
        and _TIMESTAMP.fullmatch(value) is not None
        and _in_calendar(value[:19])
    )


def _in_calendar(text: str) -> bool:
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_float(value: Scalar) -> bool:
    return (isinstance(value, float) and math.isfinite(value)) or value in ("inf", "-inf")


def _is_integer(value: Scalar) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_duration(value: Scalar) -> bool:
    return isinstance(value, str) and _DURATION.fullmatch(value) is not None


_CHECKS: dict[ColumnType, Callable[[Scalar], bool]] = {
    "integer": _is_integer,
    "float": _is_float,
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "date": _is_date,
    "timestamp": _is_timestamp,
    "duration": _is_duration,
}
assert set(_CHECKS) == set(_WRITERS) == set(get_args(ColumnType))  # noqa: S101 - a table of types


def _require_consistent(output: Output) -> None:
    """Raise `BadMessage` unless kind, columns, rows, shape and picture belong together."""
    if (output.png is not None) != (output.kind == "figure"):
        raise BadMessage("A figure, and only a figure, has a picture.")
    if (output.shape is not None) != (output.kind == "array"):
        raise BadMessage("An array, and only an array, has a shape.")
    if output.kind == "figure":
        if output.columns or output.rows:
            raise BadMessage("A figure has no table.")
        _repacked(output.png or "")
    else:
        _require_columns(output)
        _require_rows(output)


def _require_rows(output: Output) -> None:
    if any(len(row) != len(output.columns) for row in output.rows):
        raise BadMessage("A row of the output has not as many values as there are columns.")
    for position, column in enumerate(output.columns):
        _require_type(column, [row[position] for row in output.rows])
    if output.kind == "scalar" and len(output.rows) != 1:
        raise BadMessage("A scalar has one value.")
    if output.shape is not None:
        fits = 0 < len(output.shape) <= _MOST_DIMENSIONS and min(output.shape) >= 0
        if not fits or math.prod(output.shape) != len(output.rows):
            raise BadMessage("The array's shape does not fit its elements.")
        # Whoever draws it lays its other axes side by side, also where a zero means no elements.
        drawn = output.shape[1:] if output.rows else output.shape
        if math.prod(filter(None, drawn)) > _MOST_COLUMNS:
            raise BadMessage(f"The array is wider than {_MOST_COLUMNS:,} columns.")


def _require_columns(output: Output) -> None:
    names = [column.name for column in output.columns]
    roles = [column.role for column in output.columns]
    if len(set(names)) != len(names) or len(names) > _MOST_COLUMNS:
        raise BadMessage("The output's columns are too many or not of different names.")
    if roles != sorted(roles):
        raise BadMessage("The output's index does not come before its values.")
    values = roles.count("value")
    if output.kind in ("scalar", "array", "series") and values != 1:
        raise BadMessage("The output has not one column of values.")
    if output.kind in ("scalar", "array") and len(names) != 1:
        raise BadMessage("A scalar or an array has no index.")


def _require_type(column: OutputColumn, values: list[Scalar]) -> None:
    belongs = _CHECKS[column.type]
    if not all(value is None or belongs(value) for value in values):
        raise BadMessage("A value of the output is not of its column's type.")
    if column.type == "timestamp":
        zoned = {str(value).endswith("+00:00") for value in values if value is not None}
        if len(zoned) > 1:
            raise BadMessage("A column has timestamps with and without a time zone.")


def _repacked(png: str) -> str:
    """Read a picture in base64 and write it again; raise `BadMessage` if it is more than pixels."""
    try:
        data = base64.b64decode(png, validate=True)
    except (binascii.Error, ValueError):
        raise BadMessage("The figure is not in base64.") from None
    return base64.b64encode(rewritten(data)).decode()


def _python_scalar(column_type: ColumnType, value: Scalar) -> object:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    if value is None:
        return math.nan if column_type in ("integer", "float") else None
    readers: dict[ColumnType, Callable[[Any], object]] = {
        "float": float,
        "date": dt.date.fromisoformat,
        "timestamp": pd.Timestamp,
        "duration": pd.Timedelta,
    }
    read = readers.get(column_type)
    try:
        return value if read is None else read(value)
    except (ValueError, OverflowError):
        raise BadMessage("The output cannot be rebuilt from its parts.") from None


def _rebuild(output: Output) -> object:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    columns = [
        (column, _series(column.type, [row[n] for row in output.rows]))
        for n, column in enumerate(output.columns)
    ]
    if output.kind == "array":
        return columns[0][1].to_numpy().reshape(output.shape or ())
    indexes = [(c.name, s) for c, s in columns if c.role == "index"]
    index: pd.Index[Any] = pd.RangeIndex(len(output.rows))
    if len(indexes) == 1:
        name, level = indexes[0]
        index = pd.Index(level, name=None if name == _INDEX else name)
    elif indexes:
        index = pd.MultiIndex.from_arrays(
            [level for _, level in indexes],
            names=[None if name == f"level_{n}" else name for n, (name, _) in enumerate(indexes)],
        )
    values = [(c.name, s.set_axis(index)) for c, s in columns if c.role == "value"]
    if output.kind == "series":
        name, series = values[0]
        return series.rename(None if name == _VALUE else name)
    return pd.DataFrame(dict(values), index=index)


def _series(column_type: ColumnType, values: list[Scalar]) -> pd.Series[Any]:
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    complete = None not in values
    if column_type == "timestamp":
        return _timestamps(values)
    dtypes = {
        "integer": "int64" if complete else "Int64",
        "boolean": "bool" if complete else "boolean",
        "float": "float64",
        "duration": "timedelta64[ns]",
    }
    readers: dict[ColumnType, Callable[[Any], object]] = {
        "float": float,
        "date": dt.date.fromisoformat,
        "duration": pd.Timedelta,
    }
    read = readers.get(column_type)
    cells = [value if value is None or read is None else read(value) for value in values]
    return pd.Series(cells, dtype=dtypes.get(column_type, "object"))


def _timestamps(values: list[Scalar]) -> pd.Series[Any]:
    import numpy as np  # noqa: PLC0415 - stays out of start-up
    import pandas as pd  # noqa: PLC0415 - stays out of start-up

    zoned = any(str(value).endswith("+00:00") for value in values)
    texts = ["NaT" if v is None else str(v).removesuffix("+00:00") for v in values]
    # Nanoseconds reach the years 1678 to 2261; microseconds everything a calendar date can be.
    fine = any("." in text and len(text.partition(".")[2]) > 6 for text in texts)  # noqa: PLR2004 - digits of µs
    stamps = pd.Series(np.array(texts, dtype="datetime64[ns]" if fine else "datetime64[us]"))
    return stamps.dt.tz_localize("UTC") if zoned else stamps
