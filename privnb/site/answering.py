"""One request, from its arrival to a reply that may be sent.

::

    read ─┬─▶ serving      what costs nothing
          ├─▶ charging     SQL: a protected answer, paid for
          ├─▶ approving    Python: an output that people or rules let out; then under_way
          └─▶ joining      what only several sites together may show; then federating

Nothing is sent before its reply is stored, or is of no consequence; what a crash at each point
leads to stands in those modules.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from privnb import wire
from privnb.computation import Computation
from privnb.datasite.ports import ArrivedJob
from privnb.errors import PrivnbError
from privnb.messages import SOURCE_FILES, SUBMISSION_FILE, Submission
from privnb.site import ledger
from privnb.site.approving import Approving
from privnb.site.charging import ATTEMPTS, Charging
from privnb.site.ending import Endings
from privnb.site.federated.federating import Federating
from privnb.site.federated.joining import Joining
from privnb.site.intake import read_submission
from privnb.site.policy import refusal
from privnb.site.refusing import Outgoing, Refusing, public, stored_computation
from privnb.site.reporting import About, failure
from privnb.site.requests import Record, RequestBook
from privnb.site.reviewing.approvals import Approvals
from privnb.site.serving import Serving
from privnb.site.under_way import UnderWay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from privnb.datasite.ports import OwnerPort
    from privnb.site.audit import AuditLog
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.engine import Engine
    from privnb.site.liveness import AgentLock
    from privnb.site.python_engine import PythonEngine

__all__ = ["Answering", "Outgoing"]

logger = logging.getLogger("privnb.site")

_UNDECIDED = ("served", "interrupted")


class Answering:
    """Brings requests to replies.

    For one thread. Several agents may answer for one site at a time; each request is left to the
    one that began it, for as long as that one lives.
    """

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        engine: Engine,
        python: PythonEngine | None,
        database: Database,
        audit: AuditLog,
        lock: AgentLock,
        port: OwnerPort,
        today: Callable[[], dt.date],
        now: Callable[[], dt.datetime],
        pace: tuple[float, float],
    ) -> None:
        self._engine = engine
        self._database = database
        self._lock = lock
        self.book = book = RequestBook(database)
        self._refusing = refusing = Refusing(book=book, database=database, lock=lock)
        self._serving = Serving(
            config,
            engine=engine,
            database=database,
            book=book,
            refusing=refusing,
            audit=audit,
            python=python.offer if python is not None else None,
            trains=python is not None and python.trains,
            today=today,
        )
        self._charging = Charging(
            config,
            engine=engine,
            database=database,
            book=book,
            refusing=refusing,
            audit=audit,
            lock=lock,
            today=today,
        )
        approvals = Approvals(config, today=today)
        self.federating = Federating(
            config,
            engine=engine,
            python=python,
            approvals=approvals,
            database=database,
            book=book,
            audit=audit,
            lock=lock,
            port=port,
            today=today,
            pace=pace,
        )
        self.under_way = UnderWay(
            config,
            python=python,
            approvals=approvals,
            endings=Endings(
                python=python, approvals=approvals, database=database, book=book, audit=audit
            ),
            federating=self.federating,
            database=database,
            book=book,
            lock=lock,
            now=now,
        )
        self._approving = Approving(
            config,
            python=python,
            approvals=approvals,
            under_way=self.under_way,
            database=database,
            book=book,
            refusing=refusing,
            serving=self._serving,
            now=now,
        )
        self._joining = Joining(
            config,
            own=audit.verifier_key,
            engine=engine,
            python=python,
            federating=self.federating,
            approving=self._approving,
            database=database,
            book=book,
            refusing=refusing,
            serving=self._serving,
            today=today,
        )

    def warm(self) -> None:
        """Do once, for nobody, what the first request would wait for."""
        self._engine.warm()
        self.under_way.warm()
        name = "0" * 32
        computation = Computation(kind="sql", source="SELECT 1")
        submission = Submission(request=name, action="run", computation=computation)
        files = {SUBMISSION_FILE: wire.encode(submission), SOURCE_FILES["sql"]: b"SELECT 1"}
        read_submission(ArrivedJob(sender="", name=name, files=files))
        self.book.find("", name)
        self.book.owed()
        with self._database.read() as snapshot:
            for terms in self._engine.terms.values():
                ledger.standing(snapshot, terms, analyst="", purpose="").epsilon_left  # noqa: B018

    def answer(self, job: ArrivedJob) -> Outgoing | None:
        """Bring a request to a reply; None while it waits, or another agent works on it.

        Raises
        ------
        StateError
            The database cannot be used now. Nothing may be sent; call again later.
        """
        record = self.book.find(job.sender, job.name)
        if record is not None and self._lock.is_other_alive(record.agent):
            return None
        with self._lock.working_on(job.sender, job.name):
            if record is None or record.state in _UNDECIDED:
                return self._begin(job, record)
            if record.reply is not None:
                return Outgoing(reply=record.reply, succeeded=record.succeeded)
            if record.state == "reserved":
                return self._charging.resume(record)
            if record.state != "joined":  # those are asked for in the channel of their run
                self.under_way.park(record)
            return None

    def give_up(self, job: ArrivedJob) -> Outgoing | None:
        """Answer a request over which something unforeseen happened, whatever its state."""
        record = self.book.find(job.sender, job.name)
        if record is None or record.state in _UNDECIDED:
            return self._refusing.refuse(job, record, refusal(failure()), About())
        if record.reply is not None:
            return Outgoing(reply=record.reply, succeeded=record.succeeded)
        if record.state == "reserved":
            return self._charging.fail(record)
        if record.state == "joined":
            ended = self.federating.fail(record)
            return None if ended is None else ended.outgoing
        return self.under_way.fail(record)

    def is_parked(self, sender: str, name: str) -> bool:
        """Tell whether there is nothing to do for a request until a person or a cell is done."""
        return self.federating.is_joined(sender, name) or self.under_way.is_parked(sender, name)

    @staticmethod
    def files_of(record: Record) -> Mapping[str, bytes]:
        """Rebuild the files of a stored request, as far as they were kept and can be read."""
        if record.submission is None:
            return {}
        try:
            computation = stored_computation(record)
        except (PrivnbError, ValueError):
            return {}
        source = computation.source.encode("utf-8", "surrogatepass")
        return {SUBMISSION_FILE: record.submission, SOURCE_FILES[computation.kind]: source}

    def close(self) -> None:
        """Let go of what runs beside us."""
        self.federating.close()
        self.under_way.close()

    def _begin(self, job: ArrivedJob, previous: Record | None) -> Outgoing | None:
        if previous is not None and previous.attempts >= ATTEMPTS:
            return self._refusing.refuse(job, previous, refusal(failure()), About())
        try:
            submission = read_submission(job)
        except Exception as problem:  # noqa: BLE001 - whatever arrives, the agent lives
            return self._refusing.refuse(job, previous, refusal(public(problem)), About())
        computation = submission.computation
        if computation is not None and (
            computation.federation is not None or computation.kind == "model"
        ):
            return self._joining.begin(job, previous, submission, computation)
        if computation is not None and computation.kind == "python":
            return self._approving.begin(job, previous, submission, computation)
        if computation is not None and submission.action == "run":
            return self._charging.begin(job, previous, computation)
        return self._serving.serve(job, previous, submission)
