"""What each unit adds to the sums that a model is trained on, in whole steps and within a limit.

The claim that the noise rests on: what one unit adds is a function of its own rows, the public
parameters and nothing else, and its L2 norm is at most the sensitivity that is named here. So it is
computed without anything that may round one row by where others stand, as vectorised exponentials
and matrix products may; rows become whole numbers first, and those add up exactly in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, combinations_with_replacement
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from privnb.dp.design import Integers, Rows
from privnb.dp.models import ModelKind, curvature_of, mean_of
from privnb.dp.noisy import Floats
from privnb.dp.sensitivity import root_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from privnb.dp.design import Design

__all__ = ["BINS", "STEPS", "TALLY", "Block", "Contributions", "Phase", "bin_edges", "blocks_of"]

STEPS = 2**20
"""The limit on what one unit adds, in the L2 norm and in steps."""
TALLY = STEPS // 8
"""What one unit adds to a count that is noised together with a sum, in steps."""
BINS = 24
"""How many classes of size there are, each twice as large in the square."""

_LARGEST_ROW = 2.0**40
# What a norm, computed in floats, may be wrong by is far less.
_MARGIN = 1e-9


class Phase(IntEnum):
    """What is summed in one round."""

    SURVEY = 0
    """Products of the features, the target, and the number of units."""
    NORMS = 1
    """How many units have a gradient of which size."""
    APPROACH = 2
    """The gradient, the number of units, and that of those over the limit."""
    CURVATURE = 3
    """Products of the features with the curvature, the number of units, and sizes again."""
    REFINE = 4
    """As `APPROACH`, for the mean of the last rounds."""


@dataclass(frozen=True)
class Block:
    """Integers of one round that get noise together.

    Attributes
    ----------
    size
        How many there are.
    sensitivity
        The most by which one unit moves them, in the L2 norm.
    share
        Its part of the round's loss.
    """

    size: int
    sensitivity: float
    share: float


def blocks_of(phase: Phase, coefficients: int) -> tuple[Block, ...]:
    """Return what a round's integers consist of, in order."""
    products = coefficients * (coefficients + 1) // 2
    one = root_up(STEPS**2 + TALLY**2)
    if phase == Phase.SURVEY:
        return (Block(products + 2, one, 1.0),)
    if phase == Phase.NORMS:
        return (Block(BINS, 1.0, 1.0),)
    if phase == Phase.CURVATURE:
        return (Block(products + 1, one, 0.85), Block(BINS, 1.0, 0.15))
    return (Block(coefficients + 2, root_up(STEPS**2 + 2 * TALLY**2), 1.0),)


def bin_edges(design: Design) -> Floats:
    """Return the upper ends of the classes of gradients' sizes; the last holds all above too."""
    most = design.schema.max_rows_per_unit * design.target.top * sqrt(design.largest_square)
    edges: Floats = most * 2.0 ** ((np.arange(BINS) - BINS + 1) / 2)
    return edges


class Contributions:
    """The exact sums over the units of one site: secret until noise is added.

    Parameters
    ----------
    rows
        What `privnb.dp.design.Design.rows` made of the site's rows.
    """

    def __init__(self, model: ModelKind, design: Design, rows: Rows) -> None:
        self._model: ModelKind = model
        self._rows = rows
        self._top = design.target.top
        self._most_rows = design.schema.max_rows_per_unit
        self._edges = bin_edges(design)

    def sums(self, phase: Phase, coefficients: Floats, limit: float) -> list[Integers]:
        """Return one array for each of the `blocks_of` the phase.

        ``limit`` is what one unit may add, in the units of what is summed: `STEPS` steps.
        """
        if phase == Phase.SURVEY:
            # The target of a unit weighs at most as much as all else.
            target = self._rows.target * (limit / (self._most_rows * self._top))
            sums, _ = self._limited(chain(self._products(None), [target]), limit)
            return [self._total([*sums, self._tally()])]
        mean = mean_of(self._model, self._predictor(coefficients), top=self._top)
        residual = mean - self._rows.target
        if phase == Phase.NORMS:
            return [self._sizes(residual)]
        if phase == Phase.CURVATURE:
            sums, _ = self._limited(self._products(curvature_of(self._model, mean)), limit)
            return [self._total([*sums, self._tally()]), self._sizes(residual)]
        sums, over = self._limited(self._gradient(residual), limit)
        return [self._total([*sums, self._tally(), over * TALLY])]

    def _predictor(self, coefficients: Floats) -> Floats:
        predictor = np.zeros(len(self._rows.target))
        for feature, coefficient in zip(self._rows.features, coefficients.tolist(), strict=True):
            predictor = predictor + feature * coefficient
        return predictor

    def _gradient(self, residual: Floats) -> Iterator[Floats]:
        return (residual * feature for feature in self._rows.features)

    def _products(self, weights: Floats | None) -> Iterator[Floats]:
        """Return the products of each two features, row by row, times the weights."""
        for one, other in combinations_with_replacement(self._rows.features, 2):
            yield one * other if weights is None else one * other * weights

    def _by_unit(self, values: Iterable[Floats], limit: float) -> list[Integers]:
        """Round each row's values to steps, and add up the rows of each unit."""
        sums = []
        for value in values:
            rounded = np.rint(np.clip(value * (STEPS / limit), -_LARGEST_ROW, _LARGEST_ROW))
            whole = rounded.astype(np.int64)
            sums.append(np.add.reduceat(whole, self._rows.starts) if len(whole) else whole)
        return sums

    @staticmethod
    def _squares(sums: Sequence[Integers]) -> Floats:
        squares = np.zeros(len(sums[0]))
        for one in sums:
            squares = squares + one.astype(np.float64) ** 2
        return squares

    def _limited(self, values: Iterable[Floats], limit: float) -> tuple[list[Integers], Integers]:
        """Shorten what a unit adds to `STEPS`, towards zero; tell of which units, by 1."""
        sums = self._by_unit(values, limit)
        squares = self._squares(sums)
        over = squares > STEPS**2 * (1 - _MARGIN)
        factor = np.where(over, STEPS * (1 - _MARGIN) / np.sqrt(np.where(over, squares, 1.0)), 1.0)
        shortened = [np.trunc(one * factor).astype(np.int64) for one in sums]
        return [np.where(over, s, one) for s, one in zip(shortened, sums, strict=True)], over * 1

    def _tally(self) -> Integers:
        return np.full(len(self._rows.starts), TALLY, dtype=np.int64)

    def _sizes(self, residual: Floats) -> Integers:
        """Count units by the size of their gradient."""
        least = float(self._edges[0])
        sums = self._by_unit(self._gradient(residual), least)
        sizes = np.sqrt(self._squares(sums)) * (least / STEPS)
        places = np.minimum(np.searchsorted(self._edges, sizes), BINS - 1)
        return np.bincount(places, minlength=BINS).astype(np.int64)

    @staticmethod
    def _total(by_unit: Sequence[Integers]) -> Integers:
        return np.array([one.sum() for one in by_unit], dtype=np.int64)
