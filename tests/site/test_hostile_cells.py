"""A hundred hostile cells in a row, through a real agent and a real sandbox: it still answers."""

from __future__ import annotations

import itertools
import sys

import pytest
from approval_fakes import PythonSite

from privnb.site.python_engine import PythonEngine
from privnb.site.sandbox import Sandbox, SandboxLimits

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="there is a sandbox on Linux only"),
    pytest.mark.xdist_group("sandbox pool"),
]
HOSTILE = (
    "import os\nos._exit(0)",
    "import os\nos.kill(os.getppid(), 9)",
    "import ctypes\nctypes.string_at(0)",
    "import resource, os\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
    "import os\n[os.write(fd, b'{}') for fd in range(3, 64)]",
    "open('/proc/self/environ').read() + open('/etc/shadow').read()",
    "import socket\nsocket.create_connection(('127.0.0.1', 22))",
    "'x' * 50_000_000",
    "raise SystemExit",
    "class Odd(type(visits)):\n    __len__ = lambda self: -1\nOdd(visits)",
)
COUNT = 100
AT_A_TIME = 5


def test_a_hundred_hostile_cells_in_a_row_stop_nobody(tmp_path):
    site = PythonSite(tmp_path)
    limits = SandboxLimits(wall_seconds=10, cpu_seconds=5, memory_mb=512)
    box = Sandbox.open(packages=["numpy", "pandas"], limits=limits, workers=2)
    site.agent._lock.release()
    site.agent = site.new_agent(python=PythonEngine(site.config, data=site.data, box=box))
    cells = itertools.islice(itertools.cycle(HOSTILE), COUNT)
    codes = []
    try:
        for batch in zip(*[cells] * AT_A_TIME, strict=True):
            names = [site.send_cell(cell, action="mock") for cell in batch]
            for name in names:
                site.settle(name, seconds=60)
                problem = site.reply(name).problem
                codes.append("" if problem is None else problem.code)
            assert site.ask("describe").description.name == "northside"
        last = site.send_cell("visits.cost.mean()", action="mock")
        site.settle(last, seconds=60)
        assert site.reply(last).output.value() == 1.5
    finally:
        site.agent.close()
    assert len(codes) == COUNT
    assert set(codes) <= {"", "E_CELL", "E_LIMIT", "E_OUTPUT"}
