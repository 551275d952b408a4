"""Whether a column of an output copies what the site hides: the privacy unit, an undeclared column.

A Python cell is never given these columns, so a copy means that something went wrong before: a
declared column that repeats a hidden one, another table that has the same values, a hole in the
sandbox. The check is a second lock. It compares values with values, in whatever order, as numbers
or as text of them; of values that were changed, however little, it says nothing.

An output's column is taken for a copy when *all* its values occur in the hidden column and chance
does not explain it:

- Texts: three different ones that are longer than three characters (five, if some are numbers); or
  fewer, if each is longer than seven and neither number, date nor time. Names, codes and free texts
  are found; ``F``, ``M`` and ``yes`` are not.
- Numbers, dates and times: when the chance that as many others from the same neighbourhoods would
  all occur too is below one in ten thousand. The chance is the product, over the values, of how
  densely the hidden column is filled around each. Of three values and more, sparse identifiers,
  amounts with cents and measurements are found; of one or two, those of which each says much: a
  long identifier, a time to the second. Fewer than three are only compared with numbers that are as
  round as they are. Counts, percentages and flags are not found, as ``0, 1, 2, …`` are dense where
  they occur at all.
- Identifiers *numbered* ``1, 2, 3, …``, with gaps or without, look like counts. They are found
  where the output has at least half of all there are, and no fewer than ten, unless these are just
  the numbers from 0 or 1 up to fewer than all. The privacy unit is besides found in *the order of
  the rows* that the cell was given, which counts do not follow: eight values are enough where each
  unit has one row, more where a unit has many. Not found are fewer than half of them in another
  order.
- A hidden column of few values that many rows share is a category, not an identifier, and is left
  alone.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from privnb.computation import Scalar

__all__ = ["Kind", "Sample", "samples"]

Kind = Literal["number", "moment", "text"]

_FEW = 3
"""Fewer different values are a sign of a copy only if each of them says much."""
_SHORT, _SHORT_NUMBER, _SHORT_ALONE = 3, 5, 7
"""Texts up to this length are no sign of a copy: of many, of many with numbers, of few."""
_MOST_LOOKED_UP = 50
_CHANCE = 1e-4
_FINEST, _ROUNDEST = 12, 12
"""Decimals, and zeros, beyond which a number counts as no finer, and no rounder."""
_NEAR, _NEAR_SHARE = 10, 20
"""To each side a neighbourhood reaches this many steps, and of a number this fraction, if more."""
_FEWEST_NUMBERED = 10
_FIRST = 200
_MICROSECOND = dt.timedelta(microseconds=1)
_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - columns have no time zone
_DAY, _SECOND = 86_400_000_000, 1_000_000
"""In microseconds."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What an output's column has, read as one of the kinds that its values may be.

    Numbers are floats, moments floats in microseconds since 1970.
    """

    kind: Kind
    values: tuple[float | str, ...]
    """Different values, at most fifty."""
    step: float = 0.0
    """Of numbers and moments, the grid on which all of them lie."""
    different: int = 0
    """Of numbers, how many different ones the whole column has."""
    counted: bool = False
    """Whether these are 0, 1, 2, … or 1, 2, 3, …, in any order."""
    first: tuple[float, ...] = ()
    """Of numbers, the first ones as they stand in the column."""

    @property
    def _few(self) -> bool:
        return len(self.values) < _FEW

    def windows(self) -> Iterator[tuple[float, float]]:
        """Yield the open neighbourhoods, below and above, of each value."""
        for value in self.values:
            assert isinstance(value, float)  # noqa: S101 - texts have no neighbourhood
            reach = abs(value) / _NEAR_SHARE if self.kind == "number" else 0.0
            if self.kind == "moment" and self._few:
                reach = float(_DAY)
            width = self.step * max(_NEAR, math.floor(reach / self.step))
            yield value - width, value
            yield value, value + width

    def is_chance(self, counts: Sequence[int]) -> bool:
        """Tell whether chance explains that all values occur in a hidden column.

        Parameters
        ----------
        counts
            For each of the windows, how many different values the column has in it.
        """
        # Of few, each is counted too: that one stands alone does not show that hardly any do.
        itself = 1 if self._few else 0
        density = [
            (count + itself) / max(1, round((high - low) / self.step) - 1)
            for count, (low, high) in zip(counts, self.windows(), strict=True)
        ]
        # The denser side counts, so that the column's own ends do not look like gaps in it.
        sides = zip(density[::2], density[1::2], strict=True)
        return math.prod(min(1.0, max(below, above)) for below, above in sides) >= _CHANCE

    def covers(self, different: int) -> bool:
        """Tell whether these are at least half of so many identifiers, and no mere counting.

        >>> (sample,) = samples(range(20, 100))
        >>> sample.covers(100), sample.covers(1000)
        (True, False)
        """
        return (
            self.step == 1
            and self.different >= max(_FEWEST_NUMBERED, different / 2)
            and (self.different == different or not self.counted)
        )

    def follows(self, rows: Sequence[float]) -> bool:
        """Tell whether the first numbers come in the same order in ``rows``, not by chance.

        Others may stand between them. The order of ``rows`` is random. So by chance, after one
        number the next is as far away as there are different ones, and that all of them come before
        the end has a probability that is bounded as Chernoff does it for Poisson's distribution.

        >>> (sample,) = samples([3, 1, 4, 5, 9, 2, 6, 8])
        >>> sample.follows([3, 7, 1, 4, 5, 9, 2, 6, 8]), sample.follows([1, 2, 3, 4, 5, 6, 8, 9])
        (True, False)
        """
        length, most = len(self.first), max(Counter(rows).values(), default=0)
        if not 0 < most < length:
            return False
        if length - most + length * math.log(most / length) >= math.log(_CHANCE):
            return False
        left = iter(rows)
        return all(number in left for number in self.first)


def samples(values: Sequence[Scalar]) -> tuple[Sample, ...]:
    """Find what an output's column might be a copy of; nothing if its values say too little.

    >>> [sample.kind for sample in samples([4711, 815, 1234567])]
    ['number']
    >>> samples([True, False, None, "F"])
    ()
    """
    present = [v for v in values if v is not None and not isinstance(v, bool)]
    different = list(dict.fromkeys(present))
    if not different:
        return ()
    few = len(different) < _FEW
    numbers = [number for value in different if (number := _number(value)) is not None]
    texts = [value for value in different if isinstance(value, str)]
    found = []
    if len(numbers) == len(different) and any(numbers):
        column = [number for v in present if (number := _number(v)) is not None]
        found.append(_of_numbers(numbers, column))
    if len(texts) < len(different):
        return tuple(found)
    moments = [moment for text in texts if (moment := _moment(text)) is not None]
    if len(moments) == len(texts):
        steps = (_DAY, _SECOND, 1)
        step = next(step for step in steps if all(moment % step == 0 for moment in moments))
        found.append(Sample(kind="moment", values=_some(moments), step=float(step)))
    if few:
        telling = not numbers and not moments and all(len(text) > _SHORT_ALONE for text in texts)
    else:
        short = _SHORT_NUMBER if numbers else _SHORT
        telling = sum(len(text) > short for text in texts) >= _FEW
    if telling:
        found.append(Sample(kind="text", values=_some(texts)))
    return tuple(found)


# Values


def _number(value: Scalar) -> float | None:
    """Read a value as a number, a text of digits included."""
    try:
        number = float(value or 0)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _moment(text: str) -> float | None:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return float((moment - _EPOCH) // _MICROSECOND)


def _of_numbers(different: Sequence[float], column: Sequence[float]) -> Sample:
    size = len(different)
    whole = sorted(different)
    return Sample(
        kind="number",
        values=_some(different),
        step=_grid(different, coarsest=_ROUNDEST if size < _FEW else 0),
        different=size,
        counted=any(whole == [*range(start, start + size)] for start in (0, 1)),
        first=tuple(column[:_FIRST]),
    )


def _grid(numbers: Sequence[float], *, coarsest: int) -> float:
    """Find the coarsest decimal grid, from ``10**coarsest`` downwards, on which all numbers lie."""
    exponents = [
        int(Decimal(repr(number)).normalize().as_tuple().exponent) for number in numbers if number
    ]
    return float(10.0 ** max(min([*exponents, coarsest]), -_FINEST))


def _some(values: Sequence[Any]) -> tuple[Any, ...]:
    """Choose at most fifty different values, evenly over their order."""
    ordered = sorted(set(values))
    step = max(1, math.ceil(len(ordered) / _MOST_LOOKED_UP))
    return tuple(ordered[::step])
