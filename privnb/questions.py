"""What an analyst asks, put into the form that is sent, once it makes sense by itself."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from privnb.computation import Computation, Parameters, parse_epsilon
from privnb.errors import QueryRefused, RequestRefused, UnknownName
from privnb.messages import AccessAsk
from privnb.python_cell import require_runnable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.dp.schema import TableSchema
    from privnb.messages import SiteDescription

__all__ = [
    "access_ask",
    "checked_parameters",
    "python_computation",
    "require_purpose",
    "require_python",
    "require_table",
    "sql_computation",
]

_HIGHEST_HOPE = 1000


def sql_computation(
    sql: str,
    *,
    epsilon: float | str | Decimal,
    purpose: str | None,
    params: Parameters | None,
) -> Computation:
    """Make a question in SQL; raises `QueryRefused`."""
    if not sql.strip():
        raise QueryRefused(
            "The query is empty.",
            hint="Write one SELECT, for example SELECT COUNT(*) FROM visits.",
            code="E_NOT_SELECT",
        )
    return Computation(
        kind="sql",
        source=sql,
        parameters=checked_parameters(params),
        purpose=purpose,
        epsilon=str(parse_epsilon(epsilon)),
    )


def python_computation(
    source: str,
    *,
    tables: Sequence[str],
    purpose: str | None,
    output: str | None,
    params: Parameters | None,
) -> Computation:
    """Make a question in Python; raises `QueryRefused`."""
    parameters = checked_parameters(params)
    require_runnable(source, tables=tables, parameters=parameters or {}, output=output)
    return Computation(
        kind="python",
        source=source,
        parameters=parameters,
        purpose=purpose,
        tables=tuple(tables),
        output=output,
    )


def access_ask(
    table: str, *, purpose: str, reason: str, epsilon: float | str | Decimal | None
) -> AccessAsk:
    """Make a request for access; raises `RequestRefused`."""
    if not reason.strip():
        raise RequestRefused(
            "No reason was given.",
            hint='Say what you want to find out: --reason "…" (in Python reason=…).',
            code="E_REASON",
        )
    hoped = None if epsilon is None else f"{_hoped_for(epsilon):f}"
    return AccessAsk(table=table, purpose=purpose, reason=reason.strip(), epsilon=hoped)


def require_python(site: str, description: SiteDescription, tables: Sequence[str]) -> None:
    """Make sure that a site takes Python cells on these tables, as far as it says."""
    if description.python is None:
        raise RequestRefused(
            f"{site} takes no Python cells.",
            hint="Ask in SQL, or ask its owner for a [python] section in site.toml.",
        )
    for table in tables:
        require_table(site, description, table)


def require_purpose(site: str, description: SiteDescription, access: AccessAsk) -> None:
    """Make sure that a site has the table and allows the purpose, as far as it says."""
    allowed = require_table(site, description, access.table).purposes
    if access.purpose not in allowed:
        raise UnknownName.among("purpose", access.purpose, allowed, code="E_PURPOSE")


def require_table(site: str, description: SiteDescription, name: str) -> TableSchema:
    """Find a table of a site, as far as it says, or raise `UnknownName`."""
    for table in description.tables:
        if table.name == name:
            return table
    known = [table.name for table in description.tables]
    unknown = UnknownName.among("table", name, known, code="E_NO_TABLE")
    raise UnknownName(f"{site} has no table {name!r}.", hint=unknown.hint, code=unknown.code)


def _hoped_for(epsilon: float | str | Decimal) -> Decimal:
    try:
        hoped = Decimal(str(epsilon))
    except InvalidOperation:
        hoped = Decimal("NaN")
    if not (hoped.is_finite() and 0 < hoped <= _HIGHEST_HOPE):
        raise RequestRefused(
            f"A budget is an epsilon above 0 and at most {_HIGHEST_HOPE}, not {epsilon!s:.40}.",
            hint="Say for example --epsilon 4, or leave it out.",
            code="E_EPSILON",
        )
    return hoped


def checked_parameters(params: Parameters | None) -> Parameters | None:
    """Take JSON scalars and flat lists of them, and say which parameter is something else."""
    checked: Parameters = {}
    for name, value in (params or {}).items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            finite = not isinstance(item, float) or math.isfinite(item)
            if not (finite and isinstance(item, bool | int | float | str | None)):
                raise QueryRefused(
                    f"Parameter {name!r} holds a value of type {type(item).__name__}"
                    f"{'' if finite else ' that is not finite'}.",
                    hint="A parameter is text, a finite number, true, false, None, or a list.",
                    code="E_PARAMETER",
                )
        checked[name] = value
    return checked or None
