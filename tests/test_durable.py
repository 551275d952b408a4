"""Files are whole or not there, and what is left over does not stay."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time

import pytest

from privnb.durable import file_name, make_folder, replace_file


@pytest.fixture
def synced(monkeypatch):
    """The paths, inode by inode, that were handed to the disk."""
    seen = []
    real = os.fsync

    def fsync(handle):
        seen.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_a_file_and_the_folder_that_names_it_are_handed_to_the_disk(tmp_path, synced):
    path = tmp_path / "note"
    replace_file(path, [b"a", b"b"])
    assert path.read_bytes() == b"ab"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_a_folder_that_was_made_is_handed_to_the_disk_in_the_one_above(tmp_path, synced):
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        make_folder(tmp_path / "file" / "below")


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "note"
    replace_file(path, [b"old"])

    def broken():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, broken())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_later_and_what_is_being_written_is_not(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom privnb.durable import replace_file\n"
        "def data():\n    yield b'half'\n    os.kill(os.getpid(), 9)\n"
        "replace_file(Path(sys.argv[1]), data())\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "note"], check=False)
    (left,) = tmp_path.iterdir()
    replace_file(tmp_path / "note", [b"whole"])
    assert left.exists()
    long_ago = time.time() - 2 * 3600
    os.utime(left, (long_ago, long_ago))
    replace_file(tmp_path / "note", [b"whole"])
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_the_longest_name_that_a_file_can_have_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    replace_file(path, [b"yes"])
    assert path.read_bytes() == b"yes"


def test_names_for_addresses_are_readable_harmless_and_different():
    assert file_name("data+ana@uni.example") == "data+ana@uni.example"
    assert "/" not in file_name("../ana@uni.example")
    long = [file_name("%" * 99 + end) for end in ("a", "b")]
    assert len(set(long)) == 2
    assert all(len(name) <= 125 and name.startswith("%25%25") for name in long)
