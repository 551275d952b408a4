"""``privnb site``: serve a site, accept peers, grant budgets, read the ledger."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import sys
import threading
import time
from typing import Annotated

import typer

from privnb.cli.owning import (
    Directory,
    Email,
    open_database,
    open_datasite,
    print_table,
    read_config,
    read_date,
    read_epsilon,
    schema_of,
)
from privnb.cli.partners import identity, partner
from privnb.cli.site_setup import check, init
from privnb.errors import PrivnbError, UnknownName

__all__ = ["app"]

app = typer.Typer(help="For data owners: set up and serve a site.", no_args_is_help=True)
app.command()(init)
app.command()(check)
app.command()(identity)
app.command()(partner)


@app.command()
def serve(
    directory: Directory,
    until_eof: Annotated[  # noqa: FBT002 - a switch of the command line
        bool,
        typer.Option(
            "--until-eof", help="End also when standard input ends, with whoever started it."
        ),
    ] = False,
) -> None:
    """Run the site's agent until SIGTERM or Ctrl-C; one line per decision goes to stderr."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    _log_to_stderr()
    from privnb.site.opening import open_agent  # noqa: PLC0415 - takes seconds

    logger = logging.getLogger("privnb.site")
    agent = open_agent(directory)
    try:
        agent.warm()
        logger.info("ready: %s", directory)
        agent.run(stop)
    finally:
        agent.close()
        logger.info("ended: %s", directory)


def _wait_for_eof(stop: threading.Event) -> None:
    # os.read, for a thread that holds sys.stdin's lock would keep the process from ending.
    while os.read(0, 1024):
        pass
    stop.set()


@app.command()
def peers(directory: Directory) -> None:
    """Show who asked and who is accepted, with the fingerprints of their keys."""
    datasite = open_datasite(read_config(directory))
    typer.echo(f"This site's own fingerprint: {datasite.fingerprint}")
    found = datasite.peers()
    if not found:
        typer.echo("Nobody has asked yet.")
        return
    print_table(
        None,
        ("email", "state", "fingerprint"),
        [(peer.email, peer.state, peer.fingerprint or "none shown") for peer in found],
    )


@app.command()
def accept(
    directory: Directory,
    email: Email,
    fingerprint: Annotated[
        str | None,
        typer.Option(help="What the analyst read out; the key must be the one it belongs to."),
    ] = None,
) -> None:
    """Accept an analyst: pin the key they present, and take their requests from now on."""
    peer = open_datasite(read_config(directory)).accept(email, fingerprint=fingerprint)
    typer.echo(f"{peer.email} is {peer.state}. The key's fingerprint: {peer.fingerprint}")
    if fingerprint is None:
        typer.echo("Compare it with what they see: read it out over the telephone.")
    typer.echo("To let them spend privacy budget: privnb site grant")


@app.command()
def grant(  # noqa: PLR0913, PLR0917 - the options of a command
    directory: Directory,
    email: Email,
    table: Annotated[str, typer.Option(help="The table.")],
    purpose: Annotated[str, typer.Option(help="What it may be used for.")],
    epsilon: Annotated[
        str | None, typer.Option(help="What all releases together may reveal, for example 4.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The last day of the grant (UTC).")
    ] = None,
    withdraw: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--withdraw", help="Take the grant back; what was spent stays spent.")
    ] = False,
) -> None:
    """Let an analyst spend privacy budget, or change or take back what was granted.

    A new grant replaces the old one for the same table and purpose; what was spent stays spent.
    """
    from privnb.datasite.names import is_email  # noqa: PLC0415 - only when needed
    from privnb.site.grants import Grant, current_grant, record_grant  # noqa: PLC0415

    config = read_config(directory)
    if not is_email(email):
        raise PrivnbError(f"{email!r} is not an email address.", hint="Check the spelling.")
    schema = schema_of(config, table)
    if not withdraw and purpose not in schema.purposes:
        raise UnknownName.among("purpose", purpose, schema.purposes, code="E_PURPOSE")
    database = open_database(config)
    try:
        with database.write() as transaction:
            old = current_grant(transaction, analyst=email, table=table, purpose=purpose)
            if withdraw:
                if old is None or old.withdrawn:
                    raise UnknownName(
                        f"{email} has no grant for {table!r} and {purpose!r}.",
                        hint=f"See: privnb site budget {directory}",
                    )
                amount, last_day = old.epsilon, old.until
            else:
                amount, last_day = read_epsilon(epsilon), read_date(until)
            record_grant(
                transaction,
                Grant(
                    analyst=email,
                    table=table,
                    purpose=purpose,
                    epsilon=amount,
                    until=last_day,
                    withdrawn=withdraw,
                ),
            )
    finally:
        database.close()
    what = f"table {table!r} for {purpose!r}"
    if withdraw:
        typer.echo(f"{email} may no longer use {what}.")
    else:
        limit = f" until {last_day}" if last_day else ""
        typer.echo(f"{email} may use {what} up to epsilon {amount:f}{limit}.")
        total = next(each.total_epsilon for each in config.tables if each.name == table)
        if amount > total:
            typer.echo(f"Warning: all analysts together have only epsilon {total:f} ({table}).")


@app.command()
def budget(
    directory: Directory,
    history: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--history", help="Show every charge too.")
    ] = False,
) -> None:
    """Show the ledger: per table across analysts, per grant, and with --history per release."""
    from privnb.site import ledger  # noqa: PLC0415 - SQLAlchemy takes half a second
    from privnb.site.grants import all_grants  # noqa: PLC0415

    config = read_config(directory)
    database = open_database(config)
    today = dt.datetime.now(dt.UTC).date()
    words = ledger.in_words
    try:
        with database.read() as snapshot:
            terms = ledger.terms_of(config)
            tables = [ledger.table_standing(snapshot, each) for each in terms.values()]
            grants = [
                (
                    each,
                    ledger.standing(
                        snapshot, terms[each.table], analyst=each.analyst, purpose=each.purpose
                    ),
                )
                for each in all_grants(snapshot)
                if each.table in terms
            ]
            charges = ledger.charges(snapshot) if history else []
    finally:
        database.close()
    print_table(
        "Tables, all analysts together",
        ("table", "accounting", "total", "spent", "left", "delta", "delta spent on rare groups"),
        [
            (
                each.terms.table,
                each.terms.accounting.name,
                words(each.terms.total_epsilon),
                words(each.epsilon_spent),
                words(each.epsilon_left),
                f"{each.terms.accounting.delta:g}",
                f"{float(each.delta_spent * ledger.DELTA_UNIT):.3g}",
            )
            for each in tables
        ],
    )
    print_table(
        "Grants",
        ("analyst", "table", "purpose", "granted", "spent", "left", "until"),
        [
            (
                each.analyst,
                each.table,
                each.purpose,
                words(each.epsilon),
                words(now.epsilon_spent),
                "withdrawn" if each.withdrawn else words(now.epsilon_left),
                f"{each.until or ''}{' (over)' if each.expired(today) else ''}",
            )
            for each, now in grants
        ],
    )
    if history:
        print_table(
            "Charges",
            ("no.", "at", "analyst", "table", "purpose", "epsilon", "state", "request"),
            charges,
        )


def _log_to_stderr() -> None:
    form = logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    logger = logging.getLogger("privnb")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
