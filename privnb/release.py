"""What comes back: the protected table with its privacy label, and the estimate before it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from privnb import wire
from privnb.computation import Scalar
from privnb.errors import PrivnbError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from pandas import DataFrame

    from privnb.messages import Participation
    from privnb.output import Output

__all__ = [
    "NO_EPSILON",
    "RECORD_TYPE",
    "Answer",
    "AnswerColumn",
    "Estimate",
    "EstimateLine",
    "Estimates",
    "Opening",
    "PrivacyLabel",
    "Receipt",
    "Release",
    "SiteRelease",
]

RECORD_TYPE = "application/vnd.privnb.release+json"
"""The mime type of what `privnb audit check-notebook` checks; no front end draws it."""


NO_EPSILON = "none"
"""What a label says of the loss of an exact output, which has none to speak of."""


@wire.message
class AnswerColumn:
    """A column of an answer: a group key, or an aggregate with its error."""

    name: str
    role: Literal["key", "aggregate"]


@wire.message
class Answer:
    """The noisy table of one site.

    ``rows[i][j]`` is the value of column ``j``; ``half_widths[i][j]`` the half-width of its 95 %
    interval, in the column's own unit, and None for keys or where no statement can be made.
    """

    columns: tuple[AnswerColumn, ...]
    rows: tuple[tuple[Scalar, ...], ...]
    half_widths: tuple[tuple[float | None, ...], ...]
    notes: tuple[str, ...] = ()
    """Remarks on single values, in plain words (for example: a group too small to say anything)."""


@wire.message
class PrivacyLabel:
    """What the site says it did to protect people, and what it did not.

    A receipt proves that this very text was logged with the release, not that it is true.
    """

    mechanism: str
    epsilon: str
    """The charge for this release, decimal text, rounded up."""
    delta: str
    unit: str
    """Whose presence is protected, in words: 'one person (all their rows in visits)'."""
    clamps: tuple[str, ...] = ()
    """Which values were limited before summing: 'mdvis to 0…30 per person and group'."""
    budget: str
    """What is left, in words: 'epsilon 2.31 of 4 left for utilisation-research'."""
    not_protected: tuple[str, ...] = ()
    mock: bool = False
    """True when the answer comes from the mock twin: nothing was spent, nothing is real."""
    route: Literal["noise", "approval"] = "noise"
    """What protects: noise within a budget, or the judgement of people and rules named here."""
    approved_by: tuple[str, ...] = ()
    """Who or what let it out, in words: 'code: alice@clinic.example', 'template visits_by_age'."""
    sandbox: str = ""
    """What the code was locked into, in words; empty where no code of the analyst's ran."""
    population: str = ""
    """How consent of data subjects restricted who was counted, in words; never how many."""


@wire.message
class Opening:
    """What a salted commitment in an event stands for: whoever has it can check it."""

    salt: str
    """32 random bytes, hexadecimal."""
    value: str


@wire.message
class Receipt:
    """Proof that an event is in a site's audit log: verify it with `privnb.audit`."""

    event: str
    """The event's canonical JSON, exactly as it is hashed."""
    index: int
    """Its place in the log, from 0."""
    proof: tuple[str, ...]
    """The audit path of RFC 6962, hexadecimal hashes from the leaf up."""
    checkpoint: str
    """The signed note that states the log's size and root."""
    openings: dict[str, Opening] | None = None
    """What the commitments among the event's fields stand for, as far as it is ours to know."""
    consistency: dict[str, tuple[str, ...]] | None = None
    """By earlier size, decimal: RFC 6962's proof that the log of that size is its beginning."""


@wire.message
class EstimateLine:
    """Expected error of one aggregate, known before any data is touched."""

    name: str
    half_width: float | None
    """Half-width of the 95 % interval in the column's unit; None when it depends on the data."""
    note: str = ""
    """For example 'in a group of 1,200 rows', or 'too small a group to say anything'."""


@wire.message
class Estimate:
    """What a question would cost at one site, and how precise its answer would be."""

    table: str
    epsilon: str
    delta: str
    lines: tuple[EstimateLine, ...]
    mechanism: str
    clamps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    affordable: bool | None = None
    """Whether grant and table total would pay for it now; None if not checked."""


@dataclass(frozen=True, kw_only=True)
class SiteRelease:
    """What one site released, with its label: a noisy answer, an approved output, or its part."""

    site: str
    label: PrivacyLabel
    answer: Answer | None = None
    output: Output | None = None
    part: Participation | None = None
    """How it took part in a federated run, of which `privnb.federated.release` shows the whole."""
    owner: str = ""
    """Whose the site is; empty for what no session made."""
    receipt: Receipt | None = None
    """The proof that this is in the site's audit log, checked; None for mock answers."""
    key: str = ""
    """The audit key by which the receipt was checked, as a C2SP verifier key."""
    linked: bool = True
    """Whether the log of the receipt is proved to be that of later answers, as far as known."""
    salt: str = ""
    """What was hashed with it: see `privnb.messages.Reply`."""

    @property
    def rows(self) -> int:
        """How many rows there are; none in a figure."""
        table = self.answer or self.output
        return len(table.rows) if table else 0


@dataclass(frozen=True, kw_only=True)
class Release:
    """A protected result: what one or more sites let out, each under its privacy label.

    Examples
    --------
    >>> column = AnswerColumn(name="people", role="aggregate")
    >>> answer = Answer(columns=(column,), rows=((1204,),), half_widths=((29.0,),))
    >>> label = PrivacyLabel(
    ...     mechanism="none", epsilon="1", delta="0", unit="one person", budget="all"
    ... )
    >>> part = SiteRelease(site="northside", answer=answer, label=label)
    >>> Release(request="", digest="", parts=(part,)).df.to_dict("records")
    [{'site': 'northside', 'people': 1204, '± people': 29.0}]
    """

    request: str
    digest: str
    parts: tuple[SiteRelease, ...]
    problems: Mapping[str, PrivnbError] = field(default_factory=dict)
    """Sites that released nothing, with the reason."""

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that released something."""
        return tuple(part.site for part in self.parts)

    @property
    def mock(self) -> bool:
        """Whether this comes from mock twins: nothing was spent, nothing is real."""
        return any(part.label.mock for part in self.parts)

    @property
    def labels(self) -> Mapping[str, PrivacyLabel]:
        """The privacy label of each site."""
        return {part.site: part.label for part in self.parts}

    @property
    def label(self) -> str:
        """All privacy labels in words."""
        from privnb.rendering import label_text  # noqa: PLC0415 - rendering reads releases

        return label_text(self)

    @property
    def value(self) -> object:
        """The value itself: what the cell declared, or the noisy table of an SQL cell.

        A number, text, date, array, Series or frame; a figure is the bytes of its PNG. Where
        several sites were asked, there is one value per site, by name.

        >>> column = AnswerColumn(name="people", role="aggregate")
        >>> answer = Answer(columns=(column,), rows=((1204,),), half_widths=((29.0,),))
        >>> label = PrivacyLabel(
        ...     mechanism="none", epsilon="1", delta="0", unit="one person", budget="all"
        ... )
        >>> part = SiteRelease(site="northside", answer=answer, label=label)
        >>> Release(request="", digest="", parts=(part,)).value["people"].item()
        1204
        """
        from privnb.tabular import part_frame  # noqa: PLC0415 - pandas stays out of start-up

        values = {
            part.site: part.output.value() if part.output else part_frame(part)
            for part in self.parts
        }
        one = len(self.parts) == 1 and not self.problems
        return next(iter(values.values())) if one else values

    @cached_property
    def df(self) -> DataFrame:
        """One block of rows per site, as a table; of noisy answers and approved outputs alike.

        The first column is ``site``, or ``at site`` where there is a column ``site`` already. After
        each aggregate of a noisy answer comes its ``± `` column: half-widths of 95 % intervals in
        the aggregate's own unit, empty where no statement can be made. Of an approved output the
        index comes before the values; an array has one row along its first axis.

        Raises `PrivnbError` for a figure, which has no table.
        """
        import pandas as pd  # noqa: PLC0415 - pandas stays out of start-up

        from privnb.tabular import part_frame  # noqa: PLC0415 - pandas stays out of start-up

        frames = []
        for part in self.parts:
            frame = part_frame(part)
            block = "site"
            while block in frame.columns:
                block = f"at {block}"
            frame.insert(0, block, part.site)
            frames.append(frame)
        frames = [frame for frame in frames if len(frame)] or frames[:1]
        return pd.concat(frames, ignore_index=True)

    def plot(self) -> Figure:
        """Draw what was released, one colour per site: bars, or the figure that was approved.

        Noisy aggregates have the error bars of their 95 % intervals. Of an approved table, every
        column of numbers is drawn.
        """
        from privnb.drawing import draw_release  # noqa: PLC0415 - matplotlib stays out of start-up

        return draw_release(self)

    def record(self, *, name: str | None = None) -> dict[str, object] | None:
        """Return what a published notebook is checked by: the releases with their receipts.

        Mock answers have none, and need none: there it is only checked that they are shown as
        such. None where nothing can be checked.

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
        }
        if self.problems:
            record["problems"] = {
                site: {"code": problem.code, "message": problem.message, "hint": problem.hint}
                for site, problem in self.problems.items()
            }
        return record if name is None else {**record, "name": name}

    def bundle(self, *, name: str | None = None) -> dict[str, object]:
        """Return all the forms in which a notebook shows and keeps it, by mime type.

        Parameters
        ----------
        name
            The variable that it is stored under: one line then says so, instead of a card.
        """
        from privnb import rendering  # noqa: PLC0415 - it reads releases

        forms: dict[str, object]
        if name is None:
            html, text = rendering.release_html(self), rendering.release_text(self)
        else:
            first, *more = rendering.summary_lines(self, name)
            html, text = rendering.lines_html(first, *more), rendering.lines_text(first, *more)
        forms = {"text/html": html, "text/plain": text}
        record = self.record(name=name)
        return forms if record is None else {**forms, RECORD_TYPE: record}

    def _released(self, part: SiteRelease) -> str:
        # As text: a front end that saves it writes 1.0 as 1, and its hash would be another.
        said = {
            "request": self.request,
            "digest": self.digest,
            "answer": part.answer and dataclasses.asdict(part.answer),
            "output": part.output and dataclasses.asdict(part.output),
            "label": dataclasses.asdict(part.label),
            "salt": part.salt,
        }
        return wire.canonical_json(said).decode()

    def __str__(self) -> str:
        from privnb.rendering import release_text  # noqa: PLC0415 - rendering reads releases

        return release_text(self)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        del cycle
        printer.text(str(self))  # type: ignore[attr-defined]

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return self.bundle()

    def _repr_html_(self) -> str:
        from privnb.rendering import release_html  # noqa: PLC0415 - rendering reads releases

        return release_html(self)


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What a question would cost at each site, and how precise its answers would be."""

    by_site: Mapping[str, Estimate]
    problems: Mapping[str, PrivnbError] = field(default_factory=dict)
    """Sites that gave no estimate, with the reason."""
    refusals: Mapping[str, PrivnbError] = field(default_factory=dict)
    """Why it would be refused if it were run now, by the names in ``by_site``."""

    @property
    def why_refused(self) -> tuple[str, ...]:
        """Why it would be refused if it were run now, and what to do: a line for each name."""
        lines = {name: f"{why.message} {why.hint}".strip() for name, why in self.refusals.items()}
        several = len(self.by_site) > 1
        return tuple(f"{name}: {line}" if several else line for name, line in lines.items())

    @cached_property
    def df(self) -> DataFrame:
        """One row per site and aggregate: price, expected half-width, remark."""
        import pandas as pd  # noqa: PLC0415 - pandas stays out of start-up

        return pd.DataFrame(
            [
                {
                    "site": site,
                    "aggregate": line.name,
                    "± expected": line.half_width,
                    "note": line.note,
                    "epsilon": estimate.epsilon,
                    "delta": estimate.delta,
                    "affordable": estimate.affordable,
                }
                for site, estimate in self.by_site.items()
                for line in estimate.lines
            ]
        )

    def __str__(self) -> str:
        from privnb.estimate_rendering import estimates_text  # noqa: PLC0415 - it reads estimates

        return estimates_text(self)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:  # noqa: FBT001 - IPython's protocol
        del cycle
        printer.text(str(self))  # type: ignore[attr-defined]

    def _repr_html_(self) -> str:
        from privnb.estimate_rendering import estimates_html  # noqa: PLC0415 - it reads estimates

        return estimates_html(self)
