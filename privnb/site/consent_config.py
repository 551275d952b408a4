"""What ``site.toml`` says of consent: where data subjects' is recorded, and what purposes mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from privnb.errors import UnknownName
from privnb.site.dpv import LEGAL_BASES, PURPOSES, Term, find_term
from privnb.site.toml_reader import Section

__all__ = ["ConsentSource", "PurposeTerms", "read_consent", "read_purposes"]


@dataclass(frozen=True, kw_only=True)
class ConsentSource:
    """Where it is recorded whether the rows of a privacy unit may be used, and for what purpose.

    ``unit``, ``purpose``, ``status`` and ``at`` are names of its columns; see
    `privnb.site.consent` for what these hold.
    """

    source: str
    """An Ibis URL, or the path of a Parquet, CSV or DuckDB file, as written."""
    source_table: str | None
    unit: str
    purpose: str
    status: str
    at: str


@dataclass(frozen=True, kw_only=True)
class PurposeTerms:
    """What a purpose is in terms of W3C DPV, and on which legal basis data is used for it."""

    dpv: Term
    legal_basis: Term | None = None

    @property
    def legal(self) -> dict[str, str]:
        """The terms as a site describes them to analysts: full IRIs."""
        said = {"dpv": self.dpv.iri}
        if self.legal_basis is not None:
            said["legal_basis"] = self.legal_basis.iri
        return said


def read_consent(table: Section) -> ConsentSource | None:
    """Read ``[tables.T.consent]``; None where the table has none."""
    if not table.has("consent"):
        return None
    section = table.section("consent", hint="Name a source and its columns.")
    consent = ConsentSource(
        source=section.text("source", hint='Write for example source = "consents.csv".'),
        source_table=section.text("source_table", hint="Name a table.", default="") or None,
        unit=section.text("unit", hint="Name the column that says whose consent it is."),
        purpose=section.text(
            "purpose", hint="Name the column with the purpose.", default="purpose"
        ),
        status=section.text(
            "status", hint='Name the column with "given" or "withdrawn".', default="status"
        ),
        at=section.text("at", hint="Name the column that says since when.", default="at"),
    )
    section.finish()
    return consent


def read_purposes(root: Section, allowed: Collection[str]) -> Mapping[str, PurposeTerms]:
    """Read the sections ``[purposes.NAME]``; ``allowed`` are the purposes of all tables."""
    hint = "Write for example [purposes.utilisation-research]."
    sections = root.section("purposes", required=False, hint=hint)
    return {
        name: _read_terms(sections, name, allowed)
        for name in sections.keys()  # noqa: SIM118 - a section is no mapping
    }


def _read_terms(sections: Section, name: str, allowed: Collection[str]) -> PurposeTerms:
    section = sections.section(name, hint='Write for example dpv = "AcademicResearch".')
    if name not in allowed:
        error = UnknownName.among("purpose", name, allowed)
        sections.fail("No table may be used for this purpose.", name, hint=error.hint)
    terms = PurposeTerms(
        dpv=_read_term(section, "dpv", PURPOSES),
        legal_basis=(
            _read_term(section, "legal_basis", LEGAL_BASES) if section.has("legal_basis") else None
        ),
    )
    section.finish()
    return terms


def _read_term(section: Section, key: str, terms: Mapping[str, Term]) -> Term:
    example = next(iter(terms))
    text = section.text(key, hint=f'Write a term of W3C DPV 2, for example {key} = "{example}".')
    kind = "DPV purpose" if key == "dpv" else "DPV legal basis"
    try:
        return find_term(kind, text, terms)
    except UnknownName as error:
        section.fail(error.message, key, hint=error.hint)
