"""``%%federated``: its three forms, what each asks for, and how a cell waits for its run."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.core.error import UsageError

sys.path.insert(0, str(Path(__file__).parent.parent / "federated"))

import together

from privnb.errors import PrivnbError, ResultPending
from privnb.federated.release import FederatedRelease
from privnb.federated.runs import FederatedRun
from privnb.magics.waiting import Watching
from privnb.messages import Problem
from privnb.preview import Preview
from privnb.release import RECORD_TYPE, Estimates

SITES = "--site northside --site riverside --site lakeside"
ASK = f"{SITES} --purpose utilisation-research"
SQL = "SELECT plan_type, COUNT(*) AS n FROM visits GROUP BY plan_type\n"
APP = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(msg, context):
    target = context.node_config["tables"]["visits"]["y"].to_numpy()
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    w = w + 0.5 * (target.mean() - w)
    metrics = {"loss": float(((target - w) ** 2).mean()), "num-examples": len(target)}
    content = {"arrays": ArrayRecord([w]), "metrics": MetricRecord(metrics)}
    return Message(RecordDict(content), reply_to=msg)

initial = [np.zeros(1)]
"""
MODEL = "--model linear --target mdvis --features plan_type --table visits"


@pytest.fixture
def sites(notebook_of, tmp_path):
    """A notebook that is connected to three sites which compute together in this process."""
    session, datasite = together.open_exchange(tmp_path / "home")
    notebook = notebook_of(session, datasite)
    for place, site in enumerate(datasite.by_name.values()):
        site.exact["rows"] = [("free care", 1000 * (place + 1)), ("cost sharing", 500)]
        site.tables = {"visits": pd.DataFrame({"y": [float(place)] * 10})}
    notebook.run("%privnb connect --email ana@uni.example --exchange x")
    yield notebook
    for site in datasite.by_name.values():
        site.stop()


@pytest.fixture
def held(sites):
    """Let the sites hold their parts back; returns what lets them go on."""
    go_on = threading.Event()

    def wait(site, ask, told, vector):
        go_on.wait(20)
        return told, vector

    for site in sites.datasite.by_name.values():
        site.on["contribute"] = wait
    yield go_on
    go_on.set()


def asked(notebook):
    """What the sites were asked to run, the same of all of them."""
    per_site = [site.submissions for site in notebook.datasite.by_name.values()]
    runs = [[s for s in each if s.action in ("run", "mock")] for each in per_site]
    assert len({each[-1].computation.digest for each in runs}) == 1
    return runs[0][-1].computation


# Totals


def test_a_total_is_displayed_and_is_the_last_value(sites):
    release = sites.run(f"%%federated {ASK} --epsilon 1\n{SQL}")
    assert sites.error is None
    assert isinstance(release, FederatedRelease)
    assert sites.run("_") is release
    assert "Total of all sites" in release._repr_html_()
    assert asked(sites).source == SQL


def test_with_a_name_the_total_is_stored_and_one_line_says_so(sites):
    sites.run(f"%%federated national {ASK} --epsilon 1\n{SQL}")
    assert "national: totals in 2 rows, northside + riverside + lakeside" in sites.text
    assert set(sites.shell.user_ns["national"].receipts) == {"northside", "riverside", "lakeside"}
    assert any(RECORD_TYPE in output.data for output in sites.outputs)


def test_threshold_colluding_and_parameters_are_asked_for(sites):
    sites.run("plan = 'free care'")
    sql = "SELECT COUNT(*) AS n FROM visits WHERE plan_type = :plan\n"
    sites.run(
        f"%%federated {ASK} --epsilon 1 --threshold 3 --colluding 1 --param plan --no-wait\n{sql}"
    )
    assert sites.error is None
    computation = asked(sites)
    assert (computation.federation.threshold, computation.federation.colluding) == (3, 1)
    assert computation.parameters == {"plan": "free care"}


def test_a_dry_run_of_a_total_also_tells_the_error_of_asking_each_alone(sites):
    estimates = sites.run(f"%%federated {ASK} --epsilon 1 --dry-run\n{SQL}")
    assert isinstance(estimates, Estimates)
    assert "if each site were asked alone" in estimates._repr_html_()
    sites.run(f"%%federated price {ASK} --epsilon 1 --dry-run\n{SQL}")
    assert "price: estimate from northside + riverside + lakeside" in sites.text
    assert all(s.action != "run" for s in sites.datasite.by_name["northside"].submissions)


def test_a_mock_total_needs_no_epsilon_and_no_purpose_and_says_what_it_is(sites):
    release = sites.run(f"%%federated {SITES} --mock\n{SQL}")
    assert sites.error is None
    assert release.mock
    assert "MOCK" in release._repr_html_()


# Training


def test_a_flower_app_is_trained_in_rounds_on_the_tables_that_it_names(sites):
    release = sites.run(f"%%federated {ASK} --rounds 8\n{APP}")
    assert sites.error is None
    (w,) = release.value
    assert w[0] == pytest.approx(1 - 0.5**8, rel=1e-5)
    assert list(release.history["round"]) == list(range(1, 9))
    computation = asked(sites)
    assert (computation.kind, computation.tables, computation.source) == (
        "python",
        ("visits",),
        APP,
    )


def test_a_strategy_by_name_takes_options_and_one_by_variable_is_used_as_it_is(sites):
    half = "--strategy fedavgm --strategy-option server-learning-rate=0.5"
    sites.run(f"%%federated slow {ASK} --rounds 1 {half}\n{APP}")
    assert sites.error is None
    assert sites.shell.user_ns["slow"].value[0][0] == pytest.approx(0.25)
    sites.run("from flwr.serverapp.strategy import FedAvgM\nmine = FedAvgM(server_learning_rate=0)")
    sites.run(f"%%federated still {ASK} --rounds 1 --strategy $mine\n{APP}")
    assert sites.error is None
    assert sites.shell.user_ns["still"].value[0][0] == 0


def test_a_dry_run_of_a_training_tells_who_decides(sites):
    preview = sites.run(f"%%federated {ASK} --rounds 3 --dry-run\n{APP}")
    assert isinstance(preview, Preview)
    assert "1 of 2 reviewers" in str(preview)
    assert "at least 2 of 3 sites" in str(preview)
    assert str(preview).count("Who decides") == 1


def test_a_dry_run_of_a_training_tells_once_what_all_sites_do_and_where_one_differs(sites):
    preview = sites.run(f"%%federated {ASK} --rounds 3 --dry-run\n{APP}")
    offer = dataclasses.replace(preview.sites["riverside"].python, seconds=7)
    sites_now = preview.sites | {
        "riverside": dataclasses.replace(preview.sites["riverside"], python=offer)
    }
    lines = str(dataclasses.replace(preview, sites=sites_now)).splitlines()
    (who,) = [line for line in lines if line.startswith("Who decides")]
    assert who.endswith("all")
    rounds = [line for line in lines if line.startswith("Rounds")]
    assert [line.split("  ")[-1].strip() for line in rounds] == ["northside, lakeside", "riverside"]
    assert "at most 7 s" in rounds[1]


def test_a_training_that_people_decide_about_gives_its_handle_and_goes_on_by_itself(sites):
    for site in sites.datasite.by_name.values():
        site.deciding = True
    sites.run(f"%%federated model {ASK} --rounds 2\n{APP}")
    assert sites.error is None
    assert "model: waiting for review at northside" in sites.text
    run = sites.shell.user_ns["model"]
    assert isinstance(run, FederatedRun)
    for site in sites.datasite.by_name.values():
        site.decide()
    sites.run(f"%privnb result {run.id[:8]} model")
    assert sites.error is None
    assert isinstance(sites.shell.user_ns["model"], FederatedRelease)


def test_where_only_one_site_waits_for_people_the_cell_does_not(sites):
    sites.datasite.by_name["lakeside"].deciding = True
    sites.run(f"%%federated model {ASK} --rounds 2\n{APP}")
    assert sites.error is None
    assert "model: waiting for review at lakeside" in sites.text
    sites.datasite.by_name["lakeside"].decide()
    release = sites.run("%privnb result model")
    assert release.sites == ("northside", "riverside", "lakeside")


DENIED = Problem(code="E_DENIED", message="Denied: too many rounds.", hint="Ask for fewer.")


def test_a_denial_after_which_too_few_sites_are_left_is_said_at_once(sites):
    by_name = sites.datasite.by_name
    for site in by_name.values():
        site.deciding = True
    sites.run(f"%%federated model {ASK} --rounds 2\n{APP}")
    run = sites.shell.user_ns["model"]
    assert not run.hopeless
    by_name["northside"].decide(DENIED)
    run.look()
    assert run.hopeless
    assert not run.in_review
    sites.run("%privnb requests")
    assert "✗ refused" in sites.text
    over = f"It cannot go on without northside; %privnb result {run.id[:8]} says why"
    ended = f"The run is over; %privnb result {run.id[:8]} says why"
    assert sites.text.count(over) + sites.text.count(ended) == 2
    sites.run("%privnb result model")
    assert sites.error.code == "E_DENIED"
    assert sites.error.message == "northside takes no part: Denied: too many rounds."


@pytest.mark.parametrize("hopeless", [False, True])
def test_people_are_waited_for_only_while_they_can_change_something(hopeless):
    run = SimpleNamespace(
        computation=SimpleNamespace(kind="python"),
        progress=SimpleNamespace(state="joining"),
        standings=[
            SimpleNamespace(state="refused", in_review=False),
            SimpleNamespace(state="waiting for review", in_review=True),
        ],
        hopeless=hopeless,
    )
    assert Watching(run, live=False, cancels=False).needs_people is not hopeless


def test_a_denial_without_which_enough_sites_are_left_is_shown_beside_who_still_decides(sites):
    by_name = sites.datasite.by_name
    for site in by_name.values():
        site.deciding = True
        site.min_sites, site.offer = 2, {"min_sites": 2}
    sites.run(f"%%federated model {ASK} --rounds 2\n{APP}")
    by_name["northside"].decide(DENIED)
    sites.run("%privnb result model model")
    assert sites.error is None
    assert "model: waiting for review at riverside; waiting for review at lakeside" in sites.text
    assert "northside is out: Denied: too many rounds. Ask for fewer." in sites.text
    sites.run("%privnb requests")
    assert "cannot go on" not in sites.text
    for name in ("riverside", "lakeside"):
        by_name[name].decide()
    sites.run("%privnb result model model")
    assert sites.error is None
    assert sites.shell.user_ns["model"].problems["northside"].code == "E_DENIED"


# Models of ours


@pytest.mark.parametrize("magic", ["%federated {}", "%%federated {}\n# no code is needed\n"])
def test_a_model_needs_no_code(sites, magic):
    for site in sites.datasite.by_name.values():
        site.exact["rows"] = []
    line = f"{ASK} {MODEL} --epsilon 2 --rounds 6 --no-wait"
    run = sites.run(magic.format(line))
    assert sites.error is None
    assert isinstance(run, FederatedRun)
    computation = asked(sites)
    assert computation.kind == "model"
    assert computation.federation.rounds == 6
    assert '"features":["plan_type"]' in computation.source


@pytest.mark.parametrize("listed", ["plan_type, xage", "plan_type , xage", "'plan_type, xage'"])
def test_features_may_have_spaces_between_them(sites, listed):
    said = MODEL.replace("plan_type", listed)
    sites.run(f"%federated {ASK} {said} --epsilon 2 --dry-run")
    assert "feature or more" not in str(sites.error)
    assert "no place for" not in str(sites.error)


def test_a_dry_run_of_a_model_tells_its_price(sites):
    estimates = sites.run(f"%federated {ASK} {MODEL} --epsilon 2 --dry-run")
    assert isinstance(estimates, Estimates)
    assert sites.error is None


# Waiting


@pytest.fixture
def front_end(sites):
    """A front end that can replace what it shows, as a kernel's can."""
    sites.shell.kernel = object()
    yield sites
    del sites.shell.kernel


def shown(notebook, cell, *, then):
    """Run a cell; once it shows something, do something else. Return all that it shows."""
    publisher, outputs = notebook.shell.display_pub, []

    class Recorder(type(publisher)):
        def publish(self, data, *, update=False, **more):
            outputs.append((data, update))
            if len(outputs) == 1:
                then()

    notebook.magics.progress_after = 0.05
    notebook.shell.display_pub = Recorder(shell=notebook.shell)
    try:
        notebook.error = notebook.shell.run_cell(cell).error_in_exec
    finally:
        notebook.shell.display_pub = publisher
    return outputs


def test_a_slow_run_shows_a_live_view_which_is_replaced_by_one_that_can_be_saved(front_end, held):
    cell = f"%%federated model {ASK} --rounds 3\n{APP}"
    live, *_, saved, line = [data for data, _ in shown(front_end, cell, then=held.set)]
    assert "application/vnd.jupyter.widget-view+json" in live
    assert set(saved) == {"text/html", "text/plain"}
    assert "3 of 3 rounds done" in saved["text/plain"]
    assert "data:image/png;base64," in saved["text/html"]
    assert line["text/plain"].startswith("model: 1 array after 3 rounds")


def test_a_terminal_gets_text_at_the_beginning_and_at_the_end(sites, held):
    cell = f"%%federated model {ASK} --rounds 3\n{APP}"
    outputs = shown(sites, cell, then=held.set)
    first, *_, last, line = [data["text/plain"] for data, _ in outputs]
    assert first.startswith("Run ")
    assert all(site in first for site in ("northside", "riverside", "lakeside"))
    assert "3 of 3 rounds done" in last
    assert line.startswith("model: 1 array after 3 rounds")


def test_a_quick_run_shows_nothing_but_its_release(front_end):
    front_end.magics.progress_after = 60
    front_end.run(f"%%federated {ASK} --epsilon 1\n{SQL}")
    (release,) = front_end.outputs
    assert "Total of all sites" in release.data["text/html"]


def interrupt():
    # Where the tests were started in the background, Python was told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_lets_the_run_go_on_and_says_how_to_get_it(front_end, held):
    cell = f"%%federated model {ASK} --rounds 2\n{APP}"
    *_, (saved, _) = shown(front_end, cell, then=interrupt)
    assert isinstance(front_end.error, ResultPending)
    assert "goes on in the background" in front_end.error.message
    assert "%privnb cancel" in front_end.error.hint
    assert "%privnb result" in saved["text/plain"]
    line = front_end.error.hint.partition("Get it with ")[2].partition(",")[0]
    assert line.endswith(" model")
    held.set()
    front_end.run(line)
    assert front_end.error is None
    assert front_end.shell.user_ns["model"].history["round"].tolist() == [1, 2]


def test_an_interrupt_cancels_where_that_was_asked_for(sites, held):
    cell = f"%%federated model {ASK} --rounds 40 --on-interrupt cancel\n{APP}"
    *_, last = shown(sites, cell, then=interrupt)
    assert sites.error.code == "E_CANCELLED"
    assert "the run was given up" in sites.error.message
    assert "given up" in last[0]["text/plain"]
    held.set()
    for site in sites.datasite.by_name.values():
        site.stop()
        assert site.ended is False


def test_an_interrupt_while_it_is_sent_says_that_some_sites_may_have_it(sites):
    sites.run(f"%%federated {ASK} --epsilon 1 --dry-run\n{SQL}")
    for site in sites.datasite.by_name.values():
        site.take_job = lambda name, files: interrupt()
    sites.run(f"%%federated {ASK} --epsilon 1\n{SQL}")
    assert sites.error.code == "E_INTERRUPTED"
    assert "some sites may have it already" in sites.error.message
    assert "%privnb requests" in sites.error.hint


def test_when_time_is_over_the_run_lives_on(sites, held):
    sites.run(f"%%federated model {ASK} --rounds 2 --timeout 0.05\n{APP}")
    assert isinstance(sites.error, ResultPending)
    assert "After 0.05 seconds" in sites.error.message


def test_a_run_can_be_given_up_by_its_id(sites, held):
    run = sites.run(f"%%federated {ASK} --rounds 40 --no-wait\n{APP}")
    sites.run(f"%privnb cancel {run.id[:8]}")
    assert "given up, and its sites are told" in sites.text
    assert run.progress.state == "cancelled"


def test_another_kernel_goes_on_with_a_run_by_its_id(sites, held, tmp_path):
    run = sites.run(f"%%federated {ASK} --rounds 2 --no-wait\n{APP}")
    run.stop()
    sites.magics.session = together.new_kernel(sites.datasite, tmp_path / "home")
    sites.magics._runs.clear()
    held.set()
    release = sites.run(f"%privnb result {run.id[:8]}")
    assert sites.error is None
    assert release.history["round"].tolist() == [1, 2]


def test_requests_list_a_run_with_how_to_go_on_with_it(sites, held):
    run = sites.run(f"%%federated {ASK} --rounds 2 --no-wait\n{APP}")
    sites.run("%privnb requests")
    assert sites.text.count("joined") == 3
    assert f"%privnb result {run.id[:8]}" in sites.text


# Mistakes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{ASK} --epsilon 1 --rounds 3\n{SQL}", "--rounds has no meaning for totals in SQL"),
        (f"{ASK} --epsilon 1 --table visits\n{SQL}", "SQL names its table itself"),
        (f"{ASK} --strategy fedavg\n{SQL}", "--strategy has no meaning for totals"),
        (f"{ASK} --target mdvis\n{SQL}", "--target has no meaning for totals in SQL: it is for --"),
        (f"{ASK} --epsilon 1 --rounds 3\n{APP}", "--epsilon has no meaning for a Flower app"),
        (f"{ASK} --features a --rounds 3\n{APP}", "--features has no meaning for a Flower app"),
        (f"{ASK}\n{APP}", "add --rounds N"),
        (f"{ASK} --rounds many\n{APP}", "invalid int value: 'many'"),
        (f"{ASK} --rounds 3 --strategy-option eta\n{APP}", "takes NAME=VALUE, not 'eta'"),
        (f"{ASK} {MODEL} --strategy fedavg\n#\n", "--strategy has no meaning for --model"),
        (f"{ASK} {MODEL} --param year\n#\n", "--param has no meaning for --model"),
        (f"{ASK} {MODEL} --epsilon 1\n{SQL}", "--model takes no code"),
        (f"{ASK} --model linear --table visits\n#\n", "needs --target COL and --features A,B."),
        (f"{ASK} {MODEL} --table panel\n#\n", "one table; name it once"),
        (f"{ASK} --model forest\n#\n", "invalid choice: 'forest'"),
        (f"{ASK} --epsilon 1 --mock --dry-run\n{SQL}", "exclude each other"),
        (f"{ASK} --epsilon 1 --dry-run --timeout 3\n{SQL}", "--timeout has no meaning"),
        (f"{ASK} --round 3\n{APP}", "no option --round. Did you mean --rounds?"),
        ("--site northside,riverside --rounds 3\n#", "--site northside --site riverside"),
        (f"{ASK} --epsilon 1", "line magic %federated (single %)"),
    ],
)
def test_grammar_is_a_usage_error(sites, line, said):
    sites.run(f"%%federated {line}")
    assert isinstance(sites.error, UsageError)
    assert said in str(sites.error)
    assert all(s.action == "describe" for s in sites.datasite.by_name["northside"].submissions)


def test_without_a_cell_only_models_can_be_asked_for(sites):
    sites.run(f"%federated {ASK} --epsilon 1")
    assert isinstance(sites.error, UsageError)
    assert "write %%federated" in str(sites.error)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (f"{SITES} --epsilon 1\n{SQL}", "No purpose was given", "Add --purpose"),
        (f"{ASK}\n{SQL}", "No epsilon was given", "Add --epsilon 1"),
        (
            f"--site northside --site riverside --epsilon 1 --purpose p\n{SQL}",
            "at least 3",
            "--site",
        ),
        (f"{ASK} --rounds 3 --strategy $mine\n{APP}", "no variable 'mine'", "mine = FedAvg()"),
        (f"{ASK} --rounds 3 --strategy krum\n{APP}", "Krum cannot work here", "fedavg"),
        (f"{ASK} --rounds 3\nx = 1\n", "assigns 'app', the Flower app", "app = ClientApp()"),
        (f"{ASK} --rounds 3\nx = (\n", "Line 1 of the cell is not Python", "The line reads"),
    ],
)
def test_meaning_is_an_error_with_a_hint(sites, line, message, hint):
    sites.run(f"%%federated {line}")
    assert isinstance(sites.error, PrivnbError)
    assert message in sites.error.message
    assert hint in sites.error.hint
    assert len(sites.error._render_traceback_()) == 2


def test_help_names_the_three_forms(sites):
    text = sites.shell.magics_manager.magics["cell"]["federated"].__doc__
    for words in ("Totals:", "Training:", "--model, --target", "%federated with a single %"):
        assert words in text
    for words in ("sets `app`", "`initial`, the arrays", "proximal-mu=0.1", "each round begins"):
        assert words in text


def test_the_strategies_offered_are_those_there_are():
    from privnb.federated.strategies import NAMES
    from privnb.magics.federated import STRATEGIES

    assert set(STRATEGIES) == set(NAMES)
