"""In a real kernel: Run All, interrupting, and how long loading takes to import nothing heavy."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CONNECT = f"""
import sys, tempfile
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fake_exchange import open_exchange
session, datasite = open_exchange(tempfile.mkdtemp())
%load_ext privnb
get_ipython().magics_manager.registry["SecureMagics"].connect = lambda **_: session
%privnb connect --email ana@uni.example --exchange shared
"""
TOGETHER = f"""
import sys, tempfile, threading
sys.path.insert(0, {str(Path(__file__).parent.parent / "federated")!r})
import pandas as pd
from together import open_exchange
session, datasite = open_exchange(tempfile.mkdtemp())
go_on = threading.Event()
for site in datasite.by_name.values():
    site.tables = {{"visits": pd.DataFrame({{"y": [1.0, 3.0]}})}}
    site.on["contribute"] = lambda site, ask, *told: go_on.wait() and told
%load_ext privnb
get_ipython().magics_manager.registry["SecureMagics"].connect = lambda **_: session
%privnb connect --email ana@uni.example --exchange shared
%config SecureMagics.progress_after = 0.1
"""
APP = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(msg, context):
    y = context.node_config["tables"]["visits"]["y"]
    content = {
        "arrays": ArrayRecord([np.array([y.mean()])]),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(RecordDict(content), reply_to=msg)

initial = [np.zeros(1)]
"""
ASK = "--site northside --epsilon 1 --purpose utilisation-research"
SQL = "SELECT COUNT(*) FROM visits"


@pytest.fixture
def kernel(tmp_path):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, code, *, meanwhile=lambda: None):
    """Run one cell; `meanwhile` is called as soon as the kernel shows something."""
    request = client.execute(code)
    shown = []
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return shown
        if kind in ("display_data", "update_display_data", "error", "execute_result", "stream"):
            shown.append((kind, content))
        if kind == "display_data" and len(shown) == 1:
            meanwhile()


def test_interrupting_a_cell_detaches_and_the_answer_is_fetched_later(kernel):
    manager, client = kernel
    run(client, CONNECT)
    run(
        client, "datasite.by_name['northside'].delay = 4\n%config SecureMagics.progress_after = 0.1"
    )
    started = time.monotonic()
    shown = run(client, f"%%secure answer {ASK}\n{SQL}", meanwhile=manager.interrupt_kernel)
    assert time.monotonic() - started < 4
    assert "Waiting for an answer" in shown[0][1]["data"]["text/plain"]
    (error,) = [content for kind, content in shown if kind == "error"]
    assert error["ename"] == "ResultPending"
    message, hint = error["traceback"]
    assert "You stopped waiting for northside" in message
    assert hint.endswith(" answer")
    run(client, hint.rpartition(": ")[2])
    ((_, released),) = run(client, "print(answer.sites)")
    assert released["text"] == "('northside',)\n"


def test_interrupting_a_federated_run_leaves_a_table_and_the_run_goes_on(kernel):
    manager, client = kernel
    run(client, TOGETHER)
    sites = "--site northside --site riverside --site lakeside --purpose utilisation-research"
    cell = f"%%federated model {sites} --rounds 3\n{APP}"
    shown = run(client, cell, meanwhile=manager.interrupt_kernel)
    (_, live), *_, (_, saved), (_, error) = shown
    assert "application/vnd.jupyter.widget-view+json" in live["data"]
    assert set(saved["data"]) == {"text/html", "text/plain"}
    assert error["ename"] == "ResultPending"
    message, hint = error["traceback"]
    assert "the run goes on in the background" in message
    run(client, "go_on.set()")
    run(client, hint.partition("Get it with ")[2].partition(",")[0])
    ((_, history),) = run(client, "print(model.history['round'].tolist())")
    assert history["text"] == "[1, 2, 3]\n"


def test_run_all_stops_at_the_first_refusal():
    cells = [CONNECT, f"%%secure {ASK} --param missing\n{SQL}", "after = 1"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=60).execute()
    assert notebook.cells[1].outputs[0]["ename"] == "PrivnbError"
    assert notebook.cells[2].execution_count is None


def test_loading_imports_nothing_heavy(kernel):
    _, client = kernel
    heavy = "{'pandas', 'syft', 'matplotlib.pyplot', 'anywidget', 'duckdb', 'opendp', 'pydantic'}"
    code = f"import sys\n%load_ext privnb\nprint(sorted({heavy} & set(sys.modules)))"
    ((kind, content),) = run(client, code)
    assert (kind, content["text"]) == ("stream", "[]\n")
