"""How the line of a magic is read: words, options, variable names, parameters."""

from __future__ import annotations

import difflib
import keyword
import math
import shlex
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from privnb.errors import PrivnbError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping

__all__ = ["bind", "did_you_mean", "options", "parse", "variable"]

_PARAMETER_HINT = (
    "A parameter is text, a finite number, True, False, None, or a list of these; "
    "convert it in a cell above, for example year = int(year)."
)


def parse(parser: argparse.ArgumentParser, line: str) -> argparse.Namespace:
    """Read the words after a magic's name, in any order; quotes group words as in a shell.

    Raises `UsageError` naming the word that is wrong, and the option probably meant.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{error} in: {line.strip()}") from None
    known = options(parser)
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            raise UsageError(f"There is no option {option}.{did_you_mean(option, known)}")
    found, left_over = parser.parse_known_intermixed_args(words)
    if left_over:
        raise UsageError(f"There is no place for {left_over[0]!r}; quote values with spaces.")
    return found


def options(parser: argparse.ArgumentParser) -> list[str]:
    """List the options that a parser knows."""
    return [o for action in parser._actions for o in action.option_strings]  # noqa: SLF001 - argparse has no public list


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest what was probably meant, as a sentence to append; empty if nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def variable(name: str) -> str:
    """Check that a result can be stored under this name; for use as an argparse type."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be the name of a variable.")
    return name


def bind(names: Iterable[str], namespace: Mapping[str, object]) -> dict[str, object] | None:
    """Take the parameters of a cell from the notebook's variables.

    Only JSON scalars and flat lists of them are taken, so that the very value that is hashed can
    be shown beside the code. None when no parameter is named.
    """
    bound: dict[str, object] = {}
    for name in names:
        if name not in namespace:
            guess = did_you_mean(name, (n for n in namespace if not n.startswith("_")))
            raise PrivnbError(
                f"--param {name}: there is no variable {name!r} in this notebook.",
                hint=f"Assign it in a cell above.{guess}",
                code="E_PARAMETER",
            )
        value = namespace[name]
        for item in value if isinstance(value, list) else [value]:
            if not _is_scalar(item):
                raise PrivnbError(
                    f"--param {name}: {item!r:.40} is of type {type(item).__name__}.",
                    hint=_PARAMETER_HINT,
                    code="E_PARAMETER",
                )
        bound[name] = value
    return bound or None


def _is_scalar(value: object) -> bool:
    # exact types: a numpy float is a float too, but not what JSON would say
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)
