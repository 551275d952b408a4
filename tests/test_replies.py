"""What is made of the errors that sites send."""

from __future__ import annotations

import pytest

from privnb.messages import Problem, Reply
from privnb.replies import believed
from privnb.standing import status_of
from privnb.store import Record

RECORD = Record(action="run", request="ab" * 16, asked_at="2026-11-24T10:00:00", sites={})


def heard(code, message="Too much.", hint="Ask for less."):
    problem = Problem(code=code, message=message, hint=hint)
    reply = Reply(request=RECORD.request, digest=None, problem=problem)
    return believed(reply, site="northside", record=RECORD)


@pytest.mark.parametrize(
    "code", ["E_CANCELLED", "E_PENDING", "E_AUDIT", "E_STATE", "E_KEY_CHANGED", "E_", "\x1b[2J"]
)
def test_a_site_cannot_say_what_only_this_side_finds_out(code):
    error = heard(code)
    assert error.code == "E_POLICY"
    assert status_of(error) == "refused"


def test_what_a_site_may_say_keeps_its_code():
    assert heard("E_BUDGET").code == "E_BUDGET"


def test_an_error_of_a_site_is_two_short_lines():
    error = heard("E_POLICY", f"{'A' * 8_000_000}", f"x\nHint: do this\n{'b' * 9_000}")
    assert len(error.message) == len(error.hint) == 500
    assert error.message.endswith("…")
    assert error.hint.startswith("x Hint: do this b")
