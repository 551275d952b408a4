"""Names that become parts of paths: emails, job names, file names. Anything unusual is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "MAX_FILES_BYTES",
    "MAX_SENT_BYTES",
    "check_email",
    "check_other",
    "check_received",
    "check_sent",
    "is_email",
    "is_job_name",
    "is_step_name",
]

MAX_FILES_BYTES = 24 * 1024 * 1024
"""The most bytes that the files of a received job or reply may have together."""
MAX_SENT_BYTES = 16 * 1024 * 1024
"""The most bytes that are sent; less than what is received, which has PySyft's files in it too."""
_MAX_FILES = 64
_MAX_SENT_FILES = 56

_MAX_EMAIL = 128
# Lower case only: on a storage that ignores case, two spellings would share one folder.
_EMAIL = re.compile(r"[a-z0-9_%+-]+(\.[a-z0-9_%+-]+)*@[a-z0-9]([a-z0-9-]*[a-z0-9])?"
                    r"(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")  # fmt: skip
_JOB_NAME = re.compile(r"[0-9a-f]{32}")
_STEP_NAME = re.compile(r"[0-9]{6}-[a-z]{1,20}")
_FILE_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_MAX_DEPTH = 5  # four, and the folder in which PySyft puts them
# PySyft reads rules from the first and skips the others when it synchronises.
_RESERVED_PARTS = frozenset({"syft.pub.yaml", "__pycache__", "node_modules"})


def is_email(text: str) -> bool:
    """Tell whether ``text`` is an email that may be part of a path.

    >>> is_email("ana@uni.example"), is_email("../etc@x"), is_email("Ana@uni.example")
    (True, False, False)
    """
    return len(text) <= _MAX_EMAIL and _EMAIL.fullmatch(text) is not None


def check_email(text: str, *, whose: str) -> str:
    """Return ``text`` when it `is_email`, or raise `ConfigError` that names whose it is."""
    if is_email(text):
        return text
    shown = ascii(text[:_MAX_EMAIL])
    raise ConfigError(
        f"{shown} cannot be used as {whose}.",
        hint=(
            "Use an address such as ana@uni.example: lower-case letters, digits and . _ % + - "
            f"only, one @, at most {_MAX_EMAIL} characters."
        ),
    )


def check_other(text: str, *, own: str, whose: str) -> str:
    """`check_email`, and refuse our own: one address has one key, so it is one party."""
    if text == own:
        raise ConfigError(
            f"{own} is your own address, so it cannot be {whose} here.",
            hint="Use different addresses for a site's owner and for an analyst.",
        )
    return check_email(text, whose=whose)


def is_job_name(text: str) -> bool:
    """Tell whether ``text`` is 32 lower-case hexadecimal digits."""
    return _JOB_NAME.fullmatch(text) is not None


def is_step_name(text: str) -> bool:
    """Tell whether ``text`` is six digits, a hyphen and up to twenty lower-case letters.

    >>> is_step_name("000012-reveal"), is_step_name("12-reveal")
    (True, False)
    """
    return _STEP_NAME.fullmatch(text) is not None


def check_sent(files: Mapping[str, bytes], *, what: str) -> None:
    """Raise `BadMessage` unless the other side will take these files.

    Every path is relative, of at most four parts, of ASCII letters, digits, ``.``, ``_`` and
    ``-``; no part begins with a dot, and no path is a folder of another.
    """
    _check_size(files, what=what, most_files=_MAX_SENT_FILES, most_bytes=MAX_SENT_BYTES)
    _check_paths(files, what=what)


def check_received(files: Mapping[str, bytes], *, what: str) -> None:
    """Raise `BadMessage` unless these files may be written into our datasite."""
    _check_size(files, what=what, most_files=_MAX_FILES, most_bytes=MAX_FILES_BYTES)
    _check_paths(files, what=what)


def _check_size(files: Mapping[str, bytes], *, what: str, most_files: int, most_bytes: int) -> None:
    if not files:
        raise BadMessage(f"{what} has no files.")
    if len(files) > most_files:
        raise BadMessage(
            f"{what} has {len(files)} files; at most {most_files} are allowed.",
            hint="Put several small files together into one.",
        )
    size = sum(map(len, files.values()))
    if size > most_bytes:
        raise BadMessage(
            f"{what} has {size} bytes; at most {most_bytes} are allowed.",
            hint="Send less, or in several jobs.",
        )


def _check_paths(paths: Iterable[str], *, what: str) -> None:
    folded = set()
    folders: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if (
            len(parts) > _MAX_DEPTH
            or not all(_FILE_PART.fullmatch(part) for part in parts)
            or not _RESERVED_PARTS.isdisjoint(part.casefold() for part in parts)
        ):
            raise BadMessage(
                f"{what} names the file {path[:200]!a}, which is not a plain path.",
                hint="Use letters, digits, '.', '_' and '-', and at most three folders.",
            )
        lower = path.casefold()
        if lower in folded:
            raise BadMessage(f"{what} names the file {path!a} twice.")
        folded.add(lower)
        folders.update(lower.rsplit("/", depth)[0] for depth in range(1, len(parts)))
    if both := folded & folders:
        raise BadMessage(f"{what} uses {min(both)!a} both as a file and as a folder.")
