"""An analyst's Flower app at a site, one step after the other; imported only inside a worker."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.federated.faults import Fault, Faulty
from privnb.federated.flower import (
    SITE,
    Array,
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
    has_function,
    instruction,
)
from privnb.federated.messages import ArrayForm, Work

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from privnb.computation import Parameters

__all__ = ["Client", "Replied", "rehearse"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replied:
    """What an app said, as far as an average needs it; numbers are finite.

    Attributes
    ----------
    arrays
        To train: in the order of the work's arrays, by their names and in their shapes.
    metrics
        Without the weight.
    """

    arrays: list[NDArray[Any]]
    metrics: dict[str, float]
    weight: float


class Client:
    """An app with its context, which it keeps from step to step.

    Raises `Faulty` where the code left something else than a ``ClientApp``.
    """

    def __init__(
        self, app: object, *, tables: Mapping[str, pd.DataFrame], parameters: Parameters
    ) -> None:
        if not isinstance(app, ClientApp):
            raise Faulty("no app")
        self._app = app
        self._context = Context(
            run_id=1,
            node_id=SITE,
            node_config={"tables": dict(tables)},  # type: ignore[dict-item]
            state=RecordDict(),
            run_config=dict(parameters),  # type: ignore[arg-type]
        )

    def step(self, work: Work, arrays: Sequence[NDArray[Any]]) -> Replied:
        """Let the app train or evaluate; raises `Faulty`, and whatever the app raises."""
        if len({form.name for form in work.arrays}) < len(work.arrays):
            raise Faulty("arrays")
        if work.kind not in {"train", "evaluate"} or not has_function(self._app, work.kind):
            raise Faulty("no train" if work.kind == "train" else "no evaluate")
        named = zip(work.arrays, arrays, strict=True)
        content = RecordDict(
            {
                "arrays": ArrayRecord({form.name: Array(array) for form, array in named}),
                "config": ConfigRecord(work.config or {}),  # type: ignore[arg-type]
            }
        )
        message = instruction(content, kind=work.kind, group=str(work.round))
        return _read(self._app(message, self._context), work)


def rehearse() -> None:
    """Use each part once, so that nothing is loaded once it can no longer be read."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
        context.state["seen"] = MetricRecord({"rows": len(arrays)})
        content = RecordDict({"a": ArrayRecord(arrays), "m": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    form = ArrayForm(name="0", dtype="float64", shape=(2,))
    Client(app, tables={}, parameters={}).step(
        Work(kind="train", round=1, arrays=(form,)), [np.zeros(2)]
    )


def _read(reply: object, work: Work) -> Replied:
    if not (isinstance(reply, Message) and reply.has_content()):
        raise Faulty("reply")
    content = reply.content
    numbers = dict(_only(content.metric_records, "metrics"))
    if work.weighted_by not in numbers:
        raise Faulty("weight")
    weight = _number(numbers.pop(work.weighted_by), "weight")
    metrics = {name: _number(value, "metrics") for name, value in numbers.items()}
    arrays = _arrays(_only(content.array_records, "arrays"), work) if work.kind == "train" else []
    finite = all(map(math.isfinite, (weight, *metrics.values())))
    if not finite or not all(np.isfinite(array).all() for array in arrays):
        raise Faulty("not finite")
    if weight <= 0:
        raise Faulty("weight")
    return Replied(arrays=arrays, metrics=metrics, weight=weight)


def _only(records: Mapping[str, Any], usual: str) -> Any:
    """Return the record of the usual name, else the only one."""
    if usual in records:
        return records[usual]
    if len(records) != 1:
        raise Faulty("reply")
    return next(iter(records.values()))


def _number(value: object, fault: Fault) -> float:
    if not isinstance(value, int | float):
        raise Faulty(fault)
    try:
        return float(value)
    except OverflowError:
        raise Faulty("not finite") from None


def _arrays(record: ArrayRecord, work: Work) -> list[NDArray[Any]]:
    if set(record) != {form.name for form in work.arrays}:
        raise Faulty("arrays")
    arrays = []
    for form in work.arrays:
        array = record[form.name].numpy()
        if array.shape != form.shape or array.dtype.kind not in "fiu":
            raise Faulty("arrays")
        arrays.append(array)
    return arrays
