"""Plan a query: what runs in the engine, what it costs, and how its answer is made.

``plan`` reads the SQL, the public schema and the ask, and nothing else. So whatever it says or
refuses is the same for any two tables with one schema.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlglot import exp

from privnb.computation import parse_epsilon
from privnb.dp.accounting import Price, accounting_of
from privnb.dp.bounding import UNIT, listed_column
from privnb.dp.grammar import read_select, refusal, shown
from privnb.dp.groups import widened
from privnb.dp.literals import quoted
from privnb.dp.output_reader import OutputReader, is_aggregate
from privnb.dp.outputs import Condition, OutputExpression, aggregates_of
from privnb.dp.plan import Output, Plan, Sorting
from privnb.dp.row_reader import RowReader
from privnb.dp.rows import ColumnRef, RowExpression, columns_of
from privnb.dp.sensitivity import Reach
from privnb.dp.sharing import require_shareable
from privnb.dp.vectors import Aggregate, Vector, vectors_for
from privnb.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from privnb.computation import Federation, Parameters, Scalar
    from privnb.dp.noise import Noise
    from privnb.dp.schema import TableSchema

__all__ = ["plan"]

_MOST_GROUPS = 5000
_MOST_OUTPUTS = 64
_MOST_INTEGERS = 100_000
_LARGEST_LIMIT = 10**9


def plan(
    sql: str,
    *,
    tables: Mapping[str, TableSchema],
    parameters: Parameters | None = None,
    epsilon: Decimal,
    federation: Federation | None = None,
) -> Plan:
    """Plan one private query.

    Parameters
    ----------
    sql
        The text of the cell, as it came.
    tables
        The schemas of the tables that may be named, by name. Each passed
        `privnb.dp.bounding.check_schema`.
    parameters
        What ``:name`` stands for; bound as typed literals.
    epsilon
        The privacy loss offered. All of it is used.
    federation
        Given where only the total over its sites is asked for: the plan is for all of their groups,
        and one whose noise cannot be shared is refused; see `privnb.dp.sharing`.

    Returns
    -------
    Plan
        Holds no data. Its ``sql`` reads the bounded table, its ``release`` adds the noise.

    Raises
    ------
    QueryRefused
        With the code E_NOT_SELECT, E_UNSUPPORTED, E_NO_TABLE, E_NO_COLUMN, E_PRIVACY_UNIT,
        E_NOT_GROUPED, E_NO_BOUNDS, E_AGGREGATE, E_VALUE, E_PARAMETER or E_EPSILON;
        for totals also E_ACCOUNTING or E_NO_VALUES.
    """
    offered = parse_epsilon(epsilon)
    groups = None if federation is None else federation.groups
    try:
        found = _Planner(read_select(sql), tables, parameters, offered, groups).plan()
    except RecursionError:
        raise refusal("The query is nested too deeply.", "Write it flatter.") from None
    if federation is not None:
        require_shareable(found)
    return found


@dataclass(frozen=True)
class _Item:
    """One entry of the SELECT list."""

    node: exp.Expr
    name: str


class _Planner:
    def __init__(
        self,
        select: exp.Select,
        tables: Mapping[str, TableSchema],
        parameters: Parameters | None,
        epsilon: Decimal,
        groups: Mapping[str, list[Scalar]] | None,
    ) -> None:
        self._select = select
        self._epsilon = epsilon
        self._schema = widened(_table_of(select, tables), groups or {})
        self._rows = RowReader(self._schema, parameters)
        self._items = _items(select)

    def plan(self) -> Plan:
        select, schema = self._select, self._schema
        accounting = accounting_of(schema)
        where = select.args.get("where")
        condition = None if where is None else self._where(where)
        keys = self._keys()
        reader = OutputReader(self._rows, keys, {})
        outputs = tuple(Output(item.name, reader.read(item.node)) for item in self._items)
        self._check_outputs(outputs)
        aliases = {output.name.lower(): output.expression for output in outputs}
        named = OutputReader(self._rows, keys, aliases)
        having = select.args.get("having")
        kept = None if having is None else named.condition(having.this)
        sortings = self._sortings(named, outputs)
        aggregates = _asked(outputs, kept, sortings)
        groups = self._public_groups(keys)
        reach = Reach.of(
            schema.max_rows_per_unit,
            unique=self._has_unique_key(keys),
            groups=self._groups_of_a_unit(keys),
        )
        vectors = vectors_for(aggregates, reach, accounting.noise)
        integers = len(groups or ()) * sum(vector.width for vector in vectors)
        if integers > _MOST_INTEGERS:
            raise refusal(
                f"The query needs {integers:,} noisy numbers; at most {_MOST_INTEGERS:,} are made.",
                "Group more coarsely, or ask for fewer medians and quantiles at once.",
            )
        gate = None
        if groups is None:
            vectors, gate = _with_gate(vectors, reach, accounting.noise)
        price = Price(
            loss=accounting.loss_for(self._epsilon),
            delta=0.0 if groups is not None else accounting.threshold_delta,
            epsilon=self._epsilon,
        )
        return Plan(
            schema=schema,
            sql=self._sql(keys, condition, vectors),
            price=price,
            reach=reach,
            vectors=vectors,
            gate=gate,
            keys=tuple(keys),
            groups=groups,
            aggregates=aggregates,
            outputs=outputs,
            having=kept,
            sortings=sortings,
            limit=self._limit(),
            filtered=condition is not None,
        )

    def _where(self, where: exp.Expr) -> RowExpression:
        return self._rows.condition(where.this)

    def _check_outputs(self, outputs: tuple[Output, ...]) -> None:
        if len(outputs) > _MOST_OUTPUTS:
            raise refusal(
                f"More than {_MOST_OUTPUTS} columns are asked for.", "Ask for fewer at once."
            )
        seen: set[str] = set()
        for output in outputs:
            if output.name.lower() in seen:
                raise refusal(
                    f"two columns of the answer are named {output.name!r}.",
                    "Name them apart with AS.",
                )
            seen.add(output.name.lower())
        if not any(aggregates_of(output.expression) for output in outputs):
            raise refusal(
                "the query has no aggregate, and single rows never leave the site.",
                "Add COUNT(*), SUM or AVG.",
                code="E_AGGREGATE",
            )

    def _keys(self) -> list[RowExpression]:
        group = self._select.args.get("group")
        if group is None:
            return []
        if group.args.get("all"):
            nodes = [item.node for item in self._items if not is_aggregate(item.node)]
        else:
            nodes = [self._group_node(node) for node in group.expressions]
        keys: list[RowExpression] = []
        for node in nodes:
            if is_aggregate(node):
                raise refusal(
                    f"GROUP BY {shown(node)}: rows cannot be grouped by an aggregate.",
                    "Group by columns, CASE or date parts.",
                    code="E_AGGREGATE",
                    node=node,
                )
            key = self._rows.read(node)
            if key not in keys:
                keys.append(key)
        return keys

    def _group_node(self, node: exp.Expr) -> exp.Expr:
        """Follow a position or an alias to the SELECT list."""
        if isinstance(node, exp.Literal) and not node.is_string:
            place = str(node.this)
            if not (place.isdigit() and 1 <= int(place[:9]) <= len(self._items)):
                raise refusal(
                    f"GROUP BY {place}: the SELECT list has {len(self._items)} entries.",
                    "Name the columns to group by.",
                    node=node,
                )
            return self._items[int(place) - 1].node
        if isinstance(node, exp.Column) and not self._rows.knows(node):
            for item in self._items:
                if item.name.lower() == node.name.lower():
                    return item.node
        return node

    def _sortings(self, reader: OutputReader, outputs: tuple[Output, ...]) -> tuple[Sorting, ...]:
        order = self._select.args.get("order")
        sortings = []
        for part in order.expressions if order is not None else ():
            node = part.this
            if isinstance(node, exp.Literal) and not node.is_string:
                place = str(node.this)
                if not (place.isdigit() and 1 <= int(place[:9]) <= len(outputs)):
                    raise refusal(
                        f"ORDER BY {place}: the SELECT list has {len(outputs)} entries.",
                        "Name the column to sort by.",
                        node=node,
                    )
                expression = outputs[int(place) - 1].expression
            else:
                expression = reader.read(node)
            sortings.append(
                Sorting(
                    expression,
                    descending=bool(part.args.get("desc")),
                    nulls_first=bool(part.args.get("nulls_first")),
                )
            )
        return tuple(sortings)

    def _limit(self) -> int | None:
        limit = self._select.args.get("limit")
        if limit is None:
            return None
        number = self._rows.constant(limit.expression)
        if number.type != "integer" or not 0 <= int(number.value) <= _LARGEST_LIMIT:
            raise refusal("LIMIT takes a whole number.", "Write LIMIT 10.", node=limit)
        return int(number.value)

    def _has_unique_key(self, keys: list[RowExpression]) -> bool:
        grouped = {key.column.name for key in keys if isinstance(key, ColumnRef)}
        unit = {self._schema.privacy_unit}
        return any(set(unique) - unit <= grouped for unique in self._schema.unique_keys)

    @staticmethod
    def _groups_of_a_unit(keys: list[RowExpression]) -> int | None:
        """Return in how many groups the rows of one unit can be; None when that is not known.

        Keys that are functions of constant columns alone have one value for all of them.
        """
        varying = [key for key in keys if not all(column.constant for column in columns_of(key))]
        sizes = [None if key.domain is None else len(_keys_of(key)) for key in varying]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def _public_groups(self, keys: list[RowExpression]) -> tuple[tuple[Scalar, ...], ...] | None:
        """Return all groups there can be, or None when a key's values are not public."""
        domains: list[tuple[Scalar, ...]] = []
        for key in keys:
            if key.domain is None:
                return None
            domains.append(_keys_of(key))
        size = 1
        for domain in domains:
            size *= len(domain)
        if size > _MOST_GROUPS:
            raise refusal(
                f"The query would have {size} groups, each filled with noise; at most"
                f" {_MOST_GROUPS} are computed.",
                "Group more coarsely.",
            )
        return tuple(itertools.product(*domains))

    def _sql(
        self,
        keys: list[RowExpression],
        condition: RowExpression | None,
        vectors: tuple[Vector, ...],
    ) -> str:
        """Write the query over the bounded table; keys come first, then every slot."""
        table = quoted(self._schema.name)
        conditions = [] if condition is None else [condition.sql()]
        conditions += [listed for listed in map(_public_only, keys) if listed]
        where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
        slots = [slot for vector in vectors for slot in vector.slots]
        columns = [f"{_key_sql(key)} AS k{place}" for place, key in enumerate(keys)]
        positions = ", ".join(str(place) for place in range(1, len(keys) + 1))
        grouping = f"\nGROUP BY {positions}" if keys else ""
        if all(vector.clamp is None for vector in vectors):
            columns += [f"{slot.plain} AS a{place}" for place, slot in enumerate(slots)]
            return f"SELECT {', '.join(columns)}\nFROM {table}{where}{grouping}"
        inner = dict(pair for slot in slots for pair in slot.inner)
        within = [*columns, f"{quoted(UNIT)} AS u"]
        within += [f"{sql} AS {quoted(name)}" for name, sql in inner.items()]
        per_unit = ", ".join(str(place) for place in range(1, len(keys) + 2))
        outer = [f"k{place}" for place in range(len(keys))]
        outer += [f"{slot.outer} AS a{place}" for place, slot in enumerate(slots)]
        return (
            f"SELECT {', '.join(outer)}\n"
            f"FROM (SELECT {', '.join(within)}\nFROM {table}{where}\nGROUP BY {per_unit}){grouping}"
        )


def _table_of(select: exp.Select, tables: Mapping[str, TableSchema]) -> TableSchema:
    source = select.args.get("from_")
    if source is None:
        raise refusal("the query has no FROM.", _known(tables), code="E_NO_TABLE")
    table = source.this
    if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
        raise refusal(
            f"FROM {shown(table)} is not supported.",
            f"Name one table. {_known(tables)}",
            node=source,
        )
    folded = {name.lower(): schema for name, schema in tables.items()}
    found = tables.get(table.name) or folded.get(table.name.lower())
    if found is None:
        missing = UnknownName.among("table", table.name, tables)
        raise refusal(
            f"there is no table {table.name!r}.", missing.hint, code="E_NO_TABLE", node=source
        )
    return found


def _known(tables: Mapping[str, TableSchema]) -> str:
    return f"Tables: {', '.join(sorted(tables)) or 'none'}."


def _items(select: exp.Select) -> list[_Item]:
    items = []
    for node in select.expressions:
        if isinstance(node, exp.Alias):
            items.append(_Item(node.this, node.alias))
        elif isinstance(node, exp.Column):
            items.append(_Item(node, node.name))
        else:
            items.append(_Item(node, shown(node).lower()))
    return items


def _asked(
    outputs: tuple[Output, ...], having: Condition | None, sortings: tuple[Sorting, ...]
) -> tuple[Aggregate, ...]:
    expressions: list[OutputExpression | Condition] = [output.expression for output in outputs]
    expressions += [] if having is None else [having]
    expressions += [sorting.expression for sorting in sortings]
    return tuple(dict.fromkeys(found for e in expressions for found in aggregates_of(e)))


def _with_gate(
    vectors: tuple[Vector, ...], reach: Reach, noise: Noise
) -> tuple[tuple[Vector, ...], Vector]:
    """Choose the count that decides which unknown groups may show; add one if there is none.

    Units are better than rows: one unit adds 1 at most, so that smaller groups may show.
    """
    for kind in ("units", "count"):
        for vector in vectors:
            if vector.kind == kind and vector.column is None:
                return vectors, vector
    gate = vectors_for([Aggregate("count")], reach, noise)[0]
    return (*vectors, gate), gate


def _keys_of(key: RowExpression) -> tuple[Scalar, ...]:
    """Return every value that a group key with public values can have."""
    known = tuple(key.domain or ())
    return (*known, None) if key.nullable else known


def _public_only(key: RowExpression) -> str | None:
    """Drop rows whose value the owner did not declare: they are in no group."""
    if not isinstance(key, ColumnRef) or key.column.values is None:
        return None
    return quoted(listed_column(key.column.name))


def _key_sql(key: RowExpression) -> str:
    if key.type in ("date", "timestamp"):
        return f"CAST({key.sql()} AS VARCHAR)"
    return key.sql()
