from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from fake_desk import ALICE, ANA, BOB, CAROL, HOSTILE, FakeDesk, figure, held_item, review_item

from privnb.errors import RequestRefused, StateError
from privnb.output import Output, declare
from privnb.widgets.output_view import drawable_output
from privnb.widgets.review import ReviewWidget
from privnb.widgets.review_card import review_html, review_text


class Inbox:
    """A widget, and what it sends to its views."""

    def __init__(self, *items, reviewer=ALICE):
        self.desk = FakeDesk(*items, reviewer=reviewer)
        self.widget = ReviewWidget(self.desk)
        self.sent = []
        self.widget.send = self.sent.append

    def ask(self, **message):
        self.widget._handle_custom_msg(message, [])
        return self.sent[-1] if self.sent else None

    def open(self, item):
        return self.ask(ask="open", key=f"{item.analyst}/{item.request}")["detail"]

    def look(self, item=None, *, mark=""):
        """Ask what a view asks by itself every few seconds."""
        key = "" if item is None else f"{item.analyst}/{item.request}"
        return self.ask(ask="look", view="v1", key=key, mark=mark)

    def decide(self, item, verdict, reason="", **changes):
        message = {
            "ask": "decide",
            "key": f"{item.analyst}/{item.request}",
            "digest": item.digest,
            "output": item.output_digest or "",
            "verdict": verdict,
            "reason": reason,
        }
        return self.ask(**message | changes)


CODE, OUTPUT = review_item(1), held_item(2)


def test_the_list_says_who_asks_for_what_how_far_it_is_and_how_long_it_waits():
    (first, second) = Inbox(OUTPUT, CODE).widget.requests
    assert (first["analyst"], first["purpose"]) == (ANA, "utilisation-research")
    assert first["state"] == {"mark": "◇", "word": "code to review", "tone": "warn"}
    assert (first["approvals"], first["waited"], first["open"]) == ("1 of 2", "2 days", True)
    assert second["state"]["word"] == "output to review"


def test_what_this_reviewer_can_decide_comes_first_and_who_waits_longest_of_those():
    mine = review_item(3, analyst="mine@x.example", approvals=(ALICE,), since="2026-01-01T00:00:00")
    waiting = Inbox(mine, OUTPUT, CODE).widget.requests
    assert [line["analyst"] for line in waiting] == [CODE.analyst, OUTPUT.analyst, mine.analyst]
    assert [line["open"] for line in waiting] == [True, True, False]


def test_a_request_is_opened_with_everything_there_is_to_judge_it_by():
    detail = Inbox(CODE).open(CODE)
    assert detail["parameters"][0] == ["lowest_age", "18"]
    assert detail["findings"][0][:2] == [("line 11", 11), detail["findings"][0][1]]
    assert detail["pointed"] == [8, 11]
    assert ("keyword", "import") in detail["code"][0]
    assert detail["differences"][0]["to"] == "5e6f7a8b"
    assert detail["mock"]["rows"][0][0] == "const"
    assert "statsmodels.api" in detail["imports"]
    assert "0.8 of 4" in detail["budget"]
    assert len(detail["history"]) == 2
    assert dict(detail["facts"])["declares"] == "the last expression"
    assert detail["output"] is None


def test_what_has_not_been_released_is_in_no_trait_and_no_static_form():
    inbox = Inbox(OUTPUT, CODE)
    detail = inbox.open(OUTPUT)
    assert "0.0317629744" in json.dumps(detail)
    kept = json.dumps(inbox.widget.get_state(), default=str)
    data, _ = inbox.widget._repr_mimebundle_()
    for text in (kept, data["text/html"], data["text/plain"]):
        assert "0.0317629744" not in text
        assert "0.1317629744" not in text
        assert "sm.GLM" not in text
    assert not any("state" in message for message in inbox.sent)  # what executors would save


@pytest.mark.parametrize(
    ("item", "verdict", "reason", "said"),
    [
        (CODE, "approve", "", "Approved. The site's agent runs it next; what comes of it appears"),
        (CODE, "deny", "too much", "Denied. The analyst will read your reason."),
        (OUTPUT, "release", "", "Released. The site's agent sends it to the analyst next."),
        (OUTPUT, "withhold", "small", "Withheld. The output stays at the site; the analyst will"),
    ],
)
def test_a_decision_reaches_the_desk_and_is_confirmed(item, verdict, reason, said):
    inbox = Inbox(item)
    answer = inbox.decide(item, verdict, reason)
    assert answer["said"].startswith(said)
    assert answer["refused"] == ""
    assert inbox.desk.decisions == [(verdict, f"{item.analyst}/{item.request}", reason)]
    assert answer["detail"]["output"] is None
    assert not inbox.widget.requests[0]["open"]


def test_an_approval_that_is_not_the_last_needed_is_counted():
    item = review_item(1, approvals=(), needed=2)
    assert Inbox(item).decide(item, "approve")["said"] == "Recorded: 1 of 2 approvals."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "0" * 64}, "changed while you looked"),
        ({"output_digest": "0" * 64}, "changed while you looked"),
        ({"approvals": (ALICE,)}, "You have approved this."),
        ({"reviewers": (BOB, CAROL)}, "is not a reviewer of this site"),
        ({"stage": None, "state": "cleared"}, "nothing to decide"),
        ({"stage": "code", "state": "waiting"}, "cannot be decided now"),
    ],
)
def test_a_decision_on_something_else_than_was_shown_is_refused(change, words):
    inbox = Inbox(OUTPUT)
    inbox.desk.change(OUTPUT, **change)
    answer = inbox.decide(OUTPUT, "release")
    assert words in answer["refused"]
    assert answer["said"] == ""
    assert inbox.desk.decisions == []
    assert answer["detail"]["digest"] == inbox.desk.item(answer["key"]).digest


def test_nobody_decides_on_their_own_request_or_without_a_key():
    own = review_item(1, analyst=ALICE)
    assert "your own request" in Inbox(own).decide(own, "approve")["refused"]
    keyless = Inbox(CODE, reviewer=None)
    assert "no reviewer's key" in keyless.decide(CODE, "approve")["refused"]
    assert keyless.widget.reviewer == ""


@pytest.mark.parametrize(("item", "verdict"), [(CODE, "deny"), (OUTPUT, "withhold")])
def test_saying_no_needs_a_reason(item, verdict):
    inbox = Inbox(item)
    assert "No reason was given." in inbox.decide(item, verdict, " \n")["refused"]
    assert inbox.desk.decisions == []


def test_what_the_desk_refuses_is_said():
    inbox = Inbox(CODE)
    inbox.desk.error = RequestRefused("Two signed at once.", hint="Look again.")
    assert inbox.decide(CODE, "approve")["refused"] == "Two signed at once. Look again."
    assert inbox.widget.problem == "Two signed at once. Look again."


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"ask": "decide"},
        {"ask": "open", "key": 7},
        {"ask": "look", "view": "v1", "key": None, "mark": ""},
        {"ask": "decide", "key": "a/b", "digest": None, "output": "", "verdict": "approve"},
        "approve",
        None,
    ],
)
def test_messages_of_another_form_do_nothing(message):
    inbox = Inbox(CODE)
    inbox.widget._handle_custom_msg(message, [])
    assert inbox.sent == []
    assert inbox.desk.decisions == []


def test_an_unknown_verdict_or_request_is_refused():
    inbox = Inbox(CODE)
    assert inbox.decide(CODE, "frobnicate")["refused"]
    assert inbox.decide(CODE, "approve", key="x/y")["refused"].startswith("There is no request")
    assert inbox.ask(ask="open", key="x/y")["problem"].startswith("There is no request")
    assert inbox.desk.decisions == []


def test_looking_again_shows_what_is_new_and_why_it_cannot():
    inbox = Inbox()
    inbox.desk.change(CODE)
    assert inbox.ask(ask="refresh") == {"answered": "refresh"}
    assert len(inbox.widget.requests) == 1
    inbox.desk.error = StateError("The database is locked.", hint="Wait.")
    inbox.ask(ask="refresh")
    assert inbox.widget.problem == "The database is locked. Wait."
    assert len(inbox.widget.requests) == 1


def test_a_quiet_look_brings_the_list_up_to_date_and_the_request_shown_only_if_it_changed():
    inbox = Inbox(OUTPUT)
    mark = inbox.open(OUTPUT)["mark"]
    inbox.desk.change(CODE)
    same = {"answered": "look", "view": "v1", "key": f"{OUTPUT.analyst}/{OUTPUT.request}"}
    assert inbox.look(OUTPUT, mark=mark) == same | {"detail": None, "problem": ""}
    assert len(inbox.widget.requests) == 2
    inbox.desk.change(OUTPUT, gate=())
    assert inbox.look(OUTPUT, mark=mark)["detail"]["gate"] == []
    assert inbox.look()["detail"] is None
    gone = inbox.look(review_item(9))
    assert gone["detail"] is None
    assert gone["problem"].startswith("There is no request")


def test_what_a_quiet_look_finds_is_in_no_trait():
    inbox = Inbox(review_item(2, state="running", stage=None))
    held = held_item(2, analyst=ANA)
    inbox.desk.change(held)
    assert "0.0317629744" in json.dumps(inbox.look(held)["detail"])
    kept = json.dumps(inbox.widget.get_state(), default=str)
    assert held.request[:8] in kept
    assert "output to review" in kept
    for secret in ("0.0317629744", "0.1317629744", "sm.GLM", held.output_digest):
        assert secret not in kept


@pytest.mark.parametrize(
    ("state", "moving"),
    [
        ("waiting", False),
        ("approved", True),
        ("running", True),
        ("held", False),
        ("cleared", True),
        ("answered", False),
        ("denied", False),
        ("failed", False),
    ],
)
def test_a_request_says_whether_it_goes_on_without_a_person(state, moving):
    item = review_item(1, state=state)
    assert Inbox(item).open(item)["moving"] is moving


def test_two_analysts_may_use_the_same_id():
    other = review_item(1, analyst="eve@uni.example")
    inbox = Inbox(CODE, other)
    assert inbox.open(other)["analyst"] == "eve@uni.example"
    inbox.decide(other, "deny", "no")
    assert inbox.desk.item(f"{ANA}/{CODE.request}").state == "waiting"


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.names, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


def test_hostile_text_is_shown_and_does_nothing():
    hostile = review_item(1, analyst=HOSTILE, purpose=HOSTILE, tables=(HOSTILE,), state=HOSTILE)
    shown = Elements(review_html([hostile]))
    assert shown.names == Elements(review_html([CODE])).names
    assert "<img src=x" in shown.text
    for text in (shown.text, review_text([hostile]), json.dumps(Inbox(hostile).widget.requests)):
        assert "\u202e" not in text


def test_an_empty_inbox_says_so():
    assert "Nothing waits for review." in review_html([])
    assert review_text([]) == "Nothing waits for review."


# Outputs


def test_values_keep_all_their_digits_and_their_types():
    drawn = drawable_output(declare(0.1 + 0.2))
    assert drawn["rows"] == [["0.30000000000000004"]]
    assert drawn["caption"] == "one float"


def test_a_missing_value_is_not_a_text():
    drawn = drawable_output(OUTPUT.output)
    assert drawn["rows"][2] == ["disea", "0.0317629744", "0.0005821", None]
    assert [c["number"] for c in drawn["columns"]] == [False, True, True, True]


def test_hidden_text_in_a_cell_is_shown_as_escapes():
    drawn = drawable_output(declare("a\u200b\u200b\u200bb"))
    assert drawn["rows"] == [[r"a\u200b\u200b\u200bb"]]


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("yes", "yes"),
        ("yes  ", '"yes  "'),
        ("\tyes", '"\tyes"'),
        ("", '""'),
        ('"yes "', '"""yes """'),
    ],
)
def test_blanks_at_the_ends_of_a_text_are_seen(text, drawn):
    assert drawable_output(declare(text))["rows"] == [[drawn]]


def test_an_array_of_two_dimensions_is_a_grid_and_any_other_a_list():
    import numpy as np

    grid = drawable_output(declare(np.arange(6).reshape(2, 3)))
    assert grid["rows"] == [["0", "0", "1", "2"], ["1", "3", "4", "5"]]
    assert [c["name"] for c in grid["columns"]] == ["position", "0", "1", "2"]
    cube = drawable_output(declare(np.zeros((2, 2, 2))))
    assert len(cube["rows"]) == 8
    wide = drawable_output(declare(np.zeros((0, 10**12))))
    assert (len(wide["columns"]), wide["rows"]) == (2, [])


def test_a_figure_says_its_size_and_what_is_no_png_is_not_drawn():
    assert drawable_output(figure(48, 30))["caption"] == "figure, 48 \u00d7 30 pixels"
    forged = Output(kind="figure", png="PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+")
    assert "png" not in drawable_output(forged)
