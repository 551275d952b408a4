"""Which part a site has in a run, by the kind of its computation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import RequestRefused
from privnb.site.federated.modelling import Model
from privnb.site.federated.parts import Totals
from privnb.site.federated.training import Training

if TYPE_CHECKING:
    from privnb.computation import Computation
    from privnb.site.engine import Engine
    from privnb.site.federated.parts import Part
    from privnb.site.python_engine import PythonEngine

__all__ = ["part_of"]


def part_of(
    computation: Computation, *, engine: Engine, python: PythonEngine | None, mock: bool
) -> Part:
    """Plan a site's part in a run; no data is touched.

    Raises
    ------
    QueryRefused, UnknownName
        It cannot be computed; that depends on the computation and the public schema alone.
    RequestRefused
        The site takes no such computation.
    """
    match computation.kind:
        case "sql":
            return Totals(engine, computation, mock=mock)
        case "python":
            if python is None or not python.trains:
                raise RequestRefused(
                    "This site trains no models from Python cells.",
                    hint="Ask its owner.",
                    code="E_NO_PYTHON",
                )
            python.check(computation)
            return Training(python, computation, mock=mock)
        case "model":
            return Model(engine, computation, mock=mock)
