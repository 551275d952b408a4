"""The demo's three sites: real data of the RAND Health Insurance Experiment, split by city.

20,190 person-years of 5,912 people, 1974-1982, in the public domain, from the file that
statsmodels ships. People were assigned to insurance plans at random; what they then used is the
question. Each site holds two of the six cities, paired so that every kind of plan has at least
1,500 person-years at every site.

Each site takes Python cells: two reviewers look at the code, then at the output, and one template
is released without them. The three know each other's keys, and compute together what only all of
them may show. One site has a second table, the same rows under a *synthetic* register of
consent, since nobody of the experiment ever gave us theirs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from privnb.audit import origin_of
from privnb.errors import ConfigError
from privnb.site.audit import AuditLog
from privnb.site.config import CONFIG_FILE
from privnb.site.reviewing.reviewers import ReviewerKey
from privnb.site.template import init_site

__all__ = ["CONSENT_SEED", "DEMO_SITES", "DemoSite", "build_demo", "randhie_csv"]


@dataclass(frozen=True, kw_only=True)
class DemoSite:
    """One of the demo's sites."""

    name: str
    cities: tuple[int, int]
    """The experiment's numbers of its cities."""
    public_rows: int
    """About how many person-years it has."""
    needed: int = 1
    """How many of its two reviewers must agree."""
    register: bool = False
    """Whether it has the table with a register of consent."""

    @property
    def owner(self) -> str:
        """Whose the site is."""
        return f"owner@{self.name}.example"

    @property
    def reviewers(self) -> tuple[str, str]:
        """Who decides about Python cells."""
        return f"rita@{self.name}.example", f"raj@{self.name}.example"


DEMO_SITES = (
    DemoSite(name="northside", cities=(1, 3), public_rows=6900),
    DemoSite(name="riverside", cities=(5, 6), public_rows=6200, needed=2),
    DemoSite(name="lakeside", cities=(2, 4), public_rows=7100, register=True),
)
CONSENT_SEED = 1974
"""Seed of the synthetic register of consent."""
_CHANGED = 0.05
"""Share of those who consented that withdrew it later."""

_VISITS = """
# One row per person and year of the RAND Health Insurance Experiment. Source columns that are not
# declared below, such as those on mental health, are never visible.
[tables.visits]
source = "visits.parquet"
description = "RAND Health Insurance Experiment: one row per person and year, cities {a} and {b}."
privacy_unit = "zper"
unit_name = "person"
# The experiment lasted three or five years.
max_rows_per_unit = 5
unique_keys = [["zper", "year"]]
delta = 1e-6
# Over all analysts together.
total_epsilon = 20
purposes = ["utilisation-research", "teaching"]
public_rows = {rows}
# These decide the columns plan_type, sex and health, and are not visible themselves.
hidden = ["coins", "idp", "female", "hlthg", "hlthf", "hlthp", "black"]

[tables.visits.columns.zper]
type = "integer"
description = "The person."

[tables.visits.columns.year]
type = "integer"
values = [1, 2, 3, 4, 5]
nullable = false
description = "Year of the study, from 1."

[tables.visits.columns.city]
type = "integer"
from = "site"
values = [{a}, {b}]
nullable = false
constant = true
description = "City, by its number in the study."

[tables.visits.columns.plan_type]
type = "string"
constant = true
description = "Kind of insurance plan, assigned at random."
cases = [
    {{ when = {{ idp = 1 }}, value = "individual deductible" }},
    {{ when = {{ coins = 0 }}, value = "free care" }},
]
otherwise = "cost sharing"

[tables.visits.columns.sex]
type = "string"
constant = true
cases = [{{ when = {{ female = 1 }}, value = "female" }}]
otherwise = "male"

[tables.visits.columns.age_group]
type = "string"
description = "Age that year; nobody was older than 65."
from = "xage"
cuts = [6, 18, 40]
labels = ["under 6", "6-17", "18-39", "40 and over"]
nullable = false

[tables.visits.columns.health]
type = "string"
constant = true
description = "Health at the beginning, in the family's own words."
cases = [
    {{ when = {{ hlthg = 1 }}, value = "good" }},
    {{ when = {{ hlthf = 1 }}, value = "fair" }},
    {{ when = {{ hlthp = 1 }}, value = "poor" }},
]
otherwise = "excellent"

[tables.visits.columns.xage]
type = "float"
nullable = false
bounds = [0, 65]
description = "Age that year, in years."

[tables.visits.columns.income]
type = "float"
nullable = false
constant = true
bounds = [0, 20_000]
description = "Yearly income of the family, in dollars of the time."

[tables.visits.columns.educdec]
type = "float"
constant = true
bounds = [0, 20]
description = "Schooling of who decides in the family, in years; missing for a few."

[tables.visits.columns.num]
type = "integer"
nullable = false
bounds = [1, 10]
description = "People in the family."

[tables.visits.columns.disea]
type = "float"
nullable = false
constant = true
bounds = [0, 40]
description = "Index of chronic diseases at the beginning."

# Use of medicine is skewed: a few people use much. Bounds on one person's total in a group keep
# the noise low where bounds on single years alone would not; the label of an answer names them.
# These keep bias and noise together small at epsilon 1 in groups of 1,500 person-years. They were
# chosen on these data, which are public; take your own from what others published.
[tables.visits.columns.mdvis]
type = "integer"
nullable = false
bounds = [0, 25]
unit_bounds = [0, 40]
description = "Visits to a physician that year."

[tables.visits.columns.totadm]
type = "integer"
nullable = false
bounds = [0, 3]
unit_bounds = [0, 3]
description = "Admissions to a hospital that year."

[tables.visits.columns.meddol]
type = "float"
nullable = false
bounds = [0, 3_000]
unit_bounds = [0, 4_000]
description = "Medical expenses that year, in dollars of the time; no dental or mental care."

[tables.visits.columns.outpdol]
type = "float"
nullable = false
bounds = [0, 300]
unit_bounds = [0, 800]
description = "Outpatient expenses that year, in dollars."

[tables.visits.columns.drugdol]
type = "float"
nullable = false
bounds = [0, 100]
unit_bounds = [0, 300]
description = "Expenses for drugs that year, in dollars."

[tables.visits.columns.inpdol]
type = "float"
nullable = false
bounds = [0, 2_500]
unit_bounds = [0, 3_000]
description = "Inpatient expenses that year, in dollars."
"""

_PANEL = """
# Those of the same people who let their data be used, by the register in consents.csv. The register
# is synthetic: made up for this demo.
[tables.panel]
source = "visits.parquet"
description = "Person-years of people who consented to the purpose (synthetic register of consent)."
privacy_unit = "zper"
unit_name = "person"
max_rows_per_unit = 5
unique_keys = [["zper", "year"]]
delta = 1e-6
total_epsilon = 20
purposes = ["utilisation-research", "teaching"]

# The newest entry of a person for a purpose counts; without one there is no consent.
[tables.panel.consent]
source = "consents.csv"
unit = "zper"

[tables.panel.columns.zper]
type = "integer"
description = "The person."

[tables.panel.columns.year]
type = "integer"
values = [1, 2, 3, 4, 5]
nullable = false
description = "Year of the study, from 1."

[tables.panel.columns.mdvis]
type = "integer"
nullable = false
bounds = [0, 25]
unit_bounds = [0, 40]
description = "Visits to a physician that year."
"""

_APPROVAL = """
# Python cells run in a sandbox, and nothing leaves before people, or a rule of ours, let it out.
[python]
workers = 1
max_rows = 100
min_units = 10

# A cell of our own: who sends this very text gets its output without a human.
[templates.visits_by_age]
source = "templates/visits_by_age.py"
description = "Mean visits and person-years by kind of plan, from an age on."
tables = ["visits"]
runs_per_analyst = 200
[templates.visits_by_age.parameters.lowest_age]
type = "integer"
values = [0, 18, 40]

[review]
# The code before it runs, and the output before it leaves.
review = "both"
needed = {needed}
expires_days = 14
[review.reviewers]
{reviewers}

# What our purposes are in the W3C Data Privacy Vocabulary.
[purposes.utilisation-research]
dpv = "AcademicResearch"
legal_basis = "Consent"
"""

_FEDERATED = """
# The sites we compute with, by the keys that sign their audit logs: one site's part in a sum is
# seen by nobody.
[federated]
partners = [
{partners}
]
min_sites = 3
"""

_TEMPLATE = """\
older = visits[visits.xage >= lowest_age]
older.groupby("plan_type").agg(person_years=("mdvis", "size"), visits=("mdvis", "mean"))
"""


def build_demo(directory: Path, exchange: str) -> list[Path]:
    """Make the folders of the three sites below ``directory``; return them.

    The reviewers' keys lie in ``directory/people/reviewer``, where `privnb review` finds them when
    ``PRIVNB_HOME`` is ``directory/people``.

    A site that is there and whole is left as it is, so an interrupted build can be repeated.

    Parameters
    ----------
    directory
        Made where it is missing.
    exchange
        The storage the sites share with analysts: a folder, or an fsspec URL.

    Raises
    ------
    ConfigError
        When statsmodels, whose file we use, is not installed.
    """
    source = randhie_csv()
    identities = {site.name: _identity(directory / site.name, site) for site in DEMO_SITES}
    folders = []
    for site in DEMO_SITES:
        folder = directory / site.name
        folders.append(folder)
        if (folder / CONFIG_FILE).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        _write_visits(source, site, folder / "visits.parquet")
        (folder / "templates").mkdir(exist_ok=True)
        (folder / "templates" / "visits_by_age.py").write_text(_TEMPLATE, encoding="utf-8")
        if site.register:
            _write_consents(folder / "visits.parquet", folder / "consents.csv")
        init_site(
            folder,
            name=site.name,
            owner=site.owner,
            exchange=exchange,
            tables=_tables(site, directory / "people" / "reviewer", identities),
        )
    return folders


def _identity(folder: Path, site: DemoSite) -> str:
    """Make the key of a site before anything else: the others' site.toml names it."""
    origin = origin_of(site.name, site.owner)
    return AuditLog.open(folder / "state", origin=origin).verifier_key


def _tables(site: DemoSite, keys: Path, identities: Mapping[str, str]) -> str:
    """Write what site.toml says of all but the site itself; make the reviewers' keys it names."""
    reviewers = {}
    for email in site.reviewers:
        path = keys / f"{email}.json"
        key = ReviewerKey.load(path) if path.exists() else ReviewerKey.create(path, email)
        reviewers[email] = key.public
    return "".join(
        (
            _VISITS.format(a=site.cities[0], b=site.cities[1], rows=site.public_rows),
            _PANEL if site.register else "",
            _APPROVAL.format(
                needed=site.needed,
                reviewers="\n".join(f'"{email}" = "{key}"' for email, key in reviewers.items()),
            ),
            _FEDERATED.format(
                partners="\n".join(
                    f'    "{key}",' for name, key in identities.items() if name != site.name
                )
            ),
        )
    )


def randhie_csv() -> Path:
    """Find the experiment's data in the installed statsmodels, without importing it."""
    spec = importlib.util.find_spec("statsmodels")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place) / "datasets" / "randhie" / "src" / "randhie.csv"
        if path.is_file():
            return path
    raise ConfigError(
        "The demo's data comes with the package statsmodels, which is not installed.",
        hint="Run: pip install 'privnb[demo]'",
    )


def _write_visits(source: Path, site: DemoSite, target: Path) -> None:
    unfinished = target.with_name(f".{target.name}")
    cities = ", ".join(map(str, site.cities))
    with duckdb.connect() as connection:
        rows = connection.read_csv(str(source), header=True, sample_size=-1)
        rows.filter(f"site IN ({cities})").write_parquet(str(unfinished))
    unfinished.replace(target)


def _write_consents(visits: Path, target: Path) -> None:
    """Make up a register: most consent to research, half to teaching, some changed their mind.

    Synthetic and seeded with `CONSENT_SEED`: the same people give the same register.
    """
    random = np.random.default_rng(CONSENT_SEED)
    with duckdb.connect() as connection:
        people = connection.read_parquet(str(visits)).select("zper").distinct().order("zper")
        numbers = [int(number) for (number,) in people.fetchall()]
    lines = ["zper,purpose,status,at"]
    for purpose, share in (("utilisation-research", 0.9), ("teaching", 0.5)):
        given = random.random(len(numbers)) < share
        withdrawn = random.random(len(numbers)) < _CHANGED
        for person, gave, left in zip(numbers, given, withdrawn, strict=True):
            if gave:
                lines.append(f"{person},{purpose},given,2026-01-12T09:00:00")
            if gave and left:
                lines.append(f"{person},{purpose},withdrawn,2026-06-01T09:00:00")
    unfinished = target.with_name(f".{target.name}")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.replace(target)
