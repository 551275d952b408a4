"""Completion while typing: options, sites, tables and columns, from what is known already."""

# IPython's decorators have no types:
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from privnb.magics.commands import COMMANDS
from privnb.magics.grammar import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from IPython.core.completer import SimpleMatcherResult

    from privnb.magics.secure import SecureMagics
    from privnb.messages import SiteDescription

__all__ = ["Completion", "is_ours"]

_MATCHER = "privnb.magics"
_FREE = (
    *("--email", "--epsilon", "--exchange", "--home", "--output", "--reason", "--reviewer"),
    "--timeout",
)
"""Options whose value only the analyst knows."""
_ARGUMENTS = {"schema": "--table", "templates": "--template"}
"""What commands take without an option, as if it stood behind one."""


class Completion:
    """Completes the lines of our magics, and the names below ``%%secure``.

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
            return self._names(context, alone=not _is_python(first))
        if before.startswith("%%secure "):
            return _offer(typed, *self._secure_words(before, typed))
        if before.lstrip().startswith("%privnb "):
            return _offer(typed, *self._command_words(before, typed))
        return {"completions": []}

    def _secure_words(self, before: str, typed: str) -> tuple[Iterable[str], str]:
        option = _open_option(before, typed)
        if option in _FREE:
            return (), ""
        return self._values(option) or (options(self._magics.secure.parser), "option")

    def _command_words(self, before: str, typed: str) -> tuple[Iterable[str], str]:
        words = before.split()[1:]
        if not words or (len(words) == 1 and typed):
            return COMMANDS, "command"
        command = COMMANDS.get(words[0])
        option = _open_option(before, typed)
        if command is None or option in _FREE:
            return (), ""
        what = _ARGUMENTS.get(words[0], "") if not typed.startswith("--") else ""
        return self._values(option or what) or (options(command.parser), "option")

    def _values(self, option: str) -> tuple[Iterable[str], str] | None:
        """Tell what may stand behind an option, and what that is called; None if it is unknown."""
        sources: dict[str, Callable[[], Iterable[str]]] = {
            "--language": lambda: ("python", "sql"),
            "--param": self._variables,
            "--purpose": self._purposes,
            "--site": self._sites,
            "--table": self._tables,
            "--template": self._templates,
        }
        source = sources.get(option)
        if source is None:
            return None
        return source(), "variable" if option == "--param" else option.removeprefix("--")

    def _names(self, context: CompletionContext, *, alone: bool) -> SimpleMatcherResult:
        """Offer tables and columns: alone in SQL, where Python's suggestions make no sense."""
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
        return {"completions": fitting, "matched_fragment": context.token, "suppress": alone}

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

    def _templates(self) -> Iterable[str]:
        offers = [site.python for site in self._known() if site.python is not None]
        return {template.name for offer in offers for template in offer.templates}

    def _variables(self) -> Iterable[str]:
        namespace = self._magics.namespace
        scalars = (bool, int, float, str, list)
        return [n for n, v in namespace.items() if not n.startswith("_") and type(v) in scalars]


def is_ours(matcher: object) -> bool:
    """Tell our matcher from those of others."""
    return getattr(matcher, "matcher_identifier", None) == _MATCHER


def _is_python(line: str) -> bool:
    words = line.split()
    chosen = "--language python" in " ".join(words)
    return chosen or "--table" in words or "--output" in words


def _open_option(before: str, typed: str) -> str:
    words = before.split()
    if typed:
        words = words[:-1]
    return words[-1] if words and words[-1].startswith("--") else ""


def _offer(typed: str, words: Iterable[str], kind: str) -> SimpleMatcherResult:
    fitting = [SimpleCompletion(w, type=kind) for w in sorted(words) if w.startswith(typed)]
    return {"completions": fitting, "matched_fragment": typed, "suppress": bool(fitting)}
