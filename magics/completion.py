"""Completion while typing: options, sites, tables and columns, from what is known already."""

# IPython's decorators have no types:
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from privnb.magics.commands import COMMANDS
from privnb.magics.federated import MODELS, STRATEGIES, FederatedMagics
from privnb.magics.grammar import options, reads_as_python

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping

    from IPython.core.completer import SimpleMatcherResult

    from privnb.magics.secure import SecureMagics
    from privnb.messages import SiteDescription

__all__ = ["Completion", "is_ours"]

_MATCHER = "privnb.magics"
_FREE = (
    *("--colluding", "--email", "--epsilon", "--exchange", "--home", "--output", "--reason"),
    *("--reviewer", "--round-timeout", "--rounds", "--strategy-option", "--threshold", "--timeout"),
)
"""Options whose value only the analyst knows."""
_KINDS = {"--param": "variable", "--target": "column", "--on-interrupt": "choice"}
"""What the values of options are called, where that is not the option's own name."""
_ARGUMENTS = {"schema": "--table", "templates": "--template"}
"""What commands take without an option, as if it stood behind one."""


class Completion:
    """Completes the lines of our magics, and the names below those that head a cell.

    Sites are never asked: what they said before is all that is offered.
    """

    def __init__(self, magics: SecureMagics) -> None:
        self._magics = magics
        federated = FederatedMagics.federated.parser
        self._parsers: Mapping[str, argparse.ArgumentParser] = {
            "%%secure": magics.secure.parser,
            "%%federated": federated,
            "%federated": federated,
        }

        @context_matcher(identifier=_MATCHER, priority=100)
        def matcher(context: CompletionContext) -> SimpleMatcherResult:
            return self._complete(context)

        self.matcher = matcher

    def _complete(self, context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        typed = before.split()[-1] if before and not before[-1].isspace() else ""
        first, *_ = context.full_text.split("\n", 1)
        if first.split(" ", 1)[0] in ("%%secure", "%%federated") and context.cursor_line > 0:
            return self._names(context, alone=not _is_python(context.full_text))
        parser = self._parsers.get(before.lstrip().split(" ", 1)[0])
        if parser is not None and " " in before.lstrip():
            return _offer(typed, *self._option_words(parser, before, typed))
        if before.lstrip().startswith("%privnb "):
            return _offer(typed, *self._command_words(before, typed))
        return {"completions": []}

    def _option_words(
        self, parser: argparse.ArgumentParser, before: str, typed: str
    ) -> tuple[Iterable[str], str]:
        option = _open_option(before, typed)
        if option in _FREE:
            return (), ""
        if option == "--features":  # several in one word
            done = typed[: typed.rfind(",") + 1]
            return [done + column for column in self._columns()], "column"
        return self._values(option) or (options(parser), "option")

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
            "--model": lambda: MODELS,
            "--on-interrupt": lambda: ("cancel", "continue"),
            "--param": self._variables,
            "--purpose": self._purposes,
            "--site": self._sites,
            "--strategy": self._strategies,
            "--table": self._tables,
            "--target": self._columns,
            "--template": self._templates,
        }
        source = sources.get(option)
        if source is None:
            return None
        return source(), _KINDS.get(option, option.removeprefix("--"))

    def _names(self, context: CompletionContext, *, alone: bool) -> SimpleMatcherResult:
        """Offer tables and columns: alone in SQL, where Python's suggestions make no sense."""
        offered = dict.fromkeys(sorted(self._tables()), "table")
        for column in self._columns():
            offered.setdefault(column, "column")
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

    def _columns(self) -> Iterable[str]:
        tables = [table for site in self._known() for table in site.tables]
        return dict.fromkeys(c.name for t in tables for c in t.columns if c.name != t.privacy_unit)

    def _strategies(self) -> Iterable[str]:
        """Name what there is, and variables that hold something of Flower's."""
        held = (
            f"${name}"
            for name, value in self._magics.namespace.items()
            if not isinstance(value, type)
            and any(kind.__module__.startswith("flwr.") for kind in type(value).__mro__)
        )
        return [*STRATEGIES, *held]

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


def _is_python(text: str) -> bool:
    """Tell whether a cell is Python, by its first line, else by what stands below."""
    line, _, below = text.partition("\n")
    words = line.split()
    chosen = "--language python" in " ".join(words)
    said = {"--table", "--output", "--rounds", "--strategy"} & set(words)
    return chosen or bool(said) or (words[0] == "%%federated" and reads_as_python(below))


def _open_option(before: str, typed: str) -> str:
    words = before.split()
    if typed:
        words = words[:-1]
    return words[-1] if words and words[-1].startswith("--") else ""


def _offer(typed: str, words: Iterable[str], kind: str) -> SimpleMatcherResult:
    fitting = [SimpleCompletion(w, type=kind) for w in sorted(words) if w.startswith(typed)]
    return {"completions": fitting, "matched_fragment": typed, "suppress": bool(fitting)}
