"""Group keys of several sites together: each answers for the values that any of them declares."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from privnb.dp.bounding import check_values, visible_columns
from privnb.dp.grammar import read_select
from privnb.dp.literals import normal_key
from privnb.errors import ConfigError, QueryRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from privnb.computation import Scalar
    from privnb.dp.schema import Column, TableSchema

__all__ = ["columns_named", "united", "widened"]

_MOST_VALUES = 5000
_NO_VALUES = "E_NO_VALUES"


def columns_named(sql: str) -> frozenset[str]:
    """Return what a query may mean by columns, in lower case; aliases are among them.

    >>> sorted(columns_named("SELECT plan, AVG(visits) AS mean FROM t GROUP BY plan"))
    ['plan', 'visits']
    """
    return frozenset(node.name.lower() for node in read_select(sql).find_all(exp.Column))


def united(schemas: Mapping[str, TableSchema], names: Iterable[str]) -> dict[str, list[Scalar]]:
    """Return the values of all sites together, for those of the columns where they differ.

    This is what goes into `privnb.computation.Federation.groups`. NULL is among the values where
    one of the sites may have it. Columns that one of the sites declares no values for are left out:
    whoever groups by them is refused.

    Parameters
    ----------
    schemas
        The table, as each site publishes it.
    names
        Of the columns that matter, in any case; see `columns_named`.
    """
    wanted, tables = {name.lower() for name in names}, list(schemas.values())
    shared = [{column.name: column for column in visible_columns(schema)} for schema in tables]
    found: dict[str, list[Scalar]] = {}
    for name, column in (shared[0] if shared else {}).items():
        columns = [each[name] for each in shared if name in each]
        if name.lower() not in wanted or len(columns) < len(tables):
            continue
        if any(each.values is None or each.type != column.type for each in columns):
            continue
        values = list(dict.fromkeys(value for each in columns for value in _domain(each)))
        if any(_domain(each) != tuple(values) for each in columns):
            # NULL comes last, as in every answer.
            found[name] = sorted(values, key=lambda value: value is None)
    return found


def widened(schema: TableSchema, groups: Mapping[str, Sequence[Scalar]]) -> TableSchema:
    """Replace public values of columns by those of all sites together.

    The site's own must be among them, so that nobody is left out. NULL among them says that a value
    may be missing, somewhere. What the site's bounded table holds stays what it is: the sensitivity
    of a query is that of the wider schema, and its groups are all of them.

    Raises
    ------
    QueryRefused
        E_NO_COLUMN, or E_NO_VALUES where the values cannot be those of all sites.

    Examples
    --------
    >>> from privnb.dp.schema import Column, TableSchema
    >>> city = Column(name="city", type="integer", nullable=False, values=(1, 3))
    >>> table = TableSchema(
    ...     name="t", columns=(city,), privacy_unit="u", max_rows_per_unit=1, delta=1e-6
    ... )
    >>> widened(table, {"city": [1, 3, 5, 6]}).column("city").values
    (1, 3, 5, 6)
    """
    changed = {}
    known = {column.name: column for column in visible_columns(schema)}
    for name, values in groups.items():
        if name not in known:
            raise QueryRefused(
                f"Values are given for {name!r}, which is no column of {schema.name!r}.",
                hint="Take the values that the sites declare.",
                code="E_NO_COLUMN",
            )
        changed[name] = _widened(known[name], values)
    columns = (changed.get(column.name, column) for column in schema.columns)
    return replace(schema, columns=tuple(columns))


def _domain(column: Column) -> tuple[Scalar, ...]:
    keys = (normal_key(column.type, value) for value in column.values or () if value is not None)
    return (*dict.fromkeys(keys), *((None,) if column.nullable else ()))


def _widened(column: Column, values: Sequence[Scalar]) -> Column:
    if column.values is None:
        raise QueryRefused(
            f"Column {column.name!r} has no public values here, so no other site's can be added.",
            hint="Group by columns whose values every site declares.",
            code=_NO_VALUES,
        )
    if len(values) > _MOST_VALUES:
        raise QueryRefused(
            f"Column {column.name!r}: {len(values):,} values are given; at most {_MOST_VALUES:,}"
            " are answered for.",
            hint="Group more coarsely.",
            code=_NO_VALUES,
        )
    wide = replace(column, values=tuple(values), nullable=None in values)
    try:
        check_values("of all sites", wide)
    except ConfigError as wrong:
        raise QueryRefused(
            f"The values given for {column.name!r} are not all of type {column.type}.",
            hint="Take the values that the sites declare.",
            code=_NO_VALUES,
        ) from wrong
    wide = replace(wide, values=tuple(value for value in _domain(wide) if value is not None))
    missing = set(_domain(column)) - set(_domain(wide))
    if missing:
        what = "NULL" if missing == {None} else f"{len(missing)} of its values"
        raise QueryRefused(
            f"The values given for {column.name!r} leave out {what}, which this site declares.",
            hint="Unite the values of all sites; each answers for all of them.",
            code=_NO_VALUES,
        )
    return wide
