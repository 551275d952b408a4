"""What an analyst has seen of the sites' audit logs, and whether it still holds.

A checkpoint that only the site has proves nothing. Here the analyst keeps the site's key as it was
first shown, and the checkpoints that came with answers. Every request takes the newest of them
along, and its answer must prove that the log only grew since: a log that was rewritten or
shortened is noticed then. A log shown in two forms is noticed where both were shown to this
analyst, at the next answer at the latest; what others are shown is for them, or an auditor, to
compare.

Replies come in any order, and to several kernels. So there is one checkpoint, the *head*, that all
earlier ones were proved to lead to, and beside it those that are still *loose*: proved to be in
a log that the site signed, but not yet to be of the same log as the head. Later answers must link
them; only then are they forgotten.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privnb import audit, wire
from privnb.audit import Checkpoint, Proved, Unproved, VerifierKey
from privnb.durable import file_name, make_folder, replace_file
from privnb.errors import AuditBroken, BadMessage, StateError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from privnb.release import Receipt

__all__ = ["Witness", "size_of"]

_MOST_HELD = 16
"""As many sizes as a submission may name."""
_NEWEST = 200
"""As many events as a site shows of an analyst's."""
_LONGEST_KEY = 1000
_MOST_EVIDENCE = 20
"""A site that breaks its log in ever new ways does not fill the disk."""
_PATIENCE_SECONDS = 30.0
_PAUSE = 0.002


@wire.message
class Memory:
    """What is kept of one owner's site."""

    key: str
    """The verifier key that was shown first."""
    head: str | None = None
    """The signed checkpoint to which all that was forgotten was proved to lead."""
    loose: tuple[str, ...] = ()
    """Signed checkpoints that no proof has linked with the head yet."""


class Witness:
    """The audit logs of all sites as one analyst has seen them; shared by all kernels of theirs.

    ``audit/OWNER.json`` is the key and the checkpoints of that owner's site, ``audit/evidence/``
    what was shown by sites whose log does not hold. Every write is atomic and durable.

    Parameters
    ----------
    home
        The analyst's folder for local state.

    Examples
    --------
    >>> import tempfile
    >>> witness = Witness(Path(tempfile.mkdtemp()))
    >>> witness.held("owner@north.example")
    ()
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "audit"

    def key(self, owner: str) -> str | None:
        """Return the verifier key that an owner's site showed first, if it ever showed one."""
        memory = self._read(owner)
        return memory.key if memory else None

    def pin(self, owner: str, key: str) -> None:
        """Keep the key that an owner's site shows; the first one stays.

        Raises
        ------
        AuditBroken
            It is another key than the first, or none that can be this owner's.
        """
        with self._locked(owner):
            memory = self._read(owner)
            if memory is not None and memory.key == key:
                return
            shown = {"owner": owner, "shown": key[:_LONGEST_KEY], "pinned": memory and memory.key}
            what = f"The audit log of {owner} does not hold: "
            if memory is not None:
                raise self._broken(owner, f"{what}it is signed with another key now.", shown)
            if not _is_key_of(owner, key):
                raise self._broken(owner, f"{what}the key it shows is not its own.", shown)
            self._write(owner, Memory(key=key))

    def held(self, owner: str) -> tuple[str, ...]:
        """Return the signed checkpoints from which the next answer must prove growth, at most 16.

        Their sizes go into the submission; they are kept with the request, for `check`.
        """
        memory = self._read(owner)
        if memory is None or memory.head is None:
            return ()
        loose = sorted(memory.loose, key=size_of)
        # The largest shows a log that was shortened; the oldest have waited longest.
        first = dict.fromkeys([memory.head, *loose[-1:], *loose])
        return tuple(sorted(list(first)[:_MOST_HELD], key=size_of))

    def links(self, owner: str, receipt: Receipt) -> bool:
        """Tell whether a checked receipt's log is proved to lead to the head, or is the head."""
        memory = self._read(owner)
        if memory is None or memory.head is None:
            return False
        return size_of(receipt.checkpoint) not in map(size_of, memory.loose)

    def check(  # noqa: PLR0913 - what was asked, of whom, and what came
        self,
        owner: str,
        site: str,
        receipt: Receipt | None,
        *,
        analyst: str,
        says: Mapping[str, str | None],
        held: Sequence[str] = (),
    ) -> Proved:
        """Check that a release is in its site's log, and the log the one that was seen before.

        Parameters
        ----------
        receipt
            What came with the release; that nothing came is a failure too.
        analyst
            Who asked: the event must be about them.
        says
            What the event must say of the release, by field: ``output`` above all, which is
            `privnb.messages.released_hash` of the reply.
        held
            The checkpoints whose sizes were sent with the request. Whatever came in since, this
            receipt must prove that its log grew from each of them.

        Raises
        ------
        AuditBroken
            It does not hold. What was shown is kept in a file that the error names.
        UnknownName
            The site's key was never seen: see `pin`.
        """
        key = self._pinned(owner, site)
        shown = {**_shown(owner, key, [receipt] if receipt else []), "expected": dict(says)}
        if receipt is None:
            raise self._broken(owner, f"{site} sent an answer without a receipt.", shown)
        proved = self._proved(owner, site, receipt, key=key, shown=shown)
        event = proved.event
        if event.get("kind") != "release" or event.get("output") != says.get("output"):
            problem = f"{site} sent the receipt of something else than its answer."
            raise self._broken(owner, problem, shown)
        others = [field for field, value in says.items() if event.get(field) != value]
        if _analyst(receipt) != analyst:
            others.append("analyst")
        if others:
            problem = f"{site} logged its answer with another {' and '.join(others)}."
            raise self._broken(owner, problem, shown)
        self._take(owner, site, proved.checkpoint, receipt, held=held, shown=shown)
        return proved

    def check_trail(  # noqa: PLR0913 - what was asked, of whom, and what came
        self,
        owner: str,
        site: str,
        trail: Sequence[Receipt],
        *,
        analyst: str,
        proved: Collection[int] = (),
        held: Sequence[str] = (),
    ) -> tuple[Proved, ...]:
        """Check the events that a site shows to the analyst they are about, and return them.

        Parameters
        ----------
        proved
            Places in the log of releases to this analyst, which must be among the events as far
            as they are not older than all of the newest 200. That nothing else is missing cannot
            be checked.

        Raises as `check` does.
        """
        key = self._pinned(owner, site)
        shown = _shown(owner, key, trail)
        checked = tuple(
            self._proved(owner, site, receipt, key=key, shown=shown) for receipt in trail
        )
        indexes = [each.index for each in checked]
        theirs = all(_analyst(receipt) == analyst for receipt in trail)
        if (
            not theirs
            or indexes != sorted(set(indexes))
            or len({receipt.checkpoint for receipt in trail}) > 1
        ):
            raise self._broken(owner, f"{site} sent events that are not yours as yours.", shown)
        since = indexes[0] if len(indexes) >= _NEWEST else 0
        until = checked[-1].checkpoint.size if checked else max(map(size_of, held), default=0)
        missing = [index for index in proved if since <= index < until and index not in indexes]
        if missing or (held and not trail):
            problem = f"{site} does not show answers that it gave you, or has erased your name."
            raise self._broken(owner, problem, {**shown, "missing": sorted(missing)})
        if trail:
            self._take(owner, site, checked[-1].checkpoint, trail[-1], held=held, shown=shown)
        return checked

    def _pinned(self, owner: str, site: str) -> VerifierKey:
        memory = self._read(owner)
        if memory is None:
            raise UnknownName(
                f"The audit key of {site} is not known.",
                hint="Ask the site about itself first: session.sites() does.",
            )
        return VerifierKey.parse(memory.key)

    def _proved(
        self, owner: str, site: str, receipt: Receipt, *, key: VerifierKey, shown: dict[str, Any]
    ) -> Proved:
        try:
            return audit.verify_receipt(dataclasses.asdict(receipt), key=key)
        except Unproved as problem:
            what = f"{site} sent a receipt that does not prove its answer."
            raise self._broken(owner, what, {**shown, "problem": str(problem)}) from None

    def _take(  # noqa: PLR0913 - what was asked, of whom, and what came
        self,
        owner: str,
        site: str,
        new: Checkpoint,
        receipt: Receipt,
        *,
        held: Sequence[str],
        shown: dict[str, Any],
    ) -> None:
        """Compare a checkpoint with all that are remembered or were held, and remember it."""
        with self._locked(owner):
            memory = self._read(owner)
            if memory is None:
                raise self._damaged(owner)
            notes = dict.fromkeys([*held, *([memory.head] if memory.head else ()), *memory.loose])
            known = {note: audit.open_checkpoint(note, None) for note in notes}
            try:
                linked = _linked(new, known, receipt.consistency or {}, held=held)
            except _Contradiction as problem:
                against = {**shown, "remembered": problem.note, "problem": problem.detail}
                raise self._broken(owner, f"{site} {problem}", against) from None
            after = _after(memory, receipt.checkpoint, known, new=new, linked=linked)
            if after != memory:
                self._write(owner, after)

    # Files

    def _path(self, owner: str) -> Path:
        return self._folder / f"{file_name(owner)}.json"

    def _read(self, owner: str) -> Memory | None:
        try:
            data = self._path(owner).read_bytes()
            memory = wire.decode(Memory, data, what="The memory of an audit log")
            VerifierKey.parse(memory.key)
            for note in (memory.head, *memory.loose):
                _ = note is None or audit.open_checkpoint(note, None)
        except FileNotFoundError:
            return None
        except (BadMessage, Unproved):
            raise self._damaged(owner) from None
        except OSError as problem:
            raise _unusable(self._path(owner), problem) from None
        return memory

    def _write(self, owner: str, memory: Memory) -> None:
        try:
            _replace(self._path(owner), wire.encode(memory))
        except OSError as problem:
            raise _unusable(self._path(owner), problem) from None

    def _damaged(self, owner: str) -> StateError:
        return StateError(
            f"{self._path(owner)}, which remembers an audit log, is damaged.",
            hint="Restore it from a backup. If you remove it, the site's log is taken on trust "
            "once more, so tell your auditor.",
        )

    @contextlib.contextmanager
    def _locked(self, owner: str) -> Iterator[None]:
        """Exclude every other thread and process that looks at this owner's log."""
        path = self._folder / f"{file_name(owner)}.lock"
        give_up = time.monotonic() + _PATIENCE_SECONDS
        try:
            make_folder(self._folder)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise _unusable(path, problem) from None
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise StateError(
                            f"{path} is held by another process.",
                            hint="Look for a kernel of yours that hangs, and try again.",
                        ) from None
                    time.sleep(_PAUSE)
                else:
                    break
            yield
        finally:
            os.close(lock)

    def _broken(self, owner: str, problem: str, shown: Mapping[str, Any]) -> AuditBroken:
        """Keep what was shown as evidence, and build the error that says where."""
        evidence = wire.canonical_json({"what": problem, **shown})
        # Named by what it holds: the same, shown again and again, is kept once.
        name = f"{file_name(owner)}-{wire.sha256_hex(evidence)[:32]}.json"
        folder = self._folder / "evidence"
        path = folder / name
        kept = f"The evidence is in {path}."
        try:
            if not path.exists():
                if len(list(folder.glob(f"{file_name(owner)}-*"))) < _MOST_EVIDENCE:
                    _replace(path, evidence)
                else:
                    kept = f"Enough evidence of this site is in {folder} already."
        except OSError as failed:
            kept = f"The evidence could not be kept: {failed.strerror}."
        return AuditBroken(
            f"{problem} {kept}",
            hint=f"Do not use this answer. Tell {owner} and your auditor, and show them the "
            "evidence.",
        )


class _Contradiction(Exception):
    """A checkpoint that cannot be of the log that was seen before."""

    def __init__(self, said: str, note: str, detail: str = "") -> None:
        super().__init__(said)
        self.note = note
        self.detail = detail


def _linked(
    new: Checkpoint,
    known: Mapping[str, Checkpoint],
    proofs: Mapping[str, Sequence[str]],
    *,
    held: Sequence[str],
) -> set[str]:
    """Return the known checkpoints that are proved to lead to the new one; all of ``held`` must."""
    linked = set()
    for note, old in known.items():
        if old.size > new.size and note in held:
            said = "shows an audit log that is shorter than the one it showed before."
            raise _Contradiction(said, note)
        if old.size == new.size and old.root != new.root:
            raise _Contradiction("has shown two audit logs that differ.", note)
        if old.size >= new.size:
            continue
        proof = proofs.get(str(old.size))
        if proof is None:
            if note in held:
                said = "does not prove that its audit log is the one it showed before."
                raise _Contradiction(said, note)
            continue
        try:
            audit.verify_consistency(
                old_size=old.size,
                old_root=old.root,
                size=new.size,
                root=new.root,
                proof=audit.read_proof(proof),
            )
        except Unproved as problem:
            said = "has rewritten its audit log: it is not the one it showed before."
            raise _Contradiction(said, note, str(problem)) from None
        linked.add(note)
    return linked


def _after(
    memory: Memory,
    note: str,
    known: Mapping[str, Checkpoint],
    *,
    new: Checkpoint,
    linked: set[str],
) -> Memory:
    """Return what is remembered once a checkpoint is believed."""
    head = memory.head
    # Another note of the same size states the same root, so one of the two is enough.
    loose = [each for each in memory.loose if each not in linked and known[each].size != new.size]
    if head is None or head in linked:
        head = note
    elif known[head].size != new.size:
        same = [each for each in memory.loose if known[each].size == new.size]
        loose += same[:1] or [note]
    loose.sort(key=size_of)
    return dataclasses.replace(memory, head=head, loose=tuple(loose))


def _shown(owner: str, key: VerifierKey, receipts: Sequence[Receipt]) -> dict[str, Any]:
    received = [dataclasses.asdict(receipt) for receipt in receipts]
    return {"owner": owner, "key": str(key), "received": received}


def _analyst(receipt: Receipt) -> str | None:
    opening = (receipt.openings or {}).get("analyst")
    return opening.value if opening else None


def _is_key_of(owner: str, key: str) -> bool:
    """Tell whether a key is named for a log of this owner's, so that it is no borrowed one."""
    try:
        name = VerifierKey.parse(key).name
    except Unproved:
        return False
    return audit.site_of(name, owner) is not None


def size_of(note: str) -> int:
    """Return the size of the log that a signed checkpoint states."""
    return audit.open_checkpoint(note, None).size


def _unusable(path: Path, problem: OSError) -> StateError:
    return StateError(
        f"{path} cannot be used: {problem.strerror}.",
        hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
    )


def _replace(path: Path, data: bytes) -> None:
    """Replace a file as a whole; its folder is made."""
    make_folder(path.parent)
    replace_file(path, [data])
