"""Training over sites comes to the coefficients of all their data, through the masks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from together import PURPOSE, open_exchange

SITES = ("northside", "riverside", "lakeside")
CELL = """
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

def design(context):
    table = context.node_config["tables"]["visits"]
    x = (table[features].to_numpy(float) - middle) / scale
    return np.column_stack([np.ones(len(x)), x]), table[target].to_numpy(float)

@app.train()
def train(msg, context):
    x, y = design(context)
    (w,) = msg.content["arrays"].to_numpy_ndarrays()
    z = x @ w
    mean = np.exp(z) if link == "log" else 1 / (1 + np.exp(-z))
    gradient = x.T @ (mean - y) / len(y)
    metrics = MetricRecord({"gradient": float(abs(gradient).max()), "num-examples": len(y)})
    content = {"arrays": ArrayRecord([w - rate * gradient]), "metrics": metrics}
    return Message(RecordDict(content), reply_to=msg)

initial = [np.zeros(len(features) + 1)]
"""


def randhie():
    """The Health Insurance Experiment, sorted so that the sites' people differ."""
    from statsmodels.datasets import randhie as data

    table = data.load_pandas().data.astype(float)
    table["any"] = (table["mdvis"] > 0).astype(float)
    return table.sort_values("lncoins", kind="stable").reset_index(drop=True)


def breast_cancer():
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(as_frame=True)
    table = found.data.rename(columns=lambda name: name.replace(" ", "_"))
    table["malignant"] = 1.0 - found.target
    return table


def pooled(table, features, target, link):
    """The coefficients by Newton's method on all rows at once."""
    import statsmodels.api as sm

    family = sm.families.Poisson() if link == "log" else sm.families.Binomial()
    x = sm.add_constant(table[features])
    return sm.GLM(table[target], x, family=family).fit().params.to_numpy()


HEALTH = ["lncoins", "idp", "lpi", "physlm", "disea"]
CELLS = ["mean_texture", "mean_smoothness", "mean_compactness", "mean_symmetry"]


FEDAVG = ("fedavg", {})
MOMENTUM = ("fedavgm", {"server-momentum": "0.8"})


@pytest.mark.parametrize(
    ("load", "features", "target", "link", "rate", "rounds", "strategy"),
    [
        (randhie, HEALTH, "any", "logit", 4.0, 25, FEDAVG),
        (randhie, HEALTH, "mdvis", "log", 0.2, 40, FEDAVG),
        (breast_cancer, CELLS, "malignant", "logit", 4.0, 100, FEDAVG),
        (randhie, HEALTH, "mdvis", "log", 0.15, 80, MOMENTUM),
    ],
    ids=["visits at all", "number of visits", "breast cancer", "with momentum"],
)
def test_sites_together_reach_the_pooled_coefficients_within_a_hundredth(  # noqa: PLR0913, PLR0917
    tmp_path, load, features, target, link, rate, rounds, strategy
):
    """One step of a round at all rows of each site: their weighted mean is a step at all rows."""
    table = load()
    truth = pooled(table, features, target, link)
    middle, scale = table[features].mean().tolist(), table[features].std().tolist()
    session, datasite = open_exchange(tmp_path)
    thirds = np.array_split(np.arange(len(table)), 3)
    for site, rows in zip(datasite.by_name.values(), thirds, strict=True):
        site.tables = {"visits": table.iloc[rows]}
    run = session.train(
        CELL,
        sites=SITES,
        tables=["visits"],
        purpose=PURPOSE,
        rounds=rounds,
        strategy=strategy[0],
        strategy_options=strategy[1],
        params={
            "features": features,
            "target": target,
            "link": link,
            "rate": rate,
            "middle": middle,
            "scale": scale,
        },
    )
    (w,) = run.result(timeout=200).value
    slopes = w[1:] / scale
    found = np.array([w[0] - slopes @ middle, *slopes])
    np.testing.assert_allclose(found, truth, rtol=0.01)
    alone = pooled(
        pd.DataFrame(datasite.by_name["lakeside"].tables["visits"]), *(features, target, link)
    )
    assert not np.allclose(alone, truth, rtol=0.01)  # one site's own data would not do
