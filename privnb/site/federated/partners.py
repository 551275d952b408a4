"""The sites that an owner computes with: pinned in ``site.toml``, and what to know of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tomlkit
from tomlkit.items import Array, Table

from privnb.audit import Unproved, VerifierKey
from privnb.errors import ConfigError, KeyChanged
from privnb.site.config import SiteConfig, load_config
from privnb.site.federated.config import read_partner

if TYPE_CHECKING:
    from privnb.site.federated.config import FederatedConfig

__all__ = ["add_partner", "own_identity", "remarks"]

Remark = tuple[Literal["error", "warning", "note"], tuple[str, ...], str, str]


def add_partner(config: SiteConfig, text: str, *, own: str, fingerprint: str | None) -> VerifierKey:
    """Add a site to ``[federated] partners``; all else in ``site.toml``, comments too, stays.

    Parameters
    ----------
    text
        What `privnb site identity` prints at the partner's.
    own
        This site's own identity, which is no partner's.
    fingerprint
        What its owner read out, in any grouping; None: not compared.

    Returns
    -------
    VerifierKey
        The partner. Adding it once more changes nothing.

    Raises
    ------
    ConfigError
        It is no key of another site, another key of a partner is there, or site.toml cannot be
        written.
    KeyChanged
        The key is not the one that was read out.
    """
    try:
        partner = read_partner(text.strip())
    except Unproved as wrong:
        hint = "It is one line, as `privnb site identity DIR` prints it at the partner's."
        raise ConfigError(str(wrong), hint=hint) from None
    if fingerprint is not None and _digits(fingerprint) != _digits(partner.fingerprint):
        raise KeyChanged(
            f"The fingerprint of {partner.name} is {partner.fingerprint}, not what you wrote.",
            hint="Ask its owner again, over the telephone, before you add it.",
        )
    known = config.federated.partners if config.federated is not None else ()
    if partner in known:
        return partner
    if partner.public == VerifierKey.parse(own).public:
        raise ConfigError("That is this site's own key.", hint="Add what the other site prints.")
    for other in known:
        if other.name == partner.name:
            raise config.error(
                f"{partner.name!r} is a partner with another key: {other.fingerprint}.",
                *("federated", "partners"),
                hint="If it has a new key, as its owner tells you, remove the old one by hand.",
            )
    document = tomlkit.parse(config.path.read_text(encoding="utf-8"))
    _insert(document, str(partner))
    _replace(config, tomlkit.dumps(document))
    return partner


def _digits(fingerprint: str) -> str:
    return "".join(fingerprint.split()).replace(":", "").replace("-", "").lower()


def _insert(document: tomlkit.TOMLDocument, text: str) -> None:
    section = document.get("federated")
    if section is None:
        section = tomlkit.table()
        section.comment("the sites we compute with")
        document.add(tomlkit.nl())
        document.add("federated", section)
    if not isinstance(section, Table):
        raise ConfigError("[federated] is no section of site.toml.", hint="Write it as a section.")
    if "partners" not in section:
        section.add("partners", tomlkit.array())
    partners = section["partners"]
    if isinstance(partners, Array):
        partners.add_line(text)
        if not partners.as_string().endswith("\n]"):
            partners.add_line(indent="", add_comma=False)


def _replace(config: SiteConfig, text: str) -> None:
    """Put a new text in the place of ``site.toml``, if it would do; whole, or not at all."""
    try:
        mode = config.path.stat().st_mode & 0o777
        handle, name = tempfile.mkstemp(dir=config.path.parent, prefix=f".{config.path.name}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), mode)
            load_config(config.directory, file=Path(name))
            Path(name).replace(config.path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        problem = f"The file cannot be written: {error.strerror}."
        raise ConfigError.at(config.path, None, problem, hint="Mend its permissions.") from None


def own_identity(config: SiteConfig) -> str | None:
    """Return the identity of the site; None before it is made, at the first start."""
    if not (config.directory / "state" / "audit.key").exists():
        return None
    from privnb.site.opening import open_audit  # noqa: PLC0415 - SQLAlchemy takes half a second

    return open_audit(config).verifier_key


def remarks(config: SiteConfig, *, own: str | None) -> Iterator[Remark]:
    """Yield what the owner should know of ``[federated]``: level, key of the file, text, remedy."""
    federated = config.federated
    if federated is None:
        return
    here = ("federated", "partners")
    for partner in federated.partners:
        if own is not None and partner.public == VerifierKey.parse(own).public:
            problem = f"{partner.name!r} has this site's own key."
            yield "error", here, problem, "Take it out: only others are partners."
    count = len(federated.partners) + 1
    if count < federated.min_sites:
        problem = (
            f"With {count - 1} partners there are {count} sites, but {federated.min_sites} must"
            " take part: no federated computation is possible."
        )
        yield "warning", here, problem, "Add the others: privnb site partner DIR KEY"
    if federated.min_sites == 2:  # noqa: PLR2004 - a sum of two
        problem = "With two sites, who has the sum and one site's part knows the other's."
        hint = "Leave min_sites at 3 or more, unless noise protects all that is computed."
        yield "warning", ("federated", "min_sites"), problem, hint
    yield "note", here, _in_words(federated), "Compare the fingerprints with their owners'."
    for table in config.tables:
        if table.schema.accounting == "pure":
            problem = f"Table {table.name!r} is accounted purely: no totals over sites count it."
            hint = 'Noise is shared between sites where accounting = "zcdp".'
            yield "note", ("tables", table.name, "accounting"), problem, hint


def _in_words(federated: FederatedConfig) -> str:
    who = "; ".join(f"{each.name} ({each.fingerprint})" for each in federated.partners)
    harmless = f", harmless if {federated.colluding} of them collude" if federated.colluding else ""
    fixed = ", all of one training over the same sites" if federated.fixed_sites else ""
    return (
        f"Computed together with at least {federated.min_sites} sites, in sums of at least"
        f" {federated.min_summed}{harmless}{fixed}. Partners: {who or 'none'}."
    )
