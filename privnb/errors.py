"""Every error privnb raises on purpose, with its code and its remedy.

::

    PrivnbError               E_PRIVNB
    ├── QueryRefused          E_UNSUPPORTED, …        the SQL is outside the private subset
    ├── RequestRefused        E_POLICY, E_DENIED, …   the site's policy, or its reviewers, say no
    │   ├── AccessRefused     E_NO_GRANT, E_PURPOSE   no consent covers this request
    │   ├── BudgetExceeded    E_BUDGET                the privacy budget does not allow it
    │   └── RosterRefused     E_ROSTER                these sites may not be summed, or are too few
    ├── SiteFailure           E_EXECUTION             the site could not compute; constant wording
    ├── ConfigError           E_CONFIG                site.toml, or the data it names, is wrong
    ├── UnknownName           E_UNKNOWN               no such site, table, request, …
    ├── ExchangeError         E_EXCHANGE
    │   ├── ExchangeUnavailable  E_EXCHANGE_UNAVAILABLE  the shared storage cannot be reached
    │   ├── NotAPeer          E_NOT_A_PEER            one side has not accepted the other
    │   ├── KeyChanged        E_KEY_CHANGED           a pinned key is not the one presented
    │   └── BadMessage        E_BAD_MESSAGE           something received is not well formed
    ├── AuditBroken           E_AUDIT                 a receipt or an audit log does not hold
    ├── ResultPending         E_PENDING               no answer yet; the request is alive
    ├── RunStalled            E_STALLED               a federated run waits for sites that have gone
    ├── RoundLost             E_ROUND_LOST            a sum can never be opened any more
    └── StateError            E_STATE                 local state is locked, full or damaged

An error has a *message* (what was wrong, and where) and a *hint* (what to do). Errors that a site
sends to an analyst are built from the query, the public schema and the ledger, never from the data.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar, Self

from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "AccessRefused",
    "AuditBroken",
    "BadMessage",
    "BudgetExceeded",
    "ConfigError",
    "ExchangeError",
    "ExchangeUnavailable",
    "KeyChanged",
    "NotAPeer",
    "PrivnbError",
    "QueryRefused",
    "RequestRefused",
    "ResultPending",
    "RosterRefused",
    "RoundLost",
    "RunStalled",
    "SiteFailure",
    "StateError",
    "UnknownName",
    "error_from_code",
]

_LONGEST_NAME, _MOST_NAMES = 100, 40


class PrivnbError(Exception):
    """Base of all errors of privnb.

    Parameters
    ----------
    message
        What was wrong, and where. One or two sentences.
    hint
        What to do about it; empty when nothing can be done.
    code
        The stable identifier; each class has a default.
    """

    default_code: ClassVar[str] = "E_PRIVNB"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        if hint:
            self.add_note(f"Hint: {hint}")  # below the traceback of a script

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def _render_traceback_(self) -> list[str]:
        """Show two lines in a notebook instead of a stack (IPython's protocol)."""
        lines = [f"{type(self).__name__}: {self}"]
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        return lines


class QueryRefused(PrivnbError):
    """The SQL names something outside the private subset, or the schema does not allow it."""

    default_code = "E_UNSUPPORTED"


class RequestRefused(PrivnbError):
    """The site's policy refuses the request."""

    default_code = "E_POLICY"


class AccessRefused(RequestRefused):
    """No grant covers this table, purpose or date."""

    default_code = "E_NO_GRANT"


class BudgetExceeded(RequestRefused):
    """The request costs more than what is left of a grant or of the table's total."""

    default_code = "E_BUDGET"


class RosterRefused(RequestRefused):
    """The sites of a sum are too few, or not those that were agreed on.

    Attributes
    ----------
    only
        Verifier keys of all sites of the only sum that may be; empty where it is not about that.
    """

    default_code = "E_ROSTER"

    def __init__(
        self, message: str, *, hint: str = "", code: str | None = None, only: Sequence[str] = ()
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.only = tuple(only)


class SiteFailure(PrivnbError):
    """The site accepted the request but could not compute it.

    The wording never depends on the data; what was reserved stays charged.
    """

    default_code = "E_EXECUTION"


class ConfigError(PrivnbError):
    """``site.toml`` is wrong, or the data does not fit what it says."""

    default_code = "E_CONFIG"

    @classmethod
    def at(cls, path: object, line: int | None, problem: str, *, hint: str) -> Self:
        """Name the file, the line (when known) and the remedy."""
        where = f"{path}, line {line}" if line is not None else f"{path}"
        return cls(f"{where}: {problem}", hint=hint)


class UnknownName(PrivnbError):
    """A site, table, column or request that is not there."""

    default_code = "E_UNKNOWN"

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str], *, code: str | None = None) -> Self:
        """Say what exists, and which of it was probably meant.

        >>> UnknownName.among("site", "northsid", ["northside", "lakeside"]).hint
        "Did you mean 'northside'? Known: lakeside, northside."
        """
        names = sorted(brief(each, _LONGEST_NAME) for each in known)  # which others chose
        close = difflib.get_close_matches(name, names, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        listed = ", ".join(names[:_MOST_NAMES]) + more
        listing = f"Known: {listed}." if names else f"No {kind} is known yet."
        return cls(f"There is no {kind} {name!r}.", hint=guess + listing, code=code)


class ExchangeError(PrivnbError):
    """Something between analyst and site went wrong."""

    default_code = "E_EXCHANGE"


class ExchangeUnavailable(ExchangeError):
    """The shared storage cannot be read or written now."""

    default_code = "E_EXCHANGE_UNAVAILABLE"


class NotAPeer(ExchangeError):
    """Nothing is sent to, or taken from, somebody who is not an accepted peer."""

    default_code = "E_NOT_A_PEER"


class KeyChanged(ExchangeError):
    """The key presented is not the one pinned at first contact."""

    default_code = "E_KEY_CHANGED"


class BadMessage(ExchangeError):
    """A received message is malformed, forged, replayed or too large."""

    default_code = "E_BAD_MESSAGE"


class AuditBroken(PrivnbError):
    """A site cannot prove that a release is in its audit log, or its log was rewritten."""

    default_code = "E_AUDIT"


class ResultPending(PrivnbError):
    """The answer is not there yet; the request stays alive at the site."""

    default_code = "E_PENDING"


class RunStalled(PrivnbError):
    """Too few sites are left for a federated run to go on; it can be taken up again."""

    default_code = "E_STALLED"


class RoundLost(PrivnbError):
    """The sum of a round can never be opened: a site that has to be in it has gone for good."""

    default_code = "E_ROUND_LOST"


class StateError(PrivnbError):
    """Local state (a site's database, an analyst's box) cannot be used now."""

    default_code = "E_STATE"


_BY_CODE: dict[str, type[PrivnbError]] = {
    "E_NO_GRANT": AccessRefused,
    "E_PURPOSE": AccessRefused,
    "E_BUDGET": BudgetExceeded,
    "E_BUSY": RequestRefused,
    "E_CONSENT": RequestRefused,
    "E_DENIED": RequestRefused,
    "E_EXPIRED": RequestRefused,
    "E_NO_FEDERATION": RequestRefused,
    "E_NO_PYTHON": RequestRefused,
    "E_NO_REVIEW": RequestRefused,
    "E_PARTNERS": RequestRefused,
    "E_POLICY": RequestRefused,
    "E_RESTARTED": RequestRefused,
    "E_ROSTER": RosterRefused,
    "E_SPENT_ROUND": RequestRefused,
    "E_THRESHOLD": RequestRefused,
    "E_WITHHELD": RequestRefused,
    "E_AUDIT": AuditBroken,
    "E_EXECUTION": SiteFailure,
    "E_BAD_MESSAGE": BadMessage,
    "E_EXCHANGE_UNAVAILABLE": ExchangeUnavailable,
    "E_NOT_A_PEER": NotAPeer,
    "E_KEY_CHANGED": KeyChanged,
    "E_STATE": StateError,
    "E_STALLED": RunStalled,
    "E_ROUND_LOST": RoundLost,
}


def error_from_code(code: str, message: str, hint: str) -> PrivnbError:
    """Rebuild an error that was written down; unknown codes are refusals of the query.

    >>> type(error_from_code("E_BUDGET", "Too much.", "Ask for less.")).__name__
    'BudgetExceeded'
    """
    return _BY_CODE.get(code, QueryRefused)(message, hint=hint, code=code)
