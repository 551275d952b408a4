"""Consent: the newest word of the owner counts, and earlier ones are kept."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest
import sqlalchemy as sa

from privnb.site import database as tables
from privnb.site.database import Database
from privnb.site.grants import Grant, all_grants, current_grant, grants_of, record_grant


@pytest.fixture
def database(tmp_path):
    database = Database.open(tmp_path / "site.sqlite")
    yield database
    database.close()


def grant(**fields):
    return Grant(
        **{
            "analyst": "ana",
            "table": "visits",
            "purpose": "research",
            "epsilon": Decimal(4),
            **fields,
        }
    )


def record(database, *given):
    with database.write() as transaction:
        for each in given:
            record_grant(transaction, each)


def test_the_newest_grant_replaces_the_one_before(database):
    record(database, grant(), grant(epsilon=Decimal("0.50"), until=dt.date(2027, 6, 30)))
    with database.read() as snapshot:
        found = current_grant(snapshot, analyst="ana", table="visits", purpose="research")
    assert found == grant(epsilon=Decimal("0.5"), until=dt.date(2027, 6, 30))


def test_grants_of_other_analysts_tables_and_purposes_are_not_touched(database):
    others = [grant(analyst="bo"), grant(table="costs"), grant(purpose="quality")]
    record(database, *others, grant(), grant(withdrawn=True))
    with database.read() as snapshot:
        assert {(g.analyst, g.table, g.purpose) for g in all_grants(snapshot)} == {
            (g.analyst, g.table, g.purpose) for g in [*others, grant()]
        }
        assert list(grants_of(snapshot, "ana")) == [grant(table="costs"), grant(purpose="quality")]


def test_a_withdrawn_grant_can_be_given_again(database):
    record(database, grant(withdrawn=True), grant())
    with database.read() as snapshot:
        assert list(grants_of(snapshot, "ana")) == [grant()]


def test_a_grant_is_valid_on_its_last_day_only_until_midnight():
    last = grant(until=dt.date(2027, 6, 30))
    assert not last.expired(dt.date(2027, 6, 30))
    assert last.expired(dt.date(2027, 7, 1))
    assert not grant().expired(dt.date.max)


def test_every_grant_and_withdrawal_is_an_event(database):
    record(database, grant(), grant(withdrawn=True))
    with database.read() as snapshot:
        bodies = snapshot.execute(sa.select(tables.events.c.body)).scalars().all()
    assert [json.loads(body)["kind"] for body in bodies] == ["grant", "withdrawal"]
