"""One ask of a run that can be answered at once: keys, shares, and what opens a sum."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, cast, get_args

from privnb.errors import BadMessage, PrivnbError
from privnb.federated.messages import Ask, Step, Told, unpack

if TYPE_CHECKING:
    from privnb.site.federated.contributing import Contributing, Contribution
    from privnb.site.federated.joined import JoinedRun

__all__ = ["Steps", "read_ask", "step_of"]

_NAME = re.compile(r"([0-9]{6})-([a-z]{1,20})")
_STEPS = get_args(Step)


def step_of(name: str) -> tuple[int, Step | None]:
    """Return attempt and step from the name of an ask; the step is None where it is none.

    >>> step_of("000012-reveal"), step_of("000012-dance")
    ((12, 'reveal'), (12, None))
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return 0, None
    return int(found[1]), cast("Step", found[2]) if found[2] in _STEPS else None


def read_ask(name: str, data: bytes) -> tuple[Ask, bytes]:
    """Read what the analyst asks under a name, or raise `BadMessage`."""
    ask, blob = unpack(Ask, data, what="What was asked")
    if f"{ask.attempt:06d}-{ask.step}" != name or ask.step == "join" or ask.attempt < 1:
        raise BadMessage("What was asked is not what its name says.")
    if blob and ask.step != "contribute":
        raise BadMessage("Something came with an ask that nothing comes with.")
    return ask, blob


class Steps:
    """Answers asks; each method raises a `PrivnbError` that the analyst may be told."""

    def __init__(self, contributing: Contributing) -> None:
        self._contributing = contributing

    def told(self, run: JoinedRun, ask: Ask) -> Told:
        """Answer an ask that needs no data."""
        match ask.step:
            case "advertise":
                advert = run.rounds.advertise(ask.attempt)
                return Told(step=ask.step, attempt=ask.attempt, advert=advert)
            case "share":
                shares = run.rounds.member(ask.attempt).share(ask.adverts)
                return Told(step=ask.step, attempt=ask.attempt, shares=shares)
            case "agree":
                return self._agree(run, ask)
            case "reveal":
                return self._reveal(run, ask)
        raise BadMessage(f"{ask.step} is no step that is asked for.")

    def contributed(self, run: JoinedRun, made: Contribution) -> Told:
        """Say what goes with a masked vector: among it keys for the attempt that follows."""
        following, advert = made.ask.following, None
        if following is not None:
            with contextlib.suppress(PrivnbError):  # keys can be made later as well
                advert = run.rounds.advertise(following)
                run.following[made.ask.attempt] = following
        return Told(
            step="contribute",
            attempt=made.ask.attempt,
            confirmed=made.confirmed,
            form=made.form,
            advert=advert,
        )

    def _agree(self, run: JoinedRun, ask: Ask) -> Told:
        survivors = ask.survivors or {}
        run.rounds.work_of(ask.attempt)
        self._contributing.settle(run, ask.attempt, list(survivors), opens=False)
        agreed = run.rounds.member(ask.attempt).agree(survivors)
        return Told(step=ask.step, attempt=ask.attempt, agreed=agreed)

    def _reveal(self, run: JoinedRun, ask: Ask) -> Told:
        survivors = ask.survivors or {}
        run.rounds.work_of(ask.attempt)
        reveal = run.rounds.member(ask.attempt).reveal(
            survivors,
            ask.agreed,
            settle=lambda: self._contributing.settle(run, ask.attempt, list(survivors), opens=True),
        )
        run.rounds.forget(ask.attempt)
        following, shares = run.following.pop(ask.attempt, None), None
        if following is not None and ask.adverts:
            with contextlib.suppress(PrivnbError):  # the attempt that follows begins anew then
                shares = run.rounds.member(following).share(ask.adverts)
        return Told(step=ask.step, attempt=ask.attempt, reveal=reveal, shares=shares)
