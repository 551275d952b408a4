"""A site without PySyft, OpenDP or data: its ports keep everything in memory or plain files."""

from __future__ import annotations

import json
import secrets
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent.parent / "fakes"))

from fake_channel import OwnerEnd

from privnb import wire
from privnb.audit import origin_of
from privnb.computation import Computation
from privnb.datasite.ports import ArrivedJob
from privnb.dp import accounting
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.errors import QueryRefused
from privnb.messages import REPLY_FILE, SOURCE_FILES, SUBMISSION_FILE, Reply, Submission
from privnb.release import Answer, AnswerColumn, Estimate, EstimateLine
from privnb.site.agent import Agent
from privnb.site.audit import AuditLog
from privnb.site.database import Database
from privnb.site.grants import Grant, record_grant

ANA = "ana@uni.example"
PURPOSE = "utilisation-research"
ORIGIN = origin_of("northside", "owner@northside.example")
QUESTION = "SELECT COUNT(*) AS n FROM visits"

SCHEMA = TableSchema(
    name="visits",
    columns=(
        Column(name="person", type="integer"),
        Column(name="cost", type="integer", bounds=Bounds(lower=0, upper=100)),
    ),
    privacy_unit="person",
    max_rows_per_unit=5,
    delta=1e-6,
    purposes=(PURPOSE, "quality-control"),
)


def site_config(directory: Path, *, total: str = "10"):
    """Have the shape of a `SiteConfig` with one table."""
    return SimpleNamespace(
        directory=directory,
        path=directory / "site.toml",
        name="northside",
        owner="owner@northside.example",
        exchange=str(directory / "exchange"),
        storage_options={},
        tables=(SimpleNamespace(name="visits", schema=SCHEMA, total_epsilon=Decimal(total)),),
        purposes={},
        python=None,
        review=None,
        templates=(),
        federated=None,
    )


class FakeTables:
    """Answers every query with the number of rows; fails on demand."""

    def __init__(self, count: int = 1000) -> None:
        self.count = count
        self.calls = 0
        self.problem: BaseException | None = None

    def stream(self, sql: str, *, mock: bool = False, purpose: str | None = None):
        self.calls += not mock
        if self.problem is not None:
            raise self.problem
        return iter([(7 if mock else self.count,)])

    def population(self, table: str, purpose: str) -> str:
        return ""

    restriction = population

    def consenting(self, table: str, *, purpose: str) -> None:
        return None

    def close(self) -> None:
        pass


@dataclass
class FakePlan:
    """Costs what was offered, and adds noise that never repeats."""

    schema: TableSchema
    sql: str
    price: accounting.Price
    mechanism: str = "discrete Gaussian noise"
    clamps: tuple[str, ...] = ()
    delta: str = "1e-06"

    def estimate(self) -> Estimate:
        return Estimate(
            table=self.schema.name,
            epsilon=str(self.price.epsilon),
            delta="1e-06",
            lines=(EstimateLine(name="n", half_width=12.0),),
            mechanism=self.mechanism,
        )

    def release(self, rows) -> Answer:
        ((count,),) = rows
        noisy = count + secrets.randbits(40) / 2**40
        column = AnswerColumn(name="n", role="aggregate")
        return Answer(columns=(column,), rows=((noisy,),), half_widths=((12.0,),))


def fake_planner(sql, *, tables, parameters, epsilon, federation=None):
    """Accept any SELECT; a comment in it chooses a failure or a price for rare groups."""
    if "CRASH" in sql:
        raise ZeroDivisionError("a bug in the planner")
    if not sql.startswith("SELECT"):
        raise QueryRefused("Only one SELECT is accepted.", code="E_NOT_SELECT")
    table = tables["visits"]
    unit = accounting.accounting_of(table)
    loss, delta = unit.loss_for(epsilon), unit.threshold_delta if "RARE" in sql else 0.0
    return FakePlan(
        schema=table, sql=sql, price=accounting.Price(loss=loss, delta=delta, epsilon=epsilon)
    )


class FolderPort(OwnerEnd):
    """An exchange of plain folders: inbox, tree (taken in, not retired), outbox.

    Like the real one it takes a job in before it returns it, returns it again until it is retired,
    and leaves the question of replays to the site's book. Every reply ever sent stays in the
    outbox, under a new name each.
    """

    fingerprint = "0000"

    def __init__(self, folder: Path) -> None:
        self.inbox, self.tree, self.outbox = (folder / n for n in ("inbox", "tree", "outbox"))
        for part in (self.inbox, self.tree, self.outbox):
            part.mkdir(parents=True, exist_ok=True)
        self.problem: BaseException | None = None
        self.cards = 0
        self.quarantined: list[str] = []

    def submit(self, sender: str, name: str, files: dict[str, bytes]) -> None:
        body = {"sender": sender, "name": name, "files": {k: v.hex() for k, v in files.items()}}
        hidden = self.inbox / f".{name}"
        hidden.write_text(json.dumps(body))
        hidden.rename(self.inbox / f"{sender}-{name}.json")

    def publish_card(self, name: str) -> None:
        self._fail()
        self.cards += 1

    def poll(self, seen):
        self._fail()
        for path in sorted(self.inbox.glob("*.json")):
            body = json.loads(path.read_text())
            if seen.seen(body["sender"], body["name"]):
                self.quarantined.append(body["name"])
                path.unlink()
            else:
                path.rename(self.tree / path.name)
        return [_job(path.read_text()) for path in sorted(self.tree.glob("*.json"))]

    def reply(self, job, files, *, succeeded) -> None:
        self._fail()
        data = files[REPLY_FILE]
        (self.outbox / f"{job.sender}-{job.name}.{secrets.token_hex(4)}").write_bytes(data)
        self.retire(job)

    def retire(self, job) -> None:
        (self.tree / f"{job.sender}-{job.name}.json").unlink(missing_ok=True)

    def replies(self, name: str, sender: str = ANA) -> list[Reply]:
        """Every reply ever sent to one request."""
        found = sorted(self.outbox.glob(f"{sender}-{name}.*"))
        return [wire.decode(Reply, path.read_bytes(), what="a reply") for path in found]

    def _fail(self) -> None:
        if self.problem is not None:
            raise self.problem


def _job(text: str) -> ArrivedJob:
    body = json.loads(text)
    files = {name: bytes.fromhex(data) for name, data in body["files"].items()}
    return ArrivedJob(sender=body["sender"], name=body["name"], files=files)


def job_files(
    name: str,
    action: str = "run",
    *,
    sql: str = QUESTION,
    epsilon: str | None = "1",
    purpose: str | None = PURPOSE,
) -> dict[str, bytes]:
    """What a session sends."""
    if action == "describe":
        return {SUBMISSION_FILE: wire.encode(Submission(request=name, action="describe"))}
    computation = Computation(kind="sql", source=sql, purpose=purpose, epsilon=epsilon)
    submission = Submission(request=name, action=action, computation=computation)
    return {SUBMISSION_FILE: wire.encode(submission), SOURCE_FILES["sql"]: sql.encode()}


class Site:
    """One site with its agent, its analyst's hands, and the owner's."""

    def __init__(self, directory: Path, *, total: str = "10", port=None, tables=None) -> None:
        self.directory = directory
        self.config = site_config(directory, total=total)
        self.port = port or FolderPort(directory / "exchange")
        self.tables = tables or FakeTables()
        self.database = Database.open(directory / "state" / "site.sqlite")
        self.agent = self.new_agent()

    def new_agent(self, **kwargs) -> Agent:
        options = {
            "audit": AuditLog.open(self.directory / "state", origin=ORIGIN),
            "planner": fake_planner,
        }
        return Agent(
            self.config,
            port=self.port,
            tables=self.tables,
            database=self.database,
            state=self.directory / "state",
            **options | kwargs,
        )

    def grant(self, epsilon: str = "4", *, analyst: str = ANA, **fields) -> None:
        grant = Grant(
            **{
                "analyst": analyst,
                "table": "visits",
                "purpose": PURPOSE,
                "epsilon": Decimal(epsilon),
                **fields,
            }
        )
        with self.database.write() as transaction:
            record_grant(transaction, grant)

    def send(self, action: str = "run", *, sender: str = ANA, name: str = "", **fields) -> str:
        """Send a request and return its name."""
        name = name or secrets.token_hex(16)
        self.port.submit(sender, name, job_files(name, action, **fields))
        return name

    def ask(self, action: str = "run", *, sender: str = ANA, **fields) -> Reply:
        """Send a request, let the agent step, return its one reply."""
        name = self.send(action, sender=sender, **fields)
        self.agent.step()
        (reply,) = self.port.replies(name, sender)
        return reply
