"""Lives of agents, each in a process of its own: until all is served, or killed at a given step.

Reads lines of a site's folder and the number of the step at which to die (0: never); writes, for
each, the signal that ended the agent (0: none) and how many steps there were. Steps are the
beginnings and ends of every call to a collaborator: commits, the exchange, the tables, the noise,
the box in which cells run. The beginning of a transaction is no step of its own: nothing is kept
before it is committed, so who is killed there leaves what the step before it leaves.

The agents are forked, as starting Python for each would take most of the time. A site whose folder
has reviewers takes Python.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from approval_fakes import PythonSite
from site_fakes import FakePlan, FakeTables, Site, job_files

from privnb.datasite.ports import ArrivedJob
from privnb.site import database, under_way
from privnb.site.intake import read_submission


class Steps:
    """Counts steps, and dies at one of them."""

    def __init__(self, fatal: int) -> None:
        self.count = 0
        self.fatal = fatal

    def wrap(self, call):
        def wrapped(*args, **kwargs):
            self.step()
            result = call(*args, **kwargs)
            self.step()
            return result

        return wrapped

    def step(self) -> None:
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def live(folder: Path, fatal: int) -> int:
    # A killed process loses nothing that it has written; only a failing machine needs the wait
    # for the disk, which would take most of the time here.
    database._prepare_sqlite = lambda connection, _: _no_waiting(connection)
    steps = Steps(fatal)
    tables = FakeTables()
    takes_python = (folder / "keys").exists()
    # Looked for at every step, or only at the first: the number of steps is always the same.
    under_way._LOOK_SECONDS = under_way._PATROL_SECONDS = 0.0 if takes_python else 3600.0
    if takes_python:
        site = PythonSite(folder, tables=tables)
        site.box.run = steps.wrap(site.box.run)
    else:
        site = Site(folder, tables=tables)
    port = site.port
    tables.stream = steps.wrap(tables.stream)
    FakePlan.release = steps.wrap(FakePlan.release)
    dialect = site.database._engine.dialect
    dialect.do_commit = steps.wrap(dialect.do_commit)
    for name in ("poll", "reply", "retire", "publish_card"):
        setattr(port, name, steps.wrap(getattr(port, name)))
    cells = site.agent._answering.under_way
    while site.agent.step() or cells.busy:
        cells.runs.wait(seconds=10)
    site.agent.close()
    return steps.count


def _no_waiting(connection) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=OFF")


def main() -> None:
    read_submission(ArrivedJob(sender="", name="0" * 32, files=job_files("0" * 32)))  # warms up
    for line in sys.stdin:
        folder, fatal = line.rsplit(" ", 1)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, str(live(Path(folder), int(fatal))).encode())
            os._exit(0)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as result:
            steps = result.read() or "0"
        ended = os.waitstatus_to_exitcode(status)
        sys.stdout.write(f"{ended} {steps}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
