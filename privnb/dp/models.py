"""The regressions that sites train together: what was asked for, and their mean and curvature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from privnb import wire
from privnb.dp.groups import columns_named
from privnb.dp.noisy import Floats
from privnb.errors import BadMessage, QueryRefused

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ModelKind", "ModelSpec", "curvature_of", "link_of", "mean_of"]

ModelKind: TypeAlias = Literal["linear", "logistic", "poisson"]

_HINT = "For example --model poisson --target visits --features age,income."
_MOST_FEATURES = 32
_LOWEST, _HIGHEST = -30.0, 30.0


@wire.message
class ModelSpec:
    """A regression to train: its text is the source of a computation of the kind ``model``.

    >>> spec = ModelSpec(model="poisson", target="visits", features=("age", "income"))
    >>> ModelSpec.read(spec.text) == spec
    True
    """

    model: ModelKind
    target: str
    """A column; for ``logistic`` also a condition like ``visits > 0``."""
    features: tuple[str, ...]
    """Columns with bounds, or with public values: those are compared with the first of them."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what a cell or a computation says, or raise `QueryRefused` (E_MODEL)."""
        try:
            spec = wire.decode(cls, text.encode("utf-8", "replace"), what="The model")
        except BadMessage as wrong:
            raise QueryRefused(wrong.message, hint=_HINT, code="E_MODEL") from None
        spec.check()
        return spec

    @property
    def text(self) -> str:
        """Its canonical JSON."""
        return wire.encode(self).decode()

    def check(self) -> None:
        """Raise `QueryRefused` (E_MODEL) where something is missing, named twice, or too much."""
        problem = ""
        folded = [feature.strip().lower() for feature in self.features]
        if not self.target.strip() or not all(folded) or not folded:
            problem = "A model needs a target, and one feature or more."
        elif len(folded) > _MOST_FEATURES:
            problem = f"{len(folded)} features are named; a model has at most {_MOST_FEATURES}."
        elif len(set(folded)) < len(folded):
            problem = "A feature is named twice."
        elif self.target.strip().lower() in folded:
            problem = f"{self.target!r} is both target and feature."
        if problem:
            raise QueryRefused(problem, hint=_HINT, code="E_MODEL")

    @property
    def names(self) -> frozenset[str]:
        """What may be names of columns, in lower case."""
        return frozenset(name.lower() for name in self.features) | columns_named(
            f"SELECT {self.target} FROM t"  # noqa: S608 - read, never run
        )


def link_of(model: ModelKind, mean: float) -> float:
    """Return the linear predictor of a mean that lies within what the model can have."""
    if model == "logistic":
        mean = min(max(mean, 0.02), 0.98)
        return math.log(mean / (1 - mean))
    return math.log(max(mean, 1e-6)) if model == "poisson" else mean


def mean_of(model: ModelKind, predictor: Floats, *, top: float) -> Floats:
    """Return the mean for each linear predictor; of counts at most four times ``top``.

    The same predictor gives the same mean to the last bit, wherever in the array it stands. numpy
    does not promise that of its exponential, and one person's part must not depend on the others'.
    """
    if model == "linear":
        return predictor
    highest = _HIGHEST if model == "logistic" else math.log(4 * top)
    inside = np.clip(predictor, _LOWEST, highest)
    exponential = np.array([math.exp(value) for value in inside.tolist()], dtype=np.float64)
    if model == "poisson":
        return exponential
    share: Floats = exponential / (1.0 + exponential)
    return share


def curvature_of(model: ModelKind, mean: Floats) -> Floats:
    """Return how fast the mean grows with the linear predictor.

    >>> curvature_of("logistic", np.array([0.5, 0.9])).round(2)
    array([0.25, 0.09])
    """
    if model == "linear":
        return np.ones_like(mean)
    return mean * (1.0 - mean) if model == "logistic" else mean
