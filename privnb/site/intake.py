"""Read what an analyst sent, strictly: everything that arrives is hostile until it decodes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import BadMessage
from privnb.messages import SOURCE_FILE, SUBMISSION_FILE, Submission

if TYPE_CHECKING:
    from privnb.datasite.ports import ArrivedJob

__all__ = ["MAX_SUBMISSION_BYTES", "is_request_name", "read_submission"]

MAX_SUBMISSION_BYTES = 1024 * 1024
"""The largest submission that is read, in bytes: the longest cell, and room for its parameters."""

_NAME = re.compile(r"[0-9a-f]{32}")


def is_request_name(name: str) -> bool:
    """Tell whether a job is named as `Submission.request` must be."""
    return _NAME.fullmatch(name) is not None


def read_submission(job: ArrivedJob) -> Submission:
    """Decode a job, or raise `BadMessage` or `QueryRefused`, which say what is wrong with it.

    Guarantees that the submission is named as its job is, that an action which needs a
    computation has one, and that the readable copy of the source is the source, byte for byte:
    what a person reads in the job is what runs.
    """
    if not is_request_name(job.name):
        raise BadMessage("A request is named by 32 hexadecimal digits.")
    data = job.files.get(SUBMISSION_FILE)
    if data is None:
        raise BadMessage(f"The request has no file {SUBMISSION_FILE}.")
    submission = wire.decode(Submission, data, what="the request", limit=MAX_SUBMISSION_BYTES)
    if submission.request != job.name:
        raise BadMessage("The request is not named as its job is.")
    computation = submission.computation
    if submission.action == "describe":
        if computation is not None:
            raise BadMessage("A request for the description comes without a computation.")
        return submission
    if computation is None:
        raise BadMessage(f"A request to {submission.action} comes with a computation.")
    if job.files.get(SOURCE_FILE) != computation.source.encode("utf-8", "surrogatepass"):
        raise BadMessage(f"The file {SOURCE_FILE} is not the source of the computation.")
    return submission
