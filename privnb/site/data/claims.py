"""Comparing what ``site.toml`` claims with what the data holds; for the owner's eyes only.

`refuse_broken_claims` guards registration: it verifies what the privacy proof rests on. `check`
tells the owner all there is to mend or to know before analysts are let in, of data subjects'
consent too.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ibis
import ibis.expr.types as ir

from privnb.dp.bounding import UNIT, check_schema, visible_columns
from privnb.dp.schema import Column
from privnb.errors import ConfigError
from privnb.site.config import SiteConfig, TableConfig, load_config
from privnb.site.consent import ConsentRegister
from privnb.site.data.sources import located, open_source, workshop
from privnb.site.federated.partners import own_identity, remarks

__all__ = ["CheckReport", "Finding", "TableFacts", "check", "refuse_broken_claims"]

_COUNTED = ("null", "below", "above", "unlisted")
_SHOWN = 5
_MANY = 0.1
"""Share of clamped values from which an answer is more bias than truth, so that we warn."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing the owner should know. An *error* keeps the table from being served."""

    level: Literal["error", "warning", "note"]
    message: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """Exact sizes of a table; they are not public."""

    name: str
    rows: int
    units: int


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What `check` found, table by table."""

    path: Path
    tables: tuple[TableFacts, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every table can be served."""
        return all(finding.level != "error" for finding in self.findings)


def refuse_broken_claims(
    config: SiteConfig, table: TableConfig, *, source: ir.Table, bounded: ir.Table
) -> None:
    """Raise `ConfigError` when the data breaks a claim on which the proof of privacy rests.

    Those are the unique keys, in the source and in the bounded table, where NaN has become NULL;
    the columns constant per unit; the absence of NULL; and that sums of clamped values fit into
    64 bits.
    """
    schema = table.schema
    for number, key in enumerate(schema.unique_keys):
        stored = tuple(UNIT if name == schema.privacy_unit else name for name in key)
        present = source.filter(source[schema.privacy_unit].notnull())
        if repeated := max(_repeated(present, key), _repeated(bounded, stored)):
            raise config.error(
                f"The key ({', '.join(key)}) is not unique: {repeated:,} values occur twice.",
                *("tables", table.name, "unique_keys", number),
                hint="Remove the claim, or mend the data: the noise relies on it.",
            )
    for name, units in _varying(table, source).items():
        raise _constant_error(config, table, name, units)
    strict = [column.name for column in visible_columns(schema) if not column.nullable]
    counts = _one_row(bounded, {name: bounded[name].isnull().sum() for name in strict})
    for name in strict:
        if counts[name]:
            raise _null_error(config, table, name, counts[name])
    _check_sums(config, table, int(bounded.count().to_pyarrow().as_py()))


def check(directory: Path) -> CheckReport:
    """Compare ``site.toml`` with the data of every table.

    Raises
    ------
    ConfigError
        When ``site.toml`` is wrong in itself; what is wrong with the data is in the report.
    """
    config = load_config(directory)
    facts: list[TableFacts] = []
    findings: list[Finding] = []
    if not config.tables:
        findings.append(
            Finding(
                level="warning",
                message=f"{config.path}: No table is declared.",
                hint="Uncomment the example in site.toml.",
            )
        )
    for table in config.tables:
        try:
            with tempfile.TemporaryDirectory() as space, workshop(Path(space)) as duck:
                source = open_source(config, table, duck)
                with located(config, table):
                    facts.append(_facts(table, source))
                    findings.extend(_compare(config, table, source, facts[-1]))
                if table.consent is not None:
                    findings.extend(_compare_consent(config, table, source))
        except ConfigError as error:
            findings.append(Finding(level="error", message=error.message, hint=error.hint))
    for level, key, problem, hint in remarks(config, own=own_identity(config)):
        findings.append(_finding(level, config, key, problem, hint))
    return CheckReport(path=config.path, tables=tuple(facts), findings=tuple(findings))


def _facts(table: TableConfig, source: ir.Table) -> TableFacts:
    unit = source[table.schema.privacy_unit]
    counts = _one_row(source, {"rows": source.count(), "units": unit.nunique()})
    return TableFacts(name=table.name, rows=counts["rows"], units=counts["units"])


def _compare(
    config: SiteConfig, table: TableConfig, source: ir.Table, facts: TableFacts
) -> Iterator[Finding]:
    yield from _compare_units(config, table, source, facts)
    for number, key in enumerate(table.schema.unique_keys):
        present = source.filter(source[table.schema.privacy_unit].notnull())
        if repeated := _repeated(present, key):
            yield _finding(
                *("error", config, ("tables", table.name, "unique_keys", number)),
                f"The key ({', '.join(key)}) is not unique: {repeated:,} values occur twice.",
                "Remove the claim, or mend the data.",
            )
    for name, units in _varying(table, source).items():
        error = _constant_error(config, table, name, units)
        yield Finding(level="error", message=error.message, hint=error.hint)
    columns = visible_columns(table.schema)
    counts = _one_row(
        source,
        {
            f"{what} {column.name}": value
            for column in columns
            for what, value in _counters(source[column.name], column).items()
        },
    )
    for column in columns:
        found = {what: counts.get(f"{what} {column.name}", 0) for what in _COUNTED}
        yield from _compare_column(config, table, column, found, rows=facts.rows)
        if column.unit_bounds is not None:
            yield from _compare_totals(config, table, source, column)
    try:
        _check_sums(config, table, facts.rows)
    except ConfigError as error:
        yield Finding(level="error", message=error.message, hint=error.hint)


def _compare_units(
    config: SiteConfig, table: TableConfig, source: ir.Table, facts: TableFacts
) -> Iterator[Finding]:
    schema = table.schema
    here = ("tables", table.name)
    if facts.units == 0:
        yield _finding(
            *("error", config, (*here, "privacy_unit")),
            f"No row has a privacy unit {schema.privacy_unit!r}.",
            "Name the column that says whose row it is.",
        )
        return
    unit = source[schema.privacy_unit]
    present = source.filter(unit.notnull())
    sizes = present.group_by(schema.privacy_unit).aggregate(n=present.count())
    excess = sizes.n - schema.max_rows_per_unit
    counts = _one_row(
        sizes, {"over": (excess > 0).sum(), "dropped": (excess > 0).ifelse(excess, 0).sum()}
    )
    unknown = int(unit.isnull().sum().to_pyarrow().as_py() or 0)
    if unknown:
        yield _finding(
            *("warning", config, (*here, "privacy_unit")),
            f"{unknown:,} of {facts.rows:,} rows have no {schema.privacy_unit!r} and are left out.",
            "Find out whose rows they are, or accept that they never count.",
        )
    if counts["over"]:
        yield _finding(
            *("note", config, (*here, "max_rows_per_unit")),
            f"{counts['over']:,} of {facts.units:,} units have more than"
            f" {schema.max_rows_per_unit} rows; {counts['dropped']:,} rows are left out.",
            "A larger number keeps more rows, and needs more noise.",
        )
    if schema.delta * facts.units > 1:
        yield _finding(
            *("warning", config, (*here, "delta")),
            f"delta {schema.delta:g} is more than one in the number of units.",
            "Take at most a tenth of that, for example 1e-6.",
        )


def _compare_consent(config: SiteConfig, table: TableConfig, source: ir.Table) -> Iterator[Finding]:
    """Say what the consent register means for the table; raise if computations would fail."""
    here = ("tables", table.name, "consent")
    register = ConsentRegister(config, table).facts()
    if register.nobodys:
        yield _finding(
            *("warning", config, (*here, "unit")),
            f"{register.nobodys:,} entries of the consent register say nobody's consent.",
            "Find out whose they are: a withdrawal among them has no effect.",
        )
    if register.future:
        yield _finding(
            *("warning", config, (*here, "at")),
            f"{register.future:,} entries of the consent register are from times to come, and"
            " count already.",
            "Correct them: a withdrawal before such a time has no effect.",
        )
    if register.others:
        shown = ", ".join(map(repr, register.others[:_SHOWN]))
        more = f" and {len(register.others) - _SHOWN} more" if len(register.others) > _SHOWN else ""
        yield _finding(
            *("warning", config, (*here, "purpose")),
            f"The consent register names purposes that the table does not have: {shown}{more}.",
            "If one is misspelt, what people said for it has no effect.",
        )
    units = source.select(unit=table.schema.privacy_unit).distinct()
    for purpose in table.schema.purposes:
        consenting = ibis.memtable(register.consenting(purpose))
        count = int(units.semi_join(consenting, "unit").count().to_pyarrow().as_py())
        yield _finding(
            *("note" if count else "warning", config, here),
            f"{count:,} units consent to {purpose!r}; the rows of all others never count.",
            "Who is not in the register has not consented.",
        )


def _counters(value: ir.Value, column: Column) -> dict[str, ir.Value]:
    """Count what the schema does not foresee; a NaN counts as NULL, as it does when bounding."""
    missing = value.isnull()
    if column.type == "float":
        missing = missing | value.isnan()
    counters = {"null": missing.sum()}
    if column.bounds is not None:
        counters["below"] = (~missing & (value < column.bounds.lower)).sum()
        counters["above"] = (~missing & (value > column.bounds.upper)).sum()
    if column.values is not None:
        counters["unlisted"] = (~missing & ~value.isin(_literals(column))).sum()
    return counters


def _literals(column: Column) -> list[Any]:
    if column.type == "date":
        return [dt.date.fromisoformat(str(value)) for value in column.values or ()]
    return list(column.values or ())


def _compare_column(
    config: SiteConfig, table: TableConfig, column: Column, counts: dict[str, int], *, rows: int
) -> Iterator[Finding]:
    here = ("tables", table.name, "columns", column.name)
    if counts["null"] and not column.nullable:
        error = _null_error(config, table, column.name, counts["null"])
        yield Finding(level="error", message=error.message, hint=error.hint)
    for side in ("below", "above"):
        if clamped := counts[side]:
            share = clamped / rows
            yield _finding(
                *("warning" if share > _MANY else "note", config, (*here, "bounds")),
                f"{clamped:,} values of {column.name!r} ({share:.1%}) are {side} the bounds and"
                " will be clamped.",
                "Wider bounds bias less and need more noise. Do not copy an extreme of the data.",
            )
    if unlisted := counts["unlisted"]:
        yield _finding(
            *("warning", config, (*here, "values")),
            f"{unlisted:,} rows have a value of {column.name!r} that is not listed; groups over"
            " the listed values leave them out.",
            "List every value that may be public, or make bins with an 'otherwise'.",
        )


def _compare_totals(
    config: SiteConfig, table: TableConfig, source: ir.Table, column: Column
) -> Iterator[Finding]:
    assert column.bounds is not None  # noqa: S101 - unit_bounds need bounds
    assert column.unit_bounds is not None  # noqa: S101 - asked for these columns only
    value = source[column.name].cast("float64")
    clamped = value.clip(lower=column.bounds.lower, upper=column.bounds.upper)
    number = (value.isnull() | value.isnan()).ifelse(0.0, clamped)
    totals = source.group_by(table.schema.privacy_unit).aggregate(total=number.sum())
    outside = (totals.total < column.unit_bounds.lower) | (totals.total > column.unit_bounds.upper)
    if units := int(outside.sum().to_pyarrow().as_py() or 0):
        yield _finding(
            *("note", config, ("tables", table.name, "columns", column.name, "unit_bounds")),
            f"The total of {column.name!r} over all rows of a unit is clamped for {units:,} units,"
            " unless groups split it.",
            "Wider unit_bounds bias less and need more noise.",
        )


def _repeated(rows: ir.Table, key: tuple[str, ...]) -> int:
    """Count the values of a key that occur more than once; NULL equals NULL, as in groups."""
    sizes = rows.group_by(list(key)).aggregate(n=rows.count())
    return int(sizes.filter(sizes.n > 1).count().to_pyarrow().as_py())


def _varying(table: TableConfig, source: ir.Table) -> dict[str, int]:
    """Count the units with several values in a column declared constant; NULL and NaN are one."""
    schema = table.schema
    constant = [column for column in visible_columns(schema) if column.constant]
    if not constant:
        return {}
    present = source.filter(source[schema.privacy_unit].notnull())
    several = {}
    for column in constant:
        value = present[column.name]
        if column.type == "float":
            value = value.isnan().ifelse(None, value)
        several[column.name] = (value.min() != value.max()) | (
            (value.count() > 0) & (value.count() < present.count())
        )
    units = present.group_by(schema.privacy_unit).aggregate(**several)
    counts = _one_row(units, {name: units[name].sum() for name in several})
    return {name: count for name, count in counts.items() if count}


def _one_row(rows: ir.Table, values: dict[str, ir.Value]) -> dict[str, int]:
    """Compute several counts in one pass; over no rows every count is 0."""
    if not values:
        return {}
    (found,) = rows.aggregate(**values).to_pyarrow().to_pylist()
    return {name: int(count or 0) for name, count in found.items()}


def _check_sums(config: SiteConfig, table: TableConfig, rows: int) -> None:
    try:
        check_schema(table.schema, rows=max(rows, table.schema.public_rows or 1))
    except ConfigError as error:
        raise config.error(error.message, "tables", table.name, hint=error.hint) from None


def _constant_error(config: SiteConfig, table: TableConfig, name: str, units: int) -> ConfigError:
    return config.error(
        f"Column {name!r} is declared constant, but {units:,} units have several values in it.",
        *("tables", table.name, "columns", name, "constant"),
        hint="Remove the claim, or mend the data: rows that break it would be left out.",
    )


def _null_error(config: SiteConfig, table: TableConfig, name: str, count: int) -> ConfigError:
    return config.error(
        f"Column {name!r} is declared not nullable, but {count:,} values are missing.",
        *("tables", table.name, "columns", name, "nullable"),
        hint="Write nullable = true, or mend the data.",
    )


def _finding(
    level: Literal["error", "warning", "note"],
    config: SiteConfig,
    key: tuple[str | int, ...],
    problem: str,
    hint: str,
) -> Finding:
    return Finding(level=level, message=config.error(problem, *key, hint=hint).message, hint=hint)
