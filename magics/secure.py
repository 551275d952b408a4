"""``%%secure`` and ``%privnb``: the magics of one IPython shell and the session they share."""

# IPython's decorators have no types:
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Float

from privnb.errors import PrivnbError
from privnb.magics.commands import HELP, run_command
from privnb.magics.grammar import bind, parse, refuse_listed, refuse_python, variable
from privnb.magics.showing import show_lines
from privnb.magics.waiting import wait
from privnb.session import connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from privnb.computation import Parameters
    from privnb.release import Estimates, Release
    from privnb.request import Request
    from privnb.session import Session
    from privnb.widgets.budget_display import BudgetDisplay

__all__ = ["SecureMagics"]


@magics_class
class SecureMagics(Magics):
    """The magics of privnb in one shell.

    Parameters
    ----------
    shell
        Where the magics are used.
    connect
        Opens a session; `privnb.connect` unless a test brings its own.
    """

    timeout = Float(
        300.0, min=0.0, help="Seconds that a cell waits for its answer before it lets go."
    ).tag(config=True)
    progress_after = Float(
        1.0, min=0.0, help="Seconds after which a waiting cell shows the progress of its sites."
    ).tag(config=True)

    def __init__(
        self, shell: InteractiveShell, *, connect: Callable[..., Session] = connect
    ) -> None:
        super().__init__(shell)
        self.namespace: dict[str, Any] = shell.user_ns
        self.connect = connect
        self.connected: Session | None = None
        self._budgets: BudgetDisplay | None = None

    # `output_can_be_silenced` is left out on purpose. It reads the cell as Python after it ran:
    # SQL often ends in a semicolon, which would hide an answer that was paid for, and SQL that
    # Python cannot tokenize would turn that answer into an IndentationError.
    @no_var_expand
    @magic_arguments("%secure")  # help puts another % before it
    @argument(
        "result",
        nargs="?",
        type=variable,
        metavar="RESULT",
        help="Store what comes back in this variable instead of displaying it.",
    )
    @argument(
        "--site",
        action="append",
        default=[],
        metavar="NAME",
        help="A site to ask; repeat it for several. Each answers, and charges, for itself.",
    )
    @argument("--epsilon", metavar="E", help="The privacy loss offered to each site.")
    @argument("--purpose", metavar="P", help="What the answer is for; your grant must cover it.")
    @argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME",
        help="Bind the notebook's variable NAME to :NAME in the SQL; repeat it for several.",
    )
    @argument(
        "--dry-run",
        action="store_true",
        help="Show price and expected error at each site. Nothing is spent.",
    )
    @argument(
        "--mock",
        action="store_true",
        help="Ask the mock twins: synthetic rows, nothing real, nothing spent.",
    )
    @argument(
        "--no-wait",
        action="store_true",
        help="Return a Request at once: .status, .result(), .cancel(), or await it.",
    )
    @argument(
        "--timeout",
        type=float,
        metavar="S",
        help="Seconds to wait (default: %%config SecureMagics.timeout).",
    )
    @cell_magic
    def secure(self, line: str, cell: str) -> object:
        """Ask data owners' sites a question in SQL, and get a protected answer.

        The text of the cell is sent, hashed and shown to the owners exactly as it stands: nothing
        in it is replaced. Values come in through --param only.
        """
        args = parse(self.secure.parser, line)
        _check_modes(args)
        session = self.session
        refuse_listed(line, session.site_names())
        refuse_python(cell)
        params = cast("Parameters | None", bind(args.param, self.namespace))
        if args.dry_run:
            estimates = session.estimate(
                cell, sites=args.site, epsilon=args.epsilon, purpose=args.purpose, params=params
            )
            return self._estimated(estimates, args.result)
        if args.mock:
            release = session.mock(cell, sites=args.site, epsilon=args.epsilon or 1, params=params)
            return self.released(release, args.result)
        request = session.secure(
            cell, sites=args.site, epsilon=args.epsilon, purpose=args.purpose, params=params
        )
        if args.no_wait:
            return self._asked(request, args.result)
        return self.finish(request, result=args.result, timeout=args.timeout)

    @no_var_expand
    @line_magic
    def privnb(self, line: str) -> object:  # noqa: D102 - the docstring is set below
        return run_command(self, line)

    privnb.__doc__ = HELP

    @property
    def session(self) -> Session:
        """The session of this notebook; an error that says how to get one if there is none."""
        if self.connected is None:
            raise PrivnbError(
                "This notebook is not connected to an exchange.",
                hint="Run this first: %privnb connect --email YOU@EXAMPLE.ORG --exchange DIR",
                code="E_NOT_CONNECTED",
            )
        return self.connected

    @session.setter
    def session(self, session: Session) -> None:
        self.connected = session
        self._budgets = None

    @property
    def budgets(self) -> BudgetDisplay:
        """Where this notebook shows budgets."""
        if self._budgets is None:
            from privnb.widgets.budget_display import BudgetDisplay  # noqa: PLC0415 - not at load

            self._budgets = BudgetDisplay(live=self._live)
        return self._budgets

    def finish(self, request: Request, *, result: str | None, timeout: float | None) -> object:
        """Wait for a request, let the budgets move, and store or return its release."""
        try:
            release = wait(
                request,
                timeout=self.timeout if timeout is None else timeout,
                progress_after=self.progress_after,
                live=self._live,
                result=result,
            )
        finally:
            self._charge(request)
        return self.released(release, result)

    def released(self, release: Release, result: str | None) -> object:
        """Store a release and say so in one line, or return it for display."""
        if result is None:
            return release
        sites = ", ".join(release.sites)
        groups = sum(len(part.answer.rows) for part in release.parts)
        price = {site: label.epsilon for site, label in release.labels.items()}
        if release.mock:
            paid = "MOCK: nothing real, nothing spent"
        elif len(set(price.values())) == 1:
            paid = f"epsilon {next(iter(price.values()))}{' each' if len(price) > 1 else ''}"
        else:
            paid = ", ".join(f"epsilon {epsilon} at {site}" for site, epsilon in price.items())
        rows = f"{groups} row{'' if groups == 1 else 's'}"
        missing = [f"Nothing from {s}: {p}  {p.hint}" for s, p in release.problems.items()]
        self._store(result, release)
        proof = f"digest {release.digest[:16]} · request {release.request[:8]}"
        show_lines(f"{result}: {rows} from {sites} · {paid}", *missing, proof)
        return None

    def _estimated(self, estimates: Estimates, result: str | None) -> Estimates | None:
        if result is None:
            return estimates
        self._store(result, estimates)
        missing = [f"Nothing from {s}: {p}  {p.hint}" for s, p in estimates.problems.items()]
        beyond = [site for site, each in estimates.by_site.items() if each.affordable is False]
        verdict = f" · more than your budget at {', '.join(beyond)}" if beyond else ""
        asked = ", ".join(estimates.by_site)
        show_lines(f"{result}: estimate from {asked}{verdict} · nothing spent", *missing)
        return None

    def _asked(self, request: Request, result: str | None) -> Request | None:
        show_lines(
            f"Sent to {', '.join(request.sites)}. Get the answer with: "
            f"%privnb result {request.id[:8]}",
            f"request {request.id[:8]} · digest {request.digest[:16]}",
        )
        if result is None:
            return request
        self._store(result, request)
        return None

    def _charge(self, request: Request) -> None:
        if self._budgets is None:
            return
        self._budgets.update(
            (site, reply.budget)
            for site, reply in request.replies().items()
            if not isinstance(reply, PrivnbError) and reply.budget is not None
        )

    def _store(self, name: str, value: object) -> None:
        self.namespace[name] = value

    @property
    def _live(self) -> bool:
        """Whether outputs can be replaced: kernels can, the terminal cannot."""
        return getattr(self.shell, "kernel", None) is not None


def _check_modes(args: argparse.Namespace) -> None:
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
    if modes and args.timeout is not None:
        raise UsageError(f"--timeout has no meaning with {modes[0]}, which does not wait.")
