"""Another process that appends to a log: a line in is a database and sizes of batches, out is done.

With ``--crash DATABASE COUNT`` it appends in a child that is killed before its first statement, in
another before its second, and so on until one lives, and says after each what the log has become.
With ``--migrate SOURCE TARGET`` it does the same with the opening of copies of an older database.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event

from privnb.site.audit import record_event
from privnb.site.audit_reading import check_log
from privnb.site.database import Database


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def append(path: Path, batches: list[int]) -> None:
    database = Database.open(path)
    for batch in batches:
        with database.write() as transaction:
            for number in range(batch):
                private = {"analyst": f"{os.getpid()}@uni.example"}
                record_event(transaction, "decision", private=private, number=number)
    database.close()


def dies_at(step: int, work) -> bool:
    """Do some work in a child that is killed before one of its statements; tell whether it was."""
    child = os.fork()
    if child == 0:
        left = step

        @event.listens_for(sa.Engine, "before_cursor_execute")
        def count(*_):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(sa.Engine, "commit", count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def crash(path: Path, count: int) -> None:
    step = 1
    while dies_at(step, lambda: append(path, [count])):
        say(step, checked(path))
        step += 1
    say(step, checked(path))


def checked(path: Path) -> int:
    database = Database.open(path)
    with database.read() as snapshot:
        found = check_log(snapshot).size
    database.close()
    return found


def migrate(source: Path, target: Path) -> None:
    step = 1
    while True:
        shutil.copy(source, target)
        died = dies_at(step, lambda: Database.open(target).close())
        connection = sqlite3.connect(target)
        (version,) = connection.execute("SELECT version FROM schema_version").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        connection.close()
        say(step, version, tables, checked(target))
        for path in target.parent.glob(f"{target.name}*"):
            path.unlink()
        if not died:
            return
        step += 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--crash"]:
        crash(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--migrate"]:
        migrate(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        for line in sys.stdin:
            name, *sizes = line.split()
            append(Path(name), [int(size) for size in sizes])
            say("done")
