"""privnb review on the command line."""

from __future__ import annotations

import base64
import datetime as dt
import io

import pytest
import review_site
from review_site import ALICE, BOB, OUTPUT, table_output
from typer.testing import CliRunner

from privnb.cli import app
from privnb.output import Output, OutputColumn
from privnb.site.reviewing import review
from privnb.site.reviewing.reviewers import ReviewerKey, key_folder


def run(*arguments, status=0):
    result = CliRunner().invoke(app, ["review", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(autouse=True)
def _now(monkeypatch):
    """Requests of these tests are new: commands go by the real clock."""
    monkeypatch.setattr(review_site, "NOW", dt.datetime.now(dt.UTC))


def png():
    from privnb.pixels import write_png

    return write_png(20, 10, b"\x20\x80\xff" * 200)


def test_a_key_is_made_once_and_its_line_fits_site_toml(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIVNB_HOME", str(tmp_path))
    first = run("key", "--email", "dora@hospital.example")
    key = ReviewerKey.load(key_folder() / "dora@hospital.example.json")
    assert first.stdout == f'"dora@hospital.example" = "{key.public}"\n'
    again = run("key", "--email", "dora@hospital.example")
    assert again.stdout == first.stdout
    assert "You have a key already" in again.stderr
    assert "cannot be used" in run("key", "--email", "../x", status=1).stderr


def test_what_waits_is_listed(site):
    assert run("list", site.folder).stdout == "Nothing waits for review.\n"
    name, past = site.ask(), site.ask(state="answered")
    text = run("list", site.folder).stdout
    assert name[:8] in text
    assert "code to review" in text
    assert "0 of 2" in text
    assert past[:8] not in text
    assert past[:8] in run("list", site.folder, "--past").stdout


def test_a_request_is_shown_whole(site):
    name = site.ask("x = 1\nx + age", parameters={"age": 40})
    with site.database.write() as transaction:
        run_before = review.MockRun(output=OUTPUT)
        review.keep_mock(transaction, analyst=review_site.ANA, request=name, run=run_before)
    text = run("show", site.folder, name[:6]).stdout
    for words in (
        f"Request        {name}",
        "Analyst        ana@uni.example",
        "Parameter age  40",
        "1  x = 1\n2  x + age\n",
        "On the mock twin\nframe, 2 rows, 2 columns\nage,mean\n30,1.25\n40,2.5\n",
        "visits: no grant for research",
        f"privnb review approve {site.folder} {name[:8]} --digest ",
    ):
        assert words in text, text


def test_an_output_is_shown_to_its_last_digit(site):
    name = site.held(table_output((30, 0.1234567890123456)), gate=("Too few people.",))
    text = run("show", site.folder, name).stdout
    assert "30,0.1234567890123456" in text
    assert "Too few people." in text
    assert f"privnb review release {site.folder}" in text


def test_no_cell_of_a_text_can_pass_for_another(site):
    texts = ("yes", "yes ", "", None, "missing", "a,b", '"yes "', "a\tb")
    column = OutputColumn(name="answer ", type="string", role="value")
    name = site.held(Output(kind="frame", columns=(column,), rows=tuple((t,) for t in texts)))
    text = run("show", site.folder, name).stdout
    shown = text.partition("8 rows, 1 columns\n")[2].splitlines()[: len(texts) + 1]
    assert shown == [
        *('"answer "', "yes", '"yes "', '""', "missing", '"missing"', '"a,b"', '"""yes """'),
        "a\\tb",
    ]


def test_a_figure_is_written_to_a_file_that_is_not_there_yet(site, tmp_path):
    picture = png()
    name = site.held(Output(kind="figure", png=base64.b64encode(picture).decode()))
    assert "--figure FILE" in run("show", site.folder, name).stdout
    file = tmp_path / "figure.png"
    run("show", site.folder, name, "--figure", file)
    assert file.read_bytes() == picture
    assert "is there already" in run("show", site.folder, name, "--figure", file, status=1).stderr
    table = site.held()
    assert (
        "gave no figure"
        in run("show", site.folder, table, "--figure", tmp_path / "x.png", status=1).stderr
    )


def test_two_reviewers_approve_and_one_withholds(site):
    name = site.ask()
    first = run("approve", site.folder, name[:8], "--reviewer", ALICE)
    assert first.stdout == f"Approved {name[:8]}: 1 of 2 approvals. It waits for others.\n"
    second = run("approve", site.folder, name[:8], "--reviewer", BOB, "--reason", "Fine.")
    assert "2 of 2 approvals. The site's agent runs it next." in second.stdout
    site.hold(name)
    run("release", site.folder, name, "--reviewer", ALICE)
    told = run("withhold", site.folder, name, "--reviewer", BOB, "--reason", "Three people.")
    assert told.stdout == f"Withheld {name[:8]}. The analyst will read your reason.\n"
    assert site.told(name).reason == "Three people."


def test_a_denial_asks_for_a_reason(site):
    name = site.ask()
    refused = run("deny", site.folder, name, "--reviewer", ALICE, status=1)
    assert "To deny or withhold needs a reason." in refused.stderr
    run("deny", site.folder, name, "--reviewer", ALICE, "--reason", "No.")
    assert site.state(name) == "denied"


def test_a_decision_can_name_the_digest_that_was_looked_at(site):
    name = site.ask()
    wrong = run("approve", site.folder, name, "--reviewer", ALICE, "--digest", "0" * 12, status=1)
    assert "not what you looked at" in wrong.stderr
    short = run("approve", site.folder, name, "--reviewer", ALICE, "--digest", "00", status=1)
    assert "too short" in short.stderr
    text = run("show", site.folder, name).stdout
    digest = text.partition("--digest ")[2].split()[0]
    run("approve", site.folder, name, "--reviewer", ALICE, "--digest", digest)


def test_of_several_keys_one_must_be_named(site):
    name = site.ask()
    refused = run("approve", site.folder, name, status=1)
    assert "there is no reviewer's key here, or several" in refused.stderr
    assert "--reviewer" in refused.stderr


def test_errors_are_two_lines(site, tmp_path):
    for arguments in (("show", site.folder, "ffff"), ("list", tmp_path / "nowhere")):
        lines = run(*arguments, status=1).stderr.splitlines()
        assert [line.split(":")[0] for line in lines] == ["Error", "Hint"]


HOSTILE = "\x1b]0;owned\x07\u202e\u2066[bold red]:smile:[/]\x9b31m\u200b\u05d0"


def test_nothing_an_analyst_writes_reaches_the_terminal_as_it_is(site):
    name = site.ask(
        f"x = 1  # {HOSTILE}\rimport os\n{HOSTILE}",
        purpose=f"p{HOSTILE}",
        parameters={f"a{HOSTILE}": HOSTILE},
        tables=(f"t{HOSTILE}",),
        output=f"o{HOSTILE}",
        analyst=f"ana{HOSTILE}@uni.example",
    )
    held = site.held(
        Output(
            kind="frame",
            columns=(
                table_output().columns[0].__class__(name=HOSTILE, type="string", role="value"),
            ),
            rows=((f"cell{HOSTILE}",),),
        ),
        gate=(HOSTILE,),
    )
    texts = [
        run("list", site.folder).stdout,
        run("show", site.folder, name).stdout,
        run("show", site.folder, held).stdout,
    ]
    for text in texts:
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
        assert "\u05d0" not in text  # it would turn around what is beside it
    assert "[bold red]:smile:[/]" in texts[1]
    assert "cell\\x1b]0;owned" in texts[2]
    assert "2  import os" in texts[1]


def test_on_a_terminal_code_is_highlighted_and_as_safe(site, monkeypatch):
    from rich.console import Console

    from privnb.cli import review as command

    made = io.StringIO()
    out = Console(
        file=made, force_terminal=True, width=100, highlight=False, markup=False, emoji=False
    )
    monkeypatch.setattr(command, "_console", lambda: out)
    name = site.ask(f"import os  # {HOSTILE}\nos.getcwd()")
    run("show", site.folder, name)
    text = made.getvalue()
    assert "\x1b[" in text  # rich's own colours
    for bad in ("\x1b]0;", "\x07", "\u202e", "\u2066", "\x9b", "\u200b"):
        assert bad not in text
