"""What a newcomer gets wrong, and the one clear error for it."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from privnb.errors import PrivnbError

ASK = "--epsilon 1 --purpose utilisation-research"
SQL = "SELECT COUNT(*) FROM visits\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"--site northside --epsilonn 1\n{SQL}", "no option --epsilonn. Did you mean --epsilon?"),
        (f"--site northside --eps 1\n{SQL}", "no option --eps."),
        (f"2nd --site northside\n{SQL}", "'2nd' cannot be the name of a variable"),
        (f"class --site northside\n{SQL}", "'class' cannot be the name of a variable"),
        (f"--site 'northside\n{SQL}", "No closing quotation"),
        (f"--site\n{SQL}", "--site: expected one argument"),
        (f"one two --site northside\n{SQL}", "no place for 'two'"),
        (f"--site northside --mock --dry-run\n{SQL}", "exclude each other"),
        (f"--site northside --mock --timeout 3\n{SQL}", "--timeout has no meaning"),
        (f"--site northside --timeout soon\n{SQL}", "invalid float value: 'soon'"),
        ("--site northside", "cell body is empty"),
        (f"--site northside,lakeside {ASK}\n{SQL}", "option: --site northside --site lakeside"),
        (f"--site northside lakeside {ASK}\n{SQL}", "option: --site northside --site lakeside"),
        (f"r --site northside lakeside\n{SQL}", "option: --site northside --site lakeside"),
        (f"--site northside {ASK} --param a,b\n{SQL}", "option: --param a --param b"),
    ],
)
def test_grammar_is_a_usage_error(notebook, line, said):
    notebook.run(f"%%secure {line}")
    assert isinstance(notebook.error, UsageError)
    assert said in str(notebook.error)
    assert notebook.datasite.submitted == []


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (f"--site northsid {ASK}", "no site 'northsid'", "Did you mean 'northside'?"),
        (f"{ASK}", "No site was named", "lakeside, northside, riverside"),
        (f"{ASK}", "No site was named", "Add --site lakeside (in Python"),
        ("--site northside --purpose p", "No epsilon was given", "Add --epsilon 1"),
        ("--site northside --purpose p --epsilon lots", "not lots", "epsilon 1"),
        ("--site northside --epsilon 1", "No purpose was given", "Add --purpose "),
        (f"--site northside {ASK} --param yaer", "no variable 'yaer'", "Did you mean year?"),
    ],
)
def test_meaning_is_an_error_with_a_hint(notebook, line, message, hint):
    notebook.run("year = 3")
    notebook.run(f"%%secure {line}\n{SQL}")
    assert isinstance(notebook.error, PrivnbError)
    assert message in notebook.error.message
    assert hint in notebook.error.hint
    assert len(notebook.error._render_traceback_()) == 2
    assert notebook.datasite.submitted == []


def test_the_value_of_a_wrong_parameter_is_not_shown(notebook):
    notebook.run("import pandas as pd\ndf = pd.DataFrame({'secret': [1]})\nholding = [df]")
    for name, said in (("df", "df is a DataFrame."), ("holding", "holds a DataFrame.")):
        notebook.run(f"%%secure --site northside {ASK} --param {name}\n{SQL}")
        assert notebook.error.message.endswith(said)
        assert "secret" not in notebook.error.message


@pytest.mark.parametrize("cell", ["older.df.head()", "import pandas as pd", "x = 1\nprint(x)"])
def test_a_cell_of_python_is_sent_nowhere(notebook, cell):
    notebook.run(f"%%secure --site northside {ASK}\n{cell}\n")
    assert notebook.error.code == "E_NOT_SELECT"
    assert "ordinary cell" in notebook.error.hint
    assert notebook.datasite.submitted == []


def test_an_empty_cell_is_refused(notebook):
    notebook.run(f"%%secure --site northside {ASK}\n   \n")
    assert notebook.error.code == "E_NOT_SELECT"


@pytest.mark.parametrize("cell", ["%privnb sites", f"%%secure --site northside {ASK}\n{SQL}"])
def test_without_a_connection_the_line_to_run_is_shown(unconnected, cell):
    unconnected.run(cell)
    assert unconnected.error.code == "E_NOT_CONNECTED"
    assert "%privnb connect --email" in unconnected.error.hint


def test_connect_says_what_it_lacks(unconnected, monkeypatch):
    monkeypatch.delenv("PRIVNB_EXCHANGE", raising=False)
    unconnected.run("%privnb connect --email ana@uni.example")
    assert "needs --exchange" in unconnected.error.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sitse", "Did you mean sites?"),
        ("schema", "required: TABLE"),
        ("result", "required: ID. %privnb requests lists them."),
        ("budget --lives", "Did you mean --live?"),
    ],
)
def test_a_wrong_command_is_a_usage_error(notebook, line, said):
    notebook.run(f"%privnb {line}")
    assert isinstance(notebook.error, UsageError)
    assert said in str(notebook.error)


@pytest.mark.parametrize("line", ["result ffff", "cancel ffff"])
def test_an_unknown_request_is_named(notebook, line):
    notebook.run(f"%privnb {line}")
    assert notebook.error.code == "E_UNKNOWN"
    assert notebook.error.hint == "%privnb requests lists them."


def test_an_unknown_table_is_named(notebook):
    notebook.run("%privnb schema visit")
    assert "Did you mean 'visits'?" in notebook.error.hint
