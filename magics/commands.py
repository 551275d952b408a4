"""The subcommands of ``%privnb``: their grammar, and what each of them shows."""

# IPython's parser has no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.core.magic_arguments import MagicArgumentParser

from privnb.errors import PrivnbError, UnknownName
from privnb.magics.grammar import did_you_mean, parse, variable
from privnb.magics.ready_cells import template_cell
from privnb.magics.showing import show, show_frame, show_lines
from privnb.magics.waiting import is_run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from privnb.magics.secure import SecureMagics

__all__ = ["COMMANDS", "HELP", "run_command"]

_ABOUT_A_REQUEST = ("result", "cancel")
_EMAIL, _EXCHANGE = "PRIVNB_EMAIL", "PRIVNB_EXCHANGE"


@dataclass(frozen=True)
class Command:
    """One subcommand: its usage and summary for people, its grammar, what it does."""

    usage: str
    summary: str
    parser: argparse.ArgumentParser
    run: Callable[[SecureMagics, argparse.Namespace], object]


def run_command(magics: SecureMagics, line: str) -> object:
    """Run one line of ``%privnb``; a wrong or missing subcommand is a `UsageError`."""
    name, _, rest = line.strip().partition(" ")
    if not name:
        name = "help"
    command = COMMANDS.get(name)
    if command is None:
        guess = did_you_mean(name, COMMANDS)
        raise UsageError(
            f"%privnb has no command {name!r}.{guess} There are: {', '.join(COMMANDS)}."
        )
    if name in _ABOUT_A_REQUEST and not rest.strip():
        raise UsageError(f"%privnb {name}: required: ID. %privnb requests lists them.")
    return command.run(magics, parse(command.parser, rest))


def _connect(magics: SecureMagics, args: argparse.Namespace) -> None:
    said = []
    for option, variable_name in (("email", _EMAIL), ("exchange", _EXCHANGE)):
        if getattr(args, option) is None and os.environ.get(variable_name):
            setattr(args, option, os.environ[variable_name])
            said.append(f"{option} from {variable_name}")
    missing = [f"--{option}" for option in ("email", "exchange") if not getattr(args, option)]
    if missing:
        raise PrivnbError(
            f"%privnb connect needs {' and '.join(missing)}.",
            hint="Say %privnb connect --email YOU@EXAMPLE.ORG --exchange DIR "
            f"or set {_EMAIL} and {_EXCHANGE} before JupyterLab starts.",
            code="E_NOT_CONNECTED",
        )
    session = magics.connect(email=args.email, exchange=args.exchange, home=args.home)
    magics.session = session
    if args.session is not None:
        magics.namespace[args.session] = session
    sites = ", ".join(session.site_names()) or "none yet"
    accepted = "" if session.accepted_by() else " (accepted by none yet; see %privnb sites)"
    show_lines(
        f"Connected as {session.email}. Sites: {sites}{accepted}.",
        f"exchange {session.exchange}" + (f" ({', '.join(said)})" if said else ""),
        f"your key {session.fingerprint}",
    )


def _sites(magics: SecureMagics, _: argparse.Namespace) -> None:
    # fingerprints are for a telephone call; session.sites() has them
    show_frame("Sites on the exchange", magics.session.sites().drop(columns="fingerprint"))


def _tables(magics: SecureMagics, _: argparse.Namespace) -> None:
    import pandas as pd  # noqa: PLC0415 - pandas stays out of %load_ext

    rows = [
        {
            "site": site,
            "table": table.name,
            "protects": f"one {table.unit_name}",
            "about rows": "" if table.public_rows is None else f"{table.public_rows:,}",
            "purposes": ", ".join(table.purposes),
            "description": table.description,
        }
        for site, described in magics.session.descriptions().items()
        for table in described.tables
    ]
    columns = ["site", "table", "protects", "about rows", "purposes", "description"]
    show_frame("Tables you may ask about", pd.DataFrame(rows, columns=columns), merge_sites=True)


def _schema(magics: SecureMagics, args: argparse.Namespace) -> None:
    frame = magics.session.schema(args.table)
    # what a column means comes next to its name: it is seen where not all columns are
    frame.insert(2, "description", frame.pop("description"))
    show_frame(f"Columns of {args.table}", frame, merge_sites=True)


def _budget(magics: SecureMagics, args: argparse.Namespace) -> object:
    if args.live:
        from privnb.widgets.budget import BudgetWidget  # noqa: PLC0415 - anywidget takes a while

        widget = BudgetWidget(magics.session)
        magics.budgets.follow(widget)
        return widget
    magics.budgets.show(magics.session.budgets())
    return None


def _consent(magics: SecureMagics, args: argparse.Namespace) -> object:
    if args.live:
        from privnb.widgets.consent import ConsentWidget  # noqa: PLC0415 - anywidget takes a while

        return ConsentWidget(magics.session)
    from privnb.widgets.consent_card import consents_html, consents_text  # noqa: PLC0415 - rare

    entries = magics.session.consents()
    show(consents_html(entries), consents_text(entries))
    return None


def _request_access(magics: SecureMagics, args: argparse.Namespace) -> None:
    entry = magics.session.request_access(
        args.site, args.table, args.purpose, args.reason, args.epsilon
    )
    about = f"{entry.table} for {entry.purpose}"
    until = f" until {entry.until}" if entry.until else ""
    said = f"The owner of {args.site} says: {entry.reason}" if entry.reason else ""
    if entry.state == "pending":
        show_lines(
            f"{args.site} has your request for {about}; its owner decides.",
            "%privnb consent shows the answer once there is one.",
        )
    else:
        show_lines(f"{about} at {args.site}: {entry.state}{until}.", *filter(None, [said]))


def _requests(magics: SecureMagics, args: argparse.Namespace) -> object:
    if args.live:
        from privnb.widgets.requests import RequestsWidget  # noqa: PLC0415 - anywidget takes long

        return RequestsWidget(magics.session)
    from privnb.widgets.requests_card import (  # noqa: PLC0415 - rare
        RequestRow,
        requests_html,
        requests_text,
    )

    rows = [RequestRow.of(standing) for standing in magics.session.states()]
    show(requests_html(rows), requests_text(rows))
    return None


def _audit(magics: SecureMagics, _: argparse.Namespace) -> None:
    show_frame("What the sites' audit logs have of you", magics.session.audit())


def _templates(magics: SecureMagics, args: argparse.Namespace) -> None:
    if args.template is None:
        frame = magics.session.templates()
        show_frame("Cells that owners release without a human", frame, merge_sites=True)
        return
    offered = magics.session.template_offers(refresh=True)
    cell, needed = template_cell(args.template, args.site, offered)
    magics.write_below(cell)
    show_lines(
        f"The cell of {args.template} is below; it must be sent as it is.",
        *(f"Assign {name} in a cell above: {what}" for name, what in needed.items()),
    )


def _review(magics: SecureMagics, args: argparse.Namespace) -> object:
    from privnb.owner import open_desk  # noqa: PLC0415 - the owner's side is not the analyst's

    folder = Path(os.path.expandvars(args.directory)).expanduser()
    desk = open_desk(folder, args.reviewer)
    if magics.live:
        from privnb.widgets.review import ReviewWidget  # noqa: PLC0415 - anywidget takes a while

        return ReviewWidget(desk)
    from privnb.widgets.review_card import review_html, review_text  # noqa: PLC0415 - rare

    items = desk.items()
    show(review_html(items), review_text(items))
    return None


def _result(magics: SecureMagics, args: argparse.Namespace) -> object:
    return magics.finish(magics.request(args.request), result=args.result, timeout=args.timeout)


def _cancel(magics: SecureMagics, args: argparse.Namespace) -> None:
    request = magics.request(args.request)
    request.cancel()
    if is_run(request):
        show_lines(
            f"Run {request.id[:8]} is given up, and its sites are told.",
            "What a site has charged for it stays charged.",
        )
        return
    show_lines(
        f"Request {request.id[:8]} is no longer waited for.",
        "What a site has already taken in may still be computed, and charged.",
    )


def _trust(magics: SecureMagics, args: argparse.Namespace) -> None:
    fingerprint = " ".join(args.fingerprint)
    if fingerprint:
        magics.session.trust(args.site, fingerprint)
        show_lines(f"The key of {args.site} is pinned.")
        return
    sites = magics.session.sites().set_index("site").fingerprint
    if args.site not in sites.index:
        raise UnknownName.among("site", args.site, sites.index)
    show_lines(
        f"{args.site} goes by the key {sites[args.site] or '(none seen yet)'}",
        "Compare it with what its owner reads out to you over the telephone: "
        "privnb site peers DIR shows it there.",
        f"your key {magics.session.fingerprint}",
    )


def _help(_: SecureMagics, __: argparse.Namespace) -> None:
    print(HELP)  # noqa: T201 - help is text for people


def _parser(name: str) -> MagicArgumentParser:
    return MagicArgumentParser(f"%privnb {name}")


def _grammar() -> dict[str, Command]:
    nothing = {name: _parser(name) for name in ("sites", "tables", "audit", "help")}
    connect = _parser("connect")
    connect.add_argument("session", nargs="?", type=variable)
    for option in ("--email", "--exchange", "--home"):
        connect.add_argument(option)
    schema = _parser("schema")
    schema.add_argument("table", metavar="TABLE")
    budget = _parser("budget")
    budget.add_argument("--live", action="store_true")
    consent = _parser("consent")
    consent.add_argument("--live", action="store_true")
    access = _parser("request-access")
    for option in ("--site", "--table", "--purpose", "--reason"):
        access.add_argument(option, required=True)
    access.add_argument("--epsilon")
    requests = _parser("requests")
    requests.add_argument("--live", action="store_true")
    templates = _parser("templates")
    templates.add_argument("template", metavar="NAME", nargs="?")
    templates.add_argument("--site", action="append", default=[])
    review = _parser("review")
    review.add_argument("directory", metavar="DIR")
    review.add_argument("--reviewer", metavar="EMAIL")
    result = _parser("result")
    result.add_argument("request", metavar="ID")
    result.add_argument("result", nargs="?", type=variable)
    result.add_argument("--timeout", type=float)
    cancel = _parser("cancel")
    cancel.add_argument("request", metavar="ID")
    trust = _parser("trust")
    trust.add_argument("site", metavar="SITE")
    trust.add_argument("fingerprint", metavar="FINGERPRINT", nargs="*")
    return {
        "connect": Command(
            "connect [NAME] --email E --exchange DIR",
            f"open the exchange; without options {_EMAIL} and {_EXCHANGE} are read",
            connect,
            _connect,
        ),
        "sites": Command("sites", "who is there and what they offer", nothing["sites"], _sites),
        "tables": Command("tables", "the tables of all sites", nothing["tables"], _tables),
        "schema": Command("schema TABLE", "columns, types, bounds, public values", schema, _schema),
        "budget": Command("budget [--live]", "what is left; moves as cells run", budget, _budget),
        "consent": Command(
            "consent [--live]", "which table, for what purpose, until when", consent, _consent
        ),
        "request-access": Command(
            "request-access --site S --table T …",
            'ask an owner: --purpose P --reason "…" [--epsilon E]',
            access,
            _request_access,
        ),
        "templates": Command(
            "templates [NAME] [--site S]",
            "cells that owners release without a human; with NAME, the cell",
            templates,
            _templates,
        ),
        "requests": Command(
            "requests [--live]", "what you asked, how far it is, who decides", requests, _requests
        ),
        "result": Command(
            "result ID [NAME] [--timeout S]",
            "the answer to an earlier request; ID may be $VARIABLE or a handle's name",
            result,
            _result,
        ),
        "cancel": Command(
            "cancel ID", "stop waiting for a request; give a federated run up", cancel, _cancel
        ),
        "audit": Command(
            "audit", "what the sites' logs have of you, and its proof", nothing["audit"], _audit
        ),
        "trust": Command(
            "trust SITE [FINGERPRINT]", "show a site's key, or pin the one named", trust, _trust
        ),
        "review": Command(
            "review DIR [--reviewer EMAIL]",
            "for owners: the inbox of the site DIR",
            review,
            _review,
        ),
        "help": Command("help", "this list", nothing["help"], _help),
    }


COMMANDS = _grammar()
HELP = "Look around, and see what was asked and spent.\n\n" + "\n".join(
    f"  %privnb {command.usage:<42} {command.summary}" for command in COMMANDS.values()
)
