"""``privnb demo`` and ``privnb lab``: three sites on real data, on one machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from privnb.errors import StateError, UnknownName

if TYPE_CHECKING:
    from privnb.demo.serving import DemoSites

__all__ = ["demo", "lab"]

_out = Console(highlight=False, soft_wrap=True)

Folder = Annotated[Path, typer.Option("--directory", help="Where the demo keeps its files.")]
Notebooks = Annotated[Path, typer.Option("--notebooks", help="The folder with the notebooks.")]

_DEMO = Path(".demo")
_NOTEBOOKS = Path("notebooks")


def demo(directory: Folder = _DEMO, notebooks: Notebooks = _NOTEBOOKS) -> None:
    """Start three sites afresh on real data, and run the first notebook against them."""
    notebook = _first(notebooks)
    if directory.exists():
        _remove(directory)
    with _sites(directory) as sites:
        sites.admit_analyst()
        _say(f"Running {notebook.name} against them …")
        page = _run(notebook, directory, sites.environment)
    _say("")
    _say(f"[bold]Done.[/] Open {page} in a browser to see the notebook with its results.")
    _say(f"What each site did is in {directory}/*.log. To try it yourself: make lab")


def lab(directory: Folder = _DEMO, notebooks: Notebooks = _NOTEBOOKS) -> None:
    """Start the three sites, and JupyterLab on the notebooks. Ctrl-C twice ends both."""
    _first(notebooks)
    with _sites(directory) as sites:
        sites.admit_analyst()
        command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={notebooks}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        _say("Starting JupyterLab; open 01_first_secure_query.ipynb. Ctrl-C twice ends it.")
        jupyter = subprocess.Popen(command, env=os.environ | sites.environment)  # noqa: S603 - ours
        while True:
            try:
                jupyter.wait()
                break
            except KeyboardInterrupt:  # JupyterLab asks whether that was meant
                continue


def _sites(directory: Path) -> DemoSites:
    from privnb.demo.data import build_demo  # noqa: PLC0415 - pandas and DuckDB take a second
    from privnb.demo.serving import DemoSites  # noqa: PLC0415

    exchange = directory.resolve() / "exchange"
    _say(f"Building three sites on the RAND Health Insurance Experiment in {directory} …")
    sites = build_demo(directory.resolve(), str(exchange))
    _say(f"Starting their agents: {', '.join(site.name for site in sites)} …")
    return DemoSites(directory.resolve(), sites=sites, exchange=exchange, say=_say)


def _first(notebooks: Path) -> Path:
    found = sorted(notebooks.glob("01_*.ipynb"))
    if not found:
        raise UnknownName(
            f"There is no first notebook in {notebooks}.",
            hint="Run this from the folder you cloned, or say where with --notebooks.",
        )
    return found[0]


def _remove(directory: Path) -> None:
    """Remove an earlier demo, and nothing that is not one."""
    if not (directory / "exchange").is_dir():
        raise StateError(
            f"{directory} exists and is not an earlier demo.",
            hint="Name another folder with --directory; nothing was changed.",
        )
    shutil.rmtree(directory)


def _run(notebook: Path, directory: Path, environment: dict[str, str]) -> Path:
    """Run a notebook, and leave it with its outputs, and as a page, in the demo's folder."""
    import nbformat  # noqa: PLC0415 - only the demo needs Jupyter's tools
    from nbclient import NotebookClient  # noqa: PLC0415
    from nbconvert import HTMLExporter  # noqa: PLC0415

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(content, timeout=300, resources={"metadata": {"path": notebook.parent}})
    client.execute(env=os.environ | environment)
    nbformat.write(content, directory / notebook.name)
    page = directory / f"{notebook.stem}.html"
    page.write_text(HTMLExporter().from_notebook_node(content)[0], encoding="utf-8")
    return page


def _say(line: str) -> None:
    _out.print(line)
