"""Notebooks as a reader runs them: Restart and Run All, against the demo's three sites."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


@pytest.fixture(scope="module")
def run_all(demo):
    def run_all(name):
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        resources = {"metadata": {"path": NOTEBOOKS}}
        NotebookClient(notebook, timeout=120, resources=resources).execute(env=demo)
        return Ran(notebook)

    return run_all
