"""What is kept of a run on the analyst's disk, so that another kernel can take it up.

``plan.json`` is what the run does, ``checkpoint.npz`` where it stands after its last finished
round, ``attempts`` up to where numbers of attempts may have been used, ``outcome.json`` how it
ended. Every write is atomic and durable; nothing is ever pickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from privnb import wire
from privnb.dp.schema import TableSchema
from privnb.durable import make_folder, replace_file
from privnb.errors import BadMessage, StateError
from privnb.federated.release import HistoryRow, Outcome
from privnb.messages import Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from numpy.typing import NDArray

    from privnb.computation import Federation

__all__ = ["Checkpoint", "RunFiles", "RunPlan"]

T = TypeVar("T")

_ATTEMPTS_AT_ONCE = 64
"""So many numbers are written off at a time: a disk need not be waited for in every round."""
_LONGEST_META = 64 * 1024 * 1024
_FROM_ELSEWHERE = "Restore the folder from a backup, or begin a new run."


@wire.message
class RunPlan:
    """What a run does between its sites' joining and its end; written before it begins."""

    names: dict[str, str]
    """By verifier key, the name of the site."""
    min_sites: int
    """How many sites have to be in every round; the strictest of them says so."""
    deadline: float
    """Seconds that a round may take."""
    schemas: tuple[TableSchema, ...] = ()
    """Of totals and models: the table as one of the sites publishes it; the others agree."""
    strategy: str = ""
    """The name of a strategy, or of the class of an instance."""
    options: dict[str, str] | None = None
    """Of a strategy by name. None where an instance was given, which another kernel lacks."""
    by_name: bool = False
    """Whether ``initial`` was a dict."""
    evaluates: bool = False
    """Whether the app evaluates."""

    def needed(self, federation: Federation | None) -> int:
        """Return how many sites have to take part, or nothing can come of it."""
        return max(self.min_sites, federation.threshold if federation else 0)


@wire.message
class _Meta:
    """What a checkpoint says beside its arrays."""

    round: int
    arrays: tuple[str, ...]
    state: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands after a round; round 0 is before the first."""

    round: int
    arrays: Mapping[str, NDArray[Any]]
    """The parameters, by name."""
    state: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What the strategy remembers."""
    history: tuple[HistoryRow, ...] = ()
    remarks: tuple[str, ...] = ()


class RunFiles:
    """The folder of one run.

    Examples
    --------
    >>> import tempfile
    >>> files = RunFiles(Path(tempfile.mkdtemp()))
    >>> files.save(Checkpoint(round=1, arrays={"w": np.zeros(3)}))
    >>> files.checkpoint().arrays["w"].tolist()
    [0.0, 0.0, 0.0]
    >>> RunFiles(files.folder).next_attempt() > files.next_attempt()
    False
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._attempt = 0
        self._until = 0
        self._rows: dict[int, bytes] = {}

    def begin(self, plan: RunPlan, start: Checkpoint) -> None:
        """Write down what the run does, before anything is sent."""
        make_folder(self.folder)
        self._write("plan.json", wire.encode(plan))
        self.save(start)

    def plan(self) -> RunPlan:
        """Return what the run does. Raises `StateError` if that is not known here."""
        return self._read("plan.json", RunPlan)

    def next_attempt(self) -> int:
        """Return a number that no attempt of this run had, in whichever kernel."""
        if self._attempt >= self._until:
            with contextlib.suppress(FileNotFoundError):
                written = (self.folder / "attempts").read_text("ascii", "replace")
                if not re.fullmatch(r"[0-9]{1,9}", written):
                    raise self._damaged("attempts")
                self._attempt = max(self._attempt, int(written))
            self._until = self._attempt + _ATTEMPTS_AT_ONCE
            self._write("attempts", b"%d" % self._until)
        self._attempt += 1
        return self._attempt

    def note_joined(self, site: str) -> None:
        """Write down that a site has joined: what it said to that is gone once it was heard."""
        known = self.joined()
        if site not in known:
            self._write("joined.json", wire.canonical_json(sorted({*known, site})))

    def joined(self) -> frozenset[str]:
        """Return the names of the sites that are known to have joined."""
        try:
            return frozenset(map(str, json.loads((self.folder / "joined.json").read_bytes())))
        except FileNotFoundError:
            return frozenset()
        except (OSError, ValueError, TypeError):
            raise self._damaged("joined.json") from None

    def note_opening(self, work: str, survivors: Collection[str]) -> None:
        """Write down over which sites the sum of some work is being opened.

        It must not be opened over others, and a kernel may end in the middle. Not handed to the
        disk, as only a loss of power could take it away.
        """
        note = wire.canonical_json({"work": work, "survivors": sorted(survivors)})
        part = self.folder / ".opening"
        try:
            part.write_bytes(note)
            part.replace(self.folder / "opening.json")
        except OSError as problem:
            raise self._unusable("opening.json", problem) from None

    def opening(self, work: str) -> frozenset[str]:
        """Return over which sites the sum of some work was being opened; empty if over none."""
        try:
            note = json.loads((self.folder / "opening.json").read_bytes())
            return frozenset(note["survivors"]) if note["work"] == work else frozenset()
        except (OSError, ValueError, TypeError, KeyError):
            return frozenset()

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by that of a later round."""
        meta = _Meta(
            round=checkpoint.round,
            arrays=tuple(checkpoint.arrays),
            state=tuple(checkpoint.state),
            remarks=checkpoint.remarks,
        )
        stored = {f"a{i}": array for i, array in enumerate(checkpoint.arrays.values())}
        stored |= {f"s{i}": array for i, array in enumerate(checkpoint.state.values())}
        rows = [self._rows.get(row.round) or self._kept(row) for row in checkpoint.history]
        said = {"meta": wire.encode(meta), "history": b"\n".join(rows)}
        stored |= {name: np.frombuffer(text, dtype=np.uint8) for name, text in said.items()}
        data = io.BytesIO()
        np.savez(data, allow_pickle=False, **stored)
        self._write("checkpoint.npz", data.getbuffer())

    def _kept(self, row: HistoryRow) -> bytes:
        return self._rows.setdefault(row.round, wire.encode(row))

    def checkpoint(self) -> Checkpoint:
        """Return where the run stands. Raises `StateError` if that cannot be read."""
        try:
            data = io.BytesIO((self.folder / "checkpoint.npz").read_bytes())
            with np.load(data, allow_pickle=False) as stored:
                written = stored["meta"].tobytes()
                meta = wire.decode(_Meta, written, what="A checkpoint", limit=_LONGEST_META)
                rows = stored["history"].tobytes().splitlines()
                return Checkpoint(
                    round=meta.round,
                    arrays={name: stored[f"a{i}"] for i, name in enumerate(meta.arrays)},
                    state={name: stored[f"s{i}"] for i, name in enumerate(meta.state)},
                    history=tuple(wire.decode(HistoryRow, row, what="A round") for row in rows),
                    remarks=meta.remarks,
                )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, BadMessage):
            raise self._damaged("checkpoint.npz") from None

    def finish(self, outcome: Outcome) -> None:
        """Write down how the run ended well."""
        self._write("outcome.json", wire.encode(outcome))

    def outcome(self) -> Outcome | None:
        """Return how the run ended, if it did, and well."""
        if not (self.folder / "outcome.json").exists():
            return None
        return self._read("outcome.json", Outcome)

    def fail(self, problem: Problem) -> None:
        """Write down why the run can never be finished."""
        self._write("failure.json", wire.encode(problem))

    def failure(self) -> Problem | None:
        """Return why the run can never be finished, if so."""
        if not (self.folder / "failure.json").exists():
            return None
        return self._read("failure.json", Problem)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Be the one thread of all kernels that drives this run; false where another one is."""
        try:
            make_folder(self.folder)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise self._unusable("lock", problem) from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                self._attempt = self._until = 0  # another kernel may have gone on meanwhile
                self._rows.clear()
                yield True
        finally:
            os.close(lock)

    def changed(self) -> float:
        """Return when the checkpoint was written, seconds since the epoch; 0 if never."""
        with contextlib.suppress(OSError):
            return (self.folder / "checkpoint.npz").stat().st_mtime
        return 0.0

    def _read(self, name: str, kind: type[T]) -> T:
        try:
            return wire.decode(kind, (self.folder / name).read_bytes(), what=f"{name} of a run")
        except (OSError, BadMessage):
            raise self._damaged(name) from None

    def _write(self, name: str, data: bytes | memoryview) -> None:
        try:
            replace_file(self.folder / name, [data])  # type: ignore[list-item]
        except OSError as problem:
            raise self._unusable(name, problem) from None

    def _damaged(self, name: str) -> StateError:
        return StateError(
            f"{self.folder / name}, which a run needs to go on, is missing or damaged.",
            hint=_FROM_ELSEWHERE,
        )

    def _unusable(self, name: str, problem: OSError) -> StateError:
        return StateError(
            f"{self.folder / name} cannot be written: {problem.strerror}.",
            hint="Free some space, or name another folder with home=… or PRIVNB_HOME.",
        )
