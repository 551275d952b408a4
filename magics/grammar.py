"""How the line of a magic is read: words, options, variable names, parameters."""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import re
import shlex
import warnings
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.utils.text import DollarFormatter

from privnb.errors import PrivnbError, QueryRefused, UnknownName

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any

__all__ = [
    "bind",
    "did_you_mean",
    "expanded",
    "has_select",
    "language",
    "options",
    "parse",
    "reads_as_python",
    "refuse_listed",
    "refuse_python",
    "variable",
]

_REPEATED = ("--site", "--table", "--param", "--strategy-option")

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
        word = left_over[0]
        option, value = words[: words.index(word)][-2:] if words.index(word) > 1 else ("", "")
        if option in _REPEATED:
            raise _not_repeated(option, value, word)
        raise UsageError(f"There is no place for {word!r}; quote values with spaces.")
    return found


def expanded(word: str, namespace: Mapping[str, Any]) -> str:
    """Put the values of variables into a word, as IPython does for line magics that have it so.

    Raises `UnknownName` where a variable is not there.

    >>> expanded("$rid", {"rid": "40cb8da1"}), expanded("40cb8da1", {})
    ('40cb8da1', '40cb8da1')
    """
    if "$" not in word and "{" not in word:
        return word
    try:
        return str(DollarFormatter().vformat(word, (), dict(namespace)))
    except Exception:  # noqa: BLE001 - it is the user's own expression
        raise UnknownName(
            f"There is no variable {word} in this notebook.",
            hint="Assign it in a cell above, or write the ID: %privnb requests lists them.",
        ) from None


def refuse_listed(line: str, known: Mapping[str, Collection[str]]) -> None:
    """Refuse several names behind one option, as ``--site a,b`` or ``--site a b``.

    The second form cannot be told from the name of a result unless both words are ``known`` as
    what that option takes.
    """
    words = shlex.split(line)
    for place, option in enumerate(words[:-1]):
        value, *more = words[place + 1 :]
        if option in _REPEATED and "," in value:
            first, _, second = value.partition(",")
            raise _not_repeated(option, first, second)
        names = known.get(option, ())
        if more and value in names and more[0] in names:
            raise _not_repeated(option, value, more[0])


def language(args: argparse.Namespace) -> str:
    """Tell what a cell is written in: what it says, or Python if it has tables or an output.

    Raises `UsageError` for options that the language has no use for.
    """
    frames = [f"--{name}" for name in ("table", "output") if getattr(args, name)]
    if (args.language or ("python" if frames else "sql")) == "sql":
        if frames:
            raise UsageError(
                f"{frames[0]} has no meaning for SQL, which names its table itself. "
                f"Leave it out, or say --language python."
            )
        return "sql"
    if args.epsilon is not None:
        raise UsageError(
            "--epsilon has no meaning for Python: its output is exact, and people decide about it. "
            "Leave it out, or ask in SQL without --table."
        )
    return "python"


def _not_repeated(option: str, *values: str) -> UsageError:
    again = " ".join(f"{option} {value}" for value in values)
    return UsageError(f"{option} takes one name. Repeat the option: {again}")


def refuse_python(cell: str) -> None:
    """Refuse a cell without SELECT that Python can read, before it is sent anywhere."""
    if not has_select(cell) and reads_as_python(cell):
        raise QueryRefused(
            "The cell has no SELECT; it reads as Python.",
            hint="Python at a site needs its tables: add --table NAME, once for each. "
            "Python on an answer that you have goes into an ordinary cell.",
            code="E_NOT_SELECT",
        )


def has_select(cell: str) -> bool:
    """Tell whether a cell may be SQL."""
    return re.search(r"\bselect\b", cell, re.IGNORECASE) is not None


def reads_as_python(cell: str) -> bool:
    """Tell whether Python can read a cell, and finds more in it than comments."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text of a cell that is not run
            return bool(ast.parse(cell).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


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
                hint=f"Assign it in a cell above, such as {name} = 65.{guess}",
                code="E_PARAMETER",
            )
        value = namespace[name]
        for item in value if isinstance(value, list) else [value]:
            if not _is_scalar(item):
                raise PrivnbError(
                    f"--param {name} {_what_is_wrong(value, item)}.",
                    hint=_PARAMETER_HINT,
                    code="E_PARAMETER",
                )
        bound[name] = value
    return bound or None


def _what_is_wrong(value: object, item: object) -> str:
    """Say it by type only: the value may be a table of a thousand lines, or secret."""
    kind = type(item).__name__
    if type(item) is float:
        kind = "number that is not finite"
    article = "an" if kind[0].lower() in "aeiou" else "a"
    return f"{'is' if item is value else 'is a list that holds'} {article} {kind}"


def _is_scalar(value: object) -> bool:
    # exact types: a numpy float is a float too, but not what JSON would say
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)
