"""What a site remembers of the federated runs that it takes part in, until they end.

It is what a restart must not forget, since all keys are lost in one: which rounds were computed,
with which noise, and over which sites each may be summed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from privnb.errors import RosterRefused
from privnb.messages import Participation
from privnb.site.database import run_inputs, runs, utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Input", "Run", "RunBook"]

# Statements are built once: building one takes longer than running it.
_RUN = (runs.c.analyst == sa.bindparam("whose"), runs.c.request == sa.bindparam("which"))
_INPUTS = (
    run_inputs.c.analyst == sa.bindparam("whose"),
    run_inputs.c.request == sa.bindparam("which"),
)
_FIND = sa.select(runs.c.attempt, runs.c.contributions).where(*_RUN)
_OF_ROUND = (
    sa.select(run_inputs)
    .where(
        *_INPUTS,
        run_inputs.c.round == sa.bindparam("number"),
        run_inputs.c.kind == sa.bindparam("what"),
    )
    .order_by(run_inputs.c.seq)
)
_COUNT = (
    sa.update(runs)
    .where(*_RUN)
    .values(contributions=runs.c.contributions + 1, attempt=sa.bindparam("newest"))
)
_ADD = sa.insert(run_inputs)
_SUMMED = sa.select(run_inputs.c.summed).where(
    *_INPUTS, run_inputs.c.work == sa.bindparam("digest")
)
_SETTLE = (
    sa.update(run_inputs)
    .where(*_INPUTS, run_inputs.c.work == sa.bindparam("digest"))
    .values(summed=sa.bindparam("sites"))
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How far a run is."""

    attempt: int
    """The newest attempt that something was sent for."""
    contributions: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """What was computed for one round."""

    round: int
    kind: str
    work: str
    """The digest of all that the analyst chose for it; see `privnb.federated.messages`."""
    vector: bytes | None
    """With its noise, where the noise of a round is drawn once: unsigned 64-bit, little-endian."""
    summed: tuple[str, ...] | None
    """The sites that it may be summed over, once that is settled."""


class RunBook:
    """The runs of one site, within the caller's transactions.

    A row is named by the run's analyst and request.
    """

    @staticmethod
    def open_run(connection: sa.Connection, analyst: str, request: str, *, digest: str) -> None:
        """Begin a run; the request's row is the caller's, in the same transaction."""
        connection.execute(
            sa.insert(runs).values(at=utc_now(), analyst=analyst, request=request, digest=digest)
        )

    @staticmethod
    def find(connection: sa.Connection, analyst: str, request: str) -> Run | None:
        """Return how far a run is; None if there is none."""
        row = connection.execute(_FIND, {"whose": analyst, "which": request}).first()
        return None if row is None else Run(**row._mapping)  # noqa: SLF001 - SQLAlchemy's name

    @staticmethod
    def inputs_of(
        connection: sa.Connection, analyst: str, request: str, *, round_: int, kind: str
    ) -> tuple[Input, ...]:
        """Return what was computed for a round, oldest first."""
        rows = connection.execute(
            _OF_ROUND, {"whose": analyst, "which": request, "number": round_, "what": kind}
        )
        return tuple(
            Input(
                round=row.round,
                kind=row.kind,
                work=row.work,
                vector=row.vector,
                summed=tuple(json.loads(row.summed)) if row.summed else None,
            )
            for row in rows
        )

    @staticmethod
    def contribute(
        connection: sa.Connection,
        analyst: str,
        request: str,
        *,
        attempt: int,
        new: Input | None,
    ) -> None:
        """Count what is about to be sent; ``new``: what was computed for it, if it was just now."""
        connection.execute(_COUNT, {"whose": analyst, "which": request, "newest": attempt})
        if new is not None:
            connection.execute(
                _ADD,
                {
                    "at": utc_now(),
                    "analyst": analyst,
                    "request": request,
                    "round": new.round,
                    "kind": new.kind,
                    "work": new.work,
                    "vector": new.vector,
                },
            )

    @staticmethod
    def settle(
        connection: sa.Connection, analyst: str, request: str, *, work: str, sites: Sequence[str]
    ) -> None:
        """Settle over which sites something may be summed, before the first word that opens it.

        Of 2t > n + c sites that have to agree to two sums, one is honest and in both: so the same
        work of one run is summed over one set of sites: two would differ by single sites' parts.

        Raises
        ------
        RosterRefused
            It may be summed over other sites, and no others.
        """
        mine = {"whose": analyst, "which": request, "digest": work}
        row = connection.execute(_SUMMED, mine).first()
        told = json.dumps(sorted(sites))
        if row is None:
            raise RosterRefused(
                "This site gave nothing to that sum, so it opens none.",
                hint="Begin the round anew.",
            )
        if row.summed is None:
            connection.execute(_SETTLE, mine | {"sites": told})
        elif row.summed != told:
            raise RosterRefused(
                "The same input was summed over other sites before: the difference of both sums"
                " would be single sites' parts.",
                hint="Ask for the very same sites again, or go on with the next round.",
            )

    @staticmethod
    def close_run(
        connection: sa.Connection, analyst: str, request: str, *, me: str, ended: str
    ) -> Participation:
        """End a run: say what was given to it, and forget the rest."""
        run = RunBook.find(connection, analyst, request)
        mine = {"whose": analyst, "which": request}
        rows = connection.execute(
            sa.select(run_inputs.c.round, run_inputs.c.summed).where(*_INPUTS), mine
        ).all()
        sites = {site for row in rows if row.summed for site in json.loads(row.summed)}
        connection.execute(sa.delete(run_inputs).where(*_INPUTS), mine)
        return Participation(
            rounds=len({row.round for row in rows}),
            contributions=run.contributions if run is not None else 0,
            sites=tuple(sorted(sites | ({me} if rows else set()))),
            ended=ended,
        )
