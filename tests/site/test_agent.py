"""The agent: what it answers, what it charges, and what it survives."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import secrets
import threading

import pytest
import sqlalchemy as sa
from site_fakes import (
    ANA,
    PURPOSE,
    QUESTION,
    FakeTables,
    FolderPort,
    Site,
    fake_planner,
    job_files,
)

from privnb import wire
from privnb.errors import ExchangeUnavailable, NotAPeer, SiteFailure, StateError
from privnb.messages import SOURCE_FILES, SUBMISSION_FILE, Submission, released_hash
from privnb.site import database as tables


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.agent.close()


def charges(site):
    with site.database.read() as snapshot:
        return snapshot.execute(sa.select(tables.ledger).order_by(tables.ledger.c.seq)).all()


def events(site):
    with site.database.read() as snapshot:
        bodies = snapshot.execute(sa.select(tables.events.c.body).order_by(tables.events.c.seq))
        return [json.loads(body) for body in bodies.scalars()]


# What is asked and answered


def test_a_description_shows_tables_and_ones_own_grants_only(site):
    site.grant("4")
    site.grant("2", analyst="bo@uni.example")
    description = site.ask("describe").description
    assert description.name == "northside"
    assert [table.name for table in description.tables] == ["visits"]
    assert [budget.epsilon_granted for budget in description.budgets] == ["4"]
    assert description.budgets[0].epsilon_left == "4"


def test_an_estimate_says_whether_it_can_be_paid_and_costs_nothing(site):
    none = site.ask("estimate")
    assert (none.estimate.affordable, none.refusal.code, none.budget) == (False, "E_NO_GRANT", None)
    site.grant("2")
    enough = site.ask("estimate", epsilon="2")
    assert (enough.estimate.affordable, enough.refusal) == (True, None)
    more = site.ask("estimate", epsilon="3")
    assert (more.estimate.affordable, more.refusal.code) == (False, "E_BUDGET")
    assert (more.budget.epsilon_left, more.budget.history) == ("2", ())
    free = site.ask("estimate", purpose=None)
    assert (free.estimate.affordable, free.refusal, free.budget) == (None, None, None)
    assert charges(site) == []
    assert site.tables.calls == 0


def test_the_mock_twin_answers_without_grant_epsilon_or_purpose(site):
    reply = site.ask("mock", epsilon=None, purpose=None)
    assert 7 <= reply.answer.rows[0][0] < 8
    assert reply.label.mock
    assert reply.label.epsilon == "0"
    assert charges(site) == []
    assert site.tables.calls == 0


def test_a_run_is_charged_answered_and_labelled(site):
    site.grant("4")
    name = site.send(epsilon="1")
    assert site.agent.step() == 1
    (reply,) = site.port.replies(name)
    assert 1000 <= reply.answer.rows[0][0] < 1001
    (charge,) = charges(site)
    assert (charge.analyst, charge.request, charge.state) == (ANA, name, "spent")
    assert reply.digest == charge.digest
    assert reply.label.epsilon == reply.budget.epsilon_spent == "1"
    assert reply.label.delta == "1e-06"
    assert reply.label.unit == "one person (all their rows in visits)"
    assert reply.label.budget == (
        f"epsilon {reply.budget.epsilon_left} of 4 left for {PURPOSE};"
        " spent: epsilon 1 at delta 1e-06"
    )
    assert [entry.request for entry in reply.budget.history] == [name]
    kinds = [event["kind"] for event in events(site)]
    assert kinds == ["grant", "decision", "release"]


def test_what_was_released_cannot_be_found_by_trial_from_what_the_log_names(site):
    site.grant("4")
    replies = [site.ask(epsilon="1") for _ in range(2)]
    named = [e["output"] for e in events(site) if e["kind"] == "release"]
    assert named == [released_hash(reply) for reply in replies]
    assert len({reply.salt for reply in replies}) == 2
    for reply in replies:
        assert len(bytes.fromhex(reply.salt)) == 32
        assert released_hash(dataclasses.replace(reply, salt="")) not in named


def test_a_release_that_hides_rare_groups_pays_a_delta_for_it(site):
    site.grant("4")
    site.ask()
    site.ask(sql="SELECT RARE")
    assert [charge.delta for charge in charges(site)] == [0, 5 * 10**9]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sql": "DROP TABLE visits"}, "E_NOT_SELECT"),
        ({"epsilon": None}, "E_EPSILON"),
        ({"epsilon": "lots"}, "E_EPSILON"),
        ({"purpose": None}, "E_PURPOSE"),
        ({"purpose": "marketing"}, "E_PURPOSE"),
        ({"purpose": "quality-control"}, "E_NO_GRANT"),
        ({"epsilon": "5"}, "E_BUDGET"),
    ],
)
def test_a_refused_run_costs_nothing_and_touches_nothing(site, fields, code):
    site.grant("4")
    reply = site.ask(**fields)
    assert reply.problem.code == code
    assert reply.answer is None
    assert charges(site) == []
    assert site.tables.calls == 0
    assert events(site)[-1]["decision"] == "refuse"
    assert events(site)[-1]["rule"] == code


def test_a_grant_counts_from_the_moment_it_is_given(site):
    assert site.ask().problem.code == "E_NO_GRANT"
    site.grant("4")
    assert site.ask().answer is not None
    site.grant("4", withdrawn=True)
    assert site.ask().problem.code == "E_NO_GRANT"


def test_a_grant_expires_by_the_sites_date(tmp_path):
    site = Site(tmp_path)
    day = dt.date(2027, 1, 15)
    site.grant("4", until=day)
    site.agent.close()
    site = Site(tmp_path)
    site.agent.close()
    for today, answered in ((day, True), (day + dt.timedelta(days=1), False)):
        site = Site(tmp_path)
        agent = site.new_agent(today=lambda today=today: today)
        name = site.send()
        agent.step()
        (reply,) = site.port.replies(name)
        assert (reply.answer is not None) == answered
        agent.close()
        site.agent.close()


def test_every_decision_is_one_line_of_the_log(site, caplog):
    caplog.set_level(logging.INFO, logger="privnb.site")
    site.grant("1")
    name = site.send(epsilon="1")
    refused = site.send(epsilon="1")
    site.agent.step()
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(line.split()[0] for line in lines) == ["refuse", "release"]
    first, second = lines
    paid = name if first.endswith(f"request={name} table=visits epsilon=1") else refused
    assert first == f"release grant analyst={ANA} request={paid} table=visits epsilon=1"
    assert second.startswith(f"refuse E_BUDGET analyst={ANA} request=")


# What goes wrong


@pytest.mark.parametrize(
    "problem", [ZeroDivisionError("row 17"), MemoryError(), StateError("x"), SiteFailure("y")]
)
def test_whatever_the_engine_raises_the_analyst_reads_the_same_and_pays(site, problem):
    site.grant("4")
    site.tables.problem = problem
    reply = site.ask()
    assert reply.problem == _constant_failure()
    assert reply.budget.epsilon_spent == "1"
    (charge,) = charges(site)
    assert charge.state == "spent"
    assert events(site)[-1]["kind"] == "failure"
    site.tables.problem = None
    assert site.ask().answer is not None


@pytest.mark.parametrize("action", ["run", "estimate", "mock"])
def test_a_bug_in_the_planner_is_hidden_costs_nothing_and_is_logged(site, action, caplog):
    site.grant("4")
    reply = site.ask(action, sql="SELECT CRASH")
    assert reply.problem == _constant_failure()
    assert charges(site) == []
    assert "a bug in the planner" in caplog.text


def test_a_failing_mock_twin_is_hidden(site):
    site.tables.problem = StateError("secret path")
    assert site.ask("mock").problem == _constant_failure()


def _constant_failure():
    from privnb.site.reporting import failure, problem_of

    return problem_of(failure())


def _altered(name, **fields):
    submission = json.loads(job_files(name)[SUBMISSION_FILE])
    return json.dumps({**submission, **fields}).encode()


MALFORMED = {
    "no submission": lambda name: {SOURCE_FILES["sql"]: b"SELECT 1"},
    "empty": lambda name: {SUBMISSION_FILE: b"", SOURCE_FILES["sql"]: b""},
    "not json": lambda name: {SUBMISSION_FILE: b"{", SOURCE_FILES["sql"]: QUESTION.encode()},
    "not utf-8": lambda name: {SUBMISSION_FILE: b'{"request":"\xff"}'},
    "deep": lambda name: {SUBMISSION_FILE: b"[" * 100_000},
    "huge": lambda name: {SUBMISSION_FILE: b" " * 2_000_000},
    "unknown action": lambda name: {
        **job_files(name), SUBMISSION_FILE: _altered(name, action="delete")
    },
    "unknown field": lambda name: {**job_files(name), SUBMISSION_FILE: _altered(name, admin=True)},
    "other name": lambda name: {
        **job_files(name), SUBMISSION_FILE: _altered(name, request="0" * 32)
    },
    "no computation": lambda name: {
        SUBMISSION_FILE: wire.encode(Submission(request=name, action="run"))
    },
    "no readable source": lambda name: {SUBMISSION_FILE: job_files(name)[SUBMISSION_FILE]},
    "another readable source": lambda name: {**job_files(name), SOURCE_FILES["sql"]: b"SELECT 2"},
    "endless cell": lambda name: {
        **job_files(name),
        SUBMISSION_FILE: _altered(
            name, computation={"kind": "sql", "source": "x" * 70_000, "epsilon": "1"}
        ),
    },
    "lone surrogate": lambda name: {
        **job_files(name),
        SUBMISSION_FILE: job_files(name)[SUBMISSION_FILE].replace(b"COUNT", b"\\ud800"),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_request_gets_one_clear_error_and_costs_nothing(site, what):
    site.grant("4")
    name = secrets.token_hex(16)
    site.port.submit(ANA, name, MALFORMED[what](name))
    site.agent.step()
    (reply,) = site.port.replies(name)
    assert reply.problem.code in {"E_BAD_MESSAGE", "E_UNSUPPORTED"}
    assert reply.problem != _constant_failure()
    assert charges(site) == []
    assert site.ask().answer is not None


def test_a_job_with_an_odd_name_is_refused(site, caplog):
    caplog.set_level(logging.INFO, logger="privnb.site")
    site.port.submit(ANA, "job one", job_files("job one"))
    site.agent.step()
    (reply,) = site.port.replies("job one")
    assert reply.problem.code == "E_BAD_MESSAGE"
    assert "\n" not in caplog.messages[-1]


def test_an_unforeseen_failure_of_the_agent_itself_is_answered_and_it_goes_on(
    site, monkeypatch, caplog
):
    site.grant("4")
    with monkeypatch.context() as patch:
        patch.setattr(site.agent._answering._charging, "begin", lambda *_: 1 / 0)
        assert site.ask().problem == _constant_failure()
    assert "ZeroDivisionError" in caplog.text
    assert site.ask().answer is not None


def test_a_job_that_cannot_even_be_apologised_for_is_put_away(site, monkeypatch):
    site.grant("4")
    name = site.send()
    with monkeypatch.context() as patch:
        patch.setattr(site.agent._answering, "answer", lambda *_: 1 / 0)
        patch.setattr(site.agent._answering, "give_up", lambda *_: 1 / 0)
        site.agent.step()
    assert site.port.replies(name) == []
    assert list(site.port.tree.iterdir()) == []
    assert site.ask().answer is not None


def test_a_peer_who_is_no_longer_one_gets_nothing_and_blocks_nobody(site, monkeypatch):
    site.grant("4")

    def reply(job, files, *, succeeded):
        raise NotAPeer("gone")

    with monkeypatch.context() as patch:
        patch.setattr(site.port, "reply", reply)
        site.send()
        site.agent.step()
    assert list(site.port.tree.iterdir()) == []
    assert site.ask().answer is not None


# Repetitions


def test_a_request_that_comes_again_gets_the_same_bytes_and_pays_nothing(site):
    site.grant("4")
    name = site.send()
    site.agent.step()
    # As after a crash between sending and retiring: the job is still in the tree.
    port = FolderPort(site.directory / "exchange")
    port.submit(ANA, name, job_files(name))
    (port.inbox / f"{ANA}-{name}.json").rename(port.tree / f"{ANA}-{name}.json")
    site.agent.step()
    first, second = sorted(site.port.outbox.glob(f"{ANA}-{name}.*"))
    assert first.read_bytes() == second.read_bytes()
    assert len(charges(site)) == 1
    assert site.tables.calls == 1


def test_another_question_under_a_used_name_gets_the_old_answer(site):
    site.grant("4")
    name = site.send()
    site.agent.step()
    site.port.submit(ANA, name, job_files(name, sql="SELECT 2"))
    (site.port.inbox / f"{ANA}-{name}.json").rename(site.port.tree / f"{ANA}-{name}.json")
    site.agent.step()
    first, second = site.port.replies(name)
    assert first == second


def test_a_replayed_envelope_is_told_by_the_book(site):
    site.grant("4")
    name = site.send()
    site.agent.step()
    site.port.submit(ANA, name, job_files(name))
    assert site.agent.step() == 0
    assert site.port.quarantined == [name]


def test_two_analysts_may_use_the_same_name(site):
    site.grant("4")
    site.grant("4", analyst="bo@uni.example")
    name = secrets.token_hex(16)
    for sender in (ANA, "bo@uni.example"):
        site.port.submit(sender, name, job_files(name))
    assert site.agent.step() == 2
    assert len(charges(site)) == 2


# Storage that goes away


def test_while_the_exchange_is_gone_nothing_is_computed_twice(site):
    site.grant("4")
    name = site.send()
    reply = site.port.reply

    def unavailable(job, files, *, succeeded):
        raise ExchangeUnavailable("gone")

    site.port.reply = unavailable
    for _ in range(3):
        with pytest.raises(ExchangeUnavailable):
            site.agent.step()
    site.port.reply = reply
    site.agent.step()
    (found,) = site.port.replies(name)
    assert found.answer is not None
    assert site.tables.calls == 1


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_full_disk_releases_nothing_and_the_request_waits(site, monkeypatch, which):
    """The ``which``-th transaction after the request's arrival fails, and all after it."""
    site.grant("4")
    site.agent.step()
    name = site.send()
    _fill_disk(site, monkeypatch, after=which - 1)
    for _ in range(3):
        if which < 3:  # the third is the note that it was sent
            with pytest.raises(StateError, match="cannot be written"):
                site.agent.step()
            assert site.port.replies(name) == []
    monkeypatch.undo()
    site.agent.step()
    (reply,) = site.port.replies(name)
    assert reply.answer is not None
    assert len(charges(site)) == 1
    assert site.tables.calls == 1


def _fill_disk(site, monkeypatch, *, after):
    engine = site.database._engine
    state = {"left": after}

    def commit(connection):
        if state["left"] <= 0:
            import sqlite3

            raise sqlite3.OperationalError("database or disk is full")
        state["left"] -= 1
        original(connection)

    original = engine.dialect.do_commit
    monkeypatch.setattr(engine.dialect, "do_commit", commit)


def test_the_loop_outlives_every_failure_and_says_each_outage_once(site, caplog):
    site.grant("4")
    site.port.problem = ExchangeUnavailable("The exchange is gone.")
    stop = threading.Event()
    loop = threading.Thread(target=site.agent.run, args=(stop,))
    loop.start()
    try:
        for _ in range(200):
            if caplog.records:
                break
            stop.wait(0.01)
        stop.wait(0.25)
        assert caplog.text.count("The exchange is gone.") == 1
        site.port.problem = None
        name = site.send()
        for _ in range(3000):  # a failure pauses for up to five seconds
            if site.port.replies(name):
                break
            stop.wait(0.01)
        assert site.port.replies(name)[0].answer is not None
    finally:
        stop.set()
        loop.join(10)
    assert not loop.is_alive()
    assert site.port.cards >= 1


def test_a_changed_site_toml_is_noticed_and_not_taken_up_half_way(site, monkeypatch, caplog):
    monkeypatch.setattr("privnb.site.agent._HEARTBEAT_SECONDS", 0.0)
    site.agent.step()
    assert not caplog.records
    site.config.path.write_text("name = 'elsewhere'")
    site.agent.step()
    site.agent.step()
    (record,) = caplog.records
    assert "restart the agent" in record.getMessage()


# Several agents


def test_two_agents_answer_each_request_once(site):
    site.grant("9")
    other = site.new_agent()
    names = [site.send(epsilon="0.1") for _ in range(12)]
    stop = threading.Event()
    loops = [threading.Thread(target=agent.run, args=(stop,)) for agent in (site.agent, other)]
    for loop in loops:
        loop.start()
    for _ in range(1000):
        if all(site.port.replies(name) for name in names):
            break
        stop.wait(0.01)
    stop.set()
    for loop in loops:
        loop.join(10)
    assert [len(site.port.replies(name)) for name in names] == [1] * len(names)
    assert len(charges(site)) == len(names) == site.tables.calls
    other._lock.release()


def test_a_living_agents_request_is_left_to_it_and_a_dead_ones_is_taken_over(site):
    site.grant("4")
    other = site.new_agent()
    name = site.send()

    class Stuck(BaseException):
        pass

    site.tables.problem = Stuck()
    with pytest.raises(Stuck):
        other.step()
    site.tables.problem = None
    assert [charge.state for charge in charges(site)] == ["reserved"]
    site.agent.step()
    assert site.port.replies(name) == []
    other._lock.release()
    site.agent.step()
    (reply,) = site.port.replies(name)
    assert reply.answer is not None
    assert len(charges(site)) == 1


def test_a_request_whose_price_rose_since_its_reservation_is_failed_not_released(site, monkeypatch):
    site.grant("4")
    other = site.new_agent()
    name = site.send()

    class Stuck(BaseException):
        pass

    site.tables.problem = Stuck()
    with pytest.raises(Stuck):
        other.step()
    site.tables.problem = None
    other._lock.release()

    def dearer(sql, **fields):
        plan = fake_planner(sql, **fields)
        price = dataclasses.replace(plan.price, loss=plan.price.loss * 2)
        return dataclasses.replace(plan, price=price)

    monkeypatch.setattr(site.agent._engine, "_planner", dearer)
    site.agent.step()
    (reply,) = site.port.replies(name)
    assert reply.problem == _constant_failure()
    assert site.tables.calls == 1


def test_one_analyst_who_floods_does_not_stop_another(site, monkeypatch):
    monkeypatch.setattr("privnb.site.agent._BURST", 5.0)
    monkeypatch.setattr("privnb.site.agent._RATE", 0.0)
    for _ in range(20):
        site.send("describe", sender="flood@uni.example")
    name = site.send("describe")
    assert site.agent.step() == 6
    assert len(site.port.replies(name)) == 1


# The promise about errors


def test_replies_other_than_answers_are_the_same_for_any_two_databases(tmp_path):
    seen = []
    for count, problem in ((0, ValueError("no rows")), (10**9, OverflowError("too many"))):
        site = Site(tmp_path / str(count), tables=FakeTables(count))
        site.grant("2")
        replies = [site.ask(**fields) for fields in ({"sql": "x"}, {"epsilon": "3"})]
        site.tables.problem = problem
        replies.append(site.ask())
        seen.append([reply.problem for reply in replies])
        site.agent.close()
    assert seen[0] == seen[1]
