"""A site that takes Python: with reviewers who have real keys, and a box that runs no real cell."""

from __future__ import annotations

import datetime as dt
import secrets
import threading
import time
from dataclasses import dataclass, field

import pandas as pd
import pyarrow as pa
from site_fakes import ANA, PURPOSE, FolderPort, Site

from privnb import wire
from privnb.computation import Computation
from privnb.messages import SOURCE_FILES, SUBMISSION_FILE, Submission
from privnb.output import declare
from privnb.site.agent import Agent
from privnb.site.python_config import PythonConfig
from privnb.site.python_engine import PythonEngine
from privnb.site.reviewing import review
from privnb.site.reviewing.config import ReviewConfig
from privnb.site.reviewing.reviewers import ReviewerKey
from privnb.site.sandbox import Failed, Finished

CELL = "visits.cost.mean()"
ALICE, BOB, CAROL = (f"{name}@hospital.example" for name in ("alice", "bob", "carol"))


class FakeBox:
    """Evaluates the last line of a cell right here: these cells are the test's own.

    A cell that begins with FAIL fails, one with HANG waits until it is let go, one with BUG breaks
    the box.
    """

    level = "a box of cardboard"

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.let_go = threading.Event()

    def run(self, cell):
        real = cell.tables["visits"].num_rows > 10
        self.runs.append(f"{'data' if real else 'mock'}: {cell.source}")
        if real and cell.source.startswith("HANG"):
            self.let_go.wait(30)
            return Finished(output=declare(100), seconds=0)
        if cell.source.startswith("FAIL"):
            return Failed(reason="error", error="KeyError", line=1)
        if real and cell.source.startswith("BUG"):
            raise ZeroDivisionError("a bug in the box")
        names = {name: table.to_pandas() for name, table in cell.tables.items()}
        value = eval(cell.source, {"pd": pd}, names | dict(cell.parameters))  # noqa: S307 - ours
        return Finished(output=declare(value), seconds=0)

    def warm(self) -> None:
        pass

    def close(self) -> None:
        self.let_go.set()


class FakeData:
    """Twenty people with two rows each; the mock twin has four rows."""

    def __init__(self) -> None:
        self.rows = pd.DataFrame({"person": [p // 2 for p in range(40)], "cost": range(40)})
        self.problem: Exception | None = None

    def frame(self, table, *, purpose, mock=False):
        if self.problem is not None and not mock:
            raise self.problem
        rows = self.rows.head(4) if mock else self.rows
        return pa.table({"cost": rows.cost})

    def units(self, table, *, purpose):
        return self.rows.person.nunique()

    def units_behind(self, table, *, purpose, keys):
        return [
            self.rows[(self.rows[[n for n, _ in keys]] == list(row)).all(axis=1)].person.nunique()
            for row in zip(*(values for _, values in keys), strict=True)
        ]

    def matches_hidden(self, table, *, purpose, columns):
        return [None] * len(columns)

    def consenting(self, table, *, purpose):
        return None

    def population(self, table, purpose):
        return f"Everybody who consented to {purpose}."


@dataclass
class Clock:
    """The wall clock of a site, to be moved by hand."""

    moment: dt.datetime = field(
        default_factory=lambda: dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
    )

    def now(self) -> dt.datetime:
        return self.moment

    def today(self) -> dt.date:
        return self.moment.date()


class PythonSite(Site):
    """A site whose reviewers are Alice, Bob and Carol."""

    def __init__(self, directory, *, mode="both", needed=1, templates=(), release=(), **kwargs):
        self.box = FakeBox()
        self.data = FakeData()
        self.clock = Clock()
        self.keys = {
            email: _key(directory / "keys" / f"{email}.json", email)
            for email in (ALICE, BOB, CAROL)
        }
        self.settings = {
            "python": PythonConfig(min_units=3),
            "templates": tuple(templates),
            "review": mode
            and ReviewConfig(
                mode=mode,
                needed=needed,
                expires_days=14,
                reviewers={email: key.public for email, key in self.keys.items()},
                release=frozenset(release),
            ),
        }
        new = not (directory / "state" / "site.sqlite").exists()
        super().__init__(directory, port=FolderPort(directory / "exchange"), **kwargs)
        if new:
            self.grant()

    def name_reviewers(self, *emails: str) -> None:
        """Write a site.toml that has these reviewers."""
        keys = "".join(f'"{email}" = "{self.keys[email].public}"\n' for email in emails)
        self.config.path.write_text(f"[review]\nneeded = 1\n[review.reviewers]\n{keys}")

    def new_agent(self, **kwargs) -> Agent:
        vars(self.config).update(self.settings)
        self.name_reviewers(*self.keys)
        kwargs = {"python": PythonEngine(self.config, data=self.data, box=self.box)} | kwargs
        return super().new_agent(today=self.clock.today, now=self.clock.now, **kwargs)

    def restart(self) -> None:
        """End the agent as kill -9 does, as far as the site can tell, and start another."""
        self.agent._lock.release()
        self.agent = self.new_agent()

    def send_cell(self, source=CELL, *, action="run", sender=ANA, name="", **fields) -> str:
        """Send a Python cell and return the request's name."""
        name = name or secrets.token_hex(16)
        said = {"tables": ("visits",), "purpose": PURPOSE} | fields
        computation = Computation(kind="python", source=source, **said)
        submission = Submission(request=name, action=action, computation=computation)
        files = {SUBMISSION_FILE: wire.encode(submission), SOURCE_FILES["python"]: source.encode()}
        self.port.submit(sender, name, files)
        return name

    def settle(self, name: str, *, sender=ANA, until=("reply",), seconds=20.0) -> str:
        """Step until a request has a reply, or is in one of these states; return its state."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            self.agent.step()
            state = self.state(name, sender)
            if state in until or ("reply" in until and self.port.replies(name, sender)):
                return state
            self.agent._answering.under_way.runs.wait(seconds=0.2)
            time.sleep(0.002)
        raise AssertionError(f"request {name} is still {self.state(name, sender)}")

    def look(self) -> None:
        """Let the agent's next step look at everything, as it does every few seconds."""
        under_way = self.agent._answering.under_way
        under_way._next_look = under_way._next_patrol = 0.0

    def steps(self, count: int = 5) -> None:
        """Let the agent look around a few times."""
        for _ in range(count):
            self.look()
            self.agent.step()

    def state(self, name: str, sender=ANA) -> str:
        record = self.agent._answering.book.find(sender, name)
        return record.state if record else ""

    def decide(self, name, *, by=ALICE, sender=ANA, **decision):
        """Have a reviewer decide: by default, approve the code."""
        decision = {"verdict": "approve", "stage": "code", "reason": ""} | decision
        with self.database.write() as transaction:
            return review.decide(
                transaction,
                site=self.config,
                key=self.keys[by],
                analyst=sender,
                request=name,
                now=self.clock.now(),
                **decision,
            )

    def reply(self, name: str, sender=ANA):
        """The one reply that was ever sent to a request."""
        (reply,) = self.port.replies(name, sender)
        return reply


def _key(path, email) -> ReviewerKey:
    return ReviewerKey.load(path) if path.exists() else ReviewerKey.create(path, email)
