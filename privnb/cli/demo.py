"""``privnb demo`` and ``privnb lab``: three sites on real data, on one machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from privnb.errors import PrivnbError, StateError, UnknownName

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
    with _alone_in(directory, afresh=True), _sites(directory) as sites:
        sites.admit_analyst()
        _say(f"Running {notebook.name} against them …")
        page = _run(notebook, directory, sites.environment)
    _say("")
    _say(f"[bold]Done.[/] Open {page} in a browser to see the notebook with its results.")
    _say(f"What each site did is in {directory}/*.log. To try it yourself: make lab")


def lab(
    directory: Folder = _DEMO,
    notebooks: Notebooks = _NOTEBOOKS,
    fresh: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--fresh", help="Forget what was spent before.")
    ] = False,
    browser: Annotated[  # noqa: FBT002 - as above
        bool, typer.Option("--browser/--no-browser", help="Open a browser; on a server, do not.")
    ] = True,
    port: Annotated[
        int | None, typer.Option("--port", help="Where JupyterLab listens, on this machine only.")
    ] = None,
) -> None:
    """Start the three sites, and JupyterLab on the notebooks. Ctrl-C twice ends both."""
    notebook = _first(notebooks)
    with _alone_in(directory, afresh=fresh), _sites(directory) as sites:
        sites.admit_analyst()
        command = [
            *(sys.executable, "-m", "jupyterlab", f"--notebook-dir={notebooks}"),
            f"--LabApp.default_url=/lab/tree/{notebook.name}",
            # A demonstration of privacy does not ask the network for news.
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        if not browser:
            command.append("--no-browser")
        if port is not None:
            command.append(f"--port={port}")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        _say("To be the demo's people in another terminal, or in a script:")
        for name in ("PRIVNB_EMAIL", "PRIVNB_EXCHANGE", "PRIVNB_HOME", "PRIVNB_DEMO"):
            _say(f"  export {name}={shlex.quote(sites.environment[name])}")
        _say("Starting JupyterLab. Ctrl-C twice ends it, and the sites.")
        jupyter = subprocess.Popen(command, env=os.environ | sites.environment)  # noqa: S603 - ours
        try:
            _wait_through_interrupts(jupyter)
        finally:
            jupyter.terminate()
            jupyter.wait()


def _wait_through_interrupts(jupyter: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            jupyter.wait()
        except KeyboardInterrupt:  # JupyterLab asks whether that was meant
            continue
        return


@contextlib.contextmanager
def _alone_in(directory: Path, *, afresh: bool) -> Iterator[None]:
    """Keep two demos out of one folder; end in good order when the terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if not (directory / "exchange").is_dir() and directory.exists() and any(directory.iterdir()):
        raise StateError(
            f"{directory} exists and is not an earlier demo.",
            hint="Name another folder with --directory; nothing was changed.",
        )
    directory.mkdir(parents=True, exist_ok=True)
    folder = os.open(directory, os.O_RDONLY)
    try:
        _lock(folder, directory)
        if afresh:
            _empty(directory)
        elif any(directory.glob("*.log")):
            _say(f"Using the sites in {directory}, with what was spent there; --fresh forgets it.")
        (directory / "exchange").mkdir(exist_ok=True)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, directory: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StateError(
            f"Another demo or lab is running in {directory}.",
            hint="End it first, or name another folder with --directory.",
        ) from None


def _empty(directory: Path) -> None:
    # The exchange, by which a demo's folder is known, goes last: this may be cut short.
    for path in sorted(directory.iterdir(), key=lambda path: path.name == "exchange"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sites(directory: Path) -> DemoSites:
    from privnb.demo.data import build_demo  # noqa: PLC0415 - pandas and DuckDB take a second
    from privnb.demo.serving import DemoSites  # noqa: PLC0415

    exchange = directory.resolve() / "exchange"
    _say(f"Three sites on the RAND Health Insurance Experiment, in {directory} …")
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


def _run(notebook: Path, directory: Path, environment: dict[str, str]) -> Path:
    """Run a notebook, and leave it with its outputs, and as a page, in the demo's folder."""
    import nbformat  # noqa: PLC0415 - only the demo needs Jupyter's tools
    from nbclient import NotebookClient  # noqa: PLC0415
    from nbclient.exceptions import CellExecutionError  # noqa: PLC0415
    from nbconvert import HTMLExporter  # noqa: PLC0415

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        content,
        timeout=300,
        resources={"metadata": {"path": notebook.parent}},
        extra_arguments=["--log-level=ERROR"],  # the kernel warns of its loopback sockets
    )
    try:
        client.execute(env=os.environ | environment)
    except CellExecutionError as failure:
        raise PrivnbError(
            f"A cell of {notebook.name} failed: {failure.ename}: {failure.evalue}",
            hint=f"What each site did is in {directory}/*.log.",
        ) from None
    nbformat.write(content, directory / notebook.name)
    page = directory / f"{notebook.stem}.html"
    page.write_text(HTMLExporter().from_notebook_node(content)[0], encoding="utf-8")
    return page


def _say(line: str) -> None:
    _out.print(line)
