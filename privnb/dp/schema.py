"""The public schema of a table: all that an analyst, and the planner, may know about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from privnb import wire
from privnb.computation import Scalar
from privnb.errors import UnknownName

__all__ = ["Bounds", "Column", "ColumnType", "TableSchema", "UnitBounds"]


class ColumnType(StrEnum):
    """The types a column of a protected table may have."""

    INTEGER = "integer"
    FLOAT = "float"
    STRING = "string"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"


@wire.message
class Bounds:
    """Closed interval to which single values are clamped."""

    lower: float
    upper: float


@wire.message
class UnitBounds:
    """Closed interval to which the sum of one unit's values within one group is clamped."""

    lower: float
    upper: float


@wire.message
class Column:
    """One visible column.

    ``bounds`` allow SUM, AVG, VAR, STDDEV and quantiles; ``values`` are public: groups over them
    appear whether or not the data has them. With ``constant`` one unit has one value in all its
    rows, NULL being a value too; this is enforced when the table is bounded, and lowers the noise
    in groups over the column.
    """

    name: str
    type: Literal["integer", "float", "string", "boolean", "date", "timestamp"]
    nullable: bool = True
    bounds: Bounds | None = None
    unit_bounds: UnitBounds | None = None
    values: tuple[Scalar, ...] | None = None
    constant: bool = False
    description: str = ""


@wire.message
class TableSchema:
    """A protected table as its owner publishes it. Hidden columns are not part of it.

    Neighbouring tables differ in all rows of one privacy unit. At most ``max_rows_per_unit`` rows
    of a unit take part in any computation. ``unique_keys`` are sets of columns that, the privacy
    unit among them, no two rows share.
    """

    name: str
    columns: tuple[Column, ...]
    privacy_unit: str
    """Name of the column that tells whose presence is protected. It can never be read."""
    unit_name: str = "person"
    """What one privacy unit is, in one word for people: person, household, vehicle."""
    max_rows_per_unit: int
    unique_keys: tuple[tuple[str, ...], ...] = ()
    delta: float
    """Total probability, over all that is ever released, that the epsilon does not hold."""
    accounting: Literal["zcdp", "pure"] = "zcdp"
    """How releases add up, and so their noise: see `privnb.dp.accounting`. Fixed once charged."""
    public_rows: int | None = None
    """About how many rows the table has, if the owner made that public; used in estimates only."""
    purposes: tuple[str, ...] = ()
    description: str = ""

    def column(self, name: str) -> Column:
        """Find a column by its exact name, or raise `UnknownName` (E_NO_COLUMN)."""
        for column in self.columns:
            if column.name == name:
                return column
        known = (column.name for column in self.columns if column.name != self.privacy_unit)
        raise UnknownName.among("column", name, known, code="E_NO_COLUMN")
