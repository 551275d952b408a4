"""Python cells: who lets them run, who lets their output out, and what a crash leads to."""

from __future__ import annotations

import datetime as dt
import json

import pytest
import sqlalchemy as sa
from approval_fakes import ALICE, ANA, BOB, CAROL, CELL, PURPOSE, PythonSite

from privnb import audit
from privnb.computation import Computation
from privnb.errors import RequestRefused, SiteFailure, StateError
from privnb.messages import released_hash
from privnb.site import database as tables
from privnb.site import under_way
from privnb.site.python_config import ParameterRule, Template
from privnb.site.reviewing import review

MEAN = 19.5


@pytest.fixture
def site(tmp_path, request):
    site = PythonSite(tmp_path, **getattr(request, "param", {}))
    yield site
    site.agent.close()


def mode(**settings):
    return pytest.mark.parametrize("site", [settings], indirect=True)


def digest(source=CELL, **fields):
    said = {"tables": ("visits",), "purpose": PURPOSE} | fields
    return Computation(kind="python", source=source, **said).digest


def template(source=CELL, **parameters):
    return Template(
        name="mean_cost",
        source=source,
        tables=("visits",),
        purposes=(PURPOSE,),
        output=None,
        description="",
        parameters=parameters,
        runs_per_analyst=2,
    )


def events(site):
    with site.database.read() as snapshot:
        rows = snapshot.execute(sa.select(tables.events.c.body).order_by(tables.events.c.seq))
        return [json.loads(body) for body in rows.scalars()]


# The way through review


def test_code_and_output_are_looked_at_and_then_it_is_released(site):
    name = site.send_cell()
    assert site.settle(name, until=("waiting",)) == "waiting"
    assert site.port.replies(name) == []
    site.decide(name, by=ALICE)
    assert site.settle(name, until=("held",)) == "held"
    site.steps()
    assert site.port.replies(name) == []
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    reply = site.reply(name)
    assert reply.output.value() == MEAN
    assert reply.label.approved_by == (f"code: {ALICE}", f"output: {BOB}")
    assert reply.label.route == "approval"
    assert reply.label.epsilon == "none"
    assert reply.label.sandbox == "a box of cardboard"
    assert reply.label.population == f"Everybody who consented to {PURPOSE}."
    assert [run for run in site.box.runs if run.startswith("data")] == [f"data: {CELL}"]


def test_nothing_runs_on_the_data_before_the_code_is_approved(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.steps(20)
    assert not [run for run in site.box.runs if run.startswith("data")]


@mode(needed=2)
def test_as_many_reviewers_as_the_owner_wants_must_agree(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name, by=ALICE)
    site.steps()
    assert site.state(name) == "waiting"
    site.decide(name, by=CAROL)
    site.settle(name, until=("held",))


@mode(mode="code")
def test_where_only_code_is_reviewed_an_output_without_findings_leaves(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name)
    assert site.reply(name).output.value() == MEAN
    assert site.reply(name).label.approved_by == (f"code: {ALICE}",)


@mode(mode="code")
def test_what_the_gate_objects_to_waits_for_a_look_at_the_output(site):
    name = site.send_cell("visits.head(3)")
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name, until=("held",))
    site.steps()
    assert site.port.replies(name) == []
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    reply = site.reply(name)
    assert reply.label.approved_by == (f"code: {ALICE}", f"output: {BOB}")
    assert "the gate found something" in reply.label.unit


@mode(mode="output")
def test_where_only_outputs_are_reviewed_the_cell_runs_at_once(site):
    name = site.send_cell()
    site.settle(name, until=("held",))
    site.decide(name, stage="output")
    site.settle(name)
    assert site.reply(name).output.value() == MEAN


def test_a_denial_tells_its_reason_and_the_same_text_stays_refused(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name, verdict="deny", reason="Use fewer columns.")
    site.settle(name)
    problem = site.reply(name).problem
    assert problem.code == "E_DENIED"
    assert "Use fewer columns." in problem.message
    again = site.send_cell()
    site.settle(again)
    assert site.reply(again).problem.code == "E_DENIED"
    changed = site.send_cell(CELL + " ")
    assert site.settle(changed, until=("waiting",)) == "waiting"


def test_an_output_that_is_withheld_never_leaves_and_is_erased(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name, until=("held",))
    site.decide(name, stage="output", verdict="deny", reason="Too few people.")
    site.settle(name)
    assert site.reply(name).output is None
    assert "withheld its output: Too few people." in site.reply(name).problem.message
    with site.database.read() as snapshot:
        assert snapshot.execute(sa.select(tables.reviews.c.output)).scalar() is None


def test_what_was_denied_once_is_not_let_out_through_a_second_request(site):
    site.grant(analyst="bo@uni.example")
    first = site.send_cell()
    second = site.send_cell(sender="bo@uni.example")
    site.settle(first, until=("waiting",))
    site.settle(second, until=("waiting",), sender="bo@uni.example")
    site.decide(first, verdict="deny", reason="Ana asked for too much.")
    with pytest.raises(RequestRefused, match="denied in another request"):
        site.decide(second, by=BOB, sender="bo@uni.example")
    site.settle(second, sender="bo@uni.example")
    problem = site.reply(second, "bo@uni.example").problem
    assert problem.code == "E_DENIED"
    assert "Ana" not in problem.message


def test_a_copy_of_what_waits_already_is_refused(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    copy = site.send_cell()
    site.settle(copy)
    assert site.reply(copy).problem.code == "E_BUSY"


def test_nobody_approves_their_own_request_under_another_form_of_their_address(site):
    analyst = "alice+study@hospital.example"
    site.grant(analyst=analyst)
    name = site.send_cell(sender=analyst)
    site.settle(name, until=("waiting",), sender=analyst)
    with pytest.raises(RequestRefused, match="own request"):
        site.decide(name, by=ALICE, sender=analyst)


# Release by the owner's rules


@mode(mode=None, templates=[template()])
def test_a_template_is_released_without_a_human(site):
    name = site.send_cell()
    site.settle(name)
    assert site.reply(name).output.value() == MEAN
    assert site.reply(name).label.approved_by == ("the owner's rule: template mean_cost",)


@mode(
    mode=None,
    templates=[template("visits.cost.mean() + n", n=ParameterRule(type="integer", bounds=(0, 5)))],
)
def test_a_template_takes_the_parameters_that_it_allows(site):
    good = site.send_cell("visits.cost.mean() + n", parameters={"n": 5})
    bad = site.send_cell("visits.cost.mean() + n", parameters={"n": 6})
    site.settle(good)
    site.settle(bad)
    assert site.reply(good).output.value() == MEAN + 5
    assert site.reply(bad).problem.code == "E_NO_REVIEW"


@mode(mode=None, templates=[template()])
def test_a_template_is_given_only_so_often(site):
    for _ in range(2):
        site.settle(site.send_cell())
    third = site.send_cell()
    site.settle(third)
    assert site.reply(third).problem.code == "E_LIMIT"


@mode(mode=None, templates=[template("visits.head(3)")])
def test_where_nobody_reviews_what_the_gate_objects_to_is_refused_in_constant_words(site):
    name = site.send_cell("visits.head(3)")
    site.settle(name)
    assert site.reply(name).problem.code == "E_WITHHELD"
    assert "cost" not in site.reply(name).problem.message


@mode(mode=None, templates=[template("visits.head(3)")])
def test_what_the_gate_kept_in_counts_as_often_as_what_left(site):
    codes = []
    for _ in range(3):
        name = site.send_cell("visits.head(3)")
        site.settle(name)
        codes.append(site.reply(name).problem.code)
    assert codes == ["E_WITHHELD", "E_WITHHELD", "E_LIMIT"]


@mode(release=[digest()])
def test_a_digest_on_the_owner_s_list_is_released_and_one_byte_more_is_not(site):
    name = site.send_cell()
    site.settle(name)
    assert site.reply(name).output.value() == MEAN
    other = site.send_cell(CELL + " ")
    assert site.settle(other, until=("waiting",)) == "waiting"


# What is refused at once


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"tables": None}, "E_NO_TABLE"),
        ({"tables": ("visit",)}, "E_NO_TABLE"),
        ({"tables": ("visits", "visits")}, "E_UNSUPPORTED"),
        ({"purpose": "marketing"}, "E_PURPOSE"),
        ({"purpose": None}, "E_PURPOSE"),
        ({"purpose": "quality-control"}, "E_NO_GRANT"),
        ({"epsilon": "1"}, "E_EPSILON"),
        ({"parameters": {"visits": 1}}, "E_PARAMETER"),
        ({"output": "not a name"}, "E_UNSUPPORTED"),
        ({"sender": "bo@uni.example"}, "E_NO_GRANT"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anybody_looks(site, fields, code):
    sender = fields.get("sender", ANA)
    name = site.send_cell(**fields)
    site.settle(name, sender=sender)
    assert site.reply(name, sender).problem.code == code
    assert site.box.runs == []


def test_what_an_analyst_writes_is_neither_in_the_log_nor_in_the_audit_log(site, caplog):
    caplog.set_level("INFO")
    forged = "visits\n2026-11-24T12:00:00Z released analyst=bo@uni.example"
    for fields in ({"tables": (forged,)}, {"purpose": forged}):
        site.settle(site.send_cell(**fields))
    assert "released analyst=bo" not in caplog.text
    assert "bo@uni.example" not in json.dumps(events(site))


@pytest.mark.parametrize("site", [{}, {"mode": "output"}], indirect=True)
def test_an_analyst_cannot_flood_the_reviewers(site):
    names = [site.send_cell(f"{number} + visits.cost.mean()") for number in range(21)]
    for name in names:
        site.settle(name, until=("waiting", "held", "reply"))
    refused = [name for name in names if site.port.replies(name)]
    assert len(refused) == 1
    assert site.reply(refused[0]).problem.code == "E_BUSY"


def test_a_site_without_python_says_so(tmp_path):
    from site_fakes import Site

    plain = Site(tmp_path)
    name = PythonSite.send_cell(plain)
    plain.agent.step()
    (reply,) = plain.port.replies(name)
    assert reply.problem.code == "E_NO_PYTHON"
    plain.agent.close()


# The mock twin


def test_a_cell_on_the_mock_twin_answers_at_once_and_asks_nobody(site):
    name = site.send_cell(action="mock", purpose=None)
    site.settle(name)
    reply = site.reply(name)
    assert reply.output.value() == 1.5
    assert reply.label.mock
    assert reply.receipt is None
    assert site.box.runs == [f"mock: {CELL}"]


def test_an_error_on_the_mock_twin_tells_class_and_line(site):
    name = site.send_cell("FAIL", action="mock")
    site.settle(name)
    assert site.reply(name).problem.code == "E_CELL"
    assert "KeyError in line 1" in site.reply(name).problem.message


def test_reviewers_get_the_result_of_the_mock_run(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.agent._answering.under_way.runs.wait(seconds=10)
    site.steps()
    with site.database.read() as snapshot:
        mock = json.loads(snapshot.execute(sa.select(tables.reviews.c.mock)).scalar())
    assert mock["output"]["rows"] == [[1.5]]


# Cells that fail


@mode(mode="code")
def test_approved_code_that_fails_tells_class_and_line_and_no_more(site):
    name = site.send_cell("FAIL")
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name)
    assert site.state(name) == "failed"
    assert "KeyError in line 1" in site.reply(name).problem.message


@pytest.mark.parametrize("site", [{"mode": "output"}, {"mode": "both"}], indirect=True)
def test_where_outputs_are_looked_at_a_failure_is_one_and_waits_for_a_person(site):
    name = site.send_cell("FAIL")
    if site.settle(name, until=("waiting", "held")) == "waiting":
        site.decide(name)
        site.settle(name, until=("held",))
    site.steps()
    assert site.port.replies(name) == []
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    assert site.reply(name).output.value() == "The cell raised KeyError in line 1."


@mode(mode="output")
def test_of_unread_code_nobody_is_told_how_long_it_ran_or_whether_it_ended(site):
    name = site.send_cell("HANG")
    site.settle(name, until=("running",))
    with site.database.read() as snapshot:
        (running,) = review.states(snapshot, site=site.config, analyst=ANA, requests=[name])
    site.clock.moment += dt.timedelta(minutes=3)
    site.box.let_go.set()
    site.settle(name, until=("held",))
    with site.database.read() as snapshot:
        (held,) = review.states(snapshot, site=site.config, analyst=ANA, requests=[name])
    assert running == held
    assert held.state == "output in review"


@mode(mode=None, templates=[template("BUG")])
def test_a_bug_on_our_side_is_one_constant_failure(site):
    name = site.send_cell("BUG")
    site.settle(name)
    assert site.reply(name).problem.code == SiteFailure.default_code


@mode(mode=None, templates=[template("HANG"), template()])
def test_a_cell_that_takes_long_holds_nobody_else_up(site):
    slow = site.send_cell("HANG")
    site.settle(slow, until=("running",))
    assert site.ask("describe").description.name == "northside"
    quick = site.send_cell()
    site.settle(quick)
    assert site.reply(quick).output.value() == MEAN
    site.box.let_go.set()
    site.settle(slow)


# Consent that changes meanwhile


def test_a_grant_withdrawn_while_it_waits_ends_the_request(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.grant(withdrawn=True)
    site.settle(name)
    assert site.reply(name).problem.code == "E_NO_GRANT"


@mode(mode=None, templates=[template("HANG")])
def test_a_grant_withdrawn_while_it_runs_keeps_the_output_in(site):
    name = site.send_cell("HANG")
    site.settle(name, until=("running",))
    site.grant(withdrawn=True)
    site.box.let_go.set()
    site.settle(name)
    assert site.reply(name).output is None
    assert site.reply(name).problem.code == "E_NO_GRANT"


def test_a_grant_withdrawn_after_the_code_was_approved_keeps_the_cell_from_running(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.grant(withdrawn=True)
    site.settle(name)
    assert site.reply(name).problem.code == "E_NO_GRANT"
    assert not [run for run in site.box.runs if run.startswith("data")]


def test_a_request_that_nobody_decides_on_expires_once_the_clock_is_sure(site, monkeypatch):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.clock.moment += dt.timedelta(days=15)
    site.steps()
    assert site.state(name) == "waiting"
    monkeypatch.setattr(under_way, "_SURE_SECONDS", 0.0)
    site.settle(name)
    assert site.reply(name).problem.code == "E_EXPIRED"


def test_a_clock_that_jumps_and_comes_back_ends_nothing(site, monkeypatch):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    there = site.clock.moment
    site.clock.moment = there.replace(year=2036)
    site.grant(until=None)
    site.steps()
    site.clock.moment = there
    monkeypatch.setattr(under_way, "_SURE_SECONDS", 0.0)
    site.steps()
    assert site.state(name) == "waiting"


# Crashes


@pytest.mark.parametrize("state", ["waiting", "held"])
def test_an_agent_that_dies_while_people_decide_loses_nothing(site, state):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    if state == "held":
        site.decide(name)
        site.settle(name, until=("held",))
    site.restart()
    site.steps()
    assert site.state(name) == state
    if state == "waiting":
        site.decide(name)
        site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    assert site.reply(name).output.value() == MEAN


@mode(mode=None, templates=[template("HANG")])
def test_a_cell_over_which_the_agent_dies_is_run_once_more_and_then_given_up(site):
    name = site.send_cell("HANG")
    for _ in range(2):
        site.settle(name, until=("running",))
        while not site.agent._answering.under_way.busy:
            site.steps()
        site.restart()
    site.settle(name)
    assert site.state(name) == "failed"
    assert site.reply(name).problem.code == SiteFailure.default_code


def test_a_reply_that_was_stored_but_not_sent_is_sent_by_the_next_agent(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    send = site.port.reply
    site.port.reply = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        site.steps()
    assert site.state(name) == "answered"
    site.port.reply = send
    site.restart()
    site.settle(name)
    assert site.reply(name).output.value() == MEAN
    assert [event["kind"] for event in events(site)].count("release") == 1


def test_a_reply_stored_before_the_database_was_busy_is_sent_all_the_same(site, monkeypatch):
    names = [site.send_cell(f"{number} + visits.cost.mean()") for number in range(2)]
    for name in names:
        site.settle(name, until=("waiting",))
    for name in names:
        site.decide(name, verdict="deny", reason="No.")
    end, calls = site.agent._answering.under_way._endings.end, []

    def busy_the_second_time(*args):
        calls.append(args)
        if len(calls) == 2:
            raise StateError("The database is in use.")
        return end(*args)

    monkeypatch.setattr(site.agent._answering.under_way._endings, "end", busy_the_second_time)
    site.look()
    with pytest.raises(StateError):
        site.agent.step()
    site.agent._next_recovery = 0.0
    site.steps(2)
    assert [len(site.port.replies(name)) for name in names] == [1, 1]


def test_a_row_that_cannot_be_read_stops_nobody_else(site, caplog):
    broken = site.send_cell()
    site.settle(broken, until=("waiting",))
    site.decide(broken)
    with site.database.write() as transaction:
        transaction.execute(sa.update(tables.requests).values(submission=b"{"))
        transaction.execute(sa.update(tables.reviews).values(computation=b"{"))
    site.steps()
    assert site.ask().answer is not None
    assert site.reply(broken).problem.code == SiteFailure.default_code


@mode(mode="output")
def test_a_sandbox_that_does_not_open_loses_nothing_that_was_approved(site):
    name = site.send_cell()
    site.settle(name, until=("held",))
    site.agent._lock.release()
    without = site.new_agent(python=None)
    site.decide(name, stage="output")
    site.agent = without
    site.steps()
    assert site.state(name) == "cleared"
    site.restart()
    site.settle(name)
    assert site.reply(name).output.value() == MEAN


# A database that somebody else writes to


@pytest.mark.parametrize("state", ["approved", "running", "cleared"])
def test_a_state_alone_lets_nothing_out(site, state):
    name = site.send_cell("HANG")
    site.settle(name, until=("waiting",))
    with site.database.write() as transaction:
        transaction.execute(
            sa.update(tables.requests).values(state=state).where(tables.requests.c.name == name)
        )
    if state == "running":
        site.restart()
    site.steps(20)
    assert not [run for run in site.box.runs if run.startswith("data")]
    assert all(reply.output is None for reply in site.port.replies(name))


def test_an_output_that_was_changed_after_it_was_looked_at_is_not_released(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    with site.database.write() as transaction:
        output = transaction.execute(sa.select(tables.reviews.c.output)).scalar()
        forged = output.replace(b"19.5", b"20.5")
        transaction.execute(sa.update(tables.reviews).values(output=forged))
    site.settle(name)
    assert site.reply(name).output is None
    assert site.reply(name).problem.code == SiteFailure.default_code


# The audit log


def test_every_step_is_in_the_audit_log_and_the_release_has_a_receipt(site):
    name = site.send_cell()
    site.settle(name, until=("waiting",))
    site.decide(name)
    site.settle(name, until=("held",))
    site.decide(name, by=BOB, stage="output")
    site.settle(name)
    kinds = [event["kind"] for event in events(site) if event.get("request") == name]
    assert kinds == ["decision", "review", "output-held", "review", "release"]
    reply = site.reply(name)
    key = audit.VerifierKey.parse(site.ask("describe").description.audit_key)
    import dataclasses

    proved = audit.verify_receipt(dataclasses.asdict(reply.receipt), key=key)
    event = json.loads(reply.receipt.event)
    assert event["output"] == released_hash(reply)
    assert len(bytes.fromhex(reply.salt)) == 32
    assert event["output"] != released_hash(dataclasses.replace(reply, salt=""))
    assert event["digest"] == reply.digest == digest()
    assert proved.checkpoint.size == reply.receipt.index + 1
