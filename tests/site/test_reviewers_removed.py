"""Whoever is taken out of site.toml has approved of nothing from then on, restart or not."""

from __future__ import annotations

import pytest
from approval_fakes import ALICE, BOB, CAROL, CELL, PythonSite

from privnb.errors import SiteFailure
from privnb.site.reviewing.reviewers import ReviewerKey

MEAN = 19.5


@pytest.fixture
def site(tmp_path):
    site = PythonSite(tmp_path)
    yield site
    site.agent.close()


def approved(site, *, by=ALICE) -> str:
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name, by=by)
    return name


def test_code_that_they_approved_waits_for_somebody_else(site):
    name = approved(site)
    site.name_reviewers(BOB, CAROL)
    site.steps()
    assert site.state(name) == "waiting"
    assert not [run for run in site.box.runs if run.startswith("data")]
    site.decide(name, by=BOB)
    site.settle(name, until=("held",))


def test_an_output_that_they_approved_does_not_leave(site):
    name = approved(site)
    site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    site.name_reviewers(ALICE, CAROL)
    site.settle(name)
    assert site.reply(name).output is None
    assert site.reply(name).problem.code == SiteFailure.default_code


def test_another_key_under_the_same_address_is_somebody_else(site, tmp_path):
    name = approved(site)
    site.keys[ALICE] = ReviewerKey.create(tmp_path / "new.json", ALICE)
    site.name_reviewers(ALICE, BOB)
    site.steps()
    assert site.state(name) == "waiting"


def test_a_site_without_reviewers_any_more_lets_nothing_run(site):
    name = approved(site)
    site.config.path.write_text("")
    site.steps()
    assert site.state(name) == "waiting"


def test_others_are_not_concerned(site):
    name = approved(site)
    site.name_reviewers(ALICE, BOB)
    site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    assert site.reply(name).output.value() == MEAN


@pytest.mark.parametrize("broken", ["[review", "[review]\nneeded = 1\n", None])
def test_while_site_toml_cannot_be_read_all_waits(site, broken, caplog):
    first = approved(site)
    site.settle(first, until=("held",))
    second = site.send_cell(f"{CELL} ")
    site.settle(second, until=("waiting",))
    site.decide(first, by=BOB, stage="output")
    site.decide(second, by=BOB)
    if broken is None:
        site.config.path.unlink()
    else:
        site.config.path.write_text(broken)
    site.steps()
    assert (site.state(first), site.state(second)) == ("cleared", "approved")
    assert not site.port.replies(first)
    said = [record for record in caplog.records if "cannot be read now" in record.getMessage()]
    assert len(said) == 1
    assert site.ask("describe").description is not None
    site.name_reviewers(ALICE, BOB, CAROL)
    site.settle(first)
    assert site.reply(first).output.value() == MEAN
    site.settle(second, until=("held",))
