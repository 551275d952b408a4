"""The site's agent: takes requests in, has them answered, sends the replies, and survives."""

from __future__ import annotations

import datetime as dt
import logging
import time
from typing import TYPE_CHECKING

from privnb.datasite.ports import ArrivedJob
from privnb.errors import ExchangeUnavailable, PrivnbError, StateError
from privnb.messages import REPLY_FILE
from privnb.site.answering import Answering, Outgoing
from privnb.site.engine import Engine
from privnb.site.liveness import AgentLock

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from privnb.datasite.ports import OwnerPort
    from privnb.site.audit import AuditLog
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database
    from privnb.site.ending import Ended
    from privnb.site.engine import OpenTables, Planner
    from privnb.site.python_engine import PythonEngine

__all__ = ["Agent"]

logger = logging.getLogger("privnb.site")

_HEARTBEAT_SECONDS = 10.0
_RECOVERY_SECONDS = 2.0
_BACKOFF_SECONDS = (0.1, 0.5, 2.0, 5.0)
_ACTIVE_SECONDS = 3.0
_LOCAL_PAUSES = (0.003, 0.025)
_REMOTE_PAUSES = (0.1, 0.5)
_LOCAL_PACE = (0.002, 0.1)
_REMOTE_PACE = (0.1, 1.0)
"""How often the channel of a federated run is looked at: while it is active, and while it rests."""
_SHORTEST_REST = 0.0005
_RATE = 100.0
_BURST = 400.0


class Agent:
    """Serves one site. For one thread; several agents may serve a site at a time.

    Parameters
    ----------
    port
        The site's datasite.
    tables
        The bounded tables and their mock twins.
    database
        Grants, ledger and requests; shared by all agents of the site.
    state
        The site's private state folder.
    audit
        The site's audit log; closes nothing.
    python
        What runs Python cells; None where they are not taken.
    planner
        What plans questions; by default `privnb.dp.planner.plan`.
    today, now
        The date by which grants expire, and the moment by which requests in review do. Nothing
        else follows the wall clock.

    Examples
    --------
    >>> agent = open_agent(Path("northside"))  # doctest: +SKIP
    >>> agent.step()  # doctest: +SKIP
    1
    """

    def __init__(  # noqa: PLR0913 - each collaborator can be replaced in tests
        self,
        config: SiteConfig,
        *,
        port: OwnerPort,
        tables: OpenTables,
        database: Database,
        state: Path,
        audit: AuditLog,
        python: PythonEngine | None = None,
        planner: Planner | None = None,
        today: Callable[[], dt.date] = lambda: dt.datetime.now(dt.UTC).date(),
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._config = config
        self._port = port
        self._database = database
        self._engine = Engine(config, tables, planner=planner)
        self._lock = AgentLock(state / "agents")
        remote = "://" in _without_local(config.exchange)
        self._pauses = _REMOTE_PAUSES if remote else _LOCAL_PAUSES
        self._answering = Answering(
            config,
            engine=self._engine,
            python=python,
            database=database,
            audit=audit,
            lock=self._lock,
            port=port,
            today=today,
            now=now,
            pace=_REMOTE_PACE if remote else _LOCAL_PACE,
        )
        self._rates: dict[str, _Rate] = {}
        self._hopeless: set[tuple[str, str]] = set()
        # Replies the exchange has taken. They are noted together every few seconds: should a note
        # be lost, the same bytes are offered to the exchange once more.
        self._sent: list[tuple[str, str]] = []
        self._next_heartbeat = self._next_recovery = 0.0
        self._config_stamp = _stamp(config.path)

    def warm(self) -> None:
        """Load all that the first request would otherwise wait for, some seconds long."""
        self._answering.warm()

    def step(self) -> int:
        """Take in and answer what has arrived; return how many requests were answered.

        Raises
        ------
        ExchangeUnavailable, StateError
            Exchange or database cannot be used now. Nothing is lost; step again later.
        """
        recover = time.monotonic() >= self._next_recovery
        if recover:
            self._note_the_dead()
        self._show_life()
        handled: set[tuple[str, str]] = set()
        answered = self._go_on()
        for job in self._port.poll(self._answering.book):
            handled.add((job.sender, job.name))
            answered += self._handle(job)
        if recover:
            self._next_recovery = time.monotonic() + _RECOVERY_SECONDS
            answered += self._send_owed(handled)
        return answered

    def run(self, stop: threading.Event) -> None:
        """Serve until ``stop`` is set; the request at hand is finished first."""
        failures = 0
        last_work = time.monotonic()
        while not stop.is_set():
            try:
                if self.step():
                    last_work = time.monotonic()
                if failures:
                    logger.warning("working again")
                failures = 0
                quick, slow = self._pauses
                idle = time.monotonic() - last_work
                active = idle < _ACTIVE_SECONDS or self._answering.under_way.busy
                self._pause(stop, quick if active else slow)
            except Exception as problem:  # noqa: BLE001 - the agent lives
                self._report(problem, first=not failures)
                stop.wait(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
                failures += 1

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        """Wait for the next step, and meanwhile go on with federated runs, which are in a hurry."""
        end = time.monotonic() + seconds
        while not stop.is_set():
            left = end - time.monotonic()
            rest = self._answering.federating.rest
            if rest is None or rest >= left:
                stop.wait(max(left, 0))
                return
            stop.wait(max(rest, _SHORTEST_REST))
            self._send_ended(self._answering.federating.tick())

    def close(self) -> None:
        """Note what was sent, let go of the tables and the database, and end this agent."""
        try:
            self._note_sent()
        except StateError as problem:
            logger.warning("%s", problem)
        self._answering.close()
        self._engine.close()
        self._database.close()
        self._lock.release()

    def _handle(self, job: ArrivedJob, *, owed: bool = False) -> bool:
        key = (job.sender, job.name)
        if key in self._hopeless or (not owed and self._answering.is_parked(*key)):
            return False
        if not self._rates.setdefault(job.sender, _Rate()).allows():
            return False
        try:
            outgoing = self._answering.answer(job)
        except (ExchangeUnavailable, StateError):
            raise
        except Exception:
            logger.exception("request %r of %s", job.name, job.sender)
            outgoing = self._apologise(job)
        if outgoing is None:
            return False
        self._send(job, outgoing)
        return True

    def _go_on(self) -> int:
        """Go on with Python computations and runs, and send the replies of those that ended."""
        sent = self._send_ended(self._answering.under_way.tick())
        return sent + self._send_ended(self._answering.federating.tick())

    def _send_ended(self, ended: Sequence[Ended]) -> int:
        for each in ended:
            files = self._answering.files_of(each.record)
            sender, name = each.record.sender, each.record.name
            self._send(ArrivedJob(sender=sender, name=name, files=files), each.outgoing)
        return len(ended)

    def _apologise(self, job: ArrivedJob) -> Outgoing | None:
        try:
            return self._answering.give_up(job)
        except (ExchangeUnavailable, StateError):
            raise
        except Exception:
            logger.exception("request %r of %s is put away", job.name, job.sender)
            self._put_away(job)
            return None

    def _send(self, job: ArrivedJob, outgoing: Outgoing) -> None:
        try:
            self._port.reply(job, {REPLY_FILE: outgoing.reply}, succeeded=outgoing.succeeded)
        except (ExchangeUnavailable, StateError):
            raise
        except Exception:
            # The peer was rejected meanwhile, or its key changed: there is nobody to answer.
            logger.exception("reply to request %r of %s", job.name, job.sender)
            self._put_away(job)
        self._sent.append((job.sender, job.name))

    def _put_away(self, job: ArrivedJob) -> None:
        try:
            self._port.retire(job)
        except (ExchangeUnavailable, StateError):
            raise
        except Exception:
            logger.exception("request %r of %s cannot be put away", job.name, job.sender)
            self._hopeless.add((job.sender, job.name))

    def _show_life(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._port.publish_card(self._config.name)
            self._next_heartbeat = now + _HEARTBEAT_SECONDS
            self._watch_config()

    def _watch_config(self) -> None:
        stamp = _stamp(self._config.path)
        if stamp != self._config_stamp:
            # Bounds and keys are built into the tables: a change is never taken up half-way.
            logger.warning("%s has changed: restart the agent to use it", self._config.path)
            self._config_stamp = stamp

    def _note_sent(self) -> None:
        if self._sent:
            with self._database.write() as transaction:
                self._answering.book.delivered(transaction, self._sent)
            self._sent.clear()

    def _note_the_dead(self) -> None:
        for agent, request in self._lock.dead_agents():
            if request is not None:
                with self._database.write() as transaction:
                    self._answering.book.interrupted(
                        transaction, sender=request[0], name=request[1], agent=agent
                    )

    def _send_owed(self, handled: set[tuple[str, str]]) -> int:
        """Answer what the database owes but the datasite no longer shows."""
        self._note_sent()
        answered = 0
        for record in self._answering.book.owed():
            if (record.sender, record.name) not in handled:
                files = self._answering.files_of(record)
                job = ArrivedJob(sender=record.sender, name=record.name, files=files)
                answered += self._handle(job, owed=True)
        return answered

    def _report(self, problem: Exception, *, first: bool) -> None:
        if isinstance(problem, PrivnbError):
            if first:
                logger.warning("%s %s Trying again.", problem, problem.hint)
        else:
            logger.error("unforeseen", exc_info=problem)


class _Rate:
    """How many requests of one sender are taken up: a bucket that fills by the second."""

    def __init__(self) -> None:
        self._left = _BURST
        self._at = time.monotonic()

    def allows(self) -> bool:
        now = time.monotonic()
        self._left = min(self._left + (now - self._at) * _RATE, _BURST)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _without_local(exchange: str) -> str:
    for scheme in ("file://", "local://", "memory://"):
        exchange = exchange.removeprefix(scheme)
    return exchange
