"""Notebooks as a reader runs them: Restart and Run All, against the demo's three sites."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"


class Ran:
    """A notebook with its outputs, found by how its cells begin."""

    def __init__(self, notebook):
        self.notebook = notebook

    def outputs(self, beginning):
        cell = next(c for c in self.notebook.cells if c.source.startswith(beginning))
        return cell.outputs

    def html(self, beginning):
        return "".join(o.get("data", {}).get("text/html", "") for o in self.outputs(beginning))

    def text(self, beginning):
        return "".join(
            o.get("text", "") or o.get("data", {}).get("text/plain", "")
            for o in self.outputs(beginning)
        )


@pytest.fixture(scope="session")
def run_all(demo, tmp_path_factory):
    """Runs a notebook by nbval, once for all that look at it; fails when nbval finds a fault."""
    folder = tmp_path_factory.mktemp("notebooks")
    ended = {}

    def run_all(name):
        kept = folder / name
        if name not in ended:
            script = Path(__file__).with_name("run_by_nbval.py")
            command = [sys.executable, script, NOTEBOOKS / name, kept]
            ended[name] = subprocess.run(
                command, env=demo, capture_output=True, text=True, check=False
            )
        done = ended[name]
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
        return Ran(nbformat.read(kept, as_version=4))

    return run_all
