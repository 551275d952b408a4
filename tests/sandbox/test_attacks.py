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
from sandboxes import KINDS, LIMITS, cell, open_sandbox, why_not

import privnb.errors
from privnb.site.sandbox import Failed, Finished
from privnb.site.sandbox.known import KNOWN_ERRORS, KNOWN_TYPES

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no sandbox on this architecture"
)
PROBES = Path(__file__).with_name("probes.py").read_text()
ATTACKS = [line[4:-3] for line in PROBES.splitlines() if line.startswith("def attack_")]
COLUMN = 0 if platform.machine() == "x86_64" else 1
CALLS = {name: numbers[COLUMN] for name, numbers in REFUSED.items() if numbers[COLUMN] is not None}
ENDINGS_HERE = ENDINGS | (OF_X86_64 if platform.machine() == "x86_64" else {})
# What depends on the kind of sandbox runs in each; what does not, in the two that differ most.
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

HONEST = {
    "a scalar": ("len(visits)", 5),
    "a mean by group": ("visits.groupby('ward').cost.mean()['east']", 8.875),
    "a merge and a sort": (
        "m = visits.merge(visits.groupby('ward', as_index=False).age.max(), on='ward')\n"
        "m.sort_values('age_x').head(1).age_y.iloc[0]",
        62,
    ),
    "linear algebra": ("import numpy as np\nfloat(np.linalg.lstsq(np.eye(2), [1., 2.])[0][1])", 2.0),
    "text": ("visits.ward.str.upper().iloc[0]", "EAST"),
    "time zones": (
        "import pandas as pd\npd.Timestamp('2024-07-01', tz='UTC').tz_convert('Europe/Paris').hour",
        2,
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "sum(ThreadPoolExecutor(4).map(int, visits.age))",
        221,
    ),
    "a query": ("visits.query('age > 40 and ward == \"east\"').shape[0]", 1),
    "a change of the input": ("visits.loc[0, 'age'] = 1\nvisits.age.iloc[0]", 1),
    "a late import": ("import statistics, csv, difflib\nstatistics.mean(visits.age)", 44.2),
    "a file in scratch": (
        "import os, pandas as pd\npath = os.environ['TMPDIR'] + '/x.csv'\n"
        "visits.to_csv(path)\npd.read_csv(path).shape[0]",
        5,
    ),
    "a temporary file": (
        "import tempfile\nwith tempfile.TemporaryFile() as f:\n  f.write(b'abc')\n  n = f.tell()\nn",
        3,
    ),
    "a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: int = 2\nA().x",
        2,
    ),
    "a deprecation warning": ("import warnings\nwarnings.warn('old', DeprecationWarning)\n1", 1),
    "printing": ("print(visits)\n1", 1),
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
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_cell_works(sandbox, name):
    source, expected = HONEST[name]
    ended = sandbox.run(cell(source))
    assert isinstance(ended, Finished), ended
    assert ended.output.value() == pytest.approx(expected)


def ends_as_it_may(sandbox, name):
    source, allowed = ENDINGS_HERE[name]
    prefix = FORGE if "FORGE" in source else ""
    ended = sandbox.run(cell(prefix + source))
    assert ("fine" if isinstance(ended, Finished) else ended.reason) in allowed
    if isinstance(ended, Failed):
        assert ended.error in {*KNOWN_ERRORS, "Error", None}
        assert ended.output_type in {*KNOWN_TYPES, "another type", None}
        assert ended.line is None or 1 <= ended.line <= (prefix + source).count("\n") + 1


@by_kind(("bubblewrap", "unprivileged plain"))
@pytest.mark.parametrize("name", ENDINGS_HERE)
def test_a_hostile_cell_ends_contained(sandbox, name):
    ends_as_it_may(sandbox, name)


@by_kind(("plain", "unprivileged bubblewrap"))
@pytest.mark.parametrize("name", sorted(EVERYWHERE & set(ENDINGS_HERE)))
def test_a_hostile_cell_ends_contained_here_too(sandbox, name):
    ends_as_it_may(sandbox, name)


@by_kind()
def test_the_sandbox_still_answers_after_all_this(sandbox):
    ended = sandbox.run(cell("visits.describe()"))
    assert isinstance(ended, Finished)
    assert isinstance(ended.output.value(), pd.DataFrame)


@by_kind(("bubblewrap",))
def test_no_worker_knows_more_than_it_was_given(sandbox):
    names = sandbox.run(cell("sorted(k for k in globals() if not k.startswith('__'))[:9] and 1"))
    assert isinstance(names, Finished)
    listed = sandbox.run(cell("import numpy as np\nnp.array([k for k in globals() if k[0] != '_'])"))
    assert set(np.asarray(listed.output.value())) == {"visits", "agent", "np"}
    assert LIMITS.output_bytes == 20_000
