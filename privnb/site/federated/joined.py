"""One run that the site takes part in, as the agent has it in memory; nothing of it is durable."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from privnb.errors import QueryRefused, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from privnb.computation import Computation
    from privnb.site.federated.contributing import Contribution
    from privnb.site.federated.parts import Computed, Consents, Part
    from privnb.site.federated.rounds import Rounds
    from privnb.site.requests import Record

__all__ = ["JoinedRun", "require_room"]

_MOST_BYTES = 1024 * 1024 * 1024
"""How much is held for all runs on data together: the largest round takes a third of it."""
_MOST_MOCK_BYTES = 256 * 1024 * 1024
"""The same for all runs on mock twins: half of it are five million parameters."""
_ALWAYS_BYTES = 4 * 1024 * 1024
"""There is always room for so much: an analyst has few runs at a time."""


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
    """When the analyst last asked for something that could be answered."""
    next_look: float = 0.0
    """When the channel is looked at next."""
    working: str = ""
    """The name of the ask that is worked on beside the agent's thread; empty: none is."""
    working_bytes: int = 0
    """How large what it is computed from is, with what comes of it; about."""
    computed: Future[Contribution] | None = None
    """What came of it, until it is written down."""
    unsent: dict[str, bytes] = field(default_factory=dict)
    """Answers that the exchange did not take yet, by name."""
    last: tuple[str, Computed] | None = None
    """What was computed last, with the digest of its input; kept while there is room."""
    counted: bool = False
    """Whether what is worked on is in the books already as given, though it is not sent yet."""
    claiming: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False
    """Whether it is over here, so that what its part says does not matter any more."""
    consents: tuple[Consents, str | None] | None = None
    """Who consented when that was looked at last, and what stands for it in the books."""
    following: dict[int, int] = field(default_factory=dict)
    """By attempt, the one that keys were made for beforehand."""

    @property
    def exact(self) -> bool:
        """Whether data leaves without noise: as sums of what approved code gives."""
        return self.computation.kind == "python" and not self.mock

    def claim(self) -> bool:
        """Tell whether what is counted is to be taken back: to one caller, in whichever thread."""
        with self.claiming:
            counted, self.counted = self.counted, False
        return counted

    def close(self) -> None:
        """End what runs for it."""
        self.closed = True
        self.part.close()

    @property
    def key(self) -> tuple[str, str]:
        """Whose run it is, and its name."""
        return self.record.sender, self.record.name

    @property
    def mock(self) -> bool:
        """Whether it is on mock twins, and costs nothing."""
        return self.record.action == "mock"

    @property
    def held(self) -> int:
        """About how many bytes are in memory for it."""
        kept = self.last[1].vector.nbytes if self.last is not None else 0
        return self.working_bytes + kept + sum(map(len, self.unsent.values()))

    def work_on(self, name: str, *, size: int) -> None:
        """Note that an ask is worked on, for which so many bytes are in memory."""
        self.working, self.working_bytes, self.computed = name, size, None

    def work_done(self) -> None:
        """Note that nothing is worked on any more."""
        self.working, self.working_bytes, self.computed = "", 0, None


def require_room(run: JoinedRun, size: int, *, runs: Iterable[JoinedRun]) -> None:
    """Refuse to hold so many bytes for a run, if that were too many for all of its kind together.

    One analyst's runs have half of the room at most, so that no other's runs are kept out, and what
    is small there is always room for. What is kept only to spare work makes room. Runs on mock
    twins have a small room of their own: they cost nothing, and must not be in the way of those
    that are paid for.

    Raises
    ------
    QueryRefused
        A run on mock twins never has so much.
    RequestRefused
        E_BUSY: others have it now, or other runs of this analyst.
    """
    most = _MOST_MOCK_BYTES if run.mock else _MOST_BYTES
    if run.mock and size > most // 2:
        raise QueryRefused(
            "That is more than mock twins are computed on.",
            hint="Try it with a smaller model.",
            code="E_WORK",
        )
    if size <= _ALWAYS_BYTES:
        return
    alike = [each for each in runs if each.mock == run.mock]
    own = [each for each in alike if each.record.sender == run.record.sender]
    for sharing, share in ((own, most // 2), (alike, most)):
        if sum(each.held for each in sharing) + size <= share:
            continue
        for each in sharing:
            each.last = None
        if sum(each.held for each in sharing) + size > share:
            raise RequestRefused("The site is busy.", hint="Try again later.", code="E_BUSY")
