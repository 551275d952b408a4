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
from privnb.magics.grammar import bind, language, parse, refuse_listed, refuse_python, variable
from privnb.magics.showing import show_bundle, show_lines
from privnb.magics.waiting import wait
from privnb.session import connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from privnb.computation import Parameters
    from privnb.preview import Preview
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
    @argument("--epsilon", metavar="E", help="The privacy loss offered to each site, for SQL.")
    @argument("--purpose", metavar="P", help="What the answer is for; your grant must cover it.")
    @argument(
        "--table",
        action="append",
        default=[],
        metavar="T",
        help="A table that Python gets as a pandas frame of this name; repeat it for several.",
    )
    @argument(
        "--output",
        type=variable,
        metavar="NAME",
        help="The variable that Python lets out (default: its last expression).",
    )
    @argument(
        "--language",
        choices=("sql", "python"),
        help="What the cell is written in (default: Python with --table or --output, else SQL).",
    )
    @argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME",
        help="Hand over the notebook's variable NAME: :NAME in SQL, NAME in Python; repeatable.",
    )
    @argument(
        "--dry-run",
        action="store_true",
        help="Show price and expected error, or who decides, at each site. Nothing is spent.",
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
        """Ask data owners' sites in SQL for a protected answer, or in Python for an approved one.

        The text of the cell is sent, hashed and shown to the owners exactly as it stands: nothing
        in it is replaced. Values come in through --param only.
        """
        args = parse(self.secure.parser, line)
        _check_modes(args)
        ask = self._ask_python if language(args) == "python" else self._ask_sql
        refuse_listed(line, {"--site": self.session.site_names(), "--table": self._tables()})
        return ask(args, cell, cast("Parameters | None", bind(args.param, self.namespace)))

    def _ask_sql(self, args: argparse.Namespace, cell: str, params: Parameters | None) -> object:
        session = self.session
        refuse_python(cell)
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
        return self._sent(request, args)

    def _ask_python(self, args: argparse.Namespace, cell: str, params: Parameters | None) -> object:
        session = self.session
        if args.dry_run:
            preview = session.preview(
                cell,
                sites=args.site,
                tables=args.table,
                purpose=args.purpose,
                output=args.output,
                params=params,
            )
            return self._previewed(preview, args.result)
        if args.mock:
            release = session.mock(
                cell,
                kind="python",
                sites=args.site,
                tables=args.table,
                output=args.output,
                params=params,
            )
            return self.released(release, args.result)
        request = session.python(
            cell,
            sites=args.site,
            tables=args.table,
            purpose=args.purpose,
            output=args.output,
            params=params,
        )
        return self._sent(request, args)

    def _sent(self, request: Request, args: argparse.Namespace) -> object:
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

            self._budgets = BudgetDisplay(live=self.live)
        return self._budgets

    def finish(self, request: Request, *, result: str | None, timeout: float | None) -> object:
        """Wait for a request, let the budgets move, and store or return its release.

        Where people have to decide first, the handle is stored or returned instead.
        """
        try:
            release = wait(
                request,
                timeout=self.timeout if timeout is None else timeout,
                progress_after=self.progress_after,
                live=self.live,
                result=result,
            )
        finally:
            self._charge(request)
        return (
            self._in_review(request, result) if release is None else self.released(release, result)
        )

    def released(self, release: Release, result: str | None) -> object:
        """Store a release and say so in one line, or return it for display."""
        if result is None:
            return release
        self._store(result, release)
        show_bundle(release.bundle(name=result))
        return None

    def _in_review(self, request: Request, result: str | None) -> Request | None:
        if result is None:
            return request
        self._store(result, request)
        waiting = [standing for standing in request.standings if standing.in_review]
        show_lines(
            f"{result}: {'; '.join(f'{s.state} at {s.site}' for s in waiting)}",
            *(f"{s.site}: {s.deciders}{_until(s.until)}" for s in waiting if s.deciders or s.until),
            f"{result} turns into the result once it is released: show it again, or run "
            f"%privnb result {request.id[:8]} {result}",
            f"request {request.id[:8]} · digest {request.digest[:16]}",
        )
        return None

    def _previewed(self, preview: Preview, result: str | None) -> Preview | None:
        if result is None:
            return preview
        self._store(result, preview)
        show_lines(
            f"{result}: what {', '.join(preview.sites) or 'no site'} would do · nothing spent"
        )
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

    def write_below(self, cell: str) -> None:
        """Put a cell below the running one, ready to be run."""
        if self.shell is not None:
            self.shell.set_next_input(cell)

    def _tables(self) -> set[str]:
        known = self.session.known_descriptions().values()
        return {table.name for described in known for table in described.tables}

    @property
    def live(self) -> bool:
        """Whether outputs can be replaced: kernels can, the terminal cannot."""
        return getattr(self.shell, "kernel", None) is not None


def _until(moment: str | None) -> str:
    return f" · until {moment[:16].replace('T', ' ')} UTC" if moment else ""


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
