"""Trainings that go on step by step: what code is given, what comes back, who has a worker."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("flwr")

from apps import COUNT, HEAD
from sandboxes import (
    LIMITS,
    PACKAGES,
    VISITS,
    descendants,
    open_sandbox,
    training,
    why_not,
    work,
)

from privnb.errors import ConfigError, StateError
from privnb.federated.messages import ArrayForm, Work
from privnb.site.sandbox import Failed, Sandbox, SandboxLimits, Trained
from privnb.site.sandbox import sandbox as sandbox_module
from privnb.site.sandbox.trainer import Trainers

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a sandbox on Linux only"),
    pytest.mark.xdist_group("sandbox training"),
]
ONE = [np.zeros(1)]
KIND = "plain" if why_not("bubblewrap") else "bubblewrap"


@pytest.fixture(scope="module")
def sandbox():
    opened = open_sandbox(KIND, limits=SandboxLimits(memory_mb=512), training=2)
    yield opened
    opened.close()


@pytest.fixture
def begin(sandbox):
    begun = []

    def begin_training(source, **bound):
        begun.append(sandbox.train(training(source, **bound)))
        return begun[-1]

    yield begin_training
    for trainer in begun:
        trainer.close()


def app_that(body):
    """Code whose app does something to train, given message, context and array."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    array = '    (array,) = message.content["arrays"].to_numpy_ndarrays()\n'
    return f"{HEAD}@app.train()\ndef train(message, context):\n{array}{lines}"


def test_code_runs_once_and_its_app_at_each_step(begin):
    trainer = begin(COUNT)
    ended = [trainer.step(work(number=number), ONE) for number in (1, 2, 3)]
    assert [list(step.arrays[0][1]) for step in ended] == [[1], [2], [3]]
    assert ended[0].arrays[0][0] == work().arrays[0]
    assert (ended[0].metrics, ended[0].weight) == ({"loss": 0.5}, 5)
    evaluated = trainer.step(work("evaluate"), ONE)
    assert (evaluated.arrays, evaluated.metrics) == ((), {"accuracy": pytest.approx(44.2)})
    assert 0 < evaluated.seconds < 60


def test_tables_and_parameters_are_bound_and_numpy_and_pandas_with_them(begin):
    source = app_that(
        "assert numpy is np and pandas is pd\n"
        "tables = context.node_config['tables']\n"
        "rows = pd.concat([tables['visits'], tables['more']])\n"
        "assert context.run_config['rate'] == rate and list(wards) == ['east']\n"
        "return say(message, [np.full(1, rate * len(rows[rows.ward.isin(wards)]))])"
    )
    tables = {"visits": VISITS, "more": VISITS.slice(0, 1)}
    trainer = begin(source, tables=tables, parameters={"rate": 0.5, "wards": ["east"]})
    assert list(trainer.step(work(), ONE).arrays[0][1]) == [2.0]


def test_arrays_of_every_kind_go_in_and_come_back(begin):
    forms = (
        ArrayForm(name="layer.weight", dtype="float64", shape=(2, 3)),
        ArrayForm(name="layer.bias", dtype="float32", shape=(3,)),
        ArrayForm(name="scale", dtype="float64", shape=()),
        ArrayForm(name="none", dtype="float64", shape=(0, 4)),
        ArrayForm(name="seen", dtype="int64", shape=(1,)),
        ArrayForm(name="small", dtype="int32", shape=(1,)),
    )
    sent = [
        np.arange(6.0).reshape(2, 3),
        np.array([0.5, 1.5, -2.0], np.float32),
        np.float64(3.5),
        np.zeros((0, 4)),
        np.array([2**53]),
        np.array([-7], np.int32),
    ]
    source = HEAD + (
        "@app.train()\ndef train(message, context):\n"
        "    assert message.content['arrays']['small'].numpy().dtype == 'int32'\n"
        "    return Message(RecordDict({'a': message.content['arrays'],"
        " 'm': MetricRecord({'num-examples': 1.5})}), reply_to=message)\n"
    )
    ended = begin(source).step(Work(kind="train", round=1, arrays=forms), sent)
    assert [form.dtype for form, _ in ended.arrays] == [
        *("float64", "float32", "float64", "float64", "float64", "float64"),
    ]
    for (form, got), had in zip(ended.arrays, sent, strict=True):
        assert (got.dtype, got.shape) == (form.dtype, np.shape(had))
        assert np.array_equal(got, had)


def test_a_million_parameters_come_back_exactly(begin):
    values = np.random.default_rng(0).normal(size=1_000_000)
    ended = begin(app_that("return say(message, [array * 2])")).step(work(size=10**6), [values])
    assert np.array_equal(ended.arrays[0][1], values * 2)


def test_the_config_of_the_round_arrives(begin):
    source = app_that("return say(message, [array + message.content['config']['lr']])")
    ended = begin(source).step(work(config={"lr": 0.25, "server-round": 1}), ONE)
    assert list(ended.arrays[0][1]) == [0.25]


# By name: what a function does that is asked to train, and how that ends; the line is marked.
WRONG = {
    "raises": ("rows = context\n1 / 0  # here", {"error": "ZeroDivisionError"}),
    "raises_its_own": ("raise type('Mr7', (KeyError,), {})('row')  # here", {"error": "KeyError"}),
    "leaves": ("raise SystemExit  # here", {"error": "SystemExit"}),
    "text_as_metric": ("return say(message, [array], loss='x')", {"error": "TypeError"}),
    "nothing": ("return None", {"fault": "reply"}),
    "more_arrays": ("return say(message, [array, array])", {"fault": "arrays"}),
    "another_shape": ("return say(message, [array[None]])", {"fault": "arrays"}),
    "no_number": ("return say(message, [array * np.nan])", {"fault": "not finite"}),
    "infinite_metric": ("return say(message, [array], loss=np.inf)", {"fault": "not finite"}),
    "list_of_metrics": ("return say(message, [array], loss=[1.0])", {"fault": "metrics"}),
    "name_made_of_rows": (
        "return say(message, [array], **{'row%d' % len(array): 1})",
        {"fault": "metrics"},
    ),
    "no_weight": (
        "reply = say(message, [array])\ndel reply.content['metrics'][WEIGHT]\nreturn reply",
        {"fault": "weight"},
    ),
    "weight_of_zero": ("return say(message, [array], **{WEIGHT: 0})", {"fault": "weight"}),
    "memory": ("bytearray(8 << 30)", {"reason": "memory"}),
}


def test_what_goes_wrong_is_said_without_a_word_of_the_app(begin):
    source = app_that(
        "return globals()[message.content['config']['case']](message, context, array)"
    )
    for name, (body, _) in WRONG.items():
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        source += f"def {name}(message, context, array):\n{lines}"
    trainer = begin(f"WEIGHT = 'num-examples'\n{source}")
    for name, (body, ending) in WRONG.items():
        failed = Failed(**{"reason": "error" if "error" in ending else "output"} | ending)
        ended = trainer.step(work(config={"case": name}), ONE)
        assert isinstance(ended, Failed), name
        line = ended.line and trainer._cell.source.splitlines()[ended.line - 1]
        assert dataclasses.replace(ended, line=None) == failed, name
        assert "# here" not in body or "# here" in line, name


def test_errors_of_the_code_itself_name_its_line(begin):
    assert begin("x = 1\ny = z").step(work(), ONE) == Failed(
        reason="error", error="NameError", line=2
    )
    assert begin("x = 1\ny =").step(work(), ONE) == Failed(
        reason="error", error="SyntaxError", line=2
    )


def test_code_without_an_app_or_a_function_says_so(begin):
    no_app = Failed(reason="error", fault="no app")
    assert begin("x = 1").step(work(), ONE) == no_app
    assert begin("app = 'row 7'").step(work(), ONE) == no_app
    trainer = begin(app_that("return say(message, [array])"))
    assert trainer.step(work("evaluate"), ONE) == Failed(reason="error", fault="no evaluate")
    assert isinstance(trainer.step(work(), ONE), Trained)
    assert begin(HEAD).step(work(), ONE) == Failed(reason="error", fault="no train")


def test_after_an_error_the_app_is_asked_again(begin):
    source = app_that(
        "seen.append(1)\nif len(seen) == 2: raise ValueError\nreturn say(message, [array])"
    )
    trainer = begin(f"seen = []\n{source}")
    ended = [trainer.step(work(), ONE) for _ in range(3)]
    assert [getattr(step, "error", "fine") for step in ended] == ["fine", "ValueError", "fine"]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [("os._exit(0)", "killed"), ("bytearray(8 << 30)", "memory")],
)
def test_a_worker_that_is_lost_is_replaced_at_the_next_step(begin, ending, reason):
    source = app_that(
        f"if message.metadata.group_id == '2': {ending}\nreturn say(message, [array])"
    )
    trainer = begin(source)
    ended = [trainer.step(work(number=number), ONE) for number in (1, 2, 3)]
    assert [getattr(step, "reason", "fine") for step in ended] == ["fine", reason, "fine"]


def test_a_worker_that_dies_while_nobody_asks_costs_no_step(begin):
    trainer = begin(COUNT)
    assert list(trainer.step(work(), ONE).arrays[0][1]) == [1]
    trainer._worker.interrupt()
    trainer._worker._process.wait()
    assert list(trainer.step(work(), ONE).arrays[0][1]) == [1]


def test_limits_count_for_each_step_and_not_for_all():
    limits = SandboxLimits(wall_seconds=60, cpu_seconds=1)
    burn = (
        "until = time.process_time() + float(array[0])\n"
        "while time.process_time() < until: pass\nreturn say(message, [array])"
    )
    with open_sandbox(KIND, limits=limits, training=1) as opened:
        trainer = opened.train(training(app_that(burn)))
        for _ in range(3):
            assert isinstance(trainer.step(work(), [np.full(1, 0.5)]), Trained)
        start = time.monotonic()
        assert trainer.step(work(), [np.full(1, 50.0)]) == Failed(reason="time")
        assert time.monotonic() - start < 30
        assert isinstance(trainer.step(work(), ONE), Trained)


def test_more_trainings_than_places_take_turns_and_lose_what_they_kept(sandbox):
    trainers = [sandbox.train(training(COUNT)) for _ in range(3)]
    try:
        values = [[step_value(trainer) for trainer in trainers] for _ in range(2)]
        assert values == [[1, 1, 1], [1, 1, 1]]
        assert step_value(trainers[2]) == 2
        assert sum(trainer._worker is not None for trainer in trainers) == 2
    finally:
        for trainer in trainers:
            trainer.close()
    assert all(trainer._worker is None for trainer in trainers)


def test_who_came_first_for_a_place_goes_first():
    """Else trainings that follow each other closely keep another out for ever."""
    trainers = Trainers(pool=None, limits=LIMITS, most=1)
    first, second, third = (trainers.begin(None) for _ in range(3))
    went = []

    def go(trainer):
        assert trainers.enter(trainer)
        went.append(trainer)
        trainers.leave(trainer)

    assert trainers.enter(first)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(go, second)
        while not trainers._waiting:
            time.sleep(0.001)
        trainers.leave(first)
        go(first)  # it has its worker still
        go(third)
        waiting.result(20)
    assert went == [second, first, third]


def test_whoever_waits_for_a_place_is_told_when_there_are_none_any_more():
    trainers = Trainers(pool=SimpleNamespace(close=lambda: None), limits=LIMITS, most=0)
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(trainers.enter, trainers.begin(None)) for _ in range(3)]
        while len(trainers._waiting) < 3:
            time.sleep(0.001)
        trainers.close()
        assert [each.result(20) for each in waiting] == [False] * 3


def test_steps_of_several_trainings_run_at_once_and_those_of_one_in_turn(sandbox):
    trainers = [sandbox.train(training(COUNT)) for _ in range(3)]
    try:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(step_value, trainers))
        one = sandbox.train(training(COUNT))
        trainers.append(one)
        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(step_value, [one] * 4)) == [1, 2, 3, 4]
    finally:
        for trainer in trainers:
            trainer.close()


def step_value(trainer):
    ended = trainer.step(work(), ONE)
    assert isinstance(ended, Trained), ended
    return ended.arrays[0][1][0]


def test_a_training_that_is_closed_does_nothing_more(sandbox):
    trainer = sandbox.train(training(COUNT))
    assert isinstance(trainer.step(work(), ONE), Trained)
    trainer.close()
    trainer.close()
    assert trainer.step(work(), ONE) == Failed(reason="lock")


@pytest.mark.parametrize("what", ["training", "sandbox"])
def test_closing_ends_a_step_that_runs(what):
    limits = SandboxLimits(wall_seconds=600, cpu_seconds=600)
    with open_sandbox("plain", limits=limits, training=1) as opened:
        trainer = opened.train(training(app_that("threading.Event().wait()")))
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(trainer.step, work(), ONE)
            while trainer._conversation is None:
                time.sleep(0.01)
            (trainer if what == "training" else opened).close()
            assert running.result(timeout=60).reason in {"killed", "lock"}


@pytest.mark.parametrize("kind", ["plain", "bubblewrap"])
def test_a_worker_at_rest_ends_with_an_agent_that_is_killed(kind, tmp_path):
    if reason := why_not(kind):
        pytest.skip(reason)
    settings = {"bubblewrap": kind == "bubblewrap", "workers": 1, "training": 1}
    settings |= {"scratch": str(tmp_path), **vars(LIMITS)}
    agent = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("agent_child.py"), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        assert "level" in json.loads(agent.stdout.readline())
        asked = {"source": COUNT, "steps": 1, "size": 1, "rest": 600, "parameters": {}}
        agent.stdin.write(json.dumps(asked) + "\n")
        agent.stdin.flush()
        while "T" not in (workers := descendants(agent.pid)).values():
            time.sleep(0.05)
        agent.kill()
    while any(Path(f"/proc/{pid}/stat").exists() for pid in workers):
        time.sleep(0.05)


def test_only_work_for_an_app_is_taken(begin):
    with pytest.raises(ValueError, match="gradient"):
        begin(COUNT).step(Work(kind="gradient", round=1), [])
    with pytest.raises(ValueError, match="shape"):
        begin(COUNT).step(work(size=2), ONE)


def test_nothing_is_left_behind_by_trainings(sandbox):
    before = threading.active_count()
    for source in (COUNT, "import os\nos._exit(0)", "x = 1"):
        trainer = sandbox.train(training(source))
        trainer.step(work(), ONE)
        trainer.close()
    assert threading.active_count() == before
    assert not sandbox._trainers.pool._running


def test_where_no_training_was_wanted_there_is_none():
    with open_sandbox("plain") as opened, pytest.raises(StateError, match="no training"):
        opened.train(training(COUNT))


def test_training_without_flower_is_an_error_of_the_configuration(monkeypatch):
    monkeypatch.setattr(sandbox_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="Flower"):
        Sandbox.open(packages=PACKAGES, limits=LIMITS, training=1)


def test_a_training_has_at_most_so_many_tables(begin):
    one = pa.table({"x": [1]})
    with pytest.raises(StateError, match="tables"):
        begin(COUNT, tables={f"t{n}": one for n in range(33)}).step(work(), ONE)
