"""What may be wrong with the app of a training, or with what it replies: a fixed list."""

from __future__ import annotations

from typing import Literal

__all__ = ["OF_THE_CODE", "Fault", "Faulty"]

Fault = Literal[
    "no app", "no train", "no evaluate", "reply", "arrays", "metrics", "weight", "not finite"
]
"""``no app``: the code leaves no Flower ``ClientApp`` in the variable ``app``; ``no train``, ``no
evaluate``: the app has no such function. The source alone tells these three.

``reply``: what the app returns is no message with one ``ArrayRecord`` (to train) and one
``MetricRecord``; ``arrays``: they have other names, shapes or types than those that were sent;
``metrics``: not plain numbers, or under a name that is no word of the source; ``weight``: it is
missing, or not positive; ``not finite``: an array, a metric or the weight is NaN or infinite.
"""

OF_THE_CODE: frozenset[Fault] = frozenset({"no app", "no train", "no evaluate"})
"""Faults of the code itself; all others are of what it replies."""


class Faulty(Exception):
    """Raised inside a worker for one of the faults."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault
