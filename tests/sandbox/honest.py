"""What honest cells do, all in one cell; this text runs inside a sandbox, with ``visits`` given.

Each function returns its result and what it should be.
"""

# ruff: noqa: B028, BLE001, E401, E402, F401, F821, I001, ICN001, LOG015, PTH102, PTH104, PTH106, PTH107, PTH110, PTH123, S301, T201 - a cell as people write them


def honest_mean_by_group():
    return visits.groupby("ward").cost.mean()["east"], 8.875


def honest_merge_and_sort():
    oldest = visits.merge(visits.groupby("ward", as_index=False).age.max(), on="ward")
    return oldest.sort_values("age_x").head(1).age_y.iloc[0], 62


def honest_linear_algebra():
    import numpy as np

    return np.linalg.lstsq(np.eye(2), [1.0, 2.0])[0][1], 2.0


def honest_random_numbers():
    import numpy as np

    return np.random.default_rng(7).integers(10, size=5).max() < 10, True


def honest_text():
    return visits.ward.str.upper().iloc[0], "EAST"


def honest_time_zones():
    import pandas as pd

    return pd.Timestamp("2024-07-01", tz="UTC").tz_convert("Europe/Paris").hour, 2


def honest_threads():
    from concurrent.futures import ThreadPoolExecutor

    return sum(ThreadPoolExecutor(4).map(int, visits.age)), 221


def honest_query():
    return visits.query("age > 40 and ward == 'east'").shape[0], 1


def honest_change_of_the_input():
    visits.copy().loc[0, "age"] = 1
    visits.loc[0, "cost"] = 10.5
    return visits.cost.iloc[0], 10.5


def honest_late_import():
    import csv, difflib, statistics, xml.dom.minidom

    return statistics.mean(visits.age), 44.2


def honest_file_in_scratch():
    import os
    import pandas as pd

    path = os.environ["TMPDIR"] + "/visits.csv"
    visits.to_csv(path)
    return pd.read_csv(path).shape[0], 5


def honest_temporary_file():
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.write(b"abc")
        return file.tell(), 3


def honest_renaming_and_removing_files():
    import os

    folder = os.environ["TMPDIR"]
    os.mkdir(folder + "/d")
    open(folder + "/d/a", "w").close()
    os.rename(folder + "/d/a", folder + "/d/b")
    os.remove(folder + "/d/b")
    os.rmdir(folder + "/d")
    return os.path.exists(folder + "/d"), False


def honest_dataclass_and_pickle():
    import dataclasses, pickle

    point = dataclasses.make_dataclass("Point", ["x"])
    globals()["Point"] = point
    point.__module__ = "__main__"
    return pickle.loads(pickle.dumps(point(2))).x, 2


def honest_warning_and_printing():
    import logging, sys, warnings

    warnings.warn("old", DeprecationWarning)
    logging.warning("odd")
    print(visits, file=sys.stderr)
    print(visits)
    return 1, 1


def honest_sleep():
    import time

    time.sleep(0.01)
    return 1, 1


import pandas

results = {}
for name, work in list(globals().items()):
    if name.startswith("honest_"):
        try:
            result, expected = work()
            results[name] = "works" if result == expected else f"gives {result}"
        except Exception as problem:
            results[name] = type(problem).__name__
pandas.Series(results)
