"""Training a regression over several sites: its price, each site's rounds, and the result.

What is protected is the presence of a unit with all its rows, as in every answer, and so that of
each row. Every round is one vector of exact whole numbers in which one unit has a norm of at most
so many steps (`privnb.dp.contributions`), with the shared noise of `privnb.dp.pieces`. The price is
that of all rounds together; it is divided among them by their number alone, whatever is computed in
them, so that a round that is lost costs what it would have cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb import wire
from privnb.computation import parse_epsilon
from privnb.dp.accounting import Accounting, Price, accounting_of
from privnb.dp.contributions import Contributions, Phase, bin_edges, blocks_of
from privnb.dp.design import Design, Levels, Number, Rows, Target, design_of
from privnb.dp.fitting import Fit, Fitter
from privnb.dp.groups import widened
from privnb.dp.models import ModelSpec
from privnb.dp.noisy import Floats
from privnb.dp.pieces import add_piece, piece_scale
from privnb.errors import QueryRefused
from privnb.release import Answer, AnswerColumn, Estimate, EstimateLine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from privnb.computation import Federation
    from privnb.dp.schema import TableSchema

__all__ = ["LEAST_ROUNDS", "ModelSpec", "TrainingPlan", "plan_training", "training_difference"]

LEAST_ROUNDS = 5
"""A survey, sizes, a step towards the solution, the curvature there, and a step around it."""

_MOST_ROUNDS = 200
_TWO_APPROACHES = 8
_SURVEY, _NORMS, _APPROACH, _CURVATURE = 0.12, 0.03, 0.04, 0.14
_LARGEST = 1e6
_MANY_OVER = 0.03


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One model to be trained, ready to run; made by `plan_training`. Holds no data.

    ``parameters``, below, are all that a fit knows, as one vector of floats of a fixed length. They
    are noisy numbers only: they may be stored, sent and shown.

    Attributes
    ----------
    price
        What all rounds cost together. Reserve it before the first one.
    federation
        Which sites train together, in how many rounds.
    """

    schema: TableSchema
    spec: ModelSpec
    price: Price
    design: Design
    federation: Federation

    @property
    def table(self) -> str:
        """Name of the table."""
        return self.schema.name

    @property
    def sql(self) -> str:
        """What a site reads of its bounded table, once: single rows, which never leave."""
        return self.design.sql

    @cached_property
    def accounting(self) -> Accounting:
        """What the loss is counted in."""
        return accounting_of(self.schema)

    @property
    def delta(self) -> str:
        """The delta at which the epsilon of the price holds, as decimal text."""
        return f"{self.accounting.delta_of(self.price):g}"

    @property
    def pieces(self) -> int:
        """How many sites' noise is enough."""
        return self.federation.pieces

    @cached_property
    def losses(self) -> tuple[float, ...]:
        """The loss of each round: more for those that all others build on."""
        rounds, approaches = self.federation.rounds, self._approaches
        first = [_SURVEY, _NORMS, *[_APPROACH] * approaches, _CURVATURE]
        refining = rounds - len(first)
        parts = first + [(1 - sum(first)) / refining] * refining
        # A little less than all, so that the rounded parts never exceed the whole.
        return tuple(self.price.loss * (1 - 1e-12) * part for part in parts)

    @property
    def _approaches(self) -> int:
        return 2 if self.federation.rounds >= _TWO_APPROACHES else 1

    @cached_property
    def fitter(self) -> Fitter:
        """What makes new parameters of a noisy sum."""
        design = self.design
        return Fitter(
            self.spec.model,
            size=len(design.names),
            edges=bin_edges(design),
            most_rows=self.schema.max_rows_per_unit,
            largest_square=design.largest_square,
            top=design.target.top,
            approaches=self._approaches,
            refining=self._deviation_of_mean,
        )

    @property
    def _deviation_of_mean(self) -> float:
        """What all sites' noise in the refining rounds comes to, as if all were always there."""
        refining = self.losses[self._approaches + 3 :]
        (block,) = blocks_of(Phase.REFINE, len(self.design.names))
        scale = piece_scale(sum(refining), block.sensitivity, pieces=self.pieces, size=block.size)
        return math.sqrt(len(self.federation.sites)) * scale

    @property
    def length(self) -> int:
        """How many integers each round's vector has; what a round does not need is 0."""
        size = len(self.design.names)
        return max(sum(block.size for block in blocks_of(phase, size)) for phase in Phase)

    @cached_property
    def start(self) -> Floats:
        """The parameters that training begins with."""
        return self.fitter.start.numbers

    def prepare(self, rows: Iterable[Sequence[object]]) -> Rows:
        """Scale what `sql` returned on the bounded table; a site keeps it while it trains."""
        return self.design.rows(rows)

    def gradient(self, rows: Rows, parameters: Floats, *, round: int) -> list[int]:  # noqa: A002 - the field's word
        """Compute one site's part of a round, with its piece of the noise.

        It is for a secure sum with those of at least ``pieces - 1`` sites more, and never to be
        seen alone. Each round's number may be answered once.

        Returns
        -------
        list of int
            `length` integers.

        Raises
        ------
        QueryRefused
            E_VALUE where these are no parameters of this model; it depends on nothing else.
        """
        size = len(self.design.names)
        phase, limit = self._checked(parameters, round)
        sums = Contributions(self.spec.model, self.design, rows).sums(
            phase, parameters[:size], limit
        )
        noisy: list[int] = []
        for block, exact in zip(blocks_of(phase, size), sums, strict=True):
            noisy += add_piece(
                exact.tolist(),
                sensitivity=block.sensitivity,
                loss=self.losses[round - 1] * block.share,
                pieces=self.pieces,
            )
        return noisy + [0] * (self.length - len(noisy))

    def _checked(self, parameters: Floats, number: int) -> tuple[Phase, float]:
        size = len(self.design.names)
        sound = (
            isinstance(parameters, np.ndarray)
            and parameters.dtype == np.float64
            and parameters.shape == (Fit.length(size),)
            and 1 <= number <= self.federation.rounds
            and bool(np.isfinite(parameters).all())
        )
        if sound:
            limit, phase = float(parameters[size]), float(parameters[size + 1])
            sound = (
                float(np.abs(parameters[:size]).max()) <= _LARGEST
                and 1 / _LARGEST**2 <= limit <= _LARGEST**2
                and phase in list(Phase)
            )
        if not sound:
            raise QueryRefused(
                f"These are no parameters of round {number} of this model.",
                hint="Train with the version of privnb that the sites have.",
                code="E_VALUE",
            )
        return Phase(int(phase)), limit

    def step(
        self,
        total: Sequence[int],
        parameters: Floats,
        *,
        round: int,  # noqa: A002 - the field's word
        parts: int,
    ) -> Floats:
        """Make new parameters of the sum of a round.

        Parameters
        ----------
        total
            The exact sum of what ``parts`` sites' `gradient` returned at ``parameters``.
        round
            The number that they were asked with.
        """
        if len(total) != self.length or parts < self.pieces:
            message = f"{len(total)} integers of {parts} sites are no sum of this model"
            raise ValueError(message)
        size = len(self.design.names)
        fit = Fit.of(parameters, size)
        root, loss = math.sqrt(parts), self.losses[round - 1]
        blocks = [
            (
                block,
                root
                * piece_scale(
                    loss * block.share, block.sensitivity, pieces=self.pieces, size=block.size
                ),
            )
            for block in blocks_of(Phase(int(fit.phase)), size)
        ]
        return self.fitter.next(fit, blocks, total).numbers

    def measured(self, parameters: Floats) -> dict[str, float]:
        """Return what to draw of the last round: the largest change of a scaled coefficient."""
        return dict(self.fitter.measured(Fit.of(parameters, len(self.design.names))))

    def coefficients(self, parameters: Floats) -> Answer:
        """Tell the coefficients in the units of the data.

        Their intervals are for the noise alone, and approximate: they do not say how far the
        coefficients are from those of other people, as a standard error would.
        """
        names = self.design.names
        found = self.fitter.result(Fit.of(parameters, len(names)), self.design.own_units)
        values = [float(value) for value in found.values]
        widths = [float(width) if math.isfinite(width) else None for width in found.half_widths]
        unit, notes = self.schema.unit_name, []
        if found.refined == 0:
            notes.append("Too few rounds were summed: these coefficients are no estimates.")
        silent = [name for name, width in zip(names, widths, strict=True) if width is None]
        if silent and found.refined:
            notes.append(f"Nothing can be told of {', '.join(silent)}: the noise hides it.")
        if found.over > _MANY_OVER:
            notes.append(
                f"About {100 * found.over:.2g} % of {unit}s added more to a round than its limit"
                " and count for less."
            )
        notes.append(
            "The intervals are for the added noise alone: not for sampling, nor for what the limits"
            " named in the label cut off."
        )
        return Answer(
            columns=(
                AnswerColumn(name="term", role="key"),
                AnswerColumn(name="coefficient", role="aggregate"),
            ),
            rows=tuple(zip(names, values, strict=True)),
            half_widths=tuple((None, width) for width in widths),
            notes=tuple(notes),
        )

    @property
    def mechanism(self) -> str:
        """What is done, in words that can be proved."""
        pieces, unit = self.pieces, self.schema.unit_name
        enough = f"any {pieces} are enough" if pieces > 1 else "any one is enough"
        of_price = f"sigma^2/{pieces}" if pieces > 1 else "sigma^2"
        return (
            f"{self.spec.model} regression of {self.design.target.name} in {self.federation.rounds}"
            f" rounds; {self.accounting.noise.name} (OpenDP) on sums of what each {unit} adds,"
            f" shared: each of {len(self.federation.sites)} sites adds variance {of_price}, so that"
            f" {enough}; only the sums are seen; {self.accounting.noise.loss_name}"
            f" {self.price.loss:.4g} for all rounds"
        )

    @property
    def clamps(self) -> tuple[str, ...]:
        """Which values were limited, in words."""
        unit = self.schema.unit_name
        columns = [term.column for term in self.design.terms if isinstance(term, Number)]
        if self.spec.model != "logistic" and self.design.target.column is not None:
            columns.append(self.design.target.column)
        return (
            f"at most {self.schema.max_rows_per_unit} rows per {unit}",
            *(
                f"{column.name} to {column.bounds.lower:,g}…{column.bounds.upper:,g}"
                for column in columns
                if column.bounds is not None
            ),
            f"what one {unit} adds to a round, to a length chosen from noisy sums",
        )

    def estimate(self) -> Estimate:
        """Tell the price without any data. How precise a coefficient gets depends on the data."""
        note = "depends on the data; told with the result"
        return Estimate(
            table=self.table,
            epsilon=f"{self.price.epsilon:f}",
            delta=self.delta,
            lines=tuple(
                EstimateLine(name=name, half_width=None, note=note) for name in self.design.names
            ),
            mechanism=self.mechanism,
            clamps=self.clamps,
            notes=(f"The price is for all {self.federation.rounds} rounds.",),
        )

    @cached_property
    def form(self) -> str:
        """The SHA-256 of all that sites have to have in common; see `privnb.dp.sharing.form`."""
        return wire.sha256_hex(wire.canonical_json(self.described))

    @property
    def described(self) -> dict[str, Any]:
        """What the form is made of."""
        target = self.design.target
        return {
            "accounting": self.accounting.name,
            "loss": self.price.loss,
            "model": self.spec.model,
            "rows": self.schema.max_rows_per_unit,
            # A schema that went through JSON has 0.0 where the owner wrote 0.
            "target": [target.name, *map(float, _numbers_of(target))],
            "features": [_described(term) for term in self.design.terms],
        }


def _numbers_of(target: Target) -> tuple[float, ...]:
    return target.scale, target.lower, target.span, target.top


def _described(term: Number | Levels) -> list[Any]:
    if isinstance(term, Number):
        return [term.column.name, float(term.middle), float(term.half)]
    return [term.column.name, list(term.values)]


def plan_training(
    spec: ModelSpec, *, schema: TableSchema, epsilon: Decimal, federation: Federation
) -> TrainingPlan:
    """Plan the training of one model.

    Parameters
    ----------
    schema
        The table, as one site publishes it; checked by `privnb.dp.bounding.check_schema`.
    epsilon
        The privacy loss offered, for all rounds together. All of it is used.
    federation
        Says how many rounds there are, how many sites' noise is enough, and the public values of
        all sites together.

    Raises
    ------
    QueryRefused
        As `privnb.dp.design.design_of`; E_ACCOUNTING for a table that counts pure epsilon, E_MODEL
        for too few or too many rounds.
    """
    offered = parse_epsilon(epsilon)
    spec.check()
    schema = widened(schema, federation.groups or {})
    accounting = accounting_of(schema)
    if accounting.name != "zcdp":
        raise QueryRefused(
            f"Table {schema.name!r} counts its loss as pure epsilon, by Laplace noise; pieces of"
            " that from several sites do not add up to Laplace noise.",
            hint="Models are trained on tables whose accounting is zcdp.",
            code="E_ACCOUNTING",
        )
    if not LEAST_ROUNDS <= federation.rounds <= _MOST_ROUNDS:
        raise QueryRefused(
            f"A model is trained in {LEAST_ROUNDS} to {_MOST_ROUNDS} rounds, not"
            f" {federation.rounds}.",
            hint="Add --rounds 10: the price is the same, and more rounds come closer.",
            code="E_MODEL",
        )
    return TrainingPlan(
        schema=schema,
        spec=spec,
        price=Price(loss=accounting.loss_for(offered), delta=0.0, epsilon=offered),
        design=design_of(spec, schema),
        federation=federation,
    )


def training_difference(plans: Mapping[str, TrainingPlan]) -> str | None:
    """Say why these sites cannot train one model together, or None where they can."""
    (first, one), *others = plans.items()
    for site, other in others:
        if one.form == other.form:
            continue
        return _difference(first, one.described, site, other.described)
    return None


_WORDS = {
    "accounting": "accounting",
    "loss": "loss for this epsilon (their tables have other deltas)",
    "model": "model",
    "rows": "number of rows per unit",
}


def _difference(first: str, one: Mapping[str, Any], site: str, other: Mapping[str, Any]) -> str:
    for name, words in _WORDS.items():
        if one[name] != other[name]:
            return f"{first} and {site} have another {words}: {one[name]} and {other[name]}."
    if one["target"] != other["target"]:
        return f"The target {one['target'][0]!r} has other bounds at {first} than at {site}."
    for mine, theirs in zip(one["features"], other["features"], strict=True):
        if mine != theirs:
            return (
                f"The feature {mine[0]!r} has other bounds or values at {first} than at {site}."
                " Values can be united; bounds have to be the same."
            )
    return f"{site} plans this model otherwise than {first}."
