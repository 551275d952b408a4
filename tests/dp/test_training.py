"""Models trained on noisy sums. A statistical test fails a correct fit once in a million runs."""

import json
import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privnb.computation import Federation
from privnb.dp.contributions import STEPS, Contributions, Phase, blocks_of
from privnb.dp.fitting import Fit
from privnb.dp.models import ModelSpec, mean_of
from privnb.dp.pieces import piece_scale, proven_loss
from privnb.dp.schema import Bounds, Column, TableSchema
from privnb.dp.training import plan_training, training_difference
from privnb.errors import QueryRefused
from privnb.wire import decode, encode

SITES = ("northside", "riverside", "lakeside")
SPECS = {
    "linear": ModelSpec(model="linear", target="dollars", features=("visits", "plan", "female")),
    "poisson": ModelSpec(model="poisson", target="visits", features=("dollars", "plan", "year")),
    "logistic": ModelSpec(
        model="logistic", target="visits > 2 AND plan = 'free'", features=("dollars", "year")
    ),
}
MODELS = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def federation(rounds=10, **terms):
    return Federation(sites=SITES, threshold=2, rounds=rounds, **terms)


def changed(schema, name, **changes):
    columns = (replace(c, **changes) if c.name == name else c for c in schema.columns)
    return replace(schema, columns=tuple(columns))


@pytest.fixture(scope="session")
def trained(schema_with):
    """Plan a model, with epsilon 1 and ten rounds unless told."""

    def make(spec, schema=None, *, epsilon="1", **terms):
        schema = schema or schema_with()
        return plan_training(
            spec, schema=schema, epsilon=Decimal(epsilon), federation=federation(**terms)
        )

    return make


def train(plan, data, *, lost=(), missing=None):
    """Do all rounds; ``missing`` says by round which site is not there."""
    parameters = plan.start
    for number in range(1, plan.federation.rounds + 1):
        sites = [name for name in data if name != (missing or {}).get(number)]
        shares = [plan.gradient(data[name], parameters, round=number) for name in sites]
        assert {len(share) for share in shares} == {plan.length}
        if number not in lost:
            total = [sum(integers) for integers in zip(*shares, strict=True)]
            parameters = plan.step(total, parameters, round=number, parts=len(sites))
    return parameters


# What one unit can do.

values = st.tuples(
    st.sampled_from(["free", "paid", "gone"]),
    st.sampled_from([None, 1, 2, 3, 9]),
    st.sampled_from([0, 1, 3, 25, 1000, -5]),
    st.sampled_from([None, math.nan, math.inf, -1e300, -10.0, 0.1, 33.3, 100.0, 1e300]),
    st.booleans(),
)
numbers = st.floats(-1e3, 1e3)


def full(person, row):
    plan_, year, visits, dollars, female = row
    return (person, plan_, year, "a", visits, dollars, "2020-02-29", None, female, 0.5)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spec=st.sampled_from(list(SPECS.values())),
    others=st.lists(st.tuples(st.sampled_from("ABC"), values), max_size=8),
    unit=st.lists(values, min_size=1, max_size=7),
    coefficients=st.lists(numbers, min_size=6, max_size=6),
    limit=st.sampled_from([1e-6, 0.3, 5.0, 1e6]),
    most=st.integers(1, 4),
)
def test_one_unit_moves_no_round_by_more_than_its_noise_is_for(  # noqa: PLR0913, PLR0917 - six drawn, three fixtures
    spec, others, unit, coefficients, limit, most, trained, schema_with, database
):
    schema = schema_with(max_rows_per_unit=most)
    plan = trained(spec, schema)
    size = len(plan.design.names)
    around = [full(person, row) for person, row in others]
    before, after = (
        database(rows, schema) for rows in (around, [full("X", row) for row in unit] + around)
    )
    try:
        without, with_unit = (
            Contributions(spec.model, plan.design, plan.prepare(source.run(plan)))
            for source in (before, after)
        )
        for phase in Phase:
            found = (
                each.sums(phase, np.array(coefficients[:size]), limit)
                for each in (with_unit, without)
            )
            for block, one, other in zip(blocks_of(phase, size), *found, strict=True):
                assert one.dtype == np.int64
                assert len(one) == block.size
                moved = sum(int(step) ** 2 for step in one - other)
                assert moved <= block.sensitivity**2 * (1 + 1e-12)
    finally:
        before.close()
        after.close()


def test_the_limit_on_one_unit_is_used_in_full(trained, database):
    plan = trained(SPECS["poisson"])
    rows = plan.prepare(database([full("X", ("paid", 3, 25, 100.0, True))] * 3).run(plan))
    contributions = Contributions("poisson", plan.design, rows)
    sums = contributions.sums(Phase.APPROACH, np.zeros(len(plan.design.names)), 1e-3)[0]
    norm = math.sqrt(sum(int(step) ** 2 for step in sums))
    (block,) = blocks_of(Phase.APPROACH, len(plan.design.names))
    assert block.sensitivity * (1 - 1e-5) < norm <= block.sensitivity


def test_a_units_part_does_not_depend_on_where_its_rows_stand():
    """Vectorised functions may round by place; one unit's part must not."""
    values = np.linspace(-3, 3, 1001)
    whole = mean_of("logistic", values, top=1.0)
    for place in range(0, 1001, 13):
        assert mean_of("logistic", values[place : place + 1], top=1.0)[0] == whole[place]


def test_a_unit_within_the_limit_is_not_shortened(trained, database):
    plan = trained(SPECS["linear"])
    rows = plan.prepare(database([full("X", ("paid", 3, 5, 50.0, True))]).run(plan))
    sums = Contributions("linear", plan.design, rows).sums(
        Phase.REFINE, np.zeros(len(plan.design.names)), 100.0
    )[0]
    expected = -(60 / 110) * STEPS / 100
    assert abs(sums[0] - expected) <= 1
    assert sums[-1] == 0


# The price.


@MODELS
@pytest.mark.parametrize("rounds", [5, 7, 8, 10, 20, 200])
def test_all_rounds_together_cost_no_more_than_the_price(spec, rounds, trained):
    plan = trained(spec, rounds=rounds)
    size = len(plan.design.names)
    assert len(plan.losses) == rounds
    assert min(plan.losses) > 0
    assert sum(plan.losses) <= plan.price.loss
    for phase in Phase:
        blocks = blocks_of(phase, size)
        assert sum(block.share for block in blocks) <= 1
        assert sum(block.size for block in blocks) <= plan.length
        spent = 0.0
        for block in blocks:
            loss = plan.losses[0] * block.share
            scale = piece_scale(loss, block.sensitivity, pieces=2, size=block.size)
            alone = block.sensitivity**2 / (2 * scale**2)
            spent += proven_loss(alone, scale, pieces=2, size=block.size)
        assert spent <= plan.losses[0] * (1 + 1e-12)


def test_more_epsilon_costs_more_and_more_rounds_do_not(trained):
    spec = SPECS["poisson"]
    assert trained(spec, epsilon="1").price.loss < trained(spec, epsilon="2").price.loss
    assert trained(spec, rounds=5).price == trained(spec, rounds=50).price


def test_a_round_has_the_noise_of_all_sites_pieces(trained, database):
    """The tallies of empty sites are noise alone: their spread over many draws is what is told."""
    plan = trained(SPECS["linear"])
    rows = plan.prepare([])
    loss = plan.losses[0]
    (block,) = blocks_of(Phase.SURVEY, len(plan.design.names))
    scale = piece_scale(loss, block.sensitivity, pieces=2, size=block.size)
    draws = np.array(
        [plan.gradient(rows, plan.start, round=1)[: block.size] for _ in range(60)], dtype=float
    )
    # A chi-square with so many degrees of freedom misses by this much once in a million.
    assert abs(draws.var() / scale**2 - 1) < 5 * math.sqrt(2 / draws.size)


# What comes out.


def people(rng, count):
    """Rows of so many people with known coefficients, three each."""
    rows = []
    for person in range(count):
        plan_, female = rng.choice(["free", "paid"]), bool(rng.integers(2))
        for year in (1, 2, 3):
            dollars = float(np.clip(rng.normal(45, 25), -10, 100))
            mean = math.exp(0.4 + 0.012 * dollars - 0.5 * (plan_ == "paid") + 0.2 * (year == 3))
            visits = int(min(rng.poisson(mean), 25))
            rows.append(full(f"{person}", (plan_, year, visits, dollars, female)))
    return rows


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(7)
    return [people(rng, 1200) for _ in SITES]


def pooled(model, rows):
    """Fit without noise, by Newton's method."""
    features = np.vstack([np.column_stack(each.features) for each in rows])
    target = np.concatenate([each.target for each in rows])
    found = np.zeros(features.shape[1])
    for _ in range(50):
        mean = mean_of(model, features @ found, top=25.0)
        weight = {"linear": np.ones_like(mean), "poisson": mean}.get(model, mean * (1 - mean))
        curvature = (features * weight[:, None]).T @ features
        found -= np.clip(np.linalg.solve(curvature, features.T @ (mean - target)), -1, 1)
    return found


@MODELS
@pytest.mark.parametrize("missing", [None, {3: "lakeside", 8: "riverside"}])
def test_a_model_comes_close_to_the_one_that_is_fitted_to_all_rows_at_once(  # noqa: PLR0913, PLR0917 - two given, four fixtures
    spec, missing, known, trained, database, schema_with
):
    plan = trained(spec, schema_with(max_rows_per_unit=3), epsilon="20", rounds=12)
    sources = (database(rows, plan.schema) for rows in known)
    data = dict(zip(SITES, (plan.prepare(source.run(plan)) for source in sources), strict=True))
    matrix, shift = plan.design.own_units
    exact = matrix @ pooled(spec.model, list(data.values())) + shift
    answer = plan.coefficients(train(plan, data, missing=missing))
    assert [row[0] for row in answer.rows] == list(plan.design.names)
    for (name, value), widths, true in zip(answer.rows, answer.half_widths, exact, strict=True):
        assert widths[0] is None
        assert widths[1] is not None, name
        # Three half-widths are six deviations of the noise; clipping and the steps get as much.
        room = 3 * widths[1] + 0.05 * abs(true)
        assert abs(value - true) < room * (1 if missing is None else 2), name


def test_the_coefficients_are_in_the_units_of_the_data(known, trained, database, schema_with):
    plan = trained(SPECS["poisson"], schema_with(max_rows_per_unit=3), epsilon="20", rounds=12)
    data = {
        name: plan.prepare(database(rows, plan.schema).run(plan))
        for name, rows in zip(SITES, known, strict=True)
    }
    found = dict(plan.coefficients(train(plan, data)).rows)
    assert list(found) == ["intercept", "dollars", "plan = paid", "year = 2", "year = 3"]
    # What the rows were made with; the sample is as far off as the noise.
    assert found["dollars"] == pytest.approx(0.012, abs=0.003)
    assert found["plan = paid"] == pytest.approx(-0.5, abs=0.12)
    assert found["intercept"] == pytest.approx(0.4, abs=0.2)


def test_lost_rounds_are_made_up_for_by_the_next(known, trained, database, schema_with):
    plan = trained(SPECS["poisson"], schema_with(max_rows_per_unit=3), epsilon="20", rounds=12)
    data = {
        name: plan.prepare(database(rows, plan.schema).run(plan))
        for name, rows in zip(SITES, known, strict=True)
    }
    found = dict(plan.coefficients(train(plan, data, lost=(1, 4, 9))).rows)
    assert found["dollars"] == pytest.approx(0.012, abs=0.005)
    none = plan.coefficients(train(plan, data, lost=tuple(range(4, 13))))
    assert all(width is None for _, width in none.half_widths)
    assert "no estimates" in none.notes[0]


@MODELS
@pytest.mark.parametrize("epsilon", ["0.001", "1", "20"])
def test_sites_without_rows_give_finite_numbers_and_no_claim(spec, epsilon, trained):
    plan = trained(spec, epsilon=epsilon)
    data = dict.fromkeys(SITES, plan.prepare([]))
    parameters = train(plan, data)
    assert np.isfinite(parameters).all()
    answer = plan.coefficients(parameters)
    assert all(math.isfinite(value) for _, value in answer.rows)
    assert all(isinstance(value, float) for value in plan.measured(parameters).values())
    assert answer.half_widths[0][1] is None or epsilon == "20"


def test_a_fit_is_one_vector_that_can_be_kept_and_sent(trained):
    plan = trained(SPECS["linear"])
    assert plan.start.dtype == np.float64
    again = Fit.of(plan.start, len(plan.design.names))
    assert (again.numbers == plan.start).all()


# Refusals.


@pytest.mark.parametrize(
    "changes",
    [
        {"length": -1},
        {"value": math.nan},
        {"value": 1e7},
        {"limit": 0.0},
        {"limit": math.inf},
        {"phase": 7.0},
        {"phase": 0.5},
        {"round": 0},
        {"round": 11},
        {"dtype": np.float32},
    ],
)
def test_what_are_no_parameters_is_refused_before_any_row_is_read(changes, trained):
    plan = trained(SPECS["linear"])
    size = len(plan.design.names)
    parameters = plan.start.copy()
    parameters[0] = changes.get("value", 0.0)
    parameters[size] = changes.get("limit", 1.0)
    parameters[size + 1] = changes.get("phase", 2.0)
    parameters = parameters[: changes.get("length")].astype(changes.get("dtype", np.float64))
    with pytest.raises(QueryRefused) as refused:
        plan.gradient(None, parameters, round=changes.get("round", 3))
    assert refused.value.code == "E_VALUE"


def test_a_sum_that_cannot_be_one_makes_no_step(trained):
    plan = trained(SPECS["linear"])
    for total, parts in (([0], 3), ([0] * plan.length, 1)):
        with pytest.raises(ValueError, match="no sum"):
            plan.step(total, plan.start, round=1, parts=parts)


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"features": ("nowhere",)}, "E_NO_COLUMN", "'nowhere'"),
        ({"features": ("person",)}, "E_PRIVACY_UNIT", "'person'"),
        ({"features": ("score",)}, "E_NO_BOUNDS", "'score'"),
        ({"features": ("city",)}, "E_NO_BOUNDS", "'city'"),
        ({"features": ()}, "E_MODEL", "one feature"),
        ({"features": ("plan", "PLAN")}, "E_MODEL", "twice"),
        ({"features": ("visits",)}, "E_MODEL", "both"),
        ({"features": tuple(f"f{n}" for n in range(33))}, "E_MODEL", "33 features"),
        ({"target": "score"}, "E_NO_BOUNDS", "'score'"),
        ({"target": "dollars", "features": ("year",)}, "E_MODEL", "can be -10"),
        ({"target": "visits > 2"}, "E_MODEL", "no column"),
        ({"target": "visits + 2"}, "E_UNSUPPORTED", "visits + 2"),
        ({"target": "1"}, "E_MODEL", "neither a column"),
        ({"target": " "}, "E_MODEL", "target"),
        ({"target": "visits HAVING COUNT(*) > 1"}, "E_MODEL", "neither a column"),
        ({"target": "visits; DROP TABLE visits"}, "E_NOT_SELECT", ""),
        ({"target": "visits", "model": "logistic"}, "E_MODEL", "more than two values"),
        (
            {"target": "year", "model": "logistic", "features": ("dollars",)},
            "E_MODEL",
            "more than two values",
        ),
        ({"target": "dollars > 'a'", "model": "logistic"}, "E_UNSUPPORTED", ""),
        ({"target": "plan = 'gone'", "model": "logistic"}, "E_VALUE", "gone"),
        ({"target": "plan", "model": "linear"}, "E_NO_BOUNDS", "'plan'"),
    ],
)
def test_a_model_that_the_schema_does_not_allow_is_refused(changes, code, named, trained):
    spec = ModelSpec(
        **({"model": "poisson", "target": "visits", "features": ("dollars", "year")} | changes)
    )
    with pytest.raises(QueryRefused) as refused:
        trained(spec)
    assert refused.value.code == code
    assert named in refused.value.message
    assert refused.value.hint


def test_too_few_rounds_and_pure_accounting_are_refused(trained, schema_with):
    for rounds in (1, 4, 201):
        with pytest.raises(QueryRefused, match="5 to 200 rounds"):
            trained(SPECS["linear"], rounds=rounds)
    with pytest.raises(QueryRefused, match="Laplace"):
        trained(SPECS["linear"], schema_with(accounting="pure"))


def test_columns_with_too_many_or_only_one_value_are_refused(trained, schema):
    spec = replace(SPECS["linear"], features=("visits", "year"))
    with pytest.raises(QueryRefused, match="only one"):
        trained(spec, changed(schema, "year", values=(1,)))
    with pytest.raises(QueryRefused, match="41 coefficients"):
        trained(spec, changed(schema, "year", values=tuple(range(40))))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"model":"ridge","target":"a","features":["b"]}',
        '{"model":"linear","target":"a"}',
        '{"model":"linear","target":"a","features":"b"}',
        '{"model":"linear","target":"a","features":["b"],"more":1}',
        '{"model":"linear","target":"a","features":[]}',
    ],
)
def test_text_that_is_no_model_is_refused(text):
    with pytest.raises(QueryRefused) as refused:
        ModelSpec.read(text)
    assert refused.value.code == "E_MODEL"
    assert "--features" in refused.value.hint


def test_a_models_text_is_canonical_and_names_its_columns():
    spec = SPECS["logistic"]
    assert json.loads(spec.text) == {
        "model": "logistic",
        "target": spec.target,
        "features": ["dollars", "year"],
    }
    assert spec.names == {"dollars", "year", "visits", "plan"}


# What sites have in common.


def test_binary_targets_may_be_truths_two_values_or_zero_and_one(trained, schema, database):
    spec = replace(SPECS["logistic"], features=("dollars",))
    extra = Column(name="died", type="integer", nullable=False, bounds=Bounds(lower=0, upper=1))
    wide = replace(schema, columns=(*schema.columns, extra))
    for target, name in (("female", "female"), ("Plan", "plan = paid"), ("died", "died")):
        plan = trained(replace(spec, target=target), wide)
        assert plan.design.target.name == name
    plan = trained(replace(spec, target="plan"))
    rows = [full(f"P{n}", (p, 1, 1, 1.0, True)) for n, p in enumerate(["paid", "free", "gone"])]
    assert sorted(plan.prepare(database(rows).run(plan)).target) == [0.0, 1.0]


def test_rows_that_miss_something_are_left_out(trained, database):
    plan = trained(SPECS["poisson"])
    rows = [
        full("A", ("free", 1, 2, 1.0, True)),
        full("A", ("free", None, 2, 1.0, True)),
        full("B", ("free", 1, 2, None, True)),
        full("C", ("gone", 1, 2, 1.0, True)),
        full("D", ("paid", 9, 2, 1.0, True)),
        full("E", ("paid", 3, 2, 1.0, True)),
    ]
    found = plan.prepare(database(rows).run(plan))
    assert len(found.target) == 2
    assert list(found.starts) == [0, 1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: replace(s, max_rows_per_unit=4), "rows per unit"),
        (lambda s: replace(s, delta=1e-5), "delta"),
        (lambda s: changed(s, "visits", bounds=Bounds(lower=0, upper=20)), "target 'visits'"),
        (lambda s: changed(s, "dollars", bounds=Bounds(lower=0, upper=20)), "feature 'dollars'"),
        (lambda s: changed(s, "plan", values=("paid", "free")), "feature 'plan'"),
    ],
)
def test_what_keeps_sites_from_training_together_is_named(change, named, trained, schema):
    spec = SPECS["poisson"]
    plans = {
        "northside": trained(spec),
        "riverside": trained(spec),
        "lakeside": trained(spec, change(schema)),
    }
    said = training_difference(plans)
    assert named in said
    assert "lakeside" in said
    assert plans["northside"].form == plans["riverside"].form != plans["lakeside"].form
    assert training_difference({"a": plans["northside"], "b": plans["riverside"]}) is None


def test_a_schema_that_went_through_json_has_the_same_form(trained, schema):
    sent = decode(TableSchema, encode(schema), what="it")
    for whole in (0, 0.0):
        own = changed(sent, "visits", bounds=Bounds(lower=whole, upper=25))
        assert trained(SPECS["poisson"], own).form == trained(SPECS["poisson"], schema).form


def test_values_of_all_sites_are_coefficients_at_each(trained, schema):
    groups = {"plan": ["paid", "free", "other"]}
    plans = {
        name: trained(SPECS["poisson"], changed(schema, "plan", values=values), groups=groups)
        for name, values in (("a", ("free", "paid")), ("b", ("other", "free")))
    }
    assert training_difference(plans) is None
    assert plans["a"].design.names[2:4] == ("plan = free", "plan = other")


def test_the_plan_says_what_is_done_and_limited_before_any_data_is_touched(trained):
    plan = trained(SPECS["poisson"])
    assert plan.mechanism.startswith("poisson regression of visits in 10 rounds;")
    assert "each of 3 sites adds variance sigma^2/2, so that any 2 are enough" in plan.mechanism
    assert plan.clamps == (
        "at most 3 rows per person",
        "dollars to -10…100",
        "visits to 0…25",
        "what one person adds to a round, to a length chosen from noisy sums",
    )
    estimate = plan.estimate()
    assert (estimate.epsilon, estimate.delta, estimate.table) == ("1", "1e-06", "visits")
    assert [line.name for line in estimate.lines] == list(plan.design.names)
    assert "10 rounds" in estimate.notes[0]
