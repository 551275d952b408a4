"""The bounded table: made once at registration, read by every query.

It holds, for each row that may ever be used,

- ``_unit``: the privacy unit, never NULL;
- every visible column under its own name, as BIGINT, DOUBLE, VARCHAR, BOOLEAN, DATE or TIMESTAMP,
  for filters and groups. What these types cannot carry safely is NULL: NaN and infinities, dates
  outside the years 1 to 9999;
- ``_v_<name>`` for every column with bounds: the value clamped to them, in fixed point, as BIGINT;
- ``_listed_<name>`` for every column with public values: whether a row's value is one of them, or
  a NULL that the schema allows. Never NULL.

A unit has at most ``max_rows_per_unit`` rows in it, and one value of each column that is declared
constant. Which ones, is decided for each unit from its
own rows alone and a secret key; so neighbouring sources give neighbouring bounded tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from privnb.dp.literals import DUCKDB_TYPES, literal, normal_key, quoted
from privnb.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from privnb.dp.schema import Column, TableSchema

__all__ = [
    "UNIT",
    "FixedPoint",
    "bounding_sql",
    "check_schema",
    "check_values",
    "fixed_point",
    "listed_column",
    "value_column",
    "visible_columns",
]

UNIT = "_unit"
"""Name of the column of the bounded table that holds the privacy unit."""

_VALUE_PREFIX = "_v_"
_LISTED_PREFIX = "_listed_"
_RESOLUTION = 2**24
_SQUARE_BITS = 24
_ROOT_BITS = 30
_LIMIT = 2**63
_LEAST_DELTA = 1e-12
_TOTAL = {
    "float": "CASE WHEN isfinite({0}) THEN {0} END",
    "date": "CASE WHEN {0} BETWEEN DATE '0001-01-01' AND DATE '9999-12-31' THEN {0} END",
    "timestamp": "CASE WHEN {0} >= TIMESTAMP '0001-01-01 00:00:00' "
    "AND {0} < TIMESTAMP '9999-12-31 00:00:00' THEN {0} END",
}


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """How the values of one bounded column are stored: as whole multiples of ``1 / scale``.

    ``lower`` and ``upper`` are the bounds in these steps, rounded outward.
    """

    scale: float
    lower: int
    upper: int

    @property
    def largest(self) -> int:
        """The largest magnitude of a stored value."""
        return max(abs(self.lower), abs(self.upper))

    @property
    def middle(self) -> int:
        """The stored value closest to the middle of the bounds."""
        return (self.lower + self.upper) // 2

    @property
    def half_range(self) -> int:
        """The largest distance of a stored value from `middle`."""
        return max(self.upper - self.middle, self.middle - self.lower)

    @property
    def square_preshift(self) -> int:
        """Bits dropped from distances to the middle, so that their squares fit 64 bits."""
        return max(0, self.half_range.bit_length() - _ROOT_BITS)

    @property
    def square_shift(self) -> int:
        """Bits dropped from those squares, so that their sums stay small."""
        kept = self.half_range.bit_length() - self.square_preshift
        return max(0, 2 * kept - _SQUARE_BITS)

    def steps(self, value: float) -> tuple[int, int]:
        """Round a value in the column's unit to steps: down and up."""
        return math.floor(value * self.scale), math.ceil(value * self.scale)


@lru_cache(maxsize=4096)
def fixed_point(column: Column) -> FixedPoint:
    """Choose the fixed point of a column with bounds; the scale is a power of two.

    Whole numbers are exact. For other numbers the bounds span 2^24 steps or more.

    >>> from privnb.dp.schema import Bounds, Column
    >>> fixed_point(Column(name="age", type="integer", bounds=Bounds(lower=0, upper=99)))
    FixedPoint(scale=2.0, lower=0, upper=198)
    """
    if column.bounds is None:
        message = f"column {column.name!r} has no bounds"
        raise ValueError(message)
    lower, upper = column.bounds.lower, column.bounds.upper
    if column.type == "integer":
        # One half more resolution when the middle of the bounds falls between whole numbers.
        scale = 1.0 if (lower + upper) % 2 == 0 else 2.0
    else:
        span = max(upper - lower, 1e-9 * max(abs(lower), abs(upper)), 1e-30)
        scale = 2.0 ** math.ceil(math.log2(_RESOLUTION / span))
    return FixedPoint(scale=scale, lower=math.floor(lower * scale), upper=math.ceil(upper * scale))


def visible_columns(schema: TableSchema) -> tuple[Column, ...]:
    """Return the columns a query may name: all but the privacy unit."""
    return tuple(column for column in schema.columns if column.name != schema.privacy_unit)


def value_column(name: str) -> str:
    """Name of the bounded table's column with the clamped fixed-point values."""
    return _VALUE_PREFIX + name


def listed_column(name: str) -> str:
    """Name of the bounded table's column that tells whether a value is public.

    Comparing once, at registration, keeps queries as fast as a plain GROUP BY.
    """
    return _LISTED_PREFIX + name


def bounding_sql(schema: TableSchema, *, source: str, key_parameter: str = "key") -> str:
    """Return the SELECT that makes the bounded table.

    Parameters
    ----------
    schema
        Checked by `check_schema`.
    source
        The relation to read, as SQL that the owner's side wrote (a quoted name, for example). It
        has the privacy unit and every column of the schema under their names.
    key_parameter
        Name of the parameter to bind to the table's secret key, a text of at least 128 random bits.

    Notes
    -----
    The source is read once, so a source that changes meanwhile cannot break the limit on rows.
    DuckDB sorts it in memory, so a large source is bounded in parts: each with all rows of some of
    the units, for example ``(FROM source WHERE hash(unit) % 8 = 0)``. The result is the same.
    Rows that are equal in every column count as often as they occur. No two rows of a unit share
    a declared unique key: of those that do in the source, one is kept. No two rows of a unit differ
    in a column declared constant: those that differ from the unit's first row are left out.
    """
    names = [quoted(column.name) for column in visible_columns(schema)]
    typed = [f"{quoted(schema.privacy_unit)} AS {quoted(UNIT)}"]
    stored = [quoted(UNIT), *names]
    for column, name in zip(visible_columns(schema), names, strict=True):
        cast = f"CAST({name} AS {DUCKDB_TYPES[column.type]})"
        typed.append(f"{_TOTAL.get(column.type, '{0}').format(cast)} AS {name}")
        if column.bounds is not None:
            stored.append(_clamped(column))
        if column.values is not None:
            stored.append(_listed(column))
    content = ", ".join([quoted(UNIT), *names])
    order = f"unhex(left(sha256(${key_parameter} || CAST(ROW({content}) AS VARCHAR)), 16))"
    # The hash of the row decides; its first 64 bits keep what is sorted small.
    kept = [_first(schema.max_rows_per_unit, [UNIT], order)]
    for key in schema.unique_keys:
        others = [name for name in key if name != schema.privacy_unit]
        # True by construction here, whatever casts and lost values did to a verified claim.
        kept.append(_first(1, [UNIT, *others], order))
    constant = [quoted(column.name) for column in visible_columns(schema) if column.constant]
    # Whichever row the engine takes for the first, all that are kept agree with one row.
    first = f"OVER (PARTITION BY {quoted(UNIT)} ORDER BY {order})"
    kept += [f"{name} IS NOT DISTINCT FROM FIRST_VALUE({name}) {first}" for name in constant]
    return (
        f"SELECT {', '.join(stored)}\n"  # noqa: S608 - every name is quoted, every number ours
        f"FROM (SELECT {', '.join(typed)}\n"
        f"      FROM {source} WHERE {quoted(schema.privacy_unit)} IS NOT NULL)\n"
        f"QUALIFY {' AND '.join(kept)}"
    )


def _first(rows: int, columns: list[str], order: str) -> str:
    partition = ", ".join(quoted(column) for column in columns)
    return f"ROW_NUMBER() OVER (PARTITION BY {partition} ORDER BY {order}) <= {rows}"


def _clamped(column: Column) -> str:
    assert column.bounds is not None  # noqa: S101 - told by the caller
    name, point = quoted(column.name), fixed_point(column)
    lower, upper = (
        f"CAST('{bound!r}' AS DOUBLE)" for bound in (column.bounds.lower, column.bounds.upper)
    )
    clamped = f"LEAST(GREATEST(CAST({name} AS DOUBLE), {lower}), {upper})"
    value = f"CAST(ROUND({clamped} * CAST('{point.scale!r}' AS DOUBLE)) AS BIGINT)"
    # LEAST and GREATEST pass over NULL, which would turn it into a bound.
    return f"CASE WHEN {name} IS NOT NULL THEN {value} END AS {quoted(value_column(column.name))}"


def _listed(column: Column) -> str:
    name, missing = quoted(column.name), "TRUE" if column.nullable else "FALSE"
    keys = [normal_key(column.type, value) for value in column.values or ()]
    known = ", ".join(literal(column.type, key) for key in dict.fromkeys(keys) if key is not None)
    found = f"{name} IN ({known})" if known else "FALSE"
    flag = quoted(listed_column(column.name))
    return f"CASE WHEN {name} IS NULL THEN {missing} ELSE {found} END AS {flag}"


def check_schema(schema: TableSchema, *, rows: int) -> None:
    """Raise `ConfigError` when no proof of privacy would hold for a table of ``rows`` rows.

    Checks what can be checked without data: delta, the limit on rows per unit, bounds, public
    values, names, and that no sum of clamped values can leave 64 bits. Queries rely on it.
    """
    table = f"Table {schema.name!r}"
    if not _LEAST_DELTA <= schema.delta < 1:
        raise ConfigError(
            f"{table}: delta must be at least {_LEAST_DELTA:g} and below 1, not {schema.delta:g}.",
            hint="Usual is well below one in the number of units, for example 1e-6.",
        )
    if schema.max_rows_per_unit < 1:
        raise ConfigError(
            f"{table}: max_rows_per_unit must be at least 1, not {schema.max_rows_per_unit}.",
            hint="Take the number of rows that most units have; more rows need more noise.",
        )
    _check_names(schema)
    names = {column.name for column in visible_columns(schema)} | {schema.privacy_unit}
    for key in schema.unique_keys:
        for name in key:
            if name not in names:
                raise ConfigError(
                    f"{table}: a unique key names {name!r}, which is no column.",
                    hint=f"Columns are {', '.join(sorted(names))}.",
                )
    for column in visible_columns(schema):
        check_values(schema.name, column)
        _check_bounds(schema, column, rows)


def _check_names(schema: TableSchema) -> None:
    seen = {UNIT: "a name the bounded table uses itself"}
    for column in visible_columns(schema):
        stored = [column.name]
        if column.bounds is not None:
            stored.append(value_column(column.name))
        if column.values is not None:
            stored.append(listed_column(column.name))
        for name in stored:
            folded = name.lower()
            if not name or "\0" in name or folded in seen:
                raise ConfigError(
                    f"Table {schema.name!r}: the column name {column.name!r} is empty or collides"
                    f" with {seen.get(folded, 'nothing')}.",
                    hint="Names differ in more than upper and lower case; rename the column.",
                )
            seen[folded] = f"column {column.name!r}"


def _check_bounds(schema: TableSchema, column: Column, rows: int) -> None:
    where = f"Table {schema.name!r}, column {column.name!r}"
    for bounds, what in ((column.bounds, "bounds"), (column.unit_bounds, "unit_bounds")):
        if bounds is None:
            continue
        if column.type not in ("integer", "float"):
            raise ConfigError(
                f"{where}: {what} are for numbers, and this column's type is {column.type}.",
                hint=f"Remove {what}.",
            )
        if not (math.isfinite(bounds.lower) and math.isfinite(bounds.upper)):
            raise ConfigError(f"{where}: {what} must be finite.", hint="Give two numbers.")
        if not bounds.lower < bounds.upper:
            raise ConfigError(
                f"{where}: {what} must rise, but {bounds.lower:g} is not below {bounds.upper:g}.",
                hint="Give the lower bound first.",
            )
    if column.bounds is None:
        if column.unit_bounds is not None:
            raise ConfigError(
                f"{where}: unit_bounds are given without bounds.",
                hint="Give bounds for single values too; they are clamped first.",
            )
        return
    point = fixed_point(column)
    widest = max(point.largest, 2 * point.half_range, 2**_SQUARE_BITS)
    if max(rows, 1) * widest >= _LIMIT:
        raise ConfigError(
            f"{where}: the sum of {rows} values of up to {column.bounds.upper:g} could leave"
            " 64-bit integers.",
            hint="Narrow the bounds to what single values can sensibly be.",
        )


def check_values(table: str, column: Column) -> None:
    """Raise `ConfigError` when a public value is not of its column's type."""
    fits: dict[str, Callable[[object], bool]] = {
        "integer": lambda v: type(v) is int and -_LIMIT <= v < _LIMIT,
        "float": lambda v: isinstance(v, (int, float)) and math.isfinite(v) and v is not True,
        "string": lambda v: isinstance(v, str) and "\0" not in v,
        "boolean": lambda v: isinstance(v, bool),
        "date": lambda v: isinstance(v, str) and _is_iso(date, v),
        "timestamp": lambda v: isinstance(v, str) and _is_iso(datetime, v),
    }
    for value in column.values or ():
        if value is not None and not fits[column.type](value):
            raise ConfigError(
                f"Table {table!r}, column {column.name!r}: the public value {value!r} is no"
                f" {column.type}.",
                hint="Dates are written as text, like '2026-01-31'.",
            )


def _is_iso(kind: type[date], text: str) -> bool:
    try:
        moment = kind.fromisoformat(text)
    except ValueError:
        return False
    return not (isinstance(moment, datetime) and moment.tzinfo)
