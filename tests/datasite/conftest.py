"""One owner, one or two analysts, and an exchange in a temporary folder."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from privnb.datasite.analyst import AnalystDatasite
from privnb.datasite.owner import OwnerDatasite
from privnb.datasite.pysyft import ProposedFileChange, ProposedFileChangesMessage

OWNER = "owner@north.example"
ANA = "ana@uni.example"
BOB = "bob@uni.example"
FILES = {"computation.json": b'{"request":"r"}', "query.sql": b"SELECT 1", "raw.bin": b"\x00\xff"}
REPLY = {"reply.json": b'{"answer":42}', "plots/a.png": b"\x89PNG\xff"}


@dataclass
class Seen:
    """The ledger of taken-in jobs that a site keeps."""

    jobs: set[tuple[str, str]] = field(default_factory=set)

    def seen(self, sender, name):
        return (sender, name) in self.jobs

    def record(self, job):
        self.jobs.add((job.sender, job.name))


@dataclass
class World:
    """Both sides of an exchange, over one temporary folder."""

    path: Path
    caplog: pytest.LogCaptureFixture
    seen: Seen = field(default_factory=Seen)

    @property
    def shared(self):
        return self.path / "exchange"

    def open_owner(self, email=OWNER):
        return OwnerDatasite.open(self.path / email, email=email, exchange=str(self.shared))

    def open_analyst(self, email=ANA):
        return AnalystDatasite.open(self.path / email, email=email, exchange=str(self.shared))

    def befriend(self, owner, analyst):
        analyst.ask(owner._email)
        owner.accept(analyst._email)
        assert analyst._pin_if_accepted(owner._email).accepted

    def warned(self):
        """Return the lines that were logged for the people who run a site."""
        records = self.caplog.records
        return [record.getMessage() for record in records if record.name == "privnb.datasite"]

    def new_name(self):
        return uuid.uuid4().hex

    def complete_job(self, name, sender=ANA):
        """Return the files, by path in the owner's datasite, of a job that would be taken in."""
        base = f"app_data/job/inbox/{sender}/v1/{name}"
        return {
            f"{base}/config.yaml": "version: '1'\n",
            f"{base}/run.sh": "#!/bin/bash\nexit 1\n",
            f"{base}/code/main.py": "raise SystemExit\n",
        }

    def propose(self, analyst, files, *, claims=None, datasite=OWNER, **change):
        """Send any proposal with PySyft's own code, signed by the analyst's real key."""
        message = ProposedFileChangesMessage(
            sender_email=claims or analyst._email,
            proposed_file_changes=[
                ProposedFileChange(
                    path_in_datasite=Path(path), content=data, datasite_email=datasite, **change
                )
                for path, data in files.items()
            ],
        )
        router = analyst._box.watcher_syncer.connection_router
        router.watcher_send_proposed_file_changes_message(OWNER, message)

    def inbox(self, sender=ANA, owner=OWNER):
        return self.shared / owner / "inbox" / sender

    def outbox(self, recipient=ANA, owner=OWNER):
        return self.shared / owner / "outbox" / recipient

    def quarantined(self, email=OWNER):
        return sorted((self.path / email / "quarantine").iterdir())

    def answers(self, owner, analyst):
        """Tell whether a job still makes the whole way."""
        name = uuid.uuid4().hex
        analyst.submit(owner._email, name, FILES)
        for job in owner.poll(self.seen):
            self.seen.record(job)
            owner.reply(job, REPLY, succeeded=True)
        replies = [reply for reply in analyst.poll(owner._email) if reply.name == name]
        analyst.retire(owner._email, name)
        return [reply.files for reply in replies] == [REPLY]


@pytest.fixture
def world(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="privnb.datasite")
    return World(tmp_path, caplog)


@pytest.fixture
def owner(world):
    world.owner = world.open_owner()
    return world.owner


@pytest.fixture
def ana(world, owner):
    world.ana = world.open_analyst(ANA)
    world.befriend(owner, world.ana)
    return world.ana


@pytest.fixture
def bob(world, owner):
    analyst = world.open_analyst(BOB)
    world.befriend(owner, analyst)
    return analyst
