"""How far a federated run is: round by round and site by site, for whoever watches it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Board", "Progress", "RoundProgress", "RunState", "SiteState"]

SiteState: TypeAlias = Literal["waiting", "training", "received", "late", "dropped"]
"""Of one site in one round. ``waiting``: it has not been asked yet; ``training``: it computes;
``received``: its part is in the sum; ``late``: others are done long since; ``dropped``: the round
goes on, or went on, without it."""

RunState: TypeAlias = Literal[
    "joining", "running", "ending", "finished", "stopped", "cancelled", "failed"
]
"""``joining``: sites decide; ``running``: rounds are under way; ``ending``: the sites prove their
part; ``stopped``: nobody drives it, and it can be taken up again."""


@dataclass(frozen=True, kw_only=True)
class RoundProgress:
    """One round of a run."""

    number: int
    """From 1."""
    sites: Mapping[str, SiteState]
    """By site name, in the order in which they were named."""
    done: bool = False
    seconds: float | None = None
    """How long it took, once it is done."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was learned, over all sites together: ``train loss``, ``evaluate accuracy``, …"""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, at one moment: it never changes, ask the run for the next one."""

    sites: tuple[str, ...]
    rounds: int
    """How many there are to be."""
    state: RunState
    joined: Mapping[str, str]
    """By site, where it stands before the first round, in words: 'joined', 'decides', …"""
    by_round: tuple[RoundProgress, ...] = ()
    """Rounds that have begun, oldest first."""
    remarks: tuple[str, ...] = ()
    """What happened to sites on the way, in words, oldest first."""

    @property
    def rounds_done(self) -> int:
        """How many rounds are done."""
        return sum(each.done for each in self.by_round)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics so far."""
        return tuple(dict.fromkeys(name for each in self.by_round for name in each.metrics))

    def curve(self, metric: str) -> tuple[Sequence[int], Sequence[float]]:
        """Return a metric by round: the numbers of the rounds that have it, and its values."""
        points = [(r.number, r.metrics[metric]) for r in self.by_round if metric in r.metrics]
        return [number for number, _ in points], [value for _, value in points]


class Board:
    """Where a run writes down how far it is. One thread writes; any may read.

    >>> board = Board(["northside", "lakeside"], rounds=2)
    >>> board.joined("northside", "joined")
    >>> board.site(1, "northside", "training")
    >>> board.progress.by_round[0].sites
    {'northside': 'training', 'lakeside': 'waiting'}
    """

    def __init__(self, sites: Sequence[str], *, rounds: int) -> None:
        self._rounds: dict[int, RoundProgress] = {}
        self._progress = Progress(
            sites=tuple(sites),
            rounds=rounds,
            state="joining",
            joined=dict.fromkeys(sites, "decides"),
        )

    @property
    def progress(self) -> Progress:
        """How far it is now."""
        return self._progress

    def state(self, state: RunState) -> None:
        """Write down what the run as a whole does."""
        if state != self._progress.state:
            self._change(state=state)

    def joined(self, site: str, words: str) -> None:
        """Write down where a site stands before the first round."""
        if self._progress.joined.get(site) != words:
            self._change(joined={**self._progress.joined, site: words})

    def remark(self, words: str) -> None:
        """Write down what happened to a site; the same is said once in a row."""
        if self._progress.remarks[-1:] != (words,):
            self._change(remarks=(*self._progress.remarks, words))

    def site(self, number: int, site: str, state: SiteState) -> None:
        """Write down how far a site is in a round."""
        self.sites(number, {site: state})

    def sites(self, number: int, states: Mapping[str, SiteState]) -> None:
        """Write down how far several sites are in a round."""
        before = self._round(number)
        if any(before.sites.get(site) != state for site, state in states.items()):
            self._replace(dataclasses.replace(before, sites={**before.sites, **states}))

    def measured(self, number: int, metrics: Mapping[str, float]) -> None:
        """Write down metrics of a round."""
        before = self._round(number)
        self._replace(dataclasses.replace(before, metrics={**before.metrics, **metrics}))

    def done(self, number: int, *, seconds: float) -> None:
        """Write down that a round is done."""
        self._replace(dataclasses.replace(self._round(number), done=True, seconds=seconds))

    def restore(self, rounds: Sequence[RoundProgress], remarks: Sequence[str] = ()) -> None:
        """Begin with what was written down in an earlier kernel."""
        self._rounds = {each.number: each for each in rounds}
        self._change(by_round=tuple(rounds), remarks=tuple(remarks))

    def _round(self, number: int) -> RoundProgress:
        nothing: dict[str, SiteState] = dict.fromkeys(self._progress.sites, "waiting")
        return self._rounds.get(number) or RoundProgress(number=number, sites=nothing)

    def _replace(self, one: RoundProgress) -> None:
        self._rounds[one.number] = one
        self._change(by_round=tuple(self._rounds[n] for n in sorted(self._rounds)))

    def _change(self, **changes: object) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)  # type: ignore[arg-type]
