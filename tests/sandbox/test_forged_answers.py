"""Bytes that a worker may write instead of an answer: the agent believes nothing but their form.

The worker here is one that only writes them; `test_attacks` has real ones do so from their cells.
"""

from __future__ import annotations

import os

import pytest
from sandboxes import LIMITS, cell

from privnb.site.sandbox import Failed, Finished
from privnb.site.sandbox.one_cell import run_cell

FORGED = {
    "no JSON": (b"not json", {"killed"}),
    "another shape": (b"[1, 2, 3]", {"killed"}),
    "a further field": (b'{"status":"memory","data":"row 7"}', {"killed"}),
    "nested without end": (b"[" * 19_000, {"killed"}),
    "nested objects": (
        b'{"status":"done","output":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
        {"killed"},
    ),
    "a huge number": (
        b'{"status":"error","error":"Error","line":' + b"9" * 18_000 + b"}",
        {"killed"},
    ),
    "an early end": (b'{"status":"done","out', {"killed"}),
    "bytes that are no text": (bytes(range(256)), {"killed"}),
    "not a number": (
        (
            b'{"status":"done","output":{"kind":"scalar","columns":[{"name":"value",'
            b'"type":"float","role":"value"}],"rows":[[NaN]]}}'
        ),
        {"killed"},
    ),
    "rows that do not fit": (
        (
            b'{"status":"done","output":{"kind":"frame","columns":[{"name":"a",'
            b'"type":"integer","role":"value"}],"rows":[[1],[1,2],["row 7"]]}}'
        ),
        {"killed"},
    ),
    "no elements and endless shape": (
        b'{"status":"done","output":{"kind":"array","columns":[{"name":"value",'
        b'"type":"integer","role":"value"}],"rows":[],"shape":[0,' + b"9" * 300 + b"]}}",
        {"killed", "fine"},
    ),
    "a picture that is none": (
        b'{"status":"done","output":{"kind":"figure","png":"aGVsbG8="}}',
        {"killed"},
    ),
    "a lock failure": (b'{"status":"lock"}', {"killed"}),
    "an error of an unknown class": (
        b'{"status":"error","error":"row 7 is Ana","line":123456789}',
        {"error"},
    ),
    "an unknown type": (b'{"status":"output","output_type":"row 7 is Ana"}', {"output"}),
    "more than an answer may have": (b"1" * (LIMITS.output_bytes + 2000), {"size"}),
}


class Forger:
    """A worker that answers whatever it is given with the same bytes, and ends."""

    scratch = None

    def __init__(self, answer):
        self._answer = answer

    def hand_over(self, descriptors):
        _, pipe, *_ = descriptors
        assert os.write(pipe, self._answer) == len(self._answer)

    def cpu_seconds(self):
        return 0.0

    def end(self, *, grace=0.0):
        return 0


@pytest.mark.parametrize("name", FORGED)
def test_nothing_of_a_forged_answer_is_believed(name):
    answer, allowed = FORGED[name]
    ended = run_cell(Forger(answer), cell("1"), limits=LIMITS)
    assert ("fine" if isinstance(ended, Finished) else ended.reason) in allowed
    if isinstance(ended, Failed):
        assert ended.error in {"Error", None}
        assert ended.output_type in {"another type", None}
        assert ended.line is None or 1 <= ended.line <= 2


def test_an_honest_answer_of_the_same_worker_is_believed():
    honest = (
        b'{"status":"done","output":{"kind":"scalar","columns":[{"name":"value",'
        b'"type":"integer","role":"value"}],"rows":[[7]]}}'
    )
    ended = run_cell(Forger(honest), cell("1"), limits=LIMITS)
    assert isinstance(ended, Finished)
    assert ended.output.value() == 7
