"""Running an analyst's Python where it can do no harm: pools of locked workers.

The code is hostile until proven otherwise, also when it was approved. What holds it is the kernel:
a namespace of its own (bubblewrap, where it works), Landlock, a system call filter, resource limits
and a user id that owns nothing. Nothing that a worker sends back is believed. A cell has a worker
for itself, which then ends; a training has one that goes on from step to step, and is stopped by
the kernel between them. What code of a training keeps from one step to the next is its own affair.

What this does not stop: how long code takes, whether it fails, what it hides in the output that it
declares, or in the numbers that it trains, looking up whether a path exists (bubblewrap stops that,
Landlock does not), and filling, while it runs, up to an eighth of the machine's memory with empty
files in its scratch. The list of packages is kept by files that cannot be read, and for what is
loaded already by a gate in Python inside the worker, which is a convenience and no wall.
"""

from __future__ import annotations

from privnb.site.sandbox.cell import Cell, Failed, Finished, SandboxLimits
from privnb.site.sandbox.sandbox import Sandbox
from privnb.site.sandbox.steps import Trained, TrainingCell
from privnb.site.sandbox.trainer import Trainer

__all__ = [
    "Cell",
    "Failed",
    "Finished",
    "Sandbox",
    "SandboxLimits",
    "Trained",
    "Trainer",
    "TrainingCell",
]
