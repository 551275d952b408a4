"""Secure totals: whether the answers of several sites can be added up, and what that gives.

A site makes its share with `privnb.dp.plan.Plan.share`, whoever has the sum of all shares computes
the answer with `privnb.dp.plan.Plan.combine`. Both have the plan from the same question and from
schemas that agree; `form` is what every one of them has to find the same, and `difference` says in
words why it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from privnb import wire
from privnb.dp.bounding import fixed_point
from privnb.dp.rows import columns_of
from privnb.errors import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from privnb.dp.plan import Plan
    from privnb.dp.vectors import Vector
    from privnb.release import Estimate, EstimateLine

__all__ = ["difference", "estimate_total", "form", "mechanism", "require_shareable"]


_MOST_TOLD = 4


def require_shareable(plan: Plan) -> None:
    """Refuse a plan whose noise cannot be made in pieces.

    Raises
    ------
    QueryRefused
        E_ACCOUNTING for a table that counts epsilon: Laplace noise of several sites does not add up
        to Laplace noise. E_NO_VALUES for groups that are not public: which of them show is decided
        at each site, and a sum needs the same ones everywhere.
    """
    if plan.accounting.name != "zcdp":
        raise QueryRefused(
            f"Table {plan.table!r} counts its loss as pure epsilon, by Laplace noise; pieces of"
            " that from several sites do not add up to Laplace noise.",
            hint="Ask each site alone, by %%secure, and add up.",
            code="E_ACCOUNTING",
        )
    if plan.groups is None or plan.gate is not None:
        unknown = [key for key in plan.keys if key.domain is None]
        names = sorted({column.name for key in unknown for column in columns_of(key)})
        raise QueryRefused(
            f"Totals need groups that are public, and those of {', '.join(map(repr, names))} in"
            f" {plan.table!r} are not: a sum has to have the same groups at every site.",
            hint="Group by columns whose values the sites declare, which are united; or by CASE"
            " over such conditions; or ask each site alone, by %%secure.",
            code="E_NO_VALUES",
        )


def form(plan: Plan) -> str:
    """Return the SHA-256 of all that shares to be added up must have in common.

    Each site's noise is made for its own plan, and its people are protected by the noise of the
    others too. So a site may only add its share to those of sites that signed the same form: then
    their vectors, bounds, centres, sensitivities, losses and groups are its own, whatever the
    analyst said to whom.
    """
    return wire.sha256_hex(wire.canonical_json(_form(plan)))


def _form(plan: Plan) -> dict[str, Any]:
    return {
        "accounting": plan.accounting.name,
        "loss": plan.price.loss,
        "outputs": [output.name for output in plan.outputs],
        "groups": None if plan.groups is None else [list(group) for group in plan.groups],
        "vectors": [
            [
                *_name_of(vector),
                _bounds_of(vector),
                vector.weight,
                vector.centre,
                vector.clamp,
                vector.sensitivity,
            ]
            for vector in plan.vectors
        ],
    }


def _name_of(vector: Vector) -> tuple[str, str]:
    return vector.kind, "" if vector.column is None else vector.column.name


def _bounds_of(vector: Vector) -> list[float] | None:
    column = vector.column
    if column is None or column.bounds is None or vector.kind == "count":
        return None
    point = fixed_point(column)
    # A schema that went through JSON has 0.0 where the owner wrote 0.
    told = (column.bounds.lower, column.bounds.upper, point.scale, point.lower, point.upper)
    return [float(number) for number in told]


def difference(plans: Mapping[str, Plan]) -> str | None:
    """Say why the shares of these sites cannot be added up, or None where they can.

    Parameters
    ----------
    plans
        One question's plan by site, each from that site's schema and widened by the same groups.
    """
    (first, one), *others = plans.items()
    for site, other in others:
        if form(one) == form(other):
            continue
        pair = _Pair(first, one, site, other)
        found = (reason(pair) for reason in _REASONS)
        return next(filter(None, found), f"{site} plans this otherwise than {first}.")
    return None


@dataclass(frozen=True)
class _Pair:
    """Two sites' plans of one question, which are not the same."""

    first: str
    one: Plan
    second: str
    other: Plan

    @property
    def vectors(self) -> Iterator[tuple[Vector, Vector]]:
        """The vectors of both, paired by what they hold; only those that both have."""
        theirs = {_name_of(vector): vector for vector in self.other.vectors}
        for vector in self.one.vectors:
            if _name_of(vector) in theirs:
                yield vector, theirs[_name_of(vector)]


def _accounting(pair: _Pair) -> str | None:
    names = pair.one.accounting.name, pair.other.accounting.name
    if names[0] == names[1]:
        return None
    return (
        f"{pair.first} counts the loss of {pair.one.table!r} by {names[0]} accounting,"
        f" {pair.second} by {names[1]}."
    )


def _losses(pair: _Pair) -> str | None:
    if pair.one.price.loss == pair.other.price.loss:
        return None
    return (
        f"The same epsilon is another loss at {pair.second} than at {pair.first}: their tables have"
        f" delta {pair.other.schema.delta:g} and {pair.one.schema.delta:g}."
    )


def _groups(pair: _Pair) -> str | None:
    if pair.one.groups == pair.other.groups:
        return None
    for mine, theirs in zip(pair.one.keys, pair.other.keys, strict=False):
        if (mine.domain, mine.nullable) != (theirs.domain, theirs.nullable):
            names = sorted({column.name for column in columns_of(mine) | columns_of(theirs)})
            return (
                f"The values of {', '.join(map(repr, names))} are others at {pair.second} than at"
                f" {pair.first}: unite them, so that each site answers for all groups."
            )
    return f"The groups are others at {pair.second} than at {pair.first}."


def _counts(pair: _Pair) -> str | None:
    mine, theirs = ({_name_of(v): v for v in plan.vectors} for plan in (pair.one, pair.other))
    apart = sorted(name for _, name in mine.keys() ^ theirs.keys() if name)
    if not apart:
        return None
    return (
        f"Column {apart[0]!r} may have missing values at one of {pair.first} and {pair.second} and"
        " not at the other, so its rows are counted in different ways."
    )


def _bounds(pair: _Pair) -> str | None:
    for mine, theirs in pair.vectors:
        if mine.column is not None and _bounds_of(mine) != _bounds_of(theirs):
            return (
                f"Column {mine.column.name!r} is limited to {_limits(mine)} at {pair.first} and to"
                f" {_limits(theirs)} at {pair.second}: its sums are sums of different things."
            )
    return None


def _rows(pair: _Pair) -> str | None:
    mine, theirs = pair.one.schema, pair.other.schema
    if mine.max_rows_per_unit == theirs.max_rows_per_unit:
        return None
    return (
        f"At {pair.first} at most {mine.max_rows_per_unit} rows per {mine.unit_name} count, at"
        f" {pair.second} {theirs.max_rows_per_unit}: their noise would have to be the same."
    )


def _clamps(pair: _Pair) -> str | None:
    for mine, theirs in pair.vectors:
        if (mine.clamp, mine.centre) != (theirs.clamp, theirs.centre) and mine.column is not None:
            return (
                f"The sum of {mine.column.name!r} of one {pair.one.schema.unit_name} is limited to"
                f" {_unit_limits(mine)} at {pair.first} and to {_unit_limits(theirs)} at"
                f" {pair.second}."
            )
    return None


def _reaches(pair: _Pair) -> str | None:
    mine, theirs = pair.one.reach, pair.other.reach
    if mine == theirs:
        return None
    return (
        f"At {pair.first} one {pair.one.schema.unit_name} can be in {mine.groups} of the groups"
        f" with {mine.per_group} rows each, at {pair.second} in {theirs.groups} with"
        f" {theirs.per_group}: other columns are declared constant, or unique."
    )


_REASONS = (_accounting, _losses, _groups, _counts, _bounds, _rows, _reaches, _clamps)


def _limits(vector: Vector) -> str:
    column = vector.column
    if column is None or column.bounds is None:
        return "nothing"
    return f"{column.bounds.lower:g}…{column.bounds.upper:g} ({column.type})"


def _unit_limits(vector: Vector) -> str:
    bounds = vector.column.unit_bounds if vector.column is not None else None
    return "nothing" if bounds is None else f"{bounds.lower:g}…{bounds.upper:g}"


def mechanism(plan: Plan, *, sites: int, pieces: int) -> str:
    """Say what is done at each of ``sites``, and what that makes of their sum, as can be proved."""
    scales = list(plan.piece_scales(pieces).values())
    many = len(scales)
    told = ", ".join(f"{scale:.4g}" for scale in scales[:_MOST_TOLD])
    told += ", …" * (many > _MOST_TOLD)
    enough = f"any {pieces} are enough" if pieces > 1 else "any one is enough"
    of_price = f"sigma^2/{pieces}" if pieces > 1 else "sigma^2"
    return (
        f"{plan.accounting.noise.name} (OpenDP), shared: each of {sites} sites adds variance"
        f" {of_price} to {many} vector{'s' * (many > 1)} of exact whole numbers (standard deviation"
        f" {told} steps), so that {enough}; only the sum is seen;"
        f" {plan.accounting.noise.loss_name} {plan.price.loss:.4g}"
    )


def estimate_total(plans: Mapping[str, Plan], *, pieces: int) -> Estimate:
    """Tell price and expected error of the total over sites, without any data.

    Beside the error of each aggregate is told what it would be if each site were asked alone, at
    the same price, and the answers added up.

    Parameters
    ----------
    plans
        By site, as `difference` allows them to be added up.
    pieces
        How many sites' noise is enough.
    """
    first, parts = next(iter(plans.values())), len(plans)
    rows = [plan.schema.public_rows for plan in plans.values()]
    known = sum(row for row in rows if row is not None)
    schema = replace(first.schema, public_rows=None if None in rows else known)
    total = replace(first, schema=schema)
    shared = total.estimate(scales=total.scales_of_total(parts=parts, pieces=pieces))
    alone = {vector: math.sqrt(parts) * scale for vector, scale in total.scales.items()}
    lines = tuple(
        _beside(line, other)
        for line, other in zip(shared.lines, total.estimate(scales=alone).lines, strict=True)
    )
    return replace(shared, lines=lines, mechanism=mechanism(first, sites=parts, pieces=pieces))


def _beside(line: EstimateLine, alone: EstimateLine) -> EstimateLine:
    if line.half_width is None or alone.half_width is None:
        return line
    note = f"±{alone.half_width:.3g} if each site were asked alone"
    return replace(line, note=f"{line.note}; {note}" if line.note else note)
