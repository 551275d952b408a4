"""An auditor has a file, a checkpoint and a key, and one module that needs nothing else of ours."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from audited_site import ANA, CAROL, AuditedSite
from hypothesis import given, settings

import privnb.audit
from privnb.audit import (
    Checkpoint,
    Unproved,
    VerifierKey,
    leaf_hash,
    main,
    open_checkpoint,
    sign_checkpoint,
    verify_export,
    verify_file,
)
from privnb.site.audit import erase, record_event
from privnb.site.audit_reading import exported

# Runs a file as `python FILE` would, where nothing but the standard library and one package is.
ALONE = """
import runpy, sys
packages, *sys.argv = sys.argv[1:]
sys.path.append(packages)
for name in ("privnb", "sqlalchemy", "pydantic", "typer"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} can be imported here")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def files(log, tmp_path):
    """Ten events, exported with names, and their checkpoint."""
    log.fill(8)
    with log.database.write() as transaction:
        private = {"analyst": ANA, "reviewer": CAROL, "reason": "fine\nby me\u2028“so far”"}
        record_event(transaction, "review", private=private, digest="d" * 64)
        record_event(transaction, "start")
    return export(log, tmp_path / "events.jsonl")


def export(log: AuditedSite, path: Path, *, names: bool = True) -> tuple[Path, Path]:
    note = path.with_suffix(".checkpoint")
    with log.database.read() as snapshot:
        path.write_bytes(b"".join(exported(snapshot, names=names)))
        note.write_text(log.log.checkpoint(snapshot))
    return path, note


def check(files, log, *earlier):
    path, note = files
    return verify_file(path, checkpoints=[note, *earlier], key=log.key)


def test_it_holds_and_opens_the_names(files, log):
    assert check(files, log).size == 10
    lines = files[0].read_bytes().split(b"\n")
    opened = json.loads(lines[8])["openings"]
    assert opened["reviewer"]["value"] == CAROL
    assert json.loads(lines[9]) == {"event": json.loads(log.bodies()[9]), "openings": {}}


def test_without_names_it_holds_and_names_nobody(log, tmp_path, files):
    anonymous = export(log, tmp_path / "anonymous.jsonl", names=False)
    assert check(anonymous, log).size == 10
    assert ANA not in anonymous[0].read_text()
    # The checkpoint is that of the same log.
    assert check((anonymous[0], files[1]), log).root == check(files, log).root


def test_it_holds_after_a_person_was_erased(log, tmp_path, files):
    with log.database.write() as transaction:
        erase(transaction, ANA)
    after = export(log, tmp_path / "after.jsonl")
    assert check((after[0], files[1]), log).size == 10
    assert ANA not in after[0].read_text()
    assert CAROL in after[0].read_text()


def test_an_empty_log_holds(log, tmp_path):
    assert check(export(log, tmp_path / "events.jsonl"), log).size == 0


def test_it_begins_with_the_logs_of_earlier_checkpoints(log, tmp_path, files):
    log.fill(1000)
    later = export(log, tmp_path / "later.jsonl")
    assert check(later, log, files[1]).size == 1010
    other = AuditedSite(tmp_path / "other")
    other.folder.joinpath("audit.key").write_bytes(log.folder.joinpath("audit.key").read_bytes())
    rewritten = AuditedSite(tmp_path / "other")
    rewritten.fill(1010)
    doctored = export(rewritten, tmp_path / "doctored.jsonl")
    assert check(doctored, log).size == 1010
    with pytest.raises(Unproved, match="first 10 lines are not the events of the checkpoint"):
        check(doctored, log, files[1])
    for site in (other, rewritten):
        site.database.close()


def tampered(lines: list[bytes]):
    """Ways to change an export, each with what is said of it."""
    said = "It is not in canonical JSON"
    yield lines[:-1], "ends after line 9; the checkpoint states 10"
    yield [], "ends after line 0"
    yield [*lines, lines[0]], "Line 11: the checkpoint states only 10"
    yield lines[1:] + lines[:1], "some event was changed, added, left out or moved"
    yield [lines[1], lines[0], *lines[2:]], "some event was changed"
    yield [lines[0].replace(b"decision", b"decisioN"), *lines[1:]], "some event was changed"
    yield [*lines[:3], lines[3].replace(b'{"event', b'{ "event'), *lines[4:]], f"Line 4: {said}"
    yield [*lines[:3], lines[3].replace(b'"event":{', b'"event":{ '), *lines[4:]], f"Line 4: {said}"
    yield [*lines[:3], lines[3][:-2] + b',"x":1}\n', *lines[4:]], f"Line 4: {said}"
    yield [*lines[:3], lines[3][:-1], *lines[4:]], f"Line 4: {said}"
    yield [*lines[:3], lines[3][:-1] + b" ", *lines[4:]], f"Line 4: {said}"
    yield [*lines[:9], lines[9][:-1]], f"Line 10: {said}"
    yield [*lines[:9], lines[9][:20]], "Line 10: It is not one exported"
    yield [b"\n", *lines], "Line 1: It is not one exported"
    yield [b"\xef\xbb\xbf" + lines[0], *lines[1:]], "Line 1: It is not one exported"
    yield [b"\xff\n", *lines[1:]], "Line 1: It is not one exported"
    yield [b'{"event":[],"openings":{}}\n', *lines[1:]], "Line 1: It is not one exported"
    yield [b'{"event":{"a":NaN},"openings":{}}\n', *lines[1:]], "Line 1: It is not one exported"
    yield [b'{"event":' + b"[" * 100_000 + b"\n", *lines[1:]], "Line 1: It is not one exported"
    yield [b'{"event":{"a":1,"a":1},"openings":{}}\n', *lines[1:]], f"Line 1: {said}"
    yield [b'{"event":{"a":1e999},"openings":{}}\n', *lines[1:]], f"Line 1: {said}"
    deep = b'{"a":' * 900 + b"1" + b"}" * 900
    yield [b'{"event":' + deep + b',"openings":{}}\n', *lines[1:]], "some event was changed"
    yield [lines[0].replace(ANA.encode(), b"bob"), *lines[1:]], "Line 1: The opening of 'analyst'"
    yield [*lines[:9], lines[9].replace(b"{}}", b"[]}")], "Line 10: The openings are not"
    yield [*lines[:9], lines[9].replace(b"{}}", b"null}")], "Line 10: The openings are not"
    yield (
        [*lines[:9], lines[9].replace(b"{}}", b'{"kind":{"salt":"00","value":"start"}}}')],
        "Line 10: The opening of 'kind'",
    )
    yield [*lines[:9], lines[9].replace(b"{}}", b"{ }}")], f"Line 10: {said}"
    event, opened = lines[9][:-2].split(b',"openings":')
    turned = b'{"openings":' + opened + b',"event":' + event.removeprefix(b'{"event":') + b"}\n"
    yield [*lines[:9], turned], f"Line 10: {said}"
    yield [*lines[:9], lines[9][:-1] + b"}"], f"Line 10: {said}"
    for old, new in (
        (b'{"analyst":', b'{"analyst":{"salt":"00","value":"mallory@evil.example"},"analyst":'),
        (b'{"analyst":', b'{ "analyst":'),
        (b'"salt":', b'"\\u0073alt":'),
        (b'"value":"', b'"value":"no","value":"'),
    ):
        before, opened = lines[0].split(b',"openings":')
        changed = before + b',"openings":' + opened.replace(old, new, 1)
        yield [changed, *lines[1:]], f"Line 1: {said}"


@pytest.mark.parametrize("number", range(33))
def test_what_is_wrong_is_said_and_where(files, log, number):
    path, _ = files
    lines = path.read_bytes().split(b"\n")[:-1]
    ways = list(tampered([line + b"\n" for line in lines]))
    assert len(ways) == 33
    changed, said = ways[number]
    path.write_bytes(b"".join(changed))
    with pytest.raises(Unproved) as refused:
        check(files, log)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


WORDS = st.sampled_from(["", "a", "b", "c", "é", 'say "so"']) | st.text(max_size=2)
PLAIN = st.dictionaries(WORDS, WORDS | st.dictionaries(WORDS, WORDS, max_size=3), max_size=3)
EVENTS = PLAIN | st.dictionaries(WORDS, PLAIN | st.none() | st.integers(), max_size=3)
WAYS = {
    "as it must be": {},
    "with spaces": {"separators": (", ", ":")},
    "in any order": {"sort_keys": False},
    "with more escapes": {"ensure_ascii": True},
}


@settings(derandomize=True, max_examples=300)
@given(event=EVENTS, way=st.sampled_from([*WAYS]), twice=st.booleans())
def test_a_line_holds_only_as_it_must_be_written(event, way, twice):
    usual = {"separators": (",", ":"), "sort_keys": True, "ensure_ascii": False}
    canonical = json.dumps(event, **usual)
    written = json.dumps(event, **usual | WAYS[way])
    if twice and event:
        written = f'{{{json.dumps(next(iter(event)))}:"",{written[1:]}'
    stated = Checkpoint(origin="log", size=1, root=leaf_hash(canonical.encode()))
    line = f'{{"event":{written},"openings":{{}}}}\n'.encode()
    if written == canonical:
        assert verify_export([line], checkpoints=[stated]) == 1
        return
    with pytest.raises(Unproved, match="Line 1: It is not in canonical JSON"):
        verify_export([line], checkpoints=[stated])


def test_a_line_that_is_not_canonical_is_found_among_many(log, tmp_path):
    log.fill(1500)
    path, note = export(log, tmp_path / "events.jsonl")
    lines = path.read_bytes().split(b"\n")
    lines[1234] = lines[1234].replace(b'"number":1234', b'"number": 1234')
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(Unproved, match="Line 1235: It is not in canonical JSON"):
        check((path, note), log)


def test_a_checkpoint_that_does_not_hold_is_named(files, log, tmp_path):
    path, note = files
    other = AuditedSite(tmp_path / "other")
    with pytest.raises(Unproved, match=r"events\.checkpoint: .* not signed by the key"):
        verify_file(path, checkpoints=[note], key=other.key)
    note.write_bytes(b"\xff")
    with pytest.raises(Unproved, match="no signed note"):
        check(files, log)
    with pytest.raises(Unproved, match="cannot be read"):
        check((path, tmp_path / "nowhere"), log)
    other.database.close()


def test_checkpoints_of_two_logs_or_of_none_check_nothing(files, log):
    lines = files[0].read_bytes().splitlines(keepends=True)
    stated = open_checkpoint(files[1].read_text(), log.key)
    from dataclasses import replace

    for checkpoints in ([], [stated, replace(stated, origin="other")]):
        with pytest.raises(Unproved, match="all of the same log"):
            verify_export(lines, checkpoints=checkpoints)


# The command


def test_the_command_says_what_was_checked(files, log, capsys):
    path, note = files
    assert main(["verify", str(path), "--checkpoint", str(note), "--key", str(log.key)]) == 0
    said = capsys.readouterr().out
    assert "10 events, exactly those of the log privnb/northside/" in said
    assert f"Signed by the key {log.key}" in said


def test_without_a_key_it_says_what_was_not_checked(files, capsys):
    path, note = files
    assert main(["verify", str(path), "--checkpoint", str(note)]) == 0
    assert "NOT checked: who signed the checkpoint" in capsys.readouterr().out


def test_what_does_not_hold_is_an_exit_status(files, log, capsys):
    path, note = files
    path.write_bytes(path.read_bytes() + b"\n")
    assert main(["verify", str(path), "--checkpoint", str(note)]) == 1
    assert "Not proved: " in capsys.readouterr().err
    assert main(["verify", str(path), "--checkpoint", str(note), "--key", "nonsense"]) == 1
    assert "no verifier key" in capsys.readouterr().err


def test_the_module_alone_is_enough(files, log, tmp_path):
    alone = tmp_path / "auditor"
    packages = alone / "packages"
    packages.mkdir(parents=True)
    shutil.copy(privnb.audit.__file__, alone / "audit.py")
    for name in ("cryptography", "cffi", "_cffi_backend", "pycparser"):
        module = importlib.import_module(name)
        source = Path(module.__file__)
        source = source.parent if source.name == "__init__.py" else source
        (packages / source.name).symlink_to(source)
    path, note = files
    command = [sys.executable, "-I", "-S", "-c", ALONE, packages]
    words = [alone / "audit.py", "verify", path, "--checkpoint", note, "--key", log.key]
    done = subprocess.run(
        [str(word) for word in (*command, *words)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 events" in done.stdout
    path.write_bytes(path.read_bytes().replace(b"decision", b"decisioN", 1))
    done = subprocess.run(
        [str(word) for word in (*command, *words)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "some event was changed" in done.stderr


def test_who_signs_for_another_log_is_not_believed(files, log, tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    _, note = files
    stated = open_checkpoint(note.read_text(), log.key)
    forged = Ed25519PrivateKey.generate()
    note.write_text(sign_checkpoint(stated, forged))
    with pytest.raises(Unproved, match="not signed by the key"):
        check(files, log)
    # The forger's own key, under the log's name, is another key all the same.
    theirs = VerifierKey(name=stated.origin, public=forged.public_key().public_bytes_raw())
    assert str(theirs) != str(log.key)
