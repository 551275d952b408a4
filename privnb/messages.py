"""What analyst and site write to each other inside a job: one submission, one reply."""

from __future__ import annotations

from typing import Literal

from privnb import wire
from privnb.computation import Computation
from privnb.dp.schema import TableSchema
from privnb.release import Answer, Estimate, PrivacyLabel

__all__ = [
    "REPLY_FILE",
    "SOURCE_FILE",
    "SUBMISSION_FILE",
    "Budget",
    "BudgetEntry",
    "Problem",
    "Reply",
    "SiteDescription",
    "Submission",
]

SUBMISSION_FILE = "computation.json"
SOURCE_FILE = "cell.sql"
"""The cell's text once more, as its own file, so that any PySyft owner can read it."""
REPLY_FILE = "reply.json"


@wire.message
class Submission:
    """What an analyst sends to one site. ``request`` names it for good, here and there.

    ``describe`` asks for the catalogue and the sender's own budgets, ``estimate`` for the price,
    ``mock`` for an answer from the mock twin, ``run`` for a protected answer from the data. Only
    ``run`` is ever charged.
    """

    request: str
    """128 random bits as 32 hexadecimal digits; also the name of the PySyft job."""
    action: Literal["describe", "estimate", "mock", "run"]
    computation: Computation | None = None


@wire.message
class BudgetEntry:
    """One charge in an analyst's history."""

    at: str
    """UTC, ISO 8601, seconds."""
    request: str
    digest: str
    epsilon: str


@wire.message
class Budget:
    """One grant of the asking analyst: what was given, what is left, and its history.

    How epsilons of several releases add up is the table's ``accounting``: plainly where it is
    "pure"; where it is "zcdp", many small releases cost less than their sum. ``epsilon_left`` is
    the largest epsilon one more release could have, given the grant and the table's total over all
    analysts.
    """

    table: str
    purpose: str
    epsilon_granted: str
    epsilon_spent: str
    epsilon_left: str
    until: str | None
    history: tuple[BudgetEntry, ...] = ()


@wire.message
class SiteDescription:
    """What a site tells an accepted analyst about itself."""

    name: str
    owner: str
    tables: tuple[TableSchema, ...]
    budgets: tuple[Budget, ...]


@wire.message
class Problem:
    """An error as it travels; see `privnb.errors.error_from_code`."""

    code: str
    message: str
    hint: str


@wire.message
class Reply:
    """What a site answers. Exactly one of the last four fields is set."""

    request: str
    digest: str | None
    """Digest of the computation this answers; the analyst's side compares it with its own."""
    problem: Problem | None = None
    description: SiteDescription | None = None
    estimate: Estimate | None = None
    answer: Answer | None = None
    label: PrivacyLabel | None = None
    """Comes with ``answer``, and only with it."""
    budget: Budget | None = None
    """The grant that paid, after paying; comes with a charged answer or a charged problem."""
