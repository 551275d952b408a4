"""Arrays as the bytes that follow a message, and as parts of a sum: times their weight, then added.

A site's vector is every element of its arrays times its weight, every metric times its weight, and
then the weight. So the sum divided by the summed weight is the mean that Flower computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from privnb.errors import QueryRefused, SiteFailure
from privnb.federated import ring
from privnb.federated.messages import ArrayForm, Form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Mean", "forms_of", "mean_of", "packed"]

_DTYPES = ("float64", "float32", "int64", "int32")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The weighted mean over all sites in a sum."""

    arrays: Mapping[str, NDArray[Any]]
    metrics: Mapping[str, float]
    weight: float
    """The sum of the weights: of ``num-examples``, say."""


def forms_of(arrays: Mapping[str, NDArray[Any]]) -> tuple[ArrayForm, ...]:
    """Say what arrays look like; raises `QueryRefused` for types that are not summed.

    >>> forms_of({"w": np.zeros((2, 3))})
    (ArrayForm(name='w', dtype='float64', shape=(2, 3)),)
    """
    forms = []
    for name, array in arrays.items():
        dtype = array.dtype.name
        if dtype not in _DTYPES:
            raise QueryRefused(
                f"Array {name!r} has type {dtype}.",
                hint=f"Train arrays of {', '.join(_DTYPES)}: others cannot be summed under masks.",
                code="E_OUTPUT",
            )
        kind = cast('Literal["float64", "float32", "int64", "int32"]', dtype)
        forms.append(ArrayForm(name=name, dtype=kind, shape=array.shape))
    return tuple(forms)


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return arrays as the bytes that follow their forms: little-endian, row by row."""
    return b"".join(
        np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        for array in arrays.values()
    )


def mean_of(total: NDArray[np.uint64], form: Form) -> Mean:
    """Return the weighted mean that a sum stands for.

    Arrays of float32 stay so, all others come as float64. Raises `SiteFailure` when all weights
    are nothing.
    """
    values = ring.decode(total)
    weight = float(values[-1])
    if not weight > 0:
        raise SiteFailure(
            "The weights of all sites add up to nothing.",
            hint="Let the app reply with how many examples it has, as num-examples.",
        )
    arrays, start = {}, 0
    for each in form.arrays:
        end = start + math.prod(each.shape)
        mean = (values[start:end] / weight).reshape(each.shape)
        arrays[each.name] = mean.astype(np.float32) if each.dtype == "float32" else mean
        start = end
    metrics = dict(zip(form.metrics, (values[start:-1] / weight).tolist(), strict=True))
    return Mean(arrays=arrays, metrics=metrics, weight=weight)
