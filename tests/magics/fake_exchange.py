"""A fake exchange: the real Session, over a datasite port whose sites answer from a script.

Kernels of the notebook and browser tests import it too, so it needs nothing of pytest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from privnb import wire
from privnb.datasite.ports import ArrivedReply, SiteCard
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.messages import (
    REPLY_FILE,
    SUBMISSION_FILE,
    Budget,
    BudgetEntry,
    Problem,
    Reply,
    SiteDescription,
    Submission,
)
from privnb.release import Answer, AnswerColumn, Estimate, EstimateLine, PrivacyLabel
from privnb.session import Session
from privnb.store import Store

PURPOSE = "utilisation-research"
PLANS = ("free care", "cost sharing", "individual deductible")
VISITS = TableSchema(
    name="visits",
    columns=(
        Column(name="zper", type="integer", nullable=False),
        Column(name="plan_type", type="string", nullable=False, values=PLANS),
        Column(name="mdvis", type="integer", bounds=Bounds(lower=0, upper=30)),
        Column(name="meddol", type="float", bounds=Bounds(lower=0, upper=3000)),
    ),
    privacy_unit="zper",
    max_rows_per_unit=5,
    unique_keys=(("zper", "year"),),
    delta=1e-6,
    public_rows=6000,
    purposes=(PURPOSE,),
    description="Person-years of the Health Insurance Experiment",
)


@dataclass
class FakeSite:
    """What one site answers: the problem if one is set, otherwise a release."""

    name: str
    left: float = 4.0
    delay: float = 0.0
    problem: Problem | None = None
    history: tuple[BudgetEntry, ...] = ()
    state: str = "accepted"

    @property
    def owner(self) -> str:
        return f"owner@{self.name}.example"

    def budget(self) -> Budget:
        return Budget(
            table="visits",
            purpose=PURPOSE,
            epsilon_granted="4",
            epsilon_spent=f"{4 - self.left:g}",
            epsilon_left=f"{self.left:g}",
            until="2027-06-30",
            history=self.history,
        )

    def answer(self, submission: Submission) -> Reply:
        computation = submission.computation
        reply = Reply(
            request=submission.request,
            digest=computation.digest if computation else None,
        )
        if submission.action == "describe":
            described = SiteDescription(
                name=self.name, owner=self.owner, tables=(VISITS,), budgets=(self.budget(),)
            )
            return replace(reply, description=described)
        if self.problem is not None:
            return replace(reply, problem=self.problem)
        if submission.action == "estimate":
            return replace(reply, estimate=self.estimate(computation.epsilon))
        label = PrivacyLabel(
            mechanism="discrete Gaussian noise on every sum and count",
            epsilon=computation.epsilon,
            delta="1e-06",
            unit="one person (all their rows in visits)",
            clamps=("mdvis to 0…30 per row", "meddol to 0…3000 per row"),
            budget=f"epsilon {self.left:g} of 4 left for {PURPOSE}",
            not_protected=(
                "facts about groups: that is what the question is for",
                "what others may already know about a person",
            ),
            mock=submission.action == "mock",
        )
        if submission.action == "run":
            self.left -= float(computation.epsilon) * 0.8
            entry = BudgetEntry(
                at="2026-11-23T09:30:00+00:00",
                request=submission.request,
                digest=computation.digest,
                epsilon=computation.epsilon,
            )
            self.history = (*self.history, entry)
            label = replace(label, budget=f"epsilon {self.left:g} of 4 left for {PURPOSE}")
            reply = replace(reply, budget=self.budget())
        return replace(reply, answer=self.table(), label=label)

    def table(self) -> Answer:
        shift = 40 * len(self.name)
        return Answer(
            columns=(
                AnswerColumn(name="plan_type", role="key"),
                AnswerColumn(name="person_years", role="aggregate"),
                AnswerColumn(name="visits", role="aggregate"),
                AnswerColumn(name="dollars", role="aggregate"),
            ),
            rows=(
                ("free care", 3120 + shift, 4.5561, 310240.25),
                ("cost sharing", 2204 + shift, 2.9712, 161007.75),
                ("individual deductible", 1212 + shift, 2.8404, 90331.5),
            ),
            half_widths=(
                (None, 41.2, 0.221, 9120.0),
                (None, 41.2, 0.267, 9120.0),
                (None, 41.2, 0.352, 9120.0),
            ),
        )

    def estimate(self, epsilon: str) -> Estimate:
        return Estimate(
            table="visits",
            epsilon=epsilon,
            delta="1e-06",
            lines=(
                EstimateLine(name="person_years", half_width=41.2),
                EstimateLine(name="visits", half_width=0.25, note="in a group of 1,200 rows"),
                EstimateLine(name="dollars", half_width=9120.0),
            ),
            mechanism="discrete Gaussian noise on every sum and count",
            clamps=("mdvis to 0…30 per row",),
            affordable=self.left >= float(epsilon),
        )


@dataclass
class FakeDatasite:
    """The analyst's port to three sites that answer after their delay."""

    by_name: dict[str, FakeSite]
    submitted: list[tuple[str, Submission]] = field(default_factory=list)
    waiting: list[tuple[float, str, str, Reply]] = field(default_factory=list)
    fingerprint: str = "SHA256:ana0 ana1 ana2 ana3"

    def sites(self):
        return [
            SiteCard(
                name=site.name,
                owner=site.owner,
                last_seen=time.time(),
                fingerprint=f"SHA256:{site.name}",
                state=site.state,
            )
            for site in self.by_name.values()
        ]

    def ask(self, owner, *, fingerprint=None):
        self.trusted = fingerprint

    def submit(self, owner, name, files):
        site = next(s for s in self.by_name.values() if s.owner == owner)
        submission = wire.decode(Submission, files[SUBMISSION_FILE], what="a submission")
        self.submitted.append((site.name, submission))
        due = time.monotonic() + (0 if submission.action == "describe" else site.delay)
        self.waiting.append((due, owner, name, site.answer(submission)))

    def poll(self, owner):
        now = time.monotonic()
        ready = [w for w in self.waiting if w[1] == owner and w[0] <= now]
        self.waiting = [w for w in self.waiting if w not in ready]
        return [
            ArrivedReply(owner=owner, name=name, files={REPLY_FILE: wire.encode(reply)})
            for _, _, name, reply in ready
        ]

    def retire(self, owner, name):
        pass


def open_exchange(home: Path, *, email: str = "ana@uni.example", exchange: str = "shared"):
    """A session with three fake sites, and the port to steer them by."""
    datasite = FakeDatasite({n: FakeSite(n) for n in ("lakeside", "northside", "riverside")})
    store = Store(Path(home))
    return Session(email=email, exchange=exchange, datasite=datasite, store=store), datasite
