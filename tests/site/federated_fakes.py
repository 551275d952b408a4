"""Three sites that know each other, and one analyst's hands; the exchange between them in memory.

The planner, the noise and the secure aggregation are the real ones; data and sandbox are fakes.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time

import numpy as np
import sqlalchemy as sa
from approval_fakes import FakeBox, PythonSite
from fake_channel import FakeChannel
from site_fakes import ANA, PURPOSE, SCHEMA

from privnb import wire
from privnb.audit import VerifierKey, origin_of
from privnb.computation import Computation, Federation
from privnb.dp.planner import plan
from privnb.dp.sharing import form as form_of
from privnb.federated import ring
from privnb.federated.aggregator import Aggregator
from privnb.federated.messages import (
    ArrayForm,
    Ask,
    Told,
    Work,
    bound_text,
    pack,
    unpack,
    work_digest,
)
from privnb.messages import SOURCE_FILES, SUBMISSION_FILE, Submission
from privnb.site import database as tables
from privnb.site.audit import AuditLog
from privnb.site.federated.config import FederatedConfig
from privnb.site.python_engine import PythonEngine
from privnb.site.sandbox import Failed
from privnb.site.sandbox.steps import Trained

NAMES = ("northside", "riverside", "lakeside")
COUNT = "SELECT COUNT(*) AS n FROM visits"
APP = "app = ClientApp()"


class FakeTrainer:
    """Trains by adding the site's number to every parameter; fails as its source says."""

    def __init__(self, box, cell) -> None:
        self.box = box
        self.cell = cell
        self.closed = False

    def step(self, work, arrays):
        config = work.config or {}
        real = self.cell.tables["visits"].num_rows > 10
        (self.box.steps if real else self.box.twin_steps).append((work.kind, work.round))
        (self.box.held_go if config.get("held") else self.box.let_go).wait(30)
        if self.closed:
            return Failed(reason="lock")
        fault = config.get("fail" if real else "fail on twin")
        if fault:
            if fault == "raise":
                return Failed(reason="error", error="KeyError", line=3)
            if fault == "crash":
                raise ZeroDivisionError("a bug in the sandbox")
            return Failed(reason="output", fault=fault)
        step = self.box.number if real else 0
        forms = [dataclasses.replace(each, dtype="float64") for each in work.arrays]
        arrays = [np.asarray(each, np.float64) + step for each in arrays]
        trained = tuple(zip(forms, arrays, strict=True)) if work.kind == "train" else ()
        metric = config.get("metric", "loss")
        if real:
            metric = config.get("metric on rows", metric)
        metrics = {metric: step / 2} if metric else {}
        weight = float(10 * step + 1)
        return Trained(arrays=trained, metrics=metrics, weight=weight, seconds=0.0)

    def close(self) -> None:
        self.closed = True


class TrainingBox(FakeBox):
    """A box whose trainers belong to one site, whose number is known."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.steps: list[tuple[str, int]] = []
        """What was done on rows; what was done on mock twins is apart."""
        self.twin_steps: list[tuple[str, int]] = []
        self.trainers: list[FakeTrainer] = []
        """Those that have rows."""
        self.let_go.set()
        self.held_go = threading.Event()
        """Lets the steps go whose work says that they are held, as `let_go` does all others."""

    def train(self, cell):
        trainer = FakeTrainer(self, cell)
        if cell.tables["visits"].num_rows > 10:
            self.trainers.append(trainer)
        return trainer

    def close(self) -> None:
        self.let_go.set()
        self.held_go.set()


class FederatedSite(PythonSite):
    """One of the sites; its data is one count and one number that it trains with."""

    def __init__(  # noqa: PLR0913 - keywords, what a site is
        self, directory, *, name, number, channel, partners, schema=SCHEMA, **kwargs
    ) -> None:
        self.schema = schema
        self.name = name
        self.number = number
        self.channel = channel
        self.partners = partners
        self.federated = {"min_sites": 3}
        self.training_box = TrainingBox(number)
        super().__init__(directory, **kwargs)
        self.tables.count = 1000 * number

    @property
    def key(self) -> str:
        return self._audit().verifier_key

    def _audit(self) -> AuditLog:
        origin = origin_of(self.name, f"owner@{self.name}.example")
        return AuditLog.open(self.directory / "state", origin=origin)

    def new_agent(self, **kwargs):
        vars(self.config).update(
            name=self.name,
            owner=f"owner@{self.name}.example",
            federated=self.federated
            and FederatedConfig(partners=self.partners(self), **self.federated),
        )
        self.config.tables[0].schema = self.schema
        self.port.email = self.config.owner
        self.port.channel = self.channel
        vars(self.config).update(self.settings)
        python = PythonEngine(self.config, data=self.data, box=self.training_box, trains=True)
        options = {"python": python, "planner": plan, "audit": self._audit()} | kwargs
        agent = super().new_agent(**options)
        # Sites are stepped by hand here: every step looks at every channel.
        agent._answering.federating.asks.pace = (0.0, 0.0)
        return agent

    def settings_of(self, **federated) -> None:
        """Let the owner change [federated], and restart the agent."""
        self.federated = self.federated | federated
        self.restart()

    @property
    def federating(self):
        return self.agent._answering.federating

    def finish_parts(self) -> None:
        """Wait until the parts that are being computed are there."""
        self.federating.asks.wait(seconds=20)

    def step(self) -> None:
        self.look()
        self.agent.step()

    def told(self, run, name):
        """What the site told under a name, and the bytes behind it; it is then gone."""
        data = self.channel.answers.pop((self.port.email, ANA, run, name), None)
        return (None, b"") if data is None else unpack(Told, data, what="an answer")

    def ask_step(self, run, ask: Ask, blob=b"") -> None:
        name = f"{ask.attempt:06d}-{ask.step}"
        self.channel.asks[self.port.email, ANA, run, name] = pack(ask, blob)


class Sites:
    """Three sites, and what an analyst does with them."""

    def __init__(self, directory, *, names=NAMES, **kwargs) -> None:
        self.channel = FakeChannel()
        self.all: list[FederatedSite] = []
        keys = {}
        for name in names:
            folder = directory / name / "state"
            origin = origin_of(name, f"owner@{name}.example")
            keys[name] = VerifierKey.parse(AuditLog.open(folder, origin=origin).verifier_key)

        def partners(site):
            return tuple(key for name, key in keys.items() if name != site.name)

        for number, name in enumerate(names, 1):
            self.all.append(
                FederatedSite(
                    directory / name,
                    name=name,
                    number=number,
                    channel=self.channel,
                    partners=partners,
                    **kwargs,
                )
            )
        self.keys = tuple(sorted(map(str, keys.values())))
        self.by_key = {site.key: site for site in self.all}

    def federation(self, **changes) -> Federation:
        return Federation(**({"sites": self.keys, "threshold": 2} | changes))

    def totals(self, sql=COUNT, *, epsilon="1", purpose=PURPOSE, federation=None) -> Computation:
        return Computation(
            kind="sql",
            source=sql,
            epsilon=epsilon,
            purpose=purpose,
            federation=federation or self.federation(),
        )

    def training(self, source=APP, *, rounds=3, federation=None, **fields) -> Computation:
        said = {"tables": ("visits",), "purpose": PURPOSE} | fields
        return Computation(
            kind="python",
            source=source,
            federation=federation or self.federation(rounds=rounds),
            **said,
        )

    def submit(self, computation, *, action="run", to=None, name="", sender=ANA) -> str:
        name = name or secrets.token_hex(16)
        submission = Submission(request=name, action=action, computation=computation)
        files = {
            SUBMISSION_FILE: wire.encode(submission),
            SOURCE_FILES[computation.kind]: computation.source.encode(),
        }
        for site in to or self.all:
            site.port.submit(sender, name, files)
        self.step(to)
        return name

    def step(self, sites=None) -> None:
        for site in sites or self.all:
            site.step()

    def approve(self, name) -> None:
        """Have every site's reviewers approve the code, and the agents take it up."""
        for site in self.all:
            site.decide(name)
        self.step()
        self.step()

    def close(self) -> None:
        for site in self.all:
            site.agent.close()


def events(site, kind):
    """The events of one kind in a site's log."""
    with site.database.read() as snapshot:
        bodies = snapshot.execute(sa.select(tables.events.c.body)).scalars()
        return [event for event in map(json.loads, bodies) if event["kind"] == kind]


def end(sites: Sites, run, attempt, *, finished=True) -> None:
    """Tell all sites that the run is over."""
    for site in sites.all:
        site.ask_step(run, Ask(step="end", attempt=attempt, finished=finished))
    sites.step()


def planned(computation: Computation):
    """The plan of totals, as the analyst makes it."""
    return plan(
        computation.source,
        tables={"visits": SCHEMA},
        epsilon=computation.epsilon or 1,
        federation=computation.federation,
    )


def bound_of(computation: Computation, *, form=None) -> str:
    """What keys are bound to, as the analyst computes it; twins have no purpose, data has one."""
    if form is None:
        form = "" if computation.kind == "python" else form_of(planned(computation))
    action = "run" if computation.purpose else "mock"
    return bound_text(computation.digest, action=action, analyst=ANA, form=form)


class Attempt:
    """One secure aggregation, driven by hand: any step can be left out or changed."""

    def __init__(  # noqa: PLR0913 - keywords, what may be otherwise
        self, sites: Sites, run, computation, *, number=1, among=None, bound=None
    ) -> None:
        self.sites = sites
        self.run = run
        self.computation = computation
        self.number = number
        self.among = list(among or sites.all)
        self.aggregator = Aggregator(
            run=run,
            computation=bound or bound_of(computation),
            attempt=number,
            federation=computation.federation,
            min_sites=min(3, len(self.among)),
        )
        self.shares: dict[str, dict[str, str]] = {}
        self.problems: dict[str, str] = {}
        self.words: dict[str, str] = {}

    def ask(self, asks, *, blob=b"", seconds=20.0):
        """Send asks, by site; return what was told, by site, without those with a problem."""
        for site, ask in asks.items():
            site.ask_step(self.run, ask, blob)
        good, waiting = {}, dict(asks)
        end = time.monotonic() + seconds
        while waiting and time.monotonic() < end:
            for site, ask in list(waiting.items()):
                site.step()
                told, data = site.told(self.run, f"{ask.attempt:06d}-{ask.step}")
                if told is None:
                    continue
                del waiting[site]
                if told.problem is not None:
                    self.problems[site.name] = told.problem.code
                    self.words[site.name] = told.problem.message
                else:
                    good[site] = (told, data)
        assert not waiting, f"silent: {[site.name for site in waiting]}"
        return good

    def keys(self):
        """Advertise and share, as far as needed; return this attempt."""
        told = self.ask({s: Ask(step="advertise", attempt=self.number) for s in self.among})
        for site, (each, _) in told.items():
            self.aggregator.advertised(site.key, each.advert)
        adverts = self.aggregator.close_adverts()
        ask = Ask(step="share", attempt=self.number, adverts=adverts)
        for site, (each, _) in self.ask(dict.fromkeys(self.among, ask)).items():
            self.aggregator.shared(site.key, each.shares)
        self.shares = self.aggregator.close_shares()
        return self

    def contribute(self, work, arrays=(), *, to=None, following=None):
        """Ask for the parts; return what was told, by site."""
        blob = b"".join(np.asarray(each, "<f8").tobytes() for each in arrays)
        asks = {
            site: Ask(
                step="contribute",
                attempt=self.number,
                shares=self.shares[site.key],
                work=work,
                following=following,
            )
            for site in to or self.among
        }
        told = self.ask(asks, blob=blob)
        for site, (each, vector) in told.items():
            self.aggregator.masked(
                site.key,
                vector,
                length=len(vector) // 8,
                work=work_digest(work, blob),
                confirmed=each.confirmed,
            )
        return told

    def open(self, *, to=None):
        """Have the sum opened, and return it."""
        survivors = self.aggregator.close_vectors()
        sites = to or [self.sites.by_key[key] for key in survivors]
        agreed = None
        if self.aggregator.needs_agreement:
            ask = Ask(step="agree", attempt=self.number, survivors=survivors)
            for site, (each, _) in self.ask(dict.fromkeys(sites, ask)).items():
                self.aggregator.agreed(site.key, each.agreed)
            agreed = self.aggregator.agreement
        ask = Ask(step="reveal", attempt=self.number, survivors=survivors, agreed=agreed)
        for site, (each, _) in self.ask(dict.fromkeys(sites, ask)).items():
            self.aggregator.revealed(site.key, each.reveal)
        return self.aggregator.total()


TOTALS = Work(kind="totals", round=1)


def train_work(round_=1, *, kind="train", size=2, config=None) -> Work:
    arrays = (ArrayForm(name="w", dtype="float64", shape=(size,)),)
    return Work(kind=kind, round=round_, arrays=arrays, config=config)


def mean_of(total, size=2):
    """Weights, loss and summed weight of a training's sum."""
    values = ring.decode(total)
    return values[:size] / values[-1], values[size] / values[-1], values[-1]
