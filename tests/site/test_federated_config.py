"""With whom an owner computes, in site.toml and on the command line, and how mistakes are told."""

from __future__ import annotations

from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from privnb.audit import VerifierKey, origin_of
from privnb.cli import app
from privnb.dp.models import ModelKind
from privnb.errors import ConfigError
from privnb.site.config import load_config
from privnb.site.data.claims import check
from privnb.site.federated.offer import MODELS, offer_of

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "exchange"
"""


def key_of(site: str, owner: str = "") -> VerifierKey:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    return VerifierKey(name=origin_of(site, owner or f"owner@{site}.example"), public=public)


RIVERSIDE, LAKESIDE = key_of("riverside"), key_of("lakeside")
SECTION = f"""
[federated]
partners = [
    "{RIVERSIDE}",
    "{LAKESIDE}",  # by telephone
]
"""


@pytest.fixture
def load(tmp_path):
    def load(more: str):
        (tmp_path / "site.toml").write_text(SITE + more)
        return load_config(tmp_path)

    return load


def test_the_models_offered_are_those_that_can_be_trained():
    assert sorted(get_args(ModelKind)) == list(MODELS)


def test_without_the_section_nothing_is_computed_together(load):
    assert load("").federated is None
    assert offer_of(load(""), trains=True) is None


def test_an_empty_section_has_careful_defaults(load):
    found = load("[federated]\n").federated
    assert (found.partners, found.min_sites, found.min_summed) == ((), 3, 2)
    assert (found.colluding, found.idle_minutes, found.fixed_sites) == (0, 60, False)


def test_the_owner_s_words_count(load):
    found = load(f"{SECTION}min_sites = 5\nmin_summed = 4\ncolluding = 1\nidle_minutes = 7\n")
    assert found.federated.partners == (RIVERSIDE, LAKESIDE)
    assert (found.federated.min_sites, found.federated.min_summed) == (5, 4)
    offer = offer_of(found, trains=True)
    assert offer.partners == (str(RIVERSIDE), str(LAKESIDE))
    assert (offer.colluding, offer.idle_minutes, offer.training) == (1, 7, "")


WRONG = {
    "riverside": "no verifier key",
    str(RIVERSIDE)[:-4] + "AAAA": "no verifier key",
    str(RIVERSIDE).replace("riverside", "eastside", 1): "no verifier key",
    str(VerifierKey(name="log.example", public=RIVERSIDE.public)): "not the key of a site",
    str(key_of("northside")): "this site itself",
    str(key_of("lakeside")): "two keys",
    str(VerifierKey(name=origin_of("x", "y@z"), public=LAKESIDE.public)): "the same key",
}


@pytest.mark.parametrize("partner", WRONG, ids=range(len(WRONG)))  # keys are new each time
def test_a_partner_that_is_none_is_told_with_its_line(load, partner):
    with pytest.raises(ConfigError, match=f"line 7: .*{WRONG[partner]}") as wrong:
        load(f'\n[federated]\npartners = ["{LAKESIDE}",\n "{partner}"]\n')
    assert wrong.value.hint


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("min_sites = 1", "at least 2"),
        ("min_summed = 1", "at least 2"),
        ("colluding = -1", "at least 0"),
        ("idle_minutes = 0", "at least 1"),
        ("idle_minutes = 100000", "at most 10080"),
        ("fixed_sites = 1", "true or false"),
        ("min_site = 3", "Did you mean|no key 'min_site'"),
        ('partners = "x"', "must be an array"),
    ],
)
def test_a_number_that_protects_nobody_is_told(load, line, said):
    with pytest.raises(ConfigError, match=f"line 6: .*({said})"):
        load(f"\n[federated]\n{line}\n")


def test_training_is_approved_of_by_reviewers_in_words(load):
    key = "ed25519:" + "A" * 43 + "="
    review = '[python]\n[review]\nreview = "output"\nneeded = 1\n[review.reviewers]\n'
    review += f'"a@b.example" = "{key}"\n'
    offer = offer_of(load(SECTION + review), trains=True)
    assert offer.training.startswith("1 of 1 reviewers approve of the code")
    assert "same sites" not in offer.training
    fixed = offer_of(load(f"{SECTION}fixed_sites = true\n{review}"), trains=True)
    assert fixed.training.endswith("which are all over the same sites")
    assert offer_of(load(SECTION + review), trains=False).training == ""


# The command line


@pytest.fixture
def two(tmp_path):
    """Two sites, each with a site.toml that says little."""
    for site in ("northside", "riverside"):
        (tmp_path / site).mkdir()
        (tmp_path / site / "site.toml").write_text(SITE.replace("northside", site))
    return tmp_path / "northside", tmp_path / "riverside"


def privnb(*words):
    return CliRunner().invoke(app, ["site", *map(str, words)])


def identity(folder) -> VerifierKey:
    return VerifierKey.parse(privnb("identity", folder).stdout.strip())


def test_what_one_site_prints_another_pins(two):
    north, river = two
    key = identity(river)
    assert identity(river) == key
    assert key.fingerprint in privnb("identity", river).stderr
    said = privnb("partner", north, key, "--fingerprint", key.fingerprint.upper())
    assert said.exit_code == 0, said.output
    assert key.name in said.stdout
    assert load_config(north).federated.partners == (key,)


def test_adding_a_partner_keeps_all_else_that_site_toml_says(two):
    north, river = two
    path = north / "site.toml"
    path.write_text(path.read_text() + "# ours\n[federated]\nmin_sites = 4  # by law\n")
    path.chmod(0o600)
    assert privnb("partner", north, identity(river)).exit_code == 0
    once = path.read_text()
    assert privnb("partner", north, identity(river)).exit_code == 0
    assert path.read_text() == once
    assert privnb("partner", north, LAKESIDE).exit_code == 0
    text = path.read_text()
    assert text.startswith(SITE)
    assert "# ours\n" in text
    assert "min_sites = 4  # by law\n" in text
    assert load_config(north).federated.partners == (identity(river), LAKESIDE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(north.glob(".site.toml-*"))


def test_a_partner_that_cannot_be_one_is_refused_and_nothing_changes(two):
    north, river = two
    path = north / "site.toml"
    before = path.read_text()
    own = identity(north)
    renamed = VerifierKey(name=origin_of("x", "y@z.example"), public=own.public)
    for words, said in (
        (("nonsense",), "no verifier key"),
        ((own,), "own key"),
        ((renamed,), "own key"),
        ((identity(river), "--fingerprint", RIVERSIDE.fingerprint), "not what you wrote"),
    ):
        refused = privnb("partner", north, *words)
        assert refused.exit_code != 0
        assert said in refused.output
    assert path.read_text() == before
    assert privnb("partner", north, identity(river)).exit_code == 0
    other = VerifierKey(name=identity(river).name, public=RIVERSIDE.public)
    refused = privnb("partner", north, other)
    assert "with another key" in refused.output
    assert load_config(north).federated.partners == (identity(river),)


def test_check_tells_with_whom_a_site_computes(two):
    north, river = two
    assert not any("artner" in finding.message for finding in check(north).findings)
    privnb("partner", north, identity(river))
    by_level = {finding.level: finding.message for finding in check(north).findings[1:]}
    assert "no federated computation is possible" in by_level["warning"]
    assert identity(river).fingerprint in by_level["note"]
    own = identity(north)
    other = VerifierKey(name=origin_of("x", "y@z.example"), public=own.public)
    (north / "site.toml").write_text(f'{SITE}[federated]\npartners = ["{other}"]\n')
    assert not check(north).ok
