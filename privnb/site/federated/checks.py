"""What lets a site go on with a federated run: asked anew before anything is contributed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb.errors import PrivnbError, RequestRefused
from privnb.site.federated.book import RunBook
from privnb.site.federated.rules import check_federation
from privnb.site.grants import still_granted
from privnb.site.policy import wrong_purpose
from privnb.site.refusing import stored_computation
from privnb.site.reporting import failure
from privnb.site.reviewing import review

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    import sqlalchemy as sa

    from privnb.computation import Computation
    from privnb.site.config import SiteConfig
    from privnb.site.federated.joined import JoinedRun
    from privnb.site.requests import Record
    from privnb.site.reviewing.approvals import Approvals

__all__ = ["MOST_FAILURES", "RunChecks", "failed_often"]

MOST_FAILURES = 3
"""How often one computation of one analyst may fail on data, in all runs: each time is one bit."""


class RunChecks:
    """Grants, rules and signatures, for runs; all is asked within the caller's transaction."""

    def __init__(
        self,
        config: SiteConfig,
        *,
        approvals: Approvals,
        own: str,
        today: Callable[[], dt.date],
    ) -> None:
        self._config = config
        self._approvals = approvals
        self._own = own
        self._today = today
        self._schemas = {table.name: table.schema for table in config.tables}

    def computation_of(self, connection: sa.Connection, record: Record) -> Computation:
        """Return what a run computes: of Python, what the reviewers saw.

        Raises `ValueError` if what is stored is not what came in.
        """
        if record.action == "mock":
            return stored_computation(record)
        computation = stored_computation(record)
        if computation.kind == "python":
            found = review.find(connection, analyst=record.sender, request=record.name)
            seen = None if found is None else found.read_computation()
            if seen is None or seen.digest != computation.digest:
                raise ValueError("what is stored of the computation is not what came in")
        return computation

    def objection(
        self,
        connection: sa.Connection,
        run: JoinedRun,
    ) -> PrivnbError | None:
        """Return why a run may not go on, whatever was decided before; None if nothing is."""
        if run.mock:
            return None
        record, computation = run.record, run.computation
        try:
            check_federation(computation, config=self._config.federated, own=self._own)
        except PrivnbError as problem:
            return problem
        if computation.kind == "python":
            refused = self._approvals.objection(connection, record.sender, computation)
            if refused is not None:
                return refused
            route = self._approvals.route(computation)
            if not self._approvals.may_run(connection, record, route):
                return _not_approved()
            return failed_often(connection, record.sender, computation)
        return self._access(connection, record, computation, run.table or "")

    def _access(
        self, connection: sa.Connection, record: Record, computation: Computation, table: str
    ) -> PrivnbError | None:
        schema, purpose = self._schemas.get(table), computation.purpose or ""
        if schema is None:
            return failure()
        if purpose not in schema.purposes:
            return wrong_purpose(purpose, schema)
        return still_granted(
            connection,
            analyst=record.sender,
            table=table,
            purpose=purpose,
            today=self._today(),
        )


def failed_often(
    connection: sa.Connection, analyst: str, computation: Computation
) -> RequestRefused | None:
    """Refuse code that failed on data so often that another failure would tell too much."""
    found = RunBook.failures(connection, analyst, computation=computation.digest)
    if found < MOST_FAILURES:
        return None
    return RequestRefused(
        f"The app failed {MOST_FAILURES} times on the data here, and is not run on it again.",
        hint="Change it, try it with --mock, and have it approved anew.",
        code="E_LIMIT",
    )


def _not_approved() -> RequestRefused:
    return RequestRefused(
        "The reviewers' approvals of this computation do not hold any more.",
        hint="Ask the site's owner; then ask again.",
        code="E_DENIED",
    )
