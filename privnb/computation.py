"""What one cell asks of a site, and the digest that identifies it."""

from __future__ import annotations

import dataclasses
import re
from decimal import Decimal
from functools import cached_property
from typing import Literal, TypeAlias

from privnb import wire
from privnb.errors import QueryRefused

__all__ = [
    "MAX_SOURCE_BYTES",
    "Computation",
    "Federation",
    "Parameters",
    "Scalar",
    "parse_epsilon",
]

Scalar: TypeAlias = bool | int | float | str | None
Parameters: TypeAlias = dict[str, Scalar | list[Scalar]]

_EPSILON = re.compile(r"(?=.{1,32}$)([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")

MAX_SOURCE_BYTES = 64 * 1024
"""The longest cell a site reads, in bytes of UTF-8."""


@wire.message
class Federation:
    """Which sites compute together, and under which conditions: all of them see all of it.

    With ``n`` sites a sum opens only by ``threshold`` of them, and one site's part never, as long
    as at most ``colluding`` sites work together with the analyst and ``2 * threshold > n +
    colluding`` (Bonawitz et al., CCS 2017).
    """

    sites: tuple[str, ...]
    """The verifier key of every site, sorted: each checks the others by what its owner pinned."""
    threshold: int
    """How many sites have to be in every sum, at least."""
    colluding: int = 0
    """How many sites may tell the analyst all they see before one site's part is exposed."""
    rounds: int = 1
    """How many rounds there are at most."""
    groups: dict[str, list[Scalar]] | None = None
    """By column of GROUP BY, the values of all sites together: each answers for all of them."""

    @property
    def pieces(self) -> int:
        """How many sites' shares of noise are enough: every sum has them, whoever colludes."""
        return self.threshold - self.colluding


@wire.message
class Computation:
    """One cell's question: its code, what is bound to it, and what is offered for the answer.

    Immutable. Two computations are the same exactly when their `digest` is the same; the digest
    covers the very bytes of the cell, its parameters, purpose and ask.

    >>> c = Computation(kind="sql", source="SELECT COUNT(*) FROM visits", epsilon="1")
    >>> c.digest[:8] == Computation(kind="sql", source=c.source, epsilon="1").digest[:8]
    True
    """

    kind: Literal["sql", "python", "model"]
    """``sql``: a question; ``python``: code; ``model``: a model of ours, described in JSON."""
    source: str
    parameters: Parameters | None = None
    purpose: str | None = None
    epsilon: str | None = None
    """The privacy loss offered, a positive decimal as text, so that it is hashed as written."""
    tables: tuple[str, ...] | None = None
    """The tables that Python code gets as frames; SQL names its table itself."""
    output: str | None = None
    """The variable that Python code declares as its output; None: its last expression."""
    federation: Federation | None = None
    """Set where only what several sites give together may be seen."""

    def __post_init__(self) -> None:
        if len(self.source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
            message = f"The cell is longer than {MAX_SOURCE_BYTES} bytes."
            raise QueryRefused(message, hint="Ask a shorter question.", code="E_UNSUPPORTED")

    @property
    def takes_time(self) -> bool:
        """Whether a site may be at it for long, or wait for a person: then it can be asked."""
        return self.kind == "python" or self.federation is not None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits.

        What is not set is left out of the form, so that a digest stays the same when later
        versions can say more.
        """
        said = dataclasses.asdict(self).items()
        form = {name: value for name, value in said if value not in (None, {}, ())}
        return wire.sha256_hex(wire.canonical_json(form))


def parse_epsilon(text: str | float | Decimal | None) -> Decimal:
    """Read an epsilon exactly as written: positive, finite, at most 20.

    >>> parse_epsilon("0.5")
    Decimal('0.5')
    """
    hint = "Add --epsilon 1 (in Python epsilon=1); less protects more and answers less precisely."
    if text is None:
        raise QueryRefused("No epsilon was given.", hint=hint, code="E_EPSILON")
    # Decimal reads more than people do: 1_0 as ten, digits of every script, a million of them.
    written = str(text)
    epsilon = Decimal(written if _EPSILON.fullmatch(written) else "NaN")
    if not (epsilon.is_finite() and Decimal("0.0001") <= epsilon <= Decimal(20)):
        problem = f"Epsilon must be a number from 0.0001 to 20, not {text!s:.40}."
        raise QueryRefused(problem, hint=hint, code="E_EPSILON")
    return epsilon
