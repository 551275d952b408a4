"""Canonical JSON out, strict decoding in: the form of all that crosses a process boundary."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from privnb.errors import BadMessage

__all__ = ["MAX_BYTES", "canonical_json", "decode", "encode", "message", "sha256_hex"]

MAX_BYTES = 16 * 1024 * 1024
"""The largest message that is decoded at all, in bytes."""

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass that `decode` rebuilds strictly.

    Its field types must be importable at run time, as `decode` reads them.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid", "strict": True, "allow_inf_nan": False}  # type: ignore[attr-defined]
    return made


def canonical_json(value: object) -> bytes:
    """Serialise to UTF-8 JSON with sorted keys, no white space and no NaN.

    Equal values give equal bytes, so the bytes can be hashed and signed.

    >>> canonical_json({"b": 1, "a": "é"}).decode()
    '{"a":"é","b":1}'
    """
    return _canonical(value)


def _canonical(value: object, default: Callable[[Any], Any] | None = None) -> bytes:
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=default,
    ).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 digest as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def encode(value: Any) -> bytes:
    """Serialise a `message` canonically.

    >>> @message
    ... class Point:
    ...     x: int
    >>> decode(Point, encode(Point(x=3)), what="a point")
    Point(x=3)
    """
    return _canonical(value, default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    """Return the fields of a message as they are: `dataclasses.asdict` would copy all of it."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def decode(kind: type[T], data: bytes, *, what: str, limit: int = MAX_BYTES) -> T:
    """Rebuild a `message` from bytes that somebody else wrote.

    Nothing is coerced: a missing, unknown or wrongly typed field, NaN, infinity, broken UTF-8 or
    more than ``limit`` bytes raise `BadMessage`, which names ``what`` and the first field at fault.
    """
    if len(data) > limit:
        problem = f"{what} has {len(data)} bytes; at most {limit} are read."
        raise BadMessage(problem)
    from pydantic import ValidationError  # noqa: PLC0415 - pydantic stays out of start-up

    try:
        value: T = _adapter(kind).validate_json(data)  # type: ignore[arg-type]
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        problem = f"{what} is not well formed: {field}: {first['msg']}."
        raise BadMessage(problem) from None
    return value


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415 - pydantic stays out of start-up

    return TypeAdapter(kind)
