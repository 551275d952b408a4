"""Telling that a request waits: id and digest only, no shell, and never in the agent's way."""

from __future__ import annotations

import errno
import http.server
import json
import logging
import os
import socket
import threading
import time

import pytest

from privnb.site.reviewing import notify
from privnb.site.reviewing.config import ReviewConfig

REQUEST, DIGEST = "ab" * 16, "cd" * 32


def config(command=(), webhook=None):
    return ReviewConfig(
        mode="both", needed=1, expires_days=14, reviewers={}, command=command, webhook=webhook
    )


def announce(**told):
    """Announce, and wait for what it started."""
    before = set(threading.enumerate())
    notify.announce(config(**told), request=REQUEST, digest=DIGEST)
    for thread in set(threading.enumerate()) - before:
        if thread.name == "privnb-announce":
            thread.join()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def somebody_reads(pipe):
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as problem:
        return problem.errno != errno.ENXIO
    return True


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.INFO, logger="privnb.site")
    return lambda: [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.fixture
def server():
    """A web server on this machine that keeps what it is sent; returns how to start one."""
    started = []

    def start(answer):
        received = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, self.headers["Content-Type"], body))
                answer(self)

            def do_GET(self):
                received.append((self.path, None, b""))
                answer(self)

            def log_message(self, *args):
                pass

        made = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        started.append((made, thread))
        return f"http://127.0.0.1:{made.server_port}", received

    yield start
    for made, thread in started:
        made.shutdown()
        thread.join()
        made.server_close()


def test_the_log_says_that_a_request_waits(caplog):
    with caplog.at_level(logging.INFO, logger="privnb.site"):
        announce()
    assert f"request {REQUEST}" in caplog.text
    assert "waits for review" in caplog.text


def test_a_program_gets_the_id_and_the_digest_and_no_environment(tmp_path, warnings, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    told = tmp_path / "told"
    program = script(tmp_path / "notify", f'echo "$@" > {told}\nenv >> {told}')
    announce(command=(program, "first; rm -rf $HOME"))
    lines = told.read_text().splitlines()
    assert lines[0] == f"first; rm -rf $HOME {REQUEST} {DIGEST}"
    assert {line.partition("=")[0] for line in lines[1:]} <= {"PATH", "PWD", "SHLVL", "_", "OLDPWD"}
    assert warnings() == []


@pytest.mark.parametrize(
    ("command", "words"),
    [(("/does/not/exist",), "No such file"), (("/bin/false",), "exit status 1")],
)
def test_a_program_that_fails_is_logged_once(command, words, warnings):
    announce(command=command)
    (line,) = warnings()
    assert f"request {REQUEST} is not announced by {command[0]}" in line
    assert words in line


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(notify, "_SECONDS", 0.3)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    announce(command=(script(tmp_path / "hang", f"(cat {pipe}) & cat {pipe}"),))
    assert "no end after" in warnings()[0]
    while somebody_reads(pipe):
        time.sleep(0.01)


def test_an_address_gets_the_id_and_the_digest(server, warnings):
    address, received = server(lambda handler: handler.send_response(204) or handler.end_headers())
    announce(webhook=f"{address}/hook?x=1")
    ((path, kind, body),) = received
    assert (path, kind) == ("/hook?x=1", "application/json")
    assert json.loads(body) == {"request": REQUEST, "digest": DIGEST}
    assert warnings() == []


def test_an_address_that_fails_is_logged_without_its_secret_path(server, warnings):
    address, _ = server(lambda handler: handler.send_error(500))
    announce(webhook=f"{address}/secret-token")
    (line,) = warnings()
    assert "is not announced by 127.0.0.1: HTTPError" in line
    assert "secret-token" not in line


def test_nobody_there_is_logged(warnings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        announce(webhook=f"http://127.0.0.1:{port}/")
    assert "ConnectionRefusedError" in warnings()[0] or "URLError" in warnings()[0]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirection_to_another_kind_of_address_is_not_followed(server, warnings, target):
    def redirect(handler):
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    address, received = server(redirect)
    announce(webhook=address)
    assert len(received) == 1
    assert len(warnings()) == 1


def test_both_are_told_even_when_the_first_fails(server, warnings):
    address, received = server(lambda handler: handler.send_response(204) or handler.end_headers())
    announce(command=("/bin/false",), webhook=address)
    assert len(received) == 1
    assert len(warnings()) == 1


def test_hanging_programs_do_not_pile_up(tmp_path, warnings, monkeypatch):
    monkeypatch.setattr(notify, "_AT_ONCE", threading.BoundedSemaphore(1))
    gate = tmp_path / "gate"
    told = tmp_path / "told"
    program = script(tmp_path / "wait", f"cat {gate}; echo $1 >> {told}")
    os.mkfifo(gate)
    notify.announce(config(command=(program,)), request="first", digest=DIGEST)
    notify.announce(config(command=(program,)), request="second", digest=DIGEST)
    assert warnings() == ["request second is not announced: earlier announcements still run"]
    gate.write_text("go")
    for thread in threading.enumerate():
        if thread.name == "privnb-announce":
            thread.join()
    assert told.read_text() == "first\n"
