"""What to look for in a cell that is to run on people's data: our own rules, over its tree.

The rules describe; they do not judge, and they are no wall: the sandbox is. What they cannot see
they do not call safe.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from typing import TYPE_CHECKING

from privnb.site.scanning.words import ATTRIBUTES, MODULES, NAMES, SINGLE_VALUES, SUMMARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from privnb.site.scanning.code import Code
    from privnb.site.scanning.text import Remark

__all__ = ["RULES", "imports_of", "is_part_of_python", "whole_tables"]

_INNER = re.compile(r"__\w+__")
_HARMLESS_INNER = frozenset({"__name__", "__doc__", "__version__", "__init__", "__len__"})
_LONG_TEXT = 500
_LOOPED = frozenset({"items", "iterrows", "itertuples", "iteritems", "to_dict", "to_records"})
_TEXT_METHODS = frozenset({"format", "format_map", "join", "cat"})
_WHOLE_ENOUGH = frozenset({"shape", "size", "empty", "ndim"})


def imports_of(code: Code) -> Iterator[tuple[int, str]]:
    """Go through the imported modules, each with its line."""
    for node in code.nodes:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name
            case ast.ImportFrom(module=module, level=level):
                yield node.lineno, "." * level + (module or "")


def is_part_of_python(module: str) -> bool:
    """Tell whether a module comes with Python itself."""
    return module.partition(".")[0] in sys.stdlib_module_names


def _imports(code: Code) -> Iterator[Remark]:
    for line, module in imports_of(code):
        words = MODULES.get(module.partition(".")[0])
        if words is not None:
            yield 0, line, "import", f"{words}: import {module[:60]}"


def _names(code: Code) -> Iterator[Remark]:
    for node in code.nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                words = NAMES.get(name)
                parent = code.parent(node)
                quoted = parent if isinstance(parent, ast.Call) and parent.func is node else node
                if words is not None:
                    topic = "text" if "as code" in words else "file" if "file" in words else name
                    yield 0, node.lineno, topic, f"{words}: {code.text(quoted)}"
                if _INNER.fullmatch(name) and name not in _HARMLESS_INNER and words is None:
                    yield 0, node.lineno, "inner", f"uses Python's inner names: {name[:60]}"
            case ast.Attribute(attr=attr):
                yield from _attribute(code, node, attr)
            case ast.Constant(value=str(text)) if _INNER.search(text) and len(text) < _LONG_TEXT:
                yield 0, node.lineno, "inner", f"names Python's inner names: {code.text(node)}"


def _attribute(code: Code, node: ast.Attribute, attr: str) -> Iterator[Remark]:
    line = node.end_lineno or node.lineno
    if attr in ATTRIBUTES:
        words = ATTRIBUTES[attr]
        rank = 2 if "expression" in words else 1
        yield rank, line, "file" if "file" in words else attr, f"{words}: {code.text(node)}"
    elif _INNER.fullmatch(attr) and attr not in _HARMLESS_INNER:
        yield 0, line, "inner", f"uses Python's inner names: .{attr[:60]}"
    elif (attr in MODULES and not isinstance(code.parent(node), ast.Attribute | ast.Call)) or (
        attr in MODULES and attr in _ALWAYS_MODULES
    ):
        yield 0, line, "import", f"{MODULES[attr]}, by way of another module: {code.text(node)}"


_ALWAYS_MODULES = frozenset(
    {"os", "sys", "subprocess", "ctypes", "importlib", "builtins", "socket"}
)


def _single_values(code: Code) -> Iterator[Remark]:
    for node in code.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            attr = node.func.attr
            if attr in SINGLE_VALUES:
                words = "may show values of single people, such as the largest or a rare one"
                line = node.func.end_lineno or node.lineno
                yield 1, line, "single", f"{words}: {code.text(node)}"


def _row_loops(code: Code) -> Iterator[Remark]:
    for node in code.nodes:
        match node:
            case ast.For(iter=source) | ast.AsyncFor(iter=source):
                if _goes_through_rows(code, source):
                    yield (
                        1,
                        node.lineno,
                        "rows",
                        f"goes through rows one by one: {code.text(source)}",
                    )
            case ast.comprehension(iter=source):
                if _goes_through_rows(code, source):
                    told = f"goes through rows one by one: {code.text(source)}"
                    yield 1, source.lineno, "rows", told
            case ast.Call(func=ast.Attribute(attr="apply"), keywords=keywords):
                if any(k.arg == "axis" and _is_row_axis(k.value) for k in keywords):
                    yield 1, node.lineno, "rows", f"goes through rows one by one: {code.text(node)}"


def _is_row_axis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (1, "columns")


def _goes_through_rows(code: Code, source: ast.expr) -> bool:
    match source:
        case ast.Call(func=ast.Attribute(attr=attr)) if attr in _LOOPED:
            return True
        case ast.Call(func=ast.Name(id="range" | "enumerate" | "zip"), args=args):
            inner = [a.args[0] if isinstance(a, ast.Call) and a.args else a for a in args]
            return any(code.holds_rows(part) for part in inner)
    return code.holds_rows(source)


def _built_texts(code: Code) -> Iterator[Remark]:
    words = "builds text out of values"
    for node in code.nodes:
        match node:
            case ast.JoinedStr(values=values):
                if any(isinstance(value, ast.FormattedValue) for value in values):
                    yield 2, node.lineno, "builds", f"{words}: {code.text(node)}"
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in _TEXT_METHODS:
                line = node.func.end_lineno or node.lineno
                yield 2, line, "builds", f"{words}: {code.text(node)}"
            case ast.Call(func=ast.Attribute(attr="astype"), args=[ast.Name(id="str"), *_]):
                yield 2, node.lineno, "builds", f"{words}: {code.text(node)}"
            case ast.Call(func=ast.Name(id="str" | "repr" | "format" | "ascii"), args=[_, *_]):
                yield 2, node.lineno, "builds", f"{words}: {code.text(node)}"
            case ast.BinOp(left=ast.Constant(value=str()), op=ast.Mod() | ast.Add()):
                yield 2, node.lineno, "builds", f"{words}: {code.text(node)}"


def _long_texts(code: Code) -> Iterator[Remark]:
    for node in code.nodes:
        match node:
            case ast.Constant(value=str() | bytes() as text) if len(text) > _LONG_TEXT:
                told = f"holds a text of {len(text):,} characters: {code.text(node)}"
                yield 2, node.lineno, "long text", told


def _dead_code(code: Code) -> Iterator[Remark]:
    ends = (ast.Return, ast.Raise, ast.Continue, ast.Break)
    for node in code.nodes:
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if not isinstance(block, list):
                continue
            for before, after in itertools.pairwise(block):
                if isinstance(before, ends):
                    yield 2, after.lineno, "dead", f"is never reached: {code.text(after)}"
                    break
        match node:
            case ast.If(test=ast.Constant(value=value)) | ast.While(test=ast.Constant(value=value)):
                if not value:
                    yield 2, node.lineno, "dead", f"never runs: {code.text(node)}"
                elif isinstance(node, ast.While):
                    yield 3, node.lineno, "endless", f"may go on without end: {code.text(node)}"
    yield from _unused(code)


def _unused(code: Code) -> Iterator[Remark]:
    used = {n.id for n in code.nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    for node in code.nodes:
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                if name not in used and not isinstance(code.parent(node), ast.ClassDef):
                    yield 3, node.lineno, "unused", f"makes {name[:60]}, which is never used"
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    name = (alias.asname or alias.name).partition(".")[0]
                    if name not in used and name != "*":
                        yield 3, node.lineno, "unused", f"imports {name[:60]}, which is never used"


def whole_tables(code: Code) -> Iterator[tuple[ast.Name, str]]:
    """Find where it cannot be told which columns of a table are used, and why not."""
    for node in code.nodes:
        if isinstance(node, ast.Name) and code.is_table(node) and isinstance(node.ctx, ast.Load):
            reason = _why_untold(code, node, code.tables[node.id])
            if reason:
                yield node, reason


def _why_untold(  # noqa: PLR0911 - one for each way of using a table
    code: Code, node: ast.Name, columns: frozenset[str]
) -> str:
    whole = "uses all columns"
    value: ast.AST = node
    while True:
        parent = code.parent(value)
        match parent:
            case ast.Call(func=ast.Name(id="len")):
                return ""
            case ast.Attribute(attr=attr) if attr in columns or attr in _WHOLE_ENOUGH:
                return ""
            case ast.Attribute(attr="loc" | "at"):
                access = code.parent(parent)
                if not isinstance(access, ast.Subscript) or access.value is not parent:
                    return whole
                which = access.slice.elts[-1] if isinstance(access.slice, ast.Tuple) else None
                return whole if which is None else _chosen(which)
            case ast.Attribute():
                call = code.parent(parent)
                if not isinstance(call, ast.Call) or call.func is not parent:
                    return whole
                value = call  # visits.groupby("plan")["cost"]: what follows chooses
            case ast.Subscript(value=subject, slice=which) if subject is value:
                if not _is_mask(which):
                    return _chosen(which)
                value = parent
            case _:
                return whole


def _is_mask(which: ast.expr) -> bool:
    """Tell whether a subscript chooses rows."""
    return isinstance(which, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Call | ast.Slice) or (
        isinstance(which, ast.BinOp) and isinstance(which.op, ast.BitAnd | ast.BitOr | ast.BitXor)
    )


def _chosen(which: ast.expr) -> str:
    match which:
        case ast.Constant():
            return ""
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            if all(isinstance(element, ast.Constant) for element in elements):
                return ""
    return "computes the names of columns"


def _untold_columns(code: Code) -> Iterator[Remark]:
    for node, reason in whole_tables(code):
        parent = code.parent(node)
        quoted = parent if isinstance(parent, ast.expr) else node
        told = f"cannot tell which columns of {node.id} are used: it {reason}: {code.text(quoted)}"
        yield 2, node.lineno, f"columns of {node.id}", told


RULES: tuple[Callable[[Code], Iterator[Remark]], ...] = (
    _imports,
    _names,
    _single_values,
    _row_loops,
    _built_texts,
    _long_texts,
    _dead_code,
    _untold_columns,
)


def declared_output(code: Code, output: str | None) -> Iterator[Remark]:
    """Say of the declared output what can be seen: that it is rows, or that there is none."""
    value = code.declared(output)
    if value is None:
        last = code.tree.body[-1].lineno if code.tree.body else 1
        if output is None:
            yield 1, last, "output", "does not end with an expression, so there is no output"
        else:
            yield 1, last, "output", f"cannot tell where {output[:60]} gets its value"
    elif code.holds_rows(value):
        told = f"lets out rows of the data, or one value per row, not a summary: {code.text(value)}"
        yield 1, value.lineno, "output", told
    elif isinstance(value, ast.Call) and not _summarises(value):
        told = f"cannot tell whether the output is a summary: {code.text(value)}"
        yield 2, value.lineno, "output", told


def _summarises(value: ast.expr) -> bool:
    while True:
        match value:
            case ast.Call(func=ast.Attribute(attr=attr) | ast.Name(id=attr)) if attr in SUMMARIES:
                return True
            case ast.Call(func=func):
                value = func
            case ast.Attribute(value=inner) | ast.Subscript(value=inner):
                value = inner
            case _:
                return False
