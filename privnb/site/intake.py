"""Read what an analyst sent, strictly: everything that arrives is hostile until it decodes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from privnb import wire
from privnb.errors import BadMessage
from privnb.messages import (
    ACTIONS_WITH_A_COMPUTATION,
    SOURCE_FILES,
    SUBMISSION_FILE,
    Submission,
)

if TYPE_CHECKING:
    from privnb.datasite.ports import ArrivedJob

__all__ = [
    "MAX_CHECKPOINTS",
    "MAX_REASON",
    "MAX_REQUESTS",
    "MAX_SUBMISSION_BYTES",
    "is_request_name",
    "read_submission",
]

MAX_SUBMISSION_BYTES = 1024 * 1024
"""The largest submission that is read, in bytes: the longest cell, and room for its parameters."""
MAX_REQUESTS = 200
MAX_CHECKPOINTS = 16
MAX_REASON = 2000
"""The longest reason that is read, in characters."""

_NAME = re.compile(r"[0-9a-f]{32}")


def is_request_name(name: str) -> bool:
    """Tell whether a job is named as `Submission.request` must be."""
    return _NAME.fullmatch(name) is not None


def read_submission(job: ArrivedJob) -> Submission:
    """Decode a job, or raise `BadMessage` or `QueryRefused`, which say what is wrong with it.

    Guarantees that the submission is named as its job is, that it has the parts that its action
    needs and no others, and that the readable copy of the source is the source, byte for byte:
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
    _check_parts(submission)
    computation = submission.computation
    if computation is not None:
        file = SOURCE_FILES[computation.kind]
        if job.files.get(file) != computation.source.encode("utf-8", "surrogatepass"):
            raise BadMessage(f"The file {file} is not the source of the computation.")
    return submission


def _check_parts(submission: Submission) -> None:
    """Refuse a submission with a part too many, or without one that its action needs."""
    for action, part, name in (
        (submission.action in ACTIONS_WITH_A_COMPUTATION, submission.computation, "a computation"),
        (submission.action == "request-access", submission.access, "an ask for access"),
    ):
        if action != (part is not None):
            how = "with" if action else "without"
            raise BadMessage(f"A request to {submission.action} comes {how} {name}.")
    if len(submission.requests) > MAX_REQUESTS or len(submission.checkpoints) > MAX_CHECKPOINTS:
        raise BadMessage("The request names more requests or checkpoints than are read.")
    if not all(map(is_request_name, submission.requests)):
        raise BadMessage("An earlier request is named by 32 hexadecimal digits.")
    if len(set(submission.requests)) < len(submission.requests):
        raise BadMessage("An earlier request is named twice.")
    access = submission.access
    if access is not None and len(access.reason) > MAX_REASON:
        raise BadMessage(f"A reason has at most {MAX_REASON} characters.")
