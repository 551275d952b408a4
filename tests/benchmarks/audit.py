"""The audit log: appending to it, proving from it, checking it.

Targets: append one event under 5 ms, with the wait for the disk; verify 100,000 exported events
under 1 s of CPU; check a receipt under 5 ms, to which the analyst's side adds one wait for the disk
that remembers its checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from privnb.audit import VerifierKey, origin_of, verify_file, verify_receipt
from privnb.site.audit import AuditLog, record_event
from privnb.site.audit_reading import check_log, exported
from privnb.site.database import Database
from privnb.witness import Witness, size_of

EVENTS, BATCH, ROUNDS = 100_000, 1000, 200
SITE, OWNER, ANALYST = "northside", "owner@north.example", "ana@uni.example"


def release(connection) -> int:
    """Record what every release records."""
    return record_event(
        connection,
        "release",
        private={"analyst": ANALYST},
        request=secrets.token_hex(16),
        table="visits",
        purpose="utilisation-research",
        digest=secrets.token_hex(32),
        epsilon="0.5",
        output="0" * 64,
    )


def median(
    rounds: int, act: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Milliseconds, the median of some rounds."""
    times = []
    for _ in range(rounds):
        began = clock()
        act()
        times.append(clock() - began)
    return 1000 * statistics.median(times)


def cpu_seconds(rounds: int, act: Callable[[], object]) -> float:
    """Seconds of CPU, the median of some rounds."""
    return median(rounds, act, time.process_time) / 1000


def disk(folder: Path) -> float:
    """Milliseconds that this disk takes to keep one small file."""
    with (folder / "probe").open("wb") as file:

        def sync() -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return median(ROUNDS, sync)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        database = Database.open(place / "site.sqlite")
        log = AuditLog.open(place, origin=origin_of(SITE, OWNER))
        key = VerifierKey.parse(log.verifier_key)
        began = time.perf_counter()
        for _ in range(EVENTS // BATCH):
            with database.write() as transaction:
                for _ in range(BATCH):
                    release(transaction)
        each = 1000 * (time.perf_counter() - began) / EVENTS
        print(f"{EVENTS:,} events in the log; this disk waits {disk(place):.1f} ms for a file")

        def append() -> None:
            with database.write() as transaction:
                release(transaction)

        print(f"append, alone in its transaction: {median(ROUNDS, append):.2f} ms (target < 5 ms)")
        print(f"append, within a transaction: {each:.2f} ms")
        check_everything(database, log, key, place)
        check_receipts(database, log, key, place)
        database.close()


def check_everything(database: Database, log: AuditLog, key: VerifierKey, place: Path) -> None:
    events, note = place / "events.jsonl", place / "events.checkpoint"
    for names in (True, False):
        with database.read() as snapshot, events.open("wb") as file:
            file.writelines(exported(snapshot, names=names))
            note.write_text(log.checkpoint(snapshot))
        took = cpu_seconds(5, lambda: verify_file(events, checkpoints=[note], key=key))
        what = "with names" if names else "without names"
        print(f"verify {EVENTS:,} exported events, {what}: {took:.2f} s of CPU (target < 1 s)")
    with database.read() as snapshot:
        took = cpu_seconds(3, lambda: check_log(snapshot))
    print(f"verify the site's own log with all its nodes and openings: {took:.2f} s of CPU")


def check_receipts(database: Database, log: AuditLog, key: VerifierKey, place: Path) -> None:
    witness = Witness(place / "home")
    witness.pin(OWNER, log.verifier_key)
    making, proving, whole = [], [], []
    for _ in range(ROUNDS):
        held = witness.held(OWNER)
        with database.write() as transaction:
            index = release(transaction)
            began = time.perf_counter()
            receipt = log.receipt(transaction, index, held=[size_of(note) for note in held])
            making.append(time.perf_counter() - began)
        plain = dataclasses.asdict(receipt)
        began = time.perf_counter()
        verify_receipt(plain, key=key)
        proving.append(time.perf_counter() - began)
        began = time.perf_counter()
        witness.check(OWNER, SITE, receipt, analyst=ANALYST, says={"output": "0" * 64}, held=held)
        whole.append(time.perf_counter() - began)
    print(f"make a receipt: {1000 * statistics.median(making):.2f} ms")
    print(
        f"check a receipt: {1000 * statistics.median(proving):.2f} ms (target < 5 ms); with what "
        f"is remembered of the log, on disk: {1000 * statistics.median(whole):.2f} ms"
    )


if __name__ == "__main__":
    main()
