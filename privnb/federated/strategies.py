"""Which of Flower's strategies work on a sum alone, by name with options as text, or as they are.

A run sees one reply that stands for all sites. What only needs the weighted mean works; what
compares, picks or weighs single sites cannot, and is refused with the reason.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.errors import QueryRefused, StateError, UnknownName
from privnb.federated.flower import Array, ArrayRecord

# isort: split
from flwr.serverapp import strategy as flwr_strategies
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Strategy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["NAMES", "made", "prepare", "quiet", "remembered", "restore", "words"]

_BY_NAME: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
NAMES = tuple(_BY_NAME)
"""The strategies that are known by name."""

_COMPARES = "it compares the models of single sites"
_TREES = "it joins the trees of single sites, which cannot be added up"
_NOISES = (
    "it limits or blurs the models of single sites; for differential privacy of single rows use"
    " --model, whose noise is added at the sites"
)
_REFUSED = {
    "FedMedian": _COMPARES,
    "FedTrimmedAvg": _COMPARES,
    "Krum": _COMPARES,
    "MultiKrum": _COMPARES,
    "Bulyan": _COMPARES,
    "QFedAvg": "it weighs every site by the site's own loss",
    "FedXgbBagging": _TREES,
    "FedXgbCyclic": _TREES,
    "DifferentialPrivacyClientSideAdaptiveClipping": _NOISES,
    "DifferentialPrivacyClientSideFixedClipping": _NOISES,
    "DifferentialPrivacyServerSideAdaptiveClipping": _NOISES,
    "DifferentialPrivacyServerSideFixedClipping": _NOISES,
}
_NOT_OPTIONS = {
    "fraction_train": "every site is in every round",
    "min_train_nodes": "the sites themselves say how many there must be",
    "min_evaluate_nodes": "the sites themselves say how many there must be",
    "min_available_nodes": "the sites themselves say how many there must be",
    "weighted_by_key": "sites weigh their parts by num-examples alone",
    "arrayrecord_key": "the app finds arrays under 'arrays'",
    "configrecord_key": "the app finds settings under 'config'",
    "train_metrics_aggr_fn": "it would see the metrics of all sites together only",
    "evaluate_metrics_aggr_fn": "it would see the metrics of all sites together only",
}
_WEIGHT = "num-examples"
_MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
_STATE = ("m_t", "v_t", "momentum_vector", "current_arrays")
"""Attributes in which the strategies above keep arrays from one round to the next."""


def made(name: str, options: Mapping[str, str]) -> FedAvg:
    """Make a strategy by its name, its options from text.

    Parameters
    ----------
    options
        Of Flower's class, without those that make no sense here; ``server-learning-rate`` may be
        written for ``server_learning_rate``.

    Raises
    ------
    UnknownName
        No such strategy, or no such option.
    QueryRefused
        It cannot work on a sum, or an option cannot be read.

    Examples
    --------
    >>> made("fedprox", {"proximal-mu": "0.1"}).proximal_mu
    0.1
    """
    folded = name.lower().replace("-", "").replace("_", "")
    for refused, why in _REFUSED.items():
        if folded == refused.lower():
            raise _refusal(refused, why)
    if folded not in _BY_NAME:
        raise UnknownName.among("strategy", name, NAMES, code="E_STRATEGY")
    kind = _BY_NAME[folded]
    known = inspect.signature(kind).parameters
    given: dict[str, Any] = {}
    for option, text in options.items():
        key = option.replace("-", "_")
        if key in _NOT_OPTIONS:
            raise QueryRefused(
                f"{option} cannot be chosen: {_NOT_OPTIONS[key]}.", code="E_STRATEGY"
            )
        if key not in known:
            allowed = set(known) - set(_NOT_OPTIONS)
            raise UnknownName.among(f"option of {folded}", option, allowed, code="E_STRATEGY")
        given[key] = _read(option, text, known[key].default)
    if given.get("fraction_evaluate", 1.0) not in (0.0, 1.0):
        raise QueryRefused("fraction_evaluate is 1 (all sites) or 0 (none).", code="E_STRATEGY")
    with quiet():
        return kind(**given)


def _read(option: str, text: str, default: object) -> object:
    if isinstance(default, str):
        return text
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise QueryRefused(
            f"{option} must be a number, not {text!r:.60}.",
            hint=f"For example {option}={default}.",
            code="E_STRATEGY",
        )
    return number


def prepare(strategy: object, *, sites: int) -> FedAvg:
    """Make sure that a strategy can work on a sum, and let it take all sites.

    Subclasses may override what they like: they get one reply, which stands for all.

    Raises `QueryRefused`, with the reason.
    """
    for name, why in _REFUSED.items():
        if isinstance(strategy, getattr(flwr_strategies, name)):
            raise _refusal(type(strategy).__name__, why)
    if not isinstance(strategy, FedAvg):
        kind = type(strategy).__name__
        what = "is none of Flower's" if not isinstance(strategy, Strategy) else "is no FedAvg"
        raise QueryRefused(
            f"{kind} {what}, so it is not known whether a sum is enough for it.",
            hint=f"Derive it from FedAvg, or name one of {', '.join(NAMES)}.",
            code="E_STRATEGY",
        )
    for fraction in ("fraction_train", "fraction_evaluate"):
        if getattr(strategy, fraction) not in ((1.0,) if fraction == "fraction_train" else (0, 1)):
            raise QueryRefused(
                f"{fraction} is {getattr(strategy, fraction):g}, but every site is in every round.",
                hint=f"Leave {fraction} at 1.",
                code="E_STRATEGY",
            )
    if strategy.weighted_by_key != _WEIGHT:
        raise QueryRefused(
            f"The weight is {strategy.weighted_by_key!r:.60}, but sites weigh by {_WEIGHT} alone.",
            hint="Another metric could be made to single one site out. Leave it as it is.",
            code="E_STRATEGY",
        )
    for minimum in _MINIMA:
        setattr(strategy, minimum, min(getattr(strategy, minimum), sites))
    return strategy


def words(strategy: FedAvg) -> str:
    """Say in words what puts the rounds together.

    >>> words(made("fedavgm", {"server-momentum": "0.9"}))
    'FedAvgM(server_learning_rate=1, server_momentum=0.9)'
    """
    known = {
        name
        for kind in type(strategy).__mro__
        if kind in _BY_NAME.values() or kind.__module__.startswith("flwr.")
        for name in inspect.signature(kind).parameters
        if kind is not object
    }
    usual = inspect.signature(FedAvg).parameters
    shown = [
        f"{name}={value:g}"
        for name in sorted(known - set(usual) - {"args", "kwargs"})
        if isinstance(value := getattr(strategy, name, None), int | float)
    ]
    return f"{type(strategy).__name__}({', '.join(shown)})"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Flower log nothing from this thread but errors: a run tells how far it is by itself."""
    here = threading.get_ident()

    def is_shown(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno >= logging.ERROR

    logger = logging.getLogger("flwr")
    logger.addFilter(is_shown)
    try:
        yield
    finally:
        logger.removeFilter(is_shown)


def remembered(strategy: FedAvg) -> dict[str, NDArray[Any]]:
    """Return the arrays that a strategy keeps from one round to the next, by attribute and name."""
    found: dict[str, NDArray[Any]] = {}
    for attribute in _STATE:
        value = getattr(strategy, attribute, None)
        if isinstance(value, ArrayRecord):
            value = {name: array.numpy() for name, array in value.items()}
        if isinstance(value, dict):
            found |= {f"{attribute}/{name}": np.asarray(a) for name, a in value.items()}
        elif isinstance(value, list):
            found |= {f"{attribute}/{i}": np.asarray(a) for i, a in enumerate(value)}
    return found


def restore(strategy: FedAvg, state: Mapping[str, NDArray[Any]]) -> None:
    """Give a strategy back what it remembered; raises `StateError` if it is for another one."""
    kept: dict[str, dict[str, NDArray[Any]]] = {}
    for place, array in state.items():
        attribute, _, name = place.partition("/")
        kept.setdefault(attribute, {})[name] = array
    for attribute, arrays in kept.items():
        if attribute not in _STATE or not hasattr(strategy, attribute):
            raise StateError(
                f"The run was begun with another strategy than {type(strategy).__name__}.",
                hint="Give the strategy that it was begun with.",
            )
        value: Any = arrays
        if attribute == "momentum_vector":
            value = list(arrays.values())
        elif isinstance(strategy, FedAvgM):
            value = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        setattr(strategy, attribute, value)


def _refusal(name: str, why: str) -> QueryRefused:
    return QueryRefused(
        f"{name} cannot work here: {why}, and only the sum over all sites is ever seen.",
        hint=f"Strategies that only take the mean are: {', '.join(NAMES)}.",
        code="E_STRATEGY",
    )
