from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter


def offered(notebook, text):
    with provisionalcompleter():
        found = list(notebook.shell.Completer.completions(text, len(text)))
    return {c.text for c in found}


@pytest.fixture
def known(notebook):
    notebook.run("%privnb sites")
    notebook.datasite.submit = None  # completion must not ask anybody
    notebook.shell.Completer.use_jedi = False  # IPython passes over whatever goes wrong in Jedi
    return notebook


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("%%secure --ep", {"--epsilon"}),
        ("%%secure --site n", {"northside"}),
        ("%%secure --site northside --purpose ", {"utilisation-research"}),
        ("%%secure --site northside --param ye", {"year"}),
        ("%%secure --site northside --table v", {"visits"}),
        ("%%secure --language ", {"python", "sql"}),
        ("%%federated --strategy-o", {"--strategy-option"}),
        ("%%federated --site northside --site l", {"lakeside"}),
        ("%%federated --purpose u", {"utilisation-research"}),
        ("%%federated --strategy fedav", {"fedavg", "fedavgm"}),
        ("%federated --model p", {"poisson"}),
        ("%federated --target md", {"mdvis"}),
        ("%federated --features mdvis,med", {"mdvis,meddol"}),
        ("%%federated --on-interrupt ca", {"cancel"}),
        ("%%federated --site northside\nSELECT md", {"mdvis"}),
        ("%privnb sch", {"schema"}),
        ("%privnb request-access --site n", {"northside"}),
        ("%privnb request-access --site northside --table ", {"visits"}),
        ("%privnb request-access --purpose u", {"utilisation-research"}),
        ("%privnb templates v", {"visits_by_age"}),
        ("%privnb templates --", {"--site"}),
        ("%privnb schema v", {"visits"}),
        ("%privnb budget --", {"--live"}),
        ("%%secure --site northside\nSELECT md", {"mdvis"}),
        ("%%secure --site northside\nSELECT AVG(mdvis) FROM vis", {"visits"}),
    ],
)
def test_what_is_known_is_offered(known, text, wanted):
    known.run("year = 3")
    assert offered(known, text) == wanted


def test_tables_and_columns_are_offered_in_python_beside_what_python_knows(known):
    known.run("mdvisited = 1")
    assert {"mdvis", "mdvisited"} <= offered(known, "%%secure --table visits\nmdv")


def test_names_below_a_flower_app_are_offered_beside_what_python_knows(known):
    known.run("mdvisited = 1")
    assert {"mdvis", "mdvisited"} <= offered(known, "%%federated --rounds 3\nmdv")


def test_a_variable_that_holds_a_strategy_is_offered(known):
    known.run("from flwr.serverapp.strategy import FedAvg\nmine = FedAvg()\nmy = 3")
    assert offered(known, "%%federated --strategy $m") == {"$mine"}


def test_the_privacy_unit_is_not_offered(known):
    assert offered(known, "%%secure --site northside\nSELECT zp") == set()


def test_nothing_is_asked_to_complete(unconnected):
    unconnected.datasite.submit = None
    assert "--site" in offered(unconnected, "%%secure --si")
    assert offered(unconnected, "%%secure --site n") & {"northside"} == set()


def test_python_is_completed_as_ever(known):
    known.run("northern_star = 1")
    assert "northern_star" in offered(known, "northern_s")
