"""Every attack ends contained, in each kind of sandbox, and honest cells work there."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from attacks import ENDINGS, FORGE, OF_X86_64, REFUSED
from sandboxes import KINDS, cell, open_sandbox, why_not

import privnb.errors
from privnb.site.sandbox import Failed, Finished
from privnb.site.sandbox.known import KNOWN_ERRORS, KNOWN_TYPES

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no sandbox on this architecture"
)
PROBES = Path(__file__).with_name("probes.py").read_text()
HONEST = Path(__file__).with_name("honest.py").read_text()
ATTACKS = [line[4:-3] for line in PROBES.splitlines() if line.startswith("def attack_")]
HONEST_WORK = [line[4:-3] for line in HONEST.splitlines() if line.startswith("def honest_")]
COLUMN = 0 if platform.machine() == "x86_64" else 1
CALLS = {name: numbers[COLUMN] for name, numbers in REFUSED.items() if numbers[COLUMN] is not None}
ENDINGS_HERE = ENDINGS | (OF_X86_64 if platform.machine() == "x86_64" else {})
MAIN = next((kind for kind in KINDS if not why_not(kind)), KINDS[0])
# What depends on the kind of sandbox is tried in each; all of it in the first that works here.
EVERYWHERE = {
    "an endless loop",
    "an endless loop that ignores the signal",
    "many small objects",
    "a crash",
    "leaving without an answer",
    "closing every descriptor and staying",
    "a flood of bytes on every descriptor",
    "a forged answer of another shape",
    "a thread that writes on",
    "a thread that stays",
    "a full disk",
    "one very long file",
    "files without end",
    "folders deeper than a path can be",
    "a folder that cannot be listed",
    *OF_X86_64,
}


def by_kind(kinds=KINDS):
    return pytest.mark.parametrize(
        "sandbox",
        [pytest.param(kind, marks=pytest.mark.xdist_group(f"sandbox {kind}")) for kind in kinds],
        indirect=True,
    )


@pytest.fixture(scope="module")
def sandbox(request):
    reason = why_not(request.param)
    if reason:
        pytest.skip(reason)
    opened = open_sandbox(request.param)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def outcomes(sandbox, tmp_path_factory):
    """What became of every probe, from one cell that tries them all."""
    folder = tmp_path_factory.mktemp("outside")
    for open_folder in (folder, *list(folder.parents)[:-1]):
        if open_folder.owner() != "root" or os.getuid() == 0:
            open_folder.chmod(open_folder.stat().st_mode | 0o055)
    canary = folder / "canary"
    canary.write_text("what must not be read")
    canary.chmod(0o666)
    ended = sandbox.run(
        cell(
            PROBES,
            output="outcome",
            parameters={
                "agent": getattr(sandbox, "pid", os.getpid()),
                "calls": json.dumps(CALLS),
                "canary": str(canary),
                "privnb_file": privnb.errors.__file__,
            },
        )
    )
    assert isinstance(ended, Finished), ended
    assert canary.read_text() == "what must not be read"
    return ended.output.value()


@pytest.fixture(scope="module")
def honest(sandbox):
    ended = sandbox.run(cell(HONEST))
    assert isinstance(ended, Finished), ended
    return ended.output.value()


@by_kind()
def test_the_level_names_what_holds(sandbox, request):
    kind = request.node.callspec.params["sandbox"]
    assert "Landlock" in sandbox.level
    assert "seccomp" in sandbox.level
    assert sandbox.level.startswith("bubblewrap") == ("bubblewrap" in kind)


@by_kind()
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_stopped(outcomes, attack):
    assert outcomes[attack] != "worked"


@by_kind()
def test_a_call_that_is_not_needed_is_refused(outcomes):
    answers = {name: outcomes[f"call {name}"] for name in CALLS}
    assert {name for name, errno in answers.items() if errno not in ("1", "38")} == set()


@by_kind()
@pytest.mark.parametrize("work", HONEST_WORK)
def test_honest_work_is_not_hindered(honest, work):
    assert honest[work] == "works"


@by_kind((MAIN,))
@pytest.mark.parametrize("name", ENDINGS_HERE)
def test_a_hostile_cell_ends_contained(sandbox, name):
    ends_as_it_may(sandbox, name)


@by_kind([kind for kind in KINDS if kind != MAIN])
@pytest.mark.parametrize("name", sorted(EVERYWHERE & set(ENDINGS_HERE)))
def test_a_hostile_cell_ends_contained_here_too(sandbox, name):
    ends_as_it_may(sandbox, name)


def ends_as_it_may(sandbox, name):
    source, allowed = ENDINGS_HERE[name]
    prefix = FORGE if "FORGE" in source else ""
    ended = sandbox.run(cell(prefix + source))
    assert ("fine" if isinstance(ended, Finished) else ended.reason) in allowed
    if isinstance(ended, Failed):
        assert ended.error in {*KNOWN_ERRORS, "Error", None}
        assert ended.output_type in {*KNOWN_TYPES, "another type", None}
        assert ended.line is None or 1 <= ended.line <= (prefix + source).count("\n") + 1


@by_kind()
def test_the_sandbox_still_answers_after_all_this(sandbox):
    ended = sandbox.run(cell("visits.describe()"))
    assert isinstance(ended, Finished)
    assert isinstance(ended.output.value(), pd.DataFrame)


@by_kind((MAIN,))
def test_no_worker_knows_more_than_it_was_given(sandbox):
    listed = sandbox.run(
        cell("import numpy as np\nnp.array([k for k in globals() if k[0] != '_'])")
    )
    assert set(np.asarray(listed.output.value())) == {"visits", "agent", "np"}
