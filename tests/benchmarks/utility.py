"""Error of grouped counts, sums and averages beside OpenDP's Polars API and SmartNoise SQL.

Equal for all: data, privacy unit, rows per unit, bounds, epsilon and the delta that turns zCDP into
epsilon. No value is clamped and no row dropped, but where it says so, so the error is the noise
alone. The data are synthetic and seeded. Groups are public. Averages are cut to the bounds for all.

- ours, zCDP and pure: what `privnb.dp.planner` plans for a table of either accounting.
- OpenDP, zCDP: ``Context.compositor`` with an identifier, ``truncate_per_group`` and a loss in rho;
  noise on each count and sum once, averages from their quotient.
- OpenDP, pure: the same with a loss in epsilon, which takes Laplace noise.
- SmartNoise: Laplace noise, its default; it charges epsilon per column, so epsilon is split such
  that its own odometer stays within the same total. With many columns that odometer spends delta
  too, by advanced composition; such an answer is no longer pure and is compared with our zCDP.

The error is the root of the mean squared error over groups and releases, with its sampling error;
for counts and sums the noise's exact standard deviations are compared too. Target: the ratio
ours / theirs is never above 1 at equal accounting.

Pure losses add up plainly, zCDP adds up as squares do. So Laplace noise is smaller while few
counts and sums share one epsilon, about ten at most, and larger after that: the last question.
Which of the two a table has, its owner chooses.

OpenDP's part needs ``pip install 'privnb[bench]'``; SmartNoise's needs a Python of its own that has
smartnoise-sql, named by PRIVNB_SMARTNOISE_PYTHON or as the only argument.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from privnb.dp.accounting import accounting_of, rho_for
from privnb.dp.bounding import bounding_sql, fixed_point
from privnb.dp.plan import Plan
from privnb.dp.planner import plan
from privnb.dp.schema import Bounds, Column, TableSchema

PEOPLE, WAVES, PLANS = 10_000, 5, 100
EPSILON, DELTA = Decimal(1), 1e-6
UPPER = {"visits": 20, "dollars": 500}
RELEASES = {"ours": 100, "theirs": 10}
SMARTNOISE = "PRIVNB_SMARTNOISE_PYTHON"

SCHEMA = TableSchema(
    name="visits",
    columns=(
        Column(name="plan", type="integer", nullable=False, values=tuple(range(PLANS))),
        Column(name="wave", type="integer", nullable=False, values=tuple(range(WAVES))),
        *(
            Column(name=name, type="integer", nullable=False, bounds=Bounds(lower=0, upper=upper))
            for name, upper in UPPER.items()
        ),
    ),
    privacy_unit="person",
    max_rows_per_unit=WAVES,
    unique_keys=(("person", "wave"),),
    delta=2 * DELTA,  # half of it turns zCDP into epsilon; see privnb.dp.accounting
)
OURS = {
    "ours zCDP": SCHEMA,
    "ours pure": replace(SCHEMA, accounting="pure"),
}


@dataclass(frozen=True)
class Question:
    """Some aggregates by some keys, asked so many times under one budget."""

    keys: tuple[str, ...]
    aggregates: tuple[tuple[str, str], ...]
    questions: int = 1

    @property
    def title(self) -> str:
        asked = ", ".join(f"{kind}({column})" for kind, column in self.aggregates)
        many = f", {self.questions} questions share epsilon" if self.questions > 1 else ""
        return f"{asked} by {', '.join(self.keys)}{many}"

    def sql(self) -> str:
        asked = [f"{kind}({of}) AS a{place}" for place, (kind, of) in enumerate(self.aggregates)]
        keys = ", ".join(self.keys)
        return f"SELECT {keys}, {', '.join(asked)} FROM visits GROUP BY {keys}"  # noqa: S608


ALL = (("COUNT", "visits"), ("SUM", "visits"), ("AVG", "visits"))
QUESTIONS = (
    *(Question(("plan",), (aggregate,)) for aggregate in ALL),
    Question(("plan",), ALL),
    Question(("plan", "wave"), ALL[:2]),
    Question(("plan",), (("COUNT", "visits"), ("AVG", "visits"), ("SUM", "dollars"))),
    Question(("plan",), ALL[:2], questions=20),
)


@dataclass(frozen=True)
class Measured:
    """A root mean squared error and its own relative error."""

    rmse: float
    doubt: float


def make_data() -> pd.DataFrame:
    random, rows = np.random.default_rng(2026), PEOPLE * WAVES
    made = {"person": np.repeat(np.arange(PEOPLE), WAVES), "wave": np.tile(range(WAVES), PEOPLE)}
    made["plan"] = random.integers(0, PLANS, rows)
    made |= {name: random.binomial(upper, 0.2, rows) for name, upper in UPPER.items()}
    return pd.DataFrame(made)


def measure(question: Question, true: pd.DataFrame, runs: list[pd.DataFrame]) -> list[Measured]:
    """Compare releases, indexed by the keys, with the truth."""
    measured = []
    for place, (kind, column) in enumerate(question.aggregates):
        name = f"a{place}"
        noisy = np.array([run[name].reindex(true.index).to_numpy(dtype=float) for run in runs])
        if kind == "AVG":
            noisy = np.clip(noisy, 0, UPPER[column])
        errors = (noisy - true[name].to_numpy()) ** 2
        assert np.isfinite(errors).all()
        mean = float(errors.mean())
        doubt = float(errors.std()) / math.sqrt(errors.size) / mean / 2
        measured.append(Measured(math.sqrt(mean), doubt))
    return measured


def frame(question: Question, rows: list) -> pd.DataFrame:
    names = [f"a{place}" for place in range(len(question.aggregates))]
    return pd.DataFrame(rows, columns=[*question.keys, *names]).set_index(list(question.keys))


def ours(
    connection: duckdb.DuckDBPyConnection, question: Question, schema: TableSchema
) -> tuple[list, list]:
    """Return releases, and for each aggregate the standard deviation of its noise."""
    epsilon = EPSILON
    if question.questions > 1:
        epsilon = share_of_epsilon(question.questions, schema)
    planned = plan(question.sql(), tables={"visits": schema}, epsilon=epsilon)
    rows = connection.execute(planned.sql).fetchall()
    runs = [planned.release(rows) for _ in range(RELEASES["ours"])]
    deviations = [deviation(planned, kind, column) for kind, column in question.aggregates]
    return [frame(question, run.rows) for run in runs], deviations


def deviation(planned: Plan, kind: str, column: str) -> float | None:
    """Return the exact standard deviation of the noise on a count or sum."""
    per_scale = deviation_of_scale(pure=planned.schema.accounting == "pure")
    deviations = {vector: per_scale * scale for vector, scale in planned.scales.items()}
    count = next((d for vector, d in deviations.items() if vector.kind == "count"), 0.0)
    if kind == "COUNT":
        return count
    if kind == "AVG":
        return None
    (vector,) = (v for v in planned.vectors if v.column and v.column.name == column)
    # A sum centred at c is the noisy sum of distances to c plus c times the noisy count.
    steps = math.hypot(deviations[vector], vector.centre * count)
    return steps / fixed_point(vector.column).scale


def deviation_of_scale(*, pure: bool) -> float:
    """Return the standard deviation of Laplace or Gaussian noise of scale 1."""
    return math.sqrt(2) if pure else 1.0


def share_of_epsilon(questions: int, schema: TableSchema) -> Decimal:
    """Find the epsilon that the ledger lets an analyst ask so many times."""
    accounting, grain = accounting_of(schema), Decimal("1e-7")
    low, high = 0, int(EPSILON / grain) + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = questions * accounting.cap(middle * grain) <= accounting.cap(EPSILON)
        low, high = (middle, high) if fits else (low, middle)
    return low * grain


def opendp(data: pd.DataFrame, question: Question, *, pure: bool) -> tuple[list, dict]:
    """Return releases, and the standard deviation of the noise on each count and sum."""
    import opendp.prelude as dp
    import polars as pl

    # All releases share one compositor, whose large total it would warn of.
    logging.getLogger("opendp").setLevel(logging.ERROR)
    keys, releases = list(question.keys), RELEASES["theirs"]
    total = float(EPSILON) if pure else rho_for(EPSILON, DELTA)
    spent = total / question.questions * releases
    public = pl.DataFrame(
        pd.MultiIndex.from_product(
            [range(PLANS if key == "plan" else WAVES) for key in keys], names=keys
        )
        .to_frame(index=False)
        .astype("int64")
    )
    context = dp.Context.compositor(
        data=pl.LazyFrame(data),
        privacy_unit=dp.unit_of(contributions=1, identifier=pl.col("person")),
        privacy_loss=dp.loss_of(epsilon=spent) if pure else dp.loss_of(rho=spent),
        split_evenly_over=releases,
        margins=[dp.polars.Margin(by=keys, max_groups=len(public), max_length=len(data))],
    )
    rows = context.query()
    if "wave" in keys:
        rows = rows.truncate_per_group(1, by=keys).truncate_num_groups(WAVES, by=keys, keep="first")
    else:
        rows = rows.truncate_per_group(WAVES)
    noised = {"len" if kind == "COUNT" else column for kind, column in question.aggregates}
    noised |= {"len" for kind, _ in question.aggregates if kind == "AVG"}
    asked = [
        dp.len(signed=True) if name == "len" else pl.col(name).dp.sum((0, UPPER[name]))
        for name in sorted(noised)
    ]
    query = rows.group_by(keys).agg(*asked).with_keys(public.lazy())
    noise = query.summarize()
    deviations = (scale * deviation_of_scale(pure=pure) for scale in noise["scale"])
    deviations = dict(zip(sorted(noised), deviations, strict=True))
    found = []
    for _ in range(releases):
        run = query.release().collect().to_pandas().set_index(keys)
        for place, (kind, column) in enumerate(question.aggregates):
            run[f"a{place}"] = run["len" if kind == "COUNT" else column]
            if kind == "AVG":
                run[f"a{place}"] = run[column] / run["len"].clip(lower=1)
        found.append(run)
    return found, deviations


def smartnoise(python: str, data: pd.DataFrame) -> list[tuple[list[pd.DataFrame], bool]]:
    """Return for each question releases, and whether their epsilons add up plainly."""
    bounds = {name: {"type": "int", "lower": 0, "upper": upper} for name, upper in UPPER.items()}
    table = {
        "row_privacy": False,
        "max_ids": WAVES,
        "censor_dims": False,  # groups are public
        "clamp_counts": False,
        "rows": len(data),
        "person": {"type": "int", "private_id": True},
        "plan": {"type": "int"},
        "wave": {"type": "int"},
        **bounds,
    }
    common = {"table": table, "epsilon": float(EPSILON), "delta": DELTA}
    common["releases"] = RELEASES["theirs"]
    with tempfile.TemporaryDirectory() as place:
        csv = Path(place) / "visits.csv"
        data.to_csv(csv, index=False)
        asked = [common | {"sql": q.sql(), "questions": q.questions} for q in QUESTIONS]
        done = subprocess.run(
            [python, Path(__file__).with_name("_smartnoise.py")],
            input=json.dumps({"csv": str(csv), "questions": asked}),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"SmartNoise failed:\n{done.stderr[-2000:]}")
    answers = json.loads(done.stdout)
    return [
        (
            [frame(question, run) for run in answer["runs"]],
            answer["columns"] * question.questions * answer["epsilon_per_column"]
            <= float(EPSILON) * (1 + 1e-9),
        )
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ]


@dataclass(frozen=True)
class Rival:
    """What another library released, and by which of our accountings it is to be judged."""

    name: str
    against: str
    runs: list[pd.DataFrame]
    deviations: dict[str, float]


def report(
    question: Question,
    measured: dict[str, list[Measured]],
    rivals: list[Rival],
    deviations: dict[str, list[float | None]],
) -> None:
    print(f"\n{question.title}")
    for place, (kind, column) in enumerate(question.aggregates):
        own = ", ".join(f"{name} {measured[name][place].rmse:.4g}" for name in OURS)
        print(f"  {kind}({column}): {own}")
        for rival in rivals:
            mine, theirs = measured[rival.against][place], measured[rival.name][place]
            ratio = mine.rmse / theirs.rmse
            doubt = ratio * math.hypot(mine.doubt, theirs.doubt)
            exact = deviations[rival.against][place]
            of_theirs = rival.deviations.get("len" if kind == "COUNT" else column)
            known = ""
            if exact is not None and of_theirs is not None:
                known = f"; of the noise's standard deviations, exactly {exact / of_theirs:.4f}"
            print(
                f"    {rival.against} / {rival.name:12}{theirs.rmse:9.4g}, ratio {ratio:.2f}"
                f" ± {doubt:.2f}{known}"
            )


def main() -> None:
    python = sys.argv[1] if len(sys.argv) > 1 else os.environ.get(SMARTNOISE)
    data = make_data()
    print(
        f"synthetic data: {len(data):,} rows, {PEOPLE:,} people with {WAVES} rows each, {PLANS}"
        f" plans; epsilon {EPSILON}, delta {DELTA:g}; bounds {UPPER}"
    )
    whole = math.sqrt(rho_for(EPSILON, 2 * DELTA) / rho_for(EPSILON, DELTA))
    print(
        "We keep half of a table's delta for groups that are not public; with all of it for the"
        f" conversion to epsilon the noise would be {whole:.3f} times smaller."
    )
    connection = duckdb.connect()
    connection.register("visits_source", data)
    bounded = bounding_sql(SCHEMA, source="visits_source")
    connection.execute(f"CREATE TABLE visits AS {bounded}", {"key": "0" * 64})
    answers = None
    if python:
        answers = smartnoise(python, data)
    else:
        print(f"SmartNoise: not installed, skipped (name a Python that has it in {SMARTNOISE})")
    polars = importlib.util.find_spec("polars") is not None
    if not polars:
        print("OpenDP's Polars API: not installed, skipped (pip install 'privnb[bench]')")
    for place, question in enumerate(QUESTIONS):
        exact = question.sql().replace("FROM visits", "FROM visits_source")
        true = frame(question, connection.execute(exact).fetchall())
        runs, deviations, rivals = {}, {}, []
        for name, schema in OURS.items():
            runs[name], deviations[name] = ours(connection, question, schema)
        if polars:
            for name, pure in (("zCDP", False), ("pure", True)):
                theirs, scales = opendp(data, question, pure=pure)
                rivals.append(Rival(f"OpenDP {name}", f"ours {name}", theirs, scales))
        if answers is not None:
            theirs, pure = answers[place]
            rivals.append(Rival("SmartNoise", "ours pure" if pure else "ours zCDP", theirs, {}))
        runs |= {rival.name: rival.runs for rival in rivals}
        measured = {name: measure(question, true, found) for name, found in runs.items()}
        report(question, measured, rivals, deviations)
        if polars and "wave" in question.keys:
            print(
                "    OpenDP's part has a bias too: its rank filter keeps one group fewer per person"
                f" than truncate_num_groups({WAVES}) is charged for, so compare the deviations"
            )


if __name__ == "__main__":
    main()
