"""Answer questions with SmartNoise SQL; runs in a Python that has it, not in ours.

Reads from standard input what to ask; prints the noisy answers, and what it did, as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings

import pandas as pd
from snsql import Mechanism, Privacy, Stat, from_connection
from snsql.sql.odometer import OdometerHeterogeneous

STEPS = 40


def epsilon_per_column(columns: int, *, epsilon: float, delta: float) -> float:
    """Find the largest epsilon per column at which its own odometer stays within the total."""

    def total(each: float) -> float:
        odometer = OdometerHeterogeneous(Privacy(epsilon=each, delta=delta))
        for _ in range(columns):
            odometer.spend(Privacy(epsilon=each, delta=0.0))
        return float(odometer.spent[0])

    low, high = epsilon / columns * 0.999, epsilon
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) <= epsilon else (low, middle)
    return low


def answers(data: pd.DataFrame, asked: dict) -> dict:
    metadata = {"": {"": {"visits": asked["table"]}}}
    probe = from_connection(data, privacy=Privacy(epsilon=1.0, delta=1e-9), metadata=metadata)
    charged = sum(cost is not None for cost in probe._get_mechanism_costs(asked["sql"]))
    each = epsilon_per_column(
        charged * asked["questions"], epsilon=asked["epsilon"], delta=asked["delta"]
    )
    privacy = Privacy(epsilon=each, delta=asked["delta"])
    for kind in (Stat.count, Stat.sum_int, Stat.sum_large_int):
        privacy.mechanisms.map[kind] = Mechanism.discrete_laplace
    reader = from_connection(data, privacy=privacy, metadata=metadata)
    runs = [
        [
            [None if pd.isna(x) else float(x) for x in row]
            for row in reader.execute(asked["sql"])[1:]
        ]
        for _ in range(asked["releases"])
    ]
    return {"runs": runs, "columns": charged, "epsilon_per_column": each}


def main() -> None:
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    data = pd.read_csv(asked["csv"])
    json.dump([answers(data, question) for question in asked["questions"]], sys.stdout)


if __name__ == "__main__":
    main()
