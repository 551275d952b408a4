"""The pool: one worker for each cell, many cells at once, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sandboxes import LIMITS, PACKAGES, cell, descendants, open_sandbox, why_not

from privnb.errors import ConfigError, StateError
from privnb.site.sandbox import Failed, Finished, Sandbox, SandboxLimits
from privnb.site.sandbox import sandbox as sandbox_module
from privnb.site.sandbox.scratch import Scratch
from privnb.site.sandbox.selftest import attack_ourselves

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a sandbox on Linux only"),
    pytest.mark.xdist_group("sandbox pool"),
]
HOSTILE = (
    "import os\nos._exit(0)",
    "import ctypes\nctypes.string_at(0)",
    "raise SystemExit",
    "import os\nfor fd in range(3, 64):\n  try: os.write(fd, b'{}')\n  except OSError: pass\n1",
    "import numpy as np\nnp.ones(1 << 30)",
    "'x' * 10_000_000",
    "import os\nos.closerange(3, 64)",
    "import os\nos.kill(os.getppid(), 9)",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n1",
    "object()",
)
MODELS = """
import matplotlib.pyplot as plt
import statsmodels.api as sm
from sklearn.linear_model import LinearRegression
x = sm.add_constant(visits[["cost"]])
model = sm.GLM(visits.age, x, missing="drop", family=sm.families.Poisson()).fit()
table = model.summary2().tables[1]
assert list(table.index) == ["const", "cost"]
learned = LinearRegression().fit(visits[["age"]], visits.age)
assert abs(learned.coef_[0] - 1) < 1e-9
plt.plot(table["Coef."])
plt.title("two")
"""


@pytest.fixture(scope="module")
def sandbox():
    kind = "plain" if why_not("bubblewrap") else "bubblewrap"
    opened = open_sandbox(kind, workers=2)
    yield opened
    opened.close()


def children():
    """Processes of ours, those that ended and were not collected among them."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if process.name.isdigit() and int(fields[1]) == os.getpid():
            found[int(process.name)] = fields[0]
    return found


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def rests(sandbox):
    """Wait until nothing is being started."""
    while len(sandbox._pool._waiting) < sandbox._pool._wanted:
        time.sleep(0.05)
    time.sleep(0.05)


def test_hostile_cells_in_a_row_leave_nothing_behind(sandbox):
    rests(sandbox)
    descriptors, threads = open_descriptors(), threading.active_count()
    processes = len(children())
    reasons = set()
    for source in HOSTILE:  # tests/site sends a hundred through an agent
        ended = sandbox.run(cell(source))
        reasons.add("fine" if isinstance(ended, Finished) else ended.reason)
    assert reasons == {"killed", "error", "memory", "size", "output", "fine"}
    rests(sandbox)
    assert open_descriptors() == descriptors
    assert threading.active_count() == threads
    assert len(children()) == processes
    assert "Z" not in children().values()
    assert isinstance(sandbox.run(cell("1")), Finished)


def test_cells_run_at_once_and_know_nothing_of_each_other(sandbox):
    source = (
        "import os, time\nmark = os.environ['TMPDIR'] + '/mark'\nseen = os.path.exists(mark)\n"
        "open(mark, 'w').close()\nglobals().setdefault('n', number)\ntime.sleep(0.2)\n"
        "n * 10 + seen"
    )
    with ThreadPoolExecutor(4) as threads:
        asked = [cell(source, parameters={"number": number}) for number in range(4)]
        values = [ended.output.value() for ended in threads.map(sandbox.run, asked)]
    assert values == [0, 10, 20, 30]


def test_a_worker_that_ended_while_it_waited_is_replaced(sandbox):
    rests(sandbox)
    sandbox._pool._waiting[0].interrupt()
    assert isinstance(sandbox.run(cell("1")), Finished)


def test_tables_arrive_as_ordinary_frames(sandbox):
    table = pa.table(
        {
            "n": pa.array([1, 2, None], pa.int64()),
            "s": ["a", None, "c"],
            "d": pa.array([0, 1, 2], pa.date32()),
            "t": pa.array([0, 1, None], pa.timestamp("us")),
            "b": [True, False, True],
            "m": pa.array(["1.50", "2.25", None]).cast(pa.decimal128(10, 2)),
        }
    )
    ended = sandbox.run(cell("rows.dtypes.astype(str)", tables={"rows": table}))
    types = ended.output.value().to_dict()
    assert types.pop("s") in {"object", "str"}
    assert types.pop("d").startswith("datetime64")
    assert types.pop("t").startswith("datetime64")
    assert types == {"n": "float64", "b": "bool", "m": "float64"}
    changed = sandbox.run(
        cell("rows.loc[0, 'b'] = False\nint(rows.b.sum())", tables={"rows": table})
    )
    assert changed.output.value() == 1
    one = pa.table({"y": [1.0, 2.0]})
    assert (
        sandbox.run(cell("rows.loc[0, 'y'] = 9\nrows.y.sum()", tables={"rows": one})).output.value()
        == 11
    )
    empty = sandbox.run(cell("len(rows)", tables={"rows": table.slice(0, 0)}))
    assert empty.output.value() == 0


def test_parameters_are_bound_and_nothing_else_is(sandbox):
    parameters = {"threshold": 40, "wards": ["east"], "nothing": None}
    source = "visits[(visits.age > threshold) & visits.ward.isin(wards)].shape[0]"
    assert sandbox.run(cell(source, parameters=parameters)).output.value() == 1
    unknown = sandbox.run(cell("pd.DataFrame()"))
    assert (unknown.reason, unknown.error, unknown.line) == ("error", "NameError", 1)


def test_a_named_output_is_declared_instead_of_the_last_expression(sandbox):
    assert sandbox.run(cell("x = 1\ny = 2\n3", output="x")).output.value() == 1
    missing = sandbox.run(cell("x = 1", output="z"))
    assert (missing.reason, missing.error) == ("error", "NameError")


def test_an_error_names_the_line_of_the_cell(sandbox):
    ended = sandbox.run(cell("def f(x):\n    return 1 / x\n\nf(0)"))
    assert (ended.error, ended.line) == ("ZeroDivisionError", 2)
    ended = sandbox.run(cell("x = 1\nx ="))
    assert (ended.error, ended.line) == ("SyntaxError", 2)


def test_an_output_that_cannot_leave_is_named_by_type(sandbox):
    assert sandbox.run(cell("visits.groupby('ward')")).output_type == "DataFrameGroupBy"
    assert sandbox.run(cell("[visits]")).output_type == "list"
    assert sandbox.run(cell("x = visits")).output_type == "NoneType"
    assert sandbox.run(cell("class Secret34: pass\nSecret34()")).output_type == "another type"


def test_an_output_that_is_too_wide_is_told_from_a_worker_that_died(sandbox):
    wide = sandbox.run(cell("import numpy as np\nnp.zeros((0, 20_000))"))
    assert wide == Failed(reason="size")


def test_a_frame_goes_in_and_comes_back(sandbox):
    ended = sandbox.run(cell("visits.groupby('ward').agg({'age': ['mean', 'max']})"))
    expected = pd.DataFrame(
        {"age_mean": [125 / 3, 48.0], "age_max": [62, 51]},
        index=pd.Index(["east", "west"], dtype=object),
    )
    pd.testing.assert_frame_equal(ended.output.value(), expected, check_names=False)
    assert ended.seconds > 0


def test_large_tables_are_shared_and_not_sent(sandbox):
    rows = pa.table({"y": np.ones(1_000_000)})
    assert sandbox.run(cell("rows.y.sum()", tables={"rows": rows})).output.value() == 1e6


def test_a_closed_pool_runs_nothing():
    opened = open_sandbox("plain")
    opened.close()
    assert opened.run(cell("1")) == Failed(reason="lock")
    opened.close()


def test_closing_ends_a_cell_that_runs():
    opened = Sandbox.open(
        packages=PACKAGES,
        limits=SandboxLimits(wall_seconds=600, cpu_seconds=600),
        workers=1,
        _bubblewrap=False,
    )
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(opened.run, cell("import time\ntime.sleep(600)"))
        while not opened._pool._running:
            time.sleep(0.01)
        time.sleep(0.2)
        opened.close()
        assert running.result(timeout=60).reason in {"killed", "lock"}


@pytest.mark.parametrize("bubblewrap", [True, False])
def test_workers_end_with_an_agent_that_is_killed(bubblewrap, tmp_path):
    if bubblewrap and why_not("bubblewrap"):
        pytest.skip("bubblewrap does not work here")
    settings = {"bubblewrap": bubblewrap, "workers": 1, "scratch": str(tmp_path), **vars(LIMITS)}
    agent = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("agent_child.py"), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        assert "level" in json.loads(agent.stdout.readline())
        source = "open(__import__('os').environ['TMPDIR'] + '/row', 'w').close()\nwhile True: pass"
        asked = {"source": source, "output": None, "parameters": {}, "visits": True}
        agent.stdin.write(json.dumps(asked) + "\n")
        agent.stdin.flush()
        while not (workers := descendants(agent.pid)) or (not bubblewrap and not written(tmp_path)):
            time.sleep(0.05)
        agent.kill()
    while any(Path(f"/proc/{pid}/stat").exists() for pid in workers):
        time.sleep(0.05)
    Scratch.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_persons_folder_is_not_swept_away(tmp_path):
    mine, live = tmp_path / "privnb-scratch-old", Scratch(tmp_path, user=None)
    mine.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "privnb-scratch-link").symlink_to(tmp_path / "other")
    Scratch.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "other",
        "privnb-scratch-link",
        live.path.name,
    }
    live.remove()
    assert not live.path.exists()


def written(folder):
    return list(folder.glob("privnb-scratch-*/row"))


def test_a_package_that_is_not_installed_stops_the_start():
    with pytest.raises(ConfigError, match="not installed"):
        Sandbox.open(packages=["no-such-package"], limits=LIMITS)


def test_where_there_is_no_sandbox_nothing_runs_unless_the_owner_says_so(monkeypatch):
    monkeypatch.setattr(sandbox_module, "this_machine", lambda: None)
    with pytest.raises(ConfigError, match="no sandbox"):
        Sandbox.open(packages=PACKAGES, limits=LIMITS)
    with Sandbox.open(
        packages=PACKAGES, limits=LIMITS, workers=1, allow_unsandboxed=True
    ) as opened:
        assert opened.level == "NO SANDBOX"
        with pytest.raises(StateError, match=r"self-test|does not hold"):
            attack_ourselves(opened.run)
        assert opened.run(cell("visits.age.sum()")).output.value() == 221


def test_offered_packages_are_imported_and_draw():
    with Sandbox.open(
        packages=["numpy", "pandas", "matplotlib", "scikit-learn", "statsmodels"],
        limits=SandboxLimits(),
        workers=1,
    ) as opened:
        figure = opened.run(cell(MODELS))
    assert isinstance(figure, Finished), figure
    assert figure.output.value().startswith(b"\x89PNG")
