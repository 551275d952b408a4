"""Sandboxes of every kind that this machine can have, also those of an agent without rights."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from privnb import wire
from privnb.errors import StateError
from privnb.federated.messages import ArrayForm, Work
from privnb.output import Output
from privnb.site.sandbox import Cell, Failed, Finished, Sandbox, SandboxLimits, TrainingCell
from privnb.site.sandbox.launch import Launch, find_bubblewrap
from privnb.site.sandbox.offer import find_offer

AS_ROOT = sys.platform == "linux" and os.getuid() == 0
KINDS = ("bubblewrap", "plain")
if AS_ROOT:  # for anybody else, these are the same
    KINDS += ("unprivileged bubblewrap", "unprivileged plain")
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
    if "unprivileged" in kind and not _can_become_somebody():
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


def open_sandbox(kind, *, limits=LIMITS, workers=1, training=0):
    """Open a sandbox of a kind; ask `why_not` first."""
    settings = {"limits": limits, "workers": workers, "training": training}
    if "unprivileged" in kind:
        return UnprivilegedAgent(bubblewrap="bubblewrap" in kind, **settings)
    return Sandbox.open(packages=PACKAGES, _bubblewrap="bubblewrap" in kind, **settings)


def cell(source, *, output=None, parameters=None, tables=None):
    return Cell(
        source=source,
        output=output,
        parameters={"agent": 1} | (parameters or {}),
        tables={"visits": VISITS} if tables is None else tables,
    )


def training(source, *, parameters=None, tables=None):
    return TrainingCell(
        source=source,
        parameters={"agent": 1} | (parameters or {}),
        tables={"visits": VISITS} if tables is None else tables,
    )


def work(kind="train", *, size=1, number=1, **more):
    return Work(
        kind=kind,
        round=number,
        arrays=(ArrayForm(name="0", dtype="float64", shape=(size,)),),
        **more,
    )


def train(sandbox, source, **how):
    """Do some steps at zeros and say how each ended, in any kind of sandbox."""
    asked = {"source": source, "steps": 1, "size": 1, "rest": 0.0, "parameters": {}} | how
    return sandbox.train(asked) if isinstance(sandbox, UnprivilegedAgent) else take(sandbox, asked)


def take(sandbox, asked):
    parameters = {"agent": os.getpid()} | asked["parameters"]
    trainer = sandbox.train(training(asked["source"], parameters=parameters))
    said = []
    try:
        for number in range(1, asked["steps"] + 1):
            zeros = np.zeros(asked["size"])
            ended = trainer.step(work(size=asked["size"], number=number), [zeros])
            if isinstance(ended, Failed):
                said.append(dataclasses.asdict(ended))
                continue
            (_, values) = ended.arrays[0]
            said.append({"reason": "fine", "values": values.tolist(), "metrics": ended.metrics})
            if asked["rest"]:
                before = trainer._worker.cpu_seconds()
                time.sleep(asked["rest"])  # it is what happens meanwhile that matters
                said[-1]["at_rest"] = trainer._worker.cpu_seconds() - before
    finally:
        trainer.close()
    return said


def descendants(pid):
    """All processes below one, and how each is: R for running, S for sleeping, T for stopped."""
    parents, states = {}, {}
    for process in Path("/proc").iterdir():
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if process.name.isdigit():
            parents[int(process.name)] = int(fields[1])
            states[int(process.name)] = fields[0]
    found, last = set(), {pid}
    while last:
        last = {child for child, parent in parents.items() if parent in last}
        found |= last
    return {child: states[child] for child in found}


def _can_become_somebody():
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


class UnprivilegedAgent:
    """The pool in another process, whose user has no rights; for tests that run as root.

    The interpreter may lie in root's home. There it is seen through a mount namespace of the
    process's own, in which the folders above it are open; nothing of the machine changes.
    """

    def __init__(self, *, bubblewrap, limits, workers, training):
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
        opening = {"bubblewrap": bubblewrap, "workers": workers, "training": training}
        settings = json.dumps(opening | vars(limits))
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
        ended = self._ask(message)
        if "failed" in ended:
            return Failed(**ended["failed"])
        output = wire.decode(Output, ended["output"].encode(), what="an output")
        return Finished(output=output, seconds=ended["seconds"])

    def train(self, asked):
        return self._ask(asked)

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, message):
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self):
        return json.loads(self._process.stdout.readline() or '{"ended": true}')
