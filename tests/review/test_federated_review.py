"""What reviewers see of a cell that several sites are to run: with whom, and what nobody sees."""

from __future__ import annotations

import dataclasses

import pytest
from review_site import ALICE
from typer.testing import CliRunner

from privnb.cli import app
from privnb.computation import Federation
from privnb.owner import open_desk
from privnb.site.federated.words import facts_of
from privnb.widgets.review import ReviewWidget

SITES = tuple(sorted(f"privnb/{name}/o@{name}.example+12345678+AQ==" for name in "abc"))
FEDERATION = Federation(sites=SITES, threshold=2, rounds=10)
APP = """\
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(msg, context):
    visits = context.node_config["tables"]["visits"]
    return visits.mdvis.mean()
"""


@pytest.fixture
def desk(site):
    desk = open_desk(site.folder, ALICE)
    yield desk
    desk.close()


def test_a_reviewer_sees_sites_sums_and_rounds(site, desk):
    name = site.ask(APP, federation=FEDERATION)
    facts = dict(desk.item(name).federation)
    for short in "abc":
        assert f"privnb/{short}/o@{short}.example" in facts["sites"]
    assert facts["sums"].startswith("of at least 2 of 3 sites; none of them may collude")
    assert facts["rounds"].startswith("at most 10; the analyst chooses the parameters of each")
    assert dict(desk.items()[0].federation) == facts
    assert desk.item(site.ask("1")).federation == ()


def test_the_scan_knows_what_a_training_is(site, desk):
    item = desk.item(site.ask(APP, federation=FEDERATION))
    assert item.imports == ("flwr.clientapp",)
    assert item.columns == ("visits.mdvis",)
    assert not any("no output" in finding for finding in item.findings)
    alone = desk.item(site.ask(APP))
    assert alone.imports == ("flwr.clientapp (not offered)",)
    assert any("no output" in finding for finding in alone.findings)


def test_fewer_sites_than_were_approved_before_are_a_difference(site, desk):
    first = site.ask(APP, federation=FEDERATION)
    for who in site.keys:
        if who != ALICE:
            site.decide(who, first)
    fewer = dataclasses.replace(FEDERATION, sites=SITES[:2])
    item = desk.item(site.ask(APP, federation=fewer))
    assert item.difference_to == first
    assert "privnb/c/o@c.example" in item.difference
    assert "+sums: of at least 2 of 2 sites" in item.difference


def test_a_terminal_and_the_inbox_show_it_too(site, desk):
    name = site.ask(APP, federation=FEDERATION)
    shown = CliRunner().invoke(app, ["review", "show", str(site.folder), name]).output
    assert "Output     none: only sums over the sites are seen" in shown
    for label, value in facts_of(FEDERATION):
        assert f"{label.capitalize():9}  {value}" in shown
    widget = ReviewWidget(desk)
    sent = []
    widget.send = sent.append
    widget._handle_custom_msg({"ask": "open", "key": f"ana@uni.example/{name}"}, [])
    drawn = dict(sent[-1]["detail"]["facts"])
    assert drawn["rounds"] == dict(facts_of(FEDERATION))["rounds"]
    assert "declares" not in drawn
