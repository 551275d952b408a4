"""Sites of a federated run in threads of this process, and the channel to them: no files.

Each keeps to the rules as a real site does. What goes wrong is scripted by `SimulatedSite.on`.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import defaultdict

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privnb import audit
from privnb.computation import Federation
from privnb.errors import ExchangeUnavailable, PrivnbError, RosterRefused
from privnb.federated import ring
from privnb.federated.asking import Pace, Party, join_name
from privnb.federated.conductor import Conductor
from privnb.federated.member import Member
from privnb.federated.messages import Ask, Form, Told, Work, pack, unpack, work_digest
from privnb.federated.progress import Board
from privnb.federated.vectors import forms_of
from privnb.messages import Problem

RUN = "ab" * 16
BOUND = "digest"
NAMES = ("northside", "riverside", "lakeside", "hillside", "seaside")
QUICK = Pace(deadline=20.0, quick=0.5, grace=0.1, late=0.3, silent=5.0, settle=0.1)


class Wires:
    """What the analyst's port does with rounds; an ask goes straight to its site's thread."""

    def __init__(self):
        self.sites = {}
        self.answers = {}
        self.gone = False
        self.heard = []

    def enrol(self, site):
        self.sites[site.owner] = site

    def tell(self, owner, run, name, data):
        if self.gone:
            raise ExchangeUnavailable("The exchange is gone.")
        self.sites[owner].inbox.put((name, bytes(data)))

    def hear(self, owner, run, name):
        if self.gone:
            raise ExchangeUnavailable("The exchange is gone.")
        data = self.answers.pop((owner, name), None)
        if data is not None:
            self.heard.append((owner, name, data))
        return data

    def forget_run(self, owner, run):
        for key in [key for key in self.answers if key[0] == owner]:
            self.answers.pop(key, None)


class SimulatedSite:
    """A site whose part is computed by ``work``: a function of `Work` and arrays.

    ``on`` maps a step to what happens instead: a function of the site, the ask and what it would
    have told, returning what is told; None for nothing.
    """

    def __init__(self, name, work, *, wires, federation=None, min_sites=3):
        self.name = name
        self.owner = f"owner@{name}.example"
        self.key = Ed25519PrivateKey.generate()
        self.min_sites = min_sites
        self.work = work
        self.on = {}
        self.inbox = queue.Queue()
        self.wires = wires
        self.federation = federation
        self.members = {}
        self.works = {}
        self.summed = {}
        self.ended = None
        self.asked = []
        self.dead = False
        self.run, self.bound = RUN, BOUND
        wires.enrol(self)

    @property
    def verifier_key(self):
        public = self.key.public_key().public_bytes_raw()
        return str(audit.VerifierKey(name=audit.origin_of(self.name, self.owner), public=public))

    @property
    def party(self):
        return Party(name=self.name, owner=self.owner, key=self.verifier_key)

    def start(self):
        self.join()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def stop(self):
        self.inbox.put(None)
        self.thread.join(10)

    def join(self):
        self.put(join_name(), Told(step="join", attempt=0))

    def restart(self):
        """Lose all keys, as an agent does that was killed, and join again."""
        self.members.clear()
        self.dead = False
        self.join()

    def put(self, name, told, blob=b""):
        self.wires.answers[self.owner, name] = pack(told, blob)

    def serve(self):
        while (came := self.inbox.get()) is not None:
            name, data = came
            if not self.dead:
                self.take(name, data)

    def take(self, name, data):
        ask, blob = unpack(Ask, data, what="an ask")
        self.asked.append(ask)
        try:
            told, vector = self.told(ask, blob)
        except PrivnbError as error:
            problem = Problem(code=error.code, message=error.message, hint=error.hint)
            only = getattr(error, "only", ())
            told = Told(step=ask.step, attempt=ask.attempt, problem=problem, only=only)
            vector = b""
        instead = self.on.get(ask.step)
        if instead is not None:
            changed = instead(self, ask, told, vector)
            if changed is None:
                return
            told, vector = changed
        if told is not None and not self.dead:
            self.put(name, told, vector)

    def told(self, ask, blob):
        told = Told(step=ask.step, attempt=ask.attempt)
        if ask.step == "end":
            self.ended = ask.finished
            return None, b""
        if ask.step == "advertise":
            return dataclasses.replace(told, advert=self.new_member(ask.attempt).advertise()), b""
        member = self.members.get(ask.attempt)
        if member is None:
            raise PrivnbError("The keys are gone.", code="E_RESTARTED")
        if ask.step == "share":
            return dataclasses.replace(told, shares=member.share(ask.adverts)), b""
        if ask.step == "contribute":
            digest = work_digest(ask.work, blob)
            given = self.input_of(digest, ask.work, blob)
            roster = {self.verifier_key, *(ask.shares or {})}
            if not self.summed.get(given, roster) <= roster:
                raise self.summed_before(given)
            vector, form = self.work(ask.work, arrays_of(ask.work, blob))
            self.works[ask.attempt] = given
            masked, confirmed = member.mask(vector, ask.shares or {}, work=digest)
            advert = self.new_member(ask.following).advertise() if ask.following else None
            told = dataclasses.replace(told, form=form, confirmed=confirmed, advert=advert)
            return told, masked.astype("<u8").tobytes()
        given = self.works[ask.attempt]
        if self.summed.setdefault(given, set(ask.survivors)) != set(ask.survivors):
            raise self.summed_before(given)
        if ask.step == "agree":
            return dataclasses.replace(told, agreed=member.agree(ask.survivors)), b""
        reveal = member.reveal(ask.survivors, ask.agreed)
        shares = None
        if ask.adverts:
            following = next(m for a, m in self.members.items() if a > ask.attempt)
            shares = following.share(ask.adverts)
        self.members.pop(ask.attempt)
        return dataclasses.replace(told, reveal=reveal, shares=shares), b""

    def input_of(self, digest, work, blob):
        """What is summed over one set of sites only."""
        return digest

    def summed_before(self, given):
        return RosterRefused("It was summed over others.", only=tuple(sorted(self.summed[given])))

    def new_member(self, attempt):
        self.members = {a: m for a, m in self.members.items() if a >= attempt - 2}
        self.members[attempt] = Member(
            run=self.run,
            computation=self.bound,
            attempt=attempt,
            me=self.verifier_key,
            federation=self.federation,
            sign=self.key.sign,
            min_sites=self.min_sites,
        )
        return self.members[attempt]


def arrays_of(work: Work, blob):
    arrays, start = [], 0
    for form in work.arrays:
        count = int(np.prod(form.shape, dtype=int))
        dtype = np.dtype(form.dtype).newbyteorder("<")
        arrays.append(np.frombuffer(blob, dtype, count, start).reshape(form.shape))
        start += count * dtype.itemsize
    return arrays


def vector_of(arrays, metrics, weight, *, parties, names=None):
    """What a site gives for training: every number times its weight, then the weight."""
    named = dict(zip(names or map(str, range(len(arrays))), arrays, strict=True))
    numbers = [np.ravel(array) * weight for array in arrays]
    numbers += [np.array([value * weight for _, value in sorted(metrics.items())]), [weight]]
    form = Form(arrays=forms_of(named), metrics=tuple(sorted(metrics)))
    return ring.encode(np.concatenate(numbers), parties=parties), form


def constant(value):
    """A site that gives this one integer."""
    return lambda work, arrays: (ring.from_integers([value]), None)


class Memory:
    """What a run remembers, in memory."""

    def __init__(self):
        self.attempts = 0
        self.names = set()
        self.open = {}

    def next_attempt(self):
        self.attempts += 1
        return self.attempts

    def joined(self):
        return frozenset(self.names)

    def note_joined(self, site):
        self.names.add(site)

    def opening(self, work):
        return self.open.get(work, frozenset())

    def note_opening(self, work, survivors):
        self.open[work] = frozenset(survivors)


class Troupe:
    """Some sites, started, and a conductor for them."""

    def __init__(  # noqa: PLR0913
        self, works, *, threshold=None, colluding=0, rounds=5, min_sites=3, pace=QUICK
    ):
        self.wires = Wires()
        names = [*NAMES, *(f"site{number}" for number in range(len(works)))][: len(works)]
        self.sites = [
            SimulatedSite(name, work, wires=self.wires, min_sites=min_sites)
            for name, work in zip(names, works, strict=True)
        ]
        self.federation = Federation(
            sites=tuple(sorted(site.verifier_key for site in self.sites)),
            threshold=threshold or len(works) // 2 + 1,
            colluding=colluding,
            rounds=rounds,
        )
        self.min_sites = min_sites
        self.pace = pace
        self.replies = defaultdict(dict)
        self.memory = Memory()
        self.board = Board(names, rounds=rounds)
        self.said = {}
        self.stopping = threading.Event()
        for site in self.sites:
            site.federation = self.federation
            site.start()
        self.conductor = self.new_conductor()

    def new_conductor(self):
        return Conductor(
            run=RUN,
            bound=BOUND,
            federation=self.federation,
            parties=[site.party for site in self.sites],
            channel=self.wires,
            min_sites=self.min_sites,
            memory=self.memory,
            board=self.board,
            replies=lambda: dict(self.said),
            stop=self.stopping,
            pace=self.pace,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.conductor.close()
        for site in self.sites:
            site.stop()

    def site(self, name):
        return next(site for site in self.sites if site.name == name)

    def gather(self):
        self.conductor.gather(people_decide=False, says=dict)
