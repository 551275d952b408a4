"""The ledger never lets more out than was granted, whatever is asked in whatever order."""

from __future__ import annotations

import datetime as dt
import secrets
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from privnb.dp import accounting
from privnb.errors import AccessRefused, BudgetExceeded, StateError
from privnb.site import database as tables
from privnb.site import ledger
from privnb.site.database import Database
from privnb.site.grants import Grant, record_grant

TODAY = dt.date(2027, 1, 15)
TERMS = ledger.Terms(table="visits", total_epsilon=Decimal(5), accounting=accounting.ZCDP(1e-6))
PURE = ledger.Terms(table="visits", total_epsilon=Decimal(5), accounting=accounting.Pure(1e-6))


def price(epsilon: str, terms=TERMS) -> int:
    return ledger.units_up(terms.accounting.loss_for(Decimal(epsilon)), ledger.LOSS_UNIT)


def charge(  # noqa: PLR0913 - a charge has many parts
    analyst="ana",
    *,
    request=None,
    loss=None,
    delta=0,
    purpose="research",
    epsilon="1",
    terms=TERMS,
):
    return ledger.Charge(
        table="visits",
        analyst=analyst,
        purpose=purpose,
        request=request or secrets.token_hex(16),
        digest="d" * 64,
        accounting=terms.accounting.name,
        loss=price(epsilon, terms) if loss is None else loss,
        delta=delta,
        epsilon=epsilon,
    )


def give(database, epsilon, *, analyst="ana", purpose="research", **fields):
    grant = Grant(
        analyst=analyst, table="visits", purpose=purpose, epsilon=Decimal(epsilon), **fields
    )
    with database.write() as transaction:
        record_grant(transaction, grant)


def reserve(database, entry, *, terms=TERMS, today=TODAY):
    with database.write() as transaction:
        return ledger.reserve(transaction, entry, terms, today=today)


def standing(database, *, analyst="ana", purpose="research", terms=TERMS):
    with database.read() as snapshot:
        return ledger.standing(snapshot, terms, analyst=analyst, purpose=purpose)


@pytest.fixture
def database(tmp_path):
    database = Database.open(tmp_path / "site.sqlite")
    yield database
    database.close()


def test_a_grant_pays_for_one_release_of_the_same_epsilon(database):
    give(database, "1")
    after = reserve(database, charge(epsilon="1"))
    assert after is not None
    assert after == standing(database)
    assert after.epsilon_left == 0
    with pytest.raises(BudgetExceeded):
        reserve(database, charge(epsilon="0.01"))


def test_the_epsilon_left_is_the_largest_that_still_fits(database):
    give(database, "2")
    reserve(database, charge(epsilon="0.7"))
    left = standing(database).epsilon_left
    with pytest.raises(BudgetExceeded):
        reserve(database, charge(epsilon=str(left + Decimal("0.0002"))))
    assert reserve(database, charge(epsilon=str(left))) is not None


def test_epsilons_of_several_releases_cost_less_than_their_sum(database):
    give(database, "3")
    for _ in range(4):
        reserve(database, charge(epsilon="0.5"))
    now = standing(database)
    assert Decimal("0.5") < now.epsilon_spent < Decimal(2)
    assert now.epsilon_left > Decimal(1)


def test_pure_epsilons_cost_exactly_their_sum(database):
    give(database, "0.7")
    for each in ("0.1", "0.2", "0.3"):
        after = reserve(database, charge(epsilon=each, terms=PURE), terms=PURE)
    assert after.epsilon_spent == Decimal("0.6")
    assert after.epsilon_left == Decimal("0.1")
    with pytest.raises(BudgetExceeded):
        reserve(database, charge(epsilon="0.1001", terms=PURE), terms=PURE)
    assert reserve(database, charge(epsilon="0.1", terms=PURE), terms=PURE).epsilon_left == 0


@pytest.mark.parametrize(("before", "now"), [(TERMS, PURE), (PURE, TERMS)])
def test_losses_of_two_accountings_are_never_added_up(database, before, now):
    give(database, "4")
    reserve(database, charge(terms=before), terms=before)
    for ask in (
        lambda: reserve(database, charge(terms=now), terms=now),
        lambda: standing(database, terms=now),
        lambda: standing(database, analyst="bo", terms=now),
    ):
        with pytest.raises(StateError, match="cannot be added up") as caught:
            ask()
        assert f'Write accounting = "{before.accounting.name}"' in caught.value.hint
    assert standing(database, terms=before).loss_spent == price("1", before)


def test_a_price_in_another_unit_than_the_tables_is_a_bug(database):
    give(database, "4")
    with pytest.raises(ValueError, match="another unit"):
        reserve(database, charge(terms=PURE), terms=TERMS)


def test_a_request_is_charged_once(database):
    give(database, "4")
    entry = charge(request="r1")
    assert reserve(database, entry) is not None
    assert reserve(database, entry) is None
    assert standing(database).loss_spent == entry.loss


def test_what_was_spent_stays_spent_when_the_grant_is_raised_or_given_again(database):
    give(database, "1")
    reserve(database, charge(epsilon="1"))
    give(database, "2")
    now = standing(database)
    assert now.loss_spent == price("1")
    assert now.epsilon_left < Decimal(2)
    give(database, "1")
    assert standing(database).epsilon_left < Decimal("0.001")


def test_the_tables_total_is_shared_by_all_analysts(database):
    give(database, "4", analyst="ana")
    give(database, "4", analyst="bo")
    reserve(database, charge("ana", epsilon="4"))
    with pytest.raises(BudgetExceeded):
        reserve(database, charge("bo", epsilon="4"))
    now = standing(database, analyst="bo")
    assert now.shortfall(loss=price("4"), delta=0) == "table"
    assert reserve(database, charge("bo", epsilon=str(now.epsilon_left))) is not None


def test_the_same_analyst_pays_from_the_grant_of_the_purpose(database):
    give(database, "1", purpose="research")
    give(database, "1", purpose="quality")
    reserve(database, charge(purpose="research"))
    assert reserve(database, charge(purpose="quality")) is not None


@pytest.mark.parametrize(("terms", "part"), [(TERMS, "0.5"), (PURE, "1")])
def test_the_deltas_of_single_releases_never_sum_above_their_part_of_the_tables(
    database, terms, part
):
    give(database, "4")
    each = ledger.units_up(terms.accounting.threshold_delta, ledger.DELTA_UNIT)
    for _ in range(100):
        reserve(database, charge(loss=1, delta=each, terms=terms), terms=terms)
    spent = standing(database, terms=terms).table.delta_spent
    assert spent * ledger.DELTA_UNIT <= Fraction("1e-6") * Fraction(part)
    with pytest.raises(BudgetExceeded):
        reserve(database, charge(loss=1, delta=1, terms=terms), terms=terms)
    assert reserve(database, charge(loss=1, delta=0, terms=terms), terms=terms) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"until": TODAY - dt.timedelta(days=1)},
        {"withdrawn": True},
    ],
)
def test_a_grant_that_is_over_pays_for_nothing(database, fields):
    give(database, "4", **fields)
    with pytest.raises(AccessRefused):
        reserve(database, charge())


def test_a_grant_holds_on_its_last_day(database):
    give(database, "4", until=TODAY)
    assert reserve(database, charge()) is not None


def test_nothing_is_paid_without_a_grant(database):
    with pytest.raises(AccessRefused):
        reserve(database, charge())


def test_a_release_without_a_price_is_a_bug(database):
    give(database, "4")
    with pytest.raises(ValueError, match="without a price"):
        reserve(database, charge(loss=0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-9])
def test_a_loss_that_is_no_number_cannot_be_counted(value):
    with pytest.raises(ValueError, match="not a loss"):
        ledger.units_up(value, ledger.LOSS_UNIT)


def test_charges_are_rounded_up():
    assert ledger.units_up(1e-16, ledger.LOSS_UNIT) == 1
    assert ledger.units_up(0.1, ledger.LOSS_UNIT) * ledger.LOSS_UNIT >= Fraction(0.1)


@pytest.mark.parametrize("epsilon", ["0.0001", "0.01", "1", "3.7", "20"])
@pytest.mark.parametrize("delta", [1e-4, 1e-6, 1e-9])
@pytest.mark.parametrize("kind", [accounting.ZCDP, accounting.Pure])
def test_any_grant_pays_for_exactly_what_it_says_and_never_for_more(epsilon, delta, kind):
    terms = ledger.Terms(table="visits", total_epsilon=Decimal(epsilon), accounting=kind(delta))
    loss = terms.accounting.loss_for(Decimal(epsilon))
    grains = ledger.units_up(loss, ledger.LOSS_UNIT)
    assert terms.loss_cap - 10 <= grains <= terms.loss_cap
    assert terms.accounting.epsilon_of(terms.loss_cap) <= Decimal(epsilon)
    full = ledger.TableStanding(terms=terms, loss_spent=0, delta_spent=0)
    assert full.epsilon_left == Decimal(epsilon)


def test_the_database_itself_refuses_to_lower_or_forget_a_charge(database):
    give(database, "4")
    reserve(database, charge())
    for statement in ("UPDATE ledger SET loss = 1", "DELETE FROM ledger", "DELETE FROM events"):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), database.write() as t:
            t.execute(sa.text(statement))
    with database.write() as transaction:
        request = transaction.execute(sa.select(tables.ledger.c.request)).scalar_one()
        ledger.settle(transaction, analyst="ana", request=request)
        states = transaction.execute(sa.select(tables.ledger.c.state)).scalars().all()
    assert states == ["spent"]


@pytest.mark.parametrize("terms", [TERMS, PURE], ids=["zcdp", "pure"])
def test_three_processes_together_never_exceed_a_cap(database, tmp_path, terms):
    give(database, "2", analyst="ana")
    give(database, "4.5", analyst="bo")
    script = str(Path(__file__).with_name("ledger_spender.py"))
    kind, each = terms.accounting.name, str(price("0.2", terms))
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path / "site.sqlite"), kind, who, each, "80"]
        )
        for who in ("ana", "ana", "bo")
    ]
    while len(list(tmp_path.glob("ready-*"))) < len(workers):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.005)
    (tmp_path / "go").touch()
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    ana, bo = (
        standing(database, analyst="ana", terms=terms),
        standing(database, analyst="bo", terms=terms),
    )
    cap = price("2", terms)
    assert ana.loss_spent <= cap
    one_more = int(each)  # would break her grant, or what bo has left of the table
    assert ana.loss_spent + one_more > cap or ana.table.loss_spent + one_more > terms.loss_cap
    assert ana.table.loss_spent == ana.loss_spent + bo.loss_spent <= terms.loss_cap
    assert bo.loss_spent > 0


class LedgerRules(RuleBasedStateMachine):
    """Any order of grants, withdrawals, charges, repetitions and days."""

    analysts = st.sampled_from(["ana", "bo"])
    purposes = st.sampled_from(["research", "quality"])

    @initialize(terms=st.sampled_from([TERMS, PURE]))
    def open(self, terms):
        self.folder = tempfile.TemporaryDirectory()
        self.database = Database.open(Path(self.folder.name) / "site.sqlite")
        self.today = TODAY
        self.granted: dict[tuple[str, str], Grant] = {}
        self.highest: dict[tuple[str, str], int] = {}
        self.paid: dict[tuple[str, str], ledger.Charge] = {}
        self.terms = terms

    def teardown(self):
        self.database.close()
        self.folder.cleanup()

    @rule(
        analyst=analysts,
        purpose=purposes,
        epsilon=st.sampled_from(["0.5", "1", "3", "8"]),
        days=st.none() | st.integers(-1, 3),
        withdrawn=st.booleans(),
    )
    def give(self, analyst, purpose, epsilon, days, withdrawn):
        until = None if days is None else self.today + dt.timedelta(days=days)
        give(
            self.database, epsilon, analyst=analyst, purpose=purpose, until=until,
            withdrawn=withdrawn,
        )  # fmt: skip
        self.granted[analyst, purpose] = Grant(
            analyst=analyst, table="visits", purpose=purpose, epsilon=Decimal(epsilon),
            until=until, withdrawn=withdrawn,
        )  # fmt: skip
        key = (analyst, purpose)
        self.highest[key] = max(self.highest.get(key, 0), price(epsilon, self.terms))

    @rule(
        analyst=analysts,
        purpose=purposes,
        loss=st.integers(1, 4 * 10**14) | st.integers(1, 3 * 10**15),
        delta=st.sampled_from([0, 0, 1, 10**11, 3 * 10**11]),
        number=st.integers(0, 40),
    )
    def ask(self, analyst, purpose, loss, delta, number):
        request = f"r{number}"
        entry = charge(
            analyst, request=request, purpose=purpose, loss=loss, delta=delta, terms=self.terms
        )
        grant = self.granted.get((analyst, purpose))
        valid = grant and not grant.withdrawn and not grant.expired(self.today)
        try:
            after = reserve(self.database, entry, terms=self.terms, today=self.today)
        except AccessRefused:
            assert not valid
            assert (analyst, request) not in self.paid
        except BudgetExceeded:
            assert valid
            spent = self.spent(analyst, purpose)
            all_loss = sum(each.loss for each in self.paid.values())
            all_delta = sum(each.delta for each in self.paid.values())
            assert (
                spent + loss > self.terms.accounting.cap(grant.epsilon)
                or all_loss + loss > self.terms.loss_cap
                or all_delta + delta > self.terms.delta_cap
            )
        else:
            if after is None:
                assert (analyst, request) in self.paid
            else:
                assert valid
                assert (analyst, request) not in self.paid
                self.paid[analyst, request] = entry
                assert after.loss_spent == self.spent(analyst, purpose)

    @rule(days=st.integers(-1, 2))
    def a_clock_jumps(self, days):
        self.today += dt.timedelta(days=days)

    @rule()
    def restart(self):
        self.database.close()
        self.database = Database.open(Path(self.folder.name) / "site.sqlite")

    def spent(self, analyst, purpose):
        mine = (e for e in self.paid.values() if (e.analyst, e.purpose) == (analyst, purpose))
        return sum(entry.loss for entry in mine)

    @invariant()
    def all_that_was_paid_is_there_and_no_cap_is_broken(self):
        with self.database.read() as snapshot:
            rows = snapshot.execute(sa.select(tables.ledger)).all()
        found = {(row.analyst, row.request): (row.loss, row.delta) for row in rows}
        assert found == {key: (e.loss, e.delta) for key, e in self.paid.items()}
        assert sum(loss for loss, _ in found.values()) <= self.terms.loss_cap
        assert sum(delta for _, delta in found.values()) <= self.terms.delta_cap
        for (analyst, purpose), highest in self.highest.items():
            assert self.spent(analyst, purpose) <= highest


TestLedgerRules = LedgerRules.TestCase
TestLedgerRules.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
