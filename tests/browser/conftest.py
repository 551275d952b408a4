"""A real JupyterLab on loopback, and a real Chromium that looks at it.

Loading JupyterLab takes longer than all that a test does in it, so tests share a page: each has
notebooks of its own in it, which are closed with their kernels when the test ends.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from playwright import sync_api

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
TESTS = Path(__file__).parent.parent
LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
WIDTHS = (1180, 700)
SHARPNESS = 2 if "PRIVNB_SCREENSHOTS" in os.environ else 1  # where nobody looks at the pictures
PATIENCE = 120_000  # milliseconds: a machine may be very busy
THEME = """async (theme) => {
  if (document.body.dataset.jpThemeName === theme) return;
  await window.jupyterapp.commands.execute("apputils:change-theme", { theme });
}"""
THEMED = "theme => document.body.dataset.jpThemeName === theme"
OPEN = """async (path) => {
  const panel = await window.jupyterapp.commands.execute("docmanager:open", { path });
  await panel.context.ready;
  await panel.sessionContext.ready;
}"""
CLOSE = """async (path) => {
  const panels = [...window.jupyterapp.shell.widgets("main")];
  const panel = panels.find((each) => each.context?.path === path);
  if (!panel) return;
  await panel.sessionContext.shutdown();
  panel.dispose();
}"""
READY = """(path) => {
  const panel = window.jupyterapp.shell.currentWidget;
  const kernel = panel?.sessionContext?.session?.kernel;
  return panel?.context?.path === path && kernel?.connectionStatus === "connected"
    && kernel.status === "idle" && panel.node.querySelector(".jp-Cell") !== null;
}"""
RUN = """async ([code, expression]) => {
  const { kernel } = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const user_expressions = { value: expression };
  const { content } = await kernel.requestExecute({ code, user_expressions }).done;
  if (content.status !== "ok") throw new Error(`${content.ename}: ${content.evalue}`);
  const { value } = content.user_expressions;
  if (value.status !== "ok") throw new Error(`${value.ename}: ${value.evalue}`);
  return value.data["text/plain"];
}"""
FITS = """(width) => {
  const { right } = window.jupyterapp.shell.currentWidget.node.getBoundingClientRect();
  return window.innerWidth === width && right <= width && right > width - 100;
}"""
BROWSING = pytest.StashKey[contextlib.ExitStack]()
sync_api.expect.set_options(timeout=PATIENCE)
CONNECTED = f"""\
import sys, tempfile
sys.path.insert(0, {str(TESTS / "magics")!r})
from fake_exchange import open_exchange
session, datasite = open_exchange(tempfile.mkdtemp())
%load_ext privnb
get_ipython().magics_manager.registry["SecureMagics"].connect = lambda **_: session
%privnb connect --email ana@uni.example --exchange shared"""
SHOWN = f"""\
import sys
sys.path.insert(0, {str(TESTS / "widgets")!r})
from fake_desk import *
{{code}}
widget"""


class Notebook:
    """One notebook that is open in a page, and its kernel."""

    def __init__(self, page, file):
        self.page = page
        self.file = file
        page.evaluate(OPEN, file.name)
        page.wait_for_function(READY, arg=file.name)

    def card(self, kind):
        """Return what shows a widget of that kind; it may not be drawn yet."""
        return self.page.locator(f".jp-OutputArea .pn-{kind}")

    @property
    def cells(self):
        return self.page.locator(".jp-Notebook .jp-Cell")

    @property
    def outputs(self):
        """Each of what the cells show, also where it is hidden."""
        return self.page.locator(".jp-Notebook .jp-OutputArea-child").all()

    @property
    def keyboard(self):
        return self.page.keyboard

    def focused(self, what):
        """Return a property of the element that has the focus."""
        return self.page.evaluate(f"document.activeElement.{what}")

    def run_all(self):
        """Run all cells as the menu does, up to the first that fails; return when they have run."""
        self.command("notebook:run-all-cells")

    def run(self, code, expression="None"):
        """Run code in the kernel, as another cell would; return what an expression is after it."""
        return ast.literal_eval(self.page.evaluate(RUN, [code, expression]))

    def value(self, expression):
        """Return the value of an expression in the kernel, which has heard all that was clicked."""
        return self.run("", expression)

    def resize(self, width, height):
        """Make the page that large; return when JupyterLab has followed."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_function(FITS, arg=width)

    def look(self, card, picture, *, widths=WIDTHS):
        """Take pictures of wide and of narrow notebooks, none of which needs scrolling."""
        for width in widths:
            self.photograph(card, picture.with_name(f"{picture.name}-{width}.png"), width=width)
            assert card.evaluate("e => e.scrollWidth <= e.clientWidth")

    def photograph(self, card, picture, *, width=WIDTHS[0]):
        """Take a picture of it in a page so high that all is seen; what moves is at its end."""
        self.resize(width, 3000)
        card.screenshot(path=picture, animations="disabled")

    def save(self):
        """Save the notebook; return when its file is written."""
        self.command("docmanager:save")

    def clear(self):
        """Clear all outputs."""
        self.command("notebook:clear-all-cell-outputs")

    def close(self):
        """Close the notebook unsaved, and end its kernel."""
        self.page.evaluate(CLOSE, self.file.name)

    def command(self, name):
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)


class Lab:
    """JupyterLab with its own settings and notebooks, and the pages that show it in a browser."""

    def __init__(self, folder):
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        self.browser = None
        self._folder = folder
        self._token = secrets.token_hex(16)
        self._page = None
        self._other_pages = []
        self._open = []
        self._written = 0
        for name, values in SETTINGS.items():
            self._configure(name, values)
        places = {
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        environment = os.environ | {name: str(folder / place) for name, place in places.items()}
        self._log = (folder / "log").open("wb")
        self._server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
                f"--IdentityProvider.token={self._token}",
                f"--ServerApp.root_dir={self.notebooks}",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=environment,
            stdout=self._log,
            stderr=self._log,
        )
        self._url = self._wait_for_url()

    def open(self, cells, *, theme=LIGHT):
        """Open a new notebook of these code cells."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        self._written += 1
        file = self.notebooks / f"{self._written}.ipynb"
        nbformat.write(book, file)
        if self._page is None:
            self._page = self._new_page()
        return self._opened(self._page, file, theme)

    def run(self, cells, *, theme=LIGHT):
        """Open a new notebook of these code cells, and run them."""
        notebook = self.open(cells, theme=theme)
        notebook.run_all()
        return notebook

    def show(self, code, kind, *, theme=LIGHT):
        """Open a notebook in which code made a ``widget``; return it, and where the widget is."""
        notebook = self.run([SHOWN.format(code=code)], theme=theme)
        card = notebook.card(kind)
        card.locator(".pn-status").wait_for(state="attached")
        return notebook, card

    def open_afresh(self, file):
        """Open a file in a page that knows nothing of what was done before."""
        self._other_pages.append(self._new_page())
        return self._opened(self._other_pages[-1], file, LIGHT)

    @contextlib.contextmanager
    def settings(self, name, values):
        """Load the next page with these settings of a plugin; later ones are without them."""
        self.close_pages()
        file = self._configure(name, values)
        try:
            yield
        finally:
            file.unlink()
            self.close_pages()

    def close_notebooks(self):
        """Close what a test has opened, but not the page that is there for the next."""
        while self._open:
            self._open.pop().close()
        while self._other_pages:
            self._other_pages.pop().context.close()

    def close_pages(self):
        """Close all; the next notebook gets a page that is loaded anew."""
        with contextlib.suppress(sync_api.Error):  # a page may not answer any more
            self.close_notebooks()
        self._open.clear()
        if self._page is not None:
            self._page.context.close()
            self._page = None

    def close(self):
        self._server.terminate()
        try:
            self._server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for kernels, which a busy machine delays
            self._server.kill()
            self._server.wait()
        finally:
            self._log.close()

    def _new_page(self):
        context = self.browser.new_context(device_scale_factor=SHARPNESS)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{self._url}lab?token={self._token}&reset")
        page.wait_for_function("window.jupyterapp !== undefined")
        page.evaluate("window.jupyterapp.restored")
        return page

    def _opened(self, page, file, theme):
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        page.emulate_media(color_scheme="light" if theme == LIGHT else "dark")
        page.evaluate(THEME, theme)
        page.wait_for_function(THEMED, arg=theme)
        self._open.append(Notebook(page, file))
        return self._open[-1]

    def _configure(self, name, values):
        file = self._folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
        return file

    def _wait_for_url(self):
        end = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < end and self._server.poll() is None:
            for info in (self._folder / "runtime").glob("jpserver-*.json"):
                with contextlib.suppress(ValueError):  # it is being written just now
                    return json.loads(info.read_text())["url"]
            time.sleep(0.1)
        raise RuntimeError((self._folder / "log").read_text())


@pytest.fixture(scope="session")
def chromium():
    """Where Chromium is."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    return CHROMIUM


@pytest.fixture(scope="session")
def jupyter(chromium, tmp_path_factory):
    """A JupyterLab that nobody looks at yet."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def lab_in_browser(chromium, jupyter, request):
    """JupyterLab and a browser, which stays until no test of this folder follows."""
    if BROWSING not in request.session.stash:
        request.session.stash[BROWSING] = browsing = contextlib.ExitStack()
        playwright = browsing.enter_context(sync_api.sync_playwright())
        jupyter.browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        browsing.callback(jupyter.browser.close)
        browsing.callback(jupyter.close_pages)
    return jupyter


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
    """End the browser before a test of another folder: Playwright's event loop is in its way."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        browsing = item.session.stash.get(BROWSING, None)
        if browsing is not None:
            del item.session.stash[BROWSING]
            browsing.close()


@pytest.fixture
def lab(lab_in_browser, request):
    """JupyterLab in a browser, without any notebook open."""
    failed = request.session.testsfailed
    yield lab_in_browser
    if request.session.testsfailed > failed:  # the next test shall not fail for it
        lab_in_browser.close_pages()
    lab_in_browser.close_notebooks()


@pytest.fixture(params=[LIGHT, DARK], ids=["light", "dark"])
def theme(request):
    return request.param


@pytest.fixture
def connected():
    """A first cell that connects to three fake sites."""
    return CONNECTED


@pytest.fixture
def screenshots(tmp_path):
    """Where pictures go that somebody should look at."""
    place = Path(os.environ.get("PRIVNB_SCREENSHOTS", tmp_path))
    place.mkdir(parents=True, exist_ok=True)
    return place
