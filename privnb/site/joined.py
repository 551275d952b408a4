"""One run that the site takes part in, as the agent has it in memory; nothing of it is durable."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

    from privnb.computation import Computation
    from privnb.site.contributing import Contribution
    from privnb.site.parts import Computed, Part
    from privnb.site.requests import Record
    from privnb.site.rounds import Rounds

__all__ = ["JoinedRun"]


@dataclass(kw_only=True)
class JoinedRun:
    """What it computes, with which keys, and what is under way for it."""

    record: Record
    computation: Computation
    part: Part
    rounds: Rounds
    table: str | None
    """The table that is paid for; None where nothing is."""
    heard: float = field(default_factory=time.monotonic)
    """When the analyst last asked for something."""
    next_look: float = 0.0
    """When the channel is looked at next."""
    working: str = ""
    """The name of the ask that is worked on beside the agent's thread; empty: none is."""
    computed: Future[Contribution] | None = None
    """What came of it, until it is written down."""
    unsent: dict[str, bytes] = field(default_factory=dict)
    """Answers that the exchange did not take yet, by name."""
    last: tuple[str, Computed] | None = None
    """What was computed last, with the digest of its input: asked for again, it is the same."""
    tried: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    """By kind and round, the inputs that were computed on here, whatever came of it."""
    following: dict[int, int] = field(default_factory=dict)
    """By attempt, the one that keys were made for beforehand."""

    @property
    def key(self) -> tuple[str, str]:
        """Whose run it is, and its name."""
        return self.record.sender, self.record.name
