"""Read a TOML file field by field, where every complaint names file, line and remedy."""

from __future__ import annotations

import datetime as dt
import difflib
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from privnb.computation import Scalar
from privnb.errors import ConfigError
from privnb.site.toml_lines import KeyPath, locate

__all__ = ["Section", "TomlFile"]

_MAX_BYTES = 1024 * 1024
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    Decimal: "a decimal number",
    str: "a text",
    list: "an array",
    dict: "a table",
    dt.date: "a date",
    dt.datetime: "a timestamp",
    dt.time: "a time",
}


class TomlFile:
    """A parsed TOML file that remembers on which line each key stands.

    Parameters
    ----------
    path
        The file. At most 1 MiB of UTF-8 are read.

    Raises
    ------
    ConfigError
        When it cannot be read or is not TOML; the line is named where there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            hint = (
                "Name the folder of a site, the one with site.toml; a new one is made with: "
                f"privnb site init {path.parent}"
            )
            raise ConfigError.at(path, None, "The file does not exist.", hint=hint) from None
        except OSError as error:
            problem = f"The file cannot be read: {error.strerror}."
            raise ConfigError.at(path, None, problem, hint="Mend its permissions.") from None
        if len(data) > _MAX_BYTES:
            hint = "Keep data out of site.toml."
            raise ConfigError.at(path, None, f"The file has {len(data)} bytes.", hint=hint)
        try:
            text = data.decode()
            tree = tomllib.loads(text, parse_float=Decimal)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            hint = "Save the file as UTF-8."
            raise ConfigError.at(path, line, "This is not UTF-8.", hint=hint) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            where, problem = _syntax_error(str(error), text)
            hint = "See https://toml.io for how TOML is written."
            raise ConfigError.at(path, where, problem, hint=hint) from None
        self.lines = locate(text)
        self.root = Section(self, (), tree)


def _syntax_error(message: str, text: str) -> tuple[int | None, str]:
    """Split tomllib's message, which is all that Python 3.11 to 3.13 share, into line and text."""
    problem, found, place = message.rpartition(" (at line ")
    if found:
        return int(place.split(",")[0]), f"This is not TOML: {problem}."
    if message.endswith(" (at end of document)"):
        problem = message.removesuffix(" (at end of document)")
        return text.count("\n") + (not text.endswith("\n")), f"This is not TOML: {problem}."
    return None, f"This is not TOML: {message}."


class Section:
    """One table of the file. Each key is taken once; `finish` refuses those nobody took."""

    def __init__(self, file: TomlFile, path: KeyPath, tree: dict[str, Any]) -> None:
        self.file = file
        self.path = path
        self._tree = tree
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._tree

    @property
    def title(self) -> str:
        """The table as its header would be written; the top of the file has no header."""
        return f"[{'.'.join(str(part) for part in self.path)}]" if self.path else "site.toml"

    def keys(self) -> list[str]:
        """All keys, in the order of the file."""
        return list(self._tree)

    def has(self, key: str) -> bool:
        """Tell whether an optional key is there, which makes it a known one."""
        self._known.append(key)
        return key in self._tree

    def peek(self, key: str) -> Any:
        """Look at a value without taking it."""
        return self._tree[key]

    def line(self, *key: str | int) -> int | None:
        """Line of a key below this table, or of what encloses it where it is not there."""
        path = (*self.path, *key)
        while path and path not in self.file.lines:
            path = path[:-1]
        return self.file.lines.get(path)

    def fail(self, problem: str, *key: str | int, hint: str) -> NoReturn:
        """Raise a `ConfigError` at the line of a key below this table."""
        raise ConfigError.at(self.file.path, self.line(*key), problem, hint=hint)

    def text(self, key: str, *, hint: str, default: str | None = None) -> str:
        """Take a text that is not empty; ``default`` may be."""
        value = self._take(key, str, hint=hint, default=default)
        if key in self._tree and not value.strip():
            self.fail(f"{key!r} is empty.", key, hint=hint)
        return str(value)

    def integer(self, key: str, *, lowest: int, hint: str) -> int:
        """Take a whole number of at least ``lowest``."""
        value: int = self._take(key, int, hint=hint)
        if not lowest <= value < 2**63:
            self.fail(f"{key!r} must be at least {lowest}, not {value}.", key, hint=hint)
        return value

    def decimal(self, key: str, *, hint: str, default: Decimal | None = None) -> Decimal:
        """Take a finite number, exactly as written."""
        value = self._take(key, (Decimal, int), hint=hint, default=default)
        return self._finite(value, key, hint=hint)

    def flag(self, key: str, *, hint: str, default: bool) -> bool:
        """Take true or false."""
        return bool(self._take(key, bool, hint=hint, default=default))

    def texts(self, key: str, *, hint: str) -> tuple[str, ...]:
        """Take an array of different, not empty texts; a missing key is an empty array."""
        self._refuse_near(key)
        values = self._take(key, list, hint=hint, default=[])
        for number, value in enumerate(values):
            if not isinstance(value, str) or not value.strip():
                problem = f"{key!r} must hold texts, not {_kind(value)}."
                self.fail(problem, key, number, hint=hint)
            if value in values[:number]:
                self.fail(f"{key!r} names {value!r} twice.", key, number, hint=hint)
        return tuple(values)

    def lists(self, key: str, *, hint: str) -> tuple[tuple[str, ...], ...]:
        """Take an array of arrays of texts; a missing key is an empty array."""
        values = self._take(key, list, hint=hint, default=[])
        for number, value in enumerate(values):
            if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
                problem = f"{key!r} must hold arrays of texts, not {_kind(value)}."
                self.fail(problem, key, number, hint=hint)
        return tuple(tuple(value) for value in values)

    def interval(self, key: str, *, hint: str) -> tuple[float, float] | None:
        """Take a closed interval ``[lowest, highest]``, or None where the key is missing."""
        if not self.has(key):
            return None
        values = self._take(key, list, hint=hint)
        if len(values) != 2:  # noqa: PLR2004 - an interval has two ends
            count = f"{len(values)} number{'s' * (len(values) != 1)}"
            self.fail(f"{key!r} needs both bounds, but has {count}.", key, hint=hint)
        for number, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                self.fail(f"{key!r} must hold numbers, not {_kind(value)}.", key, number, hint=hint)
        lower, upper = (
            float(self._finite(value, key, number, hint=hint))
            for number, value in enumerate(values)
        )
        if not lower < upper:
            problem = (
                f"{key!r} has lower bound {lower:g}, which is not below upper bound {upper:g}."
            )
            self.fail(problem, key, hint=hint)
        return lower, upper

    def numbers(self, key: str, *, hint: str) -> tuple[float, ...]:
        """Take an array of finite numbers."""
        values = self._take(key, list, hint=hint)
        for number, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                self.fail(f"{key!r} must hold numbers, not {_kind(value)}.", key, number, hint=hint)
            self._finite(value, key, number, hint=hint)
        return tuple(float(value) for value in values)

    def scalar(self, key: str, *, hint: str) -> Scalar:
        """Take a number, text, truth value, date or timestamp; dates become ISO text."""
        value = self._take(key, object, hint=hint)
        return self._scalar(value, key, hint=hint)

    def scalars(self, key: str, *, hint: str) -> tuple[Scalar, ...] | None:
        """Take an array of different scalars, or None where the key is missing."""
        if not self.has(key):
            return None
        values = self._take(key, list, hint=hint)
        if not values:
            self.fail(f"{key!r} is empty.", key, hint=hint)
        taken: list[Scalar] = []
        for number, value in enumerate(values):
            scalar = self._scalar(value, key, number, hint=hint)
            if scalar in taken:
                self.fail(f"{key!r} names {scalar!r} twice.", key, number, hint=hint)
            taken.append(scalar)
        return tuple(taken)

    def section(self, key: str, *, hint: str, required: bool = True) -> Section:
        """Take a table; a missing one that is not required is empty."""
        default: dict[str, Any] | None = None if required else {}
        return Section(
            self.file, (*self.path, key), self._take(key, dict, hint=hint, default=default)
        )

    def sections(self, key: str, *, hint: str) -> list[Section]:
        """Take an array of tables."""
        values = self._take(key, list, hint=hint)
        for number, value in enumerate(values):
            if not isinstance(value, dict):
                problem = f"{key!r} must hold tables, not {_kind(value)}."
                self.fail(problem, key, number, hint=hint)
        path = (*self.path, key)
        return [Section(self.file, (*path, n), value) for n, value in enumerate(values)]

    def raw(self) -> dict[str, Any]:
        """Take everything as it stands, for options that are another library's to judge."""
        self._known.extend(self._tree)
        return {key: _plain(value) for key, value in self._tree.items()}

    def finish(self) -> None:
        """Refuse a key that was not taken, and say which one was probably meant."""
        for key in self._tree:
            if key not in self._known:
                known = sorted(set(self._known))
                close = difflib.get_close_matches(key, known, n=1)
                guess = f"Did you mean {close[0]!r}? " if close else ""
                hint = f"{guess}Known here: {', '.join(known)}."
                self.fail(f"{self.title} has no key {key!r}.", key, hint=hint)

    def _take(self, key: str, kind: Any, *, hint: str, default: Any = None) -> Any:
        self._known.append(key)
        if key not in self._tree:
            if default is not None:
                return default
            self._refuse_near(key)
            self.fail(f"{self.title} lacks {key!r}.", hint=hint)
        value = self._tree[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
            wanted = kind[0] if isinstance(kind, tuple) else kind
            problem = f"{key!r} must be {_KINDS[wanted]}, not {_kind(value)}."
            self.fail(problem, key, hint=hint)
        return value

    def _refuse_near(self, key: str) -> None:
        """Refuse a misspelling of a key that is missing."""
        if key in self._tree:
            return
        for near in difflib.get_close_matches(key, self._tree, n=1, cutoff=0.8):
            if near not in self._known:
                problem = f"{self.title} has no key {near!r}."
                self.fail(problem, near, hint=f"Did you mean {key!r}?")

    def _finite(self, value: Decimal | int, *key: str | int, hint: str) -> Decimal:
        number = Decimal(value)
        if not number.is_finite() or abs(number) > Decimal("1e300"):
            self.fail(f"{key[0]!r} must be finite, not {value}.", *key, hint=hint)
        return number

    def _scalar(self, value: Any, *key: str | int, hint: str) -> Scalar:
        scalar: Scalar = None
        match value:
            case bool() | str():
                scalar = value
            case int() if abs(value) < 2**63:
                scalar = value
            case Decimal():
                scalar = float(self._finite(value, *key, hint=hint))
            case dt.datetime():
                scalar = value.isoformat(sep=" ")
            case dt.date():
                scalar = value.isoformat()
            case _:
                self.fail(f"{key[0]!r} cannot hold {_kind(value)}.", *key, hint=hint)
        return scalar


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "something else")


def _plain(value: Any) -> Any:
    """Undo the exact reading of decimals, which other libraries do not expect."""
    match value:
        case Decimal():
            return float(value)
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value
