"""What comes back from a site: the protected table, its privacy label, and the estimate before it."""

from __future__ import annotations

from typing import Literal

from privnb import wire
from privnb.computation import Scalar

__all__ = ["Answer", "AnswerColumn", "Estimate", "EstimateLine", "PrivacyLabel"]


@wire.message
class AnswerColumn:
    """A column of an answer: a group key, or an aggregate with its error."""

    name: str
    role: Literal["key", "aggregate"]


@wire.message
class Answer:
    """The noisy table of one site.

    ``rows[i][j]`` is the value of column ``j``; ``half_widths[i][j]`` the half-width of its 95 %
    interval, in the column's own unit, and None for keys or where no statement can be made.
    """

    columns: tuple[AnswerColumn, ...]
    rows: tuple[tuple[Scalar, ...], ...]
    half_widths: tuple[tuple[float | None, ...], ...]
    notes: tuple[str, ...] = ()
    """Remarks on single values, in plain words (for example: a group too small to say anything)."""


@wire.message
class PrivacyLabel:
    """What was done to protect people, and what was not. Every line of it can be proved."""

    mechanism: str
    epsilon: str
    """The charge for this release, decimal text, rounded up."""
    delta: str
    unit: str
    """Whose presence is protected, in words, for example 'one person (all their rows in visits)'."""
    clamps: tuple[str, ...] = ()
    """Which values were limited before summing, for example 'mdvis to 0…30 per person and group'."""
    budget: str
    """What is left, in words, for example 'epsilon 2.31 of 4 left for utilisation-research'."""
    not_protected: tuple[str, ...] = ()
    mock: bool = False
    """True when the answer comes from the mock twin: nothing was spent, nothing is real."""


@wire.message
class EstimateLine:
    """Expected error of one aggregate, known before any data is touched."""

    name: str
    half_width: float | None
    """Half-width of the 95 % interval in the column's unit; None when it depends on the data."""
    note: str = ""
    """For example 'in a group of 1,200 rows', or 'too small a group to say anything'."""


@wire.message
class Estimate:
    """What a question would cost at one site, and how precise its answer would be."""

    table: str
    epsilon: str
    delta: str
    lines: tuple[EstimateLine, ...]
    mechanism: str
    clamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    affordable: bool | None = None
    """Whether grant and table total would pay for it now; None if not checked."""
