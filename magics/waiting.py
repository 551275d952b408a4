"""Wait for a request: quietly at first, then with progress; an interrupt lets it go on alone."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from privnb.errors import ResultPending

if TYPE_CHECKING:
    from privnb.release import Release
    from privnb.request import Request

__all__ = ["wait"]

_TICK = 1.0
"""Seconds between two drawings of the progress table."""


def wait(
    request: Request, *, timeout: float, progress_after: float, live: bool, result: str | None
) -> Release:
    """Wait until every site has answered.

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
    progress = None
    try:
        with contextlib.suppress(ResultPending):
            return request.result(timeout=min(progress_after, timeout))
        from privnb.widgets.progress import Progress  # noqa: PLC0415 - most cells need none

        progress = Progress(live=live)
        while (left := start + timeout - time.monotonic()) > 0:
            progress.show(request.status, seconds=time.monotonic() - start)
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


def _waiting(request: Request) -> str:
    status = request.status
    return ", ".join(s for s, state in status.items() if state == "waiting") or "the sites"
