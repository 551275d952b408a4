"""The keys that one site has in one run, attempt by attempt, and which step may come next.

All of it lives in memory alone: keys are made for one attempt, used once and forgotten. After a
restart there are none, and the site says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import RequestRefused, RosterRefused
from privnb.federated.member import Member

if TYPE_CHECKING:
    from collections.abc import Callable

    from privnb.computation import Federation
    from privnb.federated.messages import Advert

__all__ = ["Rounds", "restarted"]

_KEPT = 4
"""How many attempts may be open: one, the one that follows it, and those just given up."""


def restarted() -> RequestRefused:
    """Say that the keys of an attempt are gone: the next one begins with new keys."""
    return RequestRefused(
        "This site was restarted, and has no keys for this attempt any more.",
        hint="The next attempt begins with new ones.",
        code="E_RESTARTED",
    )


class Rounds:
    """Makes a `Member` for each attempt, and remembers those that are open.

    Parameters
    ----------
    after
        The newest attempt of the run that this site sent something for, before it was restarted.
    """

    def __init__(  # noqa: PLR0913 - keywords, all that a member needs
        self,
        *,
        run: str,
        bound: str,
        me: str,
        federation: Federation,
        sign: Callable[[bytes], bytes],
        min_sites: int,
        after: int = 0,
    ) -> None:
        self._run = run
        self._bound = bound
        self._me = me
        self._federation = federation
        self._sign = sign
        self._min_sites = min_sites
        self._newest = self._first = after
        self._members: dict[int, Member] = {}
        self._works: dict[int, str] = {}

    def advertise(self, attempt: int) -> Advert:
        """Make the keys of an attempt, whose number is higher than that of any before."""
        if attempt <= self._newest:
            raise RosterRefused(
                f"Attempt {attempt} is over: keys were made for {self._newest} already.",
                hint="Attempts have higher numbers each time.",
            )
        member = Member(
            run=self._run,
            computation=self._bound,
            attempt=attempt,
            me=self._me,
            federation=self._federation,
            sign=self._sign,
            min_sites=self._min_sites,
        )
        advert = member.advertise()
        self._newest = attempt
        self._members[attempt] = member
        for old in sorted(self._members)[:-_KEPT]:
            self.forget(old)
        return advert

    def member(self, attempt: int) -> Member:
        """Return who takes part in an open attempt; raises why there is nobody."""
        member = self._members.get(attempt)
        if member is not None:
            return member
        if self._first < attempt <= self._newest:
            raise RosterRefused(f"Attempt {attempt} is over.", hint="Begin another.")
        raise restarted()

    def require_unmasked(self, attempt: int) -> None:
        """Raise why there is nothing to mask in an attempt: it is over, or has its vector."""
        self.member(attempt)
        if attempt in self._works:
            raise RosterRefused(
                f"This site gave its part to attempt {attempt} before.", hint="Begin another."
            )

    def masked(self, attempt: int, work: str) -> None:
        """Remember what the vector of an attempt answers."""
        self._works[attempt] = work

    def work_of(self, attempt: int) -> str:
        """Return what the vector of an attempt answers."""
        work = self._works.get(attempt)
        if work is None:
            raise RosterRefused("This site gave nothing to that sum, so it opens none.")
        return work

    def forget(self, attempt: int) -> None:
        """Forget the keys of an attempt that is over."""
        self._members.pop(attempt, None)
        self._works.pop(attempt, None)
