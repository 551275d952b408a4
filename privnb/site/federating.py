"""Federated runs at one site: what the analyst asks for, round by round, and the site's answers.

::

    approved, or paid for ─▶ joined ─▶ keys ─▶ a part under masks ─▶ shares ─▶ … ─▶ the reply
                                        └────────── each round ─────────┘

The analyst is no more trusted than the storage. What each may get of the sites stands in
`privnb.federated.attempt`; this side of it keeps to these rules, whoever is killed when:

- That the site takes part is in its audit log before it tells so (`privnb.site.run_ending`).
- Grants, rules and signatures are asked anew before each part leaves, and where they do not hold
  any more the run ends here (`privnb.site.run_checks`).
- Noise is drawn once for a round, and is written down before it leaves; nothing is summed over two
  sets of sites (`privnb.site.contributing`, `privnb.site.run_book`).
- Keys are in memory alone. A site that was restarted says so, and is back in the next attempt.
- A run of which the analyst says nothing for long ends by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, ExchangeUnavailable, NotAPeer, PrivnbError, StateError
from privnb.federated.messages import Told, pack
from privnb.site import ledger
from privnb.site.contributing import Contributing, Objection
from privnb.site.federated_config import FederatedConfig
from privnb.site.joined import JoinedRun
from privnb.site.part_making import part_of
from privnb.site.refusing import public
from privnb.site.reporting import failure, one_line, problem_of
from privnb.site.rounds import Rounds
from privnb.site.run_book import RunBook
from privnb.site.run_checks import RunChecks
from privnb.site.run_ending import RunEndings
from privnb.site.run_steps import Steps, read_ask, step_of
from privnb.site.runs import Runs

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import OwnerPort
    from privnb.site.approvals import Approvals
    from privnb.site.audit import AuditLog
    from privnb.site.config import SiteConfig
    from privnb.site.contributing import Contribution
    from privnb.site.database import Database
    from privnb.site.ending import Ended
    from privnb.site.engine import Engine
    from privnb.site.liveness import AgentLock
    from privnb.site.parts import Part
    from privnb.site.python_engine import PythonEngine
    from privnb.site.requests import Record, RequestBook

__all__ = ["Federating"]

logger = logging.getLogger("privnb.site")

_JOIN = "000000-join"
_LOOK_SECONDS = 1.0
"""How often the agent looks for runs of agents that died."""
_PATROL_SECONDS = 5.0
"""How often it looks whether a run has lost its grant, or is idle."""
_FORGET_SECONDS = 60.0
"""How long the last answers to a run that ended here wait for the analyst."""
_ACTIVE_SECONDS = 5.0
"""For how long after an ask the next one is looked for quickly."""
_RESTING_SECONDS = 600.0
_MOST_AT_ONCE = 4
"""How many asks of one run are answered in one go, so that others get a turn."""
_THREADS = 2
"""For parts of noisy sums; apps train in threads of their own, since they may take long."""


class Federating:
    """Takes part in runs. For the agent's thread; parts are computed in threads of their own.

    Parameters
    ----------
    port
        The site's end of the channel.
    pace
        How often the channel of a run is looked at while it is active, and while it rests; seconds.
    """

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        engine: Engine,
        python: PythonEngine | None,
        approvals: Approvals,
        database: Database,
        book: RequestBook,
        audit: AuditLog,
        lock: AgentLock,
        port: OwnerPort,
        today: Callable[[], dt.date],
        pace: tuple[float, float] = (0.002, 0.1),
    ) -> None:
        self._federated = config.federated or FederatedConfig(partners=())
        self._engine = engine
        self._python = python
        self._database = database
        self._book = book
        self._audit = audit
        self._lock = lock
        self._port = port
        self._pace = pace
        self._checks = RunChecks(config, approvals=approvals, own=audit.verifier_key, today=today)
        self._contributing = Contributing(database=database, book=book, checks=self._checks)
        self._steps = Steps(self._contributing)
        self._endings = RunEndings(
            engine=engine, approvals=approvals, database=database, book=book, audit=audit
        )
        workers = config.python.workers if python is not None and config.python else 0
        self._noisy = Runs(threads=_THREADS)
        self._trainings = Runs(threads=max(workers, 1))
        self._runs: dict[tuple[str, str], JoinedRun] = {}
        self._ended: list[Ended] = []
        self._unread: dict[tuple[str, str], float] = {}
        self._next_look = self._next_patrol = 0.0

    @property
    def rest(self) -> float | None:
        """For how many seconds there is nothing to do; None: until a run begins."""
        if not self._runs:
            return None
        if any(run.working for run in self._runs.values()):
            return self._pace[0]
        due = min(run.next_look for run in self._runs.values())
        return max(due - time.monotonic(), 0.0)

    def is_joined(self, sender: str, name: str) -> bool:
        """Tell whether a request is a run that is under way here."""
        return (sender, name) in self._runs

    def close(self) -> None:
        """Start nothing more, and end what runs; after a restart the runs go on."""
        self._noisy.close()
        self._trainings.close()
        for run in self._runs.values():
            run.part.close()
        self._runs.clear()

    def begin(self, record: Record) -> None:
        """Take part in a run that is entered as joined, and tell the analyst so.

        What keeps the site from it ends the run, and `tick` returns its reply.
        """
        try:
            run = self._opened(record)
        except StateError:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever it is, it ends this run alone
            self._note(self._endings.end(record, self._stored(record), problem=public(problem)))
            return
        self._runs[run.key] = run
        if self._objects(run):
            return
        logger.info("join analyst=%s request=%s", one_line(record.sender), record.name)
        with contextlib.suppress(ExchangeUnavailable):  # it is told as soon as that is possible
            self._tell(run, _JOIN, Told(step="join", attempt=0))

    def fail(self, record: Record) -> Ended | None:
        """Give up a run over which something unforeseen happened."""
        run = self._runs.get((record.sender, record.name))
        if run is None:
            return self._endings.end(record, self._stored(record), problem=failure())
        self._end(run, problem=failure())
        return self._ended.pop() if self._ended else None

    def tick(self) -> list[Ended]:
        """Go on with all runs; return the requests that ended, whose replies may be sent.

        Raises
        ------
        StateError, ExchangeUnavailable
            Database or exchange cannot be used now. Nothing is lost; call again later.
        """
        for threads in (self._noisy, self._trainings):
            for key in threads.done():
                run, future = self._runs.get(key[:2]), threads.take(key)
                if run is not None and run.working == key[2]:
                    run.computed = future
        moment = time.monotonic()
        if moment >= self._next_look:
            self._next_look = moment + _LOOK_SECONDS
            self._take_over()
            self._forget_unread(moment)
        patrol = moment >= self._next_patrol
        if patrol:
            self._next_patrol = moment + _PATROL_SECONDS
        for run in list(self._runs.values()):
            if run.computed is not None:
                self._carefully(run, self._finish)
            if patrol:
                self._carefully(run, self._patrol)
            if moment >= run.next_look:
                self._carefully(run, self._look)
        ended, self._ended = self._ended, []
        return ended

    # Runs, from beginning to end

    def _opened(self, record: Record) -> JoinedRun:
        """Get ready for a run, or raise why it cannot go on."""
        with self._database.read() as snapshot:
            computation = self._checks.computation_of(snapshot, record)
            stored = RunBook.find(snapshot, record.sender, record.name)
        federation = computation.federation
        if stored is None or federation is None:
            raise ValueError("a run that is joined, and was never entered")
        mock = record.action == "mock"
        part = part_of(computation, engine=self._engine, python=self._python, mock=mock)
        with self._database.read() as snapshot:
            table = self._paid(snapshot, record, computation, part)
        return JoinedRun(
            record=record,
            computation=computation,
            part=part,
            table=table,
            rounds=Rounds(
                run=record.name,
                bound=part.bound,
                me=self._audit.verifier_key,
                federation=federation,
                sign=self._audit.sign,
                min_sites=self._federated.min_sites,
                after=stored.attempt,
            ),
        )

    def _paid(
        self, snapshot: sa.Connection, record: Record, computation: Computation, part: Part
    ) -> str | None:
        """Return the table that was paid for; `ValueError` if it was not enough."""
        if part.plan is None or record.action == "mock":
            return None
        paid = ledger.charged(snapshot, analyst=record.sender, request=record.name)
        now = self._engine.charge(
            part.plan, computation, analyst=record.sender, request=record.name
        )
        if paid is None or not paid.covers(now):
            raise ValueError("the reservation does not pay for the plan any more")
        return paid.table

    def _stored(self, record: Record) -> Computation | None:
        with contextlib.suppress(PrivnbError, ValueError), self._database.read() as snapshot:
            return self._checks.computation_of(snapshot, record)
        return None

    def _take_over(self) -> None:
        """Go on with the runs of agents that died."""
        with self._database.read() as snapshot:
            joined = self._book.in_states(snapshot, ("joined",))
        for each in joined:
            key = (each.sender, each.name)
            if key in self._runs or self._lock.is_other_alive(each.agent):
                continue
            record = self._book.find(*key)
            if record is None or record.state != "joined":
                continue
            ours = dataclasses.replace(record, agent=self._lock.name)
            with self._database.write() as transaction:
                moved = self._book.move(
                    transaction, record, state=ours.state, agent=ours.agent, attempts=ours.attempts
                )
            if moved:
                self.begin(ours)

    def _patrol(self, run: JoinedRun) -> None:
        """End a run that may not go on, or of which nothing was heard for long."""
        if self._objects(run):
            return
        minutes = self._federated.idle_minutes
        if not run.working and time.monotonic() - run.heard > 60 * minutes:
            self._end(run, ended=f"nobody asked for anything for {minutes} minutes")

    def _objects(self, run: JoinedRun) -> bool:
        """End a run that may not go on, and tell whether it was one."""
        with self._database.read() as snapshot:
            problem = self._checks.objection(snapshot, run.record, run.computation, table=run.table)
        if problem is not None:
            self._end(run, problem=problem)
        return problem is not None

    def _end(self, run: JoinedRun, *, problem: PrivnbError | None = None, ended: str = "") -> None:
        """End a run at this site, for good."""
        self._note(
            self._endings.end(
                run.record, run.computation, run.part, table=run.table, problem=problem, ended=ended
            )
        )
        self._drop(run)
        self._unread[run.key] = time.monotonic()

    def _drop(self, run: JoinedRun) -> None:
        self._runs.pop(run.key, None)
        run.part.close()

    def _note(self, ended: Ended | None) -> None:
        if ended is not None:
            self._ended.append(ended)

    def _forget_unread(self, moment: float) -> None:
        """Remove what is left on the exchange of runs that ended a while ago."""
        for key, since in list(self._unread.items()):
            if moment - since > _FORGET_SECONDS:
                self._port.forget_run(*key)
                del self._unread[key]

    def _carefully(self, run: JoinedRun, step: Callable[[JoinedRun], None]) -> None:
        """Take a step, unless the run is over; what nobody foresaw ends this run alone."""
        if run.key not in self._runs:
            return
        try:
            step(run)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception:
            logger.exception("run %s of %s", run.record.name, run.record.sender)
            self._end(run, problem=failure())

    # Rounds

    def _look(self, run: JoinedRun) -> None:
        """Answer what the analyst asks."""
        self._send(run)
        names = self._port.asked(*run.key)
        now = time.monotonic()
        if any(name != run.working for name in names):
            run.heard = now
        over = [name for name in names if step_of(name)[1] == "end"]
        for name in over[:1] or names[:_MOST_AT_ONCE]:
            if not self._waits_for_part(run, name):
                self._answer(run, name)
            if run.key not in self._runs:
                return
        quick, slow = self._pace
        silent = now - run.heard
        pause = quick if silent < _ACTIVE_SECONDS else min(10 * quick, slow)
        run.next_look = now + (pause if silent < _RESTING_SECONDS else slow)

    @staticmethod
    def _waits_for_part(run: JoinedRun, name: str) -> bool:
        """Tell whether an ask comes after what is still computed: the same, or another part."""
        if not run.working:
            return False
        attempt, step = step_of(name)
        return step != "end" and (step == "contribute" or attempt == step_of(run.working)[0])

    def _answer(self, run: JoinedRun, name: str) -> None:
        try:
            data = self._port.hear(*run.key, name)
        except BadMessage as bad:
            logger.warning("%s", bad)
            return
        if data is None:
            return
        try:
            ask, blob = read_ask(name, data)
            if ask.step == "end":
                self._end(run, ended="" if ask.finished else "its analyst gave it up")
                self._port.forget_run(*run.key)
                return
            if ask.step == "contribute":
                work = self._contributing.prepare(run, ask, blob)
                threads = self._trainings if run.part.plan is None else self._noisy
                if threads.start((*run.key, name), work):
                    run.working = name
                return
            told = self._steps.told(run, ask)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception as problem:  # noqa: BLE001 - it concerns this ask alone
            self._tell_problem(run, name, problem)
            return
        self._tell(run, name, told)

    def _finish(self, run: JoinedRun) -> None:
        """Send a part that was computed."""
        future, name = run.computed, run.working
        if future is None:
            return
        try:
            made: Contribution = future.result()
            ours = self._contributing.write_down(run, made)
        except StateError:
            if future.exception() is None:
                raise  # it is written down later
            self._tell_problem(run, name, failure())
            return
        except Exception as problem:  # noqa: BLE001 - it concerns this part alone
            self._tell_problem(run, name, problem)
            return
        run.computed, run.working = None, ""
        if ours:
            self._tell(run, name, self._steps.contributed(run, made), made.masked)
        else:
            self._drop(run)

    def _tell_problem(self, run: JoinedRun, name: str, problem: Exception) -> None:
        """Say why an ask is not answered; an objection is also the end of the run."""
        if run.working == name:
            run.computed, run.working = None, ""
        over = isinstance(problem, Objection)
        told = problem.problem if isinstance(problem, Objection) else public(problem)
        attempt, step = step_of(name)
        self._tell(run, name, Told(step=step, attempt=attempt, problem=problem_of(told)))
        if over:
            self._end(run, problem=told)

    def _tell(self, run: JoinedRun, name: str, told: Told, blob: bytes = b"") -> None:
        run.unsent[name] = pack(told, blob)
        self._send(run)

    def _send(self, run: JoinedRun) -> None:
        """Send what waits to be; what the exchange does not take now is sent later."""
        for name, data in list(run.unsent.items()):
            try:
                self._port.tell(*run.key, name, data)
            except (NotAPeer, BadMessage) as problem:  # there is nobody to tell
                logger.warning("run %s: %s", run.record.name, problem)
            del run.unsent[name]
