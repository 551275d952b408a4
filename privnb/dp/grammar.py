"""From text to a syntax tree that holds nothing but what the private subset knows.

sqlglot reads the text. What it makes of it is walked once: each kind of node, and each part of a
node, must be on a list. What is not on the list is refused, whatever it would have meant.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import Token, TokenType, exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.parsers.duckdb import DuckDBParser

from privnb.errors import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["chain_of", "function_refusal", "line_of", "read_select", "refusal", "shown"]

_DIALECT = "duckdb"
_MOST_TOKENS = 4000
_MOST_STEPS = 50_000
_DEEPEST = 40
_SHOWN = 60

_SELECT_PARTS = {"expressions", "from_", "where", "group", "having", "order", "limit"}
_BINARY = {"this", "expression"}
_UNARY = {"this"}

_ALLOWED: dict[type[exp.Expr], set[str]] = {
    exp.Add: _BINARY,
    exp.Alias: {"this", "alias"},
    exp.And: _BINARY,
    exp.Anonymous: {"this", "expressions"},
    exp.Avg: _UNARY,
    exp.Between: {"this", "low", "high"},
    exp.Boolean: _UNARY,
    exp.Case: {"this", "ifs", "default"},
    exp.Cast: {"this", "to", "_type"},
    exp.Column: _UNARY,
    exp.Count: {"this", "big_int"},
    exp.DataType: {"this", "nested"},
    exp.DateTrunc: {"this", "unit", "zone"},
    exp.Day: _UNARY,
    exp.DayOfMonth: _UNARY,
    exp.DayOfWeek: _UNARY,
    exp.DayOfYear: _UNARY,
    exp.Distinct: {"expressions"},
    exp.Div: {"this", "expression", "typed", "safe"},
    exp.EQ: _BINARY,
    exp.Extract: _BINARY,
    exp.From: _UNARY,
    exp.GT: _BINARY,
    exp.GTE: _BINARY,
    exp.Group: {"expressions", "all"},
    exp.Having: _UNARY,
    exp.Hour: _UNARY,
    exp.Identifier: {"this", "quoted"},
    exp.If: {"this", "true", "false"},
    exp.In: {"this", "expressions", "field"},
    exp.Is: _BINARY,
    exp.LT: _BINARY,
    exp.LTE: _BINARY,
    exp.Like: _BINARY,
    exp.Limit: {"expression"},
    exp.Literal: {"this", "is_string"},
    exp.Median: _UNARY,
    exp.Minute: _UNARY,
    exp.Month: _UNARY,
    exp.Mul: _BINARY,
    exp.NEQ: _BINARY,
    exp.Neg: _UNARY,
    exp.Not: _UNARY,
    exp.Null: set(),
    exp.Or: _BINARY,
    exp.Order: {"expressions"},
    exp.Ordered: {"this", "desc", "nulls_first"},
    exp.Paren: _UNARY,
    exp.PercentileCont: _BINARY,
    exp.Placeholder: _UNARY,
    exp.Quantile: {"this", "quantile"},
    exp.Quarter: _UNARY,
    exp.Round: {"this", "decimals"},
    exp.Second: _UNARY,
    exp.Select: _SELECT_PARTS,
    exp.Star: set(),
    exp.Stddev: _UNARY,
    exp.StddevPop: _UNARY,
    exp.StddevSamp: _UNARY,
    exp.Sub: _BINARY,
    exp.Sum: _UNARY,
    exp.Table: _UNARY,
    exp.TimestampTrunc: {"this", "unit", "zone"},
    exp.Tuple: {"expressions"},
    exp.Var: _UNARY,
    exp.Variance: _UNARY,
    exp.VariancePop: _UNARY,
    exp.Week: _UNARY,
    exp.Where: _UNARY,
    exp.WithinGroup: _BINARY,
    exp.Year: _UNARY,
}

# What people try, and what to write instead; by kind of node, then by part of a node.
_INSTEAD: dict[type[exp.Expr], tuple[str, str]] = {
    exp.Subquery: ("a subquery", "Write one SELECT over one table."),
    exp.Join: ("JOIN", "Ask the owner for one table that has both."),
    exp.With: ("WITH", "Write one SELECT over one table."),
    exp.Window: ("a window function", "Group with GROUP BY, and sort or limit the answer."),
    exp.Filter: ("FILTER", "Put the condition into WHERE, or group by a CASE."),
    exp.TableAlias: ("an alias of the table", "There is one table; name columns alone."),
    exp.Lateral: ("LATERAL", "Write one SELECT over one table."),
    exp.Unnest: ("UNNEST", "Write one SELECT over one table."),
    exp.Rollup: ("ROLLUP", "List the columns to group by."),
    exp.Cube: ("CUBE", "List the columns to group by."),
    exp.GroupingSets: ("GROUPING SETS", "List the columns to group by."),
    exp.Offset: ("OFFSET", "Use LIMIT, or cut the answer in the notebook."),
    exp.ILike: ("ILIKE", "Use LIKE, with OR for the spellings."),
    exp.RegexpLike: ("a regular expression", "Use LIKE or IN."),
    exp.Mod: ("%", "Row values are used as they are; arithmetic works on aggregates."),
    exp.IntDiv: ("//", "Use / on aggregates."),
    exp.TryCast: ("TRY_CAST", "Columns have the types of the schema."),
    exp.Hint: ("a hint", "Leave it out."),
    exp.TableSample: ("TABLESAMPLE", "Leave it out."),
}
_PARTS: dict[tuple[type[exp.Expr], str], tuple[str, str]] = {
    (exp.Select, "with_"): _INSTEAD[exp.With],
    (exp.Select, "joins"): _INSTEAD[exp.Join],
    (exp.Select, "distinct"): ("SELECT DISTINCT", "Use GROUP BY and count the rows."),
    (exp.Select, "offset"): _INSTEAD[exp.Offset],
    (exp.Select, "qualify"): ("QUALIFY", "Use HAVING."),
    (exp.Select, "windows"): _INSTEAD[exp.Window],
    (exp.Select, "hint"): _INSTEAD[exp.Hint],
    (exp.Select, "into"): ("INTO", "The answer comes back to the notebook."),
    (exp.Select, "sample"): _INSTEAD[exp.TableSample],
    (exp.Select, "laterals"): _INSTEAD[exp.Lateral],
    (exp.Table, "alias"): _INSTEAD[exp.TableAlias],
    (exp.Table, "db"): ("a qualified table name", "Name the table alone."),
    (exp.Table, "catalog"): ("a qualified table name", "Name the table alone."),
    (exp.Table, "joins"): _INSTEAD[exp.Join],
    (exp.Table, "sample"): _INSTEAD[exp.TableSample],
    (exp.Column, "table"): ("a qualified column", "There is one table; name the column alone."),
    (exp.In, "query"): _INSTEAD[exp.Subquery],
    (exp.In, "unnest"): _INSTEAD[exp.Unnest],
    (exp.Group, "rollup"): _INSTEAD[exp.Rollup],
    (exp.Group, "cube"): _INSTEAD[exp.Cube],
    (exp.Group, "grouping_sets"): _INSTEAD[exp.GroupingSets],
    (exp.Star, "except_"): ("*", "Name aggregates and the columns you group by."),
    (exp.Star, "replace"): ("*", "Name aggregates and the columns you group by."),
}
_AGGREGATES_HINT = (
    "Use COUNT, SUM, AVG, VAR_SAMP, STDDEV, MEDIAN or QUANTILE_CONT; for extremes"
    " QUANTILE_CONT(column, 0.05) and 0.95."
)
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}
_PREFIX = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}


class _Parser(DuckDBParser):
    """sqlglot's parser with an end: where it tries and goes back, time doubles with each nesting.

    A chain of twenty JOINs would take it minutes.
    """

    _steps = 0

    def _advance(self, times: int = 1) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise _TooTangled
        super()._advance(times)


class _TooTangled(Exception):
    """The parser went back and forth too often."""


def refusal(
    problem: str, hint: str, *, code: str = "E_UNSUPPORTED", node: exp.Expr | None = None
) -> QueryRefused:
    """Make the error that refuses a query, naming the line when it is known."""
    line = None if node is None else line_of(node)
    message = problem if line is None else f"Line {line}: {problem}"
    return QueryRefused(message, hint=hint, code=code)


def line_of(node: exp.Expr) -> int | None:
    """Return the first line that a part of the node says it is on."""
    lines = [part.meta["line"] for part in node.walk() if "line" in part.meta]
    return min(lines, default=None)


def shown(node: exp.Expr) -> str:
    """Write a part of the query for an error message, shortened."""
    text = " ".join(node.sql(dialect=_DIALECT, comments=False).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def read_select(sql: str) -> exp.Select:
    """Parse one SELECT and refuse everything outside the private subset.

    Raises
    ------
    QueryRefused
        E_NOT_SELECT when it is not one SELECT statement, E_AGGREGATE for aggregate functions that
        have no private form, E_UNSUPPORTED for everything else. The message names the construct
        and its line, the hint what to write instead.
    """
    try:
        return _read(sql)
    except RecursionError:
        raise refusal("The query is nested too deeply.", "Write it flatter.") from None


def _read(sql: str) -> exp.Select:
    if any(ord(char) < ord(" ") and char not in "\t\n\r" for char in sql) or not _encodable(sql):
        raise refusal("The query has characters that are not text.", "Remove control characters.")
    try:
        tokens = sqlglot.tokenize(sql, read=_DIALECT)
    except SqlglotError:
        raise refusal(
            "The query cannot be read: a quote or comment is not closed, or a character is"
            " unknown.",
            "Texts stand in single quotes, names in double quotes.",
        ) from None
    _check_tokens(tokens)
    sqlglot_log = logging.getLogger("sqlglot")
    quiet, sqlglot_log.disabled = sqlglot_log.disabled, True
    try:
        statements = _Parser(dialect=DuckDB()).parse(tokens, sql)
    except _TooTangled:
        raise refusal(
            "The query is too tangled to be read.", "Write one SELECT over one table, flatter."
        ) from None
    except SqlglotError as unread:
        errors = getattr(unread, "errors", None) or [{}]
        line, near = errors[0].get("line"), errors[0].get("highlight")
        where = "" if line is None else f"Line {line}: "
        place = f" near {near!r:.80}" if near else ""
        raise refusal(
            f"{where}The query cannot be read{place}.", "Check spelling, commas and brackets."
        ) from None
    finally:
        sqlglot_log.disabled = quiet
    found = [statement for statement in statements if statement is not None]
    if len(found) != 1 or type(found[0]) is not exp.Select:
        kind = type(found[0]).__name__.upper() if found else "nothing"
        raise refusal(
            f"One SELECT statement is wanted, not {kind}.",
            "Write SELECT … FROM table GROUP BY ….",
            code="E_NOT_SELECT",
        )
    select = found[0]
    for node in select.walk():
        _check_node(node)
    return select


def _encodable(sql: str) -> bool:
    try:
        sql.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_tokens(tokens: list[Token]) -> None:
    """Refuse what is no SELECT, and what a recursive parser would choke on."""
    hint = "Write SELECT … FROM table GROUP BY …."
    if not tokens:
        raise refusal("The cell has no SQL.", hint, code="E_NOT_SELECT")
    if tokens[0].token_type is TokenType.WITH:
        raise refusal("Line 1: WITH is not supported.", "Write one SELECT over one table.")
    if tokens[0].token_type is not TokenType.SELECT:
        raise refusal(
            f"Line {tokens[0].line}: a query begins with SELECT, not {tokens[0].text[:_SHOWN]!r}.",
            hint,
            code="E_NOT_SELECT",
        )
    if len(tokens) > _MOST_TOKENS:
        raise refusal(
            f"The query has {len(tokens)} words and signs; at most {_MOST_TOKENS} are read.",
            "Ask a shorter question.",
        )
    depth = run = 0
    for place, token in enumerate(tokens):
        if token.token_type is TokenType.L_BRACE:
            inside = tokens[place + 1].text if place + 1 < len(tokens) else ""
            name = inside if inside.isidentifier() else "name"
            raise refusal(
                f"Line {token.line}: {{…}} is not supported: nothing is put into the text.",
                f"Values from the notebook: write :{name} and add --param {name} "
                f"(in Python params={{{name!r}: …}}).",
            )
        if token.token_type is TokenType.SEMICOLON and any(
            later.token_type is not TokenType.SEMICOLON for later in tokens[place:]
        ):
            raise refusal(
                f"Line {token.line}: there is more after the first statement.",
                "Ask one question per cell.",
                code="E_NOT_SELECT",
            )
        depth += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        run = run + 1 if token.token_type in _PREFIX else 0
        if depth + run > _DEEPEST:
            raise refusal(
                f"Line {token.line}: the query is nested too deeply.", "Write it flatter."
            )


def _check_node(node: exp.Expr) -> None:
    kind = type(node)
    allowed = _ALLOWED.get(kind)
    if allowed is None:
        raise _kind_refusal(node)
    for part, value in node.args.items():
        if part in allowed or value is None or value is False or value == []:
            continue
        what, instead = _PARTS.get(
            (kind, part),
            (f"{part.strip('_').replace('_', ' ')!r} in {shown(node)}", "Leave it out."),
        )
        raise refusal(f"{what} is not supported.", instead, node=node)


def _kind_refusal(node: exp.Expr) -> QueryRefused:
    kind = type(node)
    if kind in _INSTEAD:
        what, instead = _INSTEAD[kind]
        return refusal(f"{what} is not supported.", instead, node=node)
    if isinstance(node, exp.Query):
        instead = _INSTEAD[exp.Subquery][1]
        return refusal("A query inside the query is not supported.", instead, node=node)
    if isinstance(node, exp.AggFunc):
        return refusal(
            f"{shown(node)} has no private form.", _AGGREGATES_HINT, code="E_AGGREGATE", node=node
        )
    if isinstance(node, exp.Func):
        return function_refusal(node)
    return refusal(
        f"{shown(node)} ({kind.__name__}) is not supported.",
        "Use SELECT with aggregates, WHERE, GROUP BY, HAVING, ORDER BY and LIMIT.",
        node=node,
    )


def function_refusal(node: exp.Expr) -> QueryRefused:
    """Make the error that refuses a function that the private subset does not know."""
    return refusal(
        f"the function {shown(node)} is not supported.",
        "Rows can be filtered and grouped by columns, CASE and date parts; arithmetic and ROUND"
        " work on aggregates.",
        node=node,
    )


def chain_of(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the conditions of a chain of AND, or of OR, without recursion."""
    kind, waiting = type(node), [node]
    while waiting:
        part = waiting.pop()
        if type(part) is kind:
            waiting += [part.expression, part.this]
        else:
            yield part
