"""The names of PySyft that we use, imported quietly. Only this room imports ``syft*``, and here.

PySyft prints to standard output and, when imported, gives its logger a handler. Its modules get a
``print`` of their own, which says nothing while `quietly` is in force in the calling thread and is
Python's ``print`` otherwise, so that whoever uses PySyft directly beside us still sees its output.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# PySyft installs a handler on its logger only when there is none.
if not logging.getLogger("syft").handlers:
    logging.getLogger("syft").addHandler(logging.NullHandler())

with warnings.catch_warnings():
    # Its models are written for an older pydantic.
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    import syft_crypto_python as crypto
    from syft.sync.connections.base_connection import ConnectionConfig, SyftboxPlatformConnection
    from syft.sync.events.file_change_event import FileChangeEvent, FileChangeEventsMessage
    from syft.sync.messages.proposed_filechange import (
        ProposedFileChange,
        ProposedFileChangesMessage,
    )
    from syft.sync.peers.peer import Peer as SyftPeer
    from syft.sync.peers.peer import PeerState
    from syft.sync.peers.peer_store import PeerStore
    from syft.sync.syftbox_manager import SyftboxManagerConfig, default_collections_folder
    from syft.sync.sync.caches.datasite_owner_cache import DataSiteOwnerEventCacheConfig
    from syft.sync.sync.caches.datasite_watcher_cache import DataSiteWatcherCacheConfig
    from syft.sync.sync.caches.persisted_dict import PersistedDict
    from syft.sync.sync.datasite_owner_syncer import DatasiteOwnerSyncerConfig
    from syft.sync.sync.datasite_watcher_syncer import DatasiteWatcherSyncerConfig
    from syft.sync.version.peer_manager import PeerManagerConfig
    from syft.sync.version.version_info import VersionInfo
    from syft.version import SYFT_VERSION
    from syft_job.config import SyftJobConfig
    from syft_job.job_ref import JobRef
    from syft_job.migrations.registry import JOB_PROTOCOL_VERSION, job_registry
    from syft_job.models import JobState, JobStatus
    from syft_perms import SyftPermContext
    from syft_rds import SyftRDSClient, SyftRDSClientConfig
    from syft_rds.config import DATASET_COLLECTION_SPECS, SyftBoxConfig

__all__ = [
    "DATASET_COLLECTION_SPECS",
    "JOB_PROTOCOL_VERSION",
    "SYFT_VERSION",
    "ConnectionConfig",
    "DataSiteOwnerEventCacheConfig",
    "DataSiteWatcherCacheConfig",
    "DatasiteOwnerSyncerConfig",
    "DatasiteWatcherSyncerConfig",
    "FileChangeEvent",
    "FileChangeEventsMessage",
    "JobRef",
    "JobState",
    "JobStatus",
    "PeerManagerConfig",
    "PeerState",
    "PeerStore",
    "PersistedDict",
    "ProposedFileChange",
    "ProposedFileChangesMessage",
    "SyftBoxConfig",
    "SyftJobConfig",
    "SyftPeer",
    "SyftPermContext",
    "SyftRDSClient",
    "SyftRDSClientConfig",
    "SyftboxManagerConfig",
    "SyftboxPlatformConnection",
    "VersionInfo",
    "crypto",
    "default_collections_folder",
    "job_registry",
    "quietly",
]

_PACKAGES = ("syft", "syft_datasets", "syft_job", "syft_perms", "syft_permissions", "syft_rds")


class _Quiet(threading.local):
    depth = 0


_quiet = _Quiet()


def _print(*values: Any, **options: Any) -> None:
    if not _quiet.depth:
        builtins.print(*values, **options)  # noqa: T201 - it is PySyft that prints


def _give_print() -> None:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES and not hasattr(module, "print"):
            module.print = _print  # type: ignore[attr-defined]


_give_print()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep PySyft from printing in this thread."""
    _quiet.depth += 1
    try:
        yield
    finally:
        _quiet.depth -= 1
