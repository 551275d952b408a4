"""Sandboxes of every kind that this machine can have, also those of an agent without rights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from privnb import wire
from privnb.errors import StateError
from privnb.output import Output
from privnb.site.sandbox import Cell, Failed, Finished, Sandbox, SandboxLimits
from privnb.site.sandbox.launch import Launch, find_bubblewrap
from privnb.site.sandbox.offer import find_offer

KINDS = ("bubblewrap", "plain", "unprivileged bubblewrap", "unprivileged plain")
PACKAGES = ("numpy", "pandas")
LIMITS = SandboxLimits(
    wall_seconds=5, cpu_seconds=1, memory_mb=512, output_bytes=20_000, scratch_mb=8
)
VISITS = pa.table(
    {
        "age": [34, 51, 29, 62, 45],
        "ward": ["east", "west", "east", "east", "west"],
        "cost": [10.5, 20.0, 7.25, None, 12.0],
    }
)
SOME_USER = 1234


def why_not(kind):
    """Return why a kind of sandbox cannot be had here, None when it can."""
    if sys.platform != "linux":
        return "there is a sandbox on Linux only"
    if "unprivileged" in kind and os.getuid() == 0 and not _can_become_somebody():
        return "this machine does not let a mount namespace be made"
    if "bubblewrap" in kind:
        program = find_bubblewrap()
        if program is None:
            return "bubblewrap is not installed"
        if "unprivileged" not in kind:
            launch = Launch(
                offer=find_offer(PACKAGES), bubblewrap=program, lock=True, scratch_bytes=1 << 20
            )
            return launch.try_bubblewrap()
    return None


def open_sandbox(kind, *, limits=LIMITS, workers=1):
    """Open a sandbox of a kind; ask `why_not` first."""
    if "unprivileged" in kind and os.getuid() == 0:
        return UnprivilegedAgent(bubblewrap="bubblewrap" in kind, limits=limits, workers=workers)
    return Sandbox.open(
        packages=PACKAGES, limits=limits, workers=workers, _bubblewrap="bubblewrap" in kind
    )


def cell(source, *, output=None, parameters=None, tables=None):
    return Cell(
        source=source,
        output=output,
        parameters={"agent": 1} | (parameters or {}),
        tables={"visits": VISITS} if tables is None else tables,
    )


def _can_become_somebody():
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


class UnprivilegedAgent:
    """The pool in another process, whose user has no rights; for tests that run as root.

    The interpreter may lie in root's home. There it is seen through a mount namespace of the
    process's own, in which the folders above it are open; nothing of the machine changes.
    """

    def __init__(self, *, bubblewrap, limits, workers):
        needed = {Path(p) for p in (*sys.path, os.path.realpath(sys.executable)) if p}
        closed = {
            folder
            for path in needed
            for folder in path.parents
            if folder.exists() and not folder.stat().st_mode & 0o001
        }
        script = ["set -e"]
        for folder in sorted(closed):
            entries = f"for f in $(ls -A $hold); do [ -d $hold/$f ] || continue; mkdir {folder}/$f"
            script += [
                "hold=$(mktemp -d)",
                f"mount --rbind {folder} $hold",
                f"mount -t tmpfs -o mode=0755 tmpfs {folder}",
                f"{entries}; mount --rbind $hold/$f {folder}/$f; done",
                "umount -l $hold",
                "rmdir $hold",
            ]
        user = f"--reuid={SOME_USER} --regid={SOME_USER} --clear-groups --bounding-set=-all"
        script += [f'exec setpriv {user} --inh-caps=-all "$@"']
        settings = json.dumps({"bubblewrap": bubblewrap, "workers": workers, **vars(limits)})
        agent = [sys.executable, str(Path(__file__).with_name("agent_child.py")), settings]
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "\n".join(script), "sh", *agent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "SECRET_TOKEN": "of the agent"},
            cwd="/",
        )
        opened = self._read()
        if "level" not in opened:
            self.close()
            raise StateError(str(opened))
        self.level = opened["level"]
        self.pid = opened["pid"]

    def run(self, asked):
        message = {
            "source": asked.source,
            "output": asked.output,
            "parameters": asked.parameters,
            "visits": "visits" in asked.tables,
        }
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        ended = self._read()
        if "failed" in ended:
            return Failed(**ended["failed"])
        output = wire.decode(Output, ended["output"].encode(), what="an output")
        return Finished(output=output, seconds=ended["seconds"])

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _read(self):
        return json.loads(self._process.stdout.readline() or '{"ended": true}')
