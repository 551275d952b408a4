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
from privnb.durable import replace_file
from privnb.errors import BadMessage, StateError, UnknownName
from privnb.messages import Problem, Reply, SiteDescription

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Action", "Record", "Store"]

Action: TypeAlias = Literal[
    "describe", "estimate", "mock", "run", "status", "request-access", "audit"
]


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
    """Sites that it could not be sent to, with the reason."""
    held: dict[str, tuple[int, ...]] | None = None
    """By owner: the sizes of the site's audit log from which the reply must prove its growth."""


class Store:
    """Files under one folder; every write is atomic and durable, so a crash loses nothing.

    ``requests/ID/record.json`` is the request, ``requests/ID/OWNER.json`` what that owner's site
    replied, ``requests/ID/OWNER.key`` the key by which that was proved to be in the site's audit
    log, ``descriptions/OWNER.json`` the newest description of a site.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._requests = home / "requests"
        self._descriptions = home / "descriptions"
        try:
            for folder in (home, self._requests, self._descriptions):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise StateError(
                f"The folder for local state, {home}, cannot be made: {problem.strerror}.",
                hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
            ) from None

    def add(self, record: Record) -> None:
        """Write a request down before it is sent."""
        _write(self._requests / record.request / "record.json", wire.encode(record))

    def note_unsent(self, record: Record, problems: dict[str, Problem]) -> Record:
        """Write down that a request could not be sent to some of its sites."""
        noted = dataclasses.replace(record, unsent=problems)
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
        path = self._requests / request / f"{owner}.json"
        if not path.exists():
            _write(path, data)

    def reply(self, request: str, owner: str) -> Reply | None:
        """Return what a site replied, if it has. Raises `BadMessage` when it makes no sense."""
        try:
            data = (self._requests / request / f"{owner}.json").read_bytes()
        except FileNotFoundError:
            return None
        return wire.decode(Reply, data, what=f"The reply of {owner}")

    def note_proof(self, request: str, owner: str, key: str) -> None:
        """Write down that a reply was proved once: later logs of the site change nothing of it."""
        _write(self._requests / request / f"{owner}.key", key.encode())

    def proof(self, request: str, owner: str) -> str | None:
        """Return the key by which a site's reply was proved, if it was."""
        try:
            return (self._requests / request / f"{owner}.key").read_text()
        except FileNotFoundError:
            return None

    def forget(self, request: str) -> None:
        """Remove a request that nobody will look for again."""
        shutil.rmtree(self._requests / request, ignore_errors=True)

    def keep_description(self, owner: str, description: SiteDescription) -> None:
        """Remember what a site said about itself."""
        _write(self._descriptions / f"{owner}.json", wire.encode(description))

    def description(self, owner: str) -> SiteDescription | None:
        """Return the newest description of a site, if it ever gave one."""
        try:
            data = (self._descriptions / f"{owner}.json").read_bytes()
            return wire.decode(SiteDescription, data, what=f"The description by {owner}")
        except (FileNotFoundError, BadMessage):
            return None

    def _ids(self) -> Iterator[str]:
        return (entry.name for entry in os.scandir(self._requests))

    def _read(self, request: str) -> Record:
        data = (self._requests / request / "record.json").read_bytes()
        return wire.decode(Record, data, what=f"The record of request {request}")


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, durably; on failure the old content stays."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, [data])
    except OSError as problem:
        raise StateError(
            f"{path} cannot be written: {problem.strerror}.",
            hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
        ) from None
