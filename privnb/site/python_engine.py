"""Runs Python cells next to the data, in the sandbox, and says truthfully what became of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privnb.errors import PrivnbError, QueryRefused, RequestRefused, UnknownName
from privnb.messages import PythonOffer, TemplateOffer
from privnb.output import check
from privnb.release import NO_EPSILON, PrivacyLabel
from privnb.site.gate import UnitCounts, judge
from privnb.site.reporting import failure
from privnb.site.sandbox import Cell, Failed, Finished, TrainingCell

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    import pyarrow as pa

    from privnb.computation import Computation
    from privnb.dp.schema import TableSchema
    from privnb.output import Output
    from privnb.site.config import SiteConfig
    from privnb.site.federated.parts import Consents
    from privnb.site.python_config import PythonConfig
    from privnb.site.sandbox import Trainer

    class Data(UnitCounts, Protocol):
        """The rows that cells see; see `privnb.site.data.frames`."""

        def frame(self, table: str, *, purpose: str, mock: bool = False) -> pa.Table:
            """Return the visible columns of all rows that may be used for the purpose."""
            ...

        def population(self, table: str, purpose: str) -> str:
            """Say how consent restricted who is counted; empty where it does not."""
            ...

        def consenting(self, table: str, *, purpose: str) -> pa.Table | None:
            """Return who consents now; None for a table without a consent register."""
            ...

    class Box(Protocol):
        """Where cells run; see `privnb.site.sandbox`."""

        level: str

        def run(self, cell: Cell) -> Finished | Failed:
            """Run one cell and return what it declared, or why it did not."""
            ...

        def train(self, cell: TrainingCell) -> Trainer:
            """Begin a training, whose worker keeps its tables from round to round."""
            ...

        def warm(self) -> None:
            """Wait until a worker is ready."""
            ...

        def close(self) -> None:
            """End all workers."""
            ...


__all__ = ["PythonEngine", "Ran"]


logger = logging.getLogger("privnb.site")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a cell gave on the data, and what the gate found in it."""

    output: Output
    findings: tuple[str, ...]


class PythonEngine:
    """Checks and runs Python cells. `run` and `mock` may be called from several threads.

    Parameters
    ----------
    config
        With a ``[python]`` section.
    data
        The rows that cells see.
    box
        The sandbox they run in.
    trains
        Whether it can train, too.
    """

    def __init__(self, config: SiteConfig, *, data: Data, box: Box, trains: bool = False) -> None:
        if config.python is None:
            raise ValueError("the site takes no Python")
        self.trains = trains
        self._limits: PythonConfig = config.python
        self._data = data
        self._box = box
        self._schemas: Mapping[str, TableSchema] = {t.name: t.schema for t in config.tables}
        self.fixed_sites = config.federated is not None and config.federated.fixed_sites
        """Whether all sums of one training are over the same sites."""
        self.offer = _offer(config, self._limits, box.level)

    @property
    def level(self) -> str:
        """What the sandbox holds, for log, audit log and label."""
        return self._box.level

    def warm(self) -> None:
        """Wait until a cell would not have to."""
        self._box.warm()

    def close(self) -> None:
        """End all workers."""
        self._box.close()

    def check(self, computation: Computation) -> None:
        """Refuse what can be told from the computation and the public schema alone.

        Raises
        ------
        QueryRefused, UnknownName
            The tables, parameters, output or epsilon make no sense.
        """
        tables = computation.tables or ()
        if not tables:
            raise QueryRefused(
                "The cell names no table.",
                hint=f"Add --table {next(iter(self._schemas), 'NAME')}.",
                code="E_NO_TABLE",
            )
        for table in tables:
            if table not in self._schemas:
                raise UnknownName.among("table", table, self._schemas, code="E_NO_TABLE")
        if len(set(tables)) < len(tables):
            raise QueryRefused("A table is named twice.", hint="Name each once.")
        if computation.epsilon is not None:
            raise QueryRefused(
                "An epsilon was offered, but the output of Python is exact: nothing is charged.",
                hint="Leave --epsilon out.",
                code="E_EPSILON",
            )
        names = [*(computation.parameters or {}), *filter(None, [computation.output])]
        for name in names:
            if not name.isidentifier():
                raise QueryRefused(f"{name!r} is no variable's name.", hint="Rename it.")
        for name in computation.parameters or {}:
            if name in tables:
                raise QueryRefused(
                    f"Parameter {name!r} has the name of a table.",
                    hint="Rename the parameter.",
                    code="E_PARAMETER",
                )

    def mock(self, computation: Computation) -> Output:
        """Run a cell on the mock twins.

        Raises
        ------
        QueryRefused
            It gave nothing: why, with the line of the cell.
        """
        outcome = self._run(computation, mock=True)
        if isinstance(outcome, Failed):
            raise self.problem(outcome, mock=True)
        return outcome.output

    def run(self, computation: Computation) -> Ran | Failed:
        """Run a cell on the data, and have the gate judge what it declared."""
        outcome = self._run(computation, mock=False)
        if isinstance(outcome, Failed):
            return outcome
        findings = judge(
            outcome.output,
            limits=self._limits,
            schemas={table: self._schemas[table] for table in computation.tables or ()},
            purpose=computation.purpose or "",
            counts=self._data,
        )
        return Ran(output=outcome.output, findings=findings)

    def consents(self, computation: Computation) -> Consents:
        """Say who consents now to the use that a computation makes of its tables."""
        purpose = computation.purpose or ""
        return tuple(
            self._data.consenting(table, purpose=purpose) for table in computation.tables or ()
        )

    def trainer(self, computation: Computation, *, mock: bool) -> Trainer:
        """Begin a training on the rows that may be used now, or on those of the mock twins.

        Raises
        ------
        SiteFailure
            There are too few people in a table to hide in, or it cannot be read. The wording is
            constant.
        """
        if not self.trains:
            raise RequestRefused(
                "This site trains no models from Python cells.",
                hint="Ask its owner.",
                code="E_NO_PYTHON",
            )
        purpose = computation.purpose or ""
        tables = {}
        for table in computation.tables or ():
            tables[table] = self._data.frame(table, purpose=purpose, mock=mock)
            if not mock and self._data.units(table, purpose=purpose) < self._limits.min_units:
                logger.error("nobody is trained on: %s has too few people for %s", table, purpose)
                raise failure()
        return self._box.train(
            TrainingCell(
                source=computation.source, tables=tables, parameters=computation.parameters or {}
            )
        )

    def _run(self, computation: Computation, *, mock: bool) -> Finished | Failed:
        purpose = computation.purpose or ""
        outcome = self._box.run(
            Cell(
                source=computation.source,
                tables={
                    table: self._data.frame(table, purpose=purpose, mock=mock)
                    for table in computation.tables or ()
                },
                parameters=computation.parameters or {},
                output=computation.output,
            )
        )
        if isinstance(outcome, Finished):
            rows = len(outcome.output.rows)
            check(outcome.output, max_rows=rows, max_bytes=_MOST_BYTES)
        return outcome

    def problem(self, failed: Failed, *, mock: bool = False) -> PrivnbError:
        """Say why a cell gave nothing: by kind and line, never with a value."""
        where = f" in line {failed.line}" if failed.line else ""
        limits = self._limits
        try_it = "" if mock else "Try it with --mock. "
        try_it += "The message of an error stays at the site: on real data it may hold some."
        declare = (
            "End the cell with a number, text, array, Series, DataFrame or figure; a list or a "
            "dict may leave as pd.Series(...)."
        )
        code, message, hint = {
            "error": ("E_CELL", f"The cell raised {failed.error or 'an error'}{where}.", try_it),
            "output": (
                "E_OUTPUT",
                f"The output is {failed.output_type or 'another type'}, which cannot leave a site.",
                declare,
            ),
            "time": (
                "E_LIMIT",
                f"The cell ran longer than {limits.seconds} seconds and was ended.",
                "Compute less at a time.",
            ),
            "memory": (
                "E_LIMIT",
                f"The cell needed more than {limits.memory_mb} MB of memory and was ended.",
                "Compute on fewer columns, or in parts.",
            ),
            "size": ("E_LIMIT", "The output is too large to be looked at.", "Aggregate it."),
            "killed": ("E_CELL", "The cell ended without an output.", try_it),
        }.get(failed.reason, ("", "", ""))
        return QueryRefused(message, hint=hint, code=code) if code else failure()

    def label(
        self, computation: Computation, *, approved_by: tuple[str, ...], objected: bool
    ) -> PrivacyLabel:
        """Describe an output that was let out.

        Parameters
        ----------
        approved_by
            Who or what let it out, in words.
        objected
            Whether a reviewer let it out although the gate had found something.
        """
        units = self.units_in_words(computation)
        least = self._limits.min_units
        checked = (
            "the gate found something to look at, and a reviewer let it out"
            if objected
            else f"at least {least} {units} in each table, and behind each group recognised"
        )
        return PrivacyLabel(
            route="approval",
            mechanism="no noise: the exact output of the cell",
            epsilon=NO_EPSILON,
            delta=NO_EPSILON,
            unit=f"nobody by proof; checked: {checked}",
            budget="nothing was charged: an exact output has no epsilon",
            not_protected=(
                "An exact output may tell about single people in ways that nobody noticed.",
                "Outputs add up: compared with others, they can tell more than each alone.",
                "Whether a cell fails, and how long it runs, may depend on the data.",
                "No claim of anonymity.",
            ),
            approved_by=approved_by,
            sandbox=self._box.level,
            population=self.population(computation),
        )

    def units_in_words(self, computation: Computation) -> str:
        """Name who is in the tables of a computation: persons, households."""
        tables = computation.tables or ()
        return " and ".join(dict.fromkeys(f"{self._schemas[t].unit_name}s" for t in tables))

    def population(self, computation: Computation) -> str:
        """Say how consent restricted whose rows a computation got; empty where it did not."""
        said = dict.fromkeys(
            self._data.population(table, computation.purpose or "")
            for table in computation.tables or ()
        )
        return " ".join(filter(None, said))

    def mock_label(self) -> PrivacyLabel:
        """Describe an output from the mock twins."""
        return PrivacyLabel(
            route="approval",
            mechanism="no noise: the exact output of the cell on made-up rows",
            epsilon="0",
            delta="0",
            unit="nobody: no real row was read",
            budget="nothing was spent",
            not_protected=("The rows are made up from the schema alone: nothing here is real.",),
            sandbox=self._box.level,
            mock=True,
        )


_MOST_BYTES = 8 * 1024 * 1024


def _offer(config: SiteConfig, limits: PythonConfig, level: str) -> PythonOffer:
    return PythonOffer(
        packages=limits.packages,
        seconds=limits.seconds,
        max_rows=limits.max_rows,
        max_bytes=limits.max_bytes,
        min_units=limits.min_units,
        review=_review_in_words(config),
        sandbox=level,
        templates=tuple(
            TemplateOffer(
                name=each.name,
                description=each.description,
                source=each.source,
                tables=each.tables,
                purposes=each.purposes,
                output=each.output,
                parameters={name: rule.in_words for name, rule in each.parameters.items()},
            )
            for each in config.templates
        ),
    )


def _review_in_words(config: SiteConfig) -> str:
    review = config.review
    if review is None:
        return "only the owner's templates are released"
    what = {"code": "the code", "output": "the output", "both": "the code, then the output"}
    of = f"{review.needed} of {len(review.reviewers)} reviewers"
    listed = bool(config.templates or review.release)
    but = ", except the owner's templates and what is on the owner's list" if listed else ""
    return f"{of} look at {what[review.mode]}, before anything leaves{but}"
