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
_NUMBERS = ("integer", "float")
_SHOWN = 3


class UnitCounts(Protocol):
    """Exact counts of privacy units, for the owner's side only; see `privnb.site.frames`."""

    def units(self, table: str, *, purpose: str) -> int:
        """Count the units whose rows the cell could see."""
        ...

    def units_behind(
        self, table: str, *, purpose: str, keys: Sequence[tuple[str, Sequence[Scalar]]]
    ) -> list[int]:
        """Count, for each row of key values, the units that have exactly these values."""
        ...

    def matches_hidden(self, table: str, *, purpose: str, values: Sequence[Scalar]) -> str | None:
        """Name the unit column or hidden column that these values were copied from, if any."""
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
    fewer than ``min_units`` units in the table, or behind a row whose group can be recognised, that
    is, whose index or columns are named as columns of the table and hold values of theirs, the
    columns of a cross table included; single values that occur in the data for fewer units than
    that, as a maximum does; columns that hold only values of one column; and columns that equal
    the privacy unit or a hidden column.

    Not found is what was computed beyond recognition: groups under new names, values that were
    scaled, numbers that encode others. That is what reading the code is for.

    Parameters
    ----------
    schemas
        The tables that the computation read.
    """
    findings = [*_size(output, limits)]
    if output.kind == "figure":
        findings.append("It is a figure: whether it shows single people, only a look can tell.")
    for table in schemas.values():
        findings += _Judgement(output, table, limits.min_units, purpose, counts).findings()
    return tuple(dict.fromkeys(findings))


def _size(output: Output, limits: PythonConfig) -> Iterator[str]:
    if len(output.rows) > limits.max_rows:
        yield f"It has {len(output.rows):,} rows; at most {limits.max_rows:,} leave unseen."
    size = len(wire.encode(output))
    if size > limits.max_bytes:
        yield f"It has {size:,} bytes; at most {limits.max_bytes:,} leave unseen."


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
        for place, column in enumerate(self._output.columns):
            name = self._counts.matches_hidden(
                self._table.name, purpose=self._purpose, values=self._values(place)
            )
            if name is not None:
                what = "the privacy unit" if name == self._table.privacy_unit else "hidden"
                yield (
                    f"Column {column.name!r} holds the values of {self._table.name}.{name}, "
                    f"which is {what}."
                )

    def _is_key(self, place: int) -> bool:
        """Tell whether an output's column says which group a row is about."""
        column = self._output.columns[place]
        source = self._visible.get(column.name)
        if source is None or not _comparable(column, source):
            return False
        return column.role == "index" or all(self._behind([(source.name, self._values(place))]))

    def _small_groups(self, keys: Sequence[int]) -> Iterator[str]:
        named = [(self._output.columns[p].name, self._values(p)) for p in keys]
        across = self._across()
        if across is not None:
            for place, column in enumerate(self._output.columns):
                if place not in keys:
                    here: list[Scalar] = [column.name] * len(self._output.rows)
                    yield from self._small([*named, (across, here)])
        elif named:
            yield from self._small(named)

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

    def _across(self) -> str | None:
        """Name the text column whose values head the columns of a cross table."""
        heads: list[Scalar] = [c.name for c in self._output.columns if c.role == "value"]
        if len(heads) < 2:  # noqa: PLR2004 - one column is no cross table
            return None
        for source in self._visible.values():
            if source.type == "string" and any(self._behind([(source.name, heads)])):
                return source.name
        return None

    def _single_values(self) -> Iterator[str]:
        """Find numbers that are somebody's own: a maximum, a minimum, a row that was copied."""
        cells = [
            (column.name, value)
            for place, column in enumerate(self._output.columns)
            if column.type == "float"
            for value in self._values(place)
            if isinstance(value, float) and not value.is_integer()
        ]
        if not cells:
            return
        values: list[Scalar] = [value for _, value in cells]
        for source in self._visible.values():
            if source.type != "float":
                continue
            units = self._behind([(source.name, values)])
            found = {
                name
                for (name, _), count in zip(cells, units, strict=True)
                if 0 < count < self._least
            }
            for name in sorted(found):
                yield (
                    f"Column {name!r} holds a number that is the {source.name} of fewer than "
                    f"{self._least} {self._table.unit_name}s, exactly: it may be one of theirs."
                )

    def _copies(self, keys: Sequence[int]) -> Iterator[str]:
        for place, column in enumerate(self._output.columns):
            values: list[Scalar] = list(dict.fromkeys(self._values(place)))
            enough = _FEW_INTEGERS if column.type == "integer" else _FEW
            if place in keys or column.type in ("float", "boolean") or len(values) < enough:
                continue
            for source in self._visible.values():
                same = _comparable(column, source) and source.values is None
                if same and all(self._behind([(source.name, values)])):
                    yield (
                        f"Column {column.name!r} holds only values of "
                        f"{self._table.name}.{source.name}: it may be a copy of rows."
                    )

    def _values(self, place: int) -> list[Scalar]:
        return [row[place] for row in self._output.rows]

    def _behind(self, keys: Sequence[tuple[str, Sequence[Scalar]]]) -> list[int]:
        return self._counts.units_behind(self._table.name, purpose=self._purpose, keys=keys)


def _comparable(column: OutputColumn, source: Column) -> bool:
    if column.type in _NUMBERS and source.type in _NUMBERS:
        return True
    return column.type == source.type
