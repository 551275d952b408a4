"""A planned query: its price, its expected error, and the release of its answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from privnb.dp.accounting import Accounting, Price, accounting_of
from privnb.dp.bounding import fixed_point
from privnb.dp.estimators import Estimator
from privnb.dp.literals import normal_key
from privnb.dp.noisy import Floats, Noisy
from privnb.dp.outputs import (
    Answers,
    Condition,
    Key,
    OutputExpression,
    aggregates_of,
)
from privnb.dp.pieces import add_piece, piece_scale
from privnb.dp.rows import Constant, RowExpression
from privnb.dp.schema import TableSchema
from privnb.dp.sensitivity import Reach
from privnb.dp.vectors import Aggregate, Vector, bins_of
from privnb.release import Answer, AnswerColumn, Estimate, EstimateLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from privnb.computation import Scalar

__all__ = ["Output", "Plan", "Sorting"]

_EXAMPLE_ROWS = 1000
_TOO_SMALL = "too small a group to say anything: group more coarsely or offer more epsilon"
_LARGEST_EXACT = 2**53
_GROUPS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Output:
    """One column of the answer."""

    name: str
    expression: OutputExpression


@dataclass(frozen=True)
class Sorting:
    """One entry of ORDER BY."""

    expression: OutputExpression
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One private query, ready to run; made by `privnb.dp.planner.plan`. Holds no data.

    Attributes
    ----------
    schema
        The table.
    sql
        DuckDB's SQL over the bounded table. It returns, per group, the keys and then one integer
        for every slot of every vector; no rows of single units.
    price
        What the release will cost. Reserve it before ``sql`` runs.
    reach
        Where one unit's rows can be.
    vectors
        What gets noise.
    gate
        The count that decides which groups show; None when all groups are public.
    groups
        The keys of all groups, in the order shown; None when they are not public.
    """

    schema: TableSchema
    sql: str
    price: Price
    reach: Reach
    vectors: tuple[Vector, ...]
    gate: Vector | None
    keys: tuple[RowExpression, ...]
    groups: tuple[tuple[Scalar, ...], ...] | None
    aggregates: tuple[Aggregate, ...]
    outputs: tuple[Output, ...]
    having: Condition | None
    sortings: tuple[Sorting, ...]
    limit: int | None
    filtered: bool

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.schema.name

    @cached_property
    def accounting(self) -> Accounting:
        """What the loss is counted in, and which noise that takes."""
        return accounting_of(self.schema)

    @cached_property
    def shares(self) -> Mapping[Vector, float]:
        """The loss of each vector: the price, divided by how many aggregates it serves.

        Losses of the vectors of one query add up, whichever the accounting, so any split is sound.
        This one gives every aggregate the same, and vectors that several share the more.
        """
        whole = sum(vector.weight for vector in self.vectors)
        # A little less than all, so that the rounded parts never exceed the whole.
        loss = self.price.loss * (1 - 1e-12)
        return {vector: loss * vector.weight / whole for vector in self.vectors}

    @cached_property
    def scales(self) -> Mapping[Vector, float]:
        """The scale of the noise of each vector, in its own steps."""
        return {
            vector: self._gate_scale(vector)
            if vector == self.gate
            else self.accounting.noise.scale_for(self.shares[vector], vector.sensitivity)
            for vector in self.vectors
        }

    def _gate_scale(self, gate: Vector) -> float:
        noise = self.accounting.noise
        return noise.thresholded_scale(loss=self.shares[gate], **self._gate_reach(gate))

    def _gate_reach(self, gate: Vector) -> dict[str, int]:
        largest = 1 if gate.kind == "units" else self.reach.per_group
        return {
            "groups": self.reach.groups,
            "largest": largest,
            "sensitivity": math.ceil(gate.sensitivity),
        }

    @property
    def mechanism(self) -> str:
        """What is done, in words that can be proved."""
        many, noise = len(self.vectors), self.accounting.noise
        words = (
            f"{noise.name} (OpenDP) on {many} vector{'s' * (many > 1)} of exact whole"
            f" numbers, {noise.loss_name} {self.price.loss:.4g}"
        )
        if self.gate is not None:
            words += f"; groups below a noisy {self._threshold} are not shown"
        return words

    @property
    def _threshold(self) -> str:
        gate = self.gate
        if gate is None:
            return ""
        limit = self.accounting.noise.threshold_for(
            self.scales[gate],
            groups=self.reach.groups,
            largest=self._gate_reach(gate)["largest"],
            delta=self.price.delta,
        )
        what = f"number of {self.schema.unit_name}s" if gate.kind == "units" else "number of rows"
        return f"{what} of {limit:,}"

    @property
    def clamps(self) -> tuple[str, ...]:
        """Which values were limited, in words."""
        unit = self.schema.unit_name
        lines = [f"at most {self.schema.max_rows_per_unit} rows per {unit}"]
        for vector in self.vectors:
            column = vector.column
            if column is None or column.bounds is None or vector.kind == "count":
                continue
            line = f"{column.name} to {_span(column.bounds.lower, column.bounds.upper)}"
            bounds = column.unit_bounds
            if vector.clamp is not None and bounds is not None:
                where = f"per {unit} and group" if self.keys else f"per {unit}"
                line += f", and its sum to {_span(bounds.lower, bounds.upper)} {where}"
            if line not in lines:
                lines.append(line)
        return tuple(lines)

    @property
    def delta(self) -> str:
        """The delta at which the epsilon of the price holds, as decimal text."""
        return f"{self.accounting.delta_of(self.price):g}"

    def estimate(self, scales: Mapping[Vector, float] | None = None) -> Estimate:
        """Tell price and expected error without any data; of other noise where ``scales`` are told.

        Errors that depend on the size of a group are for the table's public number of rows spread
        evenly over its public groups, or else for a group of 1,000 rows, which the note says.
        """
        rows, told = self._group_rows()
        here, double = self._example(rows, scales), self._example(2 * rows, scales)
        lines = []
        for output in self.outputs:
            if not aggregates_of(output.expression):
                continue
            at = float(here.numbers(output.expression).half_width[0])
            value = float(here.numbers(output.expression).value[0])
            at_double = float(double.numbers(output.expression).half_width[0])
            lines.append(self._line(output, (value, at, at_double), rows, told=told))
        notes = (
            [] if self.gate is None else [f"Groups below a noisy {self._threshold} stay hidden."]
        )
        return Estimate(
            table=self.table,
            epsilon=f"{self.price.epsilon:f}",
            delta=self.delta,
            lines=tuple(lines),
            mechanism=self.mechanism,
            clamps=self.clamps,
            notes=tuple(notes),
        )

    def _group_rows(self) -> tuple[int, bool]:
        """Return the rows of an example group, and whether that number is public knowledge."""
        total = self.schema.public_rows
        if total is None or self.groups is None or not self.groups:
            return _EXAMPLE_ROWS, False
        present = [group for group in self.groups if None not in group] or self.groups
        return max(total // len(present), 1), True

    def _line(
        self, output: Output, example: tuple[float, float, float], rows: int, *, told: bool
    ) -> EstimateLine:
        value, at, at_double = example
        where = f"in a group of {rows:,} rows" if self.keys else f"in {rows:,} rows"
        if told and self.filtered:
            where += " (the filter leaves fewer)"
        if not (math.isfinite(value) and math.isfinite(at)):
            return EstimateLine(name=output.name, half_width=None, note=f"{where}: {_TOO_SMALL}")
        if math.isclose(at, at_double, rel_tol=1e-6):
            counted = _is_count(output.expression)
            if counted and told and at >= rows:
                return EstimateLine(name=output.name, half_width=at, note=f"{where}: {_TOO_SMALL}")
            note = f"{100 * at / rows:.2g} % {where}" if counted else "in every group"
            return EstimateLine(name=output.name, half_width=at, note=note)
        if self._says_nothing(output.expression, at):
            return EstimateLine(name=output.name, half_width=None, note=f"{where}: {_TOO_SMALL}")
        if told:
            return EstimateLine(name=output.name, half_width=at, note=f"about, {where}")
        return EstimateLine(name=output.name, half_width=None, note=f"about ±{at:.3g} {where}")

    @staticmethod
    def _says_nothing(expression: OutputExpression, half_width: float) -> bool:
        """Tell whether an interval is as wide as what the owner's bounds say anyway."""
        if not isinstance(expression, Aggregate) or expression.kind not in ("avg", "quantile"):
            return False
        bounds = expression.column.bounds if expression.column is not None else None
        return bounds is not None and half_width >= (bounds.upper - bounds.lower) / 2

    def _example(self, rows: int, scales: Mapping[Vector, float] | None) -> Answers:
        """Make the answer for one group of so many rows with unremarkable values."""
        integers = {
            vector: np.array([_unremarkable(vector, rows)], dtype=float) for vector in self.vectors
        }
        key: tuple[Scalar, ...] = tuple(None for _ in self.keys)
        return self._answers([key], integers, scales)

    def release(self, rows: Iterable[Sequence[object]]) -> Answer:
        """Add the noise, then compute the answer from noisy numbers only.

        Parameters
        ----------
        rows
            What ``sql`` returned on the bounded table: keys, then integers.

        Returns
        -------
        Answer
            Counts and sums are not moved into possible limits, so that they can be added up
            without bias: a count may be negative. Nothing in it is NaN or infinite.
        """
        if self.gate is None:
            exact = self._exact(rows)
            keys = list(self.groups or ())
            nothing = (0,) * sum(vector.width for vector in self.vectors)
            table = [exact.get(key, nothing) for key in keys]
            integers = self._noisy(table, {})
        else:
            passed = self._passed(self.gate, iter(rows))
            # The order of what the engine returned depends on the data; this one does not.
            passed.sort(key=lambda group: _sortable(group[0]))
            keys, table = [key for key, _, _ in passed], [slots for _, slots, _ in passed]
            counts = np.array([[count] for _, _, count in passed], dtype=float).reshape(-1, 1)
            integers = self._noisy(table, {self.gate: counts})
        return self._answer(self._answers(keys, integers))

    @property
    def share_length(self) -> int:
        """How many integers `share` returns: known before any data is touched."""
        return len(self.groups or ()) * sum(vector.width for vector in self.vectors)

    def share(self, rows: Iterable[Sequence[object]], *, pieces: int) -> list[int]:
        """Add this site's piece of the noise to its integers.

        They are for a secure sum with those of at least ``pieces - 1`` sites more, and never to be
        seen alone: see `privnb.dp.pieces`.

        Parameters
        ----------
        rows
            What ``sql`` returned on the bounded table.

        Returns
        -------
        list of int
            `share_length` integers; vector by vector, in each group by group, in each slot by slot.

        Raises
        ------
        ValueError
            Where `privnb.dp.sharing.require_shareable` refuses the plan.
        """
        self._check_shareable()
        exact = self._exact(rows)
        nothing = (0,) * sum(vector.width for vector in self.vectors)
        table = [exact.get(key, nothing) for key in self.groups or ()]
        noisy: list[int] = []
        for vector in self.vectors:
            flat = self._flat(table, vector)
            if flat:
                noisy += add_piece(
                    flat, sensitivity=vector.sensitivity, loss=self.shares[vector], pieces=pieces
                )
        return noisy

    def combine(self, total: Sequence[int], *, parts: int, pieces: int) -> Answer:
        """Compute the answer from the sum of the shares of ``parts`` sites.

        Parameters
        ----------
        total
            The exact sum, integer by integer, of what ``parts`` times `share` returned.
        parts, pieces
            How many sites are in the sum, and how many of them have noise enough: at most as many.

        Returns
        -------
        Answer
            Of all the sites together. Its intervals are for the noise of all ``parts``. HAVING,
            ORDER BY and LIMIT are applied to it, and not to any one site.
        """
        self._check_shareable()
        if not 1 <= pieces <= parts or len(total) != self.share_length:
            message = f"{len(total)} integers of {parts} sites are no sum with {pieces} pieces"
            raise ValueError(message)
        keys = list(self.groups or ())
        integers, start = {}, 0
        for vector in self.vectors:
            end = start + len(keys) * vector.width
            integers[vector] = np.array(total[start:end], dtype=float).reshape(-1, vector.width)
            start = end
        scales = self.scales_of_total(parts=parts, pieces=pieces)
        return self._answer(self._answers(keys, integers, scales))

    def piece_scales(self, pieces: int) -> Mapping[Vector, float]:
        """Return the scale of one site's piece of noise for each vector, in its own steps."""
        groups = len(self.groups or ())
        return {
            vector: piece_scale(
                self.shares[vector],
                vector.sensitivity,
                pieces=pieces,
                size=max(groups * vector.width, 1),
            )
            for vector in self.vectors
        }

    def scales_of_total(self, *, parts: int, pieces: int) -> Mapping[Vector, float]:
        """Return the scale of the noise in the sum of ``parts`` shares: variances add up."""
        root = math.sqrt(parts)
        return {vector: root * scale for vector, scale in self.piece_scales(pieces).items()}

    def _check_shareable(self) -> None:
        if self.gate is not None or self.groups is None or self.accounting.name != "zcdp":
            raise ValueError("the noise of this plan cannot be made in pieces")

    def _passed(
        self, gate: Vector, rows: Iterator[Sequence[object]]
    ) -> list[tuple[tuple[Scalar, ...], tuple[int, ...], int]]:
        """Return key, exact slots and noisy count of every group that may show.

        Each count gets noise of its own, so taking some groups at a time, whichever they are,
        changes nothing but the memory needed.
        """
        start, found = self._start(gate), []
        while batch := list(self._exact(islice(rows, _GROUPS_AT_ONCE)).items()):
            passed = self.accounting.noise.keep_large(
                [slots[start] for _, slots in batch],
                loss=self.shares[gate],
                delta=self.price.delta,
                **self._gate_reach(gate),
            )
            found += [(*batch[place], count) for place, count in passed.items()]
        return found

    def _exact(self, rows: Iterable[Sequence[object]]) -> dict[tuple[Scalar, ...], tuple[int, ...]]:
        width = len(self.keys)
        found: dict[tuple[Scalar, ...], tuple[int, ...]] = {}
        for row in rows:
            pairs = zip(self.keys, row[:width], strict=True)
            key = tuple(normal_key(expression.type, value) for expression, value in pairs)
            found[key] = tuple(int(slot) for slot in row[width:])  # type: ignore[call-overload]
        return found

    def _start(self, vector: Vector) -> int:
        """Return where a vector's slots begin."""
        return sum(v.width for v in self.vectors[: self.vectors.index(vector)])

    def _noisy(
        self, table: list[tuple[int, ...]], done: dict[Vector, Floats]
    ) -> dict[Vector, Floats]:
        noisy = {}
        for vector in self.vectors:
            if vector in done:
                noisy[vector] = done[vector]
                continue
            flat = self._flat(table, vector)
            if flat:
                flat = self.accounting.noise.add_noise(
                    flat, sensitivity=vector.sensitivity, loss=self.shares[vector]
                )
            noisy[vector] = np.array(flat, dtype=float).reshape(-1, vector.width)
        return noisy

    def _flat(self, table: list[tuple[int, ...]], vector: Vector) -> list[int]:
        """Return a vector's exact integers, group by group."""
        start, width = self._start(vector), vector.width
        return [slot for slots in table for slot in slots[start : start + width]]

    def _answers(
        self,
        keys: list[tuple[Scalar, ...]],
        integers: Mapping[Vector, Floats],
        scales: Mapping[Vector, float] | None = None,
    ) -> Answers:
        estimator = Estimator(integers, scales or self.scales, self.accounting.noise)
        return Answers(keys, {found: estimator.estimate(found) for found in self.aggregates})

    def _answer(self, answers: Answers) -> Answer:
        order = list(range(len(answers.keys)))
        if self.having is not None:
            truths = answers.truths(self.having)
            order = [row for row in order if truths[row]]
        for sorting in reversed(self.sortings):
            order = _sorted(order, answers.values(sorting.expression), sorting)
        order = order[: self.limit]
        columns, notes = [], []
        values: list[list[Scalar]] = []
        widths: list[list[float | None]] = []
        for output in self.outputs:
            expression = output.expression
            is_key = isinstance(expression, (Key, Constant))
            columns.append(AnswerColumn(name=output.name, role="key" if is_key else "aggregate"))
            if is_key:
                values.append(answers.values(expression))
                widths.append([None] * len(answers.keys))
                continue
            noisy = answers.numbers(expression)
            values.append(_plain(noisy, whole=_is_whole(expression)))
            widths.append(_half_widths(noisy))
            silent = sum(values[-1][row] is None for row in order)
            if silent:
                groups = "1 group is" if silent == 1 else f"{silent} groups are"
                notes.append(f"{output.name}: {groups} {_TOO_SMALL.replace(' a group', '')}.")
        return Answer(
            columns=tuple(columns),
            rows=tuple(tuple(column[row] for column in values) for row in order),
            half_widths=tuple(tuple(column[row] for column in widths) for row in order),
            notes=tuple(notes),
        )


def _unremarkable(vector: Vector, rows: int) -> list[float]:
    """Invent the exact integers of a group: values a quarter into their bounds, spread evenly."""
    column = vector.column
    if vector.kind in ("count", "units") or column is None:
        return [rows]
    point = fixed_point(column)
    if vector.kind == "histogram":
        bins = bins_of(point)[1]
        return [rows / bins] * bins
    if vector.kind == "squares":
        return [0]
    return [(point.lower + (point.upper - point.lower) / 4 - vector.centre) * rows]


def _span(lower: float, upper: float) -> str:
    return f"{lower:,g}…{upper:,g}"


def _is_count(expression: OutputExpression) -> bool:
    return isinstance(expression, Aggregate) and expression.kind in ("count", "count_units")


def _is_whole(expression: OutputExpression) -> bool:
    """Tell whether the exact answer would be a whole number."""
    if not isinstance(expression, Aggregate):
        return False
    integer = expression.column is not None and expression.column.type == "integer"
    return _is_count(expression) or (expression.kind == "sum" and integer)


def _plain(noisy: Noisy, *, whole: bool) -> list[Scalar]:
    values: list[float] = noisy.value.tolist()
    return [
        None if not math.isfinite(v) else round(v) if whole and abs(v) < _LARGEST_EXACT else v
        for v in values
    ]


def _half_widths(noisy: Noisy) -> list[float | None]:
    widths: list[float] = noisy.half_width.tolist()
    values: list[float] = noisy.value.tolist()
    return [
        width if math.isfinite(width) and math.isfinite(value) else None
        for width, value in zip(widths, values, strict=True)
    ]


def _sorted(order: list[int], values: list[Scalar], sorting: Sorting) -> list[int]:
    known = [row for row in order if values[row] is not None]
    missing = [row for row in order if values[row] is None]
    known.sort(key=lambda row: values[row], reverse=sorting.descending)  # type: ignore[arg-type, return-value]
    return missing + known if sorting.nulls_first else known + missing


def _sortable(key: tuple[Scalar, ...]) -> tuple[tuple[bool, str, float, str], ...]:
    """Order keys of any kind: by type, then by value, NULL last."""
    return tuple(
        (
            part is None,
            type(part).__name__,
            float(part) if isinstance(part, (int, float)) else 0.0,
            str(part),
        )
        for part in key
    )
