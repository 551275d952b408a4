"""A refusal names its rule, and says what to do instead."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from site_fakes import ANA, PURPOSE, SCHEMA

from privnb.dp import accounting
from privnb.site import ledger
from privnb.site.grants import Grant
from privnb.site.policy import decide

TODAY = dt.date(2027, 1, 15)
OWNER = "owner@northside.example"
TERMS = ledger.Terms(
    table="visits", total_epsilon=Decimal(5), accounting=accounting.accounting_of(SCHEMA)
)


def units(epsilon):
    return TERMS.accounting.cap(Decimal(epsilon))


def decision(*, epsilon="1", purpose=PURPOSE, grant="4", spent=0, spent_by_all=0, **fields):
    given = None
    if grant is not None:
        given = Grant(
            analyst=ANA, table="visits", purpose=purpose, epsilon=Decimal(grant),
            until=fields.get("until"), withdrawn=fields.get("withdrawn", False),
        )  # fmt: skip
    table = ledger.TableStanding(
        terms=TERMS, loss_spent=spent_by_all or spent, delta_spent=fields.get("delta_spent", 0)
    )
    return decide(
        ledger.Charge(
            table="visits", analyst=ANA, purpose=purpose, request="r", digest="d",
            accounting="zcdp", loss=units(epsilon), delta=fields.get("delta", 0), epsilon=epsilon,
        ),
        schema=SCHEMA,
        owner=OWNER,
        standing=ledger.Standing(grant=given, loss_spent=spent, table=table),
        today=TODAY,
    )  # fmt: skip


def test_a_request_within_its_grant_is_released_automatically():
    given = decision()
    assert (given.outcome, given.rule, given.problem) == ("release", "grant", None)


@pytest.mark.parametrize("purpose", ["", "marketing"])
def test_a_purpose_that_is_not_allowed_is_refused_with_the_allowed_ones(purpose):
    problem = decision(purpose=purpose).problem
    assert problem.code == "E_PURPOSE"
    assert problem.hint == "Allowed purposes: utilisation-research, quality-control."
    assert ("marketing" in problem.message) == bool(purpose)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"grant": None}, "no grant for"),
        ({"withdrawn": True}, "no grant any more"),
        ({"until": TODAY - dt.timedelta(days=1)}, "ended on 2027-01-14"),
    ],
)
def test_without_a_valid_grant_the_refusal_says_whom_to_ask_and_what_they_run(fields, words):
    given = decision(**fields)
    assert given.rule == given.problem.code == "E_NO_GRANT"
    assert words in given.problem.message
    assert OWNER in given.problem.hint
    assert (
        f"privnb site grant DIR {ANA} --table visits --purpose {PURPOSE} --epsilon 1"
        in given.problem.hint
    )


def test_over_the_grant_the_refusal_says_what_would_fit():
    problem = decision(grant="2", epsilon="3").problem
    assert problem.code == "E_BUDGET"
    assert "costs epsilon 3" in problem.message
    assert "at most epsilon 2 more fits in your grant" in problem.message
    assert "epsilon 2 or less" in problem.hint


def test_the_grant_it_names_pays_for_what_was_spent_and_what_is_asked():
    spent = units("1")
    problem = decision(grant="2", epsilon="2", spent=spent).problem
    needed = problem.hint.rpartition("--epsilon ")[2]
    assert Decimal(2) < Decimal(needed) < Decimal(3)
    assert decision(grant=needed, epsilon="2", spent=spent).problem is None


def test_with_nothing_left_it_says_so():
    problem = decision(grant="1", spent=units("1"), epsilon="1").problem
    assert "nothing is left in your grant" in problem.message


def test_over_the_tables_total_the_refusal_names_the_shared_budget():
    problem = decision(grant="4", spent_by_all=TERMS.loss_cap, epsilon="1").problem
    assert "nothing is left in the budget of table 'visits', which all analysts share" in (
        problem.message
    )
    assert problem.hint == f"Ask the owner, {OWNER}, whether the table's total may be raised."


def test_when_the_delta_for_rare_groups_is_spent_public_groups_are_suggested():
    problem = decision(delta=1, delta_spent=TERMS.delta_cap).problem
    assert problem.code == "E_BUDGET"
    assert "public" in problem.hint
    assert decision(delta=0, delta_spent=TERMS.delta_cap).problem is None
