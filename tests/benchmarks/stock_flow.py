"""CPU of one question through PySyft's stock flow, beside ours, at 40 past jobs.

Stock: ``submit_bash_job``, ``sync``, approve, ``process_approved_jobs``, ``sync``, on the same
exchange and with the same encryption; the job echoes a number. Ours: the adapter's ``submit``,
``poll``, ``reply``, ``poll``, echoing the same number. Both sides run in this process; processes
they start are counted. Target: ours takes at least 20 times less CPU.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import statistics
import tempfile
from pathlib import Path

from _stock_connection import StockConnection

from privnb.datasite.analyst import AnalystDatasite
from privnb.datasite.connection import ExchangeConnectionConfig
from privnb.datasite.owner import OwnerDatasite
from privnb.datasite.pysyft import SyftRDSClient

OWNER, ANALYST = "owner@northside.example", "ana@uni.example"
PAST, ROUNDS = 40, 5


class NothingSeen:
    def seen(self, sender: str, name: str) -> bool:
        return False


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def parties(place: Path) -> tuple[OwnerDatasite, AnalystDatasite]:
    exchange = str(place / "exchange")
    owner = OwnerDatasite.open(place / "owner", email=OWNER, exchange=exchange)
    owner.publish_card("northside")
    analyst = AnalystDatasite.open(place / "analyst", email=ANALYST, exchange=exchange)
    analyst.ask(OWNER)
    owner.accept(ANALYST)
    analyst.sites()
    return owner, analyst


def ours(owner: OwnerDatasite, analyst: AnalystDatasite) -> None:
    name = secrets.token_hex(16)
    analyst.submit(OWNER, name, {"computation.json": b"{}"})
    for job in owner.poll(NothingSeen()):
        owner.reply(job, {"answer.txt": b"42\n"}, succeeded=True)
    (reply,) = analyst.poll(OWNER)
    assert reply.files["answer.txt"] == b"42\n"
    analyst.retire(OWNER, name)


def stock(owner, analyst) -> None:
    name = secrets.token_hex(16)
    script = "#!/bin/bash\nmkdir -p code/outputs\necho 42 > code/outputs/answer.txt\n"
    with contextlib.redirect_stdout(io.StringIO()):
        analyst.submit_bash_job(user=OWNER, job_name=name, script=script)
        owner.sync()
        for job in owner.jobs:
            if job.status == "pending":
                job.approve()
        owner.process_approved_jobs(stream_output=False, share_outputs_with_submitter=True)
        owner.sync()
        analyst.sync()
        (job,) = [job for job in analyst.jobs if job.name == name]
    assert [path.read_text() for path in job.output_paths] == ["42\n"]


def cost(ask, *parties) -> float:
    """CPU seconds of one question, after `PAST` others."""
    for _ in range(PAST):
        ask(*parties)
    spent = []
    for _ in range(ROUNDS):
        began = cpu_seconds()
        ask(*parties)
        spent.append(cpu_seconds() - began)
    return statistics.median(spent)


def main() -> None:
    os.environ["PRE_SYNC"] = "false"  # reading .jobs would sync once more: stock at its fastest
    with tempfile.TemporaryDirectory() as ours_at, tempfile.TemporaryDirectory() as stock_at:
        adapter = cost(ours, *parties(Path(ours_at)))
        owner, analyst = parties(Path(stock_at))
        ExchangeConnectionConfig.connection_type = StockConnection
        clients = [
            SyftRDSClient.from_config(side._box._config(role))
            for side, role in ((owner, "owner"), (analyst, "analyst"))
        ]
        for client in clients:
            client.load_peers()
        flow = cost(stock, *clients)
    print(f"CPU of one question after {PAST}: ours {1000 * adapter:.1f} ms, stock {flow:.2f} s")
    print(f"ratio stock / ours {flow / adapter:.0f} (target >= 20)")


if __name__ == "__main__":
    main()
