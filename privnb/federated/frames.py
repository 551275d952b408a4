"""Frames of what federated runs give: pandas is imported here, and so only when one is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from privnb.tabular import answer_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.federated.release import HistoryRow

__all__ = ["answer_frame", "history_frame"]


def history_frame(history: Sequence[HistoryRow]) -> pd.DataFrame:
    """Make the table of rounds: number, sites in the sum, seconds, every metric.

    >>> from privnb.federated.release import HistoryRow
    >>> row = HistoryRow(round=1, summed=("a", "b"), seconds=0.5, metrics={"train loss": 2.0})
    >>> history_frame([row]).to_dict("records")
    [{'round': 1, 'sites': 2, 'seconds': 0.5, 'train loss': 2.0}]
    """
    metrics = list(dict.fromkeys(name for row in history for name in row.metrics))
    weighted = any(row.weight is not None for row in history)
    rows = [
        {
            "round": row.round,
            "sites": len(row.summed),
            "seconds": row.seconds,
            **({"weight": row.weight} if weighted else {}),
            **{name: row.metrics.get(name) for name in metrics},
        }
        for row in history
    ]
    columns = ["round", "sites", "seconds", *(["weight"] if weighted else []), *metrics]
    return pd.DataFrame(rows, columns=columns)
