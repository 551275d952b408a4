"""The one door to Flower: set up before anything of it is imported, and what of it is not public.

Every module of ours that uses Flower imports this one before it. Flower is pinned exactly, as what
is used here may change with any version; ``tests/federated/test_flower.py`` says what did.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when Flower is imported
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import (
    DEFAULT_TTL,
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from typing import Literal

__all__ = [
    "SERVER",
    "SITE",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "Message",
    "MetricRecord",
    "RecordDict",
    "has_function",
    "identify",
    "instruction",
    "run_named",
]

SERVER, SITE = 1, 2
"""The nodes that messages go between: all sites are one, as only their sum is seen."""


def instruction(
    content: RecordDict, *, kind: Literal["train", "evaluate"], group: str, number: str = "1"
) -> Message:
    """Return a message to a site, with the metadata that Flower's own servers would set.

    Flower reads who it comes from in `TaskIdentity`, one for the whole process; this does without.

    Parameters
    ----------
    group
        The round, as text.
    number
        The message's name; the reply to it names it.
    """
    metadata = Metadata(
        run_id=1,
        message_id=number,
        src_node_id=SERVER,
        dst_node_id=SITE,
        reply_to_message_id="",
        group_id=group,
        created_at=time.time(),
        ttl=DEFAULT_TTL,
        message_type=kind,
    )
    return Message(content=content, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def has_function(app: ClientApp, kind: Literal["train", "evaluate"]) -> bool:
    """Whether an app says what it does for a kind of message; one of the older form never does.

    >>> has_function(ClientApp(), "train")
    False
    """
    return f"{kind}.default" in app._registered_funcs  # noqa: SLF001


def identify(run: int = 1) -> None:
    """Say whose messages this process makes: Flower's strategies do not make any before."""
    TaskIdentity.run_id = run
    TaskIdentity.node_id = SERVER
    TaskIdentity.task_id = 1


def run_named(run: int = 1) -> Run:
    """Return the description of a run that a `flwr.serverapp.Grid` must have."""
    return Run.create_empty(run)
