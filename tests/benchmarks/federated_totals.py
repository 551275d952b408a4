"""Error of totals over three sites: noise shared between them beside asking each site alone.

The data are the demo's, real: person-years of the RAND Health Insurance Experiment at three sites,
with the demo's own schemas. Equal for both: data, bounds, clamps, epsilon, and so what each site's
ledger is charged. Asked alone, each site adds all the noise that its price needs, and the answers
are added up; an average is the sum of sums over the sum of counts. With shared noise each site adds
``1 / pieces`` of that variance, so a total of ``sites`` has ``sites / pieces`` of it.

The error is the root of the mean squared error over groups and releases, against the exact answer
from the bounded tables, with its sampling error; clamping, which both have alike, is in neither.
Target: counts and sums have ``sqrt(1 / pieces)`` of the error, 0.71 where two are enough; averages,
which are no straight line in the noise, about that.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from privnb.computation import Federation
from privnb.demo.data import build_demo
from privnb.dp.groups import columns_named, united
from privnb.dp.plan import Plan
from privnb.dp.planner import plan
from privnb.dp.schema import TableSchema
from privnb.dp.sharing import difference
from privnb.site.config import load_config
from privnb.site.data.tables import Tables

EPSILON = Decimal(1)
RELEASES = 400
QUESTIONS = (
    "SELECT plan_type, COUNT(*) AS n, AVG(mdvis) AS visits FROM visits GROUP BY plan_type",
    "SELECT COUNT(*) AS n, SUM(mdvis) AS visits, SUM(meddol) AS dollars FROM visits",
    "SELECT age_group, sex, COUNT(*) AS n, SUM(totadm) AS stays FROM visits GROUP BY 1, 2",
    "SELECT city, COUNT(*) AS n, AVG(mdvis) AS visits FROM visits GROUP BY city",
)
Slots = tuple[int, ...]


@dataclass(frozen=True)
class Measured:
    """A root mean squared error and its own relative error."""

    rmse: float
    doubt: float


@contextmanager
def demo() -> Iterator[Mapping[str, Tables]]:
    """Open the demo's three sites, made afresh."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as opened:
        home = Path(place)
        sites = {}
        for folder in build_demo(home, str(home / "exchange")):
            config = load_config(folder)
            sites[config.name] = Tables.open(config, state=folder / "state")
            opened.callback(sites[config.name].close)
        yield sites


def plans_of(sql: str, schemas: Mapping[str, TableSchema], *, threshold: int) -> Mapping[str, Plan]:
    """Plan a question as each site does."""
    federation = Federation(
        sites=tuple(schemas), threshold=threshold, groups=united(schemas, columns_named(sql))
    )
    plans = {
        name: plan(sql, tables={"visits": schema}, epsilon=EPSILON, federation=federation)
        for name, schema in schemas.items()
    }
    apart = difference(plans)
    if apart is not None:
        raise SystemExit(apart)
    return plans


def values(answer: object) -> np.ndarray:
    """Return the aggregates of an answer, without its keys."""
    kept = [n for n, column in enumerate(answer.columns) if column.role == "aggregate"]
    return np.array([[row[n] for n in kept] for row in answer.rows], dtype=float)


def exact(first: Plan, found: Mapping[str, Sequence[Sequence[object]]]) -> np.ndarray:
    """Compute the answer from the exact sums: the plan's own way from integers to answers."""
    parts = (flat(first, rows) for rows in found.values())
    total = [sum(integers) for integers in zip(*parts, strict=True)]
    return values(first.combine(total, parts=1, pieces=1))


def flat(first: Plan, rows: Sequence[Sequence[object]]) -> list[int]:
    """Return a site's exact integers in the order of a share."""
    by_group = first._exact(rows)
    nothing: Slots = (0,) * sum(vector.width for vector in first.vectors)
    table = [by_group.get(key, nothing) for key in first.groups or ()]
    return [slot for vector in first.vectors for slot in first._flat(table, vector)]


def totals(
    plans: Mapping[str, Plan], found: Mapping[str, Sequence[Sequence[object]]], *, pieces: int
) -> np.ndarray:
    """Return the answers from summed shares; one piece is what each site adds when asked alone."""
    first = next(iter(plans.values()))
    runs = []
    for _ in range(RELEASES):
        shares = [query.share(found[name], pieces=pieces) for name, query in plans.items()]
        total = [sum(integers) for integers in zip(*shares, strict=True)]
        runs.append(values(first.combine(total, parts=len(plans), pieces=pieces)))
    return np.array(runs)


def measure(runs: np.ndarray, true: np.ndarray) -> list[Measured]:
    """Compare releases with the truth, aggregate by aggregate."""
    measured = []
    for place in range(true.shape[1]):
        errors = (runs[:, :, place] - true[:, place]) ** 2
        mean = float(errors.mean())
        doubt = float(errors.std()) / math.sqrt(errors.size) / mean / 2
        measured.append(Measured(math.sqrt(mean), doubt))
    return measured


def report(sql: str, tables: Mapping[str, Tables]) -> None:
    schemas = {name: table.schemas["visits"] for name, table in tables.items()}
    print(f"\n{sql}")
    for threshold in (2, 3):
        plans = plans_of(sql, schemas, threshold=threshold)
        first = next(iter(plans.values()))
        found = {name: tables[name].rows(query.sql) for name, query in plans.items()}
        true = exact(first, found)
        shared = measure(totals(plans, found, pieces=threshold), true)
        alone = measure(totals(plans, found, pieces=1), true)
        names = [output.name for output in first.outputs][-true.shape[1] :]
        print(f"  any {threshold} of {len(plans)} sites' noise is enough:")
        for name, mine, theirs in zip(names, shared, alone, strict=True):
            ratio = mine.rmse / theirs.rmse
            doubt = ratio * math.hypot(mine.doubt, theirs.doubt)
            print(
                f"    {name:7} shared {mine.rmse:10.4g}, each site alone {theirs.rmse:10.4g}, ratio"
                f" {ratio:.2f} ± {doubt:.2f}; target {math.sqrt(1 / threshold):.2f}"
            )


def main() -> None:
    print(
        f"epsilon {EPSILON} at each site; {RELEASES} releases; root mean squared error of the total"
    )
    with demo() as tables:
        for sql in QUESTIONS:
            report(sql, tables)


if __name__ == "__main__":
    main()
