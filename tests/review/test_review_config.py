"""[review] in site.toml: what is accepted, and where each mistake is reported."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from privnb.errors import ConfigError
from privnb.site.reviewing.config import read_review
from privnb.site.toml_reader import TomlFile


def key(number):
    return "ed25519:" + base64.b64encode(bytes([number]) * 32).decode()


GOOD = f"""\
[review]
review = "output"
needed = 2
expires_days = 7
release = ["{"ab" * 32}"]
command = ["/usr/local/bin/notify", "--loud"]
webhook = "https://chat.hospital.example:8443/hooks/x?y=1"
[review.reviewers]
"alice@hospital.example" = "{key(1)}"
"bob@hospital.example" = "{key(2)}"
"""


def read(tmp_path, text):
    path = tmp_path / "site.toml"
    path.write_text(text)
    return read_review(TomlFile(path).root.section("review", hint=""))


def test_all_of_it_is_read(tmp_path):
    config = read(tmp_path, GOOD)
    assert dataclasses.asdict(config) == {
        "mode": "output",
        "needed": 2,
        "expires_days": 7,
        "reviewers": {"alice@hospital.example": key(1), "bob@hospital.example": key(2)},
        "release": frozenset({"ab" * 32}),
        "command": ("/usr/local/bin/notify", "--loud"),
        "webhook": "https://chat.hospital.example:8443/hooks/x?y=1",
    }


def test_what_is_left_out_is_the_careful_choice(tmp_path):
    config = read(
        tmp_path,
        f'[review]\nneeded = 1\n[review.reviewers]\n"alice@hospital.example" = "{key(1)}"\n',
    )
    assert (config.mode, config.expires_days) == ("both", 14)
    assert (config.release, config.command, config.webhook) == (frozenset(), (), None)


@pytest.mark.parametrize(
    ("good", "bad", "line", "problem"),
    [
        ('"output"', '"outputs"', 2, "no review 'outputs'"),
        ("needed = 2", "needed = 3", 3, "only 2 reviewers"),
        ("needed = 2", "needed = 0", 3, "at least 1"),
        ("needed = 2\n", "", 1, "lacks 'needed'"),
        ("expires_days = 7", "expires_days = 0", 4, "at least 1"),
        ("expires_days = 7", "expires_days = 5000", 4, "at most 3650"),
        ("expires_days = 7", "expire_days = 7", 4, "no key 'expire_days'"),
        ("ab" * 32, "ab" * 31, 5, "not a digest"),
        ("ab" * 32, "AB" * 32, 5, "not a digest"),
        ("/usr/local/bin/notify", "notify", 6, "absolute path"),
        ("https://chat", "ftp://chat", 7, "not an http or https address"),
        ("https://chat", "https:chat", 7, "not an http or https address"),
        ("hooks/x?", "hooks/ x?", 7, "not an http or https address"),
        ("example:8443", "example:port", 7, "not an http or https address"),
        ('"alice@hospital.example"', '"Alice"', 9, "not an email address"),
        (key(1), key(1)[:-4], 9, "no valid public key"),
        (key(2), key(1), 10, "the same key as 'alice@hospital.example'"),
    ],
)
def test_each_mistake_names_its_line_and_a_remedy(tmp_path, good, bad, line, problem):
    assert good in GOOD
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace(good, bad, 1))
    assert problem in error.value.message
    assert f"site.toml, line {line}: " in error.value.message
    assert error.value.hint


def test_somebody_must_be_able_to_decide(tmp_path):
    with pytest.raises(ConfigError, match="nobody could decide"):
        read(tmp_path, "[review]\nneeded = 1\n[review.reviewers]\n")
    with pytest.raises(ConfigError, match="lacks 'reviewers'"):
        read(tmp_path, "[review]\nneeded = 1\n")
