"""The analyst's own record of requests and replies, on disk, shared by every kernel of theirs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from privnb import wire
from privnb.computation import Computation
from privnb.durable import file_name, make_folder, replace_file
from privnb.errors import BadMessage, StateError, UnknownName
from privnb.messages import Problem, Reply, SiteDescription

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CUT_SHORT", "Action", "Record", "Store", "Verdict"]

Action: TypeAlias = Literal[
    "describe", "estimate", "mock", "run", "status", "request-access", "audit"
]

CUT_SHORT = Problem(
    code="E_EXCHANGE",
    message="It was cut short while it was being sent, so the site may never have had it.",
    hint="Look at your budget, and ask again; if an answer comes all the same, it is shown.",
)
"""What is written down of a site before it is known to have been sent the request."""


@wire.message
class Record:
    """One request as it was made: what was asked, of whom, and when."""

    request: str
    action: Action
    asked_at: str
    """UTC, ISO 8601, microseconds: fine enough to put requests in order."""
    sites: dict[str, str]
    """Site name to its owner's email, as they were known when the request was made."""
    computation: Computation | None = None
    unsent: dict[str, Problem] | None = None
    """Sites from which no answer is waited for, with the reason: it could not be sent to them, or
    was cancelled. While it is being sent: `CUT_SHORT` for all of them."""
    held: dict[str, tuple[str, ...]] | None = None
    """By owner: the signed checkpoints from which the reply must prove that its log grew."""


@wire.message
class Verdict:
    """What a reply was found to be. That stands, whatever becomes of the site's log later."""

    reply: str
    """SHA-256 of the reply's bytes: it is about no others."""
    key: str
    """The key of the audit log by which it was looked at."""
    event: int | None = None
    """The place in that log of the event that proves it."""
    problem: Problem | None = None
    """Why it is not to be believed; None: it is proved."""


class Store:
    """Files under one folder; every write is atomic and durable, so a crash loses nothing.

    ``requests/ID/record.json`` is the request, ``requests/ID/OWNER.json`` what that owner's site
    replied, ``requests/ID/OWNER.verdict`` whether that was proved to be in the site's audit log,
    ``requests/ID/run`` what `privnb.federated.history` keeps of a federated run,
    ``descriptions/OWNER.json`` the newest description of a site.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._requests = home / "requests"
        self._descriptions = home / "descriptions"
        try:
            for folder in (self._requests, self._descriptions):
                make_folder(folder)
        except OSError as problem:
            raise StateError(
                f"The folder for local state, {home}, cannot be made: {problem.strerror}.",
                hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
            ) from None

    def add(self, record: Record) -> None:
        """Write a request down before it is sent."""
        _write(self._requests / record.request / "record.json", wire.encode(record))

    def note_cancelled(self, record: Record, problems: dict[str, Problem]) -> Record:
        """Write down that some of a request's sites are no longer waited for."""
        noted = dataclasses.replace(record, unsent={**(record.unsent or {}), **problems})
        self.add(noted)
        return noted

    def record(self, prefix: str) -> Record:
        """Find a request by its id or an unambiguous beginning of it."""
        known = [name for name in self._ids() if name.startswith(prefix)] if prefix else []
        if len(known) != 1:
            what = "Several requests begin with" if known else "There is no request"
            raise UnknownName(f"{what} {prefix!r}.", hint="%privnb requests lists them.")
        return self._read(known[0])

    def records(self) -> list[Record]:
        """List all requests that ask for a release, newest first."""
        found = []
        for name in self._ids():
            with contextlib.suppress(BadMessage, OSError):
                found.append(self._read(name))
        runs = [record for record in found if record.action == "run"]
        return sorted(runs, key=lambda record: record.asked_at, reverse=True)

    def knows(self, request: str) -> bool:
        """Tell whether a request of this id was made here."""
        return (self._requests / request / "record.json").exists()

    def keep_reply(self, request: str, owner: str, data: bytes) -> None:
        """Store what a site replied; the first reply stays."""
        path = self._reply_path(request, owner)
        if not path.exists():
            _write(path, data)

    def reply(self, request: str, owner: str) -> Reply | None:
        """Return what a site replied, if it has. Raises `BadMessage` when it makes no sense."""
        try:
            data = self._reply_path(request, owner).read_bytes()
        except FileNotFoundError:
            return None
        return wire.decode(Reply, data, what=f"The reply of {owner}")

    def judge(
        self,
        request: str,
        owner: str,
        *,
        key: str,
        event: int | None = None,
        problem: Problem | None = None,
    ) -> Verdict:
        """Write down what a reply was found to be."""
        reply = wire.sha256_hex(self._reply_path(request, owner).read_bytes())
        verdict = Verdict(reply=reply, key=key, event=event, problem=problem)
        _write(self._verdict_path(request, owner), wire.encode(verdict))
        return verdict

    def verdict(self, request: str, owner: str) -> Verdict | None:
        """Return what a reply was found to be, if it was looked at."""
        try:
            data = self._reply_path(request, owner).read_bytes()
            verdict = self._verdict(request, owner)
        except FileNotFoundError:
            return None
        return verdict if verdict.reply == wire.sha256_hex(data) else None

    def proved_events(self, owner: str, *, key: str | None) -> set[int]:
        """Return the places, in the audit log of this key, of all that a site proved by it."""
        found = set()
        for request in self._ids():
            with contextlib.suppress(BadMessage, OSError):
                verdict = self._verdict(request, owner)
                if verdict.event is not None and verdict.key == key:
                    found.add(verdict.event)
        return found

    def run_folder(self, request: str) -> Path:
        """Return where a federated run keeps its files; it may not be there."""
        return self._requests / request / "run"

    def forget(self, request: str) -> None:
        """Remove a request that nobody will look for again."""
        shutil.rmtree(self._requests / request, ignore_errors=True)

    def keep_description(self, owner: str, description: SiteDescription) -> None:
        """Remember what a site said about itself."""
        _write(self._descriptions / f"{file_name(owner)}.json", wire.encode(description))

    def description(self, owner: str) -> SiteDescription | None:
        """Return the newest description of a site, if it ever gave one."""
        try:
            data = (self._descriptions / f"{file_name(owner)}.json").read_bytes()
            return wire.decode(SiteDescription, data, what=f"The description by {owner}")
        except (FileNotFoundError, BadMessage):
            return None

    def _ids(self) -> Iterator[str]:
        """List the requests; a folder is none before there is a record in it."""
        names = (entry.name for entry in os.scandir(self._requests))
        return (name for name in names if self.knows(name))

    def _reply_path(self, request: str, owner: str) -> Path:
        return self._requests / request / f"{file_name(owner)}.json"

    def _verdict_path(self, request: str, owner: str) -> Path:
        return self._requests / request / f"{file_name(owner)}.verdict"

    def _verdict(self, request: str, owner: str) -> Verdict:
        data = self._verdict_path(request, owner).read_bytes()
        return wire.decode(Verdict, data, what=f"What was found of the reply of {owner}")

    def _read(self, request: str) -> Record:
        data = (self._requests / request / "record.json").read_bytes()
        return wire.decode(Record, data, what=f"The record of request {request}")


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, durably; on failure the old content stays."""
    try:
        make_folder(path.parent)
        replace_file(path, [data])
    except OSError as problem:
        raise StateError(
            f"{path} cannot be written: {problem.strerror}.",
            hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
        ) from None
