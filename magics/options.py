"""The options that ``%%secure`` and ``%%federated`` share, and the ways in which a cell is run."""

# IPython's decorators have no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument

from privnb.magics.grammar import variable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection

__all__ = [
    "DRY_RUN",
    "MOCK",
    "NO_WAIT",
    "PARAM",
    "PURPOSE",
    "RESULT",
    "check_modes",
]

RESULT = argument(
    "result",
    nargs="?",
    type=variable,
    metavar="RESULT",
    help="Store what comes back in this variable instead of displaying it.",
)
PURPOSE = argument(
    "--purpose", metavar="P", help="What the answer is for; your grant must cover it."
)
PARAM = argument(
    "--param",
    action="append",
    default=[],
    metavar="NAME",
    help="Hand over the notebook's variable NAME: :NAME in SQL, NAME in Python; repeatable.",
)
DRY_RUN = argument(
    "--dry-run",
    action="store_true",
    help="Show price and expected error, or who decides, at each site. Nothing is spent.",
)
MOCK = argument(
    "--mock",
    action="store_true",
    help="Ask the mock twins: synthetic rows, nothing real, nothing spent.",
)
NO_WAIT = argument(
    "--no-wait",
    action="store_true",
    help="Return a handle at once: .status, .result(), .cancel(), or await it.",
)


def check_modes(args: argparse.Namespace, *, at_once: Collection[str]) -> None:
    """Refuse ways of running a cell that exclude each other, with a `UsageError`.

    Parameters
    ----------
    at_once
        Which of these options let the cell end without waiting, so that no timeout goes with them.
    """
    modes = [
        option
        for option, chosen in (
            ("--dry-run", args.dry_run),
            ("--mock", args.mock),
            ("--no-wait", args.no_wait),
        )
        if chosen
    ]
    if len(modes) > 1:
        raise UsageError(f"{' and '.join(modes)} exclude each other; choose one.")
    if modes and modes[0] in at_once and args.timeout is not None:
        raise UsageError(f"--timeout has no meaning with {modes[0]}, which does not wait.")
