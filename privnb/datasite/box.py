"""PySyft's client over our exchange, set up so that a round trip costs the same after any number.

PySyft's own ``sync`` reads every file and every rule again for each change. Here a message is
pushed and taken in by itself, and nothing of a job remains after it is retired; see the calls in
`privnb.datasite.owner` and `privnb.datasite.analyst`.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Literal

from privnb.datasite.connection import ExchangeConnectionConfig, bundle_path
from privnb.datasite.keys import (
    MAX_BUNDLE,
    Bundle,
    Pin,
    Pins,
    ensure_own_keys,
    own_bundle,
    parse_published,
)
from privnb.datasite.pysyft import (
    DATASET_COLLECTION_SPECS,
    JOB_PROTOCOL_VERSION,
    SYFT_VERSION,
    DataSiteOwnerEventCacheConfig,
    DatasiteOwnerSyncerConfig,
    DataSiteWatcherCacheConfig,
    DatasiteWatcherSyncerConfig,
    JobRef,
    PeerManagerConfig,
    PeerState,
    PersistedDict,
    SyftBoxConfig,
    SyftboxManagerConfig,
    SyftJobConfig,
    SyftPeer,
    SyftPermContext,
    SyftRDSClient,
    SyftRDSClientConfig,
    default_collections_folder,
    job_registry,
    quietly,
)
from privnb.errors import ExchangeUnavailable, StateError

if TYPE_CHECKING:
    from pathlib import Path

    from privnb.datasite.exchange import Exchange
    from privnb.datasite.home import Home

__all__ = ["Box"]

RULES = "syft.pub.yaml"
"""PySyft's files of permissions."""


class Box:
    """One party's PySyft client, its pinned peers and its exchange.

    Making it again over the same home is safe, also after a crash. The methods that write are
    called with the home's lock held.
    """

    def __init__(
        self, home: Home, *, email: str, exchange: Exchange, role: Literal["owner", "analyst"]
    ) -> None:
        self.home = home
        self.email = email
        self.exchange = exchange
        self.pins = Pins(home.peers)
        self._current: dict[str, Pin] | None = None
        self._seen_bundles: dict[str, tuple[bytes, Bundle]] = {}
        with home.lock(), quietly():
            ensure_own_keys(home.keys, email)
            # PySyft replays these at start, and cannot start when a crash cut one short.
            for folder in ("box-events", "box-event-messages"):
                shutil.rmtree(home.path / folder, ignore_errors=True)
            self._use(self._make_client(role))
            self._publish_version()

    def refresh(self) -> dict[str, Pin]:
        """Return the pins, and give PySyft exactly the accepted peers with their pinned keys."""
        pins = self.pins.read()
        if pins is not self._current:
            accepted = {email: pin for email, pin in pins.items() if pin.accepted}
            self.store.set_peers(
                [
                    SyftPeer(
                        email=email,
                        state=PeerState.ACCEPTED,
                        public_encryption_bundle=pin.bundle.document if pin.bundle else None,
                    )
                    for email, pin in accepted.items()
                ]
            )
            for email in accepted:
                self.speak_to(email)
            self._current = pins
        return pins

    def speak_to(self, email: str) -> None:
        """Settle what PySyft would otherwise look up, or warn about, for each job."""
        schema = job_registry.schema_for_protocol_version(JOB_PROTOCOL_VERSION)
        self.storage.peer_schemas[email] = schema
        # It is written into a job's run.sh, which nobody here runs.
        self.jobs.peer_install_sources[email] = f"syft=={SYFT_VERSION}"

    def presented(self, email: str) -> Bundle | None:
        """Return the public keys that ``email`` publishes for us now, or None.

        Raises `BadMessage` when they are not well formed.
        """
        data = self.exchange.read(*bundle_path(email, self.email), limit=MAX_BUNDLE)
        if data is None:
            return None
        known = self._seen_bundles.get(email)
        if known is None or known[0] != data:
            known = self._seen_bundles[email] = (data, parse_published(email, data))
        return known[1]

    def become_peers(self, email: str, *, bundle: Bundle | None) -> None:
        """Let PySyft ask ``email``, or accept them when their checked ``bundle`` is given."""
        state = PeerState.REQUESTED_BY_ME if bundle is None else PeerState.REQUESTED_BY_PEER
        self.pins.checked = {} if bundle is None else {email: bundle}
        try:
            with quietly():
                # PySyft asks first and publishes its key after: whoever reads the request
                # between the two would find no key.
                own = json.dumps({"public_encryption_bundle": self.store.get_public_bundle()})
                self.peer_manager.connection_router.write_encryption_bundle(email, own)
                self.store.set_peer(SyftPeer(email=email, state=state))
                self.peer_manager.add_peer(email, force=True, verbose=False)
        finally:
            self.pins.checked = {}
            self._current = None
        self.refresh()

    @property
    def version_folder(self) -> str:
        """The folder between a peer and their jobs, by version of the protocol."""
        return f"v{JOB_PROTOCOL_VERSION}"

    def grant(self, email: str) -> None:
        """Let a peer write jobs into their folder of our datasite, and read their reviews."""
        for folder in self._peer_folders():
            # A crash may have cut it short, and PySyft adds to what is there.
            (folder / email / RULES).unlink(missing_ok=True)
        with quietly():
            self.jobs.setup_ds_job_folder_as_do(email)

    def grant_all(self) -> None:
        """`grant` it to every accepted peer."""
        for email in self._accepted():
            self.grant(email)

    def refresh_rules(self, email: str) -> None:
        """Have PySyft know the rules that concern a peer; damaged ones are made anew."""
        rules = self.owner_syncer.perm_context
        try:
            rules.refresh(email)
        except Exception:  # noqa: BLE001 - PySyft and YAML have no common error for it
            self._drop_rules()
            self.grant_all()
            rules.refresh(email)

    def ref(self, *, owner: str, analyst: str, job: str) -> Any:
        """Return PySyft's reference to a job."""
        return JobRef(owner, analyst, job, JOB_PROTOCOL_VERSION)

    def folders(self, ref: Any) -> tuple[Path, Path]:
        """Return a job's submission folder and its review folder."""
        return self.storage.submission_dir(ref), self.storage.review_dir(ref)

    def _use(self, client: Any) -> None:
        self.client: Any = client
        self.jobs: Any = client.job_client
        self.storage: Any = self.jobs.manager
        self.peer_manager: Any = client.peer_manager
        self.store: Any = self.peer_manager.peer_store
        self.owner_syncer: Any = client.sync_engine.datasite_owner_syncer
        self.watcher_syncer: Any = client.sync_engine.datasite_watcher_syncer
        self.bundle = own_bundle(self.store)
        if self.owner_syncer is not None:
            syncer = self.owner_syncer
            syncer.perm_context = _StampedRules(datasite=syncer.perm_context.datasite)
            syncer.event_cache.file_hashes = PersistedDict()
            if not all(self._has_rules(email) for email in self._accepted()):
                self.grant_all()
        if self.watcher_syncer is not None:
            self.watcher_syncer.datasite_watcher_cache.file_hashes.clear()

    def _make_client(self, role: str) -> Any:
        try:
            return SyftRDSClient.from_config(self._config(role))
        except (ExchangeUnavailable, OSError):
            raise
        except Exception:  # noqa: BLE001 - PySyft and YAML have no common error for damaged rules
            self._drop_rules()
        try:
            return SyftRDSClient.from_config(self._config(role))
        except ValueError as error:
            raise StateError(
                f"PySyft cannot use {self.home.box} ({type(error).__name__}).",
                hint="Move that folder away: it holds only jobs that are not answered yet.",
            ) from error

    def _accepted(self) -> list[str]:
        return [email for email, pin in self.refresh().items() if pin.accepted]

    def _has_rules(self, email: str) -> bool:
        return all(_stamp(folder / email / RULES) for folder in self._peer_folders())

    def _peer_folders(self) -> tuple[Path, Path]:
        jobs = self.home.box / self.email / "app_data" / "job"
        return jobs / "inbox", jobs / "review"

    def _drop_rules(self) -> None:
        for folder in self._peer_folders():
            for path in folder.glob(f"*/{RULES}"):
                path.unlink()

    def _publish_version(self) -> None:
        manager = self.client.peer_manager
        published = manager.connection_router.read_own_version_file()
        own = manager.get_own_version()
        if published is None or published.syft_client_version != own.syft_client_version:
            manager.write_own_version()

    def _config(self, role: str) -> Any:
        box, email = self.home.box, self.email
        specs = DATASET_COLLECTION_SPECS
        collections = default_collections_folder(box, email, specs)
        connections = [
            ExchangeConnectionConfig(email=email, exchange=self.exchange, pins=self.pins)
        ]
        is_owner, is_analyst = role == "owner", role == "analyst"
        # PySyft's in-memory caches break its jobs: the files have to be in the box.
        sync = SyftboxManagerConfig(
            email=email,
            syftbox_folder=box,
            has_do_role=is_owner,
            has_ds_role=is_analyst,
            use_in_memory_cache=False,
            datasite_owner_syncer_config=DatasiteOwnerSyncerConfig(
                email=email,
                syftbox_folder=box,
                collections_folder=collections,
                collection_specs=specs,
                connection_configs=connections,
                cache_config=DataSiteOwnerEventCacheConfig(
                    email=email,
                    use_in_memory_cache=False,
                    syftbox_folder=box,
                    collections_folder=collections,
                ),
            ),
            datasite_watcher_syncer_config=DatasiteWatcherSyncerConfig(
                email=email,
                syftbox_folder=box,
                connection_configs=connections,
                datasite_watcher_cache_config=DataSiteWatcherCacheConfig(
                    email=email,
                    use_in_memory_cache=False,
                    syftbox_folder=box,
                    collection_specs=specs,
                    connection_configs=connections,
                ),
            ),
            peer_manager_config=PeerManagerConfig(
                email=email,
                syftbox_folder=box,
                connection_configs=connections,
                has_do_role=is_owner,
                has_ds_role=is_analyst,
                use_encryption=True,
                crypto_keys_path=self.home.keys,
            ),
        )
        return SyftRDSClientConfig(
            sync=sync,
            job=SyftJobConfig(syftbox_folder=box, current_user_email=email, has_do_role=is_owner),
            dataset=SyftBoxConfig(syftbox_folder=box, email=email),
        )


class _StampedRules(SyftPermContext):  # type: ignore[misc]
    """PySyft's permission rules, read again when a file of them changed, not for every file.

    Rules lie in the datasite's folder and in each peer's; nobody else may write one there.
    """

    def __init__(self, datasite: Path) -> None:
        self._stamps: dict[str, tuple[int, ...]] = {}
        super().__init__(datasite=datasite)

    def refresh(self, peer: str) -> None:
        """Read the rules again when those that concern ``peer`` changed."""
        jobs = self.datasite / "app_data" / "job"
        folders = (self.datasite, jobs / "inbox" / peer, jobs / "review" / peer)
        stamps = tuple(_stamp(folder / RULES) for folder in folders)
        if stamps != self._stamps.get(peer):
            super()._reload()
            self._stamps[peer] = stamps

    def _reload(self) -> None:
        """Do nothing: `refresh` was called for this message."""


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
