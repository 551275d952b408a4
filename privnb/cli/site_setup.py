"""``privnb site init`` and ``privnb site check``: what an owner does before serving."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from privnb.site.data.claims import CheckReport

__all__ = ["check", "init"]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder, made now.")],
    name: Annotated[str, typer.Option(help="What analysts call the site.")],
    owner: Annotated[str, typer.Option(help="The owner's email address.")],
    exchange: Annotated[str, typer.Option(help="Shared storage: a folder or an fsspec URL.")],
) -> None:
    """Make a site's folder: its keys, and a site.toml with comments."""
    from privnb.site.template import init_site  # noqa: PLC0415 - PySyft takes seconds

    made = init_site(directory, name=name, owner=owner, exchange=exchange)
    out = _console()
    out.print(f"Made {escape(str(made.config))}")
    out.print(f"Your key's fingerprint: [bold]{escape(made.fingerprint)}[/]")
    out.print("Read it to analysts over the telephone, so that they know the key is yours.")
    out.print(f"Next: declare your tables, then run: privnb site check {escape(str(directory))}")


def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")],
) -> None:
    """Compare site.toml with the data: types, bounds, keys, privacy unit. Exit status 1 on errors.

    What it prints tells about the data: it is for the owner.
    """
    from privnb.site.data.claims import check as compare  # noqa: PLC0415 - Ibis takes a second

    report = compare(directory)
    _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: CheckReport) -> None:
    out = _console()
    for table in report.tables:
        out.print(f"[bold]{escape(table.name)}[/]: {table.rows:,} rows, {table.units:,} units")
    told: set[str] = set()
    for finding in report.findings:
        style = _STYLES[finding.level]
        out.print(f"[{style}]{finding.level}[/]: {escape(finding.message)}")
        if finding.hint not in told:  # twenty notes of a kind need one remedy
            out.print(f"    {escape(finding.hint)}")
        told.add(finding.hint)
    errors = sum(finding.level == "error" for finding in report.findings)
    if errors:
        out.print(f"[bold red]{errors} error{'s' * (errors > 1)}[/]: the site cannot be served.")
    elif not report.tables:
        out.print("[yellow]The site can be served, but offers nothing.[/]")
    else:
        out.print("[green]The site can be served.[/]")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
