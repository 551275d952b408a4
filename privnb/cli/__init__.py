"""The command line: ``privnb site …`` for owners, ``privnb review …`` for reviewers, and more.

Only what a command needs is imported, when it runs: ``privnb --help`` is quick.
"""

from __future__ import annotations

import typer

from privnb.cli import audit, consent, review, site
from privnb.cli.demo import demo, lab
from privnb.cli.reporting import ReportingGroup

__all__ = ["app"]

app = typer.Typer(
    cls=ReportingGroup,
    help="Notebook cells that compute on data which stays with its owners.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(site.app, name="site")
app.add_typer(review.app, name="review")
app.add_typer(audit.app, name="audit")
app.add_typer(consent.app, name="consent")
app.command()(demo)
app.command()(lab)


@app.callback()
def _privnb() -> None:
    """Compute on data which stays with its owners."""
