"""``privnb review``: what waits for a person, all there is to see of it, and their decision.

Whatever an analyst wrote is printed without markup, and with every character that is not seen, or
that moves others, as its escape: it can neither steer the terminal nor look like something else.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privnb.errors import PrivnbError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from privnb.computation import Scalar
    from privnb.output import Output
    from privnb.review_item import ReviewItem
    from privnb.site.reviewing.desk import Desk
    from privnb.site.reviewing.review import Decided

__all__ = ["app"]

app = typer.Typer(help="For reviewers: decide on Python cells.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The request; its beginning is enough.")]
Reviewer = Annotated[
    str | None,
    typer.Option(metavar="EMAIL", help="Whose key signs; by default the only one there is."),
]
Reason = Annotated[str, typer.Option(help="Why; the analyst reads it.")]
Digest = Annotated[
    str, typer.Option(help="Decide only if this is still the digest that `show` printed.")
]

_MOST_ROWS = 500
_MISSING = "missing"
_SHORT_DIGEST = 8


@app.command()
def key(
    email: Annotated[str, typer.Option(help="Your email address, as a reviewer.")],
) -> None:
    """Make your key, and print the line that names you in site.toml, under review.reviewers."""
    from privnb.site.reviewing.reviewers import ReviewerKey, key_folder  # noqa: PLC0415 - only when needed

    path = key_folder() / f"{email}.json"
    if "/" not in email and path.exists():
        own = ReviewerKey.load(path)
        typer.echo(f"You have a key already: {path}", err=True)
    else:
        own = ReviewerKey.create(path, email)
        typer.echo(f"Made {path}: keep it to yourself, and a copy in a safe place.", err=True)
    typer.echo("The owner adds this to site.toml, below [review.reviewers]:", err=True)
    typer.echo(f'"{own.email}" = "{own.public}"')


@app.command("list")
def list_(
    directory: Directory,
    past: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--past", help="Show too what is decided, or runs.")
    ] = False,
) -> None:
    """Show what waits for review, who has waited longest first."""
    with _desk(directory) as desk:
        waiting = desk.items()
        others = desk.past() if past else ()
    out = _console()
    if not waiting:
        out.print("Nothing waits for review.")
    else:
        _print_items(out, None, waiting)
    if others:
        _print_items(out, "Decided, or running", others)


@app.command()
def show(
    directory: Directory,
    request: Id,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figure it gave, as PNG.")
    ] = None,
) -> None:
    """Show all there is to judge a request by; of an output in review, the output itself."""
    with _desk(directory) as desk:
        item = desk.item(request)
    out = _console()
    _print_facts(out, item)
    _print_code(out, item)
    _print_list(out, "Findings", item.findings, empty="Nothing unusual was found.")
    _print_list(out, "Imports", item.imports, empty="None.")
    _print_list(out, "Columns", item.columns, empty="None that can be told.")
    _print_differences(out, item)
    _heading(out, "On the mock twin")
    if item.mock_output is not None:
        _print_output(out, item.mock_output)
    else:
        _say(out, item.mock_problem)
    _print_list(out, "Budget", [item.budget] if item.budget else [], empty="No table.")
    _print_list(out, "Earlier requests of this analyst", item.history, empty="None.")
    if item.stage == "output":
        _print_list(out, "What the gate says", item.gate, empty="It found nothing.")
        _heading(out, "THE OUTPUT, from the data")
        if item.output is not None:
            _print_output(out, item.output)
        else:
            out.print("It is not the output that was held: somebody changed the database.")
    if figure is not None:
        _write_figure(item, figure)
        out.print(f"Wrote {figure}")
    _print_what_next(out, directory, item)


def _add_verdict(name: str, *, done: str, explained: str) -> None:
    """Add the command for one of the four decisions, which are methods of the desk by its name."""

    @app.command(name, help=explained)
    def decide(
        directory: Directory,
        request: Id,
        reason: Reason = "",
        reviewer: Reviewer = None,
        digest: Digest = "",
    ) -> None:
        with _desk(directory, reviewer) as desk:
            seen = _seen(desk, request, digest)
            _tell(getattr(desk, name)(request, reason, seen=seen), done)


_add_verdict("approve", done="Approved", explained="Let the code run, once enough reviewers do.")
_add_verdict(
    "deny",
    done="Denied",
    explained="Refuse the code. The same code is refused from then on, until it is changed.",
)
_add_verdict(
    "release",
    done="Released",
    explained="Let the output leave the site, once enough reviewers do.",
)
_add_verdict(
    "withhold",
    done="Withheld",
    explained="Keep the output at the site. The same code is refused from then on.",
)


@contextlib.contextmanager
def _desk(directory: Path, reviewer: str | None = None) -> Iterator[Desk]:
    from privnb.owner import open_desk  # noqa: PLC0415 - SQLAlchemy takes half a second

    desk = open_desk(directory, reviewer)
    try:
        yield desk
    finally:
        desk.close()


def _seen(desk: Desk, request: str, digest: str) -> str | None:
    """Complete the digest that the reviewer typed, if it is that of what is to be decided on."""
    if not digest:
        return None
    if len(digest) < _SHORT_DIGEST:
        raise PrivnbError(
            f"{digest!r} is too short for a digest.",
            hint=f"Give at least {_SHORT_DIGEST} of its digits.",
        )
    seen = desk.item(request).seen
    return seen if seen.startswith(digest) else digest


def _tell(decided: Decided, word: str) -> None:
    name = decided.request[:_SHORT_DIGEST]
    count = f"{len(decided.approvals)} of {decided.needed} approvals"
    typer.echo(
        {
            "approved": f"{word} {name}: {count}. The site's agent runs it next.",
            "cleared": f"{word} {name}: {count}. The site's agent sends it next.",
            "denied": f"{word} {name}. The analyst will read your reason.",
        }.get(decided.state, f"{word} {name}: {count}. It waits for others.")
    )


# What is printed


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - only when needed

    # Piped into a file there is no width to keep to, and no line is to be broken.
    width = None if sys.stdout.isatty() else 400
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def _shown(text: object) -> str:
    from privnb.site.scanning.text import shown  # noqa: PLC0415 - only when needed

    return shown(str(text))


def _say(out: Console, text: str) -> None:
    """Print text from elsewhere, in one line."""
    out.print(_shown(text))


def _heading(out: Console, title: str) -> None:
    out.print()
    out.print(title, style="bold")


def _print_items(out: Console, title: str | None, items: Sequence[ReviewItem]) -> None:
    from rich.table import Table  # noqa: PLC0415 - only when needed
    from rich.text import Text  # noqa: PLC0415 - only when needed

    header = ("request", "analyst", "purpose", "tables", "state", "approvals", "since", "expires")
    table = Table(*header, title=title, title_justify="left", box=None, pad_edge=False)
    for item in items:
        cells = (
            item.request[:_SHORT_DIGEST],
            item.analyst,
            item.purpose,
            ", ".join(item.tables),
            {"code": "code to review", "output": "output to review"}.get(
                item.stage or "", item.state
            ),
            f"{len(item.approvals)} of {item.needed}",
            item.since,
            item.expires,
        )
        table.add_row(*(Text(_shown(cell)) for cell in cells))
    out.print(table)


def _print_facts(out: Console, item: ReviewItem) -> None:
    from privnb.wire import canonical_json  # noqa: PLC0415 - only when needed

    others = [each for each in item.reviewers if each not in item.approvals]
    agreed = f" ({', '.join(item.approvals)})" if item.approvals else ""
    facts = {
        "Request": item.request,
        "Analyst": item.analyst,
        "Purpose": item.purpose,
        "Tables": ", ".join(item.tables),
        "Output": item.output_name or "the last expression",
        **{name.capitalize(): value for name, value in item.federation},
        "State": item.state,
        "Since": item.since,
        "Expires": item.expires,
        "Rule": item.rule,
        "Approvals": f"{len(item.approvals)} of {item.needed}{agreed}; {', '.join(others)} may too",
        "Digest": item.digest,
    }
    if item.federation:
        facts["Output"] = "none: only sums over the sites are seen"
    if item.stage == "output" and item.output_digest:
        facts["Of output"] = item.output_digest
    for name, value in (item.parameters or {}).items():
        facts[f"Parameter {name}"] = canonical_json(value).decode()
    width = max(len(_shown(name)) for name in facts)
    for name, value in facts.items():
        _say(out, f"{_shown(name):{width}}  {value}")


def _print_code(out: Console, item: ReviewItem) -> None:
    from privnb.site.scanning.text import lines_of  # noqa: PLC0415 - only when needed

    _heading(out, "Code")
    lines = [_code_line(line) for line in lines_of(item.source)]
    if out.is_terminal:
        from rich.syntax import Syntax  # noqa: PLC0415 - only when needed

        out.print(
            Syntax("\n".join(lines), "python", line_numbers=True, word_wrap=True), soft_wrap=False
        )
        return
    digits = len(str(len(lines)))
    for number, line in enumerate(lines, 1):
        out.print(f"{number:{digits}}  {line}".rstrip())


def _code_line(line: str) -> str:
    return "\t".join(map(_shown, line.split("\t"))).expandtabs(4)


def _print_list(out: Console, title: str, lines: Iterable[str], *, empty: str) -> None:
    _heading(out, title)
    said = False
    for line in lines:
        _say(out, f"- {line}")
        said = True
    if not said:
        out.print(empty)


def _print_differences(out: Console, item: ReviewItem) -> None:
    for request, difference, what in (
        (item.difference_to, item.difference, "the nearest approved before"),
        (item.denied_to, item.denied_difference, "this analyst's last denied"),
    ):
        if not request:
            continue
        _heading(out, f"Difference to {request[:_SHORT_DIGEST]}, {what}")
        if not difference:
            out.print("None: it is the same.")
        for line in difference.split("\n") if difference else ():
            style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            out.print(_code_line(line), style=style)


def _print_output(out: Console, output: Output) -> None:
    """Print an output to its last digit: what is rounded away could be what it carries."""
    if output.kind == "figure":
        out.print("(a figure: write it to a file with --figure FILE)")
        return
    most = _MOST_ROWS if out.is_terminal else len(output.rows)
    shape = f" of shape {output.shape}" if output.shape is not None else ""
    out.print(f"{output.kind}{shape}, {len(output.rows):,} rows, {len(output.columns):,} columns")
    out.print(",".join(_cell(column.name) for column in output.columns))
    for row in output.rows[:most]:
        out.print(",".join(map(_cell, row)))
    if len(output.rows) > most:
        left = len(output.rows) - most
        out.print(f"… and {left:,} more rows: to see them all, write this into a file with >")


def _cell(value: Scalar) -> str:
    """Write a cell of a table so that text can pass neither for two cells nor for none."""
    from privnb.unseen import has_clear_edges, in_quotes  # noqa: PLC0415 - only when needed

    if value is None:
        return _MISSING
    text = _shown(value)
    clear = has_clear_edges(text) and "," not in text and text != _MISSING
    return text if clear else in_quotes(text)


def _write_figure(item: ReviewItem, path: Path) -> None:
    output = item.output or item.mock_output
    if output is None or output.kind != "figure":
        raise PrivnbError(f"Request {item.request:.8} gave no figure.", hint="Leave out --figure.")
    picture = output.value()
    try:
        with path.open("xb") as file:
            file.write(picture if isinstance(picture, bytes) else b"")
    except FileExistsError:
        raise StateError(f"{path} is there already.", hint="Name another file.") from None
    except OSError as problem:
        raise StateError(
            f"{path} cannot be written: {problem.strerror}.", hint="Name another file."
        ) from None


def _print_what_next(out: Console, directory: Path, item: ReviewItem) -> None:
    verdicts = {"code": ("approve", "deny"), "output": ("release", "withhold")}
    if item.stage is None:
        return
    name = f"{directory} {item.request[:_SHORT_DIGEST]}"
    yes, no = verdicts[item.stage]
    out.print()
    out.print(f"To decide: privnb review {yes} {name} --digest {item.seen[:12]}")
    out.print(f'       or: privnb review {no} {name} --digest {item.seen[:12]} --reason "…"')
