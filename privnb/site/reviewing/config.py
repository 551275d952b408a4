"""``[review]`` in ``site.toml``: who looks at what, how many must agree, and who is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

from privnb.datasite.names import is_email
from privnb.site.reviewing.reviewers import person, read_public
from privnb.site.toml_reader import Section

__all__ = ["ReviewConfig", "read_review"]

_MODES = ("code", "output", "both")
_MOST_DAYS = 3650


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """How people decide about Python cells.

    Attributes
    ----------
    mode
        What is looked at: the code before it runs, the output before it leaves, or both.
    needed
        How many reviewers must approve each.
    expires_days
        After how many days without a decision a request is refused.
    reviewers
        The public key of each reviewer, by email.
    release
        Digests of computations that are released without a human.
    command, webhook
        What is told of a new request: a program, by absolute path with its first arguments, and an
        HTTP address. Empty and None: nothing.
    """

    mode: Literal["code", "output", "both"]
    needed: int
    expires_days: int
    reviewers: Mapping[str, str]
    release: frozenset[str] = frozenset()
    command: tuple[str, ...] = ()
    webhook: str | None = None


def read_review(section: Section) -> ReviewConfig:
    """Read ``[review]``; raise `ConfigError` at the first mistake."""
    mode_hint = 'Write "code", "output" or "both": what is looked at before anything leaves.'
    mode = section.text("review", hint=mode_hint, default="both")
    if mode not in _MODES:
        section.fail(f"There is no review {mode!r}.", "review", hint=mode_hint)
    reviewers = _read_reviewers(section)
    needed_hint = f"Say how many of the {len(reviewers)} reviewers must approve."
    needed = section.integer("needed", lowest=1, hint=needed_hint)
    if needed > len(reviewers):
        problem = f"'needed' is {needed}, but there are only {len(reviewers)} reviewers."
        section.fail(problem, "needed", hint="Lower it, or name more reviewers.")
    days_hint = "Say after how many days without a decision a request is refused."
    days = 14
    if section.has("expires_days"):
        days = section.integer("expires_days", lowest=1, hint=days_hint)
    if days > _MOST_DAYS:
        problem = f"'expires_days' must be at most {_MOST_DAYS}, not {days}."
        section.fail(problem, "expires_days", hint=days_hint)
    config = ReviewConfig(
        mode=cast("Literal['code', 'output', 'both']", mode),
        needed=needed,
        expires_days=days,
        reviewers=reviewers,
        release=_read_release(section),
        command=_read_command(section),
        webhook=_read_webhook(section),
    )
    section.finish()
    return config


def _read_reviewers(section: Section) -> dict[str, str]:
    hint = "Add what `privnb review key --email you@hospital.example` prints for each reviewer."
    declared = section.section("reviewers", hint=hint)
    reviewers: dict[str, str] = {}
    for email in declared.keys():  # noqa: SIM118 - a section is no mapping
        if not is_email(email):
            remedy = 'Write for example "alice@hospital.example" = "ed25519:…", in lower case.'
            declared.fail(f"{email!r} is not an email address.", email, hint=remedy)
        key = declared.text(email, hint=hint)
        try:
            read_public(key)
        except ValueError:
            declared.fail(f"{email!r} has no valid public key.", email, hint=hint)
        for other in reviewers:
            if person(other) == person(email):
                problem = f"{email!r} is the same person as {other!r}."
                declared.fail(problem, email, hint="Name each reviewer once.")
        for other, known in reviewers.items():
            if known == key:
                problem = f"{email!r} has the same key as {other!r}."
                remedy = "Each reviewer makes their own: privnb review key"
                declared.fail(problem, email, hint=remedy)
        reviewers[email] = key
    if not reviewers:
        section.fail("There is no reviewer, so nobody could decide.", "reviewers", hint=hint)
    return reviewers


def _read_release(section: Section) -> frozenset[str]:
    hint = "List digests as `privnb review show` prints them: 64 hexadecimal digits, lower case."
    digests = section.texts("release", hint=hint)
    for number, digest in enumerate(digests):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            section.fail(f"{digest:.80} is not a digest.", "release", number, hint=hint)
    return frozenset(digests)


def _read_command(section: Section) -> tuple[str, ...]:
    hint = 'Write for example command = ["/usr/local/bin/notify"]; no shell reads it.'
    command = section.texts("command", hint=hint)
    if command and not command[0].startswith("/"):
        problem = f"{command[0]!r} is not the absolute path of a program."
        section.fail(problem, "command", 0, hint=hint)
    if any("\0" in part for part in command):
        section.fail("'command' has a zero byte in it.", "command", hint=hint)
    return command


def _read_webhook(section: Section) -> str | None:
    hint = 'Write for example webhook = "https://chat.hospital.example/hooks/privnb".'
    if not section.has("webhook"):
        return None
    address = section.text("webhook", hint=hint)
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", address):
        section.fail("'webhook' is not an http or https address.", "webhook", hint=hint)
    return address
