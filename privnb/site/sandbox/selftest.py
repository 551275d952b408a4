"""The agent attacks its own sandbox before it trusts it."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from privnb.errors import StateError
from privnb.site.sandbox.cell import Cell, Failed, Finished

__all__ = ["attack_ourselves"]

# Each attack is a function that would do no harm if it worked; the output names those that did.
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

worked = []
for attack in [f for n, f in list(globals().items()) if getattr(f, "__module__", "") == "__main__"]:
    try:
        attack()
    except (OSError, ZeroDivisionError, AttributeError):
        continue
    worked.append(attack.__name__)
if any("SECRET" in name or "TOKEN" in name for name in os.environ):
    worked.append("secrets_in_environment")
import pandas
with open(os.environ["TMPDIR"] + "/note", "w") as file:
    file.write("scratch works")
pandas.Series(["none", *worked])
"""


def attack_ourselves(run: Callable[[Cell], Finished | Failed]) -> None:
    """Raise `StateError` when an attack on the sandbox works, or when honest code does not."""
    with tempfile.TemporaryDirectory(prefix="privnb-") as folder:
        Path(folder).chmod(0o755)  # only the sandbox stands before it
        canary = Path(folder, "canary")
        canary.write_text(secrets.token_hex(16))
        canary.chmod(0o666)
        cell = Cell(
            source=_ATTACKS,
            tables={},
            parameters={"canary": str(canary), "agent": os.getpid()},
            output=None,
        )
        ended = run(cell)
    if isinstance(ended, Failed):
        raise StateError(
            f"The sandbox's self-test did not end: {ended.reason} ({ended.error}, {ended.line}).",
            hint="Python computations stay off. Look at the machine's free memory and disk.",
        )
    worked = [str(row[0]) for row in ended.output.rows[1:]]
    if worked:
        raise StateError(
            f"The sandbox does not hold: {', '.join(worked)}.",
            hint="Python computations stay off. Update the kernel, or install bubblewrap.",
        )
