"""The owner's side of the exchange: jobs in, replies out, peers accepted."""

from __future__ import annotations

import logging
import os
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from privnb.datasite.box import Box
from privnb.datasite.cards import write_card
from privnb.datasite.connection import inbox_path, requests_path
from privnb.datasite.envelope import MAX_ENVELOPE, ReceivedFiles, open_proposal
from privnb.datasite.exchange import Exchange, open_exchange
from privnb.datasite.home import Home
from privnb.datasite.keys import require_fingerprint
from privnb.datasite.names import check_email, check_other, check_sent, is_email, is_job_name
from privnb.datasite.ports import MAX_ROUND_BYTES, ArrivedJob, OwnerPort, Peer
from privnb.datasite.pysyft import (
    JobState,
    JobStatus,
    PeerState,
    ProposedFileChange,
    ProposedFileChangesMessage,
    quietly,
)
from privnb.datasite.rounds import Channel
from privnb.errors import BadMessage, ExchangeUnavailable, KeyChanged, NotAPeer, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.datasite.keys import Bundle, Pin
    from privnb.datasite.ports import SeenJobs

__all__ = ["OwnerDatasite"]

log = logging.getLogger("privnb.datasite")

_MESSAGES_AT_ONCE = 32
_OPEN_JOBS = 256
"""How many jobs of one sender may be open; further ones wait on the exchange."""
_OPEN_BYTES = 64 * 1024 * 1024
"""How large the open jobs of one sender may be together before further ones wait."""
_MAX_REQUESTS = 1000
_MAX_IGNORED = 10_000
_CODE = "code/"
# PySyft wants an entry point; what the analyst asks stands in the files beside it.
PLACEHOLDER = ("main.py", b"# The site's agent answers this job from the files beside this one.\n")


class OwnerDatasite(OwnerPort):
    """An `OwnerPort` on PySyft. Make it with `open`.

    Only the first process that polls a home takes in jobs; another one stands by, gets no jobs,
    and takes over when the first ends, however it ends. `accept`, `peers`, `reply` and `retire`
    work in every process. Nothing that arrives is ever run or unpickled.
    """

    def __init__(self, home: Home, *, email: str, exchange: Exchange) -> None:
        self._home = home
        self._email = email
        self._exchange = exchange
        self._box = Box(home, email=email, exchange=exchange, role="owner")
        self._channel = Channel(self._box, home=home, role="owner")
        self._jobs: dict[tuple[str, str], ArrivedJob] = {}
        self._submissions: dict[tuple[str, str], Path] = {}
        self._ignored: set[tuple[str, str]] = set()
        self._failing: set[str] = set()
        self._release: weakref.finalize[..., Any] | None = None
        self._stood_by = False

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        email: str,
        exchange: str,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Open a site's datasite; the first time, make its keys and the exchange's folder.

        Parameters
        ----------
        home
            Private local folder for keys, pinned peers and jobs. Real data does not belong there.
        email
            The owner's address; it names the datasite.
        exchange
            A folder or any fsspec URL, shared with the peers.
        storage_options
            Options of the URL's fsspec filesystem, such as credentials.

        Raises
        ------
        ConfigError
            The email or the URL cannot be used.
        StateError
            The home cannot be used, or is damaged.
        ExchangeUnavailable
            The exchange cannot be reached.

        Examples
        --------
        >>> import tempfile
        >>> home = Path(tempfile.mkdtemp())
        >>> site = OwnerDatasite.open(home, email="owner@north.example", exchange="memory://demo")
        >>> len(site.fingerprint)
        39
        >>> site.peers()
        []
        """
        check_email(email, whose="the owner's email")
        private = Home(home)
        shared = open_exchange(exchange, options=storage_options, create=private.is_new)
        return cls(private, email=email, exchange=shared)

    def close(self) -> None:
        """Let another process serve this home. Its end does the same."""
        if self._release is not None:
            self._release()
            self._release = None
        self._jobs.clear()
        self._submissions.clear()

    @property
    def fingerprint(self) -> str:
        """Fingerprint of our own public key, eight groups of four hexadecimal digits."""
        return self._box.bundle.fingerprint

    def peers(self) -> Sequence[Peer]:
        """Return everybody who asked or was decided on, by email."""
        pins = self._box.refresh()
        asking = self._exchange.names(*requests_path(self._email))[:_MAX_REQUESTS]
        everybody = sorted({*pins, *filter(is_email, asking)} - {self._email})
        return [self._peer(email, pins.get(email)) for email in everybody]

    def accept(self, email: str, *, fingerprint: str | None = None) -> Peer:
        """Pin the key that ``email`` presents now, and take in their jobs from now on.

        Parameters
        ----------
        fingerprint
            What they read out over the telephone, in any grouping. Naming it is also the way to
            accept a new key of a peer who lost the old one.

        Raises
        ------
        NotAPeer
            They have not asked, so that there is no key to pin.
        KeyChanged
            Their key is not the one named, or not the one pinned before.
        BadMessage
            What they present is no key.
        """
        check_other(email, own=self._email, whose="a peer's email")
        presented = self._box.presented(email)
        if presented is None:
            raise NotAPeer(
                f"{email} has not asked to become a peer, so there is no key to pin.",
                hint="Have them connect to this exchange and ask; check the spelling.",
            )
        if fingerprint is not None:
            require_fingerprint(email, presented, fingerprint)
        with self._home.lock():
            pin = self._box.pins.read().get(email)
            if fingerprint is None and pin is not None:
                self._refuse_changed(email, pin, presented)
            self._box.grant(email)
            self._box.become_peers(email, bundle=presented)
        return self._peer(email, self._box.refresh().get(email))

    def reject(self, email: str) -> Peer:
        """Take nothing from ``email`` any more; `accept` undoes it."""
        check_email(email, whose="a peer's email")
        with self._home.lock():
            self._box.pins.write(email, PeerState.REJECTED.value, None)
        return self._peer(email, self._box.refresh().get(email))

    def publish_card(self, name: str) -> None:
        """Show the site's name and that its agent is alive now."""
        write_card(self._exchange, owner=self._email, name=name)

    def poll(self, seen: SeenJobs) -> Sequence[ArrivedJob]:
        """Take in what accepted peers sent, and return every job not yet retired.

        Costs one folder listing for each peer while nothing arrives. What is malformed, forged,
        too large or repeated is moved to the home's quarantine and logged to ``privnb.datasite``.

        Raises
        ------
        ExchangeUnavailable
            The exchange, or the disk of the home, cannot be used now; poll again later.
        """
        try:
            return self._poll(seen)
        except StateError as error:
            raise ExchangeUnavailable(error.message, hint=error.hint) from error

    def _poll(self, seen: SeenJobs) -> Sequence[ArrivedJob]:
        if not self._serves():
            return []
        accepted = [email for email, pin in self._box.refresh().items() if pin.accepted]
        failures = {}
        for email in accepted:
            try:
                self._take_in_from(email, seen)
            except ExchangeUnavailable as failure:
                failures[email] = failure
        for email in failures.keys() - self._failing:
            log.warning("the inbox of %s cannot be read now", email)
        self._failing = set(failures)
        if failures and len(failures) == len(accepted):
            raise next(iter(failures.values()))
        return self._open_jobs(set(accepted))

    def reply(self, job: ArrivedJob, files: Mapping[str, bytes], *, succeeded: bool) -> None:
        """Send the outputs, end-to-end encrypted, then retire the job.

        A job that was retired before is left alone, so that this may be repeated.

        Raises
        ------
        BadMessage
            The files have unusual names or are too large.
        NotAPeer
            The sender is not accepted any more; `retire` the job.
        ExchangeUnavailable
            Nothing was sent; the job stays open.
        """
        check_sent({f"outputs/{name}": data for name, data in files.items()}, what="The reply")
        with self._home.lock():
            pin = self._box.refresh().get(job.sender)
            if pin is None or not pin.accepted:
                raise NotAPeer(
                    f"{job.sender} is not an accepted peer, so nothing is sent.",
                    hint="Accept them, or retire the job.",
                )
            ref = self._ref(job.sender, job.name)
            submission, review = self._box.folders(ref)
            if not submission.exists():
                log.debug("job %s of %s was retired before", job.name, job.sender)
                return
            sent = self._deposit(ref, review, files, succeeded=succeeded)
            self._send(job.sender, sent)
            self._home.discard(review, submission)
        self._forget(job.sender, job.name)

    def retire(self, job: ArrivedJob) -> None:
        """Forget a job without a reply; nothing happens when it is gone."""
        with self._home.lock():
            submission, review = self._box.folders(self._ref(job.sender, job.name))
            self._home.discard(review, submission)
        self._forget(job.sender, job.name)

    def asked(self, analyst: str, run: str) -> Sequence[str]:
        """Return the names of the asks of a run that wait; none of who is not accepted.

        Costs one folder listing. At most the first 64 are returned.
        """
        return self._channel.waiting(analyst, run) if self._accepts(analyst) else []

    def size(self, analyst: str, run: str, name: str) -> int:
        """Return about how many bytes an ask has, without reading it; 0 when nothing is there."""
        return self._channel.size(analyst, run, name) if self._accepts(analyst) else 0

    def hear(
        self, analyst: str, run: str, name: str, *, limit: int = MAX_ROUND_BYTES
    ) -> bytes | None:
        """Return what an analyst asks under a name; None when nothing is there.

        None too while they are not accepted. See `Channel.hear` for what is raised.
        """
        if not self._accepts(analyst):
            return None
        return self._channel.hear(analyst, run, name, limit=limit)

    def tell(self, analyst: str, run: str, name: str, data: bytes) -> None:
        """Answer the ask of that name, or tell unasked; then the ask is gone.

        Raises
        ------
        NotAPeer
            The analyst is not accepted.
        BadMessage
            A name is not of the allowed form, or the data is larger than 128 MiB.
        ExchangeUnavailable
            Nothing was sent, and the ask still waits.
        """
        check_email(analyst, whose="an analyst's email")
        self._channel.tell(analyst, run, name, data)
        self._channel.remove(analyst, run, name)

    def forget_run(self, analyst: str, run: str) -> None:
        """Remove what is left of a run's rounds, as far as the exchange allows it now.

        What the analyst has not heard yet is gone too, so send the final reply first.
        """
        check_email(analyst, whose="an analyst's email")
        self._channel.forget(analyst, run)

    def _accepts(self, email: str) -> bool:
        pin = self._box.refresh().get(email)
        return pin is not None and pin.accepted

    def _serves(self) -> bool:
        if self._release is not None:
            return True
        fd = self._home.try_to_serve()
        if fd is None:
            if not self._stood_by:
                log.warning("another process serves %s; standing by", self._home.path)
                self._stood_by = True
            return False
        self._release = weakref.finalize(self, os.close, fd)
        self._stood_by = False
        try:
            self._recover()
        except BaseException:
            self.close()
            raise
        return True

    def _recover(self) -> None:
        """Find the jobs that were taken in but not retired; drop those half taken in."""
        inbox = self._box.jobs.config.get_all_submissions_dir(self._email)
        with self._home.lock():
            self._box.grant_all()
            for folder in sorted(inbox.glob("*/v*/*")):
                sender, name = folder.parts[-3], folder.parts[-1]
                if not is_email(sender) or not is_job_name(name):
                    continue
                submission, review = self._box.folders(self._ref(sender, name))
                if (review / "state.yaml").exists():
                    self._remember(_arrived(sender, name, _files_of(submission)), submission)
                else:
                    self._home.discard(review, submission)

    def _open_jobs(self, accepted: set[str]) -> list[ArrivedJob]:
        """Return what is open, less what another process retired meanwhile."""
        for key, submission in list(self._submissions.items()):
            if not submission.exists():
                self._forget(*key)
        return [job for job in self._jobs.values() if job.sender in accepted]

    def _take_in_from(self, sender: str, seen: SeenJobs) -> None:
        folder = inbox_path(self._email, sender)
        found = self._exchange.names(*folder)
        if not found:
            return
        new = [name for name in found if (sender, name) not in self._ignored]
        for name in new[:_MESSAGES_AT_ONCE]:
            if not self._has_room(sender):
                return
            with self._home.lock():
                self._take_in_message(sender, (*folder, name), seen)
            self._remove(sender, (*folder, name))

    def _has_room(self, sender: str) -> bool:
        jobs = [job for job in self._jobs.values() if job.sender == sender]
        size = sum(len(data) for job in jobs for data in job.files.values())
        return len(jobs) < _OPEN_JOBS and size < _OPEN_BYTES

    def _take_in_message(self, sender: str, path: tuple[str, ...], seen: SeenJobs) -> None:
        data = b""
        try:
            found = self._exchange.read(*path, limit=MAX_ENVELOPE)
            if found is None:
                return
            data = found
            received = open_proposal(self._box.store, sender, data)
            if seen.seen(sender, received.job):
                raise BadMessage("it repeats a job that was taken in before")  # noqa: TRY301
            self._write_job(sender, received)
        except BadMessage as bad:
            self._home.quarantine(sender, bad.message, data)

    def _write_job(self, sender: str, received: ReceivedFiles) -> None:
        """Write a job into the datasite through PySyft's own checks."""
        ref = self._ref(sender, received.job)
        submission, review = self._box.folders(ref)
        job = _arrived(sender, received.job, received.files)
        if (review / "state.yaml").exists():
            if _files_of(submission) != received.files:
                raise BadMessage("it changes a job that is open")
            return
        self._home.discard(review, submission)
        base = f"app_data/job/inbox/{sender}/{submission.parent.name}/{received.job}"
        changes = [
            ProposedFileChange(
                path_in_datasite=Path(f"{base}/{name}"), content=data, datasite_email=self._email
            )
            for name, data in received.files.items()
        ]
        message = ProposedFileChangesMessage(sender_email=sender, proposed_file_changes=changes)
        try:
            self._apply(sender, message)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._home.discard(review, submission)
            raise BadMessage(f"PySyft does not take it ({type(error).__name__})") from error
        if not all((submission / name).is_file() for name in received.files):
            self._home.discard(review, submission)
            raise BadMessage("the datasite's permissions do not let its sender write there")
        with quietly():
            state = self._box.jobs.receive_job(sender, received.job, ref.protocol_version)
        if state.status != JobStatus.PENDING:
            self._home.discard(review, submission)
            raise BadMessage("it is not a complete job")
        self._remember(job, submission)

    def _remember(self, job: ArrivedJob, submission: Path) -> None:
        self._jobs[job.sender, job.name] = job
        self._submissions[job.sender, job.name] = submission

    def _forget(self, sender: str, name: str) -> None:
        self._jobs.pop((sender, name), None)
        self._submissions.pop((sender, name), None)

    def _apply(self, sender: str, message: Any) -> None:
        syncer = self._box.owner_syncer
        self._box.refresh_rules(sender)
        try:
            with quietly():
                syncer.handle_proposed_filechange_events_message(sender, message)
        finally:
            # It would send the sender's own files back to them, and remember everything for ever.
            for queue in (syncer.syftbox_events_queue, syncer.outbox_queue):
                queue.queue.clear()
            syncer.event_cache.file_hashes.clear()
            syncer.event_cache.events_messages_connection.clear_cache()

    def _deposit(
        self, ref: Any, review: Path, files: Mapping[str, bytes], *, succeeded: bool
    ) -> dict[Path, bytes]:
        """Write the outputs and the final state; return what the sender gets."""
        self._home.discard(review / "outputs")
        for name, data in files.items():
            path = review / "outputs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        now = datetime.now(UTC)
        state = JobState(
            status=JobStatus.DONE if succeeded else JobStatus.FAILED,
            approved_by=self._email,
            approved_at=now,
            approval_method="auto",
            completed_at=now,
            return_code=0 if succeeded else 1,
        )
        written = self._box.storage.write_state(ref, state)
        base = review.relative_to(self._home.box / self._email)
        sent = {base / "outputs" / name: data for name, data in files.items()}
        return {**sent, base / written.name: written.read_bytes()}

    def _send(self, recipient: str, files: dict[Path, bytes]) -> None:
        syncer = self._box.owner_syncer
        message = syncer.event_cache.create_events_for_files(files)
        syncer.event_cache.file_hashes.clear()
        syncer.connection_router.owner_write_event_messages_to_outbox(recipient, message)

    def _remove(self, sender: str, path: tuple[str, ...]) -> None:
        try:
            self._exchange.remove(*path)
        except ExchangeUnavailable:
            log.warning("a message of %s cannot be removed from the exchange; ignored", sender)
            if len(self._ignored) >= _MAX_IGNORED:
                self._ignored.clear()
            self._ignored.add((sender, path[-1]))

    def _peer(self, email: str, pin: Pin | None) -> Peer:
        try:
            presented = self._box.presented(email)
        except BadMessage:
            presented = None
        pinned = None if pin is None else pin.bundle
        shown = pinned or presented
        fingerprint = None if shown is None else shown.fingerprint
        if pin is not None and pin.state == PeerState.REJECTED.value:
            return Peer(email=email, fingerprint=fingerprint, state="rejected")
        if pin is None or not pin.accepted:
            return Peer(email=email, fingerprint=fingerprint, state="asked")
        if presented is not None and presented.fingerprint != fingerprint:
            return Peer(email=email, fingerprint=fingerprint, state="key changed")
        return Peer(email=email, fingerprint=fingerprint, state="accepted")

    def _ref(self, sender: str, name: str) -> Any:
        return self._box.ref(owner=self._email, analyst=sender, job=name)

    @staticmethod
    def _refuse_changed(email: str, pin: Pin, presented: Bundle) -> None:
        if pin.bundle is not None and pin.bundle.fingerprint != presented.fingerprint:
            raise KeyChanged(
                f"{email} presents the key {presented.fingerprint}, but {pin.bundle.fingerprint}"
                " was pinned.",
                hint="Ask them, over the telephone, for their fingerprint, and accept them naming "
                "it if the new key is theirs.",
            )


def _arrived(sender: str, name: str, files: Mapping[str, bytes]) -> ArrivedJob:
    code = {
        path.removeprefix(_CODE): data for path, data in files.items() if path.startswith(_CODE)
    }
    if code.get(PLACEHOLDER[0]) == PLACEHOLDER[1]:
        del code[PLACEHOLDER[0]]
    return ArrivedJob(sender=sender, name=name, files=code)


def _files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
