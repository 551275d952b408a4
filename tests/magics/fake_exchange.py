"""A fake exchange: the real Session, over a datasite port whose sites answer from a script.

Kernels of the notebook and browser tests import it too, so it needs nothing of pytest.
"""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "fakes"))

from fake_channel import AnalystEnd
from fake_log import FakeLog

from privnb import audit, wire
from privnb.datasite.ports import ArrivedReply, SiteCard
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.messages import (
    REPLY_FILE,
    SUBMISSION_FILE,
    Budget,
    BudgetEntry,
    ConsentEntry,
    Problem,
    PythonOffer,
    Reply,
    RequestState,
    SiteDescription,
    Submission,
    TemplateOffer,
    released_hash,
)
from privnb.output import Output, OutputColumn
from privnb.release import (
    Answer,
    AnswerColumn,
    Estimate,
    EstimateLine,
    PrivacyLabel,
    Receipt,
)
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


TEMPLATE = TemplateOffer(
    name="visits_by_age",
    description="Mean visits above an age",
    source="visits[visits.xage >= lowest_age].mdvis.mean()\n",
    tables=("visits",),
    purposes=(PURPOSE,),
    output=None,
    parameters={"lowest_age": "integer, 0 to 65"},
)
PYTHON = PythonOffer(
    packages=("numpy", "pandas", "statsmodels"),
    seconds=60,
    max_rows=200,
    max_bytes=200_000,
    min_units=10,
    review="2 of alice@clinic.example, bob@clinic.example look at the code and at the output",
    sandbox="level 3: own process, no network, no other files",
    templates=(TEMPLATE,),
)
COEFFICIENTS = Output(
    kind="frame",
    columns=(
        OutputColumn(name="term", type="string", role="index"),
        OutputColumn(name="Coef.", type="float", role="value"),
        OutputColumn(name="n", type="integer", role="value"),
    ),
    rows=(("const", 0.5, 20186), ("xage", 0.0125, 20186), ("disea", 0.0306, None)),
)


@dataclass
class FakeSite:
    """What one site answers: the problem if one is set, otherwise a release.

    Python waits for people while ``review`` is a state of theirs; `decide` ends that.
    """

    name: str
    left: float = 4.0
    delay: float = 0.0
    problem: Problem | None = None
    history: tuple[BudgetEntry, ...] = ()
    state: str = "accepted"
    python: PythonOffer | None = PYTHON
    review: str = ""
    output: Output = COEFFICIENTS
    analyst: str = "ana@uni.example"
    consents: tuple[ConsentEntry, ...] = (
        ConsentEntry(
            table="visits",
            purpose=PURPOSE,
            state="granted",
            since="2026-11-01T08:00:00+00:00",
            until="2027-06-30",
        ),
    )
    in_review: dict[str, Submission] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return f"owner@{self.name}.example"

    @functools.cached_property
    def log(self) -> FakeLog:
        return FakeLog(audit.origin_of(self.name, self.owner))

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

    def answer(self, submission: Submission) -> Reply | None:
        """What the site replies; None while people look at it."""
        computation = submission.computation
        reply = Reply(
            request=submission.request,
            digest=computation.digest if computation else None,
        )
        if self.problem is not None and submission.action != "describe":
            return replace(reply, problem=self.problem)
        free = {
            "describe": lambda: {"description": self.description()},
            "status": lambda: {"states": tuple(map(self.state_of, submission.requests))},
            "request-access": lambda: {"consent": self.asked(submission.access)},
            "audit": lambda: {"trail": self.trail(submission)},
            "estimate": lambda: self.price(computation.epsilon),
        }
        if submission.action in free:
            return replace(reply, **free[submission.action]())
        if computation.kind == "python":
            if submission.action == "run" and self.review:
                self.in_review[submission.request] = submission
                return None
            label = approved_label(mock=submission.action == "mock")
            return self.logged(submission, replace(reply, output=self.output, label=label))
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
        return self.logged(submission, replace(reply, answer=self.table(), label=label))

    def description(self) -> SiteDescription:
        return SiteDescription(
            name=self.name,
            owner=self.owner,
            tables=(VISITS,),
            budgets=(self.budget(),),
            audit_key=self.log.verifier_key,
            consents=self.consents,
            python=self.python,
        )

    def logged(self, submission: Submission, reply: Reply) -> Reply:
        """Put a release into the log, with its receipt; mock answers are not logged."""
        if submission.action != "run":
            return reply
        index = self.log.add(
            "release",
            self.analyst,
            request=reply.request,
            digest=reply.digest,
            epsilon=submission.computation.epsilon,
            purpose=submission.computation.purpose,
            output=released_hash(reply),
        )
        held = submission.checkpoints
        return replace(reply, receipt=self.log.receipt(index, analyst=self.analyst, held=held))

    def trail(self, submission: Submission) -> tuple[Receipt, ...]:
        held = submission.checkpoints
        count = len(self.log.events)
        return tuple(
            self.log.receipt(index, analyst=self.analyst, held=held if index == count - 1 else ())
            for index in range(count)
        )

    def state_of(self, request: str) -> RequestState:
        if request not in self.in_review:
            return RequestState(request=request, state="unknown")
        return RequestState(
            request=request,
            state=self.review,
            since="2026-11-23T09:30:00+00:00",
            deciders="0 of 2 approvals; alice@clinic.example, bob@clinic.example",
            until="2026-12-07T09:30:00+00:00",
        )

    def asked(self, access) -> ConsentEntry:
        entry = ConsentEntry(
            table=access.table,
            purpose=access.purpose,
            state="pending",
            since="2026-11-23T09:30:00+00:00",
            reason=access.reason,
        )
        self.consents = (*self.consents, entry)
        return entry

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

    def price(self, epsilon: str) -> dict[str, object]:
        estimate = self.estimate(epsilon)
        said = f"This costs epsilon {epsilon}, but at most epsilon {self.left:g} more fits."
        refusal = Problem(code="E_BUDGET", message=said, hint="Ask for less.")
        return {"estimate": estimate, "refusal": None if estimate.affordable else refusal}

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


def approved_label(**changes) -> PrivacyLabel:
    values = {
        "mechanism": "none: exact output",
        "epsilon": "0",
        "delta": "0",
        "unit": "nobody by noise; people looked at the output",
        "budget": "",
        "not_protected": ("whatever the output says about single people",),
        "route": "approval",
        "approved_by": ("code: alice@clinic.example", "output: bob@clinic.example"),
        "sandbox": "level 3: own process, no network, no other files",
        "population": "people who consent to utilisation-research",
    }
    return PrivacyLabel(**values | changes)


@dataclass
class FakeDatasite(AnalystEnd):
    """The analyst's port to three sites that answer after their delay."""

    by_name: dict[str, FakeSite]
    submitted: list[tuple[str, Submission]] = field(default_factory=list)
    waiting: list[tuple[float, str, str, Reply]] = field(default_factory=list)
    fingerprint: str = "SHA256:ana0 ana1 ana2 ana3"

    @property
    def runs(self) -> list[Submission]:
        """What was asked to run, oldest first."""
        return [submission for _, submission in self.submitted if submission.action == "run"]

    def asked(self, action: str) -> list[tuple[str, Submission]]:
        """Which sites were asked for this, oldest first."""
        return [each for each in self.submitted if each[1].action == action]

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
        free = submission.action in ("describe", "status")
        due = time.monotonic() + (0 if free else site.delay)
        reply = site.answer(submission)
        if reply is not None:
            self.waiting.append((due, owner, name, reply))

    def decide(self, name, problem=None):
        """Let the people of a site release what waits there, or refuse it."""
        site = self.by_name[name]
        held, site.in_review, site.review = site.in_review, {}, ""
        before, site.problem = site.problem, problem
        for request, submission in held.items():
            self.waiting.append((0, site.owner, request, site.answer(submission)))
        site.problem = before

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
