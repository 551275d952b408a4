"""Training at one site: the analyst's app in the sandbox, round by round, and what it may say.

What the app replies is multiplied by its weight and masked, so that only means over several sites
are seen. Of a failure on data only that it failed is told, and always in the same words.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from privnb.errors import QueryRefused
from privnb.federated import ring
from privnb.federated.messages import Form
from privnb.site.federated.labels import exact_label, mock_run_label
from privnb.site.federated.parts import (
    Computed,
    OnTwin,
    Outage,
    require_fitting,
    require_open,
    same_consents,
    unsummed,
)
from privnb.site.sandbox import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from privnb.computation import Computation
    from privnb.errors import PrivnbError
    from privnb.federated.messages import Work
    from privnb.messages import Budget
    from privnb.release import PrivacyLabel
    from privnb.site.engine import Priced
    from privnb.site.federated.parts import Consents
    from privnb.site.python_engine import PythonEngine
    from privnb.site.sandbox import Trainer

__all__ = ["Training"]

_TOLD_BY_SOURCE = {
    "no app": "The cell leaves no Flower ClientApp in the variable app.",
    "no train": "The app has no function for @app.train().",
    "no evaluate": "The app has no function for @app.evaluate().",
}
_TOLD_ON_MOCK = {
    "reply": "The app replied with something else than one ArrayRecord and one MetricRecord.",
    "arrays": "The app replied with arrays of other names or shapes than it got.",
    "metrics": "A metric is no plain number, or its name does not stand in the cell as a text.",
    "weight": "The app's weight is missing, or is not above zero.",
    "not finite": "The app replied with a number that is NaN or infinite.",
    "other metrics": "The app reports other metrics than in its first round of this kind: they are"
    " called the same in all rounds, whatever the configuration.",
}
_WEIGHT = "num-examples"


class Training:
    """A Flower app that trains on this site's rows, or on those of its mock twin.

    On rows, it first does its work once on the mock twin, for the names of its metrics. These are
    the same in all rounds of a kind, on the mock twin too: what works there works on rows.
    Rows are read anew when the people whose consent covers the purpose are others than before.
    """

    form = ""
    once = False
    tries = 3
    """A kernel that was restarted may ask for a round anew, and choose otherwise."""

    def __init__(self, python: PythonEngine, computation: Computation, *, mock: bool) -> None:
        self.plan: Priced | None = None
        self._python = python
        self._computation = computation
        self._mock = mock
        self._trainer: Trainer | None = None
        self._consents: Consents = ()
        self._closed = False
        self._twin: Trainer | None = None
        self._names: dict[str, tuple[str, ...]] = {}
        """By kind of work, what metrics are called on the mock twin."""

    def check(self, work: Work, arrays: Sequence[NDArray[Any]]) -> None:
        """Refuse what is no round of a training, or too large."""
        if work.kind not in {"train", "evaluate"}:
            raise QueryRefused("A training has rounds to train and to evaluate.", code="E_WORK")
        if work.weighted_by != _WEIGHT:  # any other metric could be made to single one site out
            raise QueryRefused(f"Parts are weighted by {_WEIGHT} alone.", code="E_WORK")
        require_fitting(sum(array.size for array in arrays))
        if not all(np.isfinite(array).all() for array in arrays):
            raise QueryRefused(
                "An array of the round has a number that is NaN or infinite.",
                hint="Begin a new run from other initial arrays, or with smaller steps.",
                code="E_WORK",
            )

    def consents(self) -> Consents:
        """Say who consents now."""
        return () if self._mock else self._python.consents(self._computation)

    def length(self, work: Work) -> int:
        """As many as the arrays that it starts from have; metrics are few."""
        if work.kind != "train":
            return 0
        return sum(math.prod(each.shape) for each in work.arrays)

    def compute(self, work: Work, arrays: Sequence[NDArray[Any]], *, parties: int) -> Computed:
        """Have the app do its round; raises what may be told of why it did not."""
        require_open(closed=self._closed)
        expected = self._names.get(work.kind) if self._mock else self._names_of(work, arrays)
        trained = self._current().step(work, arrays)
        if isinstance(trained, Failed):
            raise self._problem(trained, mock=self._mock)
        names = tuple(trained.metrics)
        if expected is not None and names != expected:
            raise self._not_summed(_TOLD_ON_MOCK["other metrics"])
        values = [array.ravel() for _, array in trained.arrays]
        numbers = np.concatenate([*values, list(trained.metrics.values()), [1.0]], dtype=np.float64)
        try:
            with np.errstate(over="ignore"):  # infinity is told from numbers in the next line
                vector = ring.encode(numbers * trained.weight, parties=parties)
        except ring.RangeError:
            problem = "A number, times its weight, is too large to be summed."
            raise self._not_summed(problem) from None
        if self._mock:
            self._names[work.kind] = names
        form = Form(arrays=tuple(form for form, _ in trained.arrays), metrics=names)
        return Computed(vector=vector, form=form)

    def label(self, *, budget: Budget | None, approved_by: tuple[str, ...]) -> PrivacyLabel:
        """Describe what the sums are of, and who let them out."""
        del budget
        python, computation = self._python, self._computation
        federation = computation.federation
        if federation is None:
            raise ValueError("a training of one site")
        if self._mock:
            mechanism = "no noise: weighted means over the sites, of made-up rows"
            return mock_run_label(
                federation, mechanism=mechanism, noisy=False, sandbox=python.level
            )
        return exact_label(
            federation,
            units=python.units_in_words(computation),
            approved_by=approved_by,
            sandbox=python.level,
            population=python.population(computation),
            fixed_sites=python.fixed_sites,
        )

    def close(self) -> None:
        """End the worker, and what runs in it."""
        self._closed = True
        for trainer in (self._trainer, self._twin):
            if trainer is not None:
                trainer.close()

    def _names_of(self, work: Work, arrays: Sequence[NDArray[Any]]) -> tuple[str, ...]:
        """Return what metrics are called, as the same code calls them on the mock twin.

        Names leave unmasked. So they are found before any row is read, at the first work of each
        kind, and found again after a restart: what they spell out is known without this site.
        """
        names = self._names.get(work.kind)
        if names is None:
            twin = self._twin = self._python.trainer(self._computation, mock=True)
            if self._closed:
                twin.close()
            try:
                found = twin.step(work, arrays)
            finally:
                twin.close()
            if isinstance(found, Failed):
                raise _on_twin(self._problem(found, mock=True))
            names = self._names[work.kind] = tuple(found.metrics)
        return names

    def _current(self) -> Trainer:
        """Return a worker that has the rows of those who consent now."""
        consents = self.consents()
        if self._trainer is not None and not same_consents(consents, self._consents):
            self._trainer.close()
            self._trainer = None
        if self._trainer is None:
            self._trainer = self._python.trainer(self._computation, mock=self._mock)
            self._consents = consents
            if self._closed:
                self._trainer.close()
        return self._trainer

    def _problem(self, failed: Failed, *, mock: bool) -> PrivnbError:
        if failed.reason == "lock":
            return Outage()
        fault = failed.fault
        if fault in _TOLD_BY_SOURCE:
            hint = "See the notebook on federated training for a whole one."
            return QueryRefused(_TOLD_BY_SOURCE[fault], hint=hint, code="E_CELL")
        if not mock:
            return unsummed()
        if fault is not None:
            return QueryRefused(_TOLD_ON_MOCK[fault], code="E_OUTPUT")
        return self._python.problem(failed, mock=True)

    def _not_summed(self, why: str) -> PrivnbError:
        return QueryRefused(why, code="E_OUTPUT") if self._mock else unsummed()


def _on_twin(problem: PrivnbError) -> PrivnbError:
    """Say what is wrong with an app on the mock twin; it tells of no row."""
    if not isinstance(problem, QueryRefused):
        return problem
    return OnTwin(
        f"On the mock twin: {problem.message}",
        hint="What the metrics are called is found there first. Try the app with --mock.",
        code=problem.code,
    )
