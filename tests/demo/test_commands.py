"""The demo's folder, and what becomes of the agents when whoever started them is gone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from privnb.cli.demo import _alone_in
from privnb.demo.data import build_demo
from privnb.errors import StateError


@pytest.fixture(autouse=True)
def _signals():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_two_demos_do_not_share_a_folder(tmp_path):
    with (
        _alone_in(tmp_path / "demo", afresh=True),
        pytest.raises(StateError, match="running in"),
        _alone_in(tmp_path / "demo", afresh=True),
    ):
        pass


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(StateError, match="not an earlier demo"), _alone_in(tmp_path, afresh=True):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


@pytest.mark.parametrize("afresh", [True, False])
def test_an_earlier_demo_is_forgotten_only_when_asked(tmp_path, afresh):
    demo = tmp_path / "demo"
    with _alone_in(demo, afresh=True):
        (demo / "northside").mkdir()
        (demo / "northside" / "ledger").write_text("spent")
    with _alone_in(demo, afresh=afresh):
        assert (demo / "northside").exists() is not afresh
        assert (demo / "exchange").is_dir()


def test_an_agent_ends_with_whoever_started_it(tmp_path):
    site = build_demo(tmp_path, str(tmp_path / "exchange"))[0]
    command = [sys.executable, "-m", "privnb", "site", "serve", "--until-eof", str(site)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as agent:
        assert any(b"ready" in line for line in agent.stderr)
        agent.stdin.close()
        assert agent.wait(60) == 0
