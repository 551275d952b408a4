"""What we use of Flower and it does not promise: a new version that changes it fails here."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("flwr")

from privnb.federated import flower  # isort: skip - before anything of Flower
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, strategy
from flwr.supercore.task_identity import TaskIdentity


def asked(content=None, *, kind="train"):
    content = RecordDict() if content is None else content
    return flower.instruction(content, kind=kind, number="7", group="3")


def context():
    return Context(run_id=1, node_id=flower.SITE, node_config={}, state=RecordDict(), run_config={})


def test_flower_neither_calls_home_nor_looks_for_updates():
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    said = "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    out = subprocess.run(
        [sys.executable, "-c", f"import privnb.federated.flower\n{said}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == "0"


def test_importing_flower_starts_no_thread_and_opens_no_socket():
    code = """
import socket, sys, threading
import numpy
class Refused(socket.socket):
    def __init__(self, *_, **__): raise SystemExit("a socket")
socket.socket = Refused
import privnb.federated.flower, flwr.clientapp.mod, flwr.serverapp.strategy
print(threading.active_count())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"


def test_an_instruction_is_made_without_the_identity_of_the_process():
    code = """
from privnb.federated import flower
from flwr.app import Message, RecordDict
m = flower.instruction(RecordDict(), kind="train", number="7", group="3")
print(m.metadata.message_type, Message(RecordDict(), reply_to=m).metadata.reply_to_message_id)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["train", "7"]


def test_an_instruction_has_every_field_of_its_metadata():
    flower.identify(1)
    ours = asked().metadata
    theirs = Message(RecordDict(), flower.SITE, "train", group_id="3").metadata
    assert set(ours.__dict__) == set(theirs.__dict__)
    assert (ours.run_id, ours.src_node_id) == (theirs.run_id, theirs.src_node_id)
    assert (ours.dst_node_id, ours.group_id, ours.ttl) == (flower.SITE, "3", theirs.ttl)


def test_a_reply_is_bound_to_the_instruction():
    reply = Message(RecordDict({"metrics": MetricRecord({"loss": 0.5})}), reply_to=asked())
    assert reply.metadata.reply_to_message_id == "7"
    assert reply.metadata.dst_node_id == flower.SERVER
    assert reply.metadata.src_node_id == flower.SITE
    assert reply.has_content()
    assert not Message(Error(0, "no"), reply_to=asked()).has_content()


def test_an_app_is_called_with_message_and_context():
    app = ClientApp()

    @app.train()
    def train(message, context):
        context.state["seen"] = MetricRecord({"rounds": 1})
        return Message(message.content, reply_to=message)

    content = RecordDict({"arrays": ArrayRecord([np.ones(2)]), "config": ConfigRecord({"lr": 0.1})})
    state = context()
    reply = app(asked(content), state)
    (record,) = reply.content.array_records.values()
    assert list(record) == ["0"]
    assert record["0"].numpy().tolist() == [1, 1]
    assert (record["0"].dtype, record["0"].shape) == ("float64", (2,))
    assert state.state["seen"]["rounds"] == 1


def test_what_an_app_can_do_is_known_beforehand():
    app = ClientApp()
    app.train()(lambda message, context: None)
    assert flower.has_function(app, "train")
    assert not flower.has_function(app, "evaluate")
    with pytest.raises(ValueError, match="evaluate"):
        app(asked(kind="evaluate"), context())
    assert not flower.has_function(ClientApp(client_fn=lambda context: None), "train")


def test_metrics_are_numbers_or_lists_of_them():
    assert isinstance(MetricRecord({"loss": np.float64(1)})["loss"], float)
    assert MetricRecord({"losses": [1.0, 2.0]})["losses"] == [1.0, 2.0]
    for wrong in ("text", True, None, np.float32(1)):
        with pytest.raises(TypeError):
            MetricRecord({"loss": wrong})


def test_a_grid_is_what_ours_implements():
    assert Grid.__abstractmethods__ == {
        "create_message",
        "get_node_ids",
        "pull_messages",
        "push_messages",
        "run",
        "send_and_receive",
        "set_run",
    }
    assert flower.run_named(3).run_id == 3


def test_strategies_make_their_messages_under_our_identity():
    flower.identify(9)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (9, 1, 1)
    content = RecordDict({"arrays": ArrayRecord([np.ones(1)])})
    (message,) = strategy.FedAvg()._construct_messages(content, [5], "train")
    assert (message.metadata.run_id, message.metadata.dst_node_id) == (9, 5)
    assert "arrays" in inspect.signature(strategy.FedAvg.configure_train).parameters
    flower.identify(1)
