"""What the owner's commands have in common: what they read and open, and how they print."""

from __future__ import annotations

import datetime as dt
import sys
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privnb.errors import ConfigError, PrivnbError, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.datasite.owner import OwnerDatasite
    from privnb.dp.schema import TableSchema
    from privnb.site.config import SiteConfig
    from privnb.site.database import Database

__all__ = [
    "Directory",
    "Email",
    "open_database",
    "open_datasite",
    "print_table",
    "read_config",
    "read_date",
    "read_epsilon",
    "schema_of",
]

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")]
Email = Annotated[str, typer.Argument(metavar="EMAIL", help="The analyst's email address.")]

_HIGHEST_EPSILON = Decimal(1000)


def read_config(directory: Path) -> SiteConfig:
    """Read ``site.toml``; `ConfigError` when there is none, or a mistake in it."""
    from privnb.site.config import load_config  # noqa: PLC0415 - only when needed

    if not directory.is_dir():
        raise ConfigError(
            f"There is no folder {directory}.", hint="Make a site with: privnb site init"
        )
    return load_config(directory)


def schema_of(config: SiteConfig, table: str) -> TableSchema:
    """Find a table's schema, or raise `UnknownName`."""
    for each in config.tables:
        if each.schema.name == table:
            return each.schema
    raise UnknownName.among("table", table, (each.schema.name for each in config.tables))


def open_database(config: SiteConfig) -> Database:
    """Open the site's database, to be closed."""
    from privnb.site.database import Database  # noqa: PLC0415 - SQLAlchemy takes half a second
    from privnb.site.opening import database_path  # noqa: PLC0415

    return Database.open(database_path(config))


def open_datasite(config: SiteConfig) -> OwnerDatasite:
    """Open the site's datasite."""
    from privnb.site import opening  # noqa: PLC0415 - PySyft takes a second

    return opening.open_datasite(config)


def read_epsilon(text: str | None) -> Decimal:
    """Read the epsilon of a grant: above 0, at most 1000."""
    try:
        epsilon = Decimal(text or "")
    except InvalidOperation:
        epsilon = Decimal("NaN")
    if not (epsilon.is_finite() and 0 < epsilon <= _HIGHEST_EPSILON):
        raise PrivnbError(
            "A grant needs an epsilon above 0 and at most 1000"
            + (f", not {text!r}." if text else "."),
            hint="Say for example --epsilon 4; smaller protects people more. "
            "To take a grant back: --withdraw.",
        )
    return epsilon


def read_date(text: str | None) -> dt.date | None:
    """Read the last day of a grant, which is still to come; None: no end."""
    if text is None:
        return None
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        raise PrivnbError(
            f"{text!r} is not a date.", hint="Write it as 2027-06-30: year, month, day."
        ) from None
    if day < dt.datetime.now(dt.UTC).date():
        raise PrivnbError(f"{text} is over.", hint="Name a day that is still to come.")
    return day


def print_table(title: str | None, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header; what stands in a cell is printed as it is, never as markup."""
    from rich.console import Console  # noqa: PLC0415 - only when needed
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    # Piped into a file there is no width to keep to, and no line is to be broken.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = Table(*header, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)
