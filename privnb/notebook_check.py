"""Checks a published notebook: that what it shows is what sites released, by the receipts in it.

Beside what an output shows, a notebook keeps what was released, as each site's audit log knows it
by its hash, with the receipt. Whoever has the notebook and the sites' keys can check both, and that
what is shown is what follows from what was released. The code of the cells, what they print
otherwise and the text between them are not checked; nor can it be seen whether answers, or sites of
an answer, were left out.
"""

from __future__ import annotations

import dataclasses
import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privnb import audit, wire
from privnb.audit import Proved, Unproved, VerifierKey
from privnb.errors import BadMessage, PrivnbError, error_from_code
from privnb.federated.release import FederatedRelease, Outcome
from privnb.messages import Participation, Problem
from privnb.output import Output
from privnb.release import RECORD_TYPE, Answer, PrivacyLabel, Receipt, Release, SiteRelease
from privnb.unseen import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["NotebookReport", "check_notebook"]

_SHOWN_TYPES = ("text/html", "text/plain")
_CARD = "pn-release"
_LARGEST_NOTEBOOK = 512 * 1024 * 1024


@wire.message
class RecordPart:
    """What one site released, with the proof."""

    site: str
    owner: str
    key: str
    receipt: Receipt | None
    """None for what a mock twin made up."""
    linked: bool
    released: str
    """The canonical JSON whose hash the audit log has: a `Released`."""


@wire.message
class NotebookRecord:
    """What a notebook keeps of a release; see `Release.record`."""

    version: Literal[1]
    request: str
    digest: str
    parts: tuple[RecordPart, ...]
    problems: dict[str, Problem] | None = None
    """Sites that had released nothing when it was shown, with the reason. Nothing proves them."""
    name: str | None = None
    """The variable it was stored under, where one line says so in the place of a card."""
    outcome: str | None = None
    """The canonical JSON of a `privnb.federated.release.Outcome`: what sites gave together."""


@wire.message
class Released:
    """What `privnb.messages.released_hash` covers."""

    request: str
    digest: str | None
    answer: Answer | None
    output: Output | None
    label: PrivacyLabel | None
    salt: str
    part: Participation | None = None


@dataclass(frozen=True, kw_only=True)
class NotebookReport:
    """What was found, line by line, and the exit status it amounts to."""

    lines: tuple[str, ...]
    status: Literal[0, 1, 2, 3]
    """0: what is named as proved is, by trusted keys; 1: something is not; 2: there is no receipt;
    3: as 0, but by keys that only the notebook itself names."""


@dataclass(kw_only=True)
class _Findings:
    lines: list[str] = field(default_factory=list)
    proved: int = 0
    wrong: int = 0
    bare: int = 0
    """Answers that are shown without a receipt."""

    def found_wrong(self, where: str, problem: str) -> None:
        self.wrong += 1
        self.lines.append(f"{where}: WRONG: {problem}")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    where: str
    receipt: Receipt
    proved: Proved


def check_notebook(path: Path, *, trusted: Sequence[VerifierKey] = ()) -> NotebookReport:
    """Check every release that a notebook shows.

    Parameters
    ----------
    trusted
        Keys of sites, from where they are known to be right. Without any, the keys in the notebook
        are believed, and listed to be compared.

    Raises
    ------
    PrivnbError
        The file cannot be read, or is no notebook.
    """
    findings = _Findings()
    seen: dict[str, list[_Seen]] = {}
    for where, data in _outputs(_read(path)):
        if RECORD_TYPE in data:
            _check_output(where, data, findings, seen, trusted=trusted)
        elif any(_CARD in html.unescape(_text(data, mime)) for mime in data):
            findings.bare += 1
            findings.lines.append(f"{where}: NOT PROVED: an answer without a receipt.")
    _check_logs(seen, findings)
    return _report(findings, list(seen), trusted=trusted)


def _report(
    findings: _Findings, keys: Sequence[str], *, trusted: Sequence[VerifierKey]
) -> NotebookReport:
    lines = list(findings.lines)
    if not findings.proved and not findings.wrong:
        lines.append("There are no receipts in this notebook: nothing in it can be checked.")
        return NotebookReport(lines=_printable(lines), status=2)
    if keys and not trusted:
        warning = (
            "Checked by keys that stand in the notebook itself, and anybody can make a key: it "
            "proves nothing until you compare them. Ask each site's owner, or name them with --key:"
        )
        shown = [
            (f"  {key}", f"  fingerprint {VerifierKey.parse(key).fingerprint}") for key in keys
        ]
        lines = [warning, *(line for pair in shown for line in pair), *lines]
    lines.append(
        f"{findings.proved} answers of sites proved, {findings.wrong} things wrong, "
        f"{findings.bare} answers without a receipt."
    )
    lines.append(
        "Not checked: the code of the cells, and whatever is not named above, even if it looks "
        "like an answer. Answers, and sites of an answer, may have been left out."
    )
    if findings.wrong or findings.bare:
        return NotebookReport(lines=_printable(lines), status=1)
    return NotebookReport(lines=_printable(lines), status=0 if trusted else 3)


def _printable(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(clean(line).replace("\n", " ") for line in lines)


# The notebook


def _read(path: Path) -> object:
    hint = "Name a Jupyter notebook, FILE.ipynb."
    try:
        if path.stat().st_size > _LARGEST_NOTEBOOK:
            raise PrivnbError(f"{path} is larger than any notebook that is read.", hint=hint)
        return json.loads(path.read_bytes())
    except OSError as problem:
        raise PrivnbError(f"{path} cannot be read: {problem.strerror}.", hint=hint) from None
    except (ValueError, RecursionError):
        raise PrivnbError(f"{path} is not JSON.", hint=hint) from None


def _outputs(notebook: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Find all outputs that have forms by mime type, with words for where they are."""
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise PrivnbError(
            "This is no notebook of version 4.", hint="Save it with a current Jupyter."
        )
    for number, cell in enumerate(cells, 1):
        outputs = cell.get("outputs") if isinstance(cell, dict) else None
        for output in outputs if isinstance(outputs, list) else ():
            data = output.get("data") if isinstance(output, dict) else None
            if isinstance(data, dict):
                count = cell.get("execution_count")
                ran = f" (In [{count}])" if isinstance(count, int) else ""
                yield f"Cell {number}{ran}", data


def _text(data: Mapping[str, Any], mime: str) -> str:
    """Return a form as one text; notebooks store it by lines."""
    value = data.get(mime, "")
    parts = value if isinstance(value, list) else [value]
    return "".join(part for part in parts if isinstance(part, str))


# One output


def _check_output(
    where: str,
    data: Mapping[str, Any],
    findings: _Findings,
    seen: dict[str, list[_Seen]],
    *,
    trusted: Sequence[VerifierKey],
) -> None:
    try:
        written = json.dumps(data[RECORD_TYPE], allow_nan=False, ensure_ascii=False).encode()
        record = wire.decode(NotebookRecord, written, what="What is kept beside it")
    except (BadMessage, ValueError, RecursionError) as problem:
        findings.found_wrong(where, _message(problem))
        return
    owners = {part.owner for part in record.parts}
    if not record.parts or len(owners) < len(record.parts):
        findings.found_wrong(where, "it is of no site, or twice of the same one.")
        return
    parts = []
    for part in record.parts:
        try:
            made, proved = _check_part(record, part, trusted=trusted)
        except (Unproved, BadMessage, UnicodeEncodeError) as problem:
            findings.found_wrong(f"{where}: {part.site}", _message(problem))
            continue
        parts.append(made)
        if proved is None or part.receipt is None:
            findings.lines.append(f"{where}: {part.site}: of its mock twin; that needs no proof.")
            continue
        findings.proved += 1
        seen.setdefault(part.key, []).append(
            _Seen(where=where, receipt=part.receipt, proved=proved)
        )
        findings.lines.append(f"{where}: {part.site}: proved: {_said(part.receipt, proved)}")
    findings.lines += [
        f"{where}: not proved: that {site} gave nothing, and why." for site in record.problems or {}
    ]
    if len(parts) == len(record.parts):
        _check_look(where, data, record, parts, findings)


def _said(receipt: Receipt, proved: Proved) -> str:
    """Say what a proved event tells."""
    analyst = (receipt.openings or {})["analyst"].value
    event = proved.event
    return (
        f"event {proved.index} of {proved.checkpoint.size}, {event.get('at')}, "
        f"for {analyst}, {event.get('purpose')}"
    )


def _check_part(
    record: NotebookRecord, part: RecordPart, *, trusted: Sequence[VerifierKey]
) -> tuple[SiteRelease, Proved | None]:
    """Check what one site released; what its mock twin made up has no proof."""
    released = wire.decode(Released, part.released.encode(), what="What was released")
    given = [released.answer, released.output, released.part]
    if released.label is None or sum(each is not None for each in given) != 1:
        raise Unproved("Nothing was released.")
    if (released.part is None) != (record.outcome is None):
        raise Unproved("What is shown of all sites together is not of the kind that was released.")
    if (released.request, released.digest) != (record.request, record.digest):
        raise Unproved("It is an answer to another question.")
    made = SiteRelease(
        site=part.site,
        owner=part.owner,
        answer=released.answer,
        output=released.output,
        part=released.part,
        label=released.label,
        receipt=part.receipt,
        key=part.key,
        linked=part.linked,
        salt=released.salt,
    )
    if released.label.mock and part.receipt is None:
        return made, None
    return made, _prove_part(part, made, released, trusted=trusted)


def _prove_part(
    part: RecordPart, made: SiteRelease, released: Released, *, trusted: Sequence[VerifierKey]
) -> Proved:
    if part.receipt is None:
        raise Unproved("It has no receipt.")
    key = VerifierKey.parse(part.key)
    if trusted and key not in trusted:
        raise Unproved("It is signed by a key that you did not name.")
    site = audit.site_of(key.name, part.owner)
    if site is None or part.site not in {site, f"{site}@{part.owner}"}:
        raise Unproved("It is signed by the key of another site.")
    proved = audit.verify_receipt(dataclasses.asdict(part.receipt), key=key)
    event = proved.event
    if event.get("kind") != "release":
        raise Unproved("The receipt is not that of a release.")
    if event.get("output") != wire.sha256_hex(part.released.encode()):
        raise Unproved("What it shows is not what the receipt is for: one of them was changed.")
    named = {"request": released.request, "digest": released.digest}
    if made.label.route == "noise":
        named["epsilon"] = made.label.epsilon
    others = [field for field, value in named.items() if event.get(field) != value]
    if others or "analyst" not in (part.receipt.openings or {}):
        raise Unproved("The site logged it as the answer to another question, or to nobody.")
    return proved


def _check_look(
    where: str,
    data: Mapping[str, Any],
    record: NotebookRecord,
    parts: Sequence[SiteRelease],
    findings: _Findings,
) -> None:
    """Compare what is shown with what the released parts look like."""
    others = sorted(set(data) - {RECORD_TYPE, *_SHOWN_TYPES})
    if others:
        findings.found_wrong(where, f"shown in a form that is not privnb's: {', '.join(others)}")
    if record.name is not None and not record.name.isidentifier():
        findings.found_wrong(where, "what it says it was stored under is no variable's name.")
    problems = {
        site: error_from_code(problem.code, problem.message, problem.hint)
        for site, problem in (record.problems or {}).items()
    }
    outcome = _outcome(where, record, parts, findings)
    release: Release | FederatedRelease
    if outcome is None:
        release = Release(
            request=record.request, digest=record.digest, parts=tuple(parts), problems=problems
        )
    else:
        release = FederatedRelease(
            request=record.request,
            digest=record.digest,
            outcome=outcome,
            parts=tuple(parts),
            problems=problems,
        )
    try:
        forms = release.bundle(name=record.name)
    except Exception:  # noqa: BLE001 - what a site released may be no table at all
        findings.found_wrong(where, "what was released cannot be shown.")
        return
    for mime in _SHOWN_TYPES:
        if mime in data and _text(data, mime) != forms[mime]:
            findings.found_wrong(
                where,
                f"shown as this version of privnb would not show it ({mime}): it was changed, or "
                "another version wrote it.",
            )


def _outcome(
    where: str, record: NotebookRecord, parts: Sequence[SiteRelease], findings: _Findings
) -> Outcome | None:
    """Read what sites gave together; that it is what came of their sums, nothing proves."""
    if record.outcome is None:
        return None
    try:
        outcome = wire.decode(Outcome, record.outcome.encode(), what="What the sites gave")
    except (BadMessage, UnicodeEncodeError) as problem:
        findings.found_wrong(where, _message(problem))
        return None
    findings.lines.append(
        f"{where}: not proved: the numbers, which were put together from sums that no single site "
        "knows; proved is who took part, and under which label."
    )
    strangers = [
        part.site
        for part in parts
        if (part.key and outcome.names.get(part.key) != part.site)
        or not set(part.part.sites if part.part else ()) <= outcome.names.keys()
    ]
    if strangers:
        findings.found_wrong(where, f"{strangers[0]} proves its part in another run.")
    if outcome.mock != any(part.label.mock for part in parts):
        findings.found_wrong(where, "it is shown as of the data and of mock twins at once.")
    return outcome


# The logs behind the receipts


def _check_logs(seen: Mapping[str, Sequence[_Seen]], findings: _Findings) -> None:
    """Check that all receipts of a site are of one log, as far as they have the proofs."""
    owners: dict[str, str] = {}
    for key, receipts in seen.items():
        name = VerifierKey.parse(key).name
        if owners.setdefault(name, key) != key:
            findings.found_wrong(name, "its answers are signed by different keys.")
        events: dict[int, str] = {}
        roots: dict[int, bytes] = {}
        for each in receipts:
            state = each.proved.checkpoint
            same_event = events.setdefault(each.proved.index, each.receipt.event)
            same_root = roots.setdefault(state.size, state.root)
            if same_event != each.receipt.event or same_root != state.root:
                findings.found_wrong(each.where, f"{name} signed two logs that differ.")
        for each in receipts:
            proofs = each.receipt.consistency or {}
            for size in (size for size in roots if str(size) in proofs):
                _check_growth(each, size, roots[size], proofs[str(size)], findings)


def _check_growth(
    newer: _Seen, size: int, root: bytes, proof: Sequence[str], findings: _Findings
) -> None:
    state = newer.proved.checkpoint
    try:
        audit.verify_consistency(
            old_size=size,
            old_root=root,
            size=state.size,
            root=state.root,
            proof=audit.read_proof(proof),
        )
    except Unproved as problem:
        findings.found_wrong(newer.where, str(problem))


def _message(problem: Exception) -> str:
    return problem.message if isinstance(problem, PrivnbError) else str(problem)
