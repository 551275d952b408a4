"""CPU of a private query over 10 million rows, beside the plain GROUP BY that it stands for.

The data are synthetic: seeded, made by DuckDB; 10 million rows of 1 million people, 500 groups from
two keys. Plain is DuckDB over the original Parquet; ours is what the planner writes, over the
site's bounded table, with the same number of threads. Rounds alternate, medians are compared.

Targets: COUNT and SUM at most 1.2 times plain; noise for the 500 groups under 50 ms more; with
bounds per unit at most 20 times plain; registration once, under 4 GB.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import duckdb

from privnb.dp import noise
from privnb.dp.planner import plan
from privnb.site.config import load_config
from privnb.site.data.tables import Tables

ROWS, PEOPLE, CITIES, KINDS = 10_000_000, 1_000_000, 25, 20
ROUNDS, SLOW_ROUNDS = 15, 3

UNIFORM = "(hash(i * 4 + {}) / 18446744073709551616.0)"  # the seed of hash() is fixed
DATA = f"""
COPY (
    SELECT CAST(floor({UNIFORM.format(0)} * {PEOPLE}) AS BIGINT) AS person,
           'city ' || CAST(floor({UNIFORM.format(1)} * {CITIES}) AS INTEGER) AS city,
           CAST(floor({UNIFORM.format(2)} * {KINDS}) AS INTEGER) AS kind,
           -60 * ln(1 - {UNIFORM.format(3)}) AS dollars
    FROM range({ROWS}) AS numbers(i)
) TO '{{path}}' (FORMAT parquet)
"""  # noqa: S608 - made of our own constants
SITE = f"""
name = "northside"
owner = "owner@northside.example"
exchange = "exchange"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 20
delta = 1e-8
total_epsilon = 10
purposes = ["benchmark"]
[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.city]
type = "string"
nullable = false
values = {[f"city {number}" for number in range(CITIES)]}
[tables.visits.columns.kind]
type = "integer"
nullable = false
values = {list(range(KINDS))}
[tables.visits.columns.dollars]
type = "float"
bounds = [0, 500]
# The same, with bounds on a person's sum in a group.
[tables.visits.columns.dollars_in_all]
from = "dollars"
type = "float"
bounds = [0, 500]
unit_bounds = [0, 600]
"""
QUESTION = "SELECT city, kind, COUNT(*) AS n, SUM({}) AS dollars FROM {} GROUP BY city, kind"


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def register(place: Path) -> None:
    """Bound the table in a process of its own, and say what that took."""
    began = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, __file__, str(place)], os.environ)
    _, status, used = os.wait4(child, 0)
    assert status == 0
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        f"registration: {time.perf_counter() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s"
        f" of CPU, peak {peak / 1e9:.2f} GB (target < 4 GB)"
    )


def open_tables(place: Path) -> Tables:
    return Tables.open(load_config(place), state=place / "state")


def medians(rounds: int, *ways) -> list[float]:
    """CPU seconds of each of some ways, taken in turns after one round to warm up."""
    spent = []
    for _ in range(rounds + 1):
        times = []
        for way in ways:
            began = cpu_seconds()
            way()
            times.append(cpu_seconds() - began)
        spent.append(times)
    return [statistics.median(times) for times in zip(*spent[1:], strict=True)]


def compare(tables: Tables, parquet: Path) -> None:
    threads = int(tables.rows("SELECT current_setting('threads')")[0][0])
    source = f"'{parquet}'"
    with duckdb.connect(config={"threads": threads}) as connection:

        def plain() -> list:
            return connection.execute(QUESTION.format("dollars", source)).fetchall()

        single, clamped = (
            plan(QUESTION.format(column, "visits"), tables=tables.schemas, epsilon=Decimal(1))
            for column in ("dollars", "dollars_in_all")
        )
        assert [any(v.clamp for v in p.vectors) for p in (single, clamped)] == [False, True]
        rows = tables.rows(single.sql)
        assert len(rows) == len(plain()) == CITIES * KINDS
        base, ours = medians(ROUNDS, plain, lambda: tables.rows(single.sql))
        two = medians(SLOW_ROUNDS, plain, lambda: tables.rows(clamped.sql))
    noise.warm_up()
    (added,) = medians(ROUNDS, lambda: single.release(rows))
    print(f"COUNT and SUM in {len(rows)} groups, {threads} threads: CPU, median of {ROUNDS} rounds")
    print(f"plain {1000 * base:.0f} ms, ours {1000 * ours:.0f} ms")
    print(f"ratio {ours / base:.2f} (target <= 1.2)")
    print(f"noise and answer: {1000 * added:.1f} ms more (target < 50 ms)")
    print(f"with bounds per person: plain {1000 * two[0]:.0f} ms, ours {1000 * two[1]:.0f} ms")
    print(f"ratio {two[1] / two[0]:.1f} (target <= 20)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        duckdb.sql(DATA.format(path=place / "visits.parquet"))
        (place / "site.toml").write_text(SITE)
        print(f"synthetic data: {ROWS:,} rows, {PEOPLE:,} people, {CITIES * KINDS} groups")
        register(place)
        with open_tables(place) as tables:
            compare(tables, place / "visits.parquet")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        open_tables(Path(sys.argv[1])).close()
    else:
        main()
