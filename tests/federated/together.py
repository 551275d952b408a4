"""An exchange whose sites compute together in this process: real session, sums and logs."""

from __future__ import annotations

import dataclasses
import sys
import threading
from pathlib import Path

import pandas as pd
from in_process import SimulatedSite, Wires, vector_of

sys.path.insert(0, str(Path(__file__).parent.parent / "magics"))

from fake_log import FakeLog

from privnb import audit, wire
from privnb.computation import parse_epsilon
from privnb.datasite.ports import ArrivedReply, SiteCard
from privnb.dp.planner import plan as planned
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.dp.sharing import form as form_of
from privnb.errors import PrivnbError
from privnb.federated import ring
from privnb.federated.messages import bound_text
from privnb.messages import (
    REPLY_FILE,
    SUBMISSION_FILE,
    Budget,
    FederatedOffer,
    Participation,
    Problem,
    PythonOffer,
    Reply,
    RequestState,
    SiteDescription,
    Submission,
    released_hash,
)
from privnb.release import Estimate, EstimateLine, PrivacyLabel
from privnb.session import Session
from privnb.store import Store

ANA = "ana@uni.example"
PURPOSE = "utilisation-research"
PLANS = ("free care", "cost sharing")
VISITS = TableSchema(
    name="visits",
    columns=(
        Column(name="zper", type="integer", nullable=False),
        Column(name="plan_type", type="string", nullable=False, values=PLANS),
        Column(name="mdvis", type="integer", nullable=False, bounds=Bounds(lower=0.0, upper=30.0)),
    ),
    privacy_unit="zper",
    max_rows_per_unit=5,
    delta=1e-6,
    purposes=(PURPOSE,),
)
PYTHON = PythonOffer(
    packages=("numpy",),
    seconds=60,
    max_rows=200,
    max_bytes=200_000,
    min_units=10,
    review="1 of 2 reviewers",
    sandbox="level 3",
)


class TogetherSite(SimulatedSite):
    """A site that joins what it is asked for, and proves its part at the end."""

    def __init__(self, name, datasite, *, tables=None, schema=VISITS):
        self.log = FakeLog(audit.origin_of(name, f"owner@{name}.example"))
        super().__init__(name, None, wires=datasite)
        self.key = self.log.key
        self.schema = schema
        self.tables = tables or {}
        self.outbox = {}
        self.state = "accepted"
        self.problem = None
        """What it answers instead of taking part."""
        self.refusal, self.left = None, "4"
        """What it says beforehand that it would answer, and of the grant that would pay."""
        self.deciding = False
        self.python = PYTHON
        self.partners = ()
        self.offer = {}
        self.exact = {}
        self.proves = True
        self.submission = None
        self.submissions = []
        self.held = {}
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def description(self):
        offer = FederatedOffer(
            partners=tuple(self.partners),
            min_sites=3,
            min_summed=2,
            colluding=0,
            idle_minutes=60,
            training="1 of 2 reviewers approve of the code" if self.python else "",
            models=("linear", "logistic", "poisson"),
        )
        return SiteDescription(
            name=self.name,
            owner=self.owner,
            tables=(self.schema,),
            budgets=(),
            audit_key=self.verifier_key,
            python=self.python,
            federated=None if self.offer is None else dataclasses.replace(offer, **self.offer),
        )

    def take_job(self, request, files):
        submission = wire.decode(Submission, files[SUBMISSION_FILE], what="it")
        self.submissions.append(submission)
        computation = submission.computation
        digest = computation.digest if computation else None
        reply = Reply(request=request, digest=digest)
        if submission.action == "describe":
            self.reply(request, dataclasses.replace(reply, description=self.description()))
        elif self.problem is not None and submission.action != "estimate":
            self.reply(request, dataclasses.replace(reply, problem=self.problem))
        elif submission.action == "estimate":
            refused = self.refusal is not None
            line = EstimateLine(name="n", half_width=1.0)
            estimate = Estimate(
                table="visits",
                epsilon="1",
                delta="1e-06",
                lines=(line,),
                mechanism="",
                affordable=not refused,
            )
            budget = Budget(
                table="visits",
                purpose=PURPOSE,
                epsilon_granted="4",
                epsilon_spent="0",
                epsilon_left=self.left,
                until=None,
            )
            reply = dataclasses.replace(reply, estimate=estimate, budget=budget)
            self.reply(request, dataclasses.replace(reply, refusal=self.refusal))
        elif submission.action == "status":
            states = tuple(
                RequestState(request=r, state="waiting for review" if self.deciding else "joined")
                for r in submission.requests
            )
            self.reply(request, dataclasses.replace(reply, states=states))
        elif self.deciding:
            self.held[request] = submission
        else:
            self.take_part(submission)

    def decide(self, problem=None):
        """Let the people of the site approve of what waits, or refuse it."""
        self.deciding = False
        for submission in self.held.values():
            if problem is None:
                self.take_part(submission)
            else:
                digest = submission.computation.digest
                self.reply(
                    submission.request,
                    Reply(request=submission.request, digest=digest, problem=problem),
                )
        self.held.clear()

    def take_part(self, submission):
        self.submission = submission
        computation = submission.computation
        self.federation = computation.federation
        self.run = submission.request
        form = ""
        if computation.kind == "sql":
            plan = planned(
                computation.source,
                tables={self.schema.name: self.schema},
                parameters=computation.parameters,
                epsilon=parse_epsilon(computation.epsilon),
                federation=self.federation,
            )
            form = form_of(plan)
            pieces = self.federation.pieces
            self.work = self.drawn_once(
                lambda work, arrays: plan.share(self.exact["rows"], pieces=pieces)
            )
        elif computation.kind == "python":
            self.work = self.trainer(computation)
        else:
            self.work, form = self.model(computation)
        self.bound = bound_text(
            computation.digest, action=submission.action, analyst=ANA, form=form
        )
        self.join()

    def drawn_once(self, draw):
        """Give the same noisy integers whenever a round is asked for, and to one input only."""
        self.drawn = {}

        def work(asked, arrays):
            given = b"".join(array.tobytes() for array in arrays)
            if asked.round not in self.drawn:
                self.drawn[asked.round] = given, draw(asked, arrays)
            before, vector = self.drawn[asked.round]
            if given != before:
                raise PrivnbError("It gave its part before.", code="E_SPENT_ROUND")
            return ring.from_integers(vector), None

        return work

    def input_of(self, digest, work, blob):
        computation = self.submission.computation
        if computation.kind == "python" and self.submission.action == "run":
            return computation.digest, work.kind, bytes(blob)  # whichever run it is
        return self.run, digest

    def trainer(self, computation):
        from privnb.federated.client import Client

        space = {"np": __import__("numpy"), "pd": pd, **(computation.parameters or {})}
        exec(compile(computation.source, "<cell>", "exec"), space)  # noqa: S102 - as a site does
        client = Client(space["app"], tables=self.tables, parameters=computation.parameters or {})

        def work(asked, arrays):
            said = client.step(asked, arrays)
            names = [form.name for form in asked.arrays] if asked.kind == "train" else []
            return vector_of(
                said.arrays,
                said.metrics,
                said.weight,
                parties=len(self.federation.sites),
                names=names,
            )

        return work

    def model(self, computation):
        from privnb.dp.training import ModelSpec, plan_training

        plan = plan_training(
            ModelSpec.read(computation.source),
            schema=self.schema,
            epsilon=parse_epsilon(computation.epsilon),
            federation=self.federation,
        )
        data = plan.prepare(self.exact["rows"])

        def gradient(asked, arrays):
            return plan.gradient(data, arrays[0], round=asked.round)

        return self.drawn_once(gradient), plan.form

    def told(self, ask, blob):
        told = super().told(ask, blob)
        if ask.step == "end" and self.proves and self.submission is not None:
            self.finish(ask.finished)
        return told

    def finish(self, finished):
        submission, computation = self.submission, self.submission.computation
        contributed = [ask for ask in self.asked if ask.step == "contribute"]
        python = computation.kind == "python"
        label = PrivacyLabel(
            mechanism="none: exact sums" if python else "discrete Gaussian",
            epsilon="none" if python else computation.epsilon,
            delta="none" if python else "1e-06",
            unit="one person",
            budget="",
            mock=submission.action == "mock",
            route="approval" if python else "noise",
            approved_by=("code: alice@clinic.example",) if python else (),
        )
        part = Participation(
            rounds=len({ask.work.round for ask in contributed}),
            contributions=len(contributed),
            sites=self.federation.sites,
        )
        reply = Reply(
            request=submission.request,
            digest=computation.digest,
            part=part,
            label=label,
            salt="00" * 32,
        )
        if submission.action == "run":
            index = self.log.add(
                "release",
                ANA,
                request=reply.request,
                digest=reply.digest,
                purpose=computation.purpose,
                epsilon=label.epsilon,
                output=released_hash(reply),
            )
            receipt = self.log.receipt(index, analyst=ANA, held=submission.checkpoints)
            reply = dataclasses.replace(reply, receipt=receipt)
        self.reply(submission.request, reply)

    def reply(self, request, reply):
        self.outbox[request] = {REPLY_FILE: wire.encode(reply)}


class TogetherDatasite(Wires):
    """An AnalystPort whose sites are in this process."""

    fingerprint = "0123 4567"

    def __init__(self):
        self.by_owner = {}
        self.answers = {}
        self.gone = False
        self.heard = []

    def enrol(self, site):
        self.by_owner[site.owner] = site

    @property
    def by_name(self):
        return {site.name: site for site in self.by_owner.values()}

    def tell(self, owner, run, name, data):
        self.by_owner[owner].inbox.put((name, bytes(data)))

    def sites(self):
        return [
            SiteCard(name=s.name, owner=s.owner, last_seen=None, fingerprint="ab", state=s.state)
            for s in self.by_owner.values()
        ]

    def ask(self, owner, *, fingerprint=None):
        pass

    def submit(self, owner, name, files):
        self.by_owner[owner].take_job(name, files)

    def poll(self, owner):
        outbox = dict(self.by_owner[owner].outbox)
        return [ArrivedReply(owner=owner, name=n, files=f) for n, f in outbox.items()]

    def retire(self, owner, name):
        self.by_owner[owner].outbox.pop(name, None)


def open_exchange(home, *, names=("northside", "riverside", "lakeside"), **options):
    """Open a session with sites that are each other's partners."""
    datasite = TogetherDatasite()
    sites = [TogetherSite(name, datasite, **options) for name in names]
    for site in sites:
        site.partners = [s.verifier_key for s in sites if s is not site]
    return new_kernel(datasite, home), datasite


def new_kernel(datasite, home):
    return Session(email=ANA, exchange="x", datasite=datasite, store=Store(Path(home)))


REFUSED = Problem(code="E_BUDGET", message="Too much.", hint="Ask for less.")
