"""Opening what was received: verify, decrypt, unpack within bounds, parse, and trust no field.

Everything here raises `BadMessage` for whatever is wrong with the bytes, and nothing else.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from privnb.datasite.names import MAX_FILES_BYTES, check_received, is_job_name
from privnb.datasite.pysyft import (
    JOB_PROTOCOL_VERSION,
    FileChangeEventsMessage,
    ProposedFileChangesMessage,
    crypto,
)
from privnb.errors import BadMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "MAX_ENVELOPE",
    "ReceivedFiles",
    "is_envelope",
    "open_envelope",
    "open_proposal",
    "open_reply",
]

# Base64 adds a third and JSON a little.
MAX_UNPACKED = MAX_FILES_BYTES * 3 // 2
MAX_ENVELOPE = MAX_FILES_BYTES * 3 // 2
"""The largest message that is read from the exchange at all, in bytes."""
_GZIP = 16 + zlib.MAX_WBITS
_MEMBER = "proposed_file_changes.json"
_STATE = "state.yaml"
_VERSION_FOLDER = f"v{JOB_PROTOCOL_VERSION}"


@dataclass(frozen=True)
class ReceivedFiles:
    """The files of one message, all of one job; by path relative to the job's folder."""

    job: str
    files: Mapping[str, bytes]


def is_envelope(data: bytes) -> bool:
    """Tell whether the bytes are an encrypted envelope, as opposed to plain text."""
    try:
        with _hostile("is not encrypted"):
            crypto.parse_envelope(data)
    except BadMessage:
        return False
    return True


def open_proposal(store: Any, sender: str, data: bytes) -> ReceivedFiles:
    """Open a job that lies in ``sender``'s inbox of our datasite.

    Accepted is only a complete new job in that sender's own inbox, signed by their pinned key.
    """
    owner: str = store.email
    with _hostile("is not a message of PySyft"):
        message = ProposedFileChangesMessage.model_validate_json(
            _unpack(open_envelope(store, sender, data))
        )
    if message.sender_email != sender:
        raise BadMessage(f"it claims inside to come from {message.sender_email[:128]!a}")
    for change in message.proposed_file_changes:
        if change.datasite_email != owner:
            raise BadMessage("it is meant for another datasite")
        if change.is_deleted or change.old_hash is not None:
            raise BadMessage("it deletes or changes a file")
    inbox = f"app_data/job/inbox/{sender}/{_VERSION_FOLDER}"
    return _one_job(inbox, message.proposed_file_changes, what="a job")


def open_reply(store: Any, owner: str, data: bytes) -> ReceivedFiles:
    """Open a message in ``owner``'s outbox for us.

    Accepted is only the complete review of one job of ours, in that owner's own datasite, signed by
    their pinned key.
    """
    with _hostile("is not a message of PySyft"):
        message = FileChangeEventsMessage.model_validate_json(
            _unpack(open_envelope(store, owner, data))
        )
    for event in message.events:
        if event.datasite_email != owner:
            raise BadMessage("it writes into another datasite")
        if event.is_deleted:
            raise BadMessage("it deletes a file")
    review = f"app_data/job/review/{store.email}/{_VERSION_FOLDER}"
    received = _one_job(review, message.events, what="a reply")
    if _STATE not in received.files:
        raise BadMessage("it has no state")
    return received


def open_envelope(store: Any, sender: str, data: bytes) -> bytes:
    """Verify and decrypt; plain text is refused, which PySyft would not always do.

    What comes out was written by ``sender`` for us: when, and in answer to what, is not said.
    """
    if not store.has_peer_bundle(sender):
        raise BadMessage("no key of theirs is pinned")
    if not is_envelope(data):
        raise BadMessage("it is not encrypted")
    with _hostile("is not signed by the pinned key"):
        store.verify_message(sender, data)
    with _hostile("cannot be decrypted: it is meant for somebody else, or damaged"):
        plain: bytes = store.decrypt(sender, data)
    return plain


def _unpack(packed: bytes) -> bytes:
    """Unpack PySyft's archive of one file without ever holding more than the limit."""
    with _hostile("is not well packed"):
        stream = zlib.decompressobj(wbits=_GZIP)
        raw = stream.decompress(packed, MAX_UNPACKED + 1)
    if len(raw) > MAX_UNPACKED:
        raise BadMessage(f"it unpacks to more than {MAX_UNPACKED} bytes")
    with _hostile("is not well packed"), tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        member = tar.next()
        plain = member is not None and member.isreg() and not member.issparse()
        if member is None or not plain or member.name != _MEMBER or tar.next() is not None:
            raise BadMessage("its archive has other members than PySyft's")
        file = tar.extractfile(member)
        content = b"" if file is None else file.read()
    return content  # noqa: RET504 - the block turns errors into others


def _one_job(base: str, changes: Iterable[Any], *, what: str) -> ReceivedFiles:
    files: dict[str, bytes] = {}
    jobs = set()
    count = 0
    for change in changes:
        count += 1
        path = str(PurePosixPath(change.path_in_datasite))
        rest = path.removeprefix(f"{base}/")
        job, slash, name = rest.partition("/")
        if rest == path or not slash or not is_job_name(job):
            raise BadMessage("it writes outside the sender's own job folders")
        jobs.add(job)
        with _hostile("holds text that is none"):
            content = change.content
            files[name] = content.encode() if isinstance(content, str) else bytes(content)
    if len(jobs) != 1:
        raise BadMessage("it does not hold exactly one job")
    if len(files) != count:
        raise BadMessage("it names one file twice")
    check_received(files, what=what)
    return ReceivedFiles(job=jobs.pop(), files=files)


@contextlib.contextmanager
def _hostile(problem: str) -> Iterator[None]:
    """Turn whatever a parser raises on hostile bytes into `BadMessage`."""
    try:
        yield
    except BadMessage:
        raise
    except BaseException as error:
        # A panic of PySyft's Rust part is no Exception.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BadMessage(f"it {problem} ({type(error).__name__})") from None
        raise
