"""What comes back of a federated run: what all sites gave together, and how each took part."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from privnb import wire
from privnb.computation import Federation
from privnb.errors import PrivnbError, UnknownName
from privnb.release import RECORD_TYPE, Answer, SiteRelease

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from privnb.release import PrivacyLabel, Receipt

__all__ = ["ArrayShown", "FederatedRelease", "HistoryRow", "Outcome"]


@wire.message
class ArrayShown:
    """What a notebook shows of a final array: its beginning, in the order of memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first: tuple[float, ...]


@wire.message
class HistoryRow:
    """One round as it went."""

    round: int
    summed: tuple[str, ...]
    """Names of the sites whose parts are in the sum."""
    seconds: float
    metrics: dict[str, float]
    weight: float | None = None
    """What the parts were weighted by, added up: how many examples, say."""


@wire.message
class Outcome:
    """What the sites gave together: all that is shown of it, and all that a notebook keeps.

    No receipt proves it: it was put together here, from sums that no single site knows.
    """

    kind: Literal["totals", "training", "model"]
    federation: Federation
    names: dict[str, str]
    """By verifier key, the name of the site."""
    answer: Answer | None = None
    """The totals, or the coefficients of a model."""
    arrays: tuple[ArrayShown, ...] = ()
    history: tuple[HistoryRow, ...] = ()
    asked_rounds: int = 1
    noise: tuple[str, ...] = ()
    """What noise the whole has, in words."""
    strategy: str = ""
    """How rounds were put together, in words."""
    remarks: tuple[str, ...] = ()
    """What happened to sites on the way."""
    mock: bool = False


@dataclass(frozen=True, kw_only=True)
class FederatedRelease:
    """What several sites gave together; no part of any one of them was seen.

    The receipts prove that each site took part, and under which privacy label. What was put
    together from the sums is not proved by them.
    """

    request: str
    digest: str
    outcome: Outcome
    parts: tuple[SiteRelease, ...]
    """How each site took part, with its label and receipt."""
    problems: Mapping[str, PrivnbError] = field(default_factory=dict)
    """Sites that took no part, or did not prove it, with the reason."""
    final: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The final arrays of training, by name."""
    by_name: bool = False
    """Whether the cell's ``initial`` has names: then `value` has them too."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that proved to have taken part."""
        return tuple(part.site for part in self.parts)

    @property
    def mock(self) -> bool:
        """Whether this comes from mock twins: nothing was spent, nothing is real."""
        return self.outcome.mock

    @property
    def labels(self) -> Mapping[str, PrivacyLabel]:
        """The privacy label of each site."""
        return {part.site: part.label for part in self.parts}

    @property
    def label(self) -> str:
        """All privacy labels in words, and what holds for the whole."""
        from privnb.federated.rendering import label_text  # noqa: PLC0415 - it reads releases

        return label_text(self)

    @property
    def receipts(self) -> Mapping[str, Receipt]:
        """The proof, for each site that gave one, that its part is in its audit log."""
        return {part.site: part.receipt for part in self.parts if part.receipt is not None}

    @property
    def value(self) -> object:
        """The table of totals or coefficients; of a training, the final arrays as in ``initial``.

        Arrays come as a list, or by name where ``initial`` was a dict.
        """
        if self.outcome.answer is not None:
            return self.df
        return dict(self.final) if self.by_name else list(self.final.values())

    @cached_property
    def df(self) -> DataFrame:
        """Totals with their ``± `` columns, or coefficients; of a training, one row per round."""
        from privnb.federated.frames import (  # noqa: PLC0415 - pandas stays out of start-up
            answer_frame,
            history_frame,
        )

        answer = self.outcome.answer
        return history_frame(self.outcome.history) if answer is None else answer_frame(answer)

    @cached_property
    def history(self) -> DataFrame:
        """One row per round: its number, how many sites are in the sum, seconds, every metric."""
        from privnb.federated.frames import history_frame  # noqa: PLC0415 - pandas is slow to load

        return history_frame(self.outcome.history)

    def plot(self) -> Figure:
        """Draw the totals or coefficients with their error bars; of a training, its curves.

        Raises `UnknownName` where a training measured nothing.
        """
        from privnb.federated.drawing import (  # noqa: PLC0415 - matplotlib stays out of start-up
            draw_answer,
            draw_curves,
        )

        if self.outcome.answer is not None:
            return draw_answer(self)
        curves: dict[str, tuple[list[int], list[float]]] = {}
        for row in self.outcome.history:
            for name, value in row.metrics.items():
                numbers, values = curves.setdefault(name, ([], []))
                numbers.append(row.round)
                values.append(value)
        if not curves:
            raise UnknownName(
                "There is no metric to draw.",
                hint="Let the app's replies have a MetricRecord with more than the weight.",
            )
        return draw_curves(curves, mock=self.mock)

    def record(self, *, name: str | None = None) -> dict[str, object] | None:
        """Return what a published notebook is checked by: how each site took part, with receipts.

        None where nothing can be checked.

        Parameters
        ----------
        name
            The variable that it was stored under, where one line says so instead of showing it.
        """
        parts = [
            {
                "site": part.site,
                "owner": part.owner,
                "key": part.key,
                "receipt": part.receipt and dataclasses.asdict(part.receipt),
                "linked": part.linked,
                "released": self._released(part),
            }
            for part in self.parts
            if part.receipt is not None or part.label.mock
        ]
        if not parts:
            return None
        record: dict[str, object] = {
            "version": 1,
            "request": self.request,
            "digest": self.digest,
            "parts": parts,
            # As text, as front ends write numbers in their own way.
            "outcome": wire.encode(self.outcome).decode(),
        }
        if self.problems:
            record["problems"] = {
                site: {"code": problem.code, "message": problem.message, "hint": problem.hint}
                for site, problem in self.problems.items()
            }
        return record if name is None else {**record, "name": name}

    def bundle(self, *, name: str | None = None) -> dict[str, object]:
        """Return all the forms in which a notebook shows and keeps it, by mime type."""
        from privnb import rendering  # noqa: PLC0415 - it reads releases
        from privnb.federated.rendering import (  # noqa: PLC0415 - it reads releases
            release_html,
            release_text,
            summary_lines,
        )

        forms: dict[str, object]
        if name is None:
            html, text = release_html(self), release_text(self)
        else:
            first, *more = summary_lines(self, name)
            html, text = rendering.lines_html(first, *more), rendering.lines_text(first, *more)
        forms = {"text/html": html, "text/plain": text}
        record = self.record(name=name)
        return forms if record is None else {**forms, RECORD_TYPE: record}

    def _released(self, part: SiteRelease) -> str:
        said: dict[str, object] = {
            "request": self.request,
            "digest": self.digest,
            "answer": None,
            "output": None,
            "label": dataclasses.asdict(part.label),
            "salt": part.salt,
        }
        if part.part is not None:
            said["part"] = part.part.hashed()
        return wire.canonical_json(said).decode()

    def __str__(self) -> str:
        from privnb.federated.rendering import release_text  # noqa: PLC0415 - it reads releases

        return release_text(self)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        del cycle
        printer.text(str(self))  # type: ignore[attr-defined]

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return self.bundle()

    def _repr_html_(self) -> str:
        from privnb.federated.rendering import release_html  # noqa: PLC0415 - it reads releases

        return release_html(self)
