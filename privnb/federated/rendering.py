"""How federated runs and what they give look: pure functions to HTML and to plain text.

What sites sent is escaped and kept to its own line, as in `privnb.rendering`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privnb import rendering
from privnb.markup import CARD, LINE, MUTED, Html, counted, plain_table, table, tag
from privnb.release import Release
from privnb.unseen import brief, clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.federated.progress import Progress
    from privnb.federated.release import ArrayShown, FederatedRelease

__all__ = [
    "label_text",
    "progress_html",
    "progress_text",
    "release_html",
    "release_text",
    "summary_lines",
]

_MOST_ROUNDS = 10
"""Rounds that are drawn of a history, newest last; ``.history`` has all."""
_MOST_METRICS = 6
_MOST_ARRAYS = 20
_MOST_VALUES = 8
_MANY = 4
"""Sites from which on only their number is told in a title."""
_PROOF = (
    "the receipts prove that each site took part, and under this label; the numbers above were"
    " put together from the sums, and no receipt proves them"
)


def release_html(release: FederatedRelease) -> str:
    """Draw the card of a release: what all gave together, then the privacy label in words."""
    outcome = release.outcome
    title = _title(release)
    if outcome.answer is not None:
        parts = [rendering.noisy_table([(_together(release), outcome.answer)], title)]
    else:
        columns, rows = _arrays(outcome.arrays)
        parts = [table(title, columns, rows)]
    if outcome.kind != "totals":
        columns, rows = _rounds(release)
        parts.append(table(_rounds_title(release), columns, rows, numeric=range(len(columns))))
    remarks = rendering.first_lines(outcome.remarks)
    return tag(
        "section",
        rendering.banner(rendering.MOCK, rendering.MOCK_BANNER) if release.mock else "",
        *parts,
        tag(
            "div",
            *(tag("div", remark) for remark in remarks),
            style=f"padding:6px 14px;font-size:12px;border-top:1px solid {LINE};{MUTED}",
        )
        if remarks
        else "",
        *rendering.problems_html(release.problems),
        rendering.label_html(_label_lines(release)),
        class_="pn-release",
        aria_label=title,
        style=CARD,
    )


def release_text(release: FederatedRelease) -> str:
    """Write a release as plain text: what all gave together, then the privacy label."""
    outcome = release.outcome
    blocks = [rendering.MOCK] if release.mock else []
    if outcome.answer is not None:
        shown = rendering.answer_text(outcome.answer)
    else:
        shown = plain_table(*_arrays(outcome.arrays))
    blocks.append(f"{clean(_title(release))}: {clean(_together(release))}\n{shown}")
    if outcome.kind != "totals":
        blocks.append(f"{_rounds_title(release)}\n{plain_table(*_rounds(release))}")
    if outcome.remarks:
        blocks.append("\n".join(rendering.first_lines(outcome.remarks)))
    blocks += [clean(f"Nothing from {site}: {p}") for site, p in release.problems.items()]
    blocks.append("Privacy label\n" + label_text(release))
    return "\n\n".join(blocks)


def label_text(release: FederatedRelease) -> str:
    """Write the privacy label of a release as lines of text."""
    return rendering.lines_by_heading_text(_label_lines(release))


def summary_lines(release: FederatedRelease, name: str) -> list[str]:
    """Say what is now in the variable ``name``: what, of whom, what protects it, its proof."""
    outcome = release.outcome
    rounds = counted(len(outcome.history), "round")
    what = {
        "totals": f"totals in {counted(len(outcome.answer.rows) if outcome.answer else 0, 'row')}",
        "training": f"{counted(len(outcome.arrays), 'array')} after {rounds}",
        "model": f"a model after {rounds}",
    }[outcome.kind]
    if release.mock:
        paid = "MOCK: nothing real, nothing spent"
    elif outcome.kind == "training":
        paid = "code approved by the sites; exact sums"
    else:
        prices = sorted({label.epsilon for label in release.labels.values()})
        paid = f"epsilon {' or '.join(prices)} at each site" if prices else "not proved yet"
    return [
        f"{name}: {what}, {_together(release)} · {brief(paid)}",
        *(f"Nothing from {site}: {p}  {p.hint}" for site, p in release.problems.items()),
        f"digest {release.digest[:16]} · request {release.request[:8]}",
    ]


def _title(release: FederatedRelease) -> str:
    mock = "Mock " if release.mock else ""
    what = {
        "totals": "Total of all sites",
        "training": "Trained by all sites",
        "model": "Coefficients of all sites",
    }[release.outcome.kind]
    return f"{mock}{what[0].lower() if mock else what[0]}{what[1:]}"


def _together(release: FederatedRelease) -> str:
    """Name whose parts are in what came last."""
    history = release.outcome.history
    sites = history[-1].summed if history else ()
    return f"{len(sites)} sites together" if len(sites) > _MANY else " + ".join(sites)


def _arrays(arrays: Sequence[ArrayShown]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for array in arrays[:_MOST_ARRAYS]:
        values = [f"{value:.6g}" for value in array.first[:_MOST_VALUES]]
        if len(array.first) > _MOST_VALUES:
            values.append("…")
        shape = " by ".join(map(str, array.shape)) or "one number"
        rows.append([brief(array.name, 60), shape, array.dtype, " ".join(values)])
    if len(arrays) > _MOST_ARRAYS:
        rows.append([f"… and {len(arrays) - _MOST_ARRAYS} more: see .value", "", "", ""])
    return ["array", "shape", "type", "values"], rows


def _rounds_title(release: FederatedRelease) -> str:
    outcome = release.outcome
    done = f"{len(outcome.history)} of {counted(outcome.asked_rounds, 'round')}"
    hidden = len(outcome.history) - _MOST_ROUNDS
    earlier = [f"{counted(hidden, 'earlier round')} not shown"] if hidden > 0 else []
    return " · ".join([done, *filter(None, [outcome.strategy.removesuffix("()")]), *earlier])


def _rounds(release: FederatedRelease) -> tuple[list[str], list[list[str]]]:
    history = release.outcome.history
    metrics = list(dict.fromkeys(name for row in history for name in row.metrics))[:_MOST_METRICS]
    rows = [
        [
            str(row.round),
            str(len(row.summed)),
            f"{row.seconds:.2f}",
            *(f"{row.metrics[m]:.6g}" if m in row.metrics else "" for m in metrics),
        ]
        for row in history[-_MOST_ROUNDS:]
    ]
    return ["round", "sites", "seconds", *(brief(name, 60) for name in metrics)], rows


def _label_lines(release: FederatedRelease) -> list[tuple[str, list[str]]]:
    labels = Release(request=release.request, digest=release.digest, parts=release.parts)
    *said, question = rendering.label_lines(labels)
    federation = release.outcome.federation
    sites = len(federation.sites)
    sums = "the sum" if release.outcome.kind == "totals" else "the sums of rounds"
    seen = f"only {sums}, over at least {federation.threshold} of {sites} sites; no part of one"
    harmless = (
        f"at most {federation.colluding} of the sites work with the analyst"
        if federation.colluding
        else "no site works with the analyst"
    )
    whole = [("Seen", [seen, f"one site's part stays unseen as long as {harmless}"])]
    if release.outcome.noise:
        whole.append(("Noise", rendering.first_lines(release.outcome.noise)))
    proof = [("Proof", [_PROOF])] if release.receipts else []
    return [*whole, *said, *proof, question]


# Runs under way


def progress_html(progress: Progress, *, run: str) -> Html:
    """Draw how far a run is, as it is kept in a saved notebook."""
    columns, rows = _standing(progress)
    return tag(
        "section",
        table(_progress_title(progress, run), columns, rows),
        tag("div", _advice(run), style=f"padding:8px 10px 0;font-size:12px;{MUTED}"),
        class_="pn-request",
        aria_label=_progress_title(progress, run),
        style=f"{CARD};padding:8px 2px 8px",
    )


def progress_text(progress: Progress, *, run: str) -> str:
    """Write how far a run is as plain text."""
    title = _progress_title(progress, run)
    return f"{title}\n{plain_table(*_standing(progress))}\n{_advice(run)}"


def _progress_title(progress: Progress, run: str) -> str:
    done = f"round {progress.rounds_done} of {progress.rounds}"
    return f"Run {run[:8]}: {progress.state}, {done}"


def _standing(progress: Progress) -> tuple[list[str], list[list[str]]]:
    last = progress.by_round[-1] if progress.by_round else None
    rows = [
        [site, progress.joined.get(site, ""), last.sites.get(site, "") if last else ""]
        for site in progress.sites
    ]
    return ["site", "takes part", f"round {last.number}" if last else "round"], rows


def _advice(run: str) -> str:
    return f"Show it again, or run %privnb result {run[:8]}, for what came of it."
