"""A cell's code in plain words, for a reviewer who may not be a programmer.

The scan says what the code touches and what is unusual in it: imports, columns, files, single rows,
hidden characters. It reads, and never runs, the code; it accepts any text; it describes and decides
nothing.
"""

from __future__ import annotations

import ast
import difflib
import re
from typing import TYPE_CHECKING

from privnb import wire
from privnb.computation import MAX_SOURCE_BYTES
from privnb.site.federated.words import facts_of
from privnb.site.scanning.code import Code, parse
from privnb.site.scanning.rules import (
    RULES,
    declared_output,
    imports_of,
    is_part_of_python,
    whole_tables,
)
from privnb.site.scanning.text import Remark, clipped, lines_of, shown, text_remarks
from privnb.site.scanning.words import DISTRIBUTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privnb.computation import Computation
    from privnb.dp.schema import TableSchema

__all__ = ["MOST_LINES", "Scan", "difference", "scan", "similarity"]

MOST_LINES = 1500
"""The longest code that is compared line by line: comparing takes the square of it."""

_FLOWER = "flwr"
"""Offered beside the packages where several sites train."""
_MOST_OF_A_KIND = 12
_MOST_FINDINGS = 120
_MOST_NAMES = 300
_CONTEXT_LINES = 3
_WORD = re.compile(r"[A-Za-z_]\w*")


@wire.message
class Scan:
    """What a scan found; texts from the code are quoted so that nothing in them hides."""

    findings: tuple[str, ...]
    """In plain words, the gravest first: 'line 3: opens a file: open("x")'."""
    imports: tuple[str, ...]
    """Each with whether it is there: 'pandas', 'json (part of Python)', 'httpx (not offered)'."""
    columns: tuple[str, ...]
    """Columns that the code names, as 'visits.age'; 'visits: all' where it uses all of a table."""
    lines: int


def scan(
    computation: Computation, *, packages: Iterable[str], schemas: Iterable[TableSchema]
) -> Scan:
    """Describe a Python computation. Pure: it reads nothing but its arguments.

    Accepts any source up to the size of a cell, in bounded time.

    Parameters
    ----------
    packages
        The packages offered inside, by their names on the package index.
    schemas
        The public schemas of the site's tables; those that the cell gets are looked at.

    Examples
    --------
    >>> from privnb.computation import Computation
    >>> scan(Computation(kind="python", source="open('x')"), packages=(), schemas=()).findings[0]
    "line 1: opens a file: open('x')"
    """
    source = computation.source[:MAX_SOURCE_BYTES]
    wanted = computation.tables or ()
    tables = {schema.name: schema for schema in schemas if schema.name in wanted}
    if computation.federation is not None:
        packages = (*packages, _FLOWER)
    remarks = list(text_remarks(source))
    tree = parse(source)
    if tree is None:
        remarks.append((0, 1, "syntax", "Python cannot read this code: it would only fail"))
        return Scan(findings=_told(remarks), imports=(), columns=(), lines=len(lines_of(source)))
    code = Code(source, tree, {name: _columns(schema) for name, schema in tables.items()})
    for rule in RULES:
        remarks += rule(code)
    if computation.federation is None:  # sums of several sites are what comes of it otherwise
        remarks += declared_output(code, computation.output)
    remarks += _unit_remarks(code, tables.values())
    remarks += _not_offered(code, packages)
    remarks += _from_bandit(code, source, known={(line, topic) for _, line, topic, _ in remarks})
    return Scan(
        findings=_told(remarks),
        imports=_imports(code, packages),
        columns=_used(code),
        lines=len(lines_of(source)),
    )


def _columns(schema: TableSchema) -> frozenset[str]:
    return frozenset(c.name for c in schema.columns if c.name != schema.privacy_unit)


def _told(remarks: list[Remark]) -> tuple[str, ...]:
    """Put remarks into words: the gravest first, nothing twice, and not too many of a kind."""
    told: list[str] = []
    of_a_kind: dict[str, int] = {}
    for _, line, topic, words in sorted(set(remarks)):
        of_a_kind[topic] = of_a_kind.get(topic, 0) + 1
        if of_a_kind[topic] <= _MOST_OF_A_KIND:
            told.append(f"line {line}: {words}")
    told = told[:_MOST_FINDINGS]
    left = len(set(remarks)) - len(told)
    if left:
        told.append(f"and {left:,} more remarks of these kinds: look at the whole code")
    return tuple(told)


def _from_bandit(code: Code, source: str, *, known: set[tuple[int, str]]) -> Iterator[Remark]:
    """Add what Bandit finds beyond our own rules."""
    from privnb.site.scanning.findings import MOST_NODES, bandit_remarks  # noqa: PLC0415 - takes a third of a second

    if len(code.nodes) > MOST_NODES:
        yield 1, 1, "bandit", "is too much code for Bandit to look at"
        return
    lines = lines_of(source)
    for rank, line, topic, words in bandit_remarks(source):
        if (line, topic) not in known:
            at = clipped(lines[line - 1]) if 0 < line <= len(lines) else ""
            yield rank, line, topic, f"{words}: {at}"


def _unit_remarks(code: Code, schemas: Iterable[TableSchema]) -> Iterator[Remark]:
    units = {schema.privacy_unit: schema for schema in schemas}
    for node in code.nodes:
        match node:
            case ast.Attribute(attr=name) | ast.Constant(value=str(name)) if name in units:
                unit = units[name]
                told = f"names {name!r}, which tells whose row it is: {unit.name} comes without it"
                yield 0, node.lineno, "unit", told


def _offered(packages: Iterable[str]) -> frozenset[str]:
    return frozenset(
        DISTRIBUTIONS.get(name.lower(), name.lower().replace("-", "_")) for name in packages
    )


def _not_offered(code: Code, packages: Iterable[str]) -> Iterator[Remark]:
    offered = _offered(packages)
    for line, module in imports_of(code):
        top = module.partition(".")[0]
        if top not in offered and not is_part_of_python(top):
            yield 1, line, "not offered", f"imports {module[:60] or '.'}, which is not offered here"


def _imports(code: Code, packages: Iterable[str]) -> tuple[str, ...]:
    offered = _offered(packages)
    found = dict.fromkeys(module[:80] for _, module in imports_of(code))
    told = []
    for module in found:
        top = module.partition(".")[0]
        note = ""
        if top not in offered:
            note = " (part of Python)" if is_part_of_python(top) else " (not offered)"
        told.append(module + note)
    return tuple(told[:_MOST_NAMES])


def _used(code: Code) -> tuple[str, ...]:
    names: set[str] = set()
    for node in code.nodes:
        match node:
            case ast.Attribute(attr=attr):
                names.add(attr)
            case ast.keyword(arg=str(arg)):
                names.add(arg)
            case ast.Constant(value=str(text)):
                names.add(text)
                names.update(_WORD.findall(text))  # formulas and queries name columns too
    whole = {node.id for node, _ in whole_tables(code)}
    used: list[str] = []
    for table, columns in code.tables.items():
        used += [f"{table}: all"] if table in whole else []
        used += [f"{table}.{column}" for column in sorted(columns & names)]
    return tuple(used[:_MOST_NAMES])


# Comparing


def similarity(earlier: str, later: str) -> float:
    """Tell how much of two cells is the same, from 0 to 1, line by line; quick for any code."""
    matcher = difflib.SequenceMatcher(None, lines_of(earlier), lines_of(later), autojunk=False)
    return matcher.quick_ratio()


def difference(earlier: Computation, later: Computation) -> str:
    """Show what changed: a unified diff of the code, and of all that goes with it.

    Empty where nothing did. Line ends are not compared.
    """
    before, after = lines_of(earlier.source), lines_of(later.source)
    parts: list[str] = []
    if max(len(before), len(after)) <= MOST_LINES:
        parts += difflib.unified_diff(
            before, after, "earlier", "this one", lineterm="", n=_CONTEXT_LINES
        )
    elif before != after:
        parts.append(f"@@ too long to compare: {len(before):,} and {len(after):,} lines @@")
    around = list(_differing(_around(earlier), _around(later)))
    if around:
        parts += ["@@ what goes with the code @@", *around]
    return "\n".join(parts)


def _around(computation: Computation) -> dict[str, str]:
    said = {
        "purpose": computation.purpose or "",
        "tables": ", ".join(computation.tables or ()),
        "output": computation.output or "the last expression",
        **dict(facts_of(computation.federation)),
    }
    parameters = computation.parameters or {}
    for name, value in parameters.items():
        said[f"parameter {name}"] = wire.canonical_json(value).decode()
    return said


def _differing(before: dict[str, str], after: dict[str, str]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            for sign, said in (("-", before), ("+", after)):
                if name in said:  # a name may hold line breaks, and must not add lines here
                    yield sign + shown(f"{name}: {said[name]}")
