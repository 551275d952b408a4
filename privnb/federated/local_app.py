"""Runs a training cell where it was written, to see that it makes an app, and for its ``initial``.

Nothing of it is sent from here but the text; the sites run it anew, each in its sandbox.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from privnb.errors import QueryRefused
from privnb.federated.flower import ClientApp, has_function
from privnb.federated.messages import MAX_ROUND_BYTES
from privnb.federated.vectors import forms_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from privnb.computation import Parameters

__all__ = ["LocalApp", "run_here"]

_MOST_NUMBERS = MAX_ROUND_BYTES // 8 - 100_000
_INITIAL = "Set initial to the arrays that training begins with: initial = [np.zeros(6)]."


@dataclass(frozen=True, kw_only=True)
class LocalApp:
    """What a training cell says of itself."""

    initial: Mapping[str, NDArray[Any]]
    """The arrays that training begins with; numbered where they have no names."""
    by_name: bool
    """Whether they have names."""
    evaluates: bool
    """Whether the app evaluates."""


def run_here(source: str, *, parameters: Parameters) -> LocalApp:
    """Run a training cell in a name space of its own, and see what it makes.

    It finds what it finds at a site: its parameters as variables, ``np`` and ``pd``.

    Raises
    ------
    QueryRefused
        E_PYTHON where it raises; E_OUTPUT where it makes no app, or no arrays to begin with.

    Examples
    --------
    >>> cell = '''
    ... from flwr.clientapp import ClientApp
    ... app = ClientApp()
    ... @app.train()
    ... def train(msg, context): ...
    ... initial = [np.zeros(size)]
    ... '''
    >>> run_here(cell, parameters={"size": 3}).initial
    {'0': array([0., 0., 0.])}
    """
    space: dict[str, Any] = {"__name__": "__cell__", "np": np, "numpy": np, "pd": pd, "pandas": pd}
    space |= parameters
    try:
        exec(compile(source, "<cell>", "exec", dont_inherit=True), space)  # noqa: S102 - the analyst's own code, in the analyst's own kernel
    except Exception as error:  # noqa: BLE001 - it may raise anything
        raise _does_not_run(error) from None
    app = space.get("app")
    if not isinstance(app, ClientApp):
        raise QueryRefused(
            f"app is a {type(app).__name__}, not a Flower ClientApp.",
            hint="Write: from flwr.clientapp import ClientApp; app = ClientApp()",
            code="E_OUTPUT",
        )
    if not has_function(app, "train"):
        raise QueryRefused(
            "The app does not say how it trains.",
            hint="Decorate a function: @app.train() def train(msg, context): …",
            code="E_OUTPUT",
        )
    initial = _initial(space.get("initial"))
    return LocalApp(
        initial=initial,
        by_name=isinstance(space["initial"], dict),
        evaluates=has_function(app, "evaluate"),
    )


def _initial(given: object) -> dict[str, NDArray[Any]]:
    if given is None:
        raise QueryRefused("The cell sets no initial arrays.", hint=_INITIAL, code="E_OUTPUT")
    if isinstance(given, dict):
        named = {str(name): np.asarray(value) for name, value in given.items()}
    elif isinstance(given, list | tuple):
        named = {str(place): np.asarray(value) for place, value in enumerate(given)}
    else:
        raise QueryRefused(
            f"initial is a {type(given).__name__}, not a list of arrays or a dict.",
            hint=_INITIAL,
            code="E_OUTPUT",
        )
    if not named:
        raise QueryRefused("initial has no arrays.", hint=_INITIAL, code="E_OUTPUT")
    forms_of(named)
    numbers = sum(array.size for array in named.values())
    if numbers > _MOST_NUMBERS:
        raise QueryRefused(
            f"initial has {numbers:,} numbers; at most {_MOST_NUMBERS:,} are trained.",
            hint="Train a smaller model.",
            code="E_OUTPUT",
        )
    wrong = [name for name, array in named.items() if not np.isfinite(array).all()]
    if wrong:
        raise QueryRefused(
            f"Array {wrong[0]!r} of initial is not finite.", hint=_INITIAL, code="E_OUTPUT"
        )
    return named


def _does_not_run(error: Exception) -> QueryRefused:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<cell>"]
    where = f"Line {lines[-1]} of the cell" if lines else "The cell"
    return QueryRefused(
        f"{where} raises {type(error).__name__} here: {error!s:.300}",
        hint="It runs here once, without data, for app and initial: use tables in functions only.",
        code="E_PYTHON",
    )
