"""Completion while typing: options, sites, tables and columns, from what is known already."""

# IPython's decorators have no types:
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from privnb.magics.commands import COMMANDS
from privnb.magics.grammar import options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from IPython.core.completer import SimpleMatcherResult

    from privnb.magics.secure import SecureMagics
    from privnb.messages import SiteDescription

__all__ = ["Completion", "is_ours"]

_MATCHER = "privnb.magics"


class Completion:
    """Completes the lines of our magics, and the SQL below ``%%secure``.

    Sites are never asked: what they said before is all that is offered.
    """

    def __init__(self, magics: SecureMagics) -> None:
        self._magics = magics

        @context_matcher(identifier=_MATCHER, priority=100)
        def matcher(context: CompletionContext) -> SimpleMatcherResult:
            return self._complete(context)

        self.matcher = matcher

    def _complete(self, context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        typed = before.split()[-1] if before and not before[-1].isspace() else ""
        first, *_ = context.full_text.split("\n", 1)
        if first.startswith("%%secure") and context.cursor_line > 0:
            return self._sql(context)
        if before.startswith("%%secure "):
            return _offer(typed, *self._secure_words(before, typed))
        if before.lstrip().startswith("%privnb "):
            return _offer(typed, *self._command_words(before, typed))
        return {"completions": []}

    def _secure_words(self, before: str, typed: str) -> tuple[Iterable[str], str]:
        option = _open_option(before, typed)
        match option:
            case "--site":
                return self._sites(), "site"
            case "--purpose":
                return self._purposes(), "purpose"
            case "--param":
                return self._variables(), "variable"
            case "--epsilon" | "--timeout":
                return (), ""
            case _:
                return options(self._magics.secure.parser), "option"

    def _command_words(self, before: str, typed: str) -> tuple[Iterable[str], str]:
        words = before.split()[1:]
        if not words or (len(words) == 1 and typed):
            return COMMANDS, "command"
        command = COMMANDS.get(words[0])
        if command is None or _open_option(before, typed) in ("--email", "--exchange", "--home"):
            return (), ""
        if words[0] == "schema":
            return self._tables(), "table"
        return options(command.parser), "option"

    def _sql(self, context: CompletionContext) -> SimpleMatcherResult:
        known = self._known()
        tables = [table for site in known for table in site.tables]
        offered = dict.fromkeys((table.name for table in tables), "table")
        for table in tables:
            for column in table.columns:
                if column.name != table.privacy_unit:
                    offered.setdefault(column.name, "column")
        fitting = [
            SimpleCompletion(name, type=kind)
            for name, kind in offered.items()
            if name.lower().startswith(context.token.lower())
        ]
        # Python's own suggestions make no sense inside SQL
        return {"completions": fitting, "matched_fragment": context.token, "suppress": True}

    def _known(self) -> list[SiteDescription]:
        session = self._magics.connected
        return [] if session is None else list(session.known_descriptions().values())

    def _sites(self) -> Iterable[str]:
        session = self._magics.connected
        return [] if session is None else session.known_descriptions()

    def _tables(self) -> Iterable[str]:
        return {table.name for site in self._known() for table in site.tables}

    def _purposes(self) -> Iterable[str]:
        return {p for site in self._known() for table in site.tables for p in table.purposes}

    def _variables(self) -> Iterable[str]:
        namespace = self._magics.namespace
        scalars = (bool, int, float, str, list)
        return [n for n, v in namespace.items() if not n.startswith("_") and type(v) in scalars]


def is_ours(matcher: object) -> bool:
    """Tell our matcher from those of others."""
    return getattr(matcher, "matcher_identifier", None) == _MATCHER


def _open_option(before: str, typed: str) -> str:
    words = before.split()
    if typed:
        words = words[:-1]
    return words[-1] if words and words[-1].startswith("--") else ""


def _offer(typed: str, words: Iterable[str], kind: str) -> SimpleMatcherResult:
    fitting = [SimpleCompletion(w, type=kind) for w in sorted(words) if w.startswith(typed)]
    return {"completions": fitting, "matched_fragment": typed, "suppress": bool(fitting)}
