"""Another process that spends from a ledger as fast as it can."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import sys
import time
from decimal import Decimal
from pathlib import Path

from privnb.dp.accounting import ZCDP, Pure
from privnb.errors import BudgetExceeded
from privnb.site import ledger
from privnb.site.database import Database

ACCOUNTINGS = {"zcdp": ZCDP, "pure": Pure}


def spend(path: Path, kind: str, analyst: str, loss: int, times: int) -> None:
    """Try so many charges; refusals are what is to be seen."""
    terms = ledger.Terms(
        table="visits", total_epsilon=Decimal(5), accounting=ACCOUNTINGS[kind](1e-6)
    )
    database = Database.open(path)
    (path.parent / f"ready-{os.getpid()}").touch()
    while not (path.parent / "go").exists():
        time.sleep(0.001)
    for _ in range(times):
        entry = ledger.Charge(
            table="visits",
            analyst=analyst,
            purpose="research",
            request=secrets.token_hex(16),
            digest="d" * 64,
            accounting=kind,
            loss=loss,
            delta=0,
            epsilon="0.5",
        )
        try:
            with database.write() as transaction:
                ledger.reserve(transaction, entry, terms, today=dt.date(2027, 1, 15))
        except BudgetExceeded:
            continue
    database.close()


if __name__ == "__main__":
    spend(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
