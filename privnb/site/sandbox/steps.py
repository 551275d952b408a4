"""A training to run step by step, what a step gives, and what travels to and from its worker.

A request is the length of a line of JSON, the line, and the arrays as raw little-endian numbers; an
answer likewise. The arrays of an answer are those of the request over again, with new values: there
is nothing in their form that the code could choose.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from privnb import wire
from privnb.computation import Parameters, Scalar
from privnb.federated.faults import Fault
from privnb.federated.messages import ArrayForm, Work

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

__all__ = [
    "LENGTH",
    "Answer",
    "Request",
    "Trained",
    "TrainingCell",
    "TrainingJob",
    "as_bytes",
    "byte_count",
    "forms_of_answer",
    "read_arrays",
]

LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCell:
    """The code of a training with what it is bound to.

    The code leaves a Flower ``ClientApp`` in the variable ``app``, whose functions find the tables
    in ``context.node_config["tables"]``, each a pandas frame under its name. Parameters are
    variables and in ``context.run_config``; ``np``, ``numpy``, ``pd`` and ``pandas`` are there
    already.
    """

    source: str
    tables: Mapping[str, pa.Table]
    parameters: Mapping[str, Scalar | list[Scalar]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a step gave: well formed, finite, and not believed beyond that.

    Attributes
    ----------
    arrays
        To train: those of the work, by the same names and in the same shapes; whole numbers have
        become float64. Otherwise none.
    metrics
        By name, sorted; each name is a word of the source.
    weight
        Positive; what the arrays and metrics count in an average.
    """

    arrays: tuple[tuple[ArrayForm, NDArray[Any]], ...]
    metrics: dict[str, float]
    weight: float
    seconds: float


@wire.message
class TrainingJob:
    """What the agent sends a training worker first, with two pipes and the tables."""

    source: str
    parameters: Parameters
    tables: tuple[str, ...]
    memory_bytes: int


@wire.message
class Request:
    """One step; its arrays follow."""

    number: str
    work: Work


@wire.message
class Answer:
    """What a worker, or the code that has taken it over, answers to a request."""

    number: str
    status: Literal["done", "raised", "fault", "memory"]
    metrics: dict[str, float] | None = None
    weight: float = 0.0
    error: str | None = None
    line: int | None = None
    fault: Fault | None = None


def forms_of_answer(work: Work) -> tuple[ArrayForm, ...]:
    """Return the form of the arrays that come back from some work."""
    if work.kind != "train":
        return ()
    return tuple(
        form if form.dtype == "float32" else dataclasses.replace(form, dtype="float64")
        for form in work.arrays
    )


def byte_count(forms: Iterable[ArrayForm]) -> int:
    """Return how many bytes the values of some arrays take."""
    return sum(math.prod(form.shape) * (4 if form.dtype.endswith("32") else 8) for form in forms)


def read_arrays(forms: Iterable[ArrayForm], values: bytearray) -> list[NDArray[Any]]:
    """Return arrays that use the bytes that they came in."""
    import numpy as np  # noqa: PLC0415 - a worker imports it once it can reach it

    arrays, start = [], 0
    for form in forms:
        array = np.frombuffer(values, np.dtype(form.dtype), math.prod(form.shape), start)
        arrays.append(array.reshape(form.shape))
        start += array.nbytes
    return arrays


def as_bytes(forms: Sequence[ArrayForm], arrays: Sequence[NDArray[Any]]) -> list[memoryview]:
    """Return the values of arrays in the given form. `ValueError` where shapes differ."""
    import numpy as np  # noqa: PLC0415 - as above

    parts = []
    for form, array in zip(forms, arrays, strict=True):
        if array.shape != form.shape:
            raise ValueError(f"the array {form.name!r} has another shape than its form says")
        parts.append(np.ascontiguousarray(array, form.dtype).reshape(-1).view(np.uint8).data)
    return parts
