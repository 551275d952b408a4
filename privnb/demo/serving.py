"""Three agents on this machine, started and stopped as their owners would."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from privnb.errors import PrivnbError, StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

__all__ = ["ANALYST", "PURPOSE", "DemoSites"]

ANALYST = "ana@uni.example"
PURPOSE = "utilisation-research"
_EPSILON = "4"
_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


class DemoSites:
    """The demo's sites, serving while the ``with`` block runs.

    Every site's agent is a process of its own that logs to a file beside its folder. On leaving
    the block the agents get SIGTERM, and are waited for; should this process be killed, they end
    by themselves, as their standard input does.

    Parameters
    ----------
    folder
        The demo's folder, as `privnb.demo.data.build_demo` made it.
    sites
        The sites' folders.
    exchange
        The folder they share with the analyst.
    say
        Shows one line to the person at the terminal.
    """

    def __init__(
        self, folder: Path, *, sites: Sequence[Path], exchange: Path, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._sites = sites
        self._exchange = exchange
        self._say = say
        self._agents: dict[Path, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for site in self._sites:
                self._agents[site] = self._start(site)
            self._wait_for_agents()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """What a notebook needs to know to be the demo's people, and where its sites are."""
        return {
            "PRIVNB_EMAIL": ANALYST,
            "PRIVNB_EXCHANGE": str(self._exchange),
            "PRIVNB_HOME": str(self._folder / "people"),
            "PRIVNB_DEMO": str(self._folder),
            # The owner's commands, for cells that show them.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def admit_analyst(self) -> None:
        """Let the demo's analyst ask every site, and be accepted with a grant at each.

        Runs, and shows, the very commands that an owner would type.
        """
        from privnb.session import connect, default_home  # noqa: PLC0415 - PySyft takes a second

        os.environ.update(self.environment)
        exchange = str(self._exchange)
        connect(email=ANALYST, exchange=exchange, home=default_home(ANALYST, exchange))
        for site in self._sites:
            self._owner("accept", str(site), ANALYST)
            grant = ("--table", "visits", "--purpose", PURPOSE, "--epsilon", _EPSILON)
            self._owner("grant", str(site), ANALYST, *grant)

    def _owner(self, *words: str) -> None:
        self._say(f"$ privnb site {' '.join(words)}")
        done = subprocess.run(  # noqa: S603 - our own command line
            [sys.executable, "-m", "privnb", "site", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PrivnbError(f"privnb site {words[0]} failed.", hint=done.stderr.strip())

    def _start(self, site: Path) -> subprocess.Popen[bytes]:
        with self._log(site).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "privnb", "site", "serve", "--until-eof", str(site)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in JupyterLab's terminal is not meant for them
            )

    def _wait_for_agents(self) -> None:
        cards = {site: self._card(site) for site in self._sites}
        began = time.time()
        end = time.monotonic() + _START_SECONDS
        while not all(self._alive_since(card, began) for card in cards.values()):
            for site, agent in self._agents.items():
                if agent.poll() is not None:
                    raise StateError(
                        f"The agent of {site.name} ended at its start.",
                        hint=f"Its log says why: {self._log(site)}",
                    )
            if time.monotonic() > end:
                raise StateError(
                    f"The agents were not ready within {_START_SECONDS:g} seconds.",
                    hint=f"Their logs are {self._folder}/*.log.",
                )
            time.sleep(0.05)

    def _card(self, site: Path) -> Path:
        return self._exchange / f"owner@{site.name}.example" / "site.json"

    @staticmethod
    def _alive_since(card: Path, moment: float) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return card.stat().st_mtime >= moment - 1
        return False

    def _log(self, site: Path) -> Path:
        return self._folder / f"{site.name}.log"

    def _stop(self) -> None:
        for agent in self._agents.values():
            agent.terminate()
        for agent in self._agents.values():
            try:
                agent.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
            if agent.stdin is not None:
                agent.stdin.close()
        self._agents.clear()
