"""``%%federated``: one question to many sites, of which only the combination may be seen."""

# IPython's decorators have no types:
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from privnb.errors import PrivnbError
from privnb.magics.grammar import (
    bind,
    did_you_mean,
    has_select,
    parse,
    reads_as_python,
    refuse_listed,
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

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from privnb.computation import Parameters
    from privnb.magics.secure import SecureMagics

__all__ = ["MODELS", "STRATEGIES", "FederatedMagics"]

MODELS = ("linear", "logistic", "poisson")
STRATEGIES = ("fedadagrad", "fedadam", "fedavg", "fedavgm", "fedprox", "fedyogi")
"""Strategies by name, as `privnb.federated.strategies` makes them: importing Flower takes long."""

Form: TypeAlias = Literal["totals", "training", "model"]

_CALLED: Mapping[Form, str] = {
    "totals": "totals in SQL",
    "training": "a Flower app of yours",
    "model": "--model",
}
_MEANINGLESS: Mapping[Form, Mapping[str, str]] = {
    "totals": {
        "--table": "SQL names its table itself",
        "--rounds": "a total takes one",
        "--strategy": "nothing is trained",
        "--strategy-option": "nothing is trained",
        "--target": "it is for --model",
        "--features": "it is for --model",
    },
    "training": {
        "--epsilon": "its sums are exact, and people decide about the code",
        "--target": "it is for --model",
        "--features": "it is for --model",
    },
    "model": {
        "--param": "there is no code of yours that could read it",
        "--strategy": "each round is a step of the optimizer that belongs to the model",
        "--strategy-option": "each round is a step of the optimizer that belongs to the model",
    },
}
"""Options that a form has no use for, with the reason."""
_FEATURES = re.compile(r"--features[\s=]+[^\s,]+(\s*,\s*[^\s,-][^\s,]*)+")
"""A list of features, whose commas may have spaces around them."""


@magics_class
class FederatedMagics(Magics):
    """``%%federated`` in one shell.

    Parameters
    ----------
    shell
        Where it is used.
    secure
        The magics whose session it asks by, and which show what comes back.
    """

    def __init__(self, shell: InteractiveShell, secure: SecureMagics) -> None:
        super().__init__(shell)
        self._secure = secure

    # `output_can_be_silenced` is left out on purpose: see `SecureMagics.secure`.
    @no_var_expand
    @magic_arguments("%federated")  # help puts another % before it
    @RESULT
    @argument(
        "--site",
        action="append",
        default=[],
        metavar="NAME",
        help="A site that takes part; repeat it, three times at least as most owners want it.",
    )
    @PURPOSE
    @argument(
        "--epsilon",
        metavar="E",
        help="The privacy loss offered to each site, for SQL and --model; of a model, for all"
        " rounds together.",
    )
    @argument(
        "--table",
        action="append",
        default=[],
        metavar="T",
        help="A table of the app or the model; repeat it for several (default of an app: those"
        " that the cell names in quotes).",
    )
    @argument(
        "--rounds",
        type=int,
        metavar="N",
        help="How often the sites train: each round begins with what came of the one before"
        " (default of --model: 30).",
    )
    @argument(
        "--strategy",
        metavar="NAME",
        help="What puts an app's rounds together: fedavg (default), fedprox, fedavgm, fedadagrad,"
        " fedadam, fedyogi, or $VARIABLE that holds an instance.",
    )
    @argument(
        "--strategy-option",
        action="append",
        default=[],
        metavar="K=V",
        help="An option of a strategy by name, as Flower calls it: proximal-mu=0.1 of fedprox,"
        " server-momentum=0.8 of fedavgm, ...; repeatable.",
    )
    @argument(
        "--model",
        choices=MODELS,
        help="Train a model of privnb's under differential privacy, without any code: linear,"
        " logistic or poisson.",
    )
    @argument("--target", metavar="COL", help="The column that --model explains.")
    @argument("--features", metavar="A,B", help="The columns by which --model explains it.")
    @PARAM
    @argument(
        "--threshold",
        type=int,
        metavar="N",
        help="How many sites have to be in every sum (default: as few as the sites allow).",
    )
    @argument(
        "--colluding",
        type=int,
        default=0,
        metavar="N",
        help="How many sites that tell you all they see must do no harm (default: 0, or what the"
        " sites want).",
    )
    @DRY_RUN
    @MOCK
    @NO_WAIT
    @argument(
        "--round-timeout",
        type=float,
        metavar="S",
        help="Seconds that a site may compute for one round before the round goes on without it.",
    )
    @argument(
        "--timeout",
        type=float,
        metavar="S",
        help="Seconds to wait (default: %%config SecureMagics.run_timeout).",
    )
    @argument(
        "--on-interrupt",
        choices=("continue", "cancel"),
        default="continue",
        help="What becomes of the run when the cell is interrupted (default: it goes on).",
    )
    @line_cell_magic
    def federated(self, line: str, cell: str | None = None) -> object:
        """Ask several sites together; only the sum of what they give is seen, no part of any one.

        Totals: the cell is one SELECT, as of %%secure; its noise is shared between the sites.
        Training: the cell is a Flower app, and needs --rounds. It sets `app`, which every site runs
        at its own tables, and `initial`, the arrays that the first round begins with: a list, or a
        dict by name. The weighted mean of what the sites make of them is seen, no site's own.
        A model of privnb's: --model, --target, --features and --table say all, so that there is
        no code, and no cell: write %federated with a single %, or leave a comment below %%.

        The text of the cell is sent, hashed and shown to the owners exactly as it stands.
        """
        line = _FEATURES.sub(lambda listed: re.sub(r"\s*,\s*", ",", listed[0]), line)
        args = parse(self.federated.parser, line)
        check_modes(args, at_once=("--dry-run", "--no-wait"))
        form = _form(args, cell)
        _refuse_options(args, form)
        refuse_listed(line, self._secure.names())
        ask = {"totals": self._totals, "training": self._train, "model": self._model}[form]
        try:
            return ask(args, cell or "")
        except KeyboardInterrupt:  # the wait for an answer has words of its own
            raise PrivnbError(
                "You interrupted the cell before all was sent; some sites may have it already.",
                hint="See what was sent with %privnb requests; give it up with %privnb cancel ID.",
                code="E_INTERRUPTED",
            ) from None

    def _totals(self, args: argparse.Namespace, cell: str) -> object:
        session = self._secure.session
        asked = self._shared(args) | {"params": self._params(args)}
        if args.dry_run:
            estimates = session.estimate_totals(cell, epsilon=args.epsilon, **asked)
            return self._secure.estimated(estimates, args.result)
        run = session.totals(cell, epsilon=_epsilon(args), **asked, **_going(args))
        return self._sent(run, args)

    def _train(self, args: argparse.Namespace, cell: str) -> object:
        if args.rounds is None:
            raise UsageError("A Flower app is trained in rounds: add --rounds N, such as 10.")
        session = self._secure.session
        asked = self._shared(args) | {
            "tables": args.table or self._named_tables(cell),
            "rounds": args.rounds,
            "strategy": self._strategy(args.strategy),
            "strategy_options": _strategy_options(args.strategy_option),
            "params": self._params(args),
        }
        if args.dry_run:
            return self._secure.previewed(session.preview_training(cell, **asked), args.result)
        return self._sent(session.train(cell, **asked, **_going(args)), args)

    def _model(self, args: argparse.Namespace, cell: str) -> object:
        _require_no_code(cell)
        _require_columns(args)
        session = self._secure.session
        asked = self._shared(args) | {
            "target": args.target,
            "features": [name.strip() for name in args.features.split(",")],
            "table": args.table[0],
        }
        if args.rounds is not None:
            asked["rounds"] = args.rounds
        if args.dry_run:
            estimates = session.estimate_model(args.model, epsilon=args.epsilon, **asked)
            return self._secure.estimated(estimates, args.result)
        run = session.train_model(args.model, epsilon=_epsilon(args), **asked, **_going(args))
        return self._sent(run, args)

    @staticmethod
    def _shared(args: argparse.Namespace) -> dict[str, Any]:
        return {
            "sites": args.site,
            "purpose": args.purpose,
            "threshold": args.threshold,
            "colluding": args.colluding,
        }

    def _sent(self, run: Any, args: argparse.Namespace) -> object:
        return self._secure.sent(run, args, cancels=args.on_interrupt == "cancel")

    def _params(self, args: argparse.Namespace) -> Parameters | None:
        return cast("Parameters | None", bind(args.param, self._secure.namespace))

    def _strategy(self, named: str | None) -> Any:
        """Return a strategy's name, or the instance that a variable holds."""
        if named is None or not named.startswith("$"):
            return named or "fedavg"
        variable, namespace = named[1:], self._secure.namespace
        if variable not in namespace:
            guess = did_you_mean(variable, (n for n in namespace if not n.startswith("_")))
            raise PrivnbError(
                f"--strategy {named}: there is no variable {variable!r} in this notebook.",
                hint="Assign it in a cell above, such as "
                f"{variable or 'strategy'} = FedAvg().{guess}",
                code="E_STRATEGY",
            )
        return namespace[variable]

    def _named_tables(self, cell: str) -> list[str]:
        """List the tables whose names stand in the cell as text, in the order of their names."""
        described = self._secure.session.descriptions().values()
        known = {table.name for site in described for table in site.tables}
        try:
            tree = ast.parse(cell)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []  # the session says what is wrong with it
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        return sorted(table for table in known if table in texts)


def _form(args: argparse.Namespace, cell: str | None) -> Form:
    """Tell what is asked for: by --model, by the text, and by options if the text says nothing."""
    if args.model:
        return "model"
    if cell is None:
        raise UsageError(
            "%federated without a cell is for --model. For totals or training write %%federated, "
            "and the SQL or the Flower app below it."
        )
    only_training = args.table or args.rounds is not None or args.strategy or args.strategy_option
    if reads_as_python(cell) or (only_training and not has_select(cell)):
        return "training"
    return "totals"


def _refuse_options(args: argparse.Namespace, form: Form) -> None:
    """Refuse the first option that has no meaning for this form."""
    for option, why in _MEANINGLESS[form].items():
        given = getattr(args, option.removeprefix("--").replace("-", "_"))
        if given not in (None, []):
            raise UsageError(f"{option} has no meaning for {_CALLED[form]}: {why}. Leave it out.")


def _require_no_code(cell: str) -> None:
    lines = (line.strip() for line in cell.splitlines())
    code = [line for line in lines if line and not line.startswith(("#", "--"))]
    if code:
        raise UsageError(
            "--model takes no code; below it there may be comments only. "
            "Leave the cell empty, or leave --model out to train an app of your own."
        )


def _require_columns(args: argparse.Namespace) -> None:
    wanted = {"--target COL": args.target, "--features A,B": args.features, "--table T": args.table}
    missing = [option for option, given in wanted.items() if not given]
    if missing:
        raise UsageError(f"--model {args.model} also needs {' and '.join(missing)}.")
    if len(args.table) > 1:
        raise UsageError("--model is of one table; name it once.")


def _epsilon(args: argparse.Namespace) -> Any:
    """Return what is offered; for mock twins, which cost nothing, it need not be said."""
    return args.epsilon or (1 if args.mock else None)


def _going(args: argparse.Namespace) -> dict[str, Any]:
    """Return how a run is to go, as far as it is said."""
    said = {"mock": args.mock}
    return said if args.round_timeout is None else said | {"deadline": args.round_timeout}


def _strategy_options(words: Collection[str]) -> dict[str, str]:
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--strategy-option takes NAME=VALUE, not {word!r}.")
        options[name.strip()] = value.strip()
    return options
