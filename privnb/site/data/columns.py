"""Reading one column's declaration: its type, bounds, public values and, for bins, its making."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from privnb.computation import Scalar
from privnb.dp.schema import Bounds, Column, UnitBounds
from privnb.site.data.bins import Bins, CutBins, read_bins
from privnb.site.toml_reader import Section

__all__ = ["DeclaredColumn", "is_name", "read_column"]

_TypeName = Literal["integer", "float", "string", "boolean", "date", "timestamp"]
_BOUNDS_HINT = (
    "Write bounds = [lowest, highest], from what anybody may know rather than from the data."
)


@dataclass(frozen=True, kw_only=True)
class DeclaredColumn:
    """A visible column, and how it is made from the source."""

    column: Column
    bins: Bins | None
    origins: tuple[str, ...]
    """The source columns that it is made from."""


def is_name(text: str) -> bool:
    """Tell whether a text can name a table or column in SQL without surprises."""
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", text) is not None


def read_column(section: Section, name: str, *, is_unit: bool) -> DeclaredColumn:
    """Read ``[tables.T.columns.NAME]``; raise `ConfigError` at the first mistake."""
    if not is_name(name):
        hint = 'Use letters, digits and underscores, and say from = "…" for another source name.'
        section.fail(f"{name!r} cannot be a column's name.", hint=hint)
    kind = _read_type(section)
    bins = read_bins(section)
    values = _read_values(section, kind, bins)
    bounds = section.interval("bounds", hint=_BOUNDS_HINT)
    unit_hint = "Write unit_bounds = [lowest, highest] of the sum over one unit's rows in a group."
    unit_bounds = section.interval("unit_bounds", hint=unit_hint)
    nullable = section.flag("nullable", hint="Say true or false.", default=not is_unit)
    constant = section.flag("constant", hint="Say true or false.", default=False)
    description = section.text("description", hint="Describe the column.", default="")
    origins: tuple[str, ...]
    if bins is None:
        origins = (section.text("from", hint="Name the source's column.", default=name),)
    else:
        origins = tuple(sorted(bins.sources))
        nullable = nullable and isinstance(bins, CutBins) and bins.missing is None
    section.finish()
    if is_unit:
        _check_unit(section, name, kind, bins)
    elif kind in ("integer", "float"):
        _check_numeric(section, name, values, bounds)
    elif bounds or unit_bounds:
        key = "bounds" if bounds else "unit_bounds"
        hint = "Remove the bounds, or correct the type."
        section.fail(f"A column of type {kind} has no bounds.", key, hint=hint)
    if unit_bounds and not bounds:
        section.fail("'unit_bounds' needs 'bounds' too.", "unit_bounds", hint=_BOUNDS_HINT)
    column = Column(
        name=name,
        type=kind,
        nullable=nullable,
        bounds=Bounds(lower=bounds[0], upper=bounds[1]) if bounds else None,
        unit_bounds=(
            UnitBounds(lower=unit_bounds[0], upper=unit_bounds[1]) if unit_bounds else None
        ),
        values=values,
        constant=constant,
        description=description,
    )
    return DeclaredColumn(column=column, bins=bins, origins=origins)


def _read_type(section: Section) -> _TypeName:
    known = get_args(_TypeName)
    hint = f"Known types: {', '.join(known)}."
    kind = section.text("type", hint=hint)
    if kind not in known:
        section.fail(f"There is no column type {kind!r}.", "type", hint=hint)
    return cast("_TypeName", kind)


def _read_values(section: Section, kind: _TypeName, bins: Bins | None) -> tuple[Scalar, ...] | None:
    hint = 'Write for example values = ["north", "south"], all of the column\'s type.'
    if bins is None:
        values = section.scalars("values", hint=hint)
        key = "values"
    else:
        if "values" in section:
            problem = "The values of bins follow from their definition."
            section.fail(problem, "values", hint="Remove 'values'.")
        values = bins.values
        key = "cuts" if isinstance(bins, CutBins) else "cases"
    if values is None:
        return None
    if kind in ("float", "timestamp"):
        remedy = "Declare bins with 'cuts', or another type."
        section.fail(f"A column of type {kind} cannot have public values.", key, hint=remedy)
    for number, value in enumerate(values):
        if not _fits(value, kind):
            where = (key, number) if bins is None else (key,)
            section.fail(f"The value {value!r} is not of type {kind}.", *where, hint=hint)
    return values


def _fits(value: Scalar, kind: _TypeName) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "date":
            return isinstance(value, str) and _is_date(value)
        case _:
            return isinstance(value, str)


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _check_unit(section: Section, name: str, kind: _TypeName, bins: Bins | None) -> None:
    if kind not in ("integer", "string") or bins is not None:
        hint = "Use a column of the source that is a whole number or a text."
        section.fail(f"The privacy unit {name!r} cannot be of this kind.", "type", hint=hint)
    for key in ("bounds", "unit_bounds", "values", "constant"):
        if key in section:
            problem = f"The privacy unit {name!r} is never read, so it has no {key!r}."
            section.fail(problem, key, hint=f"Remove {key!r}.")


def _check_numeric(
    section: Section,
    name: str,
    values: tuple[Scalar, ...] | None,
    bounds: tuple[float, float] | None,
) -> None:
    if values is None and bounds is None:
        hint = f"{_BOUNDS_HINT} For a code rather than a quantity, list its public values."
        section.fail(f"The numeric column {name!r} lacks 'bounds'.", hint=hint)
    if bounds is None:
        return
    for number, value in enumerate(values or ()):
        if not bounds[0] <= cast("float", value) <= bounds[1]:
            problem = f"The value {value} lies outside the bounds."
            where = ("values", number) if "values" in section else ()
            section.fail(problem, *where, hint="Widen the bounds or remove the value.")
