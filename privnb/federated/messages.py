"""What analyst and sites tell each other while a run is under way, round by round.

Everything goes through the analyst, who sees no more of it than what is listed here: public keys,
sealed shares, vectors under masks. One *attempt* is one secure aggregation::

    advertise ─▶ share ─▶ contribute ─▶ (agree) ─▶ reveal
                            │                        │
                            └ keys, then shares, of the attempt that follows

The first two steps are needed only where no keys are left from the attempt before, ``agree`` only
where somebody of the roster dropped out. A message is a line of JSON and then, as raw
little-endian numbers, the arrays or the masked vector.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Literal, TypeVar

from privnb import wire
from privnb.computation import Parameters
from privnb.errors import BadMessage
from privnb.messages import Problem

__all__ = [
    "MAX_ROUND_BYTES",
    "Advert",
    "ArrayForm",
    "Ask",
    "Form",
    "Reveal",
    "Step",
    "Told",
    "Work",
    "bound_text",
    "pack",
    "unpack",
    "work_digest",
]

MAX_ROUND_BYTES = 128 * 1024 * 1024
"""The largest message of a round: 16 million parameters."""
_MAX_HEAD_BYTES = 4 * 1024 * 1024
_LENGTH = struct.Struct("<I")

Step = Literal["join", "advertise", "share", "contribute", "agree", "reveal", "end"]

T = TypeVar("T")


@wire.message
class Advert:
    """The public keys of one site for one attempt, signed by its pinned identity."""

    site: str
    """The site's verifier key, as in `privnb.computation.Federation.sites`."""
    mask_key: str
    """X25519, hexadecimal: what pairwise masks are agreed with."""
    share_key: str
    """X25519, hexadecimal: what shares are sealed for."""
    seed_check: str
    """What the seed of the self mask is recognised by, hexadecimal; it does not tell the seed."""
    signature: str
    """Ed25519, hexadecimal; over run, computation, attempt, site and all of the above."""


@wire.message
class Reveal:
    """Of every site in the roster one share, hexadecimal, and never both kinds of one site."""

    masks: dict[str, str]
    """By surviving site: a share of its self mask's seed."""
    keys: dict[str, str]
    """By site that dropped out: a share of its private mask key."""


@wire.message
class ArrayForm:
    """What an array looks like: public, and the same at every site."""

    name: str
    dtype: Literal["float64", "float32", "int64", "int32"]
    shape: tuple[int, ...]


@wire.message
class Form:
    """How to read a summed vector: arrays, then metrics, each times the weight; then the weight."""

    arrays: tuple[ArrayForm, ...]
    metrics: tuple[str, ...] = ()


@wire.message
class Work:
    """What a site computes for one attempt; its arrays follow the message.

    ``totals`` is the computation's SQL. ``train`` and ``evaluate`` go to its Flower app.
    ``gradient`` is one step of a model of ours, at the parameters that follow.
    """

    kind: Literal["totals", "train", "evaluate", "gradient"]
    round: int
    """From 1, at most `privnb.computation.Federation.rounds`."""
    arrays: tuple[ArrayForm, ...] = ()
    config: Parameters | None = None
    """The ``ConfigRecord`` for the app."""
    weighted_by: str = "num-examples"
    """The metric that the app's reply is weighted by."""


def bound_text(digest: str, *, action: str, analyst: str, form: str = "") -> str:
    """Return what the keys of a run are bound to: sites where it differs are in no sum together.

    Without the action, a sum over data and mock twins would tell what the data gives, as anybody
    can compute what the twins give; without the analyst, two could put one site's parts together.

    Parameters
    ----------
    action
        Of the request: run or mock.
    analyst
        Their email, as the exchange knows them.
    form
        Of a noisy sum: what the plan made of the question, with bounds, scales and groups.

    Examples
    --------
    >>> bound_text("4f2a", action="mock", analyst="ana@uni.example")
    'mock/ana@uni.example/4f2a'
    """
    return "/".join(filter(None, (action, analyst, digest, form)))


def work_digest(work: Work, blob: bytes | memoryview = b"") -> str:
    """SHA-256 of the work and its arrays, hexadecimal: equal where all do the same work.

    >>> work_digest(Work(kind="totals", round=1))[:8]
    'eec25a41'
    """
    found = hashlib.sha256(wire.encode(work))
    found.update(b"\n")
    found.update(blob)
    return found.hexdigest()


@wire.message
class Ask:
    """What the analyst asks one site for: the next step of an attempt, or the end of the run."""

    step: Step
    attempt: int
    """Counts the aggregations of a run from 1, and never comes twice with other keys."""
    adverts: tuple[Advert, ...] = ()
    """With ``share``: of everybody in the attempt. With ``reveal``: for the one that follows."""
    shares: dict[str, str] | None = None
    """With ``contribute``: what each other site sealed for this one, hexadecimal, by sender."""
    work: Work | None = None
    """With ``contribute``."""
    survivors: dict[str, str] | None = None
    """With ``agree`` and ``reveal``: whose vectors are in the sum, each with its ``confirmed``."""
    agreed: dict[str, str] | None = None
    """With ``reveal``, where somebody dropped out: enough sites' ``agreed``, by site."""
    following: int | None = None
    """With ``contribute``: the attempt that keys are wanted for beforehand."""
    finished: bool = True
    """With ``end``: whether all rounds were done; False where the run was given up."""


@wire.message
class Told:
    """What a site answers; its masked vector follows a ``contribute``.

    With a problem the site is out of this attempt, and may be in the next. ``join`` comes by
    itself, once the site has decided to take part; after a restart it comes again.
    """

    step: Step
    attempt: int
    problem: Problem | None = None
    advert: Advert | None = None
    """With ``advertise``; with ``contribute``, for the attempt that follows."""
    shares: dict[str, str] | None = None
    """By receiver, sealed, hexadecimal: with ``share``; with ``reveal``, for what follows."""
    confirmed: str | None = None
    """With ``contribute``: the site's signature over the roster and the work it answered."""
    agreed: str | None = None
    """With ``agree``: the site's signature over who survived; it reveals for nobody else."""
    reveal: Reveal | None = None
    only: tuple[str, ...] = ()
    """With a problem, where that is the roster: all sites of the only sum that this may be in."""
    form: Form | None = None
    """With ``contribute``, except for ``totals`` and ``gradient``, whose form is known."""


def pack(message: Ask | Told, blob: bytes | memoryview = b"") -> bytes:
    """Put a message and the numbers that belong to it into one run of bytes.

    >>> told, blob = unpack(Told, pack(Told(step="join", attempt=0), b"..."), what="it")
    >>> told.step, blob
    ('join', b'...')
    """
    head = wire.encode(message)
    return b"".join((_LENGTH.pack(len(head)), head, blob))


def unpack(kind: type[T], data: bytes, *, what: str) -> tuple[T, bytes]:
    """Take a message apart that somebody else wrote; raises `BadMessage`."""
    if not _LENGTH.size <= len(data) <= MAX_ROUND_BYTES:
        raise BadMessage(f"{what} is too short or too long.")
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if length > _MAX_HEAD_BYTES or end > len(data):
        raise BadMessage(f"{what} is cut short.")
    return wire.decode(kind, data[_LENGTH.size : end], what=what), data[end:]
