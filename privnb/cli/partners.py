"""``privnb site identity`` and ``privnb site partner``: which sites compute together."""

from __future__ import annotations

from typing import Annotated

import typer

from privnb.cli.owning import Directory, read_config

__all__ = ["identity", "partner"]


def identity(directory: Directory) -> None:
    """Print this site's own identity, which the sites that it computes with pin."""
    from privnb.site.opening import open_audit  # noqa: PLC0415 - only when needed

    audit = open_audit(read_config(directory))
    typer.echo(audit.verifier_key)
    typer.echo(f"Its fingerprint: {audit.fingerprint}", err=True)
    typer.echo("Read it to the other owners over the telephone, so that they know it.", err=True)


def partner(
    directory: Directory,
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="What `privnb site identity` prints at the partner's."),
    ],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="What its owner read out; the key must be the one it belongs to."),
    ] = None,
) -> None:
    """Compute together with another site from now on: add its key to site.toml."""
    from privnb.site.federated.partners import add_partner  # noqa: PLC0415
    from privnb.site.opening import open_audit  # noqa: PLC0415 - only when needed

    config = read_config(directory)
    own = open_audit(config).verifier_key
    added = add_partner(config, key, own=own, fingerprint=fingerprint)
    typer.echo(f"{added.name} is a partner. The key's fingerprint: {added.fingerprint}")
    if fingerprint is None:
        typer.echo("Compare it with what its owner sees: read it out over the telephone.")
    typer.echo("Restart the site's agent to use it.")
