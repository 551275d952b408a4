"""The users that workers of an agent with root's rights become: one each, who owns nothing."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["NOBODY", "is_ours", "pick_user"]

NOBODY = 65534
_FREE = range(1_900_000_000, 1_900_000_000 + (1 << 24))  # kept unused in systemd's list of ids


def pick_user() -> int:
    """Return a user id that no other worker has; nobody's where such an id does not exist here."""
    user = _FREE[secrets.randbelow(len(_FREE))]
    exists = all(_is_mapped(user, Path("/proc/self", table)) for table in ("uid_map", "gid_map"))
    return user if exists else NOBODY


def is_ours(user: int) -> bool:
    """Whether what a user owns was made by this agent's user or for one of its workers."""
    return user == os.getuid() or (os.getuid() == 0 and user in _FREE)


def _is_mapped(number: int, table: Path) -> bool:
    rows = [list(map(int, line.split())) for line in table.read_text().splitlines()]
    return any(first <= number < first + count for first, _, count in rows)
