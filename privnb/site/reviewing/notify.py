"""Telling people that a request waits: a line in the log, and what the owner's site.toml names.

A program and an HTTP address are told the request's id and the computation's digest, nothing else:
neither who asks nor what, and nothing of the data.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from privnb import wire
from privnb.site.reporting import one_line

if TYPE_CHECKING:
    from privnb.site.reviewing.config import ReviewConfig

__all__ = ["announce"]

_SECONDS = 10
_AT_ONCE = threading.BoundedSemaphore(8)
"""A program that hangs must not let threads pile up, however many requests come in."""

_logger = logging.getLogger("privnb.site")


def announce(config: ReviewConfig, *, request: str, digest: str) -> None:
    """Tell that a request waits for review. Never blocks, and never raises.

    Programs and addresses are called in a thread of their own, with ten seconds each; what fails is
    logged, and not tried again.
    """
    _logger.info("request %s (digest %.12s) waits for review", request, digest)
    if not config.command and config.webhook is None:
        return
    if not _AT_ONCE.acquire(blocking=False):
        _logger.warning("request %s is not announced: earlier announcements still run", request)
        return
    thread = threading.Thread(
        target=_tell, args=(config, request, digest), name="privnb-announce", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter is ending
        _AT_ONCE.release()
        _logger.warning("request %s is not announced: no thread can be started", request)


def _tell(config: ReviewConfig, request: str, digest: str) -> None:
    try:
        if config.command:
            _attempt(request, config.command[0], _run, config.command, request, digest)
        if config.webhook is not None:
            where = urlsplit(config.webhook).hostname  # the rest may hold a secret
            _attempt(request, where, _post, config.webhook, request, digest)
    finally:
        _AT_ONCE.release()


def _attempt(request: str, where: object, tell: Any, *what: Any) -> None:
    try:
        tell(*what)
    except (OSError, ValueError, subprocess.SubprocessError, http.client.HTTPException) as problem:
        told = problem.reason if isinstance(problem, urllib.error.URLError) else problem
        said = f"{type(problem).__name__}: {one_line(str(told))}"
        _logger.warning("request %s is not announced by %s: %s", request, where, said)


def _run(command: tuple[str, ...], request: str, digest: str) -> None:
    process = subprocess.Popen(  # noqa: S603 - the owner's own program, without a shell
        [*command, request, digest],
        env={"PATH": os.environ.get("PATH", os.defpath)},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise TimeoutError(f"no end after {_SECONDS} seconds") from None
    if status != 0:
        raise OSError(f"exit status {status}")


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https only, and never from https to http."""

    def redirect_request(  # noqa: PLR0913, PLR0917 - urllib's protocol
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise urllib.error.URLError("redirected to another kind of address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _post(address: str, request: str, digest: str) -> None:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyHttp(),
    ):
        opener.add_handler(handler)
    body = wire.canonical_json({"request": request, "digest": digest})
    headers = {"Content-Type": "application/json", "User-Agent": "privnb"}
    message = urllib.request.Request(address, data=body, headers=headers, method="POST")  # noqa: S310 - read_review checked it
    answer = opener.open(message, timeout=_SECONDS)
    if answer is None:
        raise OSError("not an http or https address")
    answer.close()
