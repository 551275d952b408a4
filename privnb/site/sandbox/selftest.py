"""The agent attacks its own sandbox before it trusts it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privnb.computation import Parameters
from privnb.errors import StateError
from privnb.federated.messages import ArrayForm, Work
from privnb.site.sandbox.cell import Cell, Failed, Finished
from privnb.site.sandbox.steps import TrainingCell

if TYPE_CHECKING:
    from privnb.site.sandbox.trainer import Trainer

__all__ = ["attack_ourselves", "attack_training"]

# Each attack is a function that would do no harm if it worked; the code says which did.
_ATTACKS = """
import ctypes, os, resource, signal, socket
libc = ctypes.CDLL(None, use_errno=True)

def read_a_file(): open(canary).read()
def list_a_folder(): os.listdir(os.path.dirname(canary))
def write_a_file(): open(canary, "w").close()
def make_a_file(): open(canary + ".new", "x").close()
def read_passwords(): open("/etc/passwd").read()
def read_the_agents_environment(): open(f"/proc/{agent}/environ").read()
def read_own_environment(): open("/proc/self/environ").read()
def open_a_socket(): socket.socket()
def open_a_unix_socket(): socket.socketpair()
def fork(): os.fork() or os._exit(0)
def execute(): os.execv("/bin/sh", ["sh", "-c", "exit 77"])
def spawn(): os.posix_spawn("/bin/true", ["true"], {})
def signal_the_agent(): os.kill(agent, 0)
def signal_everybody(): os.kill(-1, 0)
def limit_the_agent(): resource.prlimit(agent, resource.RLIMIT_NOFILE)
def schedule_the_agent(): os.sched_setaffinity(agent, os.sched_getaffinity(agent))
def become_root(): os.setuid(0)
def leave_by_namespace(): libc.unshare(0x10000000) == 0 or 1 / 0
def trace(): libc.ptrace(0, 0, 0, 0) == 0 or 1 / 0
def change_root(): os.chroot("/")
def link_a_file(): os.symlink("/etc", os.environ["TMPDIR"] + "/l")

def find_secrets_in_environment():
    any("SECRET" in name or "TOKEN" in name for name in os.environ) or 1 / 0

worked = []
for attack in [f for n, f in list(globals().items()) if getattr(f, "__module__", "") == "__main__"]:
    try:
        attack()
    except (OSError, ZeroDivisionError, AttributeError):
        worked.append(False)
        continue
    worked.append(True)
with open(os.environ["TMPDIR"] + "/note", "w") as file:
    file.write("scratch works")
"""
_SAY = """
import pandas
pandas.Series(worked)
"""
_SAY_BY_TRAINING = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
@app.train()
def train(message, context):
    arrays, metrics = ArrayRecord([np.array(worked, float)]), MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
"""
_NAMES = re.findall(r"^def (\w+)\(\)", _ATTACKS, flags=re.MULTILINE)


def attack_ourselves(run: Callable[[Cell], Finished | Failed]) -> None:
    """Raise `StateError` when an attack on the sandbox works, or when honest code does not."""
    with _canary() as canary:
        parameters: Parameters = {"canary": canary, "agent": os.getpid()}
        cell = Cell(source=_ATTACKS + _SAY, tables={}, parameters=parameters, output=None)
        ended = run(cell)
    _judge(ended if isinstance(ended, Failed) else [row[0] for row in ended.output.rows])


def attack_training(begin: Callable[[TrainingCell], Trainer]) -> None:
    """Do the same to a worker that takes trainings."""
    import numpy as np  # noqa: PLC0415 - workers import this package before they can reach it

    with _canary() as canary:
        parameters: Parameters = {"canary": canary, "agent": os.getpid()}
        cell = TrainingCell(source=_ATTACKS + _SAY_BY_TRAINING, tables={}, parameters=parameters)
        form = ArrayForm(name="0", dtype="float64", shape=(len(_NAMES),))
        trainer = begin(cell)
        try:
            ended = trainer.step(
                Work(kind="train", round=1, arrays=(form,)), [np.zeros(len(_NAMES))]
            )
        finally:
            trainer.close()
    _judge(ended if isinstance(ended, Failed) else list(ended.arrays[0][1]))


@contextlib.contextmanager
def _canary() -> Iterator[str]:
    """Make a file that only the sandbox stands before."""
    with tempfile.TemporaryDirectory(prefix="privnb-") as folder:
        Path(folder).chmod(0o755)
        canary = Path(folder, "canary")
        canary.write_text(secrets.token_hex(16))
        canary.chmod(0o666)
        yield str(canary)


def _judge(ended: Failed | Sequence[Any]) -> None:
    if isinstance(ended, Failed):
        said = f"{ended.reason} ({ended.error}, {ended.line}, {ended.fault})"
        raise StateError(
            f"The sandbox's self-test did not end: {said}.",
            hint="Python computations stay off. Look at the machine's free memory and disk.",
        )
    worked = [name for name, did in zip(_NAMES, ended, strict=True) if did]
    if worked:
        raise StateError(
            f"The sandbox does not hold: {', '.join(worked)}.",
            hint="Python computations stay off. Update the kernel, or install bubblewrap.",
        )
