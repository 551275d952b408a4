"""Begins federated runs, and takes up those that were begun before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from privnb.errors import PrivnbError
from privnb.federated.course import RunCourse
from privnb.federated.history import RunFiles
from privnb.federated.progress import Board
from privnb.federated.runs import FederatedRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.computation import Computation
    from privnb.datasite.ports import AnalystPort
    from privnb.dispatch import Dispatch
    from privnb.federated.asking import Pace
    from privnb.federated.history import Checkpoint, RunPlan
    from privnb.request import Request
    from privnb.store import Record, Store

__all__ = ["Opening"]


class Opening:
    """Makes the handles on the federated runs of one analyst, who is named by email."""

    def __init__(
        self, analyst: str, *, datasite: AnalystPort, store: Store, dispatch: Dispatch
    ) -> None:
        self._analyst = analyst
        self._datasite = datasite
        self._store = store
        self._dispatch = dispatch

    def begin(  # noqa: PLR0913 - keywords, each one part of the run
        self,
        action: Literal["run", "mock"],
        owners: Mapping[str, str],
        computation: Computation,
        *,
        plan: RunPlan,
        start: Checkpoint,
        strategy: Any = None,
    ) -> FederatedRun:
        """Write a run down, ask its sites, and begin to drive it.

        Raises as `Dispatch.send` does, if not even one site could be asked.
        """

        def prepare(request: str) -> None:
            RunFiles(self._store.run_folder(request)).begin(plan, start)

        request = self._dispatch.send(action, owners, computation, prepare=prepare)
        run = self._run(self._store.record(request.id), request, strategy=strategy)
        run.start()
        return run

    def take_up(self, record: Record, *, strategy: Any = None) -> FederatedRun:
        """Make a handle on a run that was begun before; it goes on once it is started.

        Raises `StateError` where what was kept of it cannot be used.
        """
        return self._run(record, self._dispatch.take_up(record), strategy=strategy)

    def why_over(self, request: Request) -> str:
        """Say why nothing comes of a run, whoever still waits for it; "" if something may."""
        files = RunFiles(self._store.run_folder(request.id))
        try:
            failure, plan = files.failure(), files.plan()
        except PrivnbError:  # what is wrong with its files is said to whoever takes it up
            return ""
        name = request.id[:8]
        if failure is not None:
            return f"The run is over; %privnb result {name} says why"
        federation = request.computation.federation if request.computation else None
        out = [each.site for each in request.standings if each.is_out]
        if len(request.sites) - len(out) >= plan.needed(federation):
            return ""
        return f"It cannot go on without {', '.join(out)}; %privnb result {name} says why"

    def _run(
        self, record: Record, request: Request, *, strategy: Any, pace: Pace | None = None
    ) -> FederatedRun:
        federation = record.computation.federation if record.computation else None
        files = RunFiles(self._store.run_folder(record.request))
        board = Board(request.sites, rounds=federation.rounds if federation else 1)

        def states(seconds: float) -> Mapping[str, str]:
            try:
                request.hear(self._dispatch.states([request], seconds=seconds))
            except PrivnbError:  # it is only asked to be told
                return {}
            return {each.site: each.state for each in request.standings}

        course = RunCourse(
            record,
            request,
            analyst=self._analyst,
            files=files,
            port=self._datasite,
            states=states,
            forget=lambda: self._store.forget(record.request),
            strategy=strategy,
            pace=pace,
        )
        return FederatedRun(request, files=files, board=board, course=course)
