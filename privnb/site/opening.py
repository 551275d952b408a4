"""Where the parts of a site lie in its folder, and how they are opened.

::

    DIR/site.toml           what the owner declares
    DIR/state/site.sqlite   grants, ledger, requests, reviews, audit log
    DIR/state/audit.key     the key that signs the audit log's checkpoints
    DIR/state/tables/       the registered tables
    DIR/state/agents/       the signs of life of the agents
    DIR/datasite/           the PySyft datasite: keys, peers, jobs; no data
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from privnb.errors import PrivnbError
from privnb.site.config import SiteConfig, load_config

if TYPE_CHECKING:
    from pathlib import Path

    from privnb.datasite.owner import OwnerDatasite
    from privnb.site.agent import Agent
    from privnb.site.audit import AuditLog
    from privnb.site.data.tables import Tables
    from privnb.site.python_engine import PythonEngine

__all__ = ["database_path", "open_agent", "open_audit", "open_datasite"]

logger = logging.getLogger("privnb.site")

_LEAST_OUTPUT_BYTES = 1_000_000
"""What a reviewer may look at can be larger than what leaves unseen."""


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
    from privnb.site.audit import record_event  # noqa: PLC0415
    from privnb.site.data.tables import Tables  # noqa: PLC0415
    from privnb.site.database import Database  # noqa: PLC0415
    from privnb.site.ledger import table_standing, terms_of  # noqa: PLC0415

    config = load_config(directory)
    state = config.directory / "state"
    with contextlib.ExitStack() as opened:
        database = Database.open(database_path(config))
        opened.callback(database.close)
        with database.read() as snapshot:
            for terms in terms_of(config).values():
                table_standing(snapshot, terms)  # refuses an accounting that was changed
        audit = open_audit(config)
        port = open_datasite(config)
        tables = opened.enter_context(Tables.open(config, state=state))
        python = _open_python(config, tables)
        if python is not None:
            opened.callback(python.close)
        with database.write() as transaction:
            record_event(transaction, "start", sandbox=python.level if python else "no Python")
        agent = Agent(
            config,
            port=port,
            tables=tables,
            database=database,
            state=state,
            audit=audit,
            python=python,
        )
        opened.pop_all()  # the agent closes them
    return agent


def open_audit(config: SiteConfig) -> AuditLog:
    """Open what signs the site's audit log, or make its key."""
    from privnb.audit import origin_of  # noqa: PLC0415 - opening a datasite needs none of these
    from privnb.site.audit import AuditLog  # noqa: PLC0415

    origin = origin_of(config.name, config.owner)
    return AuditLog.open(config.directory / "state", origin=origin)


def _open_python(config: SiteConfig, tables: Tables) -> PythonEngine | None:
    """Open the sandbox; without one, SQL is answered all the same, and Python is refused."""
    if config.python is None:
        return None
    from privnb.site.python_engine import PythonEngine  # noqa: PLC0415 - only where it is taken
    from privnb.site.sandbox import Sandbox, SandboxLimits  # noqa: PLC0415

    limits = SandboxLimits(
        wall_seconds=config.python.seconds,
        cpu_seconds=config.python.seconds,
        memory_mb=config.python.memory_mb,
        output_bytes=max(config.python.max_bytes, _LEAST_OUTPUT_BYTES),
    )
    # What nobody can approve of is not trained, and takes no memory for a worker that waits.
    training = config.python.workers if config.federated and config.review else 0
    box = None
    for trainings in dict.fromkeys((training, 0)):
        try:
            box = Sandbox.open(
                packages=config.python.packages,
                limits=limits,
                workers=config.python.workers,
                training=trainings,
                allow_unsandboxed=config.python.allow_unsandboxed,
            )
        except PrivnbError as problem:
            what = "Federated training is" if trainings else "Python cells are"
            logger.error("%s refused: %s %s", what, problem, problem.hint)  # noqa: TRY400 - no stack needed
        else:
            break
    if box is None:
        return None
    logger.info("Python cells run in: %s", box.level)
    if box.without_bubblewrap:
        logger.info("without bubblewrap: %s", box.without_bubblewrap)
    return PythonEngine(config, data=tables.frames, box=box, trains=trainings > 0)
