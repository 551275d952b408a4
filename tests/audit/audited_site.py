"""A site of which only the audit log is real, and the analyst's side of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import sqlalchemy as sa

from privnb.audit import Tree, VerifierKey, origin_of
from privnb.release import Receipt
from privnb.site import database as tables
from privnb.site.audit import AuditLog, record_event
from privnb.site.database import Database

ANA = "ana@uni.example"
BOB = "bob@uni.example"
CAROL = "carol@north.example"
OWNER = "data+owner@north.example"
SITE = "northside"


class AuditedSite:
    """Appends events as an agent would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database.open(folder / "site.sqlite")
        self.log = AuditLog.open(folder, origin=origin_of(SITE, OWNER))
        self.key = VerifierKey.parse(self.log.verifier_key)

    def append(self, kind: str = "decision", *, analyst: str = ANA, **fields) -> int:
        """Append one event about an analyst."""
        with self.database.write() as transaction:
            return record_event(transaction, kind, private={"analyst": analyst}, **fields)

    def fill(self, count: int) -> None:
        """Append so many events in one transaction."""
        with self.database.write() as transaction:
            for number in range(count):
                record_event(transaction, "decision", private={"analyst": ANA}, number=number)

    def release(self, output: str = "0" * 64, *, held=(), more: int = 0) -> Receipt:
        """Release something, after some other events, and give the receipt."""
        with self.database.write() as transaction:
            for _ in range(more):
                record_event(transaction, "decision", private={"analyst": BOB})
            index = record_event(transaction, "release", private={"analyst": ANA}, output=output)
            return self.log.receipt(transaction, index, held=held)

    def receipt(self, index: int, *, held=()) -> Receipt:
        """Give the receipt of an earlier event."""
        with self.database.read() as snapshot:
            return self.log.receipt(snapshot, index, held=held)

    def bodies(self) -> list[str]:
        """All events as they are hashed."""
        with self.database.read() as snapshot:
            query = sa.select(tables.events.c.body).order_by(tables.events.c.seq)
            return list(snapshot.execute(query).scalars())

    def run(self, *statements: str) -> None:
        """Do what nobody should: change the log below the triggers that protect it."""
        with self.database.write() as transaction:
            triggers = transaction.exec_driver_sql(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).all()
            for name, _ in triggers:
                transaction.exec_driver_sql(f"DROP TRIGGER {name}")
            for statement in statements:
                transaction.exec_driver_sql(statement)
            for _, sql in triggers:
                transaction.exec_driver_sql(sql)

    def make_nodes(self) -> None:
        """Make the tree over the events as they are now, as who rewrites a log would."""
        tree = Tree()
        bodies = self.bodies()
        with self.database.write() as transaction:
            for index, body in enumerate(bodies):
                for level, made in enumerate(tree.add(body.encode())):
                    node = {"level": level, "position": index >> level, "hash": made}
                    transaction.execute(sa.insert(tables.audit_nodes), node)

    def copy(self, folder: Path) -> AuditedSite:
        """Copy the site, its key included."""
        self.database.close()
        shutil.copytree(self.folder, folder)
        return AuditedSite(folder)


def plain(receipt: Receipt) -> dict:
    """Return a receipt as the JSON object that travels."""
    return dataclasses.asdict(receipt)
