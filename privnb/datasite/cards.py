"""Site cards: what a site shows of itself on the exchange, read as the work of a stranger."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from privnb import wire
from privnb.datasite.connection import CARD
from privnb.errors import BadMessage, ConfigError

if TYPE_CHECKING:
    from privnb.datasite.exchange import Exchange

__all__ = ["read_card", "write_card"]

_MAX_CARD = 4096
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_END_OF_TIME = 2.0**35  # the year 3058; later ones break what shows times


def _is_name(text: object) -> bool:
    # As in site.toml. Other letters could look like these; name@owner tells two of a name apart.
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def write_card(exchange: Exchange, *, owner: str, name: str) -> None:
    """Show the site's name, and that its agent is alive now."""
    if not _is_name(name):
        raise ConfigError(
            f"{name[:64]!a} cannot be a site's name.",
            hint="Use lower-case letters, digits and hyphens, at most 63.",
        )
    card = {"name": name, "owner": owner, "seen": round(time.time(), 3)}
    exchange.write(wire.canonical_json(card), owner, CARD)


def read_card(exchange: Exchange, owner: str) -> tuple[str, float | None] | None:
    """Return a site's name and when its agent was last alive; None when it shows no sound card."""
    try:
        data = exchange.read(owner, CARD, limit=_MAX_CARD)
        card = None if data is None else json.loads(data)
    except (BadMessage, ValueError, RecursionError):
        return None
    if not isinstance(card, dict) or card.get("owner") != owner or not _is_name(card.get("name")):
        return None
    seen = card.get("seen")
    if isinstance(seen, bool) or not isinstance(seen, int | float) or not 0 <= seen < _END_OF_TIME:
        return card["name"], None
    return card["name"], float(seen)
