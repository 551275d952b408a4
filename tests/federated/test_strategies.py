"""Flower's strategies on sums alone: the same numbers as from single replies, or a refusal."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from in_process import arrays_of, vector_of

from privnb.errors import QueryRefused, StateError, UnknownName
from privnb.federated import flower, strategies
from privnb.federated.conductor import Summed
from privnb.federated.grid import SumGrid

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flwr_strategies
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian

SITES = ("northside", "riverside", "lakeside")
OPTIONS = {
    "fedavg": {},
    "fedprox": {"proximal-mu": "0.5"},
    "fedavgm": {"server_momentum": "0.9", "server-learning-rate": "0.5"},
    "fedadagrad": {"eta": "0.3"},
    "fedadam": {"eta": "0.3", "beta-1": "0.8"},
    "fedyogi": {"eta": "0.3"},
}
ROUNDS = 4


def trained(site, arrays):
    """What one site makes of arrays: something of its own, weighted by its size."""
    rng = np.random.default_rng(site)
    return [array * 0.5 + rng.normal(size=array.shape) for array in arrays], 10.0 * (site + 1)


def loss(arrays):
    return float(sum(np.sum(array**2) for array in arrays))


def summed_over(sites):
    """Have sites train, and return their sum, as the conductor does."""

    def summed(work, blob):
        total = 0
        for site in range(sites):
            arrays, weight = trained(site, arrays_of(work, blob))
            names = [form.name for form in work.arrays]
            if work.kind == "evaluate":
                arrays, names = [], []
            metrics = {"loss": loss(arrays)}
            vector, form = vector_of(arrays, metrics, weight, parties=sites, names=names)
            total = total + vector
        return Summed(total=total, form=form, sites=SITES, seconds=0.0)

    return summed


def grid_of(sites=3, summed=None):
    flower.identify()
    return SumGrid(
        sites=sites, rounds=ROUNDS, weighted_by="num-examples", summed=summed or summed_over(sites)
    )


def initial():
    return ArrayRecord({"w": Array(np.zeros(3)), "b": Array(np.zeros(()))})


def on_sums(strategy, *, until=ROUNDS, start=1, arrays=None):
    """Do the rounds of a strategy through the grid."""
    grid, arrays = grid_of(), arrays or initial()
    for number in range(start, until + 1):
        grid.round = number
        with strategies.quiet():
            sent = strategy.configure_train(number, arrays, ConfigRecord(), grid)
            arrays, metrics = strategy.aggregate_train(number, grid.send_and_receive(sent))
    return arrays, metrics


def on_replies(strategy):
    """Do the same as Flower does, with one reply of each site."""
    grid, arrays = grid_of(), initial()
    for number in range(1, ROUNDS + 1):
        with strategies.quiet():
            sent = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
            replies = []
            for site, message in enumerate(sent):
                given = message.content["arrays"]
                new, weight = trained(site, given.to_numpy_ndarrays())
                named = dict(zip(given, map(Array, map(np.asarray, new)), strict=True))
                metrics = MetricRecord({"loss": loss(new), "num-examples": weight})
                content = RecordDict({"arrays": ArrayRecord(named), "metrics": metrics})
                replies.append(Message(content, reply_to=message))
            arrays, metrics = strategy.aggregate_train(number, replies)
    return arrays, metrics


@pytest.mark.parametrize("name", strategies.NAMES)
def test_a_strategy_makes_of_one_sum_what_it_makes_of_single_replies(name):
    mine = strategies.prepare(strategies.made(name, OPTIONS[name]), sites=3)
    theirs = strategies.made(name, OPTIONS[name])
    arrays, metrics = on_sums(mine)
    expected, expected_metrics = on_replies(theirs)
    assert list(arrays) == list(expected)
    for key in arrays:
        # fixed point is off by 2**-25 for each number, weight and round
        np.testing.assert_allclose(arrays[key].numpy(), expected[key].numpy(), atol=1e-5)
    assert dict(metrics) == pytest.approx(dict(expected_metrics), abs=1e-5)


@pytest.mark.parametrize("name", strategies.NAMES)
def test_a_strategy_goes_on_from_what_it_remembered_as_if_nothing_had_been(name):
    whole, _ = on_sums(strategies.made(name, OPTIONS[name]))
    first = strategies.made(name, OPTIONS[name])
    arrays, _ = on_sums(first, until=2)
    kept = {key: value.copy() for key, value in strategies.remembered(first).items()}
    later = strategies.made(name, OPTIONS[name])
    strategies.restore(later, kept)
    resumed, _ = on_sums(later, start=3, arrays=arrays)
    for key in whole:
        np.testing.assert_array_equal(whole[key].numpy(), resumed[key].numpy())


def test_what_another_strategy_remembered_is_not_taken():
    adam = strategies.made("fedadam", {})
    on_sums(adam, until=1)
    with pytest.raises(StateError, match="another strategy than FedAvg"):
        strategies.restore(strategies.made("fedavg", {}), strategies.remembered(adam))


@pytest.mark.parametrize("name", sorted(strategies._REFUSED))
def test_a_strategy_that_looks_at_single_sites_is_refused_with_the_reason(name):
    with pytest.raises(QueryRefused, match=name) as by_name:
        strategies.made(name, {})
    assert by_name.value.code == "E_STRATEGY"
    kind = getattr(flwr_strategies, name)
    instance = kind.__new__(kind)
    with pytest.raises(QueryRefused, match="only the sum over all sites is ever seen"):
        strategies.prepare(instance, sites=3)


def test_every_strategy_of_flower_is_known_or_refused():
    kinds = set(flwr_strategies.__all__) - {"Result", "Strategy"}
    assert {name.lower() for name in kinds - set(strategies._REFUSED)} == set(strategies.NAMES)


def test_a_class_derived_from_a_refused_one_is_refused_too():
    class Mine(FedMedian):
        pass

    with pytest.raises(QueryRefused, match="Mine"):
        strategies.prepare(Mine(), sites=3)


def test_a_class_of_the_analyst_sees_one_reply_that_stands_for_all():
    seen = []

    class Mine(FedAvg):
        def aggregate_train(self, server_round, replies):
            (reply,) = replies
            seen.append(reply.content["metrics"]["num-examples"])
            return super().aggregate_train(server_round, replies)

    on_sums(strategies.prepare(Mine(), sites=3), until=1)
    assert seen == [60.0]


def test_what_is_no_strategy_is_refused():
    with pytest.raises(QueryRefused, match="none of Flower's"):
        strategies.prepare(object(), sites=3)


def test_an_unknown_name_and_an_unknown_option_say_what_was_probably_meant():
    with pytest.raises(UnknownName) as unknown:
        strategies.made("fedadm", {})
    assert "Did you mean 'fedadam'" in unknown.value.hint
    with pytest.raises(UnknownName) as unknown:
        strategies.made("fedadam", {"beta_3": "1"})
    assert "Did you mean 'beta_" in unknown.value.hint


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("eta", "fast", "must be a number"),
        ("eta", "nan", "must be a number"),
        ("fraction_train", "0.5", "every site is in every round"),
        ("min-train-nodes", "2", "cannot be chosen"),
        ("weighted-by-key", "loss", "num-examples alone"),
        ("fraction_evaluate", "0.5", "1 .all sites. or 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option, text, said):
    with pytest.raises(QueryRefused, match=said):
        strategies.made("fedadam", {option: text})


def test_an_instance_that_picks_sites_is_refused_and_minima_are_adapted():
    with pytest.raises(QueryRefused, match="every site is in every round"):
        strategies.prepare(FedAvg(fraction_train=0.5), sites=3)
    with pytest.raises(QueryRefused, match="num-examples alone"):
        strategies.prepare(FedAvg(weighted_by_key="loss"), sites=3)
    strategy = strategies.prepare(FedAvg(min_train_nodes=7, min_available_nodes=9), sites=3)
    assert (strategy.min_train_nodes, strategy.min_available_nodes) == (3, 3)


def test_a_strategy_is_told_in_words():
    strategy = strategies.made("fedavgm", {"server-momentum": "0.9"})
    assert strategies.words(strategy) == "FedAvgM(server_learning_rate=1, server_momentum=0.9)"
    assert strategies.words(FedAdam(eta=0.01)).startswith("FedAdam(beta_1=0.9, ")


def test_flower_logs_nothing_of_a_run_but_others_may(caplog):
    with caplog.at_level(logging.INFO, logger="flwr"):
        on_sums(strategies.made("fedavg", {}), until=1)
        assert not caplog.records
        logging.getLogger("flwr").info("shown")
        assert [record.message for record in caplog.records] == ["shown"]


# The grid


def one(content, node, kind="train"):
    return Message(content, node, kind)


def contents(**records):
    return RecordDict({"arrays": initial(), "config": ConfigRecord(), **records})


def test_messages_that_differ_between_sites_are_refused():
    grid = grid_of()
    other = contents(config=ConfigRecord({"lr": 2.0}))
    nodes = list(grid.get_node_ids())
    messages = [one(contents(), nodes[0]), one(contents(), nodes[1]), one(other, nodes[2])]
    with pytest.raises(QueryRefused, match="different things"):
        grid.send_and_receive(messages)


def test_messages_that_leave_a_site_out_are_refused():
    grid = grid_of()
    nodes = list(grid.get_node_ids())
    with pytest.raises(QueryRefused, match="leaves sites out"):
        grid.send_and_receive([one(contents(), node) for node in nodes[:2]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (RecordDict({"model": initial()}), "arrayrecord_key"),
        (RecordDict({"arrays": initial(), "settings": ConfigRecord()}), "configrecord_key"),
        (contents(config=ConfigRecord({"key": b"secret"})), "bytes"),
        (RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2, "float16"))})}), "float16"),
    ],
)
def test_messages_that_apps_would_not_find_are_refused(content, said):
    grid = grid_of()
    with pytest.raises(QueryRefused) as refused:
        grid.send_and_receive([one(content, node) for node in grid.get_node_ids()])
    assert said in f"{refused.value.message} {refused.value.hint}"


def test_nothing_goes_to_one_site_alone():
    grid = grid_of()
    with pytest.raises(QueryRefused, match="single sites"):
        grid.push_messages([])
    with pytest.raises(QueryRefused, match="single sites"):
        grid.pull_messages([])


def test_the_reply_has_the_summed_weight_and_the_types_of_the_arrays():
    def summed(work, blob):
        vector, form = vector_of(
            [np.ones(2, "float32"), np.ones(2)], {"loss": 3.0}, 4.0, parties=1, names=["a", "b"]
        )
        return Summed(total=vector, form=form, sites=SITES, seconds=0.0)

    grid = grid_of(summed=summed)
    (reply,) = grid.send_and_receive([one(contents(), node) for node in grid.get_node_ids()])
    assert dict(reply.content["metrics"]) == {"loss": 3.0, "num-examples": 4.0}
    assert [array.numpy().dtype.name for array in reply.content["arrays"].values()] == [
        "float32",
        "float64",
    ]


def test_no_message_means_no_round():
    assert grid_of().send_and_receive([]) == []
