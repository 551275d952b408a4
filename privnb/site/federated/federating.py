"""Federated runs at one site: what the analyst asks for, round by round, and the site's answers.

::

    approved, or paid for ─▶ joined ─▶ keys ─▶ a part under masks ─▶ shares ─▶ … ─▶ the reply
                                        └────────── each round ─────────┘

The analyst is no more trusted than the storage. What each may get of the sites stands in
`privnb.federated.attempt`; this side of it keeps to these rules, whoever is killed when:

- That the site takes part is in its audit log before it tells so (`privnb.site.federated.ending`).
- Grants, rules and signatures are asked anew before each part leaves, and where they do not hold
  any more the run ends here (`privnb.site.federated.checks`).
- Noise is drawn once for a round, and is written down before it leaves. What approved code gives
  without noise is in the books before it is computed, and so is every failure. After a few failures
  on data, or once other people consent, that run is over here
  (`privnb.site.federated.contributing`).
- What answers the very same input is summed over one set of sites: with noise within a run, without
  noise whoever asks, in whichever run (`privnb.site.federated.book`).
- Keys are in memory alone. A site that was restarted says so, and is back in the next attempt.
- A run of which the analyst says nothing for long ends by itself.
- What all runs hold in memory is bounded, and those on mock twins, which cost nothing, have a room
  and a thread of their own (`privnb.site.federated.joined`, `privnb.site.federated.asks`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from privnb.errors import ExchangeUnavailable, PrivnbError, StateError
from privnb.federated.messages import Told, bound_text
from privnb.site import ledger
from privnb.site.federated.asks import JOIN, Asks, Over
from privnb.site.federated.book import RunBook
from privnb.site.federated.checks import RunChecks
from privnb.site.federated.config import FederatedConfig
from privnb.site.federated.contributing import Contributing
from privnb.site.federated.ending import RunEndings
from privnb.site.federated.joined import JoinedRun
from privnb.site.federated.part_making import part_of
from privnb.site.federated.rounds import Rounds
from privnb.site.refusing import public
from privnb.site.reporting import failure, one_line

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.datasite.ports import OwnerPort
    from privnb.site.audit import AuditLog
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.ending import Ended
    from privnb.site.engine import Engine
    from privnb.site.federated.parts import Part
    from privnb.site.liveness import AgentLock
    from privnb.site.python_engine import PythonEngine
    from privnb.site.requests import Record, RequestBook
    from privnb.site.reviewing.approvals import Approvals

__all__ = ["Federating"]

logger = logging.getLogger("privnb.site")

_LOOK_SECONDS = 1.0
"""How often the agent looks for runs of agents that died."""
_PATROL_SECONDS = 5.0
"""How often it looks whether a run has lost its grant, or is idle."""
_FORGET_SECONDS = 60.0
"""How long the last answers to a run that ended here wait for the analyst."""


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
        self._checks = RunChecks(config, approvals=approvals, own=audit.verifier_key, today=today)
        self._endings = RunEndings(
            engine=engine, approvals=approvals, database=database, book=book, audit=audit
        )
        self._contributing = Contributing(
            database=database,
            book=book,
            checks=self._checks,
            endings=self._endings,
            audit=audit,
            fixed_sites=self._federated.fixed_sites,
        )
        self._runs: dict[tuple[str, str], JoinedRun] = {}
        self.asks = Asks(
            runs=self._runs,
            port=port,
            contributing=self._contributing,
            pace=pace,
            trainings=config.python.workers if python is not None and config.python else 0,
        )
        self._given_up: set[tuple[str, str]] = set()
        """Runs that cannot even be ended; whoever restarts the agent tries again."""
        self._ended: list[Ended] = []
        self._unread: dict[tuple[str, str], float] = {}
        self._next_look = self._next_patrol = 0.0

    @property
    def rest(self) -> float | None:
        """For how many seconds there is nothing to do; None: until a run begins."""
        return self.asks.rest()

    def is_joined(self, sender: str, name: str) -> bool:
        """Tell whether a request is a run that is under way here."""
        return (sender, name) in self._runs or (sender, name) in self._given_up

    def close(self) -> None:
        """Start nothing more, and end what runs; after a restart the runs go on."""
        self.asks.close()
        for run in self._runs.values():
            run.close()
        self._runs.clear()

    def begin(self, record: Record) -> None:
        """Take part in a run that is entered as joined, and tell the analyst so.

        What keeps the site from it ends the run, and `tick` returns its reply.
        """
        try:
            run = self._opened(record)
            objection = self._contributing.objection(run)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception as problem:  # noqa: BLE001 - whatever it is, it ends this run alone
            self._note(self._reply(record, Over(problem=public(problem))))
            return
        self._runs[run.key] = run
        if objection is not None:
            self._note(self._end(run, Over(problem=objection)))
            return
        logger.info("join analyst=%s request=%s", one_line(record.sender), record.name)
        with contextlib.suppress(ExchangeUnavailable):  # it is told as soon as that is possible
            self._carefully(run, self._tell_of_it)

    def fail(self, record: Record) -> Ended | None:
        """Give up a run over which something unforeseen happened."""
        run = self._runs.get((record.sender, record.name))
        if run is None:
            return self._reply(record, Over(problem=failure()))
        return self._end(run, Over(problem=failure()))

    def tick(self) -> list[Ended]:
        """Go on with all runs; return the requests that ended, whose replies may be sent.

        Raises
        ------
        StateError, ExchangeUnavailable
            Database or exchange cannot be used now. Nothing is lost; call again later.
        """
        self.asks.collect()
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
                self._carefully(run, self.asks.finish)
            if patrol:
                self._carefully(run, self._patrol)
            if moment >= run.next_look:
                self._carefully(run, self.asks.look)
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
                bound=bound_text(
                    computation.digest,
                    action=record.action,
                    analyst=record.sender,
                    form=part.form,
                ),
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
            if self.is_joined(*key) or self._lock.is_other_alive(each.agent):
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

    def _tell_of_it(self, run: JoinedRun) -> None:
        self.asks.tell(run, JOIN, Told(step="join", attempt=0))

    def _patrol(self, run: JoinedRun) -> Over | None:
        """Find that a run may not go on, or that nothing was heard of it for long."""
        problem = self._contributing.objection(run)
        if problem is not None:
            return Over(problem=problem)
        minutes = self._federated.idle_minutes
        if not run.working and time.monotonic() - run.heard > 60 * minutes:
            return Over(ended=f"nobody asked for anything for {minutes} minutes")
        return None

    def _end(self, run: JoinedRun, over: Over) -> Ended | None:
        """End a run at this site, for good."""
        ended = None if over.moved else self._reply(run.record, over, run)
        del self._runs[run.key]
        self.asks.cancel(run)
        try:
            run.close()
        except Exception:
            logger.exception("run %s of %s", run.record.name, run.record.sender)
        if over.by_analyst:
            self._port.forget_run(*run.key)
        elif not over.moved:
            self._unread[run.key] = time.monotonic()
        return ended

    def _reply(self, record: Record, over: Over, run: JoinedRun | None = None) -> Ended | None:
        """Store the reply to a run; a failure where what there is to say cannot be said.

        Parameters
        ----------
        run
            None where it did not even begin, or not by this agent.
        """
        end = self._endings.end
        unsent = run is not None and run.claim()
        ways: list[Callable[[], Ended | None]] = []
        if run is not None:
            ways.append(
                lambda: end(
                    record,
                    run.computation,
                    run.part,
                    table=run.table,
                    problem=over.problem,
                    ended=over.ended,
                    unsent=unsent,
                )
            )
            ways.append(
                lambda: end(
                    record,
                    run.computation,
                    table=run.table,
                    problem=failure(),
                    unsent=unsent,
                )
            )
        else:
            ways.append(lambda: end(record, self._stored(record), problem=over.problem))
        ways.append(lambda: end(record, None, problem=failure()))
        for way in ways:
            try:
                return way()
            except (StateError, ExchangeUnavailable):
                if run is not None:
                    run.counted = unsent  # it is ended later
                raise
            except Exception:
                logger.exception("the end of run %s of %s", record.name, record.sender)
        self._given_up.add((record.sender, record.name))
        return None

    def _note(self, ended: Ended | None) -> None:
        if ended is not None:
            self._ended.append(ended)

    def _forget_unread(self, moment: float) -> None:
        """Remove what is left on the exchange of runs that ended a while ago."""
        for key, since in list(self._unread.items()):
            if moment - since > _FORGET_SECONDS:
                self._port.forget_run(*key)
                del self._unread[key]

    def _carefully(self, run: JoinedRun, step: Callable[[JoinedRun], Over | None]) -> None:
        """Take a step, unless the run is over; what nobody foresaw ends this run alone."""
        if run.key not in self._runs:
            return
        try:
            over = step(run)
        except (StateError, ExchangeUnavailable):
            raise
        except Exception:
            logger.exception("run %s of %s", run.record.name, run.record.sender)
            over = Over(problem=failure())
        if over is not None:
            self._note(self._end(run, over))
