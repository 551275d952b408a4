"""A parsed cell, with what the rules of the scan ask of it again and again."""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING

from privnb.site.scanning.text import clipped, lines_of
from privnb.site.scanning.words import ROW_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Code", "parse"]

_DEEPEST = 60
_MAKERS = frozenset(
    [
        "DataFrame",
        "Series",
        "array",
        "asarray",
        "concat",
        "dict",
        "enumerate",
        "list",
        "merge",
        "print",
        "repr",
        "reversed",
        "set",
        "sorted",
        "str",
        "tuple",
        "zip",
        "display",
    ]
)
"""Functions that give the rows they are given."""
_STATEMENTS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def parse(source: str) -> ast.Module | None:
    """Parse a cell of any content; None where Python would not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None


class Code:
    """The tree of a cell, seen from its tables.

    Parameters
    ----------
    tables
        The columns of each table, by the name under which the cell gets it.
    """

    def __init__(self, source: str, tree: ast.Module, tables: Mapping[str, frozenset[str]]) -> None:
        self.tree = tree
        self.tables = tables
        self.nodes = list(ast.walk(tree))
        self._lines = [line.encode("utf-8", "replace") for line in lines_of(source)]
        self._parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}
        self._rows = dict.fromkeys(tables, True)
        self._follow_assignments()

    def parent(self, node: ast.AST) -> ast.AST | None:
        """Return the node that encloses a node."""
        return self._parents.get(node)

    def text(self, node: ast.AST) -> str:
        """Quote a node's source, in one short line."""
        first = getattr(node, "lineno", 0)
        if not 0 < first <= len(self._lines):
            return ""
        line = self._lines[first - 1]
        start, end = getattr(node, "col_offset", 0), getattr(node, "end_col_offset", None)
        if getattr(node, "end_lineno", first) != first:
            return clipped(line[start:].decode("utf-8", "replace") + " …")
        return clipped(line[start:end].decode("utf-8", "replace"))

    def is_table(self, node: ast.AST | None) -> bool:
        """Tell whether a node names a table."""
        return isinstance(node, ast.Name) and node.id in self.tables

    def outermost(self) -> Iterator[ast.stmt]:
        """Go through the statements that run for sure, or under a plain condition."""
        waiting = list(reversed(self.tree.body))
        while waiting:
            statement = waiting.pop()
            yield statement
            if not isinstance(statement, _STATEMENTS):
                inner = [c for c in ast.iter_child_nodes(statement) if isinstance(c, ast.stmt)]
                waiting.extend(reversed(inner))

    def holds_rows(  # noqa: C901, PLR0912 - one case for each kind of expression
        self, node: ast.AST | None, *, depth: int = 0
    ) -> bool:
        """Tell whether a value, as far as can be seen, has the rows of a table or some of them.

        False means that it cannot be seen, not that it is a summary.
        """
        if depth > _DEEPEST:
            return False
        parts: list[ast.AST | None] = []
        match node:
            case ast.Name(id=name):
                return self._rows.get(name, False)
            case ast.Attribute(value=value, attr=attr):
                wanted = attr in ROW_METHODS or any(attr in cols for cols in self.tables.values())
                parts = [value] if wanted else []
            case ast.Subscript(value=value) | ast.Starred(value=value):
                parts = [value]
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                parts = [value]
            case ast.Call(func=ast.Attribute(attr=attr) as func, args=args):
                if attr in ROW_METHODS:
                    parts = [func.value]
                parts += args if attr in _MAKERS else []
            case ast.Call(func=ast.Name(id=name), args=args) if name in _MAKERS:
                parts = list(args)
            case ast.BinOp(left=left, right=right):
                parts = [left, right]
            case ast.UnaryOp(operand=operand):
                parts = [operand]
            case ast.Compare(left=left, comparators=others):
                parts = [left, *others]
            case ast.IfExp(body=body, orelse=orelse):
                parts = [body, orelse]
            case ast.List(elts=elements) | ast.Tuple(elts=elements) | ast.Set(elts=elements):
                parts = list(elements)
            case ast.Dict(values=values):
                parts = list(values)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                parts = [generator.iter for generator in node.generators]
        return any(self.holds_rows(part, depth=depth + 1) for part in parts)

    def _follow_assignments(self) -> None:
        """Let names that were given rows stand for rows; one that is given something else, not."""
        for statement in self.outermost():
            match statement:
                case ast.Assign(targets=targets, value=value):
                    names = [target.id for target in targets if isinstance(target, ast.Name)]
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    names = [name]
                case _:
                    continue
            if names:
                holds = self.holds_rows(value)
                self._rows.update(dict.fromkeys(names, holds))

    def declared(self, output: str | None) -> ast.expr | None:
        """Return the expression that the cell declares as its output, if it can be seen."""
        if output is None:
            last = self.tree.body[-1] if self.tree.body else None
            return last.value if isinstance(last, ast.Expr) else None
        found = None
        for statement in self.outermost():
            match statement:
                case ast.Assign(targets=targets, value=value):
                    if any(isinstance(t, ast.Name) and t.id == output for t in targets):
                        found = value
                case ast.AnnAssign(target=ast.Name(id=name), value=value) if name == output:
                    found = value
        return found
