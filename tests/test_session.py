"""A session against a fake datasite: what is sent, what is kept, what goes wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "magics"))
sys.path.insert(0, str(Path(__file__).parent / "fakes"))

from fake_channel import AnalystEnd
from fake_log import FakeLog

import privnb
from privnb import audit, wire
from privnb.datasite.ports import ArrivedReply, SiteCard
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.errors import (
    AuditBroken,
    BadMessage,
    BudgetExceeded,
    ExchangeUnavailable,
    KeyChanged,
    NotAPeer,
    QueryRefused,
    RequestRefused,
    ResultPending,
    StateError,
    UnknownName,
)
from privnb.messages import (
    REPLY_FILE,
    SOURCE_FILES,
    SUBMISSION_FILE,
    Budget,
    ConsentEntry,
    Problem,
    PythonOffer,
    Reply,
    RequestState,
    SiteDescription,
    Submission,
    released_hash,
)
from privnb.output import Output, OutputColumn
from privnb.release import Answer, AnswerColumn, Estimate, EstimateLine, PrivacyLabel
from privnb.session import Session
from privnb.store import Store

VISITS = TableSchema(
    name="visits",
    columns=(
        Column(name="zper", type="integer"),
        Column(name="mdvis", type="integer", bounds=Bounds(lower=0, upper=25)),
        Column(name="sex", type="string", values=("female", "male"), constant=True),
    ),
    privacy_unit="zper",
    max_rows_per_unit=5,
    delta=1e-6,
    purposes=("utilisation-research",),
)
BUDGET = Budget(
    table="visits",
    purpose="utilisation-research",
    epsilon_granted="4",
    epsilon_spent="1",
    epsilon_left="3.4",
    until=None,
)


class FakeSite:
    """Answers every submission at once, the way a site's agent would."""

    def __init__(self, name):
        self.name = name
        self.owner = f"owner@{name}.example"
        self.state = "accepted"
        self.silent = False
        self.submissions = []
        self.problem = None
        self.outbox = {}

    @functools.cached_property
    def log(self):
        return FakeLog(audit.origin_of(self.name, self.owner))

    def take(self, name, files):
        submission = wire.decode(Submission, files[SUBMISSION_FILE], what="it")
        self.submissions.append((submission, files))
        if not self.silent:
            self.outbox[name] = {REPLY_FILE: wire.encode(self.reply(submission))}

    def wake(self):
        """Answer what came in while it was silent."""
        self.silent = False
        for submission, _ in self.submissions:
            self.outbox[submission.request] = {REPLY_FILE: wire.encode(self.reply(submission))}

    def reply(self, submission):
        reply = self.said(submission)
        return self.logged(submission, reply) if submission.action == "run" else reply

    def logged(self, submission, reply):
        index = self.log.add(
            "release",
            "ana@uni.example",
            request=reply.request,
            digest=reply.digest,
            purpose="utilisation-research",
            epsilon=reply.label and reply.label.epsilon,
            output=released_hash(reply),
        )
        held = submission.checkpoints
        receipt = self.log.receipt(index, analyst="ana@uni.example", held=held)
        return dataclasses.replace(reply, receipt=receipt)

    def said(self, submission):
        digest = submission.computation.digest if submission.computation else None
        if self.problem is not None and submission.action != "describe":
            return Reply(request=submission.request, digest=digest, problem=self.problem)
        column = AnswerColumn(name="n", role="aggregate")
        said = {
            "describe": {
                "description": SiteDescription(
                    name=self.name,
                    owner=self.owner,
                    tables=(VISITS,),
                    budgets=(BUDGET,),
                    audit_key=self.log.verifier_key,
                )
            },
            "estimate": {
                "estimate": Estimate(
                    table="visits",
                    epsilon="1",
                    delta="1e-06",
                    lines=(EstimateLine(name="n", half_width=29.0),),
                    mechanism="discrete Gaussian",
                )
            },
        }.get(
            submission.action,
            {
                "answer": Answer(columns=(column,), rows=((100,),), half_widths=((29.0,),)),
                "label": PrivacyLabel(
                    mechanism="discrete Gaussian",
                    epsilon="1",
                    delta="1e-06",
                    unit="one person",
                    budget="epsilon 3 of 4 left",
                    mock=submission.action == "mock",
                ),
            },
        )
        return Reply(request=submission.request, digest=digest, **said)


class FakeDatasite(AnalystEnd):
    """An AnalystPort in memory."""

    fingerprint = "0123 4567"

    def __init__(self, *sites):
        self.by_owner = {site.owner: site for site in sites}
        self.asked = []
        self.gone = False

    def sites(self):
        return [
            SiteCard(name=s.name, owner=s.owner, last_seen=None, fingerprint="ab", state=s.state)
            for s in self.by_owner.values()
        ]

    def ask(self, owner, *, fingerprint=None):
        self.asked.append(owner if fingerprint is None else (owner, fingerprint))

    def submit(self, owner, name, files):
        self.by_owner[owner].take(name, files)

    def poll(self, owner):
        if self.gone:
            raise ExchangeUnavailable("The exchange is gone.")
        outbox = self.by_owner[owner].outbox
        return [ArrivedReply(owner=owner, name=n, files=f) for n, f in outbox.items()]

    def retire(self, owner, name):
        self.by_owner[owner].outbox.pop(name, None)


@pytest.fixture
def north():
    return FakeSite("northside")


@pytest.fixture
def river():
    return FakeSite("riverside")


@pytest.fixture
def datasite(north, river):
    return FakeDatasite(north, river)


def new_kernel(datasite, home):
    return Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(home))


@pytest.fixture
def session(datasite, tmp_path):
    return new_kernel(datasite, tmp_path)


def ask(session, *sites, **options):
    options = {"epsilon": 1, "purpose": "utilisation-research"} | options
    return session.secure(
        "SELECT COUNT(*) AS n FROM visits", sites=sites or ["northside"], **options
    )


def test_a_release_has_one_block_of_rows_per_site_and_the_error_beside_each_aggregate(session):
    release = ask(session, "northside", "riverside").result(timeout=5)
    assert list(release.df.columns) == ["site", "n", "± n"]
    assert release.df.site.tolist() == ["northside", "riverside"]
    assert release.df["± n"].tolist() == [29.0, 29.0]
    assert release.labels["northside"].epsilon == "1"
    assert not release.mock


def test_the_site_gets_the_very_bytes_of_the_cell_and_their_digest_identifies_them(session, north):
    sql = "SELECT COUNT(*)\tAS n -- ü\n FROM visits "
    request = session.secure(sql, sites=["northside"], epsilon="0.50", purpose="p", params={"a": 1})
    submission, files = north.submissions[0]
    assert files[SOURCE_FILES["sql"]] == sql.encode()
    assert submission.computation.source == sql
    assert submission.computation.epsilon == "0.50"
    assert submission.computation.digest == request.digest


def test_a_request_survives_the_kernel(session, datasite, tmp_path):
    request = ask(session)
    later = Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(tmp_path))
    assert later.request(request.id[:8]).result(timeout=5).df.n.tolist() == [100]
    assert later.requests().state.tolist() == ["northside: released"]


def test_a_reply_taken_in_by_another_kernel_is_found(session, datasite, tmp_path):
    first, second = ask(session), ask(session)
    other = Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(tmp_path))
    other.request(second.id).result(timeout=5)  # takes in what arrived for both
    assert not any(site.outbox for site in datasite.by_owner.values())
    assert first.result(timeout=0).df.n.tolist() == [100]


def test_waiting_ends_with_the_timeout_and_the_request_stays_alive(session, north):
    north.silent = True
    request = ask(session)
    with pytest.raises(ResultPending) as pending:
        request.result(timeout=0.02)
    assert f"%privnb result {request.id[:8]}" in pending.value.hint
    assert request.status == {"northside": "waiting"}
    north.wake()
    assert request.result(timeout=5).sites == ("northside",)


def test_an_exchange_that_goes_away_and_comes_back_does_not_end_the_waiting(session, datasite):
    request = ask(session)
    datasite.gone = True
    with pytest.raises(ResultPending):
        request.result(timeout=0.02)
    datasite.gone = False
    assert request.result(timeout=5).sites == ("northside",)


def test_a_refusal_is_raised_with_the_sites_own_words(session, north):
    north.problem = Problem(code="E_BUDGET", message="Too much.", hint="Ask for 0.4.")
    request = ask(session)
    with pytest.raises(BudgetExceeded, match="Too much") as refusal:
        request.result(timeout=5)
    assert refusal.value.hint == "Ask for 0.4."
    assert request.status == {"northside": "refused"}


def test_what_one_site_released_is_kept_when_another_refuses(session, north):
    north.problem = Problem(code="E_BUDGET", message="Too much.", hint="")
    release = ask(session, "northside", "riverside").result(timeout=5)
    assert release.sites == ("riverside",)
    assert isinstance(release.problems["northside"], BudgetExceeded)


def test_an_answer_to_another_question_is_not_believed(session, north):
    honest = north.reply
    north.reply = lambda submission: honest(
        Submission(request=submission.request, action="run", computation=None)
    )
    with pytest.raises(BadMessage, match="another question"):
        ask(session).result(timeout=5)


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff", b"[1]", b'{"request":"x"}', b"[" * 100_000])
def test_a_reply_that_makes_no_sense_is_one_clear_error(session, north, junk):
    north.silent = True
    request = ask(session)
    north.outbox[request.id] = {REPLY_FILE: junk}
    with pytest.raises(BadMessage, match=r"owner@northside\.example"):
        request.result(timeout=5)


def answering(site, **changes):
    """Let a site's honest reply differ in its answer or label."""
    honest = site.reply

    def reply(submission):
        said = honest(submission)
        if submission.action not in ("run", "mock"):
            return said
        return dataclasses.replace(
            said,
            **{part: dataclasses.replace(getattr(said, part), **c) for part, c in changes.items()},
        )

    site.reply = reply


TWICE = (AnswerColumn(name="n", role="aggregate"), AnswerColumn(name="n", role="key"))
SHADOW = (AnswerColumn(name="n", role="aggregate"), AnswerColumn(name="± n", role="key"))


@pytest.mark.parametrize(
    "table",
    [
        {"rows": ((1, 2),)},
        {"rows": ((1,), ()), "half_widths": ((1.0,), (1.0,))},
        {"half_widths": ()},
        {"columns": (), "rows": (), "half_widths": ()},
        {"columns": TWICE, "rows": ((1, 2),), "half_widths": ((1.0, None),)},
        {"columns": SHADOW, "rows": ((1, 0.001),), "half_widths": ((50.0, None),)},
        {"rows": ((10**4000,),)},
    ],
)
def test_an_answer_that_is_no_table_does_not_hide_the_answers_of_others(session, north, table):
    answering(north, answer=table)
    release = ask(session, "northside", "riverside").result(timeout=5)
    assert release.sites == ("riverside",)
    assert isinstance(release.problems["northside"], BadMessage)
    assert "northside" in str(release)
    assert "northside" in release._repr_html_()


def test_a_charged_answer_cannot_pass_for_a_mock_one(session, north):
    answering(north, label={"mock": True})
    release = ask(session, "northside", "riverside").result(timeout=5)
    assert not release.mock
    assert "mock twin" in str(release.problems["northside"])


def test_a_mock_answer_cannot_pass_for_a_real_one(session, north):
    answering(north, label={"mock": False})
    with pytest.raises(BadMessage, match="from the data"):
        session.mock("SELECT COUNT(*) AS n FROM visits", sites=["northside"])


def test_a_refusal_cannot_write_to_the_terminal_what_it_likes(session, north):
    north.problem = Problem(code="\x1b[2J", message="a\x1b[31m\u202eb", hint="\x1b]0;t\x07")
    with pytest.raises(RequestRefused) as refusal:
        ask(session).result(timeout=5)
    shown = "".join(refusal.value._render_traceback_())
    assert shown.isprintable()


def test_a_budget_in_which_a_number_is_none_is_shown_all_the_same(session, north, monkeypatch):
    monkeypatch.setitem(globals(), "BUDGET", dataclasses.replace(BUDGET, epsilon_left="a lot"))
    assert session.budget()["left"].isna().all()


def test_an_unknown_site_is_named_with_what_was_probably_meant(session):
    with pytest.raises(UnknownName, match="northsid'") as error:
        ask(session, "northsid")
    assert "Did you mean 'northside'" in error.value.hint
    with pytest.raises(UnknownName, match="No site was named"):
        session.secure("SELECT 1", sites=[], epsilon=1, purpose="p")


def test_a_site_that_has_not_accepted_us_is_asked_and_nothing_is_sent(session, north, datasite):
    north.state = "asked"
    with pytest.raises(NotAPeer) as error:
        ask(session)
    assert "privnb site accept DIR ana@uni.example" in error.value.hint
    assert datasite.asked == ["owner@northside.example"]
    assert north.submissions == []


@pytest.mark.parametrize("epsilon", [0, -1, "nan", "inf", "a lot", None, 1e9, "1e-9"])
def test_an_epsilon_that_makes_no_sense_is_refused_before_anything_is_sent(session, north, epsilon):
    with pytest.raises(QueryRefused) as error:
        ask(session, epsilon=epsilon)
    assert error.value.code == "E_EPSILON"
    assert north.submissions == []


def test_a_missing_purpose_and_an_empty_query_are_refused(session):
    with pytest.raises(RequestRefused, match="purpose"):
        ask(session, purpose="")
    with pytest.raises(QueryRefused, match="empty"):
        session.secure(" \n", sites=["northside"], epsilon=1, purpose="p")


@pytest.mark.parametrize("value", [float("nan"), object(), {"a": 1}, [[1]], b"x"])
def test_a_parameter_that_is_not_json_is_named(session, value):
    with pytest.raises(QueryRefused, match="'age'") as error:
        ask(session, params={"age": value})
    assert error.value.code == "E_PARAMETER"


def test_an_estimate_and_a_mock_answer_leave_no_request_behind(session):
    estimates = session.estimate("SELECT 1", sites=["northside"], epsilon=1)
    assert estimates.df["± expected"].tolist() == [29.0]
    assert session.mock("SELECT 1", sites=["northside"]).mock
    assert session.requests().empty


def test_sites_schema_and_budget_are_frames_to_read(session):
    assert session.sites().site.tolist() == ["northside", "riverside"]
    assert session.sites()["budget left"].tolist() == ["visits: 3.4 of 4"] * 2
    schema = session.schema("visits")
    assert schema[schema.column == "mdvis"].bounds.tolist() == ["0 … 25"] * 2
    assert schema["privacy unit"].tolist()[:3] == [
        "one person; cannot be read",
        "",
        "same in all rows of a person",
    ]
    assert session.budget().left.tolist() == [3.4, 3.4]
    with pytest.raises(UnknownName, match="visit'"):
        session.schema("visit")


def test_a_site_that_is_asleep_is_described_as_it_last_was(session, north, monkeypatch):
    monkeypatch.setattr("privnb.dispatch.QUICK_SECONDS", 0.05)
    session.sites()
    north.silent = True
    assert session.sites().tables.tolist() == ["visits", "visits"]


def test_two_owners_that_show_one_name_can_still_be_told_apart(session, datasite):
    impostor = FakeSite("northside")
    impostor.owner = "eve@evil.example"
    impostor.state = "asked"
    datasite.by_owner[impostor.owner] = impostor
    assert ask(session, "northside").result(timeout=5).sites == ("northside",)
    assert impostor.submissions == []
    assert "northside@eve@evil.example" in session.sites().site.tolist()
    impostor.state = "accepted"
    session.sites()
    with pytest.raises(UnknownName):
        ask(session, "northside")
    both = ["northside@owner@northside.example", "northside@eve@evil.example"]
    assert ask(session, *both).result(timeout=5).sites == tuple(both)


def test_a_key_is_trusted_by_the_fingerprint_that_its_owner_read_out(session, datasite):
    session.trust("northside", "ab12 cd34")
    assert datasite.asked == [("owner@northside.example", "ab12 cd34")]
    with pytest.raises(UnknownName, match="northsid'"):
        session.trust("northsid", "ab12 cd34")


def test_a_site_that_cannot_be_reached_does_not_cost_what_the_others_release(
    session, datasite, tmp_path
):
    send = datasite.submit

    def submit(owner, name, files):
        if "riverside" in owner:
            raise KeyChanged("Another key.")
        send(owner, name, files)

    datasite.submit = submit
    request = ask(session, "northside", "riverside")
    later = Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(tmp_path))
    for handle in (request, later.request(request.id)):
        release = handle.result(timeout=5)
        assert release.sites == ("northside",)
        assert isinstance(release.problems["riverside"], KeyChanged)
    with pytest.raises(KeyChanged):
        ask(session, "riverside")
    assert len(session.requests()) == 1


def test_a_request_can_be_awaited(session):
    async def wait():
        return await ask(session)

    assert asyncio.run(wait()).sites == ("northside",)


def test_a_cancelled_request_stops_waiting(session, north):
    north.silent = True
    request = ask(session)
    request.cancel()
    assert request.done
    assert request.status == {"northside": "cancelled"}


def test_a_column_called_site_does_not_hide_the_site():
    columns = (AnswerColumn(name="site", role="key"), AnswerColumn(name="n", role="aggregate"))
    answer = Answer(columns=columns, rows=((3, 10),), half_widths=((None, None),))
    label = PrivacyLabel(mechanism="m", epsilon="1", delta="0", unit="u", budget="b")
    part = privnb.release.SiteRelease(site="northside", answer=answer, label=label)
    frame = privnb.Release(request="", digest="", parts=(part,)).df
    assert list(frame.columns) == ["at site", "site", "n", "± n"]


def test_a_plot_has_a_panel_per_aggregate_and_says_that_values_are_noisy(session):
    figure = ask(session, "northside", "riverside").result(timeout=5).plot()
    assert [axes.get_title() for axes in figure.axes] == ["n"]
    assert "noisy" in figure.get_supxlabel()


# Receipts


def receipted(site, change):
    """Let a site's receipts be something else than what they should be."""
    honest = site.reply

    def reply(submission):
        said = honest(submission)
        if submission.action != "run":
            return said
        return dataclasses.replace(said, receipt=change(said.receipt))

    site.reply = reply


def test_a_release_carries_its_receipt_and_the_key_that_it_was_checked_by(session, north):
    (part,) = ask(session).result(timeout=5).parts
    assert part.key == north.log.verifier_key
    assert part.owner == north.owner
    assert json.loads(part.receipt.event)["kind"] == "release"
    assert "event 0 in the site's log of 1 events; proof checked" in session_label(session)


def session_label(session):
    newest, *_ = session.states()
    return session.request(newest.request).result(timeout=5).label


def test_a_release_without_a_receipt_is_kept_but_not_believed(session, north, tmp_path):
    receipted(north, lambda _: None)
    request = ask(session, "northside", "riverside")
    release = request.result(timeout=5)
    assert release.sites == ("riverside",)
    assert isinstance(release.problems["northside"], AuditBroken)
    assert request.status["northside"] == "failed"
    kept = json.loads((tmp_path / "requests" / request.id / f"{north.owner}.json").read_text())
    assert kept["answer"]["rows"] == [[100]]


def test_the_receipt_of_another_release_is_not_believed(session, north):
    first = ask(session)
    first.result(timeout=5)
    (part,) = first.result(timeout=5).parts
    receipted(north, lambda _: part.receipt)
    with pytest.raises(AuditBroken, match="something else than its answer"):
        ask(session).result(timeout=5)


def test_what_was_changed_after_it_was_logged_is_not_believed(session, north):
    answering(north, answer={"rows": ((99,),)})
    with pytest.raises(AuditBroken):
        ask(session).result(timeout=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("request", "00" * 16),
        ("digest", "00" * 32),
        ("purpose", "marketing"),
        ("epsilon", "0.0001"),
    ],
)
def test_a_log_that_tells_of_another_release_is_not_believed(session, north, field, value):
    honest = north.log.add
    north.log.add = lambda *said, **more: honest(*said, **more | {field: value})
    with pytest.raises(AuditBroken, match=f"logged its answer with another {field}"):
        ask(session).result(timeout=5)


def test_a_log_that_tells_of_another_analyst_is_not_believed(session, north):
    def to_bob(receipt):
        told = json.loads(receipt.event)
        told = {name: told[name] for name in ("request", "digest", "purpose", "epsilon", "output")}
        index = north.log.add("release", "bob@rival.example", **told)
        return north.log.receipt(index, analyst="bob@rival.example")

    receipted(north, to_bob)
    with pytest.raises(AuditBroken, match="another analyst"):
        ask(session).result(timeout=5)


@pytest.mark.parametrize("epsilon", ["1.0001", "19.5", "-1", "NaN", "much"])
def test_a_price_that_was_not_offered_is_not_believed(session, north, epsilon):
    answering(north, label={"epsilon": epsilon})
    with pytest.raises(BadMessage, match="a price that it was not offered"):
        ask(session).result(timeout=5)


def test_a_rewritten_log_stays_noticed_once_the_honest_one_is_shown_again(
    session, north, datasite, tmp_path
):
    ask(session).result(timeout=5)
    ask(session).result(timeout=5)
    honest = north.log
    north.__dict__["log"] = FakeLog(honest.origin, events=["{}", '{"forged":2}'], key=honest.key)
    forged = ask(session)
    with pytest.raises(AuditBroken, match="has rewritten") as first:
        forged.result(timeout=5)
    north.__dict__["log"] = honest
    honest.add("decision", "ana@uni.example")
    honest.add("decision", "ana@uni.example")
    ask(session).result(timeout=5)
    later = new_kernel(datasite, tmp_path).request(forged.id)
    with pytest.raises(AuditBroken) as again:
        later.result(timeout=5)
    assert str(again.value) == str(first.value)
    assert ask(session).result(timeout=5).sites == ("northside",)


def test_a_fork_is_noticed_though_an_honest_answer_comes_first(session, north):
    ask(session).result(timeout=5)
    honest = north.log
    north.__dict__["log"] = FakeLog(honest.origin, events=["{}"], key=honest.key)
    forked = ask(session)
    hidden, north.outbox = north.outbox, {}
    north.__dict__["log"] = honest
    honest.add("decision", "bob@uni.example")
    ask(session).result(timeout=5)
    north.outbox = hidden
    with pytest.raises(AuditBroken, match="has rewritten"):
        forked.result(timeout=5)


def test_an_answer_says_whether_its_log_is_proved_to_be_that_of_later_ones(session, north):
    ask(session).result(timeout=5)
    first, second = ask(session), ask(session)
    assert first.result(timeout=5).parts[0].linked
    assert not second.result(timeout=5).parts[0].linked
    ask(session).result(timeout=5)
    assert second.result(timeout=5).parts[0].linked


def test_what_was_found_of_a_reply_is_about_its_very_bytes(session, north, datasite, tmp_path):
    request = ask(session)
    request.result(timeout=5)
    path = tmp_path / "requests" / request.id / f"{north.owner}.json"
    path.write_bytes(path.read_bytes().replace(b"[[100]]", b"[[999]]"))
    with pytest.raises(AuditBroken, match="something else than its answer"):
        new_kernel(datasite, tmp_path).request(request.id).result(timeout=5)


def test_a_refusal_is_looked_at_once_and_its_evidence_kept_once(session, north, tmp_path):
    receipted(north, lambda receipt: dataclasses.replace(receipt, proof=("no hash",)))
    request = ask(session)
    for _ in range(3):
        with pytest.raises(AuditBroken):
            session.request(request.id).result(timeout=5)
        assert len(list((tmp_path / "audit" / "evidence").iterdir())) == 1


def test_a_key_that_changed_is_kept_as_evidence_once_however_often_it_is_shown(
    session, north, tmp_path
):
    ask(session).result(timeout=5)
    del north.log
    for _ in range(3):
        session.budgets()
    assert len(list((tmp_path / "audit" / "evidence").iterdir())) == 1


# One site must not hide the others


def hide(river, tmp_path, how):
    if how == "a long address":
        river.owner = f"{'%' * 100}@river.example"
    else:
        (tmp_path / "audit" / f"{river.owner}.json").write_text("{")


@pytest.mark.parametrize("how", ["a long address", "a damaged memory"])
def test_one_site_whose_log_cannot_be_remembered_hides_no_other(session, datasite, tmp_path, how):
    ask(session, "northside", "riverside").result(timeout=5)
    sites = list(datasite.by_owner.values())
    hide(sites[1], tmp_path, how)
    datasite.by_owner = {site.owner: site for site in sites}
    assert session.sites().site.tolist() == ["northside", "riverside"]
    assert [site for site, _ in session.budgets()] == ["northside", "riverside"]
    session.audit()
    release = ask(session, "northside", "riverside").result(timeout=5)
    assert "northside" in release.sites
    assert len(session.requests()) >= 2


def test_a_memory_that_is_damaged_while_a_request_waits_is_said_of_that_site(
    session, river, tmp_path
):
    ask(session, "riverside").result(timeout=5)
    river.silent = True
    request = ask(session, "northside", "riverside")
    (tmp_path / "audit" / f"{river.owner}.json").write_text("{")
    river.wake()
    release = request.result(timeout=5)
    assert release.sites == ("northside",)
    assert isinstance(release.problems["riverside"], StateError)


# Trails


def test_a_trail_shows_the_answers_that_were_given(session, north):
    north.said = trailing(north, lambda trail: trail)
    for _ in range(3):
        ask(session).result(timeout=5)
    frame = session.audit()
    assert frame[frame.site == "northside"].verified.tolist() == [True] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda trail: (),
        lambda trail: trail[:1] + trail[2:],
        lambda trail: trail[1:],
        lambda trail: (*trail[:1], *trail),
        lambda trail: trail[::-1],
    ],
)
def test_a_trail_that_leaves_out_an_answer_or_repeats_one_is_not_believed(session, north, change):
    north.said = trailing(north, change)
    for _ in range(3):
        ask(session).result(timeout=5)
    frame = session.audit()
    assert frame[frame.site == "northside"].verified.tolist() == [False]


def test_a_site_whose_log_was_begun_anew_knowingly_owes_nothing_of_the_one_before(
    session, north, tmp_path
):
    north.said = trailing(north, lambda trail: trail)
    for _ in range(3):
        ask(session).result(timeout=5)
    del north.log
    (tmp_path / "audit" / f"{north.owner}.json").unlink()
    session.sites()
    ask(session).result(timeout=5)
    frame = session.audit()
    assert frame[frame.site == "northside"].verified.tolist() == [True]


def trailing(site, change):
    """Let a site show its events about ana, changed."""
    honest = site.said

    def said(submission):
        if submission.action != "audit":
            return honest(submission)
        count = len(site.log.events)
        trail = tuple(
            site.log.receipt(i, analyst="ana@uni.example", held=submission.checkpoints)
            for i in range(count)
        )
        return Reply(request=submission.request, digest=None, trail=change(trail))

    return said


# Killed, cancelled, out of space


class Killed(BaseException):
    """As if the process had ended there."""


def test_a_request_that_was_cut_short_while_it_was_sent_says_so(session, datasite, tmp_path):
    def submit(owner, name, files):
        if owner == "owner@riverside.example":
            raise Killed
        FakeDatasite.submit(datasite, owner, name, files)

    datasite.submit = submit
    with pytest.raises(Killed):
        ask(session, "northside", "riverside")
    (north, river) = new_kernel(datasite, tmp_path).states()
    assert north.state == "released"
    assert "cut short while it was being sent" in river.reason


def test_a_cancelled_request_is_cancelled_in_the_next_kernel_too(
    session, north, datasite, tmp_path
):
    north.silent = True
    request = ask(session)
    request.cancel()
    (standing,) = new_kernel(datasite, tmp_path).states()
    assert standing.state == "cancelled"
    assert new_kernel(datasite, tmp_path).request(request.id).done


def test_an_answer_that_came_after_all_is_shown_though_the_request_was_cancelled(
    session, north, datasite, tmp_path
):
    north.silent = True
    request = ask(session)
    request.cancel()
    north.wake()
    session.descriptions(refresh=True)
    again = new_kernel(datasite, tmp_path).request(request.id)
    assert again.result(timeout=5).sites == ("northside",)


def test_a_reply_without_its_file_is_an_error_and_not_waited_for(session, north):
    north.silent = True
    request = ask(session)
    north.outbox[request.id] = {"other.txt": b""}
    with pytest.raises(BadMessage, match="not well formed"):
        request.result(timeout=5)


def test_a_folder_without_a_record_is_no_request(session, tmp_path):
    (tmp_path / "requests" / ("ab" * 16)).mkdir()
    with pytest.raises(UnknownName, match="There is no request"):
        session.request("abab")
    assert len(session.requests()) == 0


def test_a_request_that_was_sent_is_told_though_the_disk_is_full_by_then(
    session, north, monkeypatch
):
    session.site_names()
    written = []

    def until_full(path, data, *, write=privnb.store._write):
        written.append(path)
        if len(written) > 1:
            raise StateError(f"{path} cannot be written: No space left on device.")
        write(path, data)

    monkeypatch.setattr(privnb.store, "_write", until_full)
    request = ask(session)
    assert [s.request for s, _ in north.submissions if s.action == "run"] == [request.id]


def test_a_log_that_was_shortened_is_noticed_in_a_new_kernel_too(session, datasite, tmp_path):
    ask(session).result(timeout=5)
    ask(session).result(timeout=5)
    (north, _) = datasite.by_owner.values()
    del north.log.events[0]
    later = Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(tmp_path))
    with pytest.raises(AuditBroken):
        ask(later).result(timeout=5)


def test_what_was_proved_once_stays_proved_whatever_the_site_does_later(
    session, datasite, tmp_path
):
    request = ask(session)
    request.result(timeout=5)
    (north, _) = datasite.by_owner.values()
    del north.log
    later = Session(email="ana@uni.example", exchange="x", datasite=datasite, store=Store(tmp_path))
    assert later.request(request.id).result(timeout=5).sites == ("northside",)
    with pytest.raises(AuditBroken):
        ask(later).result(timeout=5)


def test_another_audit_key_than_the_first_is_said_and_not_used(session, north):
    ask(session).result(timeout=5)
    first = north.log.verifier_key
    del north.log
    states = session.sites().set_index("site").state
    assert states.northside == "AUDIT KEY CHANGED: do not use"
    assert states.riverside == "accepted"
    with pytest.raises(AuditBroken):
        ask(session).result(timeout=5)
    assert first != north.log.verifier_key


def test_a_site_without_an_audit_log_is_not_believed(session, north):
    honest = north.said

    def said(submission):
        reply = honest(submission)
        if submission.action != "describe":
            return reply
        description = dataclasses.replace(reply.description, audit_key="")
        return dataclasses.replace(reply, description=description)

    north.said = said
    with pytest.raises(AuditBroken, match="shows no audit log"):
        ask(session).result(timeout=5)


def test_the_site_is_told_which_checkpoints_it_must_prove_its_growth_from(session, north):
    for _ in range(3):
        ask(session).result(timeout=5)
    runs = [s for s, _ in north.submissions if s.action == "run"]
    assert [submission.checkpoints for submission in runs] == [(), (1,), (2,)]


# Python


FRAME = Output(
    kind="frame",
    columns=(
        OutputColumn(name="sex", type="string", role="index"),
        OutputColumn(name="mdvis", type="float", role="value"),
    ),
    rows=(("female", 3.5), ("male", 2.25)),
)
APPROVED = PrivacyLabel(
    mechanism="none: exact output",
    epsilon="0",
    delta="0",
    unit="nobody by noise",
    budget="",
    route="approval",
    approved_by=("code: alice@clinic.example",),
)


@pytest.fixture
def exact(north, river):
    """Two sites that take Python and let out a frame."""

    def letting_out(site, output=FRAME):
        honest = site.said

        def said(submission):
            reply = honest(submission)
            if reply.description is not None:
                python = PythonOffer(
                    packages=("pandas",),
                    seconds=60,
                    max_rows=200,
                    max_bytes=200_000,
                    min_units=10,
                    review="nobody",
                    sandbox="level 3",
                )
                description = dataclasses.replace(reply.description, python=python)
                return dataclasses.replace(reply, description=description)
            if reply.label is None or submission.computation.kind != "python":
                return reply
            label = dataclasses.replace(APPROVED, mock=submission.action == "mock")
            return dataclasses.replace(reply, answer=None, output=output, label=label)

        site.said = said

    for site in (north, river):
        letting_out(site)
    return letting_out


def run(session, *sites, source="visits.groupby('sex').mdvis.mean()", **options):
    options = {"purpose": "utilisation-research", "tables": ["visits"]} | options
    return session.python(source, sites=sites or ["northside"], **options)


def test_an_output_comes_back_as_what_the_cell_declared(session, exact):
    release = run(session).result(timeout=5)
    assert release.value.mdvis.to_dict() == {"female": 3.5, "male": 2.25}
    assert release.df.to_dict("list") == {
        "site": ["northside"] * 2,
        "sex": ["female", "male"],
        "mdvis": [3.5, 2.25],
    }
    assert release.plot().axes[0].get_title() == "mdvis"


def test_outputs_of_several_sites_are_values_by_name_and_blocks_of_one_table(session, exact):
    release = run(session, "northside", "riverside").result(timeout=5)
    assert list(release.value) == ["northside", "riverside"]
    assert release.df.site.tolist() == ["northside"] * 2 + ["riverside"] * 2


def test_the_value_is_by_name_also_when_only_one_of_two_sites_released(session, exact, river):
    river.problem = Problem(code="E_DENIED", message="No.", hint="")
    assert list(run(session, "northside", "riverside").result(timeout=5).value) == ["northside"]


@pytest.mark.parametrize(
    "output",
    [
        dataclasses.replace(FRAME, rows=(("female",),)),
        dataclasses.replace(FRAME, rows=(("female", "many"),)),
        dataclasses.replace(FRAME, columns=()),
        dataclasses.replace(FRAME, kind="figure", png="AAAA", rows=(), columns=()),
        dataclasses.replace(FRAME, kind="array", shape=(10**9, 10**9)),
        dataclasses.replace(FRAME, png="AAAA"),
    ],
)
def test_an_output_that_is_not_well_formed_hides_no_other(session, exact, north, output):
    exact(north, output)
    release = run(session, "northside", "riverside").result(timeout=5)
    assert release.sites == ("riverside",)
    assert isinstance(release.problems["northside"], BadMessage)
    assert "northside" in release._repr_html_()


def test_an_exact_output_cannot_pass_for_a_noisy_answer_nor_the_other_way(session, exact, north):
    label = {"label": dataclasses.replace(APPROVED, mock=False), "answer": None, "output": FRAME}
    honest = north.said
    north.said = lambda submission: (
        dataclasses.replace(honest(submission), **label)
        if submission.action == "run"
        else honest(submission)
    )
    with pytest.raises(BadMessage, match="exact output where a noisy answer"):
        ask(session).result(timeout=5)
    noisy = Answer(
        columns=(AnswerColumn(name="n", role="aggregate"),), rows=((1,),), half_widths=((1.0,),)
    )
    label.update(answer=noisy, output=None)
    with pytest.raises(BadMessage, match="noisy table where none"):
        run(session).result(timeout=5)


def test_an_exact_output_cannot_claim_to_be_protected_by_noise(session, exact, north):
    answering(north, label={"route": "noise"})
    with pytest.raises(BadMessage, match="what protects"):
        run(session).result(timeout=5)


def test_a_mock_run_of_python_leaves_no_request_and_no_receipt(session, exact):
    release = session.mock("visits", kind="python", sites=["northside"], tables=["visits"])
    assert release.mock
    assert [part["receipt"] for part in release.record()["parts"]] == [None]
    assert session.requests().empty


def test_states_are_cleaned_and_only_of_what_was_asked(session, exact, north):
    north.silent = True
    request = run(session)
    hostile = "\x1b[2J" + "x" * 9000

    def said(submission):
        told = [
            RequestState(request=each, state="waiting for review", deciders=hostile)
            for each in (*submission.requests, "ff" * 16)
        ]
        return Reply(request=submission.request, digest=None, states=tuple(told))

    north.said, north.silent = said, False
    (standing,) = session.states([request])
    assert standing.state == "waiting for review"
    assert standing.deciders.isprintable()
    assert len(standing.deciders) < 1000
    assert session.requests()["who decides"].tolist() == [standing.deciders]


def test_a_record_and_a_description_of_the_version_before_still_open(session, tmp_path, datasite):
    request = "ab" * 16
    folder = tmp_path / "requests" / request
    folder.mkdir()
    record = {
        "request": request,
        "action": "run",
        "asked_at": "2026-01-01T00:00:00.000000+00:00",
        "sites": {"northside": "owner@northside.example"},
        "computation": {"kind": "sql", "source": "SELECT 1", "epsilon": "1", "purpose": "p"},
    }
    (folder / "record.json").write_text(json.dumps(record))
    described = {"name": "lakeside", "owner": "o@l.example", "tables": [], "budgets": []}
    (tmp_path / "descriptions" / "o@l.example.json").write_text(json.dumps(described))
    assert session.requests().state.tolist() == ["northside: waiting for an answer"]
    assert Store(tmp_path).description("o@l.example").consents == ()


def test_access_is_asked_for_by_table_and_purpose(session, north):
    entry = ConsentEntry(
        table="visits", purpose="utilisation-research", state="pending", since="", reason="why"
    )
    honest = north.said
    north.said = lambda s: (
        Reply(request=s.request, digest=None, consent=entry)
        if s.action == "request-access"
        else honest(s)
    )
    asked = session.request_access("northside", "visits", "utilisation-research", "why", epsilon=2)
    assert asked == entry
    (access,) = [s.access for s, _ in north.submissions if s.action == "request-access"]
    assert (access.table, access.epsilon) == ("visits", "2")
