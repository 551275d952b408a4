"""Wait for a request: quietly at first, then with progress; an interrupt lets it go on alone."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from privnb.errors import ResultPending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.release import Release
    from privnb.request import Request
    from privnb.widgets.progress import Progress

__all__ = ["wait"]

_TICK = 1.0
"""Seconds between two drawings of the progress table, and between two questions how far it is."""
_FIRST_LOOK = 0.3
"""Seconds after which sites that run Python are asked whether people have to decide first."""


def wait(
    request: Request, *, timeout: float, progress_after: float, live: bool, result: str | None
) -> Release | None:
    """Wait until every site has answered, or only people can go on: then there is None.

    Parameters
    ----------
    request
        What to wait for.
    timeout
        Seconds to wait at most.
    progress_after
        Seconds after which a table of the sites appears; it is gone when the wait is over.
    live
        Whether the front end can replace what it shows; a terminal cannot.
    result
        Name of the variable meant for the release, for the advice how to get it later.

    Raises
    ------
    ResultPending
        The time is over or the wait was interrupted. The request stays alive.
    PrivnbError
        What the sites answered, if none of them released anything.
    """
    later = " ".join(["%privnb result", request.id[:8], *([result] if result else [])])
    start = time.monotonic()
    may_need_people = request.computation is not None and request.computation.kind == "python"
    quiet = min(_FIRST_LOOK, progress_after) if may_need_people else progress_after
    progress = None
    try:
        with contextlib.suppress(ResultPending):
            return request.result(timeout=min(quiet, timeout))
        while (left := start + timeout - time.monotonic()) > 0:
            if may_need_people:
                request.look(seconds=min(_TICK, left))
                if request.in_review:
                    return None
            if (waited := time.monotonic() - start) >= progress_after:
                progress = progress or _progress(live=live)
                progress.show(_states(request), seconds=waited)
            with contextlib.suppress(ResultPending):
                return request.result(timeout=min(_TICK, left))
    except KeyboardInterrupt:
        raise ResultPending(
            f"You stopped waiting for {_waiting(request)}; the request goes on without you.",
            hint=f"Get the answer later with: {later}",
        ) from None
    finally:
        if progress is not None:
            progress.close()
    raise ResultPending(
        f"No answer yet from {_waiting(request)} after {timeout:g} seconds; "
        "the request goes on without you.",
        hint=f"Get the answer later with: {later}",
    )


def _progress(*, live: bool) -> Progress:
    from privnb.widgets.progress import Progress  # noqa: PLC0415 - most cells need none

    return Progress(live=live)


def _states(request: Request) -> Mapping[str, str]:
    """Tell how far each site is; of those that answer at once, that they have not."""
    status = request.status
    told = {s.site: s.state for s in request.standings if s.since}
    return {site: told.get(site, state) for site, state in status.items()}


def _waiting(request: Request) -> str:
    status = request.status
    return ", ".join(s for s, state in status.items() if state == "waiting") or "the sites"
