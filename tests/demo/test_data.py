"""The demo's sites: whole, as described, and with answers that are of use."""

import importlib.util
import math
import shutil
from decimal import Decimal

import pandas as pd
import pytest

from privnb.demo.data import DEMO_SITES, build_demo, randhie_csv
from privnb.dp.bounding import fixed_point
from privnb.dp.planner import plan
from privnb.errors import ConfigError
from privnb.site.config import load_config
from privnb.site.data.claims import check
from privnb.site.data.tables import Tables
from privnb.site.opening import open_audit

pytestmark = pytest.mark.xdist_group("demo data")  # one demo is built for all

SQL = """
SELECT plan_type, COUNT(*) AS person_years, AVG(mdvis) AS visits, SUM(meddol) AS dollars
FROM visits GROUP BY plan_type
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    return build_demo(directory, str(directory / "exchange"))


@pytest.fixture(scope="module")
def truth():
    """The unprotected answers, computed from the file by other means than ours."""
    rows = pd.read_csv(randhie_csv())
    rows["plan_type"] = "cost sharing"
    rows.loc[rows.coins == 0, "plan_type"] = "free care"
    rows.loc[rows.idp == 1, "plan_type"] = "individual deductible"
    rows["home"] = rows.site.map({city: s.name for s in DEMO_SITES for city in s.cities})
    return rows.groupby(["home", "plan_type"]).agg(
        person_years=("zper", "size"), visits=("mdvis", "mean"), dollars=("meddol", "sum")
    )


@pytest.fixture(scope="module")
def opened(demo):
    tables = {
        folder.name: Tables.open(load_config(folder), state=folder / "state") for folder in demo
    }
    yield tables
    for each in tables.values():
        each.close()


def test_the_sites_share_out_all_people_and_years(demo, opened):
    assert [folder.name for folder in demo] == ["northside", "riverside", "lakeside"]
    sizes = "SELECT count(*), count(DISTINCT _unit) FROM visits"
    found = [tables.rows(sizes)[0] for tables in opened.values()]
    assert sum(rows for rows, _ in found) == 20_190
    assert sum(people for _, people in found) == 5_912
    for (rows, _), site in zip(found, DEMO_SITES, strict=True):
        assert rows == pytest.approx(site.public_rows, rel=0.01)


def test_the_data_keep_every_promise_of_their_site_toml(demo):
    for folder in demo:
        report = check(folder)
        assert [finding for finding in report.findings if finding.level != "note"] == []


def test_the_sites_know_each_other_by_their_own_keys(demo):
    configs = [load_config(folder) for folder in demo]
    own = [open_audit(config).verifier_key for config in configs]
    for config, key in zip(configs, own, strict=True):
        assert sorted([key, *map(str, config.federated.partners)]) == sorted(own)
        assert config.federated.min_sites == 3


def test_every_kind_of_plan_has_1500_person_years_everywhere(opened, truth):
    assert truth.person_years.min() >= 1_500
    for name, tables in opened.items():
        counts = dict(tables.rows("SELECT plan_type, count(*) FROM visits GROUP BY 1"))
        assert counts == truth.loc[name].person_years.to_dict()


def test_hidden_columns_are_not_in_the_schema(opened):
    for tables in opened.values():
        names = {column.name for column in tables.schemas["visits"].columns}
        assert names.isdisjoint({"coins", "idp", "female", "black", "mentvis", "mhi", "site"})


DERIVED = {
    "city": "site",
    "plan_type": "plan_type",
    "sex": "female",
    "health": "health",
    "age_group": "age_group",
}


def test_exactly_what_never_changes_about_a_person_is_declared_constant(opened):
    """Computed from the file by other means than ours; to miss one would cost noise."""
    rows = pd.read_csv(randhie_csv())
    rows["plan_type"] = rows.idp * 1_000 + rows.coins
    rows["health"] = rows.hlthg + 2 * rows.hlthf + 4 * rows.hlthp
    rows["age_group"] = pd.cut(rows.xage, [-1, 6, 18, 40, 99], right=False).cat.codes
    for tables in opened.values():
        for column in tables.schemas["visits"].columns:
            if column.name != "zper":
                values = rows.groupby("zper")[DERIVED.get(column.name, column.name)]
                never_changes = values.nunique(dropna=False).max() == 1
                assert column.constant == never_changes, column.name


def normal_below(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_answers_at_epsilon_1_are_of_use(opened, truth):
    """In every group of every site, 95 % of counts are within 8 %, of averages within 25 %.

    Both include the bias of clamping, which makes averages at most 12 % too low. Nothing is drawn,
    so there are no false alarms: the bias is computed from the data, and the noise from the
    planner's scales. An average is (centre * count + sum of distances from it) / count, so to
    first order its error has two independent Gaussian parts.
    """
    for name, tables in opened.items():
        asked = plan(SQL, tables=tables.schemas, epsilon=Decimal(1))
        # One vector counts; the sums of mdvis are stored as distances from a centre.
        counted = next(vector for vector in asked.vectors if vector.kind == "count")
        summed = next(v for v in asked.vectors if v.kind == "sum" and v.column.name == "mdvis")
        count_scale, sum_scale = asked.scales[counted], asked.scales[summed]
        exact = {row[0]: row for row in tables.rows(asked.sql)}
        steps = fixed_point(summed.column).scale
        position = 1 + asked.vectors.index(summed)
        for group, expected in truth.loc[name].iterrows():
            count = expected.person_years
            assert exact[group][1] == count
            assert normal_below(-0.08 * count / count_scale) * 2 < 0.05
            distance = exact[group][position] / count  # of the clamped mean from the centre
            clamped = (summed.centre + distance) / steps
            spread = math.hypot(sum_scale, distance * count_scale) / count / steps
            bias, room = clamped - expected.visits, 0.25 * expected.visits
            within = normal_below((room - bias) / spread) - normal_below((-room - bias) / spread)
            assert within > 0.95, (name, group, within)
            assert -0.12 * expected.visits <= bias <= 0, (name, group, bias)


def test_released_answers_are_as_close_as_computed(opened, truth):
    """Draw 20 releases per site: of 180 averages at least 95 % - 4 sigma lie within 25 %.

    Were each within with probability 95 %, this would fail by chance once in about 10,000 runs
    (binomial, 180 draws at 95 %: fewer than 159).
    """
    close = 0
    for name, tables in opened.items():
        asked = plan(SQL, tables=tables.schemas, epsilon=Decimal(1))
        integers = tables.rows(asked.sql)
        for _ in range(20):
            for group, _, visits, _ in asked.release(integers).rows:
                expected = truth.loc[name, group].visits
                close += abs(visits - expected) <= 0.25 * expected
    assert close >= 159


def test_the_mock_twin_answers_the_same_question(opened):
    for tables in opened.values():
        asked = plan(SQL, tables=tables.schemas, epsilon=Decimal(1))
        answer = asked.release(tables.rows(asked.sql, mock=True))
        assert {row[0] for row in answer.rows} == set(
            tables.schemas["visits"].column("plan_type").values
        )


def test_an_interrupted_build_can_be_repeated(demo, tmp_path):
    for folder in [*demo, demo[0].parent / "exchange"]:
        shutil.copytree(folder, tmp_path / folder.name)
    whole = (tmp_path / "northside" / "site.toml").stat().st_mtime_ns
    (tmp_path / "riverside" / "site.toml").unlink()
    (tmp_path / "riverside" / "visits.parquet").write_bytes(b"PAR1")
    again = build_demo(tmp_path, str(tmp_path / "exchange"))
    assert all(check(folder).ok for folder in again)
    assert (tmp_path / "northside" / "site.toml").stat().st_mtime_ns == whole


def test_without_statsmodels_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="statsmodels") as caught:
        build_demo(tmp_path / "demo", str(tmp_path / "exchange"))
    assert "privnb[demo]" in caught.value.hint
    assert not (tmp_path / "demo").exists()
