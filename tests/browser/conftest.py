"""A real JupyterLab on loopback, and a real Chromium that looks at it."""

from __future__ import annotations

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
FAKES = Path(__file__).parent.parent / "magics"
KERNEL_READY = """() => {
  const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel?.connectionStatus === "connected" && kernel?.status === "idle";
}"""
CONNECTED = f"""\
import sys, tempfile
sys.path.insert(0, {str(FAKES)!r})
from fake_exchange import open_exchange
session, datasite = open_exchange(tempfile.mkdtemp())
%load_ext privnb
get_ipython().magics_manager.registry["SecureMagics"].connect = lambda **_: session
%privnb connect --email ana@uni.example --exchange shared"""


class Lab:
    """JupyterLab with its own settings and notebooks, and a page in a browser."""

    def __init__(self, folder, browser):
        self.folder = folder
        self.browser = browser
        self.token = secrets.token_hex(16)
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        self.settings = folder / "settings"
        for name, values in SETTINGS.items():
            self.configure(name, values)
        places = {
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
        }
        environment = os.environ | {name: str(folder / place) for name, place in places.items()}
        self.log = (folder / "log").open("wb")
        self.server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
                f"--IdentityProvider.token={self.token}",
                f"--ServerApp.root_dir={self.notebooks}",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=environment,
            stdout=self.log,
            stderr=self.log,
        )
        self.url = self._wait_for_url()

    def configure(self, name, values):
        file = self.settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    def write(self, name, cells):
        """Write a notebook of code cells."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(book, self.notebooks / name)

    def open(self, name, *, theme="JupyterLab Light", width=1180):
        """Open a notebook in a page of its own."""
        self.configure("apputils-extension/themes", {"theme": theme})
        scheme = "dark" if "Dark" in theme else "light"
        context = self.browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=2
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{self.url}lab/tree/{name}?token={self.token}&reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.wait_for_function(KERNEL_READY)
        return page

    def run_all(self, page):
        """Run all cells as the menu does, up to the first that fails."""
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def save(self, page):
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")

    def close(self):
        self.server.terminate()
        try:
            self.server.wait(60)
        except subprocess.TimeoutExpired:  # it waits for kernels, which a busy machine delays
            self.server.kill()
            self.server.wait()
        finally:
            self.log.close()

    def _wait_for_url(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.server.poll() is None:
            for info in (self.folder / "runtime").glob("jpserver-*.json"):
                with contextlib.suppress(ValueError):  # it is being written just now
                    return json.loads(info.read_text())["url"]
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"), browser)
    yield lab
    lab.close()


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
