from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_exchange import TEMPLATE

from privnb.errors import BadMessage
from privnb.magics.grammar import parse
from privnb.magics.ready_cells import template_cell
from privnb.magics.secure import SecureMagics

ASK = "--epsilon 1 --purpose utilisation-research"
SQL = "SELECT COUNT(*) FROM visits\n"


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
        ("consent", ["northside", "visits", "granted", "2027-06-30"]),
        ("templates", ["visits_by_age", "integer, 0 to 65", "Mean visits above an age"]),
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


def test_a_list_of_any_length_is_cut_and_says_so(notebook):
    import pandas as pd

    from privnb.magics.showing import show_frame

    long = pd.DataFrame({"site": ["northside"] * 5000, "column": range(5000)})
    notebook.shell.user_ns.update(show_frame=show_frame, long=long)
    notebook.run("show_frame('Columns', long)")
    assert "Columns · the first 1,000 of 5,000 rows" in notebook.text
    assert notebook.html.count("<tr") == 1001


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


ACCESS = "--table visits --purpose utilisation-research --reason 'how age matters'"


def test_access_is_asked_for_and_shown_until_the_owner_answers(notebook):
    notebook.run(f"%privnb request-access --site lakeside {ACCESS} --epsilon 4")
    ((site, submission),) = notebook.datasite.asked("request-access")
    assert site == "lakeside"
    assert submission.access.reason == "how age matters"
    assert submission.access.epsilon == "4"
    assert "lakeside has your request for visits for utilisation-research" in notebook.text
    notebook.run("%privnb consent")
    assert "pending" in notebook.text
    assert "pending" in notebook.html


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"--site lakesid {ACCESS}", "Did you mean 'lakeside'?"),
        (f"--site lakeside {ACCESS} --table visit", "Did you mean 'visits'?"),
        (f"--site lakeside {ACCESS} --purpose utilization", "Known: utilisation-research."),
        (f"--site lakeside {ACCESS} --reason ' '", "Say what you want to find out"),
        (f"--site lakeside {ACCESS} --epsilon lots", "for example --epsilon 4"),
        (f"--site lakeside {ACCESS} --epsilon -1", "for example --epsilon 4"),
    ],
)
def test_a_request_for_access_that_makes_no_sense_is_sent_nowhere(notebook, line, said):
    notebook.run(f"%privnb request-access {line}")
    assert said in notebook.error.hint
    assert notebook.datasite.asked("request-access") == []


def test_what_a_request_for_access_lacks_is_a_usage_error(notebook):
    notebook.run("%privnb request-access --site lakeside --table visits")
    assert "--purpose, --reason" in str(notebook.error)


def test_the_trail_lists_what_the_sites_logged_newest_first(notebook):
    notebook.run(f"%%secure --site northside {ASK}\n{SQL}")
    request = notebook.datasite.runs[-1].request
    notebook.run("%privnb audit")
    assert "release" in notebook.text
    assert request[:8] in notebook.text
    frame = notebook.session.audit()
    assert frame.verified.tolist() == [True]
    assert frame.epsilon.tolist() == ["1"]


def test_a_trail_that_does_not_hold_is_said_and_hides_no_other(notebook):
    notebook.run(f"%%secure --site northside --site lakeside {ASK}\n{SQL}")
    northside = notebook.datasite.by_name["northside"]
    northside.log.events[0] = northside.log.events[0].replace("release", "refusal")
    notebook.run("%privnb audit")
    assert "two audit logs that differ" in notebook.text
    frame = notebook.session.audit().set_index("site")
    assert frame.verified.to_dict() == {"northside": False, "lakeside": True}


def test_a_template_becomes_the_next_cell_which_is_sent_as_its_owner_wrote_it(notebook):
    written = []
    notebook.shell.set_next_input = written.append
    notebook.run("%privnb templates visits_by_age")
    del notebook.shell.set_next_input
    (cell,) = written
    assert "Assign lowest_age in a cell above: integer, 0 to 65" in notebook.text
    notebook.run("lowest_age = 40")
    notebook.run(cell)
    assert notebook.error is None
    assert {submission.computation.source for submission in notebook.datasite.runs} == {
        "visits[visits.xage >= lowest_age].mdvis.mean()\n"
    }
    assert notebook.shell.user_ns["visits_by_age"].sites == ("lakeside", "northside", "riverside")


def test_a_template_that_is_not_there_is_named_with_what_was_meant(notebook):
    notebook.run("%privnb templates visits_by_aeg")
    assert "Did you mean 'visits_by_age'?" in notebook.error.hint


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"lowest_age --site lakeside": "integer"}},
        {"parameters": {"--mock": "integer"}},
        {"output": "mean\nimport os"},
        {"purposes": ("--param",)},
        {"purposes": ("research\n!rm -r",)},
        {"tables": ("",)},
    ],
)
def test_a_template_cannot_write_options_or_lines_into_the_cell(change):
    with pytest.raises(BadMessage, match="which no cell can name"):
        template_cell("visits_by_age", [], [("northside", replace(TEMPLATE, **change))])


def test_what_a_template_names_stays_one_word():
    purpose = "research --param api_token"
    offer = replace(TEMPLATE, purposes=(purpose,))
    cell, _ = template_cell("visits_by_age", [], [("northside", offer)])
    line = cell.splitlines()[0].removeprefix("%%secure ")
    read = parse(SecureMagics.secure.parser, line)
    assert (read.purpose, read.param, read.site) == (purpose, ["lowest_age"], ["northside"])


def test_templates_of_one_name_that_differ_must_be_chosen_by_site(notebook):
    site = notebook.datasite.by_name["northside"]
    (template,) = site.python.templates
    other = replace(template, source="visits.mdvis.median()\n")
    site.python = replace(site.python, templates=(other,))
    notebook.run("%privnb templates visits_by_age")
    assert "--site" in notebook.error.hint
    written = []
    notebook.shell.set_next_input = written.append
    notebook.run("%privnb templates visits_by_age --site northside")
    del notebook.shell.set_next_input
    assert written[0].endswith("\nvisits.mdvis.median()")


class Desk:
    """A reviewer's desk with nothing on it."""

    reviewer = "alice@clinic.example"

    def items(self):
        return ()


def test_reviews_need_no_connection_and_are_a_table_in_a_terminal(unconnected, monkeypatch):
    opened = []
    monkeypatch.setattr("privnb.owner.open_desk", lambda *asked: opened.append(asked) or Desk())
    unconnected.run("%privnb review demo/northside --reviewer alice@clinic.example")
    assert unconnected.error is None
    assert opened == [(Path("demo/northside"), "alice@clinic.example")]
    assert "Nothing waits for review." in unconnected.text


def test_live_lists_and_the_inbox_are_widgets(notebook, monkeypatch):
    monkeypatch.setattr("privnb.owner.open_desk", lambda *_: Desk())
    notebook.shell.kernel = object()
    kinds = [
        type(notebook.run(line)).__name__
        for line in ("%privnb consent --live", "%privnb requests --live", "%privnb review x")
    ]
    del notebook.shell.kernel
    assert kinds == ["ConsentWidget", "RequestsWidget", "ReviewWidget"]


def test_loading_is_silent_and_unloading_leaves_nothing(shell, capsys):
    shell.run_line_magic("unload_ext", "privnb")
    names = {"privnb", "secure", "federated", "SecureMagics", "FederatedMagics"}
    manager = shell.magics_manager
    before = (
        len(shell.configurables),
        list(shell.Completer.custom_matchers),
        {kind: set(magics) for kind, magics in manager.magics.items()},
        set(manager.registry),
    )
    assert not names & (before[2]["line"] | before[2]["cell"] | before[3])
    shell.run_line_magic("load_ext", "privnb")
    assert len(shell.configurables) == before[0] + 2
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
