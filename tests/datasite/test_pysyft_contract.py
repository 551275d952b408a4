"""What we rely on in PySyft. A failure here after an upgrade says what to look at.

Versions are pinned exactly, as several of these are not documented. After an upgrade: read the
changed method, mend its caller in ``privnb/datasite/``, then change the line here.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import tarfile
from pathlib import Path

import pytest
from syft.sync.connections.connection_router import ConnectionRouter
from syft.sync.events.file_change_event import FileChangeEvent, FileChangeEventsMessage
from syft.sync.messages.proposed_filechange import ProposedFileChange, ProposedFileChangesMessage
from syft.sync.peers.peer import PeerState
from syft.sync.peers.peer_store import PeerStore
from syft.sync.syftbox_manager import SyftboxManager
from syft.sync.sync.caches.cache_file_writer_connection import FSFileConnection
from syft.sync.sync.caches.datasite_owner_cache import DataSiteOwnerEventCache
from syft.sync.sync.caches.datasite_watcher_cache import DataSiteWatcherCache
from syft.sync.sync.datasite_owner_syncer import DatasiteOwnerSyncer
from syft.sync.sync.datasite_watcher_syncer import DatasiteWatcherSyncer
from syft.sync.version.peer_manager import PeerManager
from syft_job.client import JobClient
from syft_job.config import SyftJobConfig
from syft_job.job_ref import JobRef
from syft_job.job_storage import JobStorage
from syft_job.models import JobState, JobStatus
from syft_perms import SyftPermContext
from syft_rds import SyftRDSClient, SyftRDSClientConfig

from privnb.datasite.connection import ExchangeConnection
from privnb.datasite.pysyft import crypto

OWNER = "owner@north.example"
ANA = "ana@uni.example"
FILES = {"computation.json": b"{}", "raw.bin": b"\x00\xff"}

UPGRADE = "PySyft changed; read this module's docstring"


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("syft", "0.10.0"),
        ("syft-crypto-python", "0.1.2b4"),
        ("syft-job", "0.1.40"),
        ("syft-perms", "0.1.15"),
        ("syft-rds", "0.6.1"),
    ],
)
def test_the_version_that_was_read(package, version):
    assert importlib.metadata.version(package) == version, UPGRADE


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (SyftRDSClient.from_config, "config"),
        (SyftboxManager.from_config, "config"),
        (JobClient.submit_python_job, "self user code_path job_name dependencies entrypoint"),
        (JobClient.receive_job, "self ds_email job_name protocol_version"),
        (JobClient.setup_ds_job_folder_as_do, "self ds_email"),
        (SyftJobConfig.get_all_submissions_dir, "self datasite_email"),
        (SyftJobConfig.get_review_dir, "self datasite_email"),
        (JobStorage.submission_dir, "self ref"),
        (JobStorage.review_dir, "self ref"),
        (JobStorage.write_state, "self ref state"),
        (JobRef, "datasite_email ds_email job_name protocol_version"),
        (PeerManager.add_peer, "self peer_email force verbose"),
        (PeerManager.get_own_version, "self"),
        (PeerManager.write_own_version, "self"),
        (PeerStore.set_peer, "self peer"),
        (PeerStore.set_peers, "self peers"),
        (PeerStore.has_peer_bundle, "self peer_email"),
        (PeerStore.verify_message, "self sender_email envelope"),
        (PeerStore.encrypt, "self recipient_email plaintext"),
        (PeerStore.decrypt, "self sender_email envelope"),
        (PeerStore.generate_keys, "self"),
        (PeerStore.get_public_bundle, "self"),
        (PeerStore.save_keys, "self path"),
        (PeerStore.load_keys, "path"),
        (ConnectionRouter.read_own_version_file, "self"),
        (ConnectionRouter.write_encryption_bundle, "self peer_email bundle_json"),
        (
            ConnectionRouter.owner_write_event_messages_to_outbox,
            "self recipient_email events_message",
        ),
        (
            DatasiteOwnerSyncer.handle_proposed_filechange_events_message,
            "self sender_email proposed_events_message",
        ),
        (DatasiteWatcherSyncer.on_file_change, "self relative_path content process_now"),
        (DataSiteOwnerEventCache.create_events_for_files, "self files"),
        (DataSiteWatcherCache.apply_event_message, "self event_message"),
        (FSFileConnection.clear_cache, "self"),
        (SyftPermContext.__init__, "self datasite"),
        (SyftPermContext._reload, "self"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_method_has_the_parameters_we_use(method, parameters):
    assert list(inspect.signature(method).parameters) == parameters.split(), UPGRADE


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (SyftRDSClientConfig, {"sync", "job", "dataset"}),
        (SyftRDSClient, {"sync_engine", "job_client", "job_runner", "dataset_manager"}),
        (
            ProposedFileChangesMessage,
            {"id", "sender_email", "message_filename", "proposed_file_changes", "platform_id"},
        ),
        (
            ProposedFileChange,
            {
                "id", "old_hash", "new_hash", "submitted_timestamp", "path_in_datasite", "content",
                "datasite_email", "is_deleted",
            },
        ),
        (FileChangeEventsMessage, {"events", "message_filepath"}),
        (
            FileChangeEvent,
            {
                "id", "path_in_datasite", "datasite_email", "content", "old_hash", "new_hash",
                "is_deleted", "submitted_timestamp", "timestamp",
            },
        ),
    ],
)  # fmt: skip
def test_a_model_has_the_fields_that_we_check(model, fields):
    """A field that we do not know may hold what we do not check."""
    assert set(model.model_fields) == fields, UPGRADE


def test_the_states_we_write_and_read():
    assert {state.value for state in PeerState} == {
        "accepted",
        "requested_by_peer",
        "rejected",
        "requested_by_me",
    }
    assert (JobStatus.PENDING.value, JobStatus.DONE.value, JobStatus.FAILED.value) == (
        "pending",
        "done",
        "failed",
    )
    assert JobState(status=JobStatus.DONE, return_code=0).return_code == 0


def test_our_connection_has_what_pysyft_asks_its_connection_for():
    """`ConnectionRouter` calls these on the paths that we use; its base class lacks some."""
    wanted = {
        "_get_peers_json",
        "_update_peer_state",
        "add_peer",
        "get_authenticated_email",
        "get_peer_requests",
        "owner_write_raw_bytes_to_outbox",
        "read_own_version_file",
        "read_peer_encryption_bundle",
        "read_peer_version_file",
        "share_encryption_bundles_folder",
        "share_version_file_with_peer",
        "watcher_send_raw_bytes_to_inbox",
        "write_encryption_bundle",
        "write_version_file",
    }
    source = inspect.getsource(ConnectionRouter)
    for name in wanted:
        assert f".{name}(" in source, UPGRADE
        assert name in vars(ExchangeConnection)


def test_the_connections_of_one_party_share_its_peers_and_keys(owner, ana):
    for site in (owner, ana):
        engine = site._box.client.sync_engine
        syncer = engine.datasite_owner_syncer or engine.datasite_watcher_syncer
        assert syncer.connection_router.peer_store is site._box.store
        assert engine.peer_manager.peer_store is site._box.store
        assert site._box.store.use_encryption


def test_a_submission_is_one_message_of_these_files(world, owner, ana):
    name = world.new_name()
    ana.submit(OWNER, name, FILES)
    (sent,) = world.inbox().iterdir()
    store = owner._box.store
    owner._box.refresh()
    packed = store.decrypt(ANA, sent.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        assert tar.getnames() == ["proposed_file_changes.json"]
    message = ProposedFileChangesMessage.from_compressed_data(packed)
    base = f"app_data/job/inbox/{ANA}/v1/{name}"
    assert message.sender_email == ANA
    assert {str(change.path_in_datasite): change.content for change in message.proposed_file_changes
            }.keys() == {
        f"{base}/config.yaml", f"{base}/run.sh", f"{base}/code/main.py",
        f"{base}/code/computation.json", f"{base}/code/raw.bin",
    }  # fmt: skip
    assert {change.datasite_email for change in message.proposed_file_changes} == {OWNER}


def test_taking_in_writes_files_queues_an_echo_and_remembers_hashes(world, owner, ana):
    """The echo and the memory are what ``OwnerDatasite._apply`` has to undo."""
    syncer = owner._box.owner_syncer
    owner._box.refresh()
    syncer.perm_context.refresh(ANA)
    path = Path(f"app_data/job/inbox/{ANA}/v1/{world.new_name()}/run.sh")
    change = ProposedFileChange(path_in_datasite=path, content=b"\xff", datasite_email=OWNER)
    syncer.handle_proposed_filechange_events_message(
        ANA, ProposedFileChangesMessage(sender_email=ANA, proposed_file_changes=[change])
    )
    assert (owner._home.box / OWNER / path).read_bytes() == b"\xff"
    assert syncer.syftbox_events_queue.qsize() == syncer.outbox_queue.qsize() == 1
    assert path in syncer.event_cache.file_hashes
    assert list((owner._home.path / "box-events").iterdir())


def test_the_permission_rules_hold(world, owner, ana, bob):
    """They are the second lock behind our own path check."""
    syncer = owner._box.owner_syncer
    owner._box.refresh()
    for sender in (ANA, "bob@uni.example"):
        syncer.perm_context.refresh(sender)
    allowed = {
        (who, where): syncer.check_write_permission(who, f"app_data/job/{where}/v1/x/run.sh")
        for who in (ANA, "eve@x.org")
        for where in (f"inbox/{ANA}", "inbox/bob@uni.example", f"review/{ANA}")
    }
    assert [pair for pair, allow in allowed.items() if allow] == [(ANA, f"inbox/{ANA}")]


def test_a_received_job_is_pending_and_an_incomplete_one_rejected(world, owner, ana):
    for files, status in ((("config.yaml", "run.sh", "code/main.py"), "pending"), ((), "rejected")):
        name = world.new_name()
        submission, review = owner._box.folders(owner._ref(ANA, name))
        submission.mkdir(parents=True)
        for file in files:
            (submission / file).parent.mkdir(exist_ok=True)
            (submission / file).write_text("")
        state = owner._box.jobs.receive_job(ANA, name, "1")
        assert state.status.value == status
        assert (review / "state.yaml").is_file()


def test_an_envelope_hides_its_content_and_binds_sender_and_recipient(world, owner, ana, bob):
    owner._box.refresh()
    data = ana._box.store.encrypt(OWNER, b"plain content")
    assert b"plain content" not in data
    store = owner._box.store
    store.verify_message(ANA, data)
    assert store.decrypt(ANA, data) == b"plain content"
    with pytest.raises(ValueError, match=r"(?i)signature|mismatch"):
        store.verify_message("bob@uni.example", data)
    bob._box.store.set_peers([*bob._box.store.approved_peers, *store.approved_peers])
    bob._box.store.verify_message(ANA, data)
    with pytest.raises(ValueError, match=r"(?i)recipient|decrypt"):
        bob._box.store.decrypt(ANA, data)


def test_an_envelope_has_bytes_that_nothing_protects(world, owner, ana):
    """Why repetition is noticed by the job's name, and not by the message's bytes."""
    owner._box.refresh()
    data = ana._box.store.encrypt(OWNER, b"x")
    padding = data.rindex(bytes(64))
    changed = data[: padding + 8] + b"\x01" + data[padding + 9 :]
    assert changed != data
    owner._box.store.verify_message(ANA, changed)
    assert owner._box.store.decrypt(ANA, changed) == b"x"


def test_a_bundle_of_keys_checks_its_own_signatures(ana):
    document = ana._box.store.get_public_bundle()
    keys = crypto.SyftPublicKeyBundle.from_did_document(document)
    assert keys.verify_signatures() is True
    assert sorted(document) == ["@context", "id", "identity", "keyAgreement", "verificationMethod"]
