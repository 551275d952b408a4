"""Reviewers in processes of their own: they decide, or are killed at a given step of it.

Reads lines of JSON: the site's folder, the key's file, the request, the verdict, and the number of
the step at which to die (0: never). Steps are the beginnings and ends of every statement and of
every commit. Writes a line of JSON: what came of it, and how many steps there were. Each decision
is made in a process that is forked for it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import sys
from pathlib import Path

from sqlalchemy import event

from privnb import wire
from privnb.computation import Computation
from privnb.errors import PrivnbError
from privnb.site import database as tables
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.opening import database_path
from privnb.site.reviewing import review
from privnb.site.reviewing.reviewers import ReviewerKey


def without_waiting(connection, _) -> None:
    # A killed process loses nothing that it has written; only a failing machine needs the wait
    # for the disk, which would take most of the time here.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=OFF")


def decide(order: dict) -> dict:
    steps = [0]

    def step(*_: object) -> None:
        steps[0] += 1
        if steps[0] == order["fatal"]:
            os.kill(os.getpid(), signal.SIGKILL)

    tables._prepare_sqlite = without_waiting
    site = load_config(Path(order["folder"]))
    database = Database.open(database_path(site))
    event.listen(database._engine, "before_cursor_execute", step)
    event.listen(database._engine, "after_cursor_execute", step)
    dialect = database._engine.dialect
    commit = dialect.do_commit

    def committing(connection: object) -> None:
        step()
        commit(connection)
        step()

    dialect.do_commit = committing
    try:
        with database.write() as transaction:
            decided = review.decide(
                transaction,
                site=site,
                key=ReviewerKey.load(Path(order["key"])),
                analyst="ana@uni.example",
                request=order["request"],
                stage="code",
                verdict=order["verdict"],
                reason="because",
                now=dt.datetime(2027, 1, 15, 13, tzinfo=dt.UTC),
            )
    except PrivnbError as refused:
        return {"error": type(refused).__name__, "said": refused.message, "steps": steps[0]}
    finally:
        database.close()
    return {"state": decided.state, "steps": steps[0]}


def main() -> None:
    computation = Computation(kind="python", source="")
    wire.decode(Computation, wire.encode(computation), what="it")  # warms up
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, json.dumps(decide(order)).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as result:
            told = result.read()
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        sys.stdout.write((told or json.dumps({"killed": ended})) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
