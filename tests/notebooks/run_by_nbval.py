"""Runs a notebook by nbval, and keeps what its cells show as JupyterLab would save it.

For a process of its own: the notebook's file, and the file to keep it in. nbval compares outputs
and forgets them; what it hears of a kernel is therefore also told to nbclient, which follows it as
a front end does, with displays that are changed by later cells.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete


class Keeper:
    """Follows every cell that nbval runs."""

    def __init__(self, kept):
        self._kept = kept
        self._client = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        file, heard = item.parent, []
        hear = file.kernel.get_message

        def listen(timeout=None, stream="iopub"):
            heard.append(hear(stream, timeout=timeout))
            return heard[-1]

        file.get_kernel_message = listen
        try:
            return (yield)
        finally:
            self._follow(item, heard)

    def _follow(self, item, heard):
        book = item.parent.nb
        if self._client is None:
            self._client = NotebookClient(copy.deepcopy(book), record_timing=False)
        position = next(n for n, cell in enumerate(book.cells) if cell is item.cell)
        cell = self._client.nb.cells[position]
        self._client.clear_before_next_output = False  # as it does before it runs a cell
        asked = heard[-1]["parent_header"].get("msg_id") if heard else None
        for message in heard:
            if message["parent_header"].get("msg_id") == asked:
                with contextlib.suppress(CellExecutionComplete):
                    self._client.process_message(message, cell, position)

    def pytest_sessionfinish(self):
        if self._client is not None:
            self._client.set_widgets_metadata()
            nbformat.write(self._client.nb, self._kept)


def main(notebook, kept):
    nbval = ["--nbval-lax", "--nbval-cell-timeout", "120", "--rootdir", str(Path(notebook).parent)]
    plain = ["--quiet", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings="]
    return pytest.main([*nbval, *plain, notebook], plugins=[Keeper(kept)])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
