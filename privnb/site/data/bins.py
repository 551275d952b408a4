"""Owner-declared bins: columns made from (perhaps hidden) source columns, with public values.

They are declared, not programmed, and total: whatever the data holds, every row gets a value and
none an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from privnb.computation import Scalar
from privnb.site.toml_reader import Section

__all__ = ["Bins", "Case", "CaseBins", "CutBins", "read_bins"]

_CASES_HINT = (
    'Write cases = [{ when = { coins = 0 }, value = "free care" }] and otherwise = "cost sharing".'
)
_CUTS_HINT = 'Write from = "age", cuts = [18, 40, 65] and, for these, four labels.'


@dataclass(frozen=True, kw_only=True)
class Case:
    """A value, and what every named source column must be (one of) for a row to have it."""

    when: Mapping[str, tuple[Scalar, ...]]
    value: Scalar


@dataclass(frozen=True, kw_only=True)
class CaseBins:
    """The value of the first case that holds; a NULL matches nothing."""

    cases: tuple[Case, ...]
    otherwise: Scalar

    @property
    def values(self) -> tuple[Scalar, ...]:
        """All values a row can have, in the order declared."""
        return tuple(dict.fromkeys([*(case.value for case in self.cases), self.otherwise]))

    @property
    def sources(self) -> frozenset[str]:
        """The source columns that decide."""
        return frozenset(itertools.chain.from_iterable(case.when for case in self.cases))


@dataclass(frozen=True, kw_only=True)
class CutBins:
    """The label of the interval that a number falls in; each cut belongs to the interval above."""

    source: str
    cuts: tuple[float, ...]
    labels: tuple[Scalar, ...]
    missing: Scalar
    """The value for NULL and NaN; None leaves them NULL."""

    @property
    def values(self) -> tuple[Scalar, ...]:
        """All values a row can have, except NULL."""
        return self.labels if self.missing is None else (*self.labels, self.missing)

    @property
    def sources(self) -> frozenset[str]:
        """The source column that decides."""
        return frozenset({self.source})


Bins: TypeAlias = CaseBins | CutBins


def read_bins(section: Section) -> Bins | None:
    """Take the keys that define bins from a column's table; None where it has none."""
    if "cases" in section and "cuts" in section:
        section.fail("A column has either 'cases' or 'cuts'.", "cuts", hint="Declare two columns.")
    if "cases" in section:
        return _read_cases(section)
    if "cuts" in section:
        return _read_cuts(section)
    return None


def _read_cases(section: Section) -> CaseBins:
    cases = []
    for entry in section.sections("cases", hint=_CASES_HINT):
        conditions = entry.section("when", hint=_CASES_HINT)
        when = {name: _accepted(conditions, name) for name in conditions.keys()}  # noqa: SIM118
        if not when:
            entry.fail("'when' names no column.", "when", hint=_CASES_HINT)
        cases.append(Case(when=when, value=entry.scalar("value", hint=_CASES_HINT)))
        entry.finish()
    if not cases:
        section.fail("'cases' is empty.", "cases", hint=_CASES_HINT)
    return CaseBins(cases=tuple(cases), otherwise=section.scalar("otherwise", hint=_CASES_HINT))


def _accepted(conditions: Section, name: str) -> tuple[Scalar, ...]:
    hint = "A condition is one value, as in coins = 0, or several, as in coins = [0, 25]."
    if isinstance(conditions.peek(name), list):
        return conditions.scalars(name, hint=hint) or ()
    return (conditions.scalar(name, hint=hint),)


def _read_cuts(section: Section) -> CutBins:
    source = section.text("from", hint=_CUTS_HINT)
    cuts = section.numbers("cuts", hint=_CUTS_HINT)
    if not cuts:
        section.fail("'cuts' is empty.", "cuts", hint=_CUTS_HINT)
    for number, (before, after) in enumerate(itertools.pairwise(cuts), start=1):
        if after <= before:
            problem = f"'cuts' must rise, but {after:g} follows {before:g}."
            section.fail(problem, "cuts", number, hint=_CUTS_HINT)
    labels = section.scalars("labels", hint=_CUTS_HINT)
    if labels is None:
        labels = (
            f"below {cuts[0]:g}",
            *(f"{a:g} to below {b:g}" for a, b in itertools.pairwise(cuts)),
            f"{cuts[-1]:g} and above",
        )
    if len(labels) != len(cuts) + 1:
        problem = f"{len(cuts)} cuts make {len(cuts) + 1} bins, but there are {len(labels)} labels."
        section.fail(problem, "labels", hint=_CUTS_HINT)
    missing: Scalar = None
    if section.has("missing"):
        missing = section.scalar("missing", hint=_CUTS_HINT)
        if missing in labels:
            problem = f"'missing' is {missing!r}, which is a label too."
            section.fail(problem, "missing", hint="Give missing values a name of their own.")
    return CutBins(source=source, cuts=cuts, labels=labels, missing=missing)
