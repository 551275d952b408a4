"""Whether a Python cell can be sent: what can be told of it without running it."""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from typing import TYPE_CHECKING

from privnb.errors import QueryRefused

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["names_bound", "require_code", "require_runnable"]

_SQL = re.compile(r"(\s|--[^\n]*\n)*(select|with\b.*\bselect)\b", re.IGNORECASE | re.DOTALL)
_SHOWS_NOTHING = {"print", "plt.show", "display"}
_END = "End the cell with what you want back, or name it with --output NAME (in Python output=…)."


def require_runnable(
    source: str, *, tables: Collection[str], parameters: Collection[str], output: str | None
) -> None:
    """Make sure that a cell compiles, declares an output, and keeps its names apart.

    Whether the packages that it imports are there is for the site to say. Raises `QueryRefused`:
    E_PYTHON for the code itself, E_OUTPUT when nothing would come back, E_PARAMETER for a
    parameter with a table's name.

    >>> require_runnable("visits.mdvis.mean()", tables=["visits"], parameters=[], output=None)
    """
    last = require_code(source, tables=tables, parameters=parameters)
    if output is None:
        _require_last_expression(last)
    elif output not in (bound := names_bound(source)):
        known = f" It assigns: {', '.join(bound[:10])}." if bound else ""
        raise QueryRefused(
            f"The cell never assigns {output!r}, which --output names.",
            hint=f"Add a line {output} = ….{known}",
            code="E_OUTPUT",
        )


def require_code(source: str, *, tables: Collection[str], parameters: Collection[str]) -> ast.stmt:
    """Make sure that a cell compiles and keeps its names apart; return its last statement.

    Raises as `require_runnable` does.
    """
    tree = _parsed(source)
    shadowed = sorted(set(parameters) & set(tables))
    if shadowed:
        raise QueryRefused(
            f"{shadowed[0]!r} is a parameter and a table.",
            hint=f"Give the parameter another name, such as {shadowed[0]}_limit.",
            code="E_PARAMETER",
        )
    if not tree.body:
        raise QueryRefused("The cell has no code.", hint=_END, code="E_OUTPUT")
    return tree.body[-1]


def names_bound(source: str) -> list[str]:
    """List the names that code which compiles assigns or imports, outside of functions.

    >>> names_bound("import math; x = 1")
    ['math', 'x']
    """
    scope = symtable.symtable(source, "<cell>", "exec")
    return sorted(s.get_name() for s in scope.get_symbols() if s.is_assigned() or s.is_imported())


def _parsed(source: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text of a cell that does not run here
            compile(source, "<cell>", "exec", dont_inherit=True)
            return ast.parse(source)
    except SyntaxError as error:
        raise _not_python(source, error) from None
    except (ValueError, RecursionError, MemoryError):
        raise QueryRefused(
            "The cell is not Python that can be read.",
            hint="It holds a null character, or is nested too deeply.",
            code="E_PYTHON",
        ) from None


def _not_python(source: str, error: SyntaxError) -> QueryRefused:
    if _SQL.match(source):
        return QueryRefused(
            "The cell reads as SQL, but was sent as Python.",
            hint="Leave out --table, --output and --language python: SQL names its table itself.",
            code="E_PYTHON",
        )
    lines = source.splitlines()
    line = min(error.lineno or 1, len(lines) or 1)
    text = lines[line - 1].strip()[:100] if lines else ""
    message = f"Line {line} of the cell is not Python: {error.msg}."
    if text.startswith(("%", "!")):
        hint = f"{text.split()[0]} is a command of the notebook; it has no meaning at a site."
    else:
        hint = f"The line reads: {text}" if text else "The line is empty."
    return QueryRefused(message, hint=hint, code="E_PYTHON")


def _require_last_expression(last: ast.stmt) -> None:
    if isinstance(last, ast.Expr):
        call = last.value
        if isinstance(call, ast.Call) and (called := ast.unparse(call.func)) in _SHOWS_NOTHING:
            raise QueryRefused(
                f"The cell ends with {called}(), which gives nothing back.",
                hint="What is printed or shown stays at the site. " + _END,
                code="E_OUTPUT",
            )
        return
    hint = _END
    if isinstance(last, ast.Assign | ast.AnnAssign | ast.AugAssign):
        target = last.targets[0] if isinstance(last, ast.Assign) else last.target
        if isinstance(target, ast.Name):
            hint = f"Add a last line {target.id}, or --output {target.id} (in Python output=…)."
    raise QueryRefused(
        "The cell declares no output: its last line is not an expression.",
        hint=hint,
        code="E_OUTPUT",
    )
