from __future__ import annotations

import pytest


def test_connect_tells_who_where_and_which_sites(unconnected):
    unconnected.run("%privnb connect --email ana@uni.example --exchange shared")
    assert (
        "Connected as ana@uni.example. Sites: lakeside, northside, riverside." in unconnected.text
    )
    assert unconnected.session.fingerprint in unconnected.text


def test_connect_reads_the_environment_and_says_so(unconnected, monkeypatch):
    asked = {}
    monkeypatch.setenv("PRIVNB_EMAIL", "ana@uni.example")
    monkeypatch.setenv("PRIVNB_EXCHANGE", "demo/exchange")
    unconnected.magics.connect = lambda **given: asked.update(given) or unconnected.session
    unconnected.run("%privnb connect")
    assert asked["email"], asked["exchange"] == ("ana@uni.example", "demo/exchange")
    assert "email from PRIVNB_EMAIL, exchange from PRIVNB_EXCHANGE" in unconnected.text


def test_connect_leaves_the_session_in_a_variable(unconnected):
    unconnected.run("%privnb connect session --email ana@uni.example --exchange shared")
    assert unconnected.shell.user_ns["session"] is unconnected.session


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("sites", ["owner@northside.example", "utilisation-research", "visits: 4 of 4"]),
        ("tables", ["lakeside, northside, riverside", "one person", "6,000"]),
        ("schema visits", ["0 … 30", "individual deductible", "one person; cannot be read"]),
        ("budget", ["northside", "2027-06-30"]),
        ("help", ["%privnb schema TABLE"]),
        ("", ["%privnb schema TABLE"]),
    ],
)
def test_a_command_shows_a_table_in_text_and_html(notebook, command, shown):
    notebook.run(f"%privnb {command}")
    assert notebook.error is None
    for words in shown:
        assert words in notebook.text
        assert words in (notebook.html or notebook.text)


def test_requests_are_listed_and_can_be_cancelled(notebook):
    notebook.datasite.by_name["northside"].delay = 60
    notebook.run(
        "%%secure r --site northside --epsilon 1 --purpose utilisation-research --no-wait\n"
        "SELECT COUNT(*) FROM visits"
    )
    request = notebook.shell.user_ns["r"]
    notebook.run("%privnb requests")
    assert request.id[:8] in notebook.text
    notebook.run(f"%privnb cancel {request.id[:8]}")
    assert "no longer waited for" in notebook.text


def test_loading_is_silent_and_unloading_leaves_nothing(shell, capsys):
    shell.run_line_magic("unload_ext", "privnb")
    names = {"privnb", "secure", "SecureMagics"}
    manager = shell.magics_manager
    before = (
        len(shell.configurables),
        list(shell.Completer.custom_matchers),
        {kind: set(magics) for kind, magics in manager.magics.items()},
        set(manager.registry),
    )
    assert not names & (before[2]["line"] | before[2]["cell"] | before[3])
    shell.run_line_magic("load_ext", "privnb")
    assert len(shell.configurables) == before[0] + 1
    shell.run_line_magic("unload_ext", "privnb")
    after = (
        len(shell.configurables),
        list(shell.Completer.custom_matchers),
        {kind: set(magics) for kind, magics in manager.magics.items()},
        set(manager.registry),
    )
    assert after == before
    assert capsys.readouterr().out == ""


def test_a_key_is_shown_for_comparison_and_pinned_when_it_is_named(notebook):
    notebook.run("%privnb trust northside")
    assert "over the telephone" in notebook.text
    assert "SHA256:northside" in notebook.text
    notebook.run("%privnb trust northside ab12-cd34 ef56")
    assert notebook.datasite.trusted == "ab12-cd34 ef56"
    assert "pinned" in notebook.text
    notebook.run("%privnb trust northsid")
    assert "Did you mean 'northside'" in notebook.error.hint


def test_the_timeout_is_configurable(notebook):
    notebook.run("%config SecureMagics.timeout = 60")
    assert notebook.magics.timeout == 60


def test_help_titles_itself_after_the_magic(notebook):
    assert "%%secure [--site NAME]" in notebook.magics.secure.__doc__
