"""What the owner declares in ``site.toml``: the site, its tables and their public schemas.

Columns that are not declared are hidden. Whatever is wrong is one `ConfigError` with the file, the
line and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from privnb.audit import origin_of
from privnb.datasite.names import is_email
from privnb.dp.bounding import check_schema
from privnb.dp.schema import TableSchema
from privnb.errors import ConfigError
from privnb.site.consent_config import ConsentSource, PurposeTerms, read_consent, read_purposes
from privnb.site.data.bins import Bins
from privnb.site.data.columns import DeclaredColumn, is_name, read_column
from privnb.site.federated.config import FederatedConfig, read_federated
from privnb.site.python_config import PythonConfig, Template, read_python
from privnb.site.reviewing.config import ReviewConfig, read_review
from privnb.site.toml_lines import KeyPath
from privnb.site.toml_reader import Section, TomlFile

__all__ = ["CONFIG_FILE", "SiteConfig", "TableConfig", "load_config"]

CONFIG_FILE = "site.toml"
_MAX_DELTA = Decimal("1e-3")
_MAX_EPSILON = Decimal(1000)
_ACCOUNTINGS = ("zcdp", "pure")


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """One table as its owner declares it: the public schema, and what stays with the owner."""

    schema: TableSchema
    source: str
    """An Ibis URL, or the path of a Parquet, CSV or DuckDB file, as written."""
    source_table: str | None
    """The table within a database; None for Parquet and CSV files."""
    hidden: tuple[str, ...]
    """Source columns the owner names as hidden; columns never mentioned are hidden too."""
    origins: Mapping[str, str]
    """For each plain column, its name in the source."""
    bins: Mapping[str, Bins]
    """For each derived column, how it is made."""
    total_epsilon: Decimal
    """Budget over all analysts, at the table's delta."""
    consent: ConsentSource | None = None
    """Whose rows may be used for what; None: everybody's, for every purpose of the table."""

    @property
    def name(self) -> str:
        """The table's name, by which analysts ask."""
        return self.schema.name


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """A whole ``site.toml``, checked in itself but not yet against the data."""

    directory: Path
    name: str
    owner: str
    """The owner's email address."""
    exchange: str
    """An fsspec URL or an absolute folder."""
    storage_options: Mapping[str, Any]
    """Passed on to fsspec."""
    tables: tuple[TableConfig, ...]
    lines: Mapping[KeyPath, int]
    python: PythonConfig | None = None
    """What Python cells may do; None where they are not taken."""
    templates: tuple[Template, ...] = ()
    review: ReviewConfig | None = None
    """Who decides about Python cells; None where only templates are released."""
    purposes: Mapping[str, PurposeTerms] = field(default_factory=dict)
    """What purposes mean in terms of W3C DPV, as far as the owner said it."""
    federated: FederatedConfig | None = None
    """With whom the site computes; None where it takes no federated computation."""

    @property
    def path(self) -> Path:
        """The file all this was read from."""
        return self.directory / CONFIG_FILE

    def line(self, *key: str | int) -> int | None:
        """Line of a key, or of the nearest table around it."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key)

    def error(self, problem: str, *key: str | int, hint: str) -> ConfigError:
        """Make an error that points at a key of the file."""
        return ConfigError.at(self.path, self.line(*key), problem, hint=hint)


def load_config(directory: Path, *, file: Path | None = None) -> SiteConfig:
    """Read and check ``directory/site.toml``; no data is touched.

    Parameters
    ----------
    file
        What is read in the place of ``site.toml``, to see whether it would do.

    Raises
    ------
    ConfigError
        At the first mistake, with its line and what to write instead.
    """
    directory = Path(directory).absolute()
    toml = TomlFile(file or directory / CONFIG_FILE)
    root = toml.root
    name = root.text("name", hint='Write for example name = "northside".')
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        hint = "Use lower-case letters, digits and hyphens, at most 63."
        root.fail(f"{name!r} cannot be a site's name.", "name", hint=hint)
    owner = root.text("owner", hint='Write for example owner = "owner@northside.example".')
    if not is_email(owner):
        hint = 'Write for example owner = "owner@northside.example".'
        root.fail(f"{owner!r} is not an email address.", "owner", hint=hint)
    exchange = root.text("exchange", hint='Write a folder or an fsspec URL, as in "s3://bucket".')
    options = root.section("storage_options", required=False, hint="Options for fsspec.").raw()
    tables_hint = "Declare a table under a header such as [tables.visits]."
    declared = root.section("tables", required=False, hint=tables_hint)
    tables: list[TableConfig] = []
    for table in declared.keys():  # noqa: SIM118 - a section is no mapping
        if not is_name(table):
            hint = "Use letters, digits and underscores, at most 63, not beginning with a digit."
            declared.fail(f"{table!r} cannot be a table's name.", table, hint=hint)
        if table.lower() in {earlier.name.lower() for earlier in tables}:
            hint = "Upper and lower case do not make a difference in SQL: rename one."
            declared.fail(f"Table {table!r} is declared twice.", table, hint=hint)
        tables.append(_read_table(declared.section(table, hint=tables_hint), table))
    schemas = {table.name: table.schema for table in tables}
    python, templates = read_python(root, directory=directory, schemas=schemas)
    allowed = {purpose for schema in schemas.values() for purpose in schema.purposes}
    purposes = read_purposes(root, allowed)
    review_hint = "Name the reviewers; each makes a key with: privnb review key"
    review = read_review(root.section("review", hint=review_hint)) if root.has("review") else None
    federated = None
    if root.has("federated"):
        section = root.section("federated", hint="Begin with a line [federated].")
        federated = read_federated(section, own=origin_of(name, owner))
    root.finish()
    return SiteConfig(
        directory=directory,
        name=name,
        owner=owner,
        exchange=exchange if "://" in exchange else str(directory / Path(exchange).expanduser()),
        storage_options=options,
        tables=tuple(tables),
        lines=toml.lines,
        python=python,
        templates=templates,
        review=review,
        purposes=purposes,
        federated=federated,
    )


def _read_table(section: Section, name: str) -> TableConfig:
    source = section.text("source", hint='Write for example source = "visits.parquet".')
    source_table = section.text("source_table", hint="Name a table.", default="") or None
    unit = section.text("privacy_unit", hint="Name the column that says whose row it is.")
    columns = _read_columns(section, unit)
    hidden = section.texts("hidden", hint='Write for example hidden = ["name", "address"].')
    shown = {column.origins[0] for column in columns if column.bins is None}
    for number, column in enumerate(hidden):
        if column in shown:
            hint = "Remove it from 'hidden', or remove its own table."
            section.fail(
                f"Column {column!r} is both hidden and declared.", "hidden", number, hint=hint
            )
    public_rows = None
    rows_hint = "Leave it out unless the number of rows is public."
    if section.has("public_rows"):
        public_rows = section.integer("public_rows", lowest=1, hint=rows_hint)
    schema = TableSchema(
        name=name,
        columns=tuple(column.column for column in columns),
        privacy_unit=unit,
        unit_name=section.text(
            "unit_name", hint="One word: person, household, vehicle.", default="person"
        ),
        max_rows_per_unit=section.integer(
            "max_rows_per_unit", lowest=1, hint="Say how many rows of one unit may count at most."
        ),
        unique_keys=_read_unique_keys(section, unit, [column.column.name for column in columns]),
        delta=float(_read_delta(section)),
        accounting=_read_accounting(section),
        public_rows=public_rows,
        purposes=_read_purposes(section),
        description=section.text("description", hint="Describe the table.", default=""),
    )
    table = TableConfig(
        schema=schema,
        source=source,
        source_table=source_table,
        hidden=hidden,
        origins={c.column.name: c.origins[0] for c in columns if c.bins is None},
        bins={c.column.name: c.bins for c in columns if c.bins is not None},
        total_epsilon=_read_total(section),
        consent=read_consent(section),
    )
    section.finish()
    try:
        check_schema(schema, rows=public_rows or 1)
    except ConfigError as error:
        section.fail(error.message, hint=error.hint)
    return table


def _read_columns(section: Section, unit: str) -> list[DeclaredColumn]:
    hint = "Declare each visible column under a header such as [tables.visits.columns.age]."
    declared = section.section("columns", hint=hint)
    if unit not in declared:
        remedy = f'Add [{".".join(map(str, section.path))}.columns.{unit}] with type = "integer".'
        section.fail(f"The privacy unit {unit!r} is not declared.", "privacy_unit", hint=remedy)
    columns: list[DeclaredColumn] = []
    for name in declared.keys():  # noqa: SIM118 - a section is no mapping
        if name.lower() in {earlier.column.name.lower() for earlier in columns}:
            remedy = "Upper and lower case do not make a difference in SQL: rename one."
            declared.fail(f"Column {name!r} is declared twice.", name, hint=remedy)
        columns.append(read_column(declared.section(name, hint=hint), name, is_unit=name == unit))
    return columns


def _read_unique_keys(
    section: Section, unit: str, columns: list[str]
) -> tuple[tuple[str, ...], ...]:
    hint = f'Write for example unique_keys = [["{unit}", "year"]].'
    keys = section.lists("unique_keys", hint=hint)
    for number, key in enumerate(keys):
        for part, column in enumerate(key):
            if column not in columns:
                problem = f"The unique key names {column!r}, which is no declared column."
                remedy = f"Declared: {', '.join(columns)}."
                section.fail(problem, "unique_keys", number, part, hint=remedy)
            if column in key[:part]:
                problem = f"The unique key names {column!r} twice."
                section.fail(problem, "unique_keys", number, part, hint=hint)
        if unit not in key:
            problem = f"A unique key must contain the privacy unit {unit!r}."
            section.fail(problem, "unique_keys", number, hint=hint)
    return keys


def _read_delta(section: Section) -> Decimal:
    hint = "Write for example delta = 1e-6; it should be well below 1 / number of units."
    delta = section.decimal("delta", hint=hint)
    if not 0 < delta <= _MAX_DELTA or float(delta) == 0:
        problem = f"'delta' must be above 0 and at most 0.001, not {delta}."
        section.fail(problem, "delta", hint=hint)
    return delta


def _read_accounting(section: Section) -> Literal["zcdp", "pure"]:
    hint = 'Write "zcdp", for many questions, or "pure", for a few precise ones.'
    accounting = section.text("accounting", hint=hint, default="zcdp")
    if accounting not in _ACCOUNTINGS:
        section.fail(f"There is no accounting {accounting!r}.", "accounting", hint=hint)
    return cast("Literal['zcdp', 'pure']", accounting)


def _read_total(section: Section) -> Decimal:
    hint = "Write the budget over all analysts, for example total_epsilon = 10."
    total = section.decimal("total_epsilon", hint=hint)
    if not 0 < total <= _MAX_EPSILON:
        problem = f"'total_epsilon' must be above 0 and at most {_MAX_EPSILON}, not {total}."
        section.fail(problem, "total_epsilon", hint=hint)
    return total


def _read_purposes(section: Section) -> tuple[str, ...]:
    hint = 'Write for example purposes = ["utilisation-research"].'
    purposes = section.texts("purposes", hint=hint)
    if not purposes:
        section.fail("No purpose is allowed, so nobody could ask.", "purposes", hint=hint)
    for number, purpose in enumerate(purposes):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", purpose):
            remedy = "Use lower-case letters, digits and hyphens."
            section.fail(f"{purpose!r} cannot be a purpose.", "purposes", number, hint=remedy)
    return purposes
