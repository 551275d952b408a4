"""That what sites say about themselves can be printed in a terminal as it is."""

from __future__ import annotations

import pytest

from privnb.datasite.ports import SiteCard
from privnb.dp.schema import Column, TableSchema
from privnb.errors import UnknownName
from privnb.listings import budgets_frame, schema_frame, sites_frame, templates_frame
from privnb.messages import Budget, SiteDescription, TemplateOffer

HOSTILE = "\x1b[31mOWNED\x1b]0;title\x07\nlakeside  accepted\u202e\u3164"
TABLE = TableSchema(
    name="visits",
    columns=(
        Column(name="zper", type="integer", description=HOSTILE),
        Column(name="plan", type="string", values=("free", HOSTILE), description="x" * 100_000),
    ),
    privacy_unit="zper",
    max_rows_per_unit=5,
    delta=1e-6,
    public_rows=6000,
    purposes=(HOSTILE,),
    description=HOSTILE,
)
BUDGET = Budget(
    table=HOSTILE,
    purpose=HOSTILE,
    epsilon_granted="4",
    epsilon_spent="1",
    epsilon_left=HOSTILE,
    until=HOSTILE,
)
OFFER = TemplateOffer(
    name=HOSTILE,
    description=HOSTILE,
    source="1",
    tables=(HOSTILE,),
    purposes=(HOSTILE,),
    output=None,
    parameters={HOSTILE: HOSTILE},
)
CARD = SiteCard(
    name="northside", owner="o@n.example", last_seen=None, fingerprint=None, state="accepted"
)
SITE = SiteDescription(name="northside", owner="o@n.example", tables=(TABLE,), budgets=(BUDGET,))


@pytest.mark.parametrize(
    "frame",
    [
        schema_frame({"northside": SITE}, "visits"),
        budgets_frame([("northside", BUDGET)]),
        templates_frame([("northside", OFFER)]),
        sites_frame({"northside": CARD}, {"northside": SITE}),
    ],
    ids=["schema", "budgets", "templates", "sites"],
)
def test_a_list_prints_only_what_can_be_seen(frame):
    for text in map(str, frame.to_numpy().ravel()):
        assert text.isprintable()
        assert "\u3164" not in text
        assert len(text) <= 500
    assert not any(line.startswith("lakeside") for line in repr(frame).splitlines())


def test_names_that_sites_chose_are_named_so_that_they_can_be_printed():
    error = UnknownName.among("purpose", "resarch", [HOSTILE, "research", *map(str, range(100))])
    assert error.hint.isprintable()
    assert "Did you mean 'research'?" in error.hint
    assert len(error.hint) < 5000
    assert error.hint.endswith("and 62 more.")
