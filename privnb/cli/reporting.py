"""Errors on the command line: what was wrong and what to do, two lines instead of a stack."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from privnb.errors import PrivnbError

__all__ = ["ReportingGroup"]


class ReportingGroup(TyperGroup):
    """Runs commands; a `PrivnbError` is written to stderr with its hint, and the status is 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except PrivnbError as problem:
            typer.echo(f"Error: {problem}", err=True)
            if problem.hint:
                typer.echo(f"Hint: {problem.hint}", err=True)
            raise typer.Exit(1) from None
