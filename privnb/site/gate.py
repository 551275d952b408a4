"""The gate on outputs of Python cells: what in them a person should look at before they leave.

It knows the output, the public schema and the data, and trusts nothing that the cell says of
itself. It changes nothing: what it finds is told to the reviewer, and holds the output back. What
it does not find is no proof that an output is harmless; see `judge`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from privnb import wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from privnb.computation import Scalar
    from privnb.dp.schema import Column, TableSchema
    from privnb.output import Output, OutputColumn
    from privnb.site.python_config import PythonConfig

__all__ = ["UnitCounts", "judge"]

_FEW = 3
"""From so many distinct values on, a column may be a copy rather than a coincidence."""
_FEW_INTEGERS = 10
_SMALL_OUTPUT = 5
"""Up to so many values, an integer that is rare in the data is more than a coincidence."""
_MOST_COLUMNS = 200
"""Nobody reads more; an output with more is not looked through here either."""
_NUMBERS = ("integer", "float")
_SHOWN = 3


class UnitCounts(Protocol):
    """Exact counts of privacy units, for the owner's side only; see `privnb.site.data.frames`."""

    def units(self, table: str, *, purpose: str) -> int:
        """Count the units whose rows the cell could see."""
        ...

    def units_behind(
        self, table: str, *, purpose: str, keys: Sequence[tuple[str, Sequence[Scalar]]]
    ) -> list[int]:
        """Count, for each row of key values, the units that have exactly these values."""
        ...

    def matches_hidden(
        self, table: str, *, purpose: str, columns: Sequence[Sequence[Scalar]]
    ) -> list[str | None]:
        """Name, for each column's values, the hidden or unit column they were copied from."""
        ...


def judge(
    output: Output,
    *,
    limits: PythonConfig,
    schemas: Mapping[str, TableSchema],
    purpose: str,
    counts: UnitCounts,
) -> tuple[str, ...]:
    """Say in plain words what a reviewer should look at; nothing means that it may leave.

    Looked for are: an output larger than the owner allows; a figure, which only a person can read;
    fewer than ``min_units`` units in the table, or behind a group that is recognised, that is, a
    row whose index or columns are named as columns of the table and hold values of theirs, the
    columns of a cross table included; rows that are no groups, since the same keys come twice;
    single values that occur in the data for fewer units than that, as a maximum does; a count
    below that number; columns that hold only values of one column; and columns, an index and the
    axes of an array among them, whose values are those of the privacy unit or of a hidden column,
    as `privnb.site.data.copies` says.

    Not found is, for example: an aggregate over few people whom the code picked out itself; groups
    under new names; a few whole numbers copied under new names; values that were scaled; numbers
    that encode others; fewer than half of the identifiers that an owner numbered 1, 2, 3, …, out of
    the order of the rows. That is what reading the code is for.

    Parameters
    ----------
    schemas
        The tables that the computation read.
    """
    findings = [*_size(output, limits)]
    if output.kind == "figure":
        findings.append("It is a figure: whether it shows single people, only a look can tell.")
    if len(output.columns) > _MOST_COLUMNS:
        findings.append(f"It has {len(output.columns):,} columns, too many to be looked through.")
        return tuple(findings)
    findings += _small_count(output, limits)
    for table in schemas.values():
        findings += _Judgement(output, table, limits.min_units, purpose, counts).findings()
    return tuple(dict.fromkeys(findings))


def _size(output: Output, limits: PythonConfig) -> Iterator[str]:
    if len(output.rows) > limits.max_rows:
        yield f"It has {len(output.rows):,} rows; at most {limits.max_rows:,} leave unseen."
    size = len(wire.encode(output))
    if size > limits.max_bytes:
        yield f"It has {size:,} bytes; at most {limits.max_bytes:,} leave unseen."


def _small_count(output: Output, limits: PythonConfig) -> Iterator[str]:
    if output.kind == "scalar" and output.columns[0].type == "integer":
        value = output.rows[0][0]
        if isinstance(value, int) and 0 < value < limits.min_units:
            yield f"It is {value}: if it counts people, they are few."


class _Judgement:
    """One output against one table."""

    def __init__(
        self, output: Output, table: TableSchema, least: int, purpose: str, counts: UnitCounts
    ) -> None:
        self._output = output
        self._table = table
        self._least = least
        self._purpose = purpose
        self._counts = counts
        self._visible = {c.name: c for c in table.columns if c.name != table.privacy_unit}

    def findings(self) -> Iterator[str]:
        """Yield every finding."""
        unit = self._table.unit_name
        if self._counts.units(self._table.name, purpose=self._purpose) < self._least:
            yield f"{self._table.name} holds fewer than {self._least} {unit}s for this purpose."
        if not self._output.rows:
            return
        yield from self._hidden()
        keys = [place for place, _ in enumerate(self._output.columns) if self._is_key(place)]
        yield from self._small_groups(keys)
        yield from self._single_values()
        yield from self._copies(keys)

    def _hidden(self) -> Iterator[str]:
        """Find copies of the privacy unit and of hidden columns."""
        lines = [*_lines(self._output)]
        names = self._counts.matches_hidden(
            self._table.name, purpose=self._purpose, columns=[values for _, values in lines]
        )
        for (label, _), name in zip(lines, names, strict=True):
            if name is not None:
                what = "the privacy unit" if name == self._table.privacy_unit else "hidden"
                yield f"{label} holds the values of {self._table.name}.{name}, which is {what}."

    def _is_key(self, place: int) -> bool:
        """Tell whether an output's column says which group a row is about."""
        column = self._output.columns[place]
        source = self._visible.get(column.name)
        if source is None or not _comparable(column, source):
            return False
        return column.role == "index" or all(self._behind([(source.name, self._values(place))]))

    def _small_groups(self, keys: Sequence[int]) -> Iterator[str]:
        named = [(self._output.columns[p].name, self._values(p)) for p in keys]
        yield from self._repeated(named)
        across = self._across(keys)
        if across is not None:
            name, heads = across
            rows = len(self._output.rows)
            cells: list[tuple[str, Sequence[Scalar]]] = [
                (key, [*values] * len(heads)) for key, values in named
            ]
            yield from self._small([*cells, (name, [h for h in heads for _ in range(rows)])])
        elif named:
            yield from self._small(named)

    def _repeated(self, keys: Sequence[tuple[str, Sequence[Scalar]]]) -> Iterator[str]:
        groups = list(zip(*(values for _, values in keys), strict=True))
        if len(set(groups)) < len(groups):
            names = ", ".join(name for name, _ in keys)
            yield f"The same {names} comes in several rows: they may be rows of the table."

    def _small(self, keys: Sequence[tuple[str, Sequence[Scalar]]]) -> Iterator[str]:
        units = self._behind(keys)
        small = [row for row, count in enumerate(units) if count < self._least]
        if small:
            shown = "; ".join(
                ", ".join(f"{name} {values[row]!s:.40}" for name, values in keys)
                for row in small[:_SHOWN]
            )
            more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
            yield (
                f"Fewer than {self._least} {self._table.unit_name}s stand behind "
                f"{len(small)} of its groups: {shown}{more}."
            )

    def _across(self, keys: Sequence[int]) -> tuple[str, list[Scalar]] | None:
        """Find the column whose values head the columns of a cross table, and these values."""
        heads = [
            column.name
            for place, column in enumerate(self._output.columns)
            if column.role == "value" and place not in keys
        ]
        if len(heads) < 2:  # noqa: PLR2004 - one column is no cross table
            return None
        for source in self._visible.values():
            read = [_as_value(head, source) for head in heads]
            if None not in read and any(self._behind([(source.name, read)])):
                return source.name, read
        return None

    def _single_values(self) -> Iterator[str]:
        """Find values that are somebody's own: a maximum, a diagnosis, a row that was copied."""
        few = len(self._output.rows) * len(self._output.columns) <= _SMALL_OUTPUT
        telling = {
            place: [
                value
                for value in dict.fromkeys(self._values(place))
                if value is not None and _is_telling(value, column, few=few)
            ]
            for place, column in enumerate(self._output.columns)
            if column.role == "value"
        }
        for source, found in self._lookups(telling):
            for place, units in found.items():
                if any(0 < count < self._least for count in units):
                    yield (
                        f"Column {self._output.columns[place].name!r} holds a value that is the "
                        f"{source.name} of fewer than {self._least} {self._table.unit_name}s, "
                        "exactly: it may be one of theirs."
                    )

    def _copies(self, keys: Sequence[int]) -> Iterator[str]:
        """Find columns that hold nothing but values of a column of the table."""
        distinct = {
            place: list(dict.fromkeys(self._values(place)))
            for place, column in enumerate(self._output.columns)
            if place not in keys and column.type not in ("float", "boolean")
        }
        enough = {
            place: values
            for place, values in distinct.items()
            if len(values) >= (_FEW_INTEGERS if self._is_integer(place) else _FEW)
        }
        for source, found in self._lookups(enough):
            for place, units in found.items():
                if all(units):
                    yield (
                        f"Column {self._output.columns[place].name!r} holds only values of "
                        f"{self._table.name}.{source.name}: it may be a copy of rows."
                    )

    def _lookups(
        self, columns: Mapping[int, Sequence[Scalar]]
    ) -> Iterator[tuple[Column, dict[int, list[int]]]]:
        """Count, for each column of the table without public values, who has values like these.

        The counts stand by the place of the output's column; each column of the table is asked
        once, however many columns the output has.
        """
        for source in self._visible.values():
            alike = {
                place: values
                for place, values in columns.items()
                if values and _comparable(self._output.columns[place], source)
            }
            if source.values is not None or not alike:
                continue
            units = iter(self._behind([(source.name, [v for vs in alike.values() for v in vs])]))
            yield source, {place: [next(units) for _ in values] for place, values in alike.items()}

    def _is_integer(self, place: int) -> bool:
        return self._output.columns[place].type == "integer"

    def _values(self, place: int) -> list[Scalar]:
        return [row[place] for row in self._output.rows]

    def _behind(self, keys: Sequence[tuple[str, Sequence[Scalar]]]) -> list[int]:
        return self._counts.units_behind(self._table.name, purpose=self._purpose, keys=keys)


def _lines(output: Output) -> Iterator[tuple[str, Sequence[Scalar]]]:
    """Yield all that may hold a column of a table, and how to name it.

    That is each column, the names of columns, and each row of what is wider than it is long; of an
    array, also what it is made of along its last axis.
    """
    rows = output.rows
    for place, column in enumerate(output.columns):
        yield f"Column {column.name!r}", [row[place] for row in rows]
    if output.shape is not None:
        width = max(1, output.shape[-1])
        flat = [value for (value,) in rows]
        rows = tuple(tuple(flat[at : at + width]) for at in range(0, len(flat), width))
        if len(rows) > 1 and 1 < width <= _MOST_COLUMNS:
            for place in range(width):
                yield f"Column {place} of the array", flat[place::width]
    else:
        values = [place for place, column in enumerate(output.columns) if column.role == "value"]
        rows = tuple(tuple(row[place] for place in values) for row in rows)
        if len(values) > 1:
            yield "The names of its columns", [output.columns[place].name for place in values]
    if rows and 1 < len(rows) < min(len(rows[0]), _MOST_COLUMNS):
        for place, row in enumerate(rows):
            yield f"Row {place}", row


def _is_telling(value: Scalar, column: OutputColumn, *, few: bool) -> bool:
    """Tell whether it says something that a value also occurs in the data."""
    match column.type:
        case "float":
            return isinstance(value, float) and (few or not value.is_integer())
        case "integer":
            return few
        case "boolean":
            return False
        case _:
            return True


def _as_value(head: str, source: Column) -> Scalar:
    """Read the head of a column as a value of another; None if it cannot be one."""
    match source.type:
        case "string":
            return head
        case "integer":
            return int(head) if head.removeprefix("-").isdecimal() else None
        case "boolean":
            return {"true": True, "false": False}.get(head.lower())
        case _:
            return None


def _comparable(column: OutputColumn, source: Column) -> bool:
    if column.type in _NUMBERS and source.type in _NUMBERS:
        return True
    return column.type == source.type
