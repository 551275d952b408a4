"""The owner's side for notebooks: the only door through which magics and widgets reach a site.

>>> from privnb.owner import open_desk
>>> open_desk("northside").items()  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from privnb.site.reviewing.desk import Desk

__all__ = ["open_desk"]


def open_desk(directory: str | os.PathLike[str], reviewer: str | None = None) -> Desk:
    """Sit down at the reviews of a site that lies on this machine.

    Parameters
    ----------
    directory
        The site's folder, the one with ``site.toml``.
    reviewer
        The email of the reviewer whose key signs; by default the only key that a reviewer of the
        site has here. Without a key, requests can be looked at, but not decided on.

    Raises
    ------
    UnknownName
        ``reviewer`` has no key here.
    ConfigError
        ``site.toml`` is wrong, or says nothing of reviews.
    StateError
        The key or the site's database cannot be used.
    """
    from privnb.site.config import load_config  # noqa: PLC0415 - only when needed
    from privnb.site.reviewing.desk import Desk, choose_key  # noqa: PLC0415 - SQLAlchemy takes half a second

    site = load_config(Path(directory))
    return Desk(site.directory, choose_key(reviewer, site=site))
