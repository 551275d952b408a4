"""The sandbox of a site: cells that run once, and trainings that go on step by step."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from privnb.errors import ConfigError, StateError
from privnb.site.sandbox.cell import Cell, Failed, Finished, SandboxLimits
from privnb.site.sandbox.launch import Launch, find_bubblewrap
from privnb.site.sandbox.offer import find_offer
from privnb.site.sandbox.one_cell import run_cell
from privnb.site.sandbox.pool import Pool
from privnb.site.sandbox.scratch import Scratch
from privnb.site.sandbox.selftest import attack_ourselves, attack_training
from privnb.site.sandbox.steps import TrainingCell
from privnb.site.sandbox.syscalls import this_machine
from privnb.site.sandbox.trainer import Trainer, Trainers

__all__ = ["Sandbox"]


class Sandbox:
    """Runs code of analysts; safe to use from several threads.

    At most ``workers`` cells run at once, while as many workers wait for the next.

    Attributes
    ----------
    level
        What holds the workers, for the log and the privacy label: for example ``bubblewrap,
        Landlock (ABI 7), seccomp, limits, own user``.
    without_bubblewrap
        Why bubblewrap is not part of the level; None when it is.
    """

    @classmethod
    def open(  # noqa: PLR0913 - each is an owner's choice, given by name
        cls,
        *,
        packages: Sequence[str],
        limits: SandboxLimits,
        workers: int = 2,
        training: int = 0,
        allow_unsandboxed: bool = False,
        scratch: Path | None = None,
        _bubblewrap: bool = True,
    ) -> Sandbox:
        """Start the workers and attack them once; returns only when every attack failed.

        Parameters
        ----------
        packages
            Distributions that code may import, with all they depend on.
        training
            How many trainings have a worker at once, beside those of cells; 0 for no training.
        allow_unsandboxed
            Whether to go on without any sandbox where the system has none.
        scratch
            Where folders for the workers' temporary files are made; used without bubblewrap only.

        Raises `ConfigError` for a package that is not installed, and `StateError` when there is no
        sandbox to be had, or when it does not hold.
        """
        if training and find_spec("flwr") is None:
            raise ConfigError(
                "Training needs Flower, which is not installed.",
                hint=f"{sys.executable} -m pip install 'privnb[federated]'",
            )
        offer = find_offer(packages)
        Scratch.sweep(scratch)
        launch = Launch(
            offer=offer,
            bubblewrap=None,
            lock=sys.platform == "linux" and this_machine() is not None,
            scratch_bytes=limits.scratch_mb << 20,
        )
        program = find_bubblewrap() if launch.lock and _bubblewrap else None
        reason = "it is not installed" if _bubblewrap else "it is not wanted"
        if program is not None:
            wrapped = dataclasses.replace(launch, bubblewrap=program)
            reason = wrapped.try_bubblewrap() or ""
            launch = launch if reason else wrapped
        if not launch.lock and not allow_unsandboxed:
            raise ConfigError(
                "This system has no sandbox for Python computations.",
                hint="Run the agent on Linux (x86_64 or aarch64), or set allow_unsandboxed = true "
                "for code that you trust as much as your own.",
            )
        # A training goes on for long, so it can import what it needs; its workers wait for less.
        for_training = find_offer([*packages, "flwr"]) if training else offer

        def start(launch: Launch) -> Sandbox:
            trainers = None
            if training:
                bare = dataclasses.replace(for_training, ahead=())
                trains = dataclasses.replace(launch, offer=bare, trains=True)
                pool = Pool(trains, waiting=1, scratch=scratch)
                trainers = Trainers(pool, limits=limits, most=training)
            return cls(
                Pool(launch, waiting=workers, scratch=scratch),
                workers=workers,
                trainers=trainers,
                limits=limits,
                without_bubblewrap=None if launch.bubblewrap else reason,
            )

        try:
            return start(launch)
        except StateError:
            if not (launch.lock and allow_unsandboxed):
                raise
        return start(dataclasses.replace(launch, bubblewrap=None, lock=False))

    def __init__(
        self,
        pool: Pool,
        *,
        workers: int,
        trainers: Trainers | None,
        limits: SandboxLimits,
        without_bubblewrap: str | None,
    ) -> None:
        self._pool = pool
        self._places = threading.BoundedSemaphore(workers)
        self._trainers = trainers
        self._limits = limits
        self.without_bubblewrap = without_bubblewrap
        try:
            self.level = pool.warm()
            if pool.locks:
                attack_ourselves(self.run)
                if trainers is not None:
                    attack_training(self.train)
        except BaseException:
            self.close()
            raise

    def run(self, cell: Cell) -> Finished | Failed:
        """Run a cell in a worker of its own and wait for the end."""
        with self._places:
            worker = self._pool.take()
            if worker is None:
                return Failed(reason="lock")
            try:
                return run_cell(worker, cell, limits=self._limits)
            finally:
                self._pool.done(worker)

    def train(self, cell: TrainingCell) -> Trainer:
        """Begin a training, whose code runs at its first step. `StateError` where there is none."""
        if self._trainers is None:
            raise StateError("There is no training here.", hint="Open the sandbox with training.")
        return self._trainers.begin(cell)

    def warm(self) -> None:
        """Wait until workers wait. `StateError` when none can be prepared."""
        self._pool.warm()
        if self._trainers is not None:
            self._trainers.pool.warm()

    def close(self) -> None:
        """End all workers, also those that run code."""
        if self._trainers is not None:
            self._trainers.close()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
