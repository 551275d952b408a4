"""The review inbox: what waits for a person, everything they need to see, and their decision.

What is unreleased must not stay behind in a notebook. Traits are saved with a widget's state, so
they hold no more than the static table does; code, mock results and outputs go to the front end
only in messages, one request at a time: when the reviewer opens it, and, while they look at it,
when it has changed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Protocol

import traitlets

from privnb.errors import PrivnbError, RequestRefused
from privnb.widgets.assets import script, style
from privnb.widgets.moments import how_long, minute
from privnb.widgets.output_view import drawable_output
from privnb.widgets.review_card import review_html, review_text, standing
from privnb.widgets.saved_form import WidgetWithSavedForm
from privnb.widgets.states import state_for_widget
from privnb.widgets.visible import code_lines, difference_lines, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.review_item import ReviewItem

__all__ = ["ReviewDesk", "ReviewWidget"]

_STAGES = {"approve": "code", "deny": "code", "release": "output", "withhold": "output"}
"""What each verdict is about."""
_NEGATIVE = ("deny", "withhold")
_MOVING = ("approved", "running", "cleared")
"""The states that a request leaves without any person, by what the site's agent does."""
_LINES = re.compile(r"\blines? \d{1,6}(?:(?:, | and | to |-|\u2013)\d{1,6})*")


class ReviewDesk(Protocol):
    """Where one reviewer of one site sits; every decision is checked and signed there."""

    @property
    def reviewer(self) -> str | None:
        """Whose key signs; None where there is none, and nothing can be decided."""

    def items(self) -> Sequence[ReviewItem]:
        """All requests that a reviewer may want to see."""

    def item(self, prefix: str) -> ReviewItem:
        """One request, as ``ANALYST/ID``, with all there is to see."""

    def approve(self, prefix: str, reason: str, *, seen: str) -> object:
        """Let the code run, if what is to be decided on is what was ``seen``."""

    def deny(self, prefix: str, reason: str, *, seen: str) -> object:
        """Refuse the code."""

    def release(self, prefix: str, reason: str, *, seen: str) -> object:
        """Let the output leave the site."""

    def withhold(self, prefix: str, reason: str, *, seen: str) -> object:
        """Keep the output at the site."""


class ReviewWidget(WidgetWithSavedForm):
    """The inbox of one desk. Front ends without widgets show a static table without outputs.

    A decision names what the reviewer had before their eyes: the digests of the computation and of
    its output. It is refused when the desk holds something else by now.

    Parameters
    ----------
    desk
        Where requests come from, and decisions go.

    Attributes
    ----------
    shown
        The requests in the list.
    """

    _esm = script("review")
    _css = style("review")

    requests: traitlets.List[dict[str, Any]] = traitlets.List(
        help="One mapping per request, with what the list tells of it."
    ).tag(sync=True)
    reviewer = traitlets.Unicode(help="Who decides here; empty: nobody.").tag(sync=True)
    problem = traitlets.Unicode(help="Why the last look failed; empty if not.").tag(sync=True)

    def __init__(self, desk: ReviewDesk) -> None:
        super().__init__()
        self._desk = desk
        self.shown: tuple[ReviewItem, ...] = ()
        self.reviewer = visible(desk.reviewer or "")
        self.on_msg(self._heard)
        self.refresh()

    def refresh(self) -> None:
        """Look again at what waits. An error is shown in the widget, not raised."""
        try:
            self.shown = tuple(self._desk.items())
            self.problem = ""
        except PrivnbError as error:
            self.problem = _words(error)
        now = dt.datetime.now(dt.UTC)
        lines = [_line(item, self._desk.reviewer, now=now) for item in self.shown]
        # what this reviewer can decide comes first; among equals, who has waited longest
        self.requests = sorted(lines, key=lambda line: (not line["open"], line["since"]))

    def _heard(self, _: object, content: object, __: object) -> None:
        match content:
            case {"ask": "refresh"}:
                self.refresh()
                self.send({"answered": "refresh"})
            case {"ask": "open", "key": str(key)}:
                self.send({"answered": "open", **self._opened(key)})
            case {"ask": "look", "view": str(view), "key": str(key), "mark": str(mark)}:
                self.refresh()
                self.send({"answered": "look", "view": view, **self._changed(key, mark)})
            case {
                "ask": "decide",
                "key": str(key),
                "digest": str(digest),
                "output": str(output),
                "verdict": str(verdict),
                "reason": str(reason),
            }:
                problem = self._decide(key, verdict, reason, seen=(digest, output))
                self.refresh()
                said = "" if problem else self._said(key, verdict)
                opened = self._opened(key)
                self.send({"answered": "decide", **opened, "said": said, "refused": problem})

    def _opened(self, key: str) -> dict[str, Any]:
        try:
            item = self._desk.item(key)
        except PrivnbError as error:
            return {"key": key, "detail": None, "problem": _words(error)}
        return {"key": key, "detail": _detail(item, self._desk.reviewer), "problem": ""}

    def _changed(self, key: str, mark: str) -> dict[str, Any]:
        """Open a request that a view shows; leave out what there is to see while that is the same.

        Views ask this by themselves every few seconds: what is unreleased is not sent each time.
        """
        nothing: dict[str, Any] = {"key": "", "detail": None, "problem": ""}
        opened = self._opened(key) if key else nothing
        if opened["detail"] is not None and opened["detail"]["mark"] == mark:
            opened["detail"] = None
        return opened

    def _decide(self, key: str, verdict: str, reason: str, *, seen: tuple[str, str]) -> str:
        """Take a decision to the desk; return why it was refused, or nothing."""
        try:
            item = self._desk.item(key)
            if seen != (item.digest, item.output_digest or ""):
                raise RequestRefused(
                    "The request changed while you looked; nothing was decided.",
                    hint="Look at what it is now, and decide again.",
                )
            blocked = _blocked(item, self._desk.reviewer)
            if blocked or _STAGES.get(verdict) != item.stage:
                raise RequestRefused(blocked or "This cannot be decided now.")
            if verdict in _NEGATIVE and not reason.strip():
                raise RequestRefused("No reason was given.", hint="The analyst needs to read one.")
            self._act(key, verdict, reason.strip(), seen=item.seen)
        except PrivnbError as error:
            return _words(error)
        return ""

    def _act(self, key: str, verdict: str, reason: str, *, seen: str) -> None:
        match verdict:
            case "approve":
                self._desk.approve(key, reason, seen=seen)
            case "deny":
                self._desk.deny(key, reason, seen=seen)
            case "release":
                self._desk.release(key, reason, seen=seen)
            case "withhold":
                self._desk.withhold(key, reason, seen=seen)

    def _said(self, key: str, verdict: str) -> str:
        if verdict == "deny":
            return "Denied. The analyst will read your reason."
        if verdict == "withhold":
            return "Withheld. The output stays at the site; the analyst will read your reason."
        item = next((item for item in self.shown if _key(item) == key), None)
        if item is not None and item.stage == _STAGES[verdict]:
            return f"Recorded: {len(item.approvals)} of {item.needed} approvals."
        if verdict == "approve":
            return "Approved. The site's agent runs it next; what comes of it appears here."
        return "Released. The site's agent sends it to the analyst next."

    def saved_form(self) -> tuple[str, str]:
        """Return what is drawn as a table that needs no kernel."""
        return review_html(self.shown), review_text(self.shown)


def _key(item: ReviewItem) -> str:
    """Name a request as a desk does; two analysts may have used the same id."""
    return f"{item.analyst}/{item.request}"


def _words(error: PrivnbError) -> str:
    return visible(f"{error.message} {error.hint}".strip())


def _blocked(item: ReviewItem, reviewer: str | None) -> str:
    """Say why this reviewer cannot decide about this request now; nothing if they can."""
    if item.stage is None:
        return "There is nothing to decide about this request now."
    if reviewer is None:
        return "There is no reviewer's key here; privnb review key makes one."
    if reviewer not in item.reviewers:
        return f"{visible(reviewer)} is not a reviewer of this site; its site.toml lists them."
    if reviewer == item.analyst:
        return "This is your own request: somebody else decides."
    if reviewer in item.approvals:
        return "You have approved this. It waits for somebody else."
    return ""


def _line(item: ReviewItem, reviewer: str | None, *, now: dt.datetime) -> dict[str, Any]:
    return {
        "key": _key(item),
        "short": item.request[:8],
        "analyst": visible(item.analyst),
        "purpose": visible(item.purpose),
        "state": state_for_widget(*standing(item.state)),
        "approvals": f"{len(item.approvals)} of {item.needed}",
        "since": item.since,
        "waited": how_long(item.since, now=now),
        "open": not _blocked(item, reviewer),
    }


def _detail(item: ReviewItem, reviewer: str | None) -> dict[str, Any]:
    code = code_lines(item.source)
    findings = [_with_lines(visible(finding), last=len(code)) for finding in item.findings]
    detail = {
        "key": _key(item),
        "digest": item.digest,
        "output_digest": item.output_digest or "",
        "analyst": visible(item.analyst),
        "purpose": visible(item.purpose),
        "state": state_for_widget(*standing(item.state)),
        "facts": _facts(item),
        "parameters": [
            [visible(name), visible(json.dumps(value, ensure_ascii=False))]
            for name, value in (item.parameters or {}).items()
        ],
        "findings": findings,
        "code": code,
        "pointed": sorted({line for finding in findings for _, line in finding if line}),
        "differences": [
            {"words": words, "to": visible(earlier[:8]), "lines": difference_lines(text)}
            for words, earlier, text in (
                ("Changes since the nearest approved request", item.difference_to, item.difference),
                ("Changes since the one denied", item.denied_to, item.denied_difference),
            )
            if earlier
        ],
        "mock": drawable_output(item.mock_output) if item.mock_output else None,
        "mock_problem": visible(item.mock_problem),
        "output": drawable_output(item.output) if item.output else None,
        "gate": [visible(words) for words in item.gate],
        "imports": [visible(name) for name in item.imports],
        "columns": [visible(name) for name in item.columns],
        "budget": visible(item.budget),
        "history": [visible(words) for words in item.history],
        "stage": item.stage,
        "approvals": [visible(email) for email in item.approvals],
        "needed": item.needed,
        "others": [visible(r) for r in item.reviewers if r not in {*item.approvals, item.analyst}],
        "blocked": _blocked(item, reviewer),
        "moving": item.state in _MOVING,
    }
    # tells whether a view shows this already
    return detail | {"mark": hashlib.sha256(json.dumps(detail).encode()).hexdigest()}


def _facts(item: ReviewItem) -> list[tuple[str, str]]:
    declared = item.output_name or "the last expression"
    facts = (
        ("request", item.request),
        ("tables", ", ".join(item.tables)),
        *(item.federation or (("declares", declared),)),
        ("waiting since", f"{minute(item.since)} UTC"),
        ("expires", f"{minute(item.expires)} UTC"),
        ("rule", item.rule),
        ("digest", item.digest),
    )
    return [(name, visible(value)) for name, value in facts if value]


def _with_lines(finding: str, *, last: int) -> list[tuple[str, int | None]]:
    """Split a finding where it names lines, so that they can be pointed at.

    >>> _with_lines("eval runs text as code (line 3).", last=9)
    [('eval runs text as code (', None), ('line 3', 3), (').', None)]
    """
    parts: list[tuple[str, int | None]] = []
    done = 0
    for named in _LINES.finditer(finding):
        for digits in re.finditer(r"(?:lines? )?(\d+)", named[0]):
            if 1 <= int(digits[1]) <= last:
                start, end = (named.start() + edge for edge in digits.span())
                parts += [(finding[done:start], None), (finding[start:end], int(digits[1]))]
                done = end
    parts.append((finding[done:], None))
    return [part for part in parts if part[0]]
