"""A fresh shell with the magics loaded, and a session over the fake exchange."""

from __future__ import annotations

import atexit
import builtins
import sys
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output

sys.path.insert(0, str(Path(__file__).parent))

from fake_exchange import open_exchange


class Notebook:
    """Runs cells in a shell, and tells what they showed."""

    def __init__(self, shell, session, datasite):
        self.shell = shell
        self.session = session
        self.datasite = datasite
        self.magics = shell.magics_manager.registry["SecureMagics"]
        self.outputs: list[RichOutput] = []
        self.text = ""
        self.error: BaseException | None = None

    def run(self, cell):
        """Run one cell; what it returns is the value of its last expression."""
        with capture_output() as captured:
            result = self.shell.run_cell(cell)
        self.outputs = list(captured.outputs)
        shown = [o.data.get("text/plain", "") for o in self.outputs if o.data]
        self.text = captured.stdout + "\n".join(shown)
        self.error = result.error_in_exec or result.error_before_exec
        if result.result is not None:  # a plain shell writes it as text; a kernel shows all forms
            self.outputs.append(RichOutput(*self.shell.display_formatter.format(result.result)))
        return result.result

    @property
    def html(self):
        return "".join(o.data.get("text/html", "") for o in self.outputs if o.data)


@pytest.fixture
def shell(monkeypatch):
    # Doctests that ran before leave a builtin of this name, and IPython then sets no `_` itself.
    monkeypatch.delattr(builtins, "_", raising=False)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    shell.display_formatter.active_types = shell.display_formatter.format_types
    shell.run_line_magic("load_ext", "privnb")
    yield shell
    shell.history_manager.end_session()
    shell.displayhook.do_full_cache = False  # or each reset goes through all there is in memory,
    atexit.unregister(shell.atexit_operations)  # and again for each shell when the process ends
    shell.reset(new_session=False)
    InteractiveShell.clear_instance()


@pytest.fixture
def notebook_of(shell):
    """Makes a notebook in which ``%privnb connect`` opens a session of a test's own."""

    def make(session, datasite):
        notebook = Notebook(shell, session, datasite)
        notebook.magics.connect = lambda **_: session
        return notebook

    return make


@pytest.fixture
def unconnected(notebook_of, tmp_path):
    """A notebook before ``%privnb connect``."""
    return notebook_of(*open_exchange(tmp_path / "home"))


@pytest.fixture
def notebook(unconnected):
    """A notebook that is connected to three fake sites."""
    unconnected.run("%privnb connect --email ana@uni.example --exchange shared")
    assert unconnected.error is None
    return unconnected
