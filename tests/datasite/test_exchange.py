"""The storages themselves: whole files or nothing, and three kinds of answer."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from privnb.datasite import exchange as storages
from privnb.datasite.exchange import LocalFolder, RemoteStore, open_exchange
from privnb.errors import BadMessage, ConfigError, ExchangeUnavailable


@pytest.fixture(params=["local", "memory"])
def exchange(request, tmp_path):
    if request.param == "local":
        return open_exchange(str(tmp_path / "x"), create=True)
    return open_exchange(f"memory://{uuid.uuid4().hex}")


def test_files_come_back_as_they_were_written(exchange):
    for data in (b"", b"\x00\xff" * 1000):
        exchange.write(data, "a", "b", "c")
        assert exchange.read("a", "b", "c", limit=2000) == data
        assert exchange.size("a", "b", "c") == len(data)
    exchange.write(b"", "a", "b", "d")
    assert exchange.names("a", "b") == ["c", "d"]
    exchange.remove("a", "b", "c")
    exchange.remove("a", "b", "c")
    assert exchange.names("a", "b") == ["d"]


def test_what_is_not_there_is_no_error(exchange):
    assert exchange.names("no", "where") == []
    assert exchange.read("no", "where", limit=1) is None
    assert exchange.size("no", "where") == 0
    exchange.remove("no", "where")


def test_a_file_over_the_limit_or_a_folder_is_no_message(exchange):
    exchange.write(b"12345", "a", "b")
    assert exchange.read("a", "b", limit=5) == b"12345"
    with pytest.raises(BadMessage, match="4"):
        exchange.read("a", "b", limit=4)
    with pytest.raises(BadMessage, match="plain"):
        exchange.read("a", limit=4)


def test_readers_see_all_of_a_file_or_nothing(exchange):
    versions = [bytes([number]) * 200_000 for number in range(4)]
    exchange.write(versions[0], "a", "b")
    torn = []
    done = threading.Event()

    def read():
        while not done.is_set():
            data = exchange.read("a", "b", limit=1 << 20)
            if data not in versions:
                torn.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for version in versions:
            exchange.write(version, "a", "b")
    done.set()
    reader.join()
    assert torn == []
    assert exchange.names("a") == ["b"], "nothing half written is listed"


def test_a_missing_folder_is_not_mistaken_for_an_empty_exchange(tmp_path):
    root = tmp_path / "x"
    with pytest.raises(ExchangeUnavailable, match="does not exist"):
        open_exchange(str(root))
    exchange = open_exchange(str(root), create=True)
    exchange.write(b"1", "a", "b")
    root.rename(tmp_path / "gone")
    for call in (
        lambda: exchange.names("a"),
        lambda: exchange.read("a", "b", limit=9),
        lambda: exchange.write(b"2", "a", "b"),
        lambda: exchange.remove("a", "b"),
    ):
        with pytest.raises(ExchangeUnavailable, match="does not exist") as gone:
            call()
        assert gone.value.hint
        assert not root.exists(), "it is not made anew"
    (tmp_path / "gone").rename(root)
    assert exchange.read("a", "b", limit=9) == b"1"


def test_a_folder_of_the_exchange_replaced_by_a_link_is_not_used(tmp_path):
    exchange = open_exchange(str(tmp_path / "x"), create=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_text("precious")
    (tmp_path / "x" / "a").symlink_to(outside)
    assert exchange.names("a") == []
    with pytest.raises(BadMessage):
        exchange.read("a", "b", limit=100)
    with pytest.raises(ExchangeUnavailable):
        exchange.write(b"evil", "a", "b")
    with pytest.raises(ExchangeUnavailable):
        exchange.remove("a", "b")
    assert (outside / "b").read_text() == "precious"


def test_a_full_disk_says_so_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    exchange = open_exchange(str(tmp_path), create=True)
    exchange.write(b"old", "a", "b")

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExchangeUnavailable, match="is full") as refused:
        exchange.write(b"new", "a", "b")
    assert "Free space" in refused.value.hint
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert exchange.read("a", "b", limit=9) == b"old"


def test_only_what_must_last_waits_for_the_disk(tmp_path, monkeypatch):
    exchange = open_exchange(str(tmp_path), create=True)
    waited = []
    monkeypatch.setattr(os, "fsync", waited.append)
    exchange.write(b"soon gone", "a", "b", durable=False)
    assert waited == []
    assert exchange.read("a", "b", limit=9) == b"soon gone"
    exchange.write(b"lasts", "a", "c")
    assert len(waited) == 2, "the file, and the folder that names it"


def test_a_folder_removed_while_a_file_is_written_into_it_is_made_again(tmp_path, monkeypatch):
    exchange = open_exchange(str(tmp_path), create=True)
    write_whole = storages._write_whole

    def removed_just_now(*args, **kwargs):
        monkeypatch.setattr(storages, "_write_whole", write_whole)
        exchange.remove("a", "b")
        write_whole(*args, **kwargs)

    monkeypatch.setattr(storages, "_write_whole", removed_just_now)
    exchange.write(b"1", "a", "b", "c")
    assert exchange.read("a", "b", "c", limit=9) == b"1"


def test_two_may_remove_a_folder_at_once(tmp_path):
    exchange = open_exchange(str(tmp_path), create=True)
    barrier = threading.Barrier(2)

    def remove():
        barrier.wait()
        exchange.remove("a", "b")

    for _ in range(20):
        for number in range(20):
            exchange.write(b"", "a", "b", str(number), durable=False)
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(remove), threads.submit(remove)]:
                done.result(timeout=60)
        assert list((tmp_path / "a").iterdir()) == []


def test_every_failure_of_a_remote_store_is_one_error():
    exchange = open_exchange(f"memory://{uuid.uuid4().hex}")

    class Broken:
        def __getattr__(self, name):
            def fail(*args, **kwargs):
                raise ConnectionResetError(name)

            return fail

    exchange._fs = Broken()
    for call in (
        lambda: exchange.names("a"),
        lambda: exchange.read("a", limit=9),
        lambda: exchange.size("a"),
        lambda: exchange.write(b"", "a"),
        lambda: exchange.remove("a"),
    ):
        with pytest.raises(ExchangeUnavailable, match="ConnectionResetError"):
            call()


def test_a_store_without_atomic_puts_gets_a_rename(tmp_path):
    exchange = RemoteStore(f"local://{tmp_path}", protocol="local", options={})
    exchange.write(b"1", "a", "b")
    exchange.write(b"2", "a", "b")
    assert exchange.read("a", "b", limit=9) == b"2"
    assert exchange.names("a") == ["b"]
    exchange.remove("a")
    assert exchange.names("a") == []


def test_credentials_in_a_url_are_not_shown():
    with pytest.raises(ConfigError) as refused:
        open_exchange("nosuch://user:secret@host/x")
    assert "secret" not in str(refused.value) + refused.value.hint


def test_a_local_path_may_be_written_in_every_way(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b").mkdir()
    places = {
        open_exchange(url).place
        for url in ("~/a b", str(tmp_path / "a b"), f"file://{tmp_path}/a%20b")
    }
    assert places == {str(tmp_path / "a b")}
    assert isinstance(open_exchange("~/a b"), LocalFolder)


def test_a_store_that_remembers_its_listings_is_asked_anew():
    exchange = open_exchange(f"memory://{uuid.uuid4().hex}")
    inner = exchange._fs

    class Remembering:
        """Answers from a listing made before, as several filesystems of fsspec do."""

        listed: dict[str, list[str]] = {}  # noqa: RUF012 - one instance

        def __getattr__(self, name):
            return getattr(inner, name)

        def info(self, path):
            folder = path.rsplit("/", 1)[0]
            if path not in self.listed.setdefault(folder, inner.find(folder)):
                raise FileNotFoundError(path)
            return inner.info(path)

        def invalidate_cache(self, path=None):
            self.listed.pop(path, None)

    exchange._fs = Remembering()
    exchange.write(b"1", "a", "b")
    assert exchange.read("a", "c", limit=9) is None
    exchange.write(b"2", "a", "c")
    assert exchange.read("a", "c", limit=9) == b"2"
