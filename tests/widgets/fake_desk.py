"""A fake desk and a fake session, for tests of widgets; kernels of the browser tests import it too.

So it needs nothing of pytest.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import struct
import zlib
from dataclasses import replace

from privnb.errors import RequestRefused, UnknownName
from privnb.messages import ConsentEntry, SiteDescription
from privnb.output import Output, OutputColumn
from privnb.review_item import ReviewItem
from privnb.standing import Standing

ALICE, BOB, CAROL = (f"{name}@hospital.example" for name in ("alice", "bob", "carol"))
ANA = "ana@uni.example"
HOSTILE = '<img src=x onerror="window.hacked = 1">\u202egnp.exe\u200b'
CELL = '''\
import statsmodels.api as sm

# one row per person and year
exog = sm.add_constant(visits[["xage", "disea"]])
model = sm.GLM(visits.mdvis, exog, family=sm.families.Poisson()).fit()


@memo
def rate(frame, lowest=18):
    """Visits per person-year from an age on."""
    return eval("frame.mdvis.mean()") if lowest > 0 else None


model.summary2().tables[1]
'''
DIFFERENCE = """\
--- earlier
+++ this one
@@ -3,3 +3,3 @@
 import statsmodels.api as sm
 # one row per person and year
-exog = sm.add_constant(visits[["xage"]])
+exog = sm.add_constant(visits[["xage", "disea"]])
 model = sm.GLM(visits.mdvis, exog, family=sm.families.Poisson()).fit()
@@ what goes with the code @@
-parameter lowest_age: 21
+parameter lowest_age: 18
"""


def table(*, mock: bool) -> Output:
    shift = 0.1 if mock else 0.0
    return Output(
        kind="frame",
        columns=(
            OutputColumn(name="index", type="string", role="index"),
            OutputColumn(name="Coef.", type="float", role="value"),
            OutputColumn(name="Std.Err.", type="float", role="value"),
            OutputColumn(name="n", type="integer", role="value"),
        ),
        rows=(
            ("const", 0.7036183021 + shift, 0.0130271, 5908),
            ("xage", 0.0041728403 + shift, 0.0003911, 5908),
            ("disea", 0.0317629744 + shift, 0.0005821, None),
        ),
    )


def figure(width=480, height=300) -> Output:
    """Bars, as matplotlib would draw them, without the seconds that takes to import."""
    rows = []
    for y in range(height):
        row = b"\0"
        for x in range(width):
            bar, within = divmod(x - 40, 70)
            tall = within < 46 and 0 <= bar < 6 and height - 30 > y > height - 30 - 38 * (bar + 1)
            axis = x == 39 or y == height - 30
            row += bytes((25, 118, 210) if tall else (90, 90, 90) if axis else (255, 255, 255))
        rows.append(row)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return Output(kind="figure", png=base64.b64encode(png).decode())


def ago(**time) -> str:
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(**time)
    return moment.isoformat(timespec="seconds")


def review_item(number=1, **changes) -> ReviewItem:
    """One request with everything there is to see of it."""
    request = hashlib.sha256(f"request {number}".encode()).hexdigest()[:32]
    values = {
        "request": request,
        "digest": hashlib.sha256(f"digest {number}".encode()).hexdigest(),
        "analyst": ANA,
        "purpose": "utilisation-research",
        "state": "waiting",
        "stage": "code",
        "since": ago(days=2, hours=3),
        "expires": ago(days=-12),
        "rule": "Python cells over visits wait for review of code and output.",
        "source": CELL,
        "parameters": {"lowest_age": 18, "plans": ["free care", "cost sharing"]},
        "tables": ("visits",),
        "output_name": None,
        "approvals": (BOB,),
        "needed": 2,
        "reviewers": (ALICE, BOB, CAROL),
        "findings": (
            'line 11: runs text as code, which cannot be read here: eval("frame.mdvis.mean()")',
            "line 8: changes what a function does: @memo",
        ),
        "imports": ("statsmodels.api",),
        "columns": ("visits.xage", "visits.disea", "visits.mdvis"),
        "difference": DIFFERENCE,
        "difference_to": "5e6f7a8b" + "0" * 24,
        "mock_output": table(mock=True),
        "budget": "visits: epsilon 0.8 of 4 spent for utilisation-research until 2027-06-30",
        "history": (
            "2026-11-20  5e6f7a8b, Python, utilisation-research: released",
            "2026-11-18  1a2b3c4d, Python, teaching: denied: it names households",
        ),
    }
    return ReviewItem(**values | changes)


def held_item(number=2, **changes) -> ReviewItem:
    """One request whose output is to be released or not."""
    values = {
        "state": "held",
        "stage": "output",
        "since": ago(hours=5),
        "approvals": (),
        "needed": 1,
        "analyst": "ben@institute.example",
        "output": table(mock=False),
        "output_digest": hashlib.sha256(b"output").hexdigest(),
        "gate": ("2 of 3 rows have fewer than 10 people behind them.",),
    }
    return review_item(number, **values | changes)


class FakeDesk:
    """A desk whose requests stand in a list; it notes each decision that reaches it."""

    def __init__(self, *items, reviewer=ALICE):
        self.reviewer = reviewer
        self.requests = {f"{item.analyst}/{item.request}": item for item in items}
        self.decisions = []
        self.error = None

    def items(self):
        if self.error is not None:
            raise self.error
        return tuple(self.requests.values())

    def item(self, prefix):
        if prefix not in self.requests:
            raise UnknownName(f"There is no request {prefix[:8]}.", hint="Look again.")
        return self.requests[prefix]

    def approve(self, prefix, reason, *, seen):
        self._decide("approve", prefix, reason, seen, after="approved")

    def deny(self, prefix, reason, *, seen):
        self._decide("deny", prefix, reason, seen, after="denied")

    def release(self, prefix, reason, *, seen):
        self._decide("release", prefix, reason, seen, after="cleared")

    def withhold(self, prefix, reason, *, seen):
        self._decide("withhold", prefix, reason, seen, after="denied")

    def change(self, item, **changes):
        """Let something happen to a request elsewhere; a new one is added."""
        self.requests[f"{item.analyst}/{item.request}"] = replace(item, **changes)

    def _decide(self, verdict, prefix, reason, seen, *, after):
        if self.error is not None:
            raise self.error
        item = self.requests[prefix]
        assert seen == item.seen
        self.decisions.append((verdict, prefix, reason))
        if verdict in ("approve", "release"):
            item = replace(item, approvals=(*item.approvals, self.reviewer))
            if len(item.approvals) < item.needed:
                self.requests[prefix] = item
                return
        self.requests[prefix] = replace(item, state=after, stage=None, output=None)


class FakeSession:
    """A session of one analyst with three sites: its consents and requests."""

    def __init__(self, consents=(), standings=(), offers=()):
        self.entries = list(consents)
        self.standings = list(standings)
        self.offers = offers
        self.asked = []
        self.error = None

    def _try(self):
        if self.error is not None:
            raise self.error

    def consents(self):
        self._try()
        return tuple(self.entries)

    def states(self):
        self._try()
        return tuple(self.standings)

    def known_descriptions(self):
        return {
            site: SiteDescription(
                name=site,
                owner=f"owner@{site}.example",
                tables=tuple(offered_table(name, purposes) for name, purposes in tables),
                budgets=(),
            )
            for site, tables in self.offers
        }

    def request_access(self, site, table, purpose, reason, epsilon=None):
        self._try()
        self.asked.append((site, table, purpose, reason, epsilon))
        if "sell" in reason:
            raise RequestRefused(f"{site} takes no such request.", hint="Ask for research.")
        entry = ConsentEntry(
            table=table, purpose=purpose, state="pending", since=ago(minutes=0), reason=reason
        )
        self.entries.append((site, entry))
        return entry


def offered_table(name, purposes):
    from privnb.dp.schema import Column, TableSchema

    return TableSchema(
        name=name,
        columns=(Column(name="zper", type="integer", nullable=False),),
        privacy_unit="zper",
        max_rows_per_unit=5,
        unique_keys=(),
        delta=1e-6,
        purposes=purposes,
    )


OFFERS = (
    ("northside", (("visits", ("utilisation-research", "teaching")), ("plans", ("teaching",)))),
    ("riverside", (("visits", ("utilisation-research",)),)),
    ("lakeside", (("visits", ("utilisation-research", "quality-of-care")),)),
)


def consents():
    def entry(table, purpose, state, **more):
        return ConsentEntry(table=table, purpose=purpose, state=state, since=ago(days=30), **more)

    return (
        ("northside", entry("visits", "utilisation-research", "granted", until="2027-06-30")),
        ("northside", entry("visits", "teaching", "pending", reason="A course in spring.")),
        (
            "riverside",
            entry(
                *("visits", "utilisation-research", "refused"),
                reason="The ethics board has to look at it first; please write to us.",
            ),
        ),
        ("lakeside", entry("visits", "utilisation-research", "expired", until="2026-10-31")),
        (
            "lakeside",
            entry("visits", "quality-of-care", "withdrawn", reason="The project has ended."),
        ),
    )


def standings():
    def one(number, site, state, **changes):
        request = hashlib.sha256(f"asked {number}".encode()).hexdigest()[:32]
        values = {
            "request": request,
            "site": site,
            "asked_at": ago(hours=3 * number),
            "kind": "python",
            "purpose": "utilisation-research",
            "question": CELL,
            "state": state,
            "since": ago(hours=number),
        }
        return Standing(**values | changes)

    waiting = {"deciders": f"1 of 2 approvals; {ALICE}, {BOB}, {CAROL}", "until": ago(days=-12)}
    return (
        one(1, "northside", "waiting for review", **waiting),
        one(1, "riverside", "output in review", **waiting | {"deciders": f"0 of 1; {CAROL}"}),
        one(2, "lakeside", "running"),
        one(3, "northside", "released"),
        one(4, "riverside", "refused", reason="[E_REVIEW] Denied: names single households."),
        one(5, "lakeside", "cancelled", since=""),
    )


def decisions_of(desk) -> str:
    """What reached the desk, for a test that can only read text."""
    return "; ".join(f"{verdict} {reason}".strip() for verdict, _, reason in desk.decisions)
