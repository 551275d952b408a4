"""A site with reviewers: its folder, its site.toml, and requests as an agent would enter them."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from pathlib import Path

import sqlalchemy as sa

from privnb import wire
from privnb.computation import Computation
from privnb.output import Output, OutputColumn
from privnb.site import database as tables
from privnb.site.config import load_config
from privnb.site.database import Database
from privnb.site.opening import database_path
from privnb.site.requests import Record, RequestBook
from privnb.site.reviewing import review
from privnb.site.reviewing.reviewers import ReviewerKey

ANA = "ana@uni.example"
ALICE = "alice@hospital.example"
BOB = "bob@hospital.example"
CAROL = "carol@hospital.example"
NOW = dt.datetime(2027, 1, 15, 12, tzinfo=dt.UTC)
SOURCE = "visits[['xage', 'mdvis']].groupby('xage').mean()"

HEAD = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 5
delta = 1e-6
total_epsilon = 10
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"

[tables.visits.columns.xage]
type = "integer"
bounds = [0, 120]

[tables.visits.columns.mdvis]
type = "integer"
bounds = [0, 40]
"""


def table_output(*rows, name="mean"):
    columns = (
        OutputColumn(name="age", type="integer", role="index"),
        OutputColumn(name=name, type="float", role="value"),
    )
    return Output(kind="frame", columns=columns, rows=rows)


OUTPUT = table_output((30, 1.25), (40, 2.5))


class ReviewSite:
    """One site's folder, and shortcuts to what happens in it."""

    def __init__(self, folder: Path, *, keys: Path) -> None:
        self.folder = folder
        self.keys = {path.stem: ReviewerKey.load(path) for path in sorted(keys.glob("*.json"))}
        self.database = Database.open(folder / "state" / "site.sqlite")
        self.book = RequestBook(self.database)

    @classmethod
    def make(cls, folder: Path, *, keys: Path, **review):
        for email in (ALICE, BOB, CAROL):
            ReviewerKey.create(keys / f"{email}.json", email)
        folder.mkdir(parents=True)
        made = cls(folder, keys=keys)
        made.write_config(**review)
        assert database_path(made.config) == folder / "state" / "site.sqlite"
        return made

    def write_config(self, *, needed=2, mode="both", reviewers=None):
        named = {e: k.public for e, k in self.keys.items()} if reviewers is None else reviewers
        lines = [f"{json.dumps(email)} = {json.dumps(key)}" for email, key in named.items()]
        text = [HEAD, "[review]", f'review = "{mode}"', f"needed = {needed}", "expires_days = 14"]
        text += ["[review.reviewers]", *lines, ""]
        (self.folder / "site.toml").write_text("\n".join(text))

    @property
    def config(self):
        return load_config(self.folder)

    def ask(self, source=SOURCE, *, analyst=ANA, name=None, state="waiting", **fields):
        """Enter a computation as the agent does; return the request's id."""
        name = name or secrets.token_hex(16)
        computation = Computation(
            kind="python",
            source=source,
            **({"purpose": "research", "tables": ("visits",)} | fields),
        )
        record = Record(
            sender=analyst,
            name=name,
            action="run",
            state=state,
            agent="a" * 16,
            attempts=1,
            submission=b"{}",
            reply=None,
            succeeded=False,
        )
        with self.database.write() as transaction:
            assert self.book.enter(transaction, record, previous=None, owed=False)
            review.open_review(
                transaction,
                analyst=analyst,
                request=name,
                computation=computation,
                rule="review of code and output",
                now=NOW,
                expires=NOW + dt.timedelta(days=14),
            )
        return name

    def held(self, output=OUTPUT, *, gate=(), **fields):
        """Enter a computation whose output is held."""
        name = self.ask(state="running", **fields)
        self.hold(name, output, gate=gate, analyst=fields.get("analyst", ANA))
        return name

    def hold(self, name, output=OUTPUT, *, gate=(), analyst=ANA):
        with self.database.write() as transaction:
            review.hold(
                transaction, analyst=analyst, request=name, output=wire.encode(output), gate=gate
            )
            transaction.execute(
                sa.update(tables.requests)
                .where(tables.requests.c.name == name)
                .values(state="held", at=review.stamp(NOW))
            )

    def decide(  # noqa: PLR0913 - a decision has many parts
        self,
        who,
        name,
        verdict="approve",
        *,
        stage="code",
        reason="no",
        now=NOW,
        analyst=ANA,
        key=None,
        config=None,
        seen=None,
    ):
        with self.database.write() as transaction:
            return review.decide(
                transaction,
                site=config or self.config,
                key=key or self.keys[who],
                analyst=analyst,
                request=name,
                stage=stage,
                verdict=verdict,
                reason=reason,
                now=now,
                seen=seen,
            )

    def approvals(self, name, stage="code", *, analyst=ANA):
        with self.database.read() as snapshot:
            return review.approvals(
                snapshot, site=self.config, analyst=analyst, request=name, stage=stage
            )

    def state(self, name):
        with self.database.read() as snapshot:
            return snapshot.execute(
                sa.select(tables.requests.c.state).where(tables.requests.c.name == name)
            ).scalar()

    def told(self, name, *, analyst=ANA):
        """What the analyst is told of one request."""
        with self.database.read() as snapshot:
            return review.states(snapshot, site=self.config, analyst=analyst, requests=[name])[0]

    def found(self, name):
        """What is stored for reviewers about one request."""
        with self.database.read() as snapshot:
            return review.find(snapshot, analyst=ANA, request=name)

    def rows(self, table):
        with self.database.read() as snapshot:
            return snapshot.execute(sa.select(table)).all()

    def tamper(self, sql, **values):
        """Change the database as somebody could who has the file, past all its triggers."""
        with self.database.write() as transaction:
            for trigger in ("decisions_keep_rows", "decisions_keep_verdicts"):
                transaction.execute(sa.text(f"DROP TRIGGER IF EXISTS {trigger}"))
            transaction.execute(sa.text(sql), values)

    def close(self):
        self.database.close()
