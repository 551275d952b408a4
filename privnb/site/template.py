"""Setting a site up: its folder, its keys and a ``site.toml`` that explains itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tomlkit

from privnb.errors import ConfigError
from privnb.site.config import CONFIG_FILE, load_config

__all__ = ["EXAMPLE", "MadeSite", "init_site", "site_toml", "write_whole"]

_HEAD = """\
# This file says who may learn what from which of your tables. `privnb site check` compares it
# with your data and says what to mend. Columns that are not declared here are never visible.

# What analysts call this site: lower-case letters, digits and hyphens.
name = {name}

# Your email address. Analysts' requests are encrypted to the key that belongs to it.
owner = {owner}

# The storage you share with analysts: a folder, or an fsspec URL such as "s3://bucket/exchange".
exchange = {exchange}

# Options for that storage, as fsspec takes them. Keep passwords in the environment.
# [storage_options]
# endpoint_url = "https://s3.example"
"""

EXAMPLE = """
# A table. Remove the "# " at the beginning of the lines and adapt them.
#
# [tables.visits]
# # A .parquet, .csv (with commas) or .duckdb file, relative to this one, or an Ibis URL such as
# # "postgres://reader@localhost/clinic" (for which `pip install 'privnb[postgres]'`; keep its
# # password in ~/.pgpass). Files of DuckDB and URLs need source_table too.
# source = "visits.parquet"
# # source_table = "visits"
# description = "One row per person and year."
# # Whose presence is protected. The column can never be read by an analyst.
# privacy_unit = "person_id"
# unit_name = "person"
# # How many rows of one unit may count. Of those with more, a secret key chooses which are kept.
# max_rows_per_unit = 5
# # Optional: columns, the privacy unit among them, that no two rows share. Checked on the data;
# # grouping by them needs less noise.
# unique_keys = [["person_id", "year"]]
# # The probability, over all that is ever released, that epsilon does not hold: well below one in
# # the number of units.
# delta = 1e-6
# # Optional, fixed by the first charge: "zcdp" (Gaussian noise) for many questions; "pure" (Laplace
# # noise) for few precise ones, up to about ten counts and sums over the whole life of the table.
# # accounting = "zcdp"
# # The privacy budget of the table over all analysts together.
# total_epsilon = 10
# # What it may be used for. A grant to an analyst names one of these.
# purposes = ["utilisation-research"]
# # Optional, and only if it is no secret: about how many rows there are. It improves estimates.
# # public_rows = 20_000
# # Optional: source columns that must exist and stay hidden.
# # hidden = ["name", "address"]
#
# # Optional: a register of people's consent, a file or database like the source. Only rows of
# # units whose newest entry for the purpose is "given" enter a computation; who has no entry has
# # not consented. A file is read again when it changes: replace it as a whole, so that nobody
# # reads half of it. What cannot be read, or understood, lets nothing be computed.
# # [tables.visits.consent]
# # source = "consents.csv"
# # # The column with the privacy unit's value.
# # unit = "person_id"
# # # Columns with a purpose (as above, or its DPV term), "given" or "withdrawn", and the time.
# # purpose = "purpose"
# # status = "status"
# # at = "at"
#
# # Every visible column. Types: integer, float, string, boolean, date, timestamp.
# [tables.visits.columns.person_id]
# type = "integer"
#
# [tables.visits.columns.year]
# type = "integer"
# # Public values: groups over them appear whether or not the data has them.
# values = [1, 2, 3, 4, 5]
# nullable = false
#
# [tables.visits.columns.visits]
# type = "integer"
# description = "Visits to a doctor in that year."
# # Values are clamped to these. Take them from common knowledge, not from the data: narrower
# # bounds need less noise, and bias more.
# bounds = [0, 30]
# # Optional: the same for the total of one unit's rows within one group.
# unit_bounds = [0, 60]
#
# # A derived column, from source columns that may stay hidden: the first case that holds.
# [tables.visits.columns.plan]
# type = "string"
# # Optional: one unit has one value in all its rows. Checked on the data; groups over such columns
# # need less noise.
# constant = true
# cases = [
#     { when = { deductible = 1 }, value = "deductible" },
#     { when = { coinsurance = [0], deductible = 0 }, value = "free care" },
# ]
# otherwise = "cost sharing"
#
# # A derived column by cut points; each cut belongs to the bin above it.
# [tables.visits.columns.age_group]
# type = "string"
# from = "age"
# cuts = [18, 40, 65]
# labels = ["under 18", "18-39", "40-64", "65 and over"]
# # missing = "unknown"
#
# # Optional: what a purpose means in terms of the W3C Data Privacy Vocabulary, and on which legal
# # basis you use data for it: a term such as Consent, PublicInterest, or eu-gdpr:A9-2-j.
# [purposes.utilisation-research]
# dpv = "AcademicResearch"
# legal_basis = "Consent"
#
# # Optional: Python cells, run in a sandbox; without this section none is taken. An output beyond
# # these limits leaves only after a reviewer has seen it.
# # [python]
# # packages = ["numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib"]
# # seconds = 60
# # memory_mb = 2048
# # workers = 2
# # max_rows = 200
# # max_bytes = 200_000
# # # How many privacy units must stand behind each group that the gate recognises in an output.
# # min_units = 10
# # # Where the machine has no sandbox, Python is refused, unless you trust all code. Labels say so.
# # allow_unsandboxed = false
#
# # Optional: who looks at Python cells. Each reviewer makes a key with `privnb review key`, and
# # keeps it; its public half stands here.
# # [review]
# # # "code": before it runs; "output": before it leaves; "both".
# # review = "both"
# # needed = 2
# # expires_days = 14
# # # Digests of computations that are released without a human: the same output each time; of a
# # # training over sites at most 20 runs per analyst, as each may be at other parameters.
# # release = []
# # # Told of each new request, with its id and digest only: a program by absolute path, an address.
# # command = ["/usr/local/bin/tell-reviewers"]
# # webhook = "https://chat.example/hooks/reviews"
# # [review.reviewers]
# # "alice@northside.example" = "ed25519:…"
#
# # Optional: sites that you compute together with, where only sums over all may be seen. Each owner
# # gives the others what `privnb site identity` prints; `privnb site partner` adds it here.
# # [federated]
# # partners = ["privnb/riverside/owner@riverside.example+…"]
# # # How many sites must take part in a round, and be in a sum, at least.
# # min_sites = 3
# # min_summed = 2
# # # How many sites that tell the analyst all they see must do no harm.
# # colluding = 0
# # # A run of which the analyst says nothing for so long ends.
# # idle_minutes = 60
# # # What approved code gives without noise is summed over one set of sites wherever the parameters
# # # are the same, in whichever run. With true that is so whatever they are: no two sums differ by
# # # one site's part, and a training stops where a site is lost.
# # fixed_sites = false
#
# # Optional: a cell of your own. Who sends exactly its text, with parameters that you allow, gets
# # its output without a human, unless the gate objects, which tells one bit about the data. Answers
# # with different parameters can be compared: allow few.
# # [templates.visits_by_age]
# # source = "templates/visits_by_age.py"
# # tables = ["visits"]
# # description = "Mean visits by plan, from an age on."
# # runs_per_analyst = 20
# # [templates.visits_by_age.parameters.lowest_age]
# # type = "integer"
# # values = [0, 18, 40]
"""
"""A table that is commented out: the default of a new ``site.toml``."""


@dataclass(frozen=True, kw_only=True)
class MadeSite:
    """What `init_site` made."""

    config: Path
    fingerprint: str
    """Fingerprint of the owner's key, for analysts to compare."""


def site_toml(*, name: str, owner: str, exchange: str, tables: str = EXAMPLE) -> str:
    """Return the text of a commented ``site.toml``; ``tables`` is TOML, by default an example."""
    head = _HEAD.format(
        **{
            key: tomlkit.string(value).as_string()
            for key, value in (("name", name), ("owner", owner), ("exchange", exchange))
        }
    )
    return head + tables


def init_site(
    directory: Path, *, name: str, owner: str, exchange: str, tables: str = EXAMPLE
) -> MadeSite:
    """Make a site's folder: ``site.toml``, a private ``state`` folder, and the owner's keys.

    What exists is never overwritten. ``site.toml`` appears last and whole, so that an interrupted
    run can simply be repeated. A relative ``exchange`` folder is taken from where we are now.
    ``tables`` is the TOML of the tables, by default an example to adapt.

    Raises
    ------
    ConfigError
        When a name or address cannot be used, or the site exists already.
    ExchangeError
        When the exchange cannot be used.
    """
    directory = directory.absolute()
    path = directory / CONFIG_FILE
    if path.exists():
        hint = "Edit it, or choose another folder."
        raise ConfigError.at(path, None, "The site exists already.", hint=hint)
    if "://" not in exchange:
        exchange = str(Path(exchange).expanduser().absolute())
    text = site_toml(name=name, owner=owner, exchange=exchange, tables=tables)
    _try(directory, text)
    existed = directory.exists()
    state = directory / "state"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fingerprint = _make_keys(directory, owner=owner, exchange=exchange)
        write_whole(path, text)
    except OSError as error:
        problem = f"The folder cannot be written: {error.strerror}."
        raise ConfigError.at(directory, None, problem, hint="Choose another folder.") from None
    except BaseException:
        if not existed:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return MadeSite(config=path, fingerprint=fingerprint)


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all, and never replaces another."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _try(directory: Path, text: str) -> None:
    """Refuse what `load_config` would refuse, before anything is made."""
    with tempfile.TemporaryDirectory() as place:
        tried = Path(place) / CONFIG_FILE
        tried.write_text(text, encoding="utf-8")
        try:
            load_config(directory, file=tried)
        except ConfigError as error:
            problem = error.message.partition(": ")[2]
            raise ConfigError(problem, hint=error.hint) from None


def _make_keys(directory: Path, *, owner: str, exchange: str) -> str:
    from privnb.datasite.owner import OwnerDatasite  # noqa: PLC0415 - PySyft takes seconds

    datasite = OwnerDatasite.open(directory / "datasite", email=owner, exchange=exchange)
    try:
        return datasite.fingerprint
    finally:
        datasite.close()
