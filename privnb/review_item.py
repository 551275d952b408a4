"""One request as its reviewers see it: plain values, for the command line and for the widget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from privnb.computation import Parameters
    from privnb.output import Output

__all__ = ["ReviewItem"]


@dataclass(frozen=True, kw_only=True)
class ReviewItem:
    """What is to be decided on, and all there is to judge it by.

    Everything in it that an analyst wrote is as it was written: whoever shows it makes it harmless.
    """

    request: str
    digest: str
    """Of the computation; what a decision on its code is bound to."""
    analyst: str
    purpose: str
    state: str
    """The request's state at the site: ``waiting``, ``approved``, ``running``, ``held``, …"""
    stage: Literal["code", "output"] | None
    """What is to be decided now; None: nothing."""
    since: str
    """UTC, ISO 8601, seconds."""
    expires: str
    rule: str
    """Why it waits for review, or passed without, in words."""
    source: str
    parameters: Parameters | None
    tables: tuple[str, ...]
    output_name: str | None
    """The declared variable; None: the last expression."""
    approvals: tuple[str, ...]
    """Who approved this stage, or the last one."""
    needed: int
    reviewers: tuple[str, ...]

    federation: tuple[tuple[str, str], ...] = ()
    """Of a cell for several sites: with whom it is computed and how, name by name."""
    findings: tuple[str, ...] = ()
    """What a scan of the code says, in words, each with its line."""
    imports: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Which columns the code names, as ``table.column``."""
    difference: str = ""
    """What changed against the most similar computation approved earlier, as a unified diff."""
    difference_to: str = ""
    """The request of that computation; empty: none was approved yet."""
    denied_difference: str = ""
    """What changed against this analyst's last denied computation."""
    denied_to: str = ""
    mock_output: Output | None = None
    """What the cell gave on the mock twin."""
    mock_problem: str = ""
    """Why there is no such output."""
    output: Output | None = None
    """What the cell gave on the data; only where that is to be decided on."""
    output_digest: str | None = None
    """What a decision on the output is bound to."""
    gate: tuple[str, ...] = ()
    """Why the gate holds the output back."""
    budget: str = ""
    history: tuple[str, ...] = ()
    """What this analyst asked before and what became of it, newest first."""

    @property
    def seen(self) -> str:
        """The digest of what is to be decided on: give it back with the decision."""
        return self.output_digest or "" if self.stage == "output" else self.digest
