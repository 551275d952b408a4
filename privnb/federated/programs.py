"""What a run does between its sites' joining and its end: totals, training, or a model of ours.

Each program begins where the run's files say that it is, writes a checkpoint after every round, and
returns what came of it all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.errors import RoundLost
from privnb.federated import ring
from privnb.federated.conductor import RoundSpent
from privnb.federated.history import Checkpoint
from privnb.federated.messages import Work
from privnb.federated.release import ArrayShown, HistoryRow, Outcome
from privnb.federated.vectors import forms_of, packed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.app import ArrayRecord, Message, MetricRecord
    from flwr.serverapp.strategy import FedAvg
    from numpy.typing import NDArray

    from privnb.dp.plan import Plan
    from privnb.dp.training import TrainingPlan
    from privnb.federated.conductor import Conductor, Summed
    from privnb.federated.history import RunFiles, RunPlan

__all__ = ["shown", "total", "train", "train_model"]

_MOST_SHOWN = 64
"""Numbers of one array that a notebook shows."""
_PARAMETERS = "parameters"


def total(conductor: Conductor, files: RunFiles, *, plan: RunPlan, question: Plan) -> Outcome:
    """Sum the sites' noisy integers once, and compute the answer from the sum.

    Raises as `Conductor.sum` does.
    """
    summed = conductor.sum(Work(kind="totals", round=1), length=question.share_length, more=False)
    pieces, parts = conductor.federation.pieces, len(summed.sites)
    answer = question.combine(ring.to_integers(summed.total), parts=parts, pieces=pieces)
    row = _row(1, summed, seconds=summed.seconds, metrics={})
    conductor.board.done(1, seconds=summed.seconds)
    files.save(Checkpoint(round=1, arrays={}, history=(row,), remarks=_remarks(conductor)))
    return Outcome(
        kind="totals",
        federation=conductor.federation,
        names=plan.names,
        answer=answer,
        history=(row,),
        noise=_noise([row], pieces=pieces),
        remarks=_remarks(conductor),
    )


def train(conductor: Conductor, files: RunFiles, *, plan: RunPlan, strategy: FedAvg) -> Outcome:
    """Do the rounds of a Flower strategy: each site trains, and only the mean is seen.

    A round to which sites give nothing more is left out, and the next one begins where it began,
    as long as one was done or there is another.

    Raises as `Conductor.sum` and `SumGrid.send_and_receive` do, and what the strategy raises.
    """
    from privnb.federated.flower import (  # noqa: PLC0415 - Flower takes long
        Array,
        ArrayRecord,
        ConfigRecord,
        identify,
    )
    from privnb.federated.grid import SumGrid  # noqa: PLC0415
    from privnb.federated.strategies import quiet, remembered, restore, words  # noqa: PLC0415

    identify()
    rounds = conductor.federation.rounds
    start = files.checkpoint()
    restore(strategy, start.state)
    arrays = ArrayRecord({name: Array(array) for name, array in start.arrays.items()})
    history = list(start.history)
    evaluates = plan.evaluates and strategy.fraction_evaluate > 0

    def summed(work: Work, blob: bytes) -> Summed:
        more = work.round < rounds or (evaluates and work.kind == "train")
        return conductor.sum(work, blob, more=more)

    grid = SumGrid(
        sites=len(plan.names), rounds=rounds, weighted_by=strategy.weighted_by_key, summed=summed
    )

    def configured(number: int, kind: str) -> list[Message]:
        configure = strategy.configure_train if kind == "train" else strategy.configure_evaluate
        with quiet():
            return list(configure(number, arrays, ConfigRecord(), grid))

    def evaluated(number: int) -> dict[str, float]:
        try:
            replies = list(grid.send_and_receive(configured(number, "evaluate")))
        except RoundSpent as spent:  # the round itself is done
            conductor.board.remark(spent.message)
            return {}
        with quiet():
            return _metrics("evaluate", strategy.aggregate_evaluate(number, replies))

    for number in range(start.round + 1, rounds + 1):
        begun = time.monotonic()
        grid.round = number
        try:
            replies = list(grid.send_and_receive(configured(number, "train")))
        except RoundSpent as spent:
            if number == rounds and not history:
                raise
            conductor.board.remark(spent.message)
            continue
        trained = grid.last
        with quiet():
            new, measured = strategy.aggregate_train(number, replies)
        arrays = new if new is not None else arrays
        metrics = _metrics("train", measured)
        conductor.board.measured(number, metrics)
        if evaluates:
            metrics |= evaluated(number)
            conductor.board.measured(number, metrics)
        seconds = time.monotonic() - begun
        if trained is not None:
            result, mean = trained
            history.append(
                _row(number, result, seconds=seconds, metrics=metrics, weight=mean.weight)
            )
        files.save(
            Checkpoint(
                round=number,
                arrays=_numpy(arrays),
                state=remembered(strategy),
                history=tuple(history),
                remarks=_remarks(conductor),
            )
        )
        conductor.board.done(number, seconds=seconds)
    return Outcome(
        kind="training",
        federation=conductor.federation,
        names=plan.names,
        arrays=shown(_numpy(arrays)),
        history=tuple(history),
        asked_rounds=rounds,
        strategy=words(strategy),
        remarks=_remarks(conductor),
    )


def train_model(
    conductor: Conductor, files: RunFiles, *, plan: RunPlan, training: TrainingPlan
) -> Outcome:
    """Do the rounds of a model of ours: each site gives a noisy gradient, only the sum is seen.

    A round whose sum cannot be opened, nor soon be, is lost, as each site draws noise for it once;
    the next one goes on from where it was. Raises as `Conductor.sum` does.
    """
    rounds = conductor.federation.rounds
    start = files.checkpoint()
    parameters = start.arrays[_PARAMETERS]
    history = list(start.history)
    for number in range(start.round + 1, rounds + 1):
        begun = time.monotonic()
        named = {_PARAMETERS: parameters}
        work = Work(kind="gradient", round=number, arrays=forms_of(named))
        try:
            summed = conductor.sum(
                work,
                packed(named),
                length=training.length,
                more=number < rounds,
                replaceable=True,
            )
        except RoundLost as lost:
            if number == rounds and not history:
                raise
            conductor.board.remark(lost.message)
            continue
        parameters = training.step(
            ring.to_integers(summed.total), parameters, round=number, parts=len(summed.sites)
        )
        seconds = time.monotonic() - begun
        metrics = training.measured(parameters)
        conductor.board.measured(number, metrics)
        history.append(_row(number, summed, seconds=seconds, metrics=metrics))
        files.save(
            Checkpoint(
                round=number,
                arrays={_PARAMETERS: parameters},
                history=tuple(history),
                remarks=_remarks(conductor),
            )
        )
        conductor.board.done(number, seconds=seconds)
    return Outcome(
        kind="model",
        federation=conductor.federation,
        names=plan.names,
        answer=training.coefficients(parameters),
        arrays=shown({_PARAMETERS: parameters}),
        history=tuple(history),
        asked_rounds=rounds,
        noise=_noise(history, pieces=conductor.federation.pieces) if history else (),
        remarks=_remarks(conductor),
    )


def shown(arrays: Mapping[str, NDArray[Any]]) -> tuple[ArrayShown, ...]:
    """Return what a notebook shows of arrays."""
    return tuple(
        ArrayShown(
            name=name,
            dtype=array.dtype.name,
            shape=array.shape,
            first=tuple(array.reshape(-1)[:_MOST_SHOWN].astype(float).tolist()),
        )
        for name, array in arrays.items()
        if np.isfinite(array).all()
    )


def _noise(history: Sequence[HistoryRow], *, pieces: int) -> tuple[str, ...]:
    """Say how much noise the sums have, against what their price needs and what asking each gives.

    >>> row = HistoryRow(round=1, summed=("a", "b", "c"), seconds=0.1, metrics={})
    >>> _noise([row], pieces=2)[0]
    "the sum over 3 sites has 3/2 of the variance that its price needs; each site's own part 1/2"
    """
    parts = sorted({len(row.summed) for row in history})
    sites = " or ".join(map(str, parts))
    over = "the sum" if len(history) == 1 else "each sum"
    shares = " or ".join(f"{count}/{pieces}" for count in parts)
    own = f"1/{pieces}" if pieces > 1 else "all of it"
    return (
        (
            f"{over} over {sites} sites has {shares} of the variance that its price needs;"
            f" each site's own part {own}"
        ),
        f"asked one by one and added up, {parts[-1]} answers would have {parts[-1]} times it",
    )


def _row(
    number: int,
    summed: Summed,
    *,
    seconds: float,
    metrics: Mapping[str, float],
    weight: float | None = None,
) -> HistoryRow:
    return HistoryRow(
        round=number,
        summed=summed.sites,
        seconds=round(seconds, 4),
        metrics=dict(metrics),
        weight=weight,
    )


def _metrics(kind: str, record: MetricRecord | None) -> dict[str, float]:
    """Read what a strategy made of the metrics, numbers only."""
    found = {}
    for name, value in (record or {}).items():
        if isinstance(value, int | float) and np.isfinite(value):
            found[f"{kind} {name}"] = float(value)
    return found


def _numpy(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def _remarks(conductor: Conductor) -> tuple[str, ...]:
    return conductor.board.progress.remarks
