"""``privnb audit``: read, check and export a site's audit log; check a published notebook."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privnb.durable import replace_file
from privnb.errors import AuditBroken, ConfigError, PrivnbError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from privnb.audit import Checkpoint, VerifierKey
    from privnb.site.audit import AuditLog
    from privnb.site.audit_reading import ShownEvent
    from privnb.site.database import Database

__all__ = ["app"]

app = typer.Typer(
    help="For owners and auditors: what a site did, and the proof of it.", no_args_is_help=True
)

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The site's folder.")]


@app.command()
def show(
    directory: Directory,
    analyst: Annotated[str | None, typer.Option(help="Only what is about this analyst.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only events of this kind: decision, release, grant, …")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 50,
) -> None:
    """Show what happened, with the names that the log itself holds as commitments only."""
    from privnb.site.audit_reading import shown_events  # noqa: PLC0415 - SQLAlchemy takes a while

    with _opened(directory) as (database, _), database.read() as snapshot:
        found = shown_events(snapshot, analyst=analyst, kind=kind, last=last)
    if not found:
        typer.echo("Nothing of this kind has happened.")
        return
    _print_events(_console(), found)


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="DIR|FILE", help="A site's folder, or an exported file.")
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CP", help="A signed checkpoint; again for earlier ones of the same log."
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The site's verifier key, as `privnb audit key` prints it.")
    ] = None,
) -> None:
    """Check a log: every event, the tree over them, and the checkpoints that were signed.

    Of a folder, the checkpoints in the newest answers that went out are checked as well.
    """
    from privnb import audit  # noqa: PLC0415 - only when needed

    checkpoints = checkpoint or []
    with _told():
        given = None if key is None else audit.VerifierKey.parse(key)
        if path.is_dir():
            _verify_folder(path, checkpoints, key=given)
            return
        if not checkpoints:
            raise PrivnbError(
                "An exported file is checked against a signed checkpoint.",
                hint="Name it: --checkpoint FILE. The export wrote one beside the events.",
            )
        found = audit.verify_file(path, checkpoints=checkpoints, key=given)
    typer.echo(audit.said_of(path, found, key=given), nl=False)


def _verify_folder(
    directory: Path, checkpoints: Sequence[Path], *, key: VerifierKey | None
) -> None:
    from privnb import audit  # noqa: PLC0415 - only when needed
    from privnb.site.audit_reading import check_log, given_out  # noqa: PLC0415

    with _opened(directory) as (database, log), database.read() as snapshot:
        own = audit.VerifierKey.parse(log.verifier_key)
        if key is not None and key != own:
            raise AuditBroken(
                f"{directory} signs with another key than the one that was given.",
                hint="See: privnb audit key DIR",
            )
        sent: list[Checkpoint] = given_out(snapshot, own)
        held = [audit.read_checkpoint(file, own) for file in checkpoints]
        found = check_log(snapshot, checkpoints=[*sent, *held])
    typer.echo(f"{directory}: {found.size} events, whose tree is whole.")
    typer.echo(f"The root: {found.root.hex()}")
    typer.echo(
        f"It agrees with {len(sent)} checkpoints in answers that went out"
        + (f" and {len(held)} that were given." if held else ".")
    )


@app.command()
def export(
    directory: Directory,
    file: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The file to write.")],
    without_names: Annotated[  # noqa: FBT002 - a switch of the command line
        bool,
        typer.Option("--without-names", help="Leave out who it was and what they said."),
    ] = False,
    force: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--force", help="Replace files that are there.")
    ] = False,
) -> None:
    """Write all events to OUT.jsonl, and a signed checkpoint beside it, for an auditor.

    The auditor needs your verifier key besides, from you and not with the files.
    """
    from privnb.site.audit_reading import exported  # noqa: PLC0415 - SQLAlchemy takes a while

    note_file = file.with_suffix(".checkpoint")
    if note_file == file:
        raise PrivnbError("The checkpoint is written as .checkpoint.", hint="Name it OUT.jsonl.")
    there = [str(path) for path in (file, note_file) if path.exists()]
    if there and not force:
        raise StateError(
            f"There is {' and '.join(there)} already.",
            hint="Name another file, or replace what is there with --force.",
        )
    with _opened(directory) as (database, log), database.read() as snapshot:
        note = log.checkpoint(snapshot)
        _write(file, exported(snapshot, names=not without_names))
    _write(note_file, [note.encode()])
    typer.echo(f"Wrote {file} and {note_file}.")
    if not without_names:
        typer.echo("They name people: give them to nobody but your auditor.")
    typer.echo("To check them: privnb audit verify FILE --checkpoint CP --key KEY")


@app.command()
def key(directory: Directory) -> None:
    """Print the key by which the log's signatures are checked: for analysts and auditors."""
    with _opened(directory) as (_, log):
        typer.echo(log.verifier_key)
        typer.echo(f"Fingerprint, to compare over the telephone: {log.fingerprint}", err=True)


@app.command()
def erase(
    directory: Directory,
    person: Annotated[str, typer.Argument(metavar="PERSON", help="As the log names them.")],
    yes: Annotated[  # noqa: FBT002 - a switch of the command line
        bool, typer.Option("--yes", help="Do not ask.")
    ] = False,
) -> None:
    """Forget who a person was: what opens their commitments goes, the log stays as it was.

    The ledger, grants, requests and reviews still name them, as the site needs them to keep count.
    """
    from privnb.site import audit  # noqa: PLC0415 - SQLAlchemy takes a while

    with _opened(directory) as (database, _):
        with database.read() as snapshot:
            found = len(audit.erasable(snapshot, person))
        if not found:
            raise PrivnbError(
                f"Nobody in the audit log has the name {person!r}.",
                hint=f"See who is there: privnb audit show {directory}",
            )
        if not yes:
            typer.confirm(f"Erase {found} names and words, for good?", abort=True)
        with database.write() as transaction:
            gone = audit.erase(transaction, person)
    typer.echo(f"Erased {gone} names and words. The log's tree is unchanged.")
    typer.echo("Still naming them: grants, ledger, requests, reviews, and what was exported.")


@app.command("check-notebook")
def check_notebook(
    file: Annotated[Path, typer.Argument(metavar="FILE.ipynb", help="The notebook.")],
    key: Annotated[
        list[str] | None,
        typer.Option(help="A site's verifier key that you trust; again for each site."),
    ] = None,
) -> None:
    """Check that what a notebook shows is what sites released, by the receipts saved in it.

    Exit status 0: every answer that is shown as such is proved, by the keys that you named, which
    does not say that none was left out; 1: something is not; 2: there are no receipts; 3: as 0, but
    only by keys in the notebook itself, which anybody can make.
    """
    from privnb.audit import VerifierKey  # noqa: PLC0415 - only when needed
    from privnb.notebook_check import check_notebook as checked  # noqa: PLC0415

    with _told():
        trusted = [VerifierKey.parse(each) for each in key or ()]
    report = checked(file, trusted=trusted)
    for line in report.lines:
        typer.echo(line)
    raise typer.Exit(report.status)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what could not be proved into an error of the command line."""
    from privnb.audit import Unproved  # noqa: PLC0415 - only when needed

    try:
        yield
    except Unproved as problem:
        raise AuditBroken(
            str(problem), hint="Do not rely on it; keep what you were given as it is."
        ) from None


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[tuple[Database, AuditLog]]:
    from privnb.site.config import load_config  # noqa: PLC0415 - only when needed
    from privnb.site.database import Database  # noqa: PLC0415 - SQLAlchemy takes half a second
    from privnb.site.opening import database_path, open_audit  # noqa: PLC0415

    if not directory.is_dir():
        raise ConfigError(
            f"There is no folder {directory}.", hint="Make a site with: privnb site init"
        )
    config = load_config(directory)
    database = Database.open(database_path(config))
    try:
        yield database, open_audit(config)
    finally:
        database.close()


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file as a whole, readable by its owner only."""
    try:
        replace_file(path, lines)
    except OSError as problem:
        raise StateError(
            f"{path} cannot be written: {problem.strerror}.",
            hint="Look at the folder's permissions and free space.",
        ) from None


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - only when needed

    # Piped into a file there is no width to keep to.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 1000)


def _print_events(out: Console, events: Sequence[ShownEvent]) -> None:
    """Print events: each folded below its kind on a terminal, else each on a line of a table."""
    from rich.padding import Padding  # noqa: PLC0415 - only when needed
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from privnb.unseen import clean  # noqa: PLC0415

    def plain(text: str) -> Text:
        # As text: what people wrote is not to be taken for rich's own markup, nor for control.
        return Text(clean(text).replace("\n", " "), overflow="fold")

    table = Table("no.", "at", "kind", "who", "what", box=None, pad_edge=False)
    for event in events:
        facts = {name: value for name, value in event.facts.items() if value is not None}
        if out.is_terminal:
            out.print(plain(f"{event.index}  {event.at}  {event.kind}"), style="bold")
            out.print(Padding(plain(_listed(event.people | facts)), (0, 0, 0, 4)))
        else:
            cells = (str(event.index), event.at, event.kind, _listed(event.people), _listed(facts))
            table.add_row(*map(plain, cells))
    if not out.is_terminal:
        out.print(table)


def _listed(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())
