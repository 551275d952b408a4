"""``privnb consent``: what analysts ask access to, and what the owner lets them use."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import typer

from privnb.cli.owning import (
    Directory,
    Email,
    open_database,
    print_table,
    read_config,
    read_date,
    read_epsilon,
)
from privnb.cli.site import grant
from privnb.errors import PrivnbError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.site.access import PendingAsk

__all__ = ["app"]

app = typer.Typer(
    help="For data owners: answer who asks for access, and take grants back.", no_args_is_help=True
)

Which = Annotated[
    str, typer.Argument(metavar="ID|EMAIL", help="The ask's number, or the analyst's address.")
]
Table = Annotated[str | None, typer.Option(help="The table; needed with an address.")]
Purpose = Annotated[str | None, typer.Option(help="The purpose; needed with an address.")]


@app.command("list")
def list_(directory: Directory) -> None:
    """Show which asks wait for you, and where every grant stands."""
    from privnb.site.access import pending  # noqa: PLC0415 - SQLAlchemy takes half a second
    from privnb.site.grants import all_grants  # noqa: PLC0415
    from privnb.site.scanning.text import clipped, shown  # noqa: PLC0415 - only when needed

    database = open_database(read_config(directory))
    try:
        with database.read() as snapshot:
            asks, grants = pending(snapshot), all_grants(snapshot)
    finally:
        database.close()
    print_table(
        "Waiting for you" if asks else "Nobody waits for an answer.",
        ("id", "analyst", "table", "purpose", "epsilon", "since", "reason"),
        [
            (
                each.number,
                shown(each.analyst),
                each.table,
                each.purpose,
                f"{each.epsilon:f}" if each.epsilon is not None else "-",
                each.at,
                clipped(each.reason, most=1000),
            )
            for each in asks
        ],
    )
    today = dt.datetime.now(dt.UTC).date()
    print_table(
        "Grants",
        ("analyst", "table", "purpose", "epsilon", "until", "state", "since"),
        [
            (
                shown(each.analyst),
                each.table,
                each.purpose,
                f"{each.epsilon:f}",
                each.until or "",
                "withdrawn" if each.withdrawn else "expired" if each.expired(today) else "granted",
                each.since,
            )
            for each in grants
        ],
    )


@app.command()
def accept(  # noqa: PLR0913, PLR0917 - the options of a command
    directory: Directory,
    which: Which,
    table: Table = None,
    purpose: Purpose = None,
    epsilon: Annotated[
        str | None,
        typer.Option(help="What all releases together may reveal; by default what was asked."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The last day of the grant (UTC).")
    ] = None,
) -> None:
    """Grant what an analyst asks, or less of it. A number accepts exactly what `list` showed."""
    from privnb.site import access  # noqa: PLC0415 - SQLAlchemy takes half a second

    config = read_config(directory)
    last_day = read_date(until)
    database = open_database(config)
    try:
        with database.write() as transaction:
            asked = _find(access.pending(transaction), which, table=table, purpose=purpose)
            if epsilon is None and (asked.epsilon is None or not which.isdecimal()):
                hoped = f"; they asked for {asked.epsilon:f}" if asked.epsilon is not None else ""
                raise PrivnbError(
                    "Say how much they may use.", hint=f"Add for example --epsilon 2{hoped}."
                )
            amount = asked.epsilon if epsilon is None else read_epsilon(epsilon)
            assert amount is not None  # noqa: S101 - refused above
            access.accept(transaction, asked, epsilon=amount, until=last_day)
    finally:
        database.close()
    limit = f" until {last_day}" if last_day else ""
    typer.echo(
        f"{asked.analyst} may use table {asked.table!r} for {asked.purpose!r} up to epsilon "
        f"{amount:f}{limit}."
    )
    total = next((t.total_epsilon for t in config.tables if t.name == asked.table), None)
    if total is None:
        typer.echo(f"Warning: site.toml declares no table {asked.table!r} any more.")
    elif amount > total:
        typer.echo(f"Warning: all analysts together have only epsilon {total:f} ({asked.table}).")


@app.command()
def refuse(
    directory: Directory,
    which: Which,
    reason: Annotated[str, typer.Option(help="Why; the analyst reads it.")],
    table: Table = None,
    purpose: Purpose = None,
) -> None:
    """Refuse what an analyst asks. What they may use already stays as it is."""
    from privnb.site import access  # noqa: PLC0415 - SQLAlchemy takes half a second

    if not reason.strip():
        raise PrivnbError("The reason is empty.", hint="Tell them what they could do instead.")
    database = open_database(read_config(directory))
    try:
        with database.write() as transaction:
            asked = _find(access.pending(transaction), which, table=table, purpose=purpose)
            access.refuse(transaction, asked, reason=reason.strip())
    finally:
        database.close()
    typer.echo(f"Refused: {asked.analyst}, table {asked.table!r} for {asked.purpose!r}.")


@app.command()
def withdraw(
    directory: Directory,
    email: Email,
    table: Annotated[str, typer.Option(help="The table.")],
    purpose: Annotated[str, typer.Option(help="The purpose.")],
) -> None:
    """Take a grant back at once, also for what waits or runs; what was spent stays spent."""
    grant(directory, email, table=table, purpose=purpose, withdraw=True)


def _find(
    asks: Sequence[PendingAsk], which: str, *, table: str | None, purpose: str | None
) -> PendingAsk:
    found = [
        each
        for each in asks
        if (str(each.number) == which or each.analyst == which)
        and table in (None, each.table)
        and purpose in (None, each.purpose)
    ]
    if len(found) > 1:
        listing = "; ".join(f"{each.number}: {each.table} for {each.purpose}" for each in found)
        raise PrivnbError(f"{which} asks for more than one.", hint=f"Name one: {listing}.")
    if not found:
        waiting = "; ".join(f"{each.number}: {each.analyst}" for each in asks)
        hint = f"Waiting: {waiting}." if waiting else "To grant without an ask: privnb site grant"
        raise UnknownName(f"No ask {which!r} waits for an answer.", hint=hint)
    return found[0]
