"""Moments as our widgets write them: to the minute, and how long ago."""

from __future__ import annotations

import datetime as dt

__all__ = ["how_long", "minute"]


def minute(moment: str) -> str:
    """Shorten a moment in ISO 8601 to the minute; what is no moment stays as it is.

    >>> minute("2026-11-23T09:30:12+00:00"), minute("2026-11-23"), minute("")
    ('2026-11-23 09:30', '2026-11-23', '')
    """
    return moment.replace("T", " ")[:16] if _parsed(moment) else moment


def how_long(moment: str, *, now: dt.datetime) -> str:
    """Say in words how much time lies between a moment and now, whichever comes first.

    >>> now = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    >>> how_long("2026-11-21T09:30:00+00:00", now=now), how_long("?", now=now)
    ('2 days', '')
    """
    parsed = _parsed(moment)
    if parsed is None:
        return ""
    seconds = abs((now - parsed).total_seconds())
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def _parsed(moment: str) -> dt.datetime | None:
    try:
        parsed = dt.datetime.fromisoformat(moment)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)
