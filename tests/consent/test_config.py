"""What an owner writes of consent and purposes in ``site.toml``, and what is refused."""

from __future__ import annotations

import pytest
from consent_site import SITE, write_site

from privnb.errors import ConfigError, UnknownName
from privnb.site.config import load_config
from privnb.site.dpv import LEGAL_BASES, PURPOSES, Term, find_term


def loaded(tmp_path, text):
    return load_config(write_site(tmp_path / "site", text))


def test_purposes_have_a_dpv_term_and_a_legal_basis(tmp_path):
    config = loaded(tmp_path, SITE)
    assert config.purposes["research"].legal == {
        "dpv": "https://w3id.org/dpv#AcademicResearch",
        "legal_basis": "https://w3id.org/dpv/legal/eu/gdpr#A6-1-a",
    }
    assert "teaching" not in config.purposes


def test_a_legal_basis_may_be_left_open(tmp_path):
    config = loaded(tmp_path, SITE.replace('legal_basis = "eu-gdpr:A6-1-a"\n', ""))
    assert config.purposes["research"].legal == {"dpv": "https://w3id.org/dpv#AcademicResearch"}


def test_columns_of_a_register_have_the_names_of_what_they_hold_unless_said_otherwise(tmp_path):
    consent = loaded(tmp_path, SITE).tables[0].consent
    assert consent is not None
    assert (consent.unit, consent.purpose, consent.status, consent.at) == (
        *("who", "purpose", "status", "at"),
    )
    text = SITE.replace('unit = "who"', 'unit = "who"\npurpose = "what for"')
    consent = loaded(tmp_path, text).tables[0].consent
    assert consent is not None
    assert consent.purpose == "what for"


@pytest.mark.parametrize(
    ("old", "new", "problem", "hint"),
    [
        ("AcademicResearch", "AcademicReserch", "no DPV purpose", "Did you mean 'AcademicResea"),
        ("AcademicResearch", "Consent", "no DPV purpose 'Consent'", "Known:"),
        ("eu-gdpr:A6-1-a", "A6-1-g", "no DPV legal basis 'A6-1-g'", "Did you mean 'A6-1-"),
        ("eu-gdpr:A6-1-a", "dpv:A6-1-a", "no DPV legal basis", "Did you mean 'A6-1-a'"),
        (
            "purposes.research]",
            "purposes.reserch]",
            "No table may be used",
            "Did you mean 'research'",
        ),
        ('dpv = "AcademicResearch"', "", "lacks 'dpv'", "a term of W3C DPV 2"),
        ('legal_basis = "eu', 'legal_bases = "eu', "no key 'legal_bases'", "'legal_basis'"),
        ('unit = "who"', "", "lacks 'unit'", "whose consent"),
        ('unit = "who"', 'unit = "who"\nwhen = "at"', "no key 'when'", "Known here: at,"),
        (
            '[tables.visits.consent]\nsource = "consents.parquet"',
            "[tables.visits.consent]",
            "lacks 's",
            "",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_to_write(tmp_path, old, new, problem, hint):
    assert old in SITE
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, SITE.replace(old, new))
    assert "site.toml, line " in caught.value.message
    assert problem in caught.value.message
    assert hint in caught.value.hint


def test_a_register_without_a_column_is_refused_at_its_line(tmp_path):
    from privnb.site.data.claims import check

    directory = write_site(tmp_path / "site", SITE.replace('unit = "who"', 'unit = "whom"'))
    (error,) = [finding for finding in check(directory).findings if finding.level == "error"]
    line = SITE.splitlines().index('unit = "who"') + 1
    assert f"line {line}: The source has no column 'whom'" in error.message
    assert "Did you mean 'who'?" in error.hint


@pytest.mark.parametrize("terms", [PURPOSES, LEGAL_BASES])
def test_every_term_is_found_by_each_of_its_spellings(terms):
    for term in terms.values():
        assert [find_term("term", spelling, terms) for spelling in term.spellings] == [term] * 3
        assert term.iri.startswith("https://w3id.org/dpv")


def test_a_term_of_another_kind_is_not_found():
    with pytest.raises(UnknownName):
        find_term("purpose", "PublicInterest", PURPOSES)
    assert Term("dpv", "PublicInterest") in LEGAL_BASES.values()
