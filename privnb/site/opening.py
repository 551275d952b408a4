"""Where the parts of a site lie in its folder, and how they are opened.

::

    DIR/site.toml           what the owner declares
    DIR/state/site.sqlite   grants, ledger, requests, events
    DIR/state/tables/       the bounded tables
    DIR/state/agents/       the signs of life of the agents
    DIR/datasite/           the PySyft datasite: keys, peers, jobs; no data
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from privnb.site.config import SiteConfig, load_config

if TYPE_CHECKING:
    from pathlib import Path

    from privnb.datasite.owner import OwnerDatasite
    from privnb.site.agent import Agent

__all__ = ["database_path", "open_agent", "open_datasite"]


def database_path(config: SiteConfig) -> Path:
    """Return where the site's database lies."""
    return config.directory / "state" / "site.sqlite"


def open_datasite(config: SiteConfig) -> OwnerDatasite:
    """Open the site's datasite, or make it; see `OwnerDatasite.open` for the errors."""
    from privnb.datasite.owner import OwnerDatasite  # noqa: PLC0415 - PySyft takes a second

    return OwnerDatasite.open(
        config.directory / "datasite",
        email=config.owner,
        exchange=config.exchange,
        storage_options=config.storage_options,
    )


def open_agent(directory: Path) -> Agent:
    """Open a site and its agent, which is then to be warmed, run and closed.

    Raises
    ------
    ConfigError
        ``site.toml`` is wrong, or the data does not fit it.
    StateError
        The site's state cannot be used, or a table's accounting was changed after a charge.
    ExchangeUnavailable
        The exchange cannot be reached.

    Examples
    --------
    >>> agent = open_agent(Path("northside"))  # doctest: +SKIP
    >>> agent.run(threading.Event())  # doctest: +SKIP
    """
    from privnb.site.agent import Agent  # noqa: PLC0415 - opening a datasite needs none of these
    from privnb.site.database import Database  # noqa: PLC0415
    from privnb.site.ledger import table_standing, terms_of  # noqa: PLC0415
    from privnb.site.tables import Tables  # noqa: PLC0415

    config = load_config(directory)
    state = config.directory / "state"
    with contextlib.ExitStack() as opened:
        database = Database.open(database_path(config))
        opened.callback(database.close)
        with database.read() as snapshot:
            for terms in terms_of(config).values():
                table_standing(snapshot, terms)  # refuses an accounting that was changed
        port = open_datasite(config)
        tables = opened.enter_context(Tables.open(config, state=state))
        agent = Agent(config, port=port, tables=tables, database=database, state=state)
        opened.pop_all()  # the agent closes them
    return agent
