"""Values as DuckDB's SQL writes them and as group keys compare them."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from privnb.computation import Scalar

__all__ = ["DUCKDB_TYPES", "RowType", "literal", "normal_key", "quoted"]

RowType: TypeAlias = Literal["integer", "float", "string", "boolean", "date", "timestamp"]

DUCKDB_TYPES = {
    "integer": "BIGINT",
    "float": "DOUBLE",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}
"""The type of a column in the bounded table, by its type in the schema."""


def quoted(name: str) -> str:
    """Write an identifier for DuckDB.

    >>> print(quoted('a "b" c'))
    "a ""b"" c"
    """
    return '"' + name.replace('"', '""') + '"'


def literal(kind: RowType, value: bool | float | str) -> str:  # noqa: FBT001 - the value itself
    """Write a value for DuckDB, typed and quoted.

    >>> print(literal("string", "it's"), literal("integer", 3))
    CAST('it''s' AS VARCHAR) CAST(3 AS BIGINT)
    """
    if kind == "boolean":
        return "TRUE" if value else "FALSE"
    if kind == "integer":
        return f"CAST({int(value)} AS BIGINT)"
    text = repr(float(value)) if kind == "float" else str(value)
    return f"CAST('{text.replace(chr(39), chr(39) * 2)}' AS {DUCKDB_TYPES[kind]})"


def normal_key(kind: RowType, value: object) -> Scalar:
    """Bring a group key, from the schema or from the engine, into its one form; never fails.

    Dates and times become ISO text.

    >>> normal_key("date", "2026-01-31"), normal_key("timestamp", "2026-01-31T08:00")
    ('2026-01-31', '2026-01-31 08:00:00')
    >>> normal_key("integer", True)
    1
    """
    if value is None:
        return None
    if isinstance(value, (int, float)) and kind in ("boolean", "integer", "float"):
        # Adding 0 joins the two zeros, which the engine takes for one group.
        return bool(value) if kind == "boolean" else value + (0 if kind == "integer" else 0.0)
    text = str(value)
    if kind in ("date", "timestamp"):
        reader: type[date] = date if kind == "date" else datetime
        try:
            return str(reader.fromisoformat(text))
        except ValueError:
            return text
    return text
