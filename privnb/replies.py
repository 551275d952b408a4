"""What a site's reply must be before any of it is believed: sites are hostile until then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, PrivnbError, RequestRefused, error_from_code
from privnb.unseen import brief

if TYPE_CHECKING:
    from privnb.computation import Federation
    from privnb.messages import Problem, Reply
    from privnb.release import Answer, PrivacyLabel
    from privnb.store import Record

__all__ = ["DISTRUST", "believed", "error_of", "refusal_of"]

DISTRUST = "Do not use this site's answer, and tell its owner."

_CODE = re.compile(r"E_[A-Z_]{1,40}")
_OURS = frozenset({"E_AUDIT", "E_CANCELLED", "E_KEY_CHANGED", "E_PENDING", "E_STATE"})
"""What only this side can find out: a site that says it would speak in the analyst's name."""
_LARGEST_INTEGER = 2**63
_ROUTES = {"sql": "noise", "python": "approval", "model": "noise"}


def believed(reply: Reply, *, site: str, record: Record) -> Reply | PrivnbError:
    """Return a reply that answers what was asked, or the error that it stands for.

    One site's nonsense must not hide what others sent, so nothing is raised.
    """
    if reply.problem is not None:
        return error_of(reply.problem)
    computation = record.computation
    expected = computation.digest if computation else None
    if reply.request != record.request or reply.digest != expected:
        said = f"{site} answered another question than the one that was asked."
        return BadMessage(said, hint=DISTRUST)
    wrong = _what_is_wrong(reply, site=site, record=record)
    return reply if wrong is None else BadMessage(wrong, hint=DISTRUST)


def error_of(problem: Problem) -> PrivnbError:
    """Return the error that a site speaks of, in words that can be printed, in terminals too."""
    theirs = _CODE.fullmatch(problem.code) and problem.code not in _OURS
    code = problem.code if theirs else RequestRefused.default_code
    return error_from_code(code, brief(problem.message), brief(problem.hint))


def refusal_of(reply: Reply | PrivnbError) -> PrivnbError | None:
    """Return why a site that was asked for a price gave none, or would refuse to be paid it."""
    if isinstance(reply, PrivnbError):
        return reply
    return None if reply.refusal is None else error_of(reply.refusal)


def _what_is_wrong(reply: Reply, *, site: str, record: Record) -> str | None:
    federation = record.computation.federation if record.computation else None
    if federation is None:
        wrong = _what_is_wrong_alone(reply, site=site, record=record)
    else:
        wrong = _what_is_wrong_together(reply, federation, site=site)
    if wrong is None and reply.label is not None:
        return _what_the_label_belies(reply.label, site=site, record=record)
    return wrong


def _what_is_wrong_together(reply: Reply, federation: Federation, *, site: str) -> str | None:
    if reply.answer is not None or reply.output is not None:
        return f"{site} sent what is its own where only sums were asked for."
    if reply.part is not None and not set(reply.part.sites) <= set(federation.sites):
        return f"{site} says that it shared sums with sites that were not asked."
    return None


def _what_is_wrong_alone(reply: Reply, *, site: str, record: Record) -> str | None:
    kind = record.computation.kind if record.computation else None
    if reply.part is not None:
        return f"{site} says that it took part in a run that was not asked for."
    if reply.answer is not None:
        if kind != "sql":
            return f"{site} sent a noisy table where none was asked."
        if not _is_table(reply.answer):
            return f"The answer of {site} is not a table."
    if reply.output is not None:
        if kind != "python":
            return f"{site} sent an exact output where a noisy answer was asked."
        try:
            reply.output.value()
        except BadMessage as problem:
            return f"The output of {site} is not well formed: {problem.message}"
    return None


def _what_the_label_belies(label: PrivacyLabel, *, site: str, record: Record) -> str | None:
    mock = record.action == "mock"
    if label.mock != mock:
        claimed, asked = ("the data", "its mock twin") if mock else ("its mock twin", "the data")
        return f"{site} says that it answered from {claimed}, but {asked} was asked."
    kind = record.computation.kind if record.computation else "sql"
    if not mock and label.route != _ROUTES[kind]:
        return f"{site} does not say truly what protects its answer."
    return None


def _is_table(answer: Answer) -> bool:
    """Tell whether an answer can be shown."""
    names = [column.name for column in answer.columns]
    names += [f"± {column.name}" for column in answer.columns if column.role == "aggregate"]
    return (
        bool(answer.columns)
        and len(set(names)) == len(names)
        and len(answer.rows) == len(answer.half_widths)
        and all(len(row) == len(answer.columns) for row in (*answer.rows, *answer.half_widths))
        and all(
            not isinstance(value, int) or abs(value) <= _LARGEST_INTEGER
            for row in answer.rows
            for value in row
        )
    )
