"""How a federated run looks: who does what in which round, and what was measured so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from privnb.federated.progress import SiteState
from privnb.markup import CARD, LINE, MUTED, Html, counted, plain_table, tag
from privnb.widgets.states import Look, state_html, state_text
from privnb.widgets.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from privnb.federated.progress import Progress, RoundProgress
    from privnb.widgets.curves import Picture

__all__ = [
    "SITE_LOOKS",
    "advice",
    "caption",
    "curves_in_words",
    "earlier",
    "joined_look",
    "newest_remarks",
    "newest_rounds",
    "round_line",
    "run_html",
    "run_text",
    "tells_joining",
]

SITE_LOOKS: dict[SiteState, Look] = {
    "waiting": ("·", "quiet"),
    "training": ("…", "quiet"),
    "received": ("✓", "good"),
    "late": ("!", "warn"),
    "dropped": ("✗", "bad"),
}
_JOINED_LOOKS: dict[str, Look] = {
    "joined": ("✓", "good"),
    "decides": ("…", "quiet"),
    "running": ("…", "quiet"),
    "approved": ("✓", "good"),
    "waiting for review": ("◇", "warn"),
    "out": ("–", "quiet"),  # noqa: RUF001 - a dash
    "unknown": ("…", "quiet"),
}
_MOST_ROUNDS, _MOST_ROUNDS_IN_TEXT = 20, 10
_MOST_REMARKS = 8
_MOST_METRICS = 6
_HEAD = f"padding:3px 10px;text-align:left;font-weight:600;{MUTED};border-bottom:1px solid {LINE}"
_CELL = "padding:3px 10px;text-align:left;vertical-align:top;white-space:normal"
_SITE = f"{_CELL};font-weight:600"
_ROUND = "padding:3px 4px;text-align:center;vertical-align:top;white-space:nowrap"
_NUMBER = f"{_HEAD};padding:3px 4px;text-align:center;font-size:11px;min-width:1.8em"
_STAYS = "position:sticky;right:0;padding-left:8px;background:var(--jp-layout-color0,Canvas)"
"""The newest round is seen also where the rounds before it are wider than the notebook."""
_SMALL = f"padding:4px 12px 0;font-size:12px;{MUTED}"


def joined_look(words: str) -> Look:
    """Return how it looks where a site stands before the first round; other words are errors.

    >>> joined_look("joined"), joined_look("Denied: it names single people.")
    (('✓', 'good'), ('✗', 'bad'))
    """
    return _JOINED_LOOKS.get(words, ("✗", "bad"))


def caption(progress: Progress, *, run: str) -> str:
    """Say in one line which run it is, and how far.

    >>> from privnb.federated.progress import Board
    >>> caption(Board(["northside"], rounds=10).progress, run="ab" * 16)
    'Run abababab · the sites decide whether they take part'
    """
    done = f"{progress.rounds_done} of {counted(progress.rounds, 'round')} done"
    now = progress.by_round[-1].number if progress.by_round else 1
    said = {
        "joining": "the sites decide whether they take part",
        "running": f"round {now} of {progress.rounds}",
        "ending": f"{done}; the sites prove their part",
        "finished": done,
        "stopped": f"stopped, {done}",
        "cancelled": f"given up, {done}",
        "failed": f"failed, {done}",
    }
    return f"Run {run[:8]} · {said[progress.state]}"


def newest_rounds(progress: Progress, most: int = _MOST_ROUNDS) -> Sequence[RoundProgress]:
    """Return the rounds that are drawn, newest last."""
    return progress.by_round[-most:]


def earlier(progress: Progress, most: int = _MOST_ROUNDS) -> str:
    """Say how many rounds are not drawn; empty if all are."""
    hidden = len(progress.by_round) - most
    return f"{counted(hidden, 'earlier round')} not shown" if hidden > 0 else ""


def curves_in_words(progress: Progress) -> str:
    """Tell the newest value of every metric; empty while nothing was measured."""
    measured = [each for each in progress.by_round if each.metrics]
    if not measured:
        return ""
    newest = measured[-1]
    values = [f"{visible(n)} {v:.4g}" for n, v in list(newest.metrics.items())[:_MOST_METRICS]]
    return f"after round {newest.number}: {', '.join(values)}"


def newest_remarks(progress: Progress) -> list[str]:
    """Return what happened to sites on the way, newest last."""
    hidden = len(progress.remarks) - _MOST_REMARKS
    shown = [visible(remark) for remark in progress.remarks[-_MOST_REMARKS:]]
    return [f"{counted(hidden, 'earlier remark')} not shown", *shown] if hidden > 0 else shown


def advice(progress: Progress, *, run: str) -> str:
    """Say what can be done about a run that goes on, or could; empty for one that is over."""
    if progress.state in ("finished", "failed", "cancelled"):
        return ""
    return f"%privnb result {run[:8]} goes on with it; %privnb cancel {run[:8]} gives it up."


def tells_joining(progress: Progress, site: str) -> bool:
    """Tell whether to say where a site stands with joining: not once that is what its rounds show.

    >>> from privnb.federated.progress import Board
    >>> board = Board(["northside"], rounds=10)
    >>> board.joined("northside", "joined")
    >>> tells_joining(board.progress, "northside")
    True
    >>> board.site(1, "northside", "training")
    >>> tells_joining(board.progress, "northside")
    False
    """
    return not progress.by_round or progress.joined.get(site) != "joined"


def run_html(progress: Progress, *, run: str, curves: Sequence[Picture] = ()) -> Html:
    """Draw a run as it is kept in a saved notebook: a row per site, a column per round."""
    title = caption(progress, run=run)
    shown = newest_rounds(progress)
    beside = [words for words in (earlier(progress), curves_in_words(progress)) if words]
    notes = [_legend() if len(shown) > 1 else "", " · ".join(beside)]
    words = [*notes, *newest_remarks(progress), advice(progress, run=run)]
    return tag(
        "section",
        _rounds_table(title, progress, shown),
        *(tag("div", each, style=_SMALL) for each in words if each),
        tag("div", *map(_picture, curves), style="padding:4px 8px 0") if curves else "",
        class_="pn-run",
        aria_label=title,
        style=f"{CARD};padding:8px 2px 8px",
    )


def run_text(progress: Progress, *, run: str) -> str:
    """Write a run as plain text: a row per site, a column per round, the sign of each."""
    most = _MOST_ROUNDS_IN_TEXT
    shown = newest_rounds(progress, most)
    told = [site for site in progress.sites if tells_joining(progress, site)]
    rows = [
        [
            visible(site),
            *([_joined_text(progress, site) if site in told else ""] if told else []),
            *(_mark(each, site) for each in shown),
        ]
        for site in progress.sites
    ]
    beside = ["takes part"] if told else []
    table = plain_table(["site", *beside, *(str(each.number) for each in shown)], rows)
    words = [
        ", ".join(state_text(SITE_LOOKS[s], s) for s in get_args(SiteState)) if shown else "",
        earlier(progress, most),
        curves_in_words(progress),
        *newest_remarks(progress),
        advice(progress, run=run),
    ]
    return "\n".join([caption(progress, run=run), table, *(each for each in words if each)])


def round_line(each: RoundProgress) -> str:
    """Write one round that is done as a line, for where a table cannot be replaced.

    >>> from privnb.federated.progress import RoundProgress
    >>> sites = {"northside": "received", "lakeside": "dropped"}
    >>> round_line(RoundProgress(number=3, sites=sites, seconds=0.25, metrics={"train loss": 0.5}))
    'round 3 · ✓ northside, ✗ lakeside · 0.25 s · train loss 0.5'
    """
    sites = ", ".join(f"{_mark(each, site)} {visible(site)}" for site in each.sites)
    seconds = "" if each.seconds is None else f"{each.seconds:.2f} s"
    metrics = ", ".join(f"{visible(n)} {v:.4g}" for n, v in list(each.metrics.items())[:3])
    return " · ".join(filter(None, (f"round {each.number}", sites, seconds, metrics)))


def _rounds_table(title: str, progress: Progress, shown: Sequence[RoundProgress]) -> Html:
    head = [
        tag("th", "site", scope="col", style=_HEAD),
        *([] if shown else [tag("th", "takes part", scope="col", style=_HEAD)]),
        *(
            tag(
                "th",
                str(each.number),
                scope="col",
                title=f"round {each.number}",
                style=f"{_NUMBER};{_STAYS}" if each is shown[-1] else _NUMBER,
            )
            for each in shown
        ),
    ]
    rows = []
    for site in progress.sites:
        words = progress.joined.get(site, "")
        joined = state_html(joined_look(words), visible(words))
        below = tag("div", joined, style="font-size:12px") if tells_joining(progress, site) else ""
        drawn = [_round_html(each, site, newest=each is shown[-1]) for each in shown]
        rows.append(
            tag(
                "tr",
                tag("th", visible(site), below if shown else "", scope="row", style=_SITE),
                *([] if shown else [tag("td", joined, style=_CELL)]),
                *(tag("td", one, style=_ROUND) for one in drawn[:-1]),
                *(tag("td", one, style=f"{_ROUND};{_STAYS}") for one in drawn[-1:]),
            )
        )
    above = "caption-side:top;text-align:left;padding:2px 10px 6px;font-weight:600;color:inherit"
    return tag(
        "table",
        tag("caption", title, style=above),
        tag("thead", tag("tr", *head)),
        tag("tbody", *rows),
        style="border-collapse:collapse;margin:0;min-width:min(100%,30em);"
        "font-variant-numeric:tabular-nums",
    )


def _round_html(each: RoundProgress, site: str, *, newest: bool) -> Html:
    """Draw what a site does in a round: in words where there is room, else by its sign."""
    state = each.sites.get(site, "waiting")
    if newest:
        return state_html(SITE_LOOKS[state], state)
    sign = state_html(SITE_LOOKS[state], "")
    return tag("span", sign, role="img", aria_label=state, title=f"round {each.number}: {state}")


def _joined_text(progress: Progress, site: str) -> str:
    words = progress.joined.get(site, "")
    return state_text(joined_look(words), visible(words))


def _legend() -> Html:
    states = [state_html(SITE_LOOKS[state], state) for state in get_args(SiteState)]
    return Html(" · ".join(states))


def _picture(picture: Picture) -> Html:
    return tag(
        "img",
        src=f"data:image/png;base64,{picture.png}",
        alt=picture.alt,
        width=picture.width,
        style="display:inline-block;max-width:100%;height:auto",
    )


def _mark(each: RoundProgress, site: str) -> str:
    return SITE_LOOKS[each.sites.get(site, "waiting")][0]
