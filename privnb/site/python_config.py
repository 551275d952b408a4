"""What ``site.toml`` says of Python cells: what they may do, and which of them the owner wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from privnb.computation import MAX_SOURCE_BYTES, Computation, Parameters, Scalar
from privnb.dp.schema import TableSchema
from privnb.site.toml_reader import Section

__all__ = [
    "DEFAULT_PACKAGES",
    "RUNS_PER_ANALYST",
    "ParameterRule",
    "PythonConfig",
    "Template",
    "read_python",
]

DEFAULT_PACKAGES = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib")

RUNS_PER_ANALYST = 20
"""How often one analyst gets what no human looks at, where the owner says nothing else."""

_KINDS = {"integer": int, "float": float, "string": str, "boolean": bool}
_KIND_HINT = f"Write one of {', '.join(_KINDS)}."


@dataclass(frozen=True, kw_only=True)
class PythonConfig:
    """What a Python cell may use and give."""

    packages: tuple[str, ...] = DEFAULT_PACKAGES
    """Distributions that a cell may import, by their names on the package index."""
    seconds: int = 60
    """The longest a cell may run, on the wall and on the processor."""
    memory_mb: int = 2048
    max_rows: int = 200
    """How many rows an output may have before a reviewer has to look at it."""
    max_bytes: int = 200_000
    """How large an output may be, as it travels, before a reviewer has to look at it."""
    min_units: int = 10
    """How many privacy units must stand behind each group that the gate recognises."""
    workers: int = 2
    """How many cells may run at a time; each keeps a warm worker of some 100 MB."""
    allow_unsandboxed: bool = False
    """Whether cells may run where the operating system has no sandbox; every label says so."""


@dataclass(frozen=True, kw_only=True)
class ParameterRule:
    """What an analyst may give for one parameter of a template."""

    type: Literal["integer", "float", "string", "boolean"]
    bounds: tuple[float, float] | None = None
    values: tuple[Scalar, ...] | None = None

    def allows(self, value: Scalar | Sequence[Scalar]) -> bool:
        """Tell whether exactly this value may be given.

        >>> rule = ParameterRule(type="integer", bounds=(0, 65))
        >>> rule.allows(65), rule.allows(66), rule.allows(True), rule.allows("65")
        (True, False, False, False)
        """
        if type(value) is not _KINDS[self.type]:
            return False
        if self.values is not None and value not in self.values:
            return False
        return self.bounds is None or self.bounds[0] <= cast("float", value) <= self.bounds[1]

    @property
    def in_words(self) -> str:
        """What may be given, for analysts to read."""
        if self.values is not None:
            return f"{self.type}: {', '.join(map(str, self.values))}"
        if self.bounds is not None:
            return f"{self.type}, {self.bounds[0]:g} to {self.bounds[1]:g}"
        return self.type


@dataclass(frozen=True, kw_only=True)
class Template:
    """A cell that the owner wrote and releases without a human, whatever its parameters are."""

    name: str
    source: str
    tables: tuple[str, ...]
    purposes: tuple[str, ...]
    """The purposes for which it is released."""
    output: str | None
    description: str
    parameters: Mapping[str, ParameterRule]
    runs_per_analyst: int
    """How often one analyst gets it: answers with different parameters can be compared."""

    def covers(self, computation: Computation) -> bool:
        """Tell whether a computation is this template, to the byte, with parameters it allows."""
        given: Parameters = computation.parameters or {}
        return (
            computation.kind == "python"
            and computation.federation is None
            and computation.source == self.source
            and computation.tables == self.tables
            and computation.output == self.output
            and computation.purpose in self.purposes
            and given.keys() == self.parameters.keys()
            and all(rule.allows(given[name]) for name, rule in self.parameters.items())
        )


def read_python(
    root: Section, *, directory: Path, schemas: Mapping[str, TableSchema]
) -> tuple[PythonConfig | None, tuple[Template, ...]]:
    """Read ``[python]`` and ``[templates.*]``; raise `ConfigError` at the first mistake.

    Without ``[python]`` no Python is taken, and there can be no templates.
    """
    hint = "Begin with a line [python]; every key below it is optional."
    offered = _read_limits(root.section("python", hint=hint)) if root.has("python") else None
    declared = root.section(
        "templates", required=False, hint="Declare a template under [templates.NAME]."
    )
    names = declared.keys()
    if names and offered is None:
        declared.fail("Templates are Python, which this site does not take.", names[0], hint=hint)
    templates = tuple(
        _read_template(declared.section(name, hint=hint), name, directory, schemas)
        for name in names
    )
    return offered, templates


def _read_limits(section: Section) -> PythonConfig:
    default = PythonConfig()
    packages = section.texts("packages", hint='Write for example packages = ["numpy", "pandas"].')
    for number, package in enumerate(packages):
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", package):
            hint = "Write the name by which pip installs it, without a version."
            section.fail(f"{package!r} cannot be a package.", "packages", number, hint=hint)

    def number_of(key: str, usual: int, what: str) -> int:
        hint = f"Say {what}, for example {key} = {usual}."
        return section.integer(key, lowest=1, hint=hint) if section.has(key) else usual

    config = PythonConfig(
        packages=packages if section.has("packages") else default.packages,
        seconds=number_of("seconds", default.seconds, "how long a cell may run"),
        memory_mb=number_of("memory_mb", default.memory_mb, "how much memory a cell may use"),
        max_rows=number_of("max_rows", default.max_rows, "how many rows an output may have"),
        max_bytes=number_of("max_bytes", default.max_bytes, "how large an output may be"),
        min_units=number_of(
            "min_units", default.min_units, "how many privacy units each row must stand for"
        ),
        workers=number_of("workers", default.workers, "how many cells may run at a time"),
        allow_unsandboxed=section.flag(
            "allow_unsandboxed", hint="Say true or false.", default=False
        ),
    )
    section.finish()
    return config


def _read_template(
    section: Section, name: str, directory: Path, schemas: Mapping[str, TableSchema]
) -> Template:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        section.fail(
            f"{name!r} cannot be a template's name.",
            hint="Use lower-case letters, digits and underscores.",
        )
    source = _read_source(section, directory)
    hint = f"Name the tables it reads, for example tables = [{next(iter(schemas), 'visits')!r}]."
    tables = section.texts("tables", hint=hint)
    if not tables:
        section.fail("'tables' is empty or missing.", hint=hint)
    for number, table in enumerate(tables):
        if table not in schemas:
            known = f"Declared: {', '.join(schemas) or 'none'}."
            section.fail(f"There is no table {table!r}.", "tables", number, hint=known)
    common = [
        p for p in schemas[tables[0]].purposes if all(p in schemas[t].purposes for t in tables)
    ]
    purposes = section.texts("purposes", hint="Leave it out to release for all purposes.")
    for number, purpose in enumerate(purposes):
        if purpose not in common:
            known = f"Its tables allow: {', '.join(common) or 'none together'}."
            section.fail(f"{purpose!r} is no purpose.", "purposes", number, hint=known)
    declared = section.section(
        "parameters", required=False, hint=f"Declare [templates.{name}.parameters.NAME]."
    )
    output = section.text("output", hint="Name the variable to release.", default="") or None
    runs_hint = "Say how often one analyst may get it, for example runs_per_analyst = 20."
    template = Template(
        name=name,
        source=source,
        tables=tables,
        purposes=purposes or tuple(common),
        output=output,
        description=section.text("description", hint="Describe the template.", default=""),
        parameters={
            parameter: _read_rule(declared.section(parameter, hint=_KIND_HINT), parameter, tables)
            for parameter in declared.keys()  # noqa: SIM118 - a section is no mapping
        },
        runs_per_analyst=(
            section.integer("runs_per_analyst", lowest=1, hint=runs_hint)
            if section.has("runs_per_analyst")
            else RUNS_PER_ANALYST
        ),
    )
    section.finish()
    return template


def _read_source(section: Section, directory: Path) -> str:
    hint = "Name a file with the cell's text, relative to site.toml."
    path = directory / section.text("source", hint=hint)
    try:
        data = path.read_bytes()
        text = data.decode()
        compile(text, str(path), "exec", dont_inherit=True)
    except OSError as error:
        section.fail(f"{path} cannot be read: {error.strerror}.", "source", hint=hint)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        section.fail(f"{path}{where} is not Python.", "source", hint="Correct it.")
    if len(data) > MAX_SOURCE_BYTES:
        section.fail(f"{path} is longer than {MAX_SOURCE_BYTES} bytes.", "source", hint=hint)
    return text


def _read_rule(section: Section, name: str, tables: Sequence[str]) -> ParameterRule:
    if not name.isidentifier() or name in tables:
        section.fail(
            f"{name!r} cannot be a parameter.", hint="Use a variable's name that no table has."
        )
    kind = section.text("type", hint=_KIND_HINT)
    if kind not in _KINDS:
        section.fail(f"There is no type {kind!r}.", "type", hint=_KIND_HINT)
    bounds = section.interval("bounds", hint="Write bounds = [lowest, highest].")
    values = section.scalars("values", hint="Write values = [first, second].")
    for number, value in enumerate(values or ()):
        if type(value) is not _KINDS[kind]:
            section.fail(f"{value!r} is no {kind}.", "values", number, hint="Correct the type.")
    if bounds is not None and kind not in ("integer", "float"):
        section.fail(f"A {kind} has no bounds.", "bounds", hint="Use values = […].")
    if bounds is None and values is None and kind != "boolean":
        section.fail(
            f"Parameter {name!r} may be anything.",
            hint="Add bounds = [lowest, highest] or values = […]: nobody looks at it later.",
        )
    section.finish()
    return ParameterRule(
        type=cast('Literal["integer", "float", "string", "boolean"]', kind),
        bounds=bounds,
        values=values,
    )
