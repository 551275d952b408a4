"""The demo's three sites, as processes of their own, for every test that wants the real thing."""

from __future__ import annotations

import contextlib
import os

import pytest

from privnb.demo.data import build_demo
from privnb.demo.serving import DemoSites

SERVING = pytest.StashKey[contextlib.ExitStack]()
LAST = pytest.StashKey[pytest.Item]()


def pytest_collection_finish(session):
    session.stash[LAST] = next((i for i in session.items[::-1] if "demo" in i.fixturenames), None)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """End the demo after the last test that needs it: agents that nobody asks look all the same."""
    if item is item.session.stash[LAST] and SERVING in item.session.stash:
        item.session.stash[SERVING].close()


@pytest.fixture(scope="session")
def build_sites():
    """Makes the demo's sites with fewer packages, so that a worker is ready sooner."""

    def build_sites(folder, exchange, *, packages):
        sites = build_demo(folder, exchange)
        for site in sites:
            config = site / "site.toml"
            offered = f"[python]\npackages = {[*packages]!r}\n"
            config.write_text(config.read_text().replace("[python]\n", offered))
        return sites

    return build_sites


@pytest.fixture(scope="session")
def demo(build_sites, tmp_path_factory, request):
    """The environment of an analyst whom three sites on real data have accepted."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("demo")
    exchange = folder / "exchange"
    sites = build_sites(folder, str(exchange), packages=("numpy", "pandas", "statsmodels"))
    with contextlib.ExitStack() as serving:
        request.session.stash[SERVING] = serving
        agents = DemoSites(folder, sites=sites, exchange=exchange, say=lambda _: None)
        serving.enter_context(agents).admit_analyst()
        environment = before | agents.environment
        os.environ.clear()
        os.environ.update(before)
        yield environment
