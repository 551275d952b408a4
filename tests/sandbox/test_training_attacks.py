"""What code of a training may try, in a worker that goes on living: each step ends contained."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from apps import AHEAD, ATTACKS, COUNT, FORGING, PROBING
from attacks import REFUSED
from sandboxes import KINDS, open_sandbox, train, why_not

import privnb.errors
from privnb.site.sandbox import SandboxLimits

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no sandbox on this architecture"
)
# Flower brings pydantic with it; bandit stands for what is installed and not offered.
PROBES = Path(__file__).with_name("probes.py").read_text().replace("pydantic", "bandit")
NAMES = [line[4:-3] for line in PROBES.splitlines() if line.startswith("def attack_")]
COLUMN = 0 if platform.machine() == "x86_64" else 1
CALLS = {name: numbers[COLUMN] for name, numbers in REFUSED.items() if numbers[COLUMN] is not None}
MAIN = next((kind for kind in KINDS if not why_not(kind)), KINDS[0])
# What depends on the kind of sandbox is tried in each; all of it in the first that works here.
EVERYWHERE = {
    "an answer of its own",
    "an endless loop",
    "threads that use every processor",
    "leaving",
    "all memory there is",
    "a full disk",
    "closing every descriptor",
}
LIMITS = SandboxLimits(wall_seconds=3, cpu_seconds=1, memory_mb=512, scratch_mb=8)


def by_kind(kinds=KINDS):
    return pytest.mark.parametrize(
        "sandbox",
        [pytest.param(kind, marks=pytest.mark.xdist_group(f"training {kind}")) for kind in kinds],
        indirect=True,
    )


@pytest.fixture(scope="module")
def sandbox(request):
    reason = why_not(request.param)
    if reason:
        pytest.skip(reason)
    opened = open_sandbox(request.param, limits=LIMITS, training=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def outcomes(sandbox, tmp_path_factory):
    """What became of every probe, from one step that tries them all."""
    folder = tmp_path_factory.mktemp("outside")
    for open_folder in (folder, *list(folder.parents)[:-1]):
        if open_folder.owner() != "root" or os.getuid() == 0:
            open_folder.chmod(open_folder.stat().st_mode | 0o055)
    canary = folder / "canary"
    canary.write_text("what must not be read")
    canary.chmod(0o666)
    (ended,) = train(
        sandbox,
        PROBING.replace("PROBES", PROBES),
        size=len(NAMES) + len(CALLS),
        parameters={
            "calls": json.dumps(CALLS),
            "canary": str(canary),
            "names": " ".join(NAMES),
            "privnb_file": privnb.errors.__file__,
        },
    )
    assert ended["reason"] == "fine", ended
    assert canary.read_text() == "what must not be read"
    return dict(zip([*NAMES, *CALLS], ended["values"], strict=True))


@by_kind()
def test_every_attack_of_a_cell_is_stopped_here_too(outcomes):
    assert [name for name in NAMES if outcomes[name]] == []


@by_kind()
def test_a_call_that_is_not_needed_is_refused_here_too(outcomes):
    assert {name for name in CALLS if outcomes[name] not in (1, 38)} == set()


@by_kind((MAIN,))
@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_step_ends_contained(sandbox, name):
    ends_as_it_may(sandbox, name)


@by_kind([kind for kind in KINDS if kind != MAIN])
@pytest.mark.parametrize("name", sorted(EVERYWHERE))
def test_a_hostile_step_ends_contained_here_too(sandbox, name):
    ends_as_it_may(sandbox, name)


def ends_as_it_may(sandbox, name):
    attack, allowed, afterwards = ATTACKS[name]
    steps = 2 if afterwards else 1
    first, *second = train(sandbox, FORGING.replace("ATTACK", attack), steps=steps)
    assert how(first) in allowed
    assert {how(ended) for ended in second} <= (afterwards or set())


def how(ended):
    """The most that is said of an end."""
    return ended.get("fault") or ended.get("error") or ended["reason"]


@by_kind((MAIN,))
def test_an_answer_that_is_sent_ahead_is_never_taken(sandbox):
    for ended in train(sandbox, FORGING.replace("ATTACK", AHEAD), steps=3):
        assert ended["reason"] == "killed" or ended["values"] == [0.0]


@by_kind()
def test_nothing_runs_between_two_steps(sandbox):
    spin = "threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()"
    (first,) = train(sandbox, FORGING.replace("ATTACK", spin), rest=0.5)
    assert first["reason"] == "fine"
    assert first["at_rest"] < 0.05


@by_kind()
def test_the_sandbox_still_trains_after_all_this(sandbox):
    values = [ended["values"] for ended in train(sandbox, COUNT, steps=3)]
    assert values == [[1.0], [2.0], [3.0]]
