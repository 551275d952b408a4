"""The analyst's side of the exchange: jobs out, replies in, sites asked."""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from privnb.datasite.box import Box
from privnb.datasite.cards import read_card
from privnb.datasite.connection import outbox_path, requests_path
from privnb.datasite.envelope import MAX_ENVELOPE, ReceivedFiles, open_reply
from privnb.datasite.exchange import Exchange, open_exchange
from privnb.datasite.home import Home, make_durable
from privnb.datasite.keys import require_fingerprint
from privnb.datasite.names import check_email, check_other, check_sent, is_email, is_job_name
from privnb.datasite.owner import PLACEHOLDER
from privnb.datasite.ports import AnalystPort, ArrivedReply, SiteCard
from privnb.datasite.pysyft import (
    FileChangeEvent,
    FileChangeEventsMessage,
    PeerState,
    quietly,
)
from privnb.datasite.rounds import Channel
from privnb.errors import BadMessage, ExchangeUnavailable, KeyChanged, NotAPeer, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.datasite.keys import Bundle, Pin

__all__ = ["AnalystDatasite"]

log = logging.getLogger("privnb.datasite")

_MESSAGES_AT_ONCE = 32
_MAX_SITES = 1000
_MAX_IGNORED = 10_000
_OUTPUTS = "outputs/"
_STATE = "state.yaml"
_Standing = Literal["unknown", "asked", "accepted", "key changed"]
_CODE_PATH = re.compile(rb"^code_path:.*\n(?:[ ].*\n)*", re.MULTILINE)


class AnalystDatasite(AnalystPort):
    """An `AnalystPort` on PySyft. Make it with `open`; several kernels may share one home."""

    def __init__(self, home: Home, *, email: str, exchange: Exchange) -> None:
        self._home = home
        self._email = email
        self._exchange = exchange
        self._box = Box(home, email=email, exchange=exchange, role="analyst")
        self._channel = Channel(self._box, home=home, role="analyst")
        self._replies: dict[tuple[str, str], ArrivedReply] = {}
        self._ignored: set[tuple[str, str]] = set()

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        email: str,
        exchange: str,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Open an analyst's datasite; the first time, make its keys.

        Parameters
        ----------
        home
            Private local folder for keys, pinned peers and jobs.
        email
            The analyst's address; it is what sites know them by.
        exchange
            A folder or any fsspec URL, shared with the sites. A local folder must exist.
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
        >>> ana = AnalystDatasite.open(home, email="ana@uni.example", exchange="memory://empty")
        >>> ana.sites()
        []
        """
        check_email(email, whose="the analyst's email")
        shared = open_exchange(exchange, options=storage_options)
        return cls(Home(home), email=email, exchange=shared)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of our own public key, eight groups of four hexadecimal digits."""
        return self._box.bundle.fingerprint

    def sites(self) -> Sequence[SiteCard]:
        """Return every site that shows a card on the exchange, by owner.

        Nothing on a card is proved, and two sites may show the same name: tell them apart by
        owner and fingerprint.
        """
        owners = [name for name in self._exchange.names() if is_email(name)][:_MAX_SITES]
        cards = []
        for owner in owners:
            card = read_card(self._exchange, owner)
            if card is not None:
                name, seen = card
                state, fingerprint = self._standing(owner)
                cards.append(
                    SiteCard(
                        name=name,
                        owner=owner,
                        last_seen=seen,
                        fingerprint=fingerprint,
                        state=state,
                    )
                )
        return cards

    def ask(self, owner: str, *, fingerprint: str | None = None) -> None:
        """Ask a site's owner to become a peer; repeating it does nothing.

        Parameters
        ----------
        fingerprint
            What the owner read out over the telephone, in any grouping: pin exactly that key, also
            in the place of one pinned before. The owner must have accepted us.

        Raises
        ------
        NotAPeer
            A fingerprint is named, but the owner has not published a key for us.
        KeyChanged
            The owner's key is not the one named.
        """
        check_other(owner, own=self._email, whose="an owner's email")
        if fingerprint is not None:
            self._pin_named(owner, fingerprint)
            return
        pin = self._box.refresh().get(owner)
        asked = self._email in self._exchange.names(*requests_path(owner))
        if pin is not None and (pin.accepted or asked):
            return
        with self._home.lock():
            self._box.become_peers(owner, bundle=None)

    def submit(self, owner: str, name: str, files: Mapping[str, bytes]) -> None:
        """Send a job, encrypted to the owner's pinned key.

        The site takes in a name once, so this may be repeated after a failure.

        Parameters
        ----------
        name
            32 hexadecimal digits, random.
        files
            By path relative to the job's code folder; at most 16 MiB.

        Raises
        ------
        NotAPeer
            We have not asked, or the owner has not accepted us yet.
        KeyChanged
            The owner presents another key than the one pinned.
        BadMessage
            The name or the files are not of the allowed form.
        ExchangeUnavailable
            The exchange cannot be written now.
        """
        check_email(owner, whose="an owner's email")
        if not is_job_name(name):
            raise BadMessage(f"{name[:64]!a} is no job name; it takes 32 hexadecimal digits.")
        check_sent({f"code/{path}": data for path, data in files.items()}, what="The job")
        self._require_accepted(owner)
        with self._home.lock():
            self._box.refresh()
            self._push(owner, name, {PLACEHOLDER[0]: PLACEHOLDER[1], **files})

    def poll(self, owner: str) -> Sequence[ArrivedReply]:
        """Take in what arrived from one site; return every reply of it not yet retired.

        Costs two folder listings while nothing arrives. What is forged, malformed, too large or
        answers no open job is moved to the home's quarantine and logged to ``privnb.datasite``.

        Raises
        ------
        ExchangeUnavailable
            The exchange, or the disk of the home, cannot be used now; poll again later.
        """
        check_email(owner, whose="an owner's email")
        folder = outbox_path(owner, self._email)
        found = self._exchange.names(*folder)
        new = [name for name in found if (owner, name) not in self._ignored]
        try:
            for name in new[:_MESSAGES_AT_ONCE]:
                self._take_in_message(owner, (*folder, name))
            return self._open_replies(owner)
        except StateError as error:
            raise ExchangeUnavailable(error.message, hint=error.hint) from error

    def retire(self, owner: str, name: str) -> None:
        """Forget a job and its reply; nothing happens when they are gone."""
        with self._home.lock():
            submission, review = self._folders(owner, name)
            self._home.discard(review, submission)
        self._replies.pop((owner, name), None)

    def tell(self, owner: str, run: str, name: str, data: bytes) -> None:
        """Ask a site for one step of a run, encrypted to the owner's pinned key.

        Raises as `submit` does; the data may have 128 MiB.
        """
        check_email(owner, whose="an owner's email")
        self._require_accepted(owner)
        self._channel.tell(owner, run, name, data)

    def hear(self, owner: str, run: str, name: str) -> bytes | None:
        """Take what a site told under a name, or return None; costs one look for one file.

        Raises
        ------
        NotAPeer
            No key of the owner is pinned, so that nothing of theirs can be believed.
        BadMessage
            It is not theirs, not for this step, damaged or too large. It is gone then.
        ExchangeUnavailable
            The exchange cannot be read now.
        """
        check_email(owner, whose="an owner's email")
        pin = self._box.refresh().get(owner)
        if pin is None or not pin.accepted:
            self._require_accepted(owner)
        return self._channel.take(owner, run, name)

    def forget_run(self, owner: str, run: str) -> None:
        """Remove what is left of a run's rounds, as far as the exchange allows it now.

        What the site has not answered yet is gone too, so wait for its final reply first.
        """
        check_email(owner, whose="an owner's email")
        self._channel.forget(owner, run)

    def _standing(self, owner: str) -> tuple[_Standing, str | None]:
        """Return how we stand with an owner, and the fingerprint that counts."""
        pin = self._pin_if_accepted(owner)
        try:
            presented = self._box.presented(owner)
        except BadMessage:
            presented = None
        if pin is not None and pin.bundle is not None:
            changed = presented is not None and presented.fingerprint != pin.bundle.fingerprint
            return ("key changed" if changed else "accepted"), pin.bundle.fingerprint
        fingerprint = None if presented is None else presented.fingerprint
        return ("unknown" if pin is None else "asked"), fingerprint

    def _pin_if_accepted(self, owner: str) -> Pin | None:
        """Pin the owner's key at first sight, once they answered our asking."""
        pin = self._box.refresh().get(owner)
        if pin is None or pin.accepted or owner not in self._answers():
            return pin
        try:
            presented = self._box.presented(owner)
        except BadMessage:
            return pin
        if presented is None:
            return pin
        with self._home.lock():
            pin = self._box.pins.read().get(owner)
            if pin is not None and not pin.accepted:
                self._box.pins.write(owner, PeerState.ACCEPTED.value, presented)
        return self._box.refresh().get(owner)

    def _pin_named(self, owner: str, fingerprint: str) -> None:
        presented: Bundle | None = self._box.presented(owner)
        if presented is None:
            raise NotAPeer(
                f"{owner} has not published a key for us yet.",
                hint="Ask first; when the owner has accepted you, name the fingerprint.",
            )
        require_fingerprint(owner, presented, fingerprint)
        with self._home.lock():
            self._box.pins.write(owner, PeerState.ACCEPTED.value, presented)
        self._box.refresh()

    def _answers(self) -> list[str]:
        return self._exchange.names(*requests_path(self._email))

    def _require_accepted(self, owner: str) -> None:
        pin = self._pin_if_accepted(owner)
        if pin is None:
            raise NotAPeer(
                f"You have not asked {owner} to become a peer.",
                hint="Ask; the owner then accepts you on their side.",
            )
        if pin.bundle is None or not pin.accepted:
            raise NotAPeer(
                f"{owner} has not accepted you yet.",
                hint=f"The owner runs: privnb site accept DIR {self._email} "
                f"--fingerprint {self.fingerprint}",
            )
        try:
            presented = self._box.presented(owner)
        except BadMessage:
            presented, shown = None, "no sound key"
        else:
            shown = "" if presented is None else f"the key {presented.fingerprint}"
        if shown and (presented is None or presented.fingerprint != pin.bundle.fingerprint):
            raise KeyChanged(
                f"{owner} presents {shown}, but {pin.bundle.fingerprint} was pinned. "
                "Nothing was sent.",
                hint="Ask the owner, over the telephone, for their fingerprint; if the key is "
                "theirs, say so with %privnb trust SITE FINGERPRINT.",
            )

    def _push(self, owner: str, name: str, files: Mapping[str, bytes]) -> None:
        """Make a PySyft job of the files, and send it as one message."""
        submission, _ = self._folders(owner, name)
        self._home.discard(submission)
        with self._home.staging() as staging:
            _write_all(staging, files)
            with quietly():
                made = self._box.jobs.submit_python_job(owner, str(staging), job_name=name)
        watcher = self._box.watcher_syncer
        paths = sorted(path for path in made.rglob("*") if path.is_file())
        try:
            for path in paths:
                watcher.on_file_change(
                    path.relative_to(self._home.box),
                    content=_sent_form(path),
                    process_now=path == paths[-1],
                )
        finally:
            watcher.queue.queue.clear()
            watcher.datasite_watcher_cache.file_hashes.clear()

    def _take_in_message(self, owner: str, path: tuple[str, ...]) -> None:
        data = b""
        with self._home.lock():
            self._box.refresh()
            try:
                found = self._exchange.read(*path, limit=MAX_ENVELOPE)
                if found is None:
                    return
                data = found
                self._write_reply(owner, open_reply(self._box.store, owner, data))
            except BadMessage as bad:
                self._home.quarantine(owner, bad.message, data)
            try:
                self._exchange.remove(*path)
            except ExchangeUnavailable:
                log.warning("a message of %s cannot be removed from the exchange", owner)
                if len(self._ignored) >= _MAX_IGNORED:
                    self._ignored.clear()
                self._ignored.add((owner, path[-1]))

    def _write_reply(self, owner: str, received: ReceivedFiles) -> None:
        submission, review = self._folders(owner, received.job)
        if not submission.exists():
            raise BadMessage("it answers no open job of ours")
        if (review / _STATE).exists():
            return  # sent again after a crash; the first one counts
        now = time.time()
        base = review.relative_to(self._home.box / owner)
        # The state comes last: where it is, the outputs are complete.
        names = sorted(received.files, key=lambda name: (name == _STATE, name))
        events = [
            FileChangeEvent(
                id=uuid.uuid4(),
                path_in_datasite=base / name,
                datasite_email=owner,
                content=received.files[name],
                submitted_timestamp=now,
                timestamp=now,
            )
            for name in names
        ]
        cache = self._box.watcher_syncer.datasite_watcher_cache
        try:
            with quietly():
                cache.apply_event_message(FileChangeEventsMessage(events=events))
        finally:
            cache.file_hashes.clear()
            cache.events_connection.clear_cache()
        # The exchange's copy goes next; a paid answer must not be lost with the power.
        for name in names:
            make_durable(review / name)

    def _open_replies(self, owner: str) -> list[ArrivedReply]:
        box = self._box
        folder = box.jobs.config.get_review_dir(owner) / self._email / box.version_folder
        try:
            jobs = sorted(filter(is_job_name, os.listdir(folder)))  # noqa: PTH208 - no stat each
        except FileNotFoundError:
            return []
        for key in list(self._replies):
            if key[0] == owner and key[1] not in jobs:
                self._replies.pop(key, None)
        found = (self._reply(owner, job, folder / job) for job in jobs)
        return [reply for reply in found if reply is not None]

    def _reply(self, owner: str, job: str, review: Path) -> ArrivedReply | None:
        known = self._replies.get((owner, job))
        if known is not None or not (review / _STATE).exists():
            return known
        files = {
            str(path.relative_to(review / _OUTPUTS)): path.read_bytes()
            for path in sorted((review / _OUTPUTS).rglob("*"))
            if path.is_file()
        }
        reply = ArrivedReply(owner=owner, name=job, files=files)
        self._replies[owner, job] = reply
        return reply

    def _folders(self, owner: str, name: str) -> tuple[Path, Path]:
        return self._box.folders(self._box.ref(owner=owner, analyst=self._email, job=name))


def _sent_form(path: Path) -> bytes:
    """Return what is sent of a file: PySyft's description of a job tells where our home is."""
    data = path.read_bytes()
    return _CODE_PATH.sub(b"", data, count=1) if path.name == "config.yaml" else data


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
