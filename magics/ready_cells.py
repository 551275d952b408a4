"""Cells that are written for the analyst: the text of an owner's template, ready to be run."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from privnb.errors import BadMessage, PrivnbError, UnknownName
from privnb.unseen import brief

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from privnb.messages import TemplateOffer

__all__ = ["template_cell"]


def template_cell(
    name: str, sites: Sequence[str], offered: Sequence[tuple[str, TemplateOffer]]
) -> tuple[str, Mapping[str, str]]:
    """Write the cell that runs a template, and tell what its parameters may be.

    Parameters
    ----------
    sites
        The sites to ask; empty for all that offer the same template of this name.
    offered
        All templates, as (site, template).

    Raises
    ------
    UnknownName, PrivnbError
        There is no such template, or there are several.
    BadMessage
        A site wrote into it what could be read as options of the cell.
    """
    found = {
        site: offer
        for site, offer in offered
        if offer.name == name and (not sites or site in sites)
    }
    if not found:
        raise UnknownName.among("template", name, {offer.name for _, offer in offered})
    missing = [site for site in sites if site not in found]
    if missing:
        raise UnknownName.among("site with this template", missing[0], found)
    first, *others = found.values()
    if any(_asked(other) != _asked(first) for other in others):
        raise PrivnbError(
            f"{' and '.join(found)} have different templates called {name!r}.",
            hint=f"Choose one: %privnb templates {name} --site {next(iter(found))}",
        )
    purposes = [p for p in first.purposes if all(p in other.purposes for other in others)]
    words = ["%%secure", *([name] if name.isidentifier() else [])]
    for option, values in (
        ("--site", found),
        ("--purpose", purposes[:1]),
        ("--table", first.tables),
        ("--output", [first.output] if first.output else []),
        ("--param", first.parameters),
    ):
        for value in values:
            _require_plain(value, name=option in ("--output", "--param"))
            words += [option, shlex.quote(value)]
    # The kernel ends every cell with a line break; a second one would make it another cell.
    return f"{' '.join(words)}\n{first.source.removesuffix(chr(10))}", first.parameters


def _require_plain(word: str, *, name: bool) -> None:
    """Refuse words of a site that would be more than one word of the line."""
    plain = word.isidentifier() if name else word.isprintable() and word[:1] not in ("", "-")
    if not plain:
        raise BadMessage(
            f"The template names {brief(word, 80)!r}, which no cell can name.",
            hint="Do not use it, and tell the site's owner.",
        )


def _asked(offer: TemplateOffer) -> tuple[object, ...]:
    return offer.source, offer.tables, offer.output, sorted(offer.parameters)
