"""How a model is fitted from noisy sums: what the analyst's side does between two rounds.

Everything here is computed from sums that have their noise already, so it costs no privacy and may
be anything. The way is Newton's, with one matrix: a survey of the features, sizes of gradients to
choose a limit from, a few steps towards the solution, the curvature there, and then steps around
the solution whose mean is the result (Polyak and Juditsky, "Acceleration of Stochastic
Approximation by Averaging", 1992): its noise is that of all these rounds together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from privnb.dp.contributions import BINS, STEPS, TALLY, Phase
from privnb.dp.models import ModelKind, curvature_of, link_of
from privnb.dp.noise import Z95
from privnb.dp.noisy import Floats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.dp.contributions import Block

__all__ = ["Fit", "FittedNumbers", "Fitter"]

_ONE_WAY = 0.25
_CLEARLY = 2.0
_WITHIN_CLASS = 2.0**-0.25
_LARGEST_STEP = 1.0
_LARGEST_COEFFICIENT = 100.0
_CURVATURE_ROOM = 1.5
_ROSTER_CHANGED = 3.0
_UNKNOWN = 0.1
_SURVEY_LIMIT = 0.35


@dataclass(frozen=True, eq=False)
class Fit:
    """Where a fit stands. It holds noisy numbers only.

    Attributes
    ----------
    coefficients
        Of the scaled features: what the next round is computed at.
    limit, phase
        What one unit may add in the next round, and what is summed in it.
    approached, refined
        Rounds done of these phases.
    units, rows, slope
        How many units and rows there are; the mean's slope where the survey was used.
    deviation
        Standard deviation of the noise in ``products``.
    weight
        Sum over refined rounds of what they weigh: one over the variance of their noise.
    over, change
        Sum of shares of units over the limit in refined rounds; the last step's largest part.
    total
        Weighted sum of the coefficients of refined rounds.
    unknown
        For each coefficient the part that lies in directions that the noise hides.
    products, matrix, squares
        The survey of the features; the matrix of the steps; the weighted sum of squares of refined
        coefficients.
    """

    coefficients: Floats
    limit: Floats
    phase: Floats
    approached: Floats
    refined: Floats
    units: Floats
    rows: Floats
    slope: Floats
    deviation: Floats
    weight: Floats
    over: Floats
    change: Floats
    total: Floats
    unknown: Floats
    products: Floats
    matrix: Floats
    squares: Floats

    @classmethod
    def shapes(cls, size: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each attribute, in order, for so many coefficients."""
        vectors, matrices = ("coefficients", "total", "unknown"), ("products", "matrix", "squares")
        return {
            field.name: (size,)
            if field.name in vectors
            else (size, size)
            if field.name in matrices
            else ()
            for field in fields(cls)
        }

    @classmethod
    def length(cls, size: int) -> int:
        """Return how many numbers it is for so many coefficients."""
        return sum(math.prod(shape) for shape in cls.shapes(size).values())

    @classmethod
    def of(cls, numbers: Floats, size: int) -> Fit:
        """Rebuild it from `numbers`."""
        if numbers.shape != (cls.length(size),):
            raise ValueError("these are no parameters of this model")
        found, start = {}, 0
        for name, shape in cls.shapes(size).items():
            end = start + math.prod(shape)
            found[name] = numbers[start:end].reshape(shape)
            start = end
        return cls(**found)

    @property
    def numbers(self) -> Floats:
        """All of it as one vector of floats, the coefficients, the limit and the phase first."""
        parts = (np.ravel(getattr(self, field.name)) for field in fields(self))
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


@dataclass(frozen=True, eq=False)
class FittedNumbers:
    """Coefficients in the table's own units.

    ``half_widths`` are of the 95 % interval of the noise alone; NaN where the noise hides all.
    """

    values: Floats
    half_widths: Floats
    over: float
    refined: int


class Fitter:
    """Makes the next `Fit` of the noisy sum of a round.

    Parameters
    ----------
    size
        How many coefficients there are.
    edges
        Upper ends of the classes of sizes; see `privnb.dp.contributions.bin_edges`.
    most_rows, largest_square, top
        Of one unit; of one row's features; of the target.
    approaches
        How many steps come before the curvature.
    refining
        Standard deviation of the noise in the mean of all rounds after it, in steps.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one public number
        self,
        model: ModelKind,
        *,
        size: int,
        edges: Floats,
        most_rows: int,
        largest_square: int,
        top: float,
        approaches: int,
        refining: float,
    ) -> None:
        self._model: ModelKind = model
        self._size = size
        self._edges = edges
        self._most_rows = most_rows
        self._top = top
        self._approaches = approaches
        self._refining = refining
        self._survey_limit = _SURVEY_LIMIT * most_rows * largest_square
        self._upper = np.triu_indices(size)

    @property
    def start(self) -> Fit:
        """Where every fit begins."""
        shapes = Fit.shapes(self._size)
        nothing = {name: np.zeros(shape) for name, shape in shapes.items()}
        nothing |= {"limit": np.array(self._survey_limit), "matrix": np.eye(self._size)}
        return Fit(**nothing)

    def next(self, fit: Fit, blocks: Sequence[tuple[Block, float]], total: Sequence[int]) -> Fit:
        """Take in the sum of a round.

        Parameters
        ----------
        blocks
            What the sum consists of, each with the standard deviation of its noise, in steps.
        total
            The sum, block after block.
        """
        parts, start = [], 0
        for block, deviation in blocks:
            end = start + block.size
            parts.append((np.array(total[start:end], dtype=np.float64), deviation))
            start = end
        steps = {
            Phase.SURVEY: self._surveyed,
            Phase.NORMS: self._measured,
            Phase.CURVATURE: self._curved,
        }
        return steps.get(Phase(int(fit.phase)), self._stepped)(fit, parts)

    def _surveyed(self, fit: Fit, parts: list[tuple[Floats, float]]) -> Fit:
        ((sums, deviation),) = parts
        limit = float(fit.limit)
        unit = limit / STEPS
        units = max(sums[-1] / TALLY, 1.0)
        products = self._symmetric(sums[:-2] * unit)
        rows = max(products[0, 0], units)
        target = sums[-2] / STEPS * self._most_rows * self._top
        mean = min(max(target / rows, 0.0), self._top)
        if self._model == "poisson":
            mean = max(mean, 1e-3 * self._top)
        coefficients = np.zeros(self._size)
        coefficients[0] = link_of(self._model, mean)
        if self._model == "logistic":
            mean = min(max(mean, 0.02), 0.98)
        slope = float(curvature_of(self._model, np.array([mean]))[0])
        matrix, unknown = self._definite(products * slope, deviation * unit * slope)
        return replace(
            fit,
            coefficients=coefficients,
            phase=np.array(float(Phase.NORMS)),
            units=np.array(units),
            rows=np.array(rows),
            slope=np.array(slope),
            deviation=np.array(deviation * unit),
            products=products,
            matrix=matrix,
            unknown=unknown,
        )

    def _measured(self, fit: Fit, parts: list[tuple[Floats, float]]) -> Fit:
        ((counts, deviation),) = parts
        return replace(
            fit,
            limit=np.array(self._limit(counts, deviation)),
            phase=np.array(float(Phase.APPROACH)),
        )

    def _limit(self, counts: Floats, deviation: float) -> float:
        """Return the limit with the least error, by the counts of units of each size.

        A limit cuts off what larger units would have added beyond it, and its noise is in
        proportion to it. What is cut off points in many ways; a quarter of it is taken to add up.
        """
        above = counts[::-1].cumsum()[::-1]
        doubt = deviation * np.sqrt(np.arange(BINS, 0, -1))
        # From the largest size on, counts that may be noise alone are taken for none.
        last = int(np.flatnonzero(above > _CLEARLY * doubt).max(initial=0))
        known = np.where(np.arange(BINS) <= last, np.maximum(counts, 0.0), 0.0)
        sizes = self._edges * _WITHIN_CLASS
        errors = [
            (_ONE_WAY * float((known * np.maximum(sizes - edge, 0)).sum())) ** 2
            + self._size * (edge / STEPS * self._refining) ** 2
            for edge in self._edges.tolist()
        ]
        return float(self._edges[int(np.argmin(errors))])

    def _curved(self, fit: Fit, parts: list[tuple[Floats, float]]) -> Fit:
        (sums, deviation), (counts, of_counts) = parts
        unit = float(fit.limit) / STEPS
        ratio = self._ratio(fit, sums[-1], deviation)
        found, noise = self._symmetric(sums[:-1] * unit * ratio), deviation * unit * ratio
        slope = float(fit.slope)
        # The survey says much of the curvature too; each weighs by its noise.
        one, other = 1 / noise**2, 1 / max(float(fit.deviation) * slope, 1e-300) ** 2
        both = (one * found + other * fit.products * slope) / (one + other)
        matrix, unknown = self._definite(both, 1 / math.sqrt(one + other))
        return replace(
            fit,
            matrix=matrix,
            unknown=unknown,
            limit=np.array(self._limit(counts, of_counts)),
            phase=np.array(float(Phase.REFINE)),
        )

    def _stepped(self, fit: Fit, parts: list[tuple[Floats, float]]) -> Fit:
        ((sums, deviation),) = parts
        unit = float(fit.limit) / STEPS
        ratio = self._ratio(fit, sums[-2], deviation)
        step = np.linalg.solve(fit.matrix, sums[:-2] * unit * ratio)
        largest = float(np.abs(step).max())
        step *= min(1.0, _LARGEST_STEP / max(largest, 1e-300))
        there = np.clip(fit.coefficients - step, -_LARGEST_COEFFICIENT, _LARGEST_COEFFICIENT)
        moved = replace(fit, coefficients=there, change=np.array(float(np.abs(step).max())))
        if Phase(int(fit.phase)) == Phase.APPROACH:
            return self._approached(moved)
        weight = 1 / (deviation * unit * ratio) ** 2
        share = min(max(sums[-1] / TALLY / max(float(fit.units), 1.0) * ratio, 0.0), 1.0)
        return replace(
            moved,
            refined=fit.refined + 1,
            weight=fit.weight + weight,
            over=fit.over + share,
            total=fit.total + weight * there,
            squares=fit.squares + weight * np.outer(there, there),
        )

    def _approached(self, fit: Fit) -> Fit:
        done = fit.approached + 1
        if done < self._approaches:
            return replace(fit, approached=done)
        # A unit of average size adds this much; few are twice as large.
        square = max(float(np.trace(fit.products)) / float(fit.rows), 1.0)
        size = float(fit.rows) / float(fit.units) * float(fit.slope) * square
        return replace(
            fit,
            approached=done,
            limit=np.array(max(_CURVATURE_ROOM * size, float(self._edges[0]) * 1e-3)),
            phase=np.array(float(Phase.CURVATURE)),
        )

    def _ratio(self, fit: Fit, tally: float, deviation: float) -> float:
        """Return by how much other sites were in the survey: 1 unless the noise denies that."""
        now, surveyed = tally / TALLY, float(fit.units)
        if abs(now - surveyed) <= _ROSTER_CHANGED * deviation / TALLY:
            return 1.0
        return min(max(surveyed / max(now, 1.0), 0.1), 10.0)

    def _symmetric(self, upper: Floats) -> Floats:
        matrix = np.zeros((self._size, self._size))
        matrix[self._upper] = upper
        return matrix + np.triu(matrix, 1).T

    def _definite(self, matrix: Floats, deviation: float) -> tuple[Floats, Floats]:
        """Lift what may be noise alone out of the way of steps; tell what lies in there.

        The noise of a symmetric matrix reaches to twice this (Wigner's semicircle); what is below
        half of it is hidden.
        """
        values, vectors = np.linalg.eigh(matrix)
        floor = max(deviation * math.sqrt(self._size), 1e-9)
        hidden = (vectors[:, values < floor] ** 2).sum(axis=1)
        lifted: Floats = (vectors * np.maximum(values, floor)) @ vectors.T
        return lifted, hidden

    def result(self, fit: Fit, own_units: tuple[Floats, Floats]) -> FittedNumbers:
        """Return the coefficients, in the table's own units."""
        matrix, shift = own_units
        refined = int(fit.refined)
        if refined == 0:
            nothing = np.full(self._size, np.nan)
            return FittedNumbers(matrix @ fit.coefficients + shift, nothing, 0.0, 0)
        weight = float(fit.weight)
        mean = fit.total / weight
        inverse = np.linalg.inv(fit.matrix)
        variance = np.diag(matrix @ inverse @ inverse.T @ matrix.T) / weight
        if refined > 2:  # noqa: PLR2004 - what is left to tell a spread from
            # The matrix is noisy too; how far the rounds are apart does not depend on it.
            spread = fit.squares / weight - np.outer(mean, mean)
            variance = np.maximum(variance, np.diag(matrix @ spread @ matrix.T) / (refined - 1))
        hidden = (np.abs(matrix) > 0) @ (fit.unknown > _UNKNOWN)
        half_widths = np.where(hidden, np.nan, Z95 * np.sqrt(np.maximum(variance, 0)))
        return FittedNumbers(matrix @ mean + shift, half_widths, float(fit.over) / refined, refined)

    def measured(self, fit: Fit) -> Mapping[str, float]:
        """Return what to draw of the last round."""
        told = {"change": float(fit.change)}
        if fit.refined > 0:
            told["share over the limit"] = float(fit.over / fit.refined)
        return told
