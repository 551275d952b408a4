"""``%%secure`` and ``%privnb``: the magics of one IPython shell and the session they share."""

# IPython's decorators have no types:
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Float

from privnb.errors import PrivnbError
from privnb.magics.commands import HELP, run_command
from privnb.magics.grammar import (
    bind,
    expanded,
    language,
    parse,
    refuse_listed,
    refuse_python,
    variable,
)
from privnb.magics.options import (
    DRY_RUN,
    MOCK,
    NO_WAIT,
    PARAM,
    PURPOSE,
    RESULT,
    check_modes,
)
from privnb.magics.showing import show_bundle, show_lines
from privnb.magics.waiting import Waiting, Watching, is_run, wait
from privnb.session import connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection

    from IPython.core.interactiveshell import InteractiveShell

    from privnb.computation import Parameters
    from privnb.federated.release import FederatedRelease
    from privnb.federated.runs import FederatedRun
    from privnb.magics.waiting import Asked
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
    run_timeout = Float(
        3600.0, min=0.0, help="Seconds that a cell waits for a federated run before it lets go."
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
        self._runs: dict[str, FederatedRun] = {}

    # `output_can_be_silenced` is left out on purpose. It reads the cell as Python after it ran:
    # SQL often ends in a semicolon, which would hide an answer that was paid for, and SQL that
    # Python cannot tokenize would turn that answer into an IndentationError.
    @no_var_expand
    @magic_arguments("%secure")  # help puts another % before it
    @RESULT
    @argument(
        "--site",
        action="append",
        default=[],
        metavar="NAME",
        help="A site to ask; repeat it for several. Each answers, and charges, for itself.",
    )
    @argument("--epsilon", metavar="E", help="The privacy loss offered to each site, for SQL.")
    @PURPOSE
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
    @PARAM
    @DRY_RUN
    @MOCK
    @NO_WAIT
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
        check_modes(args, at_once=("--dry-run", "--mock", "--no-wait"))
        ask = self._ask_python if language(args) == "python" else self._ask_sql
        refuse_listed(line, self.names())
        return ask(args, cell, cast("Parameters | None", bind(args.param, self.namespace)))

    def _ask_sql(self, args: argparse.Namespace, cell: str, params: Parameters | None) -> object:
        session = self.session
        refuse_python(cell)
        if args.dry_run:
            estimates = session.estimate(
                cell, sites=args.site, epsilon=args.epsilon, purpose=args.purpose, params=params
            )
            return self.estimated(estimates, args.result)
        if args.mock:
            release = session.mock(cell, sites=args.site, epsilon=args.epsilon or 1, params=params)
            return self.released(release, args.result)
        request = session.secure(
            cell, sites=args.site, epsilon=args.epsilon, purpose=args.purpose, params=params
        )
        return self.sent(request, args)

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
            return self.previewed(preview, args.result)
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
        return self.sent(request, args)

    def sent(self, asked: Asked, args: argparse.Namespace, *, cancels: bool = False) -> object:
        """Go on with what was just asked: wait for it, or give its handle."""
        if is_run(asked):
            self._runs[asked.id] = cast("FederatedRun", asked)
        if args.no_wait:
            return self._asked(asked, args.result)
        return self.finish(asked, result=args.result, timeout=args.timeout, cancels=cancels)

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

    def request(self, name: str) -> Asked:
        """Take up a request by its id, or the name of the variable that holds its handle.

        An id may stand in a variable, as for IPython's own line magics: ``$rid``, ``{run.id}``.
        A run that this notebook drives already is the same object again.
        """
        from privnb.federated.runs import FederatedRun  # noqa: PLC0415 - rarely needed
        from privnb.request import Request  # noqa: PLC0415 - rarely needed

        held = self.namespace.get(name.removeprefix("$"))
        if isinstance(held, Request | FederatedRun):
            return held
        found = self.session.request(expanded(name, self.namespace))
        return self._runs.get(found.id, found)

    def finish(
        self,
        asked: Asked,
        *,
        result: str | None,
        timeout: float | None,
        cancels: bool = False,
    ) -> object:
        """Wait for what was asked, let the budgets move, and store or return its release.

        Where people have to decide first, the handle is stored or returned instead.

        Parameters
        ----------
        cancels
            Whether an interrupt gives a federated run up.
        """
        watcher: Waiting | Watching
        if is_run(asked):
            usual = self.run_timeout
            watcher = Watching(cast("FederatedRun", asked), live=self.live, cancels=cancels)
        else:
            usual = self.timeout
            watcher = Waiting(cast("Request", asked), live=self.live)
        try:
            release = wait(
                asked,
                watcher,
                timeout=usual if timeout is None else timeout,
                progress_after=self.progress_after,
                result=result,
            )
        finally:
            self._charge(asked)
        if release is None:
            return self._in_review(asked, result)
        self._runs.pop(asked.id, None)
        return self.released(release, result)

    def released(self, release: Release | FederatedRelease, result: str | None) -> object:
        """Store a release and say so in one line, or return it for display."""
        if result is None:
            return release
        self._store(result, release)
        show_bundle(release.bundle(name=result))
        return None

    def _in_review(self, request: Asked, result: str | None) -> Asked | None:
        if result is None:
            return request
        self._store(result, request)
        waiting = [standing for standing in request.standings if standing.in_review]
        show_lines(
            f"{result}: {'; '.join(f'{s.state} at {s.site}' for s in waiting)}",
            *(f"{s.site}: {s.deciders}{_until(s.until)}" for s in waiting if s.deciders or s.until),
            *(f"{s.site} is out: {s.reason}" for s in request.standings if s.is_out),
            f"{result} turns into the result once it is released: show it again, or run "
            f"%privnb result {request.id[:8]} {result}",
            f"request {request.id[:8]} · digest {request.digest[:16]}",
        )
        return None

    def previewed(self, preview: Preview, result: str | None) -> Preview | None:
        """Store what would become of code and say so in one line, or return it for display."""
        if result is None:
            return preview
        self._store(result, preview)
        show_lines(
            f"{result}: what {', '.join(preview.sites) or 'no site'} would do · nothing spent"
        )
        return None

    def estimated(self, estimates: Estimates, result: str | None) -> Estimates | None:
        """Store estimates and say so in one line, or return them for display."""
        if result is None:
            return estimates
        self._store(result, estimates)
        missing = [f"Nothing from {s}: {p}  {p.hint}" for s, p in estimates.problems.items()]
        verdict = " · would be refused" if estimates.refusals else ""
        asked = ", ".join(estimates.by_site)
        show_lines(
            f"{result}: estimate from {asked}{verdict} · nothing spent",
            *estimates.why_refused,
            *missing,
        )
        return None

    def _asked(self, request: Asked, result: str | None) -> Asked | None:
        show_lines(
            f"Sent to {', '.join(request.sites)}. Get the answer with: "
            f"%privnb result {request.id[:8]}",
            f"request {request.id[:8]} · digest {request.digest[:16]}",
        )
        if result is None:
            return request
        self._store(result, request)
        return None

    def _charge(self, request: Asked) -> None:
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

    def names(self) -> dict[str, Collection[str]]:
        """Return what is known to stand behind options that are repeated for several names."""
        known = self.session.known_descriptions().values()
        tables = {table.name for described in known for table in described.tables}
        return {"--site": self.session.site_names(), "--table": tables}

    @property
    def live(self) -> bool:
        """Whether outputs can be replaced: kernels can, the terminal cannot."""
        return getattr(self.shell, "kernel", None) is not None


def _until(moment: str | None) -> str:
    return f" · until {moment[:16].replace('T', ' ')} UTC" if moment else ""
