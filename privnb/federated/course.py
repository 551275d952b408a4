"""The course of one run: sets a conductor up, lets it do the run's program, and ends it."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from privnb.errors import (
    ExchangeError,
    ExchangeUnavailable,
    PrivnbError,
    RunStalled,
    StateError,
    error_from_code,
)
from privnb.federated.asking import Pace, Party, RunStopped, step_name
from privnb.federated.messages import Ask, bound_text, pack
from privnb.messages import Problem

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from privnb.computation import Computation, Federation
    from privnb.datasite.ports import AnalystPort
    from privnb.dp.plan import Plan
    from privnb.dp.training import TrainingPlan
    from privnb.federated.conductor import Conductor
    from privnb.federated.history import RunFiles, RunPlan
    from privnb.federated.progress import Board
    from privnb.federated.release import Outcome
    from privnb.request import Request
    from privnb.store import Record

__all__ = ["Pulse", "RunCourse", "question_of", "training_of"]

_PULSE_SECONDS = 3.0
_STATES_SECONDS = 2.0


class Pulse:
    """When agents of sites last showed that they live, by this machine's clock.

    What they write on their cards is by their own clocks; that it changes is what counts.
    """

    def __init__(self, port: AnalystPort) -> None:
        self._port = port
        self._next = 0.0
        self._said: dict[str, float | None] = {}
        self._changed: dict[str, float] = {}

    def __call__(self) -> Mapping[str, float]:
        """Return by owner when a card last changed, in seconds of `time.monotonic`."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PULSE_SECONDS
            with contextlib.suppress(ExchangeError):  # nobody is dead because the storage is gone
                for card in self._port.sites():
                    if self._said.get(card.owner, ...) != card.last_seen:
                        self._said[card.owner] = card.last_seen
                        self._changed[card.owner] = now
        return self._changed


class RunCourse:
    """What one run does, and how it ends; see `privnb.federated.runs.Course`.

    Parameters
    ----------
    analyst
        Whose run it is: their email, as sites know it.
    strategy
        The strategy of a training where an instance was given, which is not on disk.
    states
        Asks the sites how far they are, and returns their states by name.
    forget
        Removes the request itself.
    """

    def __init__(  # noqa: PLR0913 - keywords, each one thing that a run depends on
        self,
        record: Record,
        request: Request,
        *,
        analyst: str,
        files: RunFiles,
        port: AnalystPort,
        states: Callable[[float], Mapping[str, str]],
        forget: Callable[[], None],
        strategy: Any = None,
        pace: Pace | None = None,
    ) -> None:
        if record.computation is None or record.computation.federation is None:
            raise StateError("This request is no federated run.", hint="Take it up by its id.")
        self._record = record
        self._request = request
        self._analyst = analyst
        self._computation: Computation = record.computation
        self._federation: Federation = record.computation.federation
        self._files = files
        self._port = port
        self._states = states
        self._forget = forget
        self._strategy = strategy
        self._pace = pace

    def drive(self, board: Board, stop: threading.Event) -> None:
        """Bring the run from where its files say it is to its end, and write down how it ended.

        Raises
        ------
        RunStopped
            As ``stop`` was set.
        RunStalled, StateError, ExchangeUnavailable
            Too few sites are left, or something of ours cannot be used; it can be driven again.
        PrivnbError
            What ended it, where the files say so too.
        """
        plan = self._files.plan()
        program, form = self._program(plan)
        bound = bound_text(
            self._computation.digest, action=self._record.action, analyst=self._analyst, form=form
        )
        conductor = self._conductor(plan, board, stop, bound)
        begun = False
        try:
            people_decide = self._computation.kind == "python" and self._record.action == "run"
            conductor.gather(
                people_decide=people_decide, says=lambda: self._states(_STATES_SECONDS)
            )
            begun = True
            board.state("running")
            outcome = program(conductor)
            self._files.finish(replace(outcome, mock=self._record.action == "mock"))
            board.state("ending")
            conductor.end(finished=True)
        except (RunStopped, RunStalled, StateError, ExchangeUnavailable):
            raise  # it can go on later: once sites are back, or the disk has room
        except PrivnbError as problem:
            charged = "" if begun else self._charged(conductor)
            message = problem.message + charged
            self._files.fail(Problem(code=problem.code, message=message, hint=problem.hint))
            conductor.end(finished=False)
            if not charged:
                raise
            raise error_from_code(problem.code, message, problem.hint) from None
        finally:
            conductor.close()

    def give_up(self) -> None:
        """Tell the sites that have not replied for good that the run is given up."""
        last = self._files.next_attempt()
        ask = pack(Ask(step="end", attempt=last, finished=False))
        for owner in self._request.owners.values():
            with contextlib.suppress(PrivnbError):  # a site notices by itself, in time
                self._port.tell(owner, self._record.request, step_name(last, "end"), ask)

    def tidy(self) -> None:
        """Remove what is left of the run's rounds from the exchange."""
        for owner in self._record.sites.values():
            with contextlib.suppress(PrivnbError):  # it is only clutter
                self._port.forget_run(owner, self._record.request)

    def forget(self) -> None:
        """Remove all that is kept of the run here."""
        shutil.rmtree(self._files.folder, ignore_errors=True)
        self._forget()

    def _charged(self, conductor: Conductor) -> str:
        """Say which sites have charged for a run that never began; "" if none is known to."""
        epsilon = self._computation.epsilon
        if epsilon is None or self._record.action != "run":
            return ""
        presence = conductor.presence
        presence.listen()
        if presence.missing:
            presence.told(self._states(_STATES_SECONDS))
        names = ", ".join(party.name for party in presence.there)
        return f" Charged epsilon {epsilon} for it all the same: {names}." if names else ""

    def _conductor(
        self, plan: RunPlan, board: Board, stop: threading.Event, bound: str
    ) -> Conductor:
        from privnb.federated.conductor import Conductor  # noqa: PLC0415 - numpy is slow to load

        keys = {name: key for key, name in plan.names.items()}
        return Conductor(
            run=self._record.request,
            bound=bound,
            federation=self._federation,
            parties=[
                Party(name=name, owner=self._record.sites[name], key=keys[name])
                for name in self._request.sites
            ],
            channel=self._port,
            min_sites=plan.min_sites,
            memory=self._files,
            board=board,
            replies=self._replied,
            stop=stop,
            pace=self._pace or Pace(deadline=plan.deadline),
            alive=Pulse(self._port),
        )

    def _replied(self) -> Mapping[str, PrivnbError | None]:
        """Return what sites replied for good: an error, or None for one that ended its part."""
        with contextlib.suppress(ExchangeError):  # a storage that is gone may come back
            self._request.poll()
        return {
            site: reply if isinstance(reply, PrivnbError) else None
            for site, reply in self._request.replies().items()
        }

    def _program(self, plan: RunPlan) -> tuple[Callable[[Conductor], Outcome], str]:
        """Return what the run does, and the form of its noisy sums; "" if they have no noise."""
        from privnb.federated import programs  # noqa: PLC0415 - numpy is slow to load

        files = self._files
        if self._computation.kind == "sql":
            from privnb.dp.sharing import form  # noqa: PLC0415 - it reads SQL

            question = question_of(self._computation, plan)
            return (
                lambda c: programs.total(c, files, plan=plan, question=question),
                form(question),
            )
        if self._computation.kind == "model":
            training = training_of(self._computation, plan)
            return (
                lambda c: programs.train_model(c, files, plan=plan, training=training),
                training.form,
            )
        strategy = self._flower_strategy(plan)
        return lambda c: programs.train(c, files, plan=plan, strategy=strategy), ""

    def _flower_strategy(self, plan: RunPlan) -> Any:
        from privnb.federated.strategies import made, prepare  # noqa: PLC0415 - Flower takes long

        strategy = self._strategy
        if strategy is None:
            if plan.options is None:
                raise RunStalled(
                    f"The strategy of this run was an object of an earlier kernel: a"
                    f" {plan.strategy}.",
                    hint="Make it again, and call session.request("
                    f"{self._record.request[:8]!r}, strategy=…).result().",
                )
            strategy = made(plan.strategy, plan.options)
        return prepare(strategy, sites=len(plan.names))


def question_of(computation: Computation, plan: RunPlan) -> Plan:
    """Plan the question of totals, as every site does."""
    from privnb.dp.planner import plan as planned  # noqa: PLC0415 - it reads SQL

    return planned(
        computation.source,
        tables={schema.name: schema for schema in plan.schemas},
        parameters=computation.parameters,
        epsilon=Decimal(computation.epsilon or "0"),
        federation=computation.federation,
    )


def training_of(computation: Computation, plan: RunPlan) -> TrainingPlan:
    """Plan the training of a model of ours, as every site does."""
    from privnb.dp.training import ModelSpec, plan_training  # noqa: PLC0415 - OpenDP is slow

    (schema,) = plan.schemas
    if computation.federation is None:
        raise StateError("This request is no federated run.", hint="Take it up by its id.")
    return plan_training(
        ModelSpec.read(computation.source),
        schema=schema,
        epsilon=Decimal(computation.epsilon or "0"),
        federation=computation.federation,
    )
