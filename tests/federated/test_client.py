"""An analyst's app at a site: what it is given, what is read of its reply, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("flwr")

from privnb.federated.client import Client, rehearse
from privnb.federated.faults import Faulty
from privnb.federated.flower import (
    ArrayRecord,
    ClientApp,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from privnb.federated.messages import ArrayForm, Work

VISITS = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [1.0, 3.0, 5.0, 7.0]})
FORMS = (
    ArrayForm(name="slope", dtype="float64", shape=(1,)),
    ArrayForm(name="intercept", dtype="float32", shape=()),
)
TRAIN = Work(kind="train", round=3, arrays=FORMS, config={"lr": 0.1, "tags": ["a", "b"]})
EVALUATE = Work(kind="evaluate", round=3, arrays=FORMS)
ZEROS = [np.zeros(1), np.zeros((), np.float32)]


def records(arrays=None, **metrics):
    arrays = {"slope": [0.5], "intercept": 0.25} if arrays is None else arrays
    named = {name: flat(value) for name, value in arrays.items()}
    metrics = {"num-examples": 4} | metrics
    return {"arrays": ArrayRecord(named), "metrics": MetricRecord(metrics)}


def flat(value):
    from privnb.federated.flower import Array

    return Array(np.asarray(value))


def client_that(replies, *, mods=None):
    """A client whose app answers to everything what a function makes of message and context."""
    app = ClientApp(mods=mods)
    app.train()(replies)
    app.evaluate()(replies)
    return Client(app, tables={"visits": VISITS}, parameters={"rate": 0.5, "wards": ["a"]})


def client_saying(content):
    return client_that(lambda message, context: Message(RecordDict(content), reply_to=message))


def fault_of(client, work=TRAIN):
    with pytest.raises(Faulty) as caught:
        client.step(work, ZEROS)
    return caught.value.fault


def test_an_app_finds_tables_parameters_arrays_config_and_round():
    seen = {}

    def look(message, context):
        seen.update(context.run_config, table=context.node_config["tables"]["visits"])
        seen.update(message.content["config"], round=message.metadata.group_id)
        seen["arrays"] = [a.shape for a in message.content["arrays"].to_numpy_ndarrays()]
        seen["names"] = list(message.content["arrays"])
        return Message(RecordDict(records()), reply_to=message)

    client_that(look).step(TRAIN, ZEROS)
    assert seen.pop("table").equals(VISITS)
    assert seen == {
        "rate": 0.5,
        "wards": ["a"],
        "lr": 0.1,
        "tags": ["a", "b"],
        "round": "3",
        "arrays": [(1,), ()],
        "names": ["slope", "intercept"],
    }


def test_arrays_come_back_in_the_order_of_the_work_with_metrics_and_weight():
    replied = client_saying(records({"intercept": 0.25, "slope": [0.5]}, loss=2.5)).step(
        TRAIN, ZEROS
    )
    assert [array.tolist() for array in replied.arrays] == [[0.5], 0.25]
    assert (replied.metrics, replied.weight) == ({"loss": 2.5}, 4.0)


def test_another_weight_is_used_where_the_strategy_says_so():
    work = Work(kind="evaluate", round=1, weighted_by="patients")
    replied = client_saying(records(patients=9)).step(work, [])
    assert (replied.metrics, replied.weight) == ({"num-examples": 4.0}, 9.0)


def test_records_may_have_any_name_where_there_is_one_of_each_kind():
    content = records()
    renamed = {"model": content["arrays"], "numbers": content["metrics"]}
    assert client_saying(renamed).step(TRAIN, ZEROS).weight == 4
    renamed["more"] = MetricRecord({"n": 1})
    assert fault_of(client_saying(renamed)) == "reply"
    assert client_saying(renamed | {"metrics": content["metrics"]}).step(TRAIN, ZEROS).weight == 4


def test_to_evaluate_no_arrays_come_back():
    assert client_saying(records()).step(EVALUATE, ZEROS).arrays == []
    assert client_saying({"metrics": MetricRecord({"num-examples": 1})}).step(EVALUATE, ZEROS)


def test_state_is_kept_from_step_to_step():
    def count(message, context):
        before = context.state.get("steps", {"n": 0})["n"]
        context.state["steps"] = MetricRecord({"n": before + 1})
        return Message(RecordDict(records(before=before)), reply_to=message)

    client = client_that(count)
    assert [client.step(TRAIN, ZEROS).metrics["before"] for _ in range(3)] == [0, 1, 2]


def test_mods_of_the_app_and_of_a_function_are_called():
    called = []

    def mod_named(name):
        def mod(message, context, call_next):
            called.append(name)
            return call_next(message, context)

        return mod

    app = ClientApp(mods=[mod_named("app")])

    @app.train(mods=[mod_named("function")])
    def train(message, context):
        return Message(RecordDict(records()), reply_to=message)

    Client(app, tables={}, parameters={}).step(TRAIN, ZEROS)
    assert called == ["app", "function"]


def test_a_model_of_scikit_learn_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.SGDRegressor(random_state=0, eta0=0.05, learning_rate="constant")

    def fit(message, context):
        rows = context.node_config["tables"]["visits"]
        slope, intercept = message.content["arrays"].to_numpy_ndarrays()
        model.coef_, model.intercept_ = slope.copy(), np.atleast_1d(intercept).astype(float)
        model.partial_fit(rows[["x"]].to_numpy(), rows.y)
        arrays = {"slope": model.coef_, "intercept": model.intercept_[0]}
        return Message(RecordDict(records(arrays)), reply_to=message)

    client, arrays = client_that(fit), ZEROS
    for _ in range(300):
        arrays = client.step(TRAIN, arrays).arrays
    assert float(arrays[0][0]) == pytest.approx(2, abs=0.05)
    assert float(arrays[1]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("app", [None, ClientApp, {"train": 1}])
def test_code_without_an_app_is_refused(app):
    with pytest.raises(Faulty, match="no app"):
        Client(app, tables={}, parameters={})


def test_a_function_that_is_missing_is_named():
    empty = Client(ClientApp(), tables={}, parameters={})
    assert fault_of(empty) == "no train"
    assert fault_of(empty, EVALUATE) == "no evaluate"
    older = Client(ClientApp(client_fn=lambda context: None), tables={}, parameters={})
    assert fault_of(older) == "no train"


@pytest.mark.parametrize(
    "reply",
    [
        lambda message, context: None,
        lambda message, context: {"arrays": [1]},
        lambda message, context: Message(Error(1, "no"), reply_to=message),
        lambda message, context: Message(RecordDict(), reply_to=message),
        lambda message, context: Message(RecordDict({"a": ConfigRecord()}), reply_to=message),
    ],
)
def test_what_is_no_reply_is_refused(reply):
    assert fault_of(client_that(reply)) == "reply"


def test_a_reply_to_train_without_arrays_is_refused():
    assert fault_of(client_saying({"metrics": MetricRecord({"num-examples": 1})})) == "reply"


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"slope": [0.5]},
        {"slope": [0.5], "other": 0.25},
        {"slope": [0.5], "intercept": 0.25, "rows": [1.0]},
        {"slope": [[0.5]], "intercept": 0.25},
        {"slope": [0.5], "intercept": [0.25]},
        {"slope": [1j], "intercept": 0.25},
        {"slope": ["0.5"], "intercept": 0.25},
        {"slope": np.array(["2020-01-01"], "M8[D]"), "intercept": 0.25},
    ],
)
def test_arrays_that_are_not_those_of_the_work_are_refused(arrays):
    assert fault_of(client_saying(records(arrays))) == "arrays"


def test_two_arrays_of_one_name_are_refused():
    work = Work(kind="train", round=1, arrays=(FORMS[0], FORMS[0]))
    assert fault_of(client_saying(records()), work) == "arrays"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(wrong):
    assert fault_of(client_saying(records({"slope": [wrong], "intercept": 0}))) == "not finite"
    assert fault_of(client_saying(records(loss=wrong))) == "not finite"
    assert fault_of(client_saying(records(**{"num-examples": wrong}))) == "not finite"
    assert fault_of(client_saying(records(loss=10**400))) == "not finite"


def test_a_weight_must_be_there_and_positive():
    missing = records()
    del missing["metrics"]["num-examples"]
    assert fault_of(client_saying(missing)) == "weight"
    for wrong in (0, -1, 0.0, [4]):
        assert fault_of(client_saying(records(**{"num-examples": wrong}))) == "weight"


def test_a_list_of_metrics_is_refused():
    assert fault_of(client_saying(records(losses=[1.0, 2.0]))) == "metrics"


def test_what_an_app_raises_comes_through():
    def fail(message, context):
        raise KeyError("row 7")

    with pytest.raises(KeyError):
        client_that(fail).step(TRAIN, ZEROS)


def test_it_can_be_rehearsed_before_there_is_data():
    rehearse()
