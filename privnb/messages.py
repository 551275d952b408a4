"""What analyst and site write to each other inside a job: one submission, one reply."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Literal, TypeAlias

from privnb import wire
from privnb.computation import Computation
from privnb.dp.schema import TableSchema
from privnb.output import Output
from privnb.release import Answer, Estimate, PrivacyLabel, Receipt

__all__ = [
    "ACTIONS_WITH_A_COMPUTATION",
    "REPLY_FILE",
    "SOURCE_FILES",
    "SUBMISSION_FILE",
    "AccessAsk",
    "Budget",
    "BudgetEntry",
    "ConsentEntry",
    "FederatedOffer",
    "Participation",
    "Problem",
    "PythonOffer",
    "Reply",
    "RequestState",
    "SiteDescription",
    "State",
    "Submission",
    "TemplateOffer",
    "fresh_salt",
    "released_hash",
]

SUBMISSION_FILE = "computation.json"
SOURCE_FILES = {"sql": "cell.sql", "python": "cell.py", "model": "model.json"}
"""The cell's text once more, as its own file, so that any PySyft owner can read it."""
REPLY_FILE = "reply.json"
ACTIONS_WITH_A_COMPUTATION = ("estimate", "mock", "run")

State: TypeAlias = Literal[
    "unknown",
    "waiting for review",
    "approved",
    "running",
    "joined",
    "output in review",
    "released",
    "nothing given",
    "refused",
    "failed",
]
"""How far a request is, as its analyst is told."""


@wire.message
class AccessAsk:
    """What an analyst asks an owner for: to use a table for a purpose, and why."""

    table: str
    purpose: str
    reason: str
    epsilon: str | None = None
    """The budget hoped for, decimal text; the owner decides."""


@wire.message
class Submission:
    """What an analyst sends to one site. ``request`` names it for good, here and there.

    ``describe`` asks for the catalogue and the sender's own budgets and consents, ``estimate`` for
    the price, ``mock`` for an answer from the mock twin, ``run`` for a protected answer from the
    data, ``status`` for how far earlier requests are, ``request-access`` for a grant, ``audit`` for
    the sender's own events. Only ``run`` is ever charged.
    """

    request: str
    """128 random bits as 32 hexadecimal digits; also the name of the PySyft job."""
    action: Literal["describe", "estimate", "mock", "run", "status", "request-access", "audit"]
    computation: Computation | None = None
    """Comes with ``estimate``, ``mock`` and ``run``, and only with them."""
    access: AccessAsk | None = None
    """Comes with ``request-access``, and only with it."""
    requests: tuple[str, ...] = ()
    """The earlier requests that ``status`` asks about, at most 200."""
    checkpoints: tuple[int, ...] = ()
    """Sizes of the audit log at which the sender has a signed checkpoint, at most 16: receipts
    then prove that the log of today begins with the logs of then."""


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
class ConsentEntry:
    """Where one consent of the owner's to the asking analyst stands, for a table and a purpose."""

    table: str
    purpose: str
    state: Literal["granted", "pending", "refused", "expired", "withdrawn"]
    since: str
    """UTC, ISO 8601, seconds."""
    until: str | None = None
    """The last day, ISO 8601; None: without end."""
    reason: str = ""
    """What the owner said, or, while it is pending, what the analyst said."""


@wire.message
class TemplateOffer:
    """A cell that the owner wrote and releases without a human, with parameters to choose."""

    name: str
    description: str
    source: str
    """The very text that a cell must have."""
    tables: tuple[str, ...]
    purposes: tuple[str, ...]
    output: str | None
    parameters: dict[str, str]
    """For each parameter, what it may be, in words."""


@wire.message
class PythonOffer:
    """What a site lets Python cells do."""

    packages: tuple[str, ...]
    seconds: int
    """The longest a cell may run."""
    max_rows: int
    max_bytes: int
    min_units: int
    """How many privacy units must stand behind each group that the site's gate recognises."""
    review: str
    """Who looks at what before anything leaves, in words."""
    sandbox: str
    templates: tuple[TemplateOffer, ...] = ()


@wire.message
class FederatedOffer:
    """Under which conditions a site computes together with others, whatever the computation."""

    partners: tuple[str, ...]
    """The verifier keys of the sites that its owner computes with; its own is `audit_key`."""
    min_sites: int
    """How many sites must take part in every round, at least."""
    min_summed: int
    """How many sites must be in every sum, at least."""
    colluding: int
    """How many sites that work with the analyst must do no harm: a computation allows no fewer."""
    idle_minutes: int
    """After how long without a word of the analyst's a run ends by itself."""
    training: str = ""
    """Who approves of a cell that trains, in words; empty where none is taken."""
    models: tuple[str, ...] = ()
    """The models that it trains under differential privacy, without a human."""


@wire.message
class RequestState:
    """How far a request of the asking analyst is at the site."""

    request: str
    state: State
    since: str = ""
    """UTC, ISO 8601, seconds."""
    deciders: str = ""
    """Who decides, in words: '1 of 2 approvals; alice@…, bob@…'."""
    until: str | None = None
    """When waiting ends by itself: UTC, ISO 8601, seconds."""
    reason: str = ""


@wire.message
class SiteDescription:
    """What a site tells an accepted analyst about itself."""

    name: str
    owner: str
    tables: tuple[TableSchema, ...]
    budgets: tuple[Budget, ...]
    audit_key: str = ""
    """The Ed25519 key that signs checkpoints of its audit log, as a C2SP verifier key."""
    consents: tuple[ConsentEntry, ...] = ()
    python: PythonOffer | None = None
    """None where Python cells are not taken."""
    legal: dict[str, dict[str, str]] | None = None
    """By purpose: its W3C DPV term (``dpv``), and the owner's legal basis (``legal_basis``)."""
    federated: FederatedOffer | None = None
    """None where nothing is computed together with other sites."""


@wire.message
class Problem:
    """An error as it travels; see `privnb.errors.error_from_code`."""

    code: str
    message: str
    hint: str


@wire.message
class Participation:
    """What a site gave to a run of several sites, of which only the sums could be seen."""

    rounds: int
    """In how many rounds it took part."""
    contributions: int
    """How many masked vectors it sent: more than rounds where some were asked for again. Where a
    site was killed before it could send one, that one counts too."""
    sites: tuple[str, ...]
    """The verifier keys of all it shared a sum with, sorted, its own among them."""
    ended: str = ""
    """Why it ended before all rounds were done, in words; empty where they were."""
    failures: int = 0
    """How often its code failed on the site's data: each time tells something of them."""

    @property
    def remark(self) -> str:
        """What is to be said where nothing was given: that it failed on data, and why it ended."""
        times = "once" if self.failures == 1 else f"{self.failures} times"
        failed = f"it failed {times} on the data" if self.failures else ""
        return "; ".join(filter(None, (failed, self.ended)))

    def hashed(self) -> dict[str, object]:
        """Return what `released_hash` is of: without failures where there were none."""
        said = dataclasses.asdict(self)
        if not self.failures:  # the hashes of earlier parts stay what they were
            del said["failures"]
        return said


@wire.message
class Reply:
    """What a site answers, and what belongs to it.

    Exactly one of problem, description, estimate, answer, output, part, states, consent, trail is
    set.
    """

    request: str
    digest: str | None
    """Digest of the computation this answers; the analyst's side compares it with its own."""
    problem: Problem | None = None
    description: SiteDescription | None = None
    estimate: Estimate | None = None
    answer: Answer | None = None
    output: Output | None = None
    """What an approved computation declared."""
    part: Participation | None = None
    """How a federated run ended at the site, whose sums went through the run's rounds."""
    label: PrivacyLabel | None = None
    """Comes with ``answer``, ``output`` and ``part``, and only with them."""
    salt: str = ""
    """32 random bytes, hexadecimal, beside ``answer``, ``output`` and ``part``: without it, whoever
    reads the audit log could find by trial what hashes to what it names."""
    refusal: Problem | None = None
    """Comes with ``estimate`` only: why the same, if it were run now, would be refused."""
    budget: Budget | None = None
    """The grant that paid, after paying; comes with a charged answer or a charged problem. With
    ``estimate``, the grant that would pay."""
    receipt: Receipt | None = None
    """Of the event that released an answer, output or part; the event names the hash of it and of
    its label by `released_hash`."""
    states: tuple[RequestState, ...] | None = None
    consent: ConsentEntry | None = None
    """Where the access asked for stands now."""
    trail: tuple[Receipt, ...] | None = None
    """The asking analyst's own events, newest last."""


def fresh_salt() -> str:
    """Return the salt of one reply."""
    return secrets.token_hex(32)


def released_hash(reply: Reply) -> str:
    """Return the SHA-256 of what a reply releases: answer, output or part, with label and salt.

    The audit log names it, so that nobody can later claim that something else was released.
    """
    parts = {
        "request": reply.request,
        "digest": reply.digest,
        "answer": reply.answer and dataclasses.asdict(reply.answer),
        "output": reply.output and dataclasses.asdict(reply.output),
        "label": reply.label and dataclasses.asdict(reply.label),
        "salt": reply.salt,
    }
    if reply.part is not None:  # the hashes of all else stay what they were
        parts["part"] = reply.part.hashed()
    return wire.sha256_hex(wire.canonical_json(parts))
