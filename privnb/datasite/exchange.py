"""The exchange: the shared storage, as nothing but small files in folders.

`open_exchange` gives a `LocalFolder` for a path or a ``file://`` URL, and a `RemoteStore` for every
other fsspec URL (``memory://``, ``s3://``, …). Whatever the storage does, callers see three things:
an answer, `BadMessage` when *one file* is at fault, or `ExchangeUnavailable` when the storage is.
Everybody with access to the storage may write there, so nothing found in it is trusted: links are
not followed, special files are not opened, and no more bytes are read than were asked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import unquote, urlsplit

from privnb.errors import BadMessage, ConfigError, ExchangeUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Exchange", "LocalFolder", "RemoteStore", "open_exchange"]

_HIDDEN = "."
"""Files whose names begin so are being written, or are none of ours."""
_LOCAL = frozenset({"", "file", "local"})
_PUT_IS_ATOMIC = frozenset(
    {"abfs", "abfss", "adl", "az", "gcs", "gs", "memory", "oci", "oss", "s3", "s3a"}
)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# NONBLOCK: opening a named pipe would wait for a writer for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 64 * 1024
_TRIES = 4
_NOT_THERE = (errno.ENOTDIR, errno.ELOOP)


class Exchange(Protocol):
    """Small files in folders. Every method may be called from several threads at once.

    All raise `ExchangeUnavailable` when the storage cannot be reached or written.
    """

    @property
    def place(self) -> str:
        """Where it is, for messages to people; without credentials."""
        ...

    def names(self, *folder: str) -> list[str]:
        """Return what is in a folder, sorted; nothing when there is no such folder."""
        ...

    def read(self, *path: str, limit: int) -> bytes | None:
        """Return a file's bytes, or None when there is none.

        Raises `BadMessage` when it is larger than ``limit`` bytes, is no plain file, or may not be
        read.
        """
        ...

    def size(self, *path: str) -> int:
        """Return how many bytes a file says it has; 0 when there is none, or it is no file."""
        ...

    def write(self, data: bytes, *path: str, durable: bool = True) -> None:
        """Put a file there as a whole: readers see all of it or nothing.

        Unless ``durable`` is false, a power failure after this cannot take it away again.
        """
        ...

    def remove(self, *path: str) -> None:
        """Remove what is there, whatever it is; nothing happens when there is nothing."""
        ...


def open_exchange(
    url: str, *, options: Mapping[str, Any] | None = None, create: bool = False
) -> Exchange:
    """Return the exchange at ``url``; ``options`` go to its fsspec filesystem.

    A local folder must exist, unless ``create`` is true: a network folder that is not mounted must
    not be mistaken for an empty exchange.

    Raises
    ------
    ConfigError
        The URL has an unknown protocol, or its package is not installed.
    ExchangeUnavailable
        The folder does not exist or cannot be used.

    Examples
    --------
    >>> exchange = open_exchange("memory://doctest")
    >>> exchange.write(b"hello", "a", "b.txt")
    >>> exchange.names("a"), exchange.read("a", "b.txt", limit=100)
    (['b.txt'], b'hello')
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        protocol, rest = "", url
    if protocol in _LOCAL:
        path = Path(unquote(urlsplit(url).path) if separator else rest).expanduser().absolute()
        return LocalFolder(path, create=create)
    return RemoteStore(url, protocol=protocol, options=options or {})


class LocalFolder:
    """A folder of this machine, or one mounted on it.

    Folders are walked one by one without following links, so that somebody who replaces a folder
    of the exchange by a link cannot make us read, write or remove files outside it.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self._root = root
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            with self._folder(()):
                pass
        except OSError as error:
            self._unavailable(error)

    @property
    def place(self) -> str:
        """The folder's path."""
        return str(self._root)

    def names(self, *folder: str) -> list[str]:
        """See `Exchange.names`."""
        try:
            with self._folder(folder) as fd:
                found = os.listdir(fd)  # noqa: PTH208 - pathlib lists no descriptors
                return sorted(name for name in found if name[0] != _HIDDEN)
        except FileNotFoundError:
            return []
        except OSError as error:
            if error.errno in _NOT_THERE:
                return []
            self._unavailable(error)

    def read(self, *path: str, limit: int) -> bytes | None:
        """See `Exchange.read`."""
        *folder, name = path
        try:
            with self._folder(folder) as fd, _opened(name, _FILE, fd) as file:
                return _read_plain(file, name, limit)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise BadMessage(f"{name!a} may not be read.") from None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.ENAMETOOLONG}:
                raise BadMessage(f"{name!a} is not a plain file.") from None
            self._unavailable(error)

    def size(self, *path: str) -> int:
        """See `Exchange.size`."""
        *folder, name = path
        try:
            with self._folder(folder) as fd:
                return os.stat(name, dir_fd=fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            if error.errno in {*_NOT_THERE, errno.ENAMETOOLONG}:
                return 0
            self._unavailable(error)

    def write(self, data: bytes, *path: str, durable: bool = True) -> None:
        """See `Exchange.write`."""
        *folder, name = path
        for left in reversed(range(_TRIES)):
            try:
                with self._folder(folder, create=True) as fd:
                    _write_whole(data, name, fd, durable=durable)
            except OSError as error:
                # Both parties may have removed the folder just now; it is made again.
                if not left or not isinstance(error, FileNotFoundError):
                    self._unavailable(error)
            else:
                return

    def remove(self, *path: str) -> None:
        """See `Exchange.remove`."""
        *folder, name = path
        try:
            with self._folder(folder) as fd:
                try:
                    os.unlink(name, dir_fd=fd)
                except (IsADirectoryError, PermissionError):
                    # macOS answers EPERM for a folder. Of two who remove one, only one gets it
                    # aside, and nobody's file is missing half way. rmtree follows no links.
                    aside = f"{_HIDDEN}{uuid.uuid4().hex}"
                    os.rename(name, aside, src_dir_fd=fd, dst_dir_fd=fd)
                    shutil.rmtree(aside, dir_fd=fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._unavailable(error)

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...] | list[str], *, create: bool = False) -> Iterator[int]:
        try:
            fd = os.open(self._root, _FOLDER)
        except OSError as error:
            self._unavailable(error)
        try:
            for part in parts:
                try:
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _unavailable(self, error: OSError) -> NoReturn:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            problem, hint = "is full", "Free space there; what was to be sent is not lost."
        elif error.errno == errno.ENOENT:
            problem = "does not exist"
            hint = "Check the path, or mount the folder; a site's set-up creates it."
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            problem, hint = "may not be written or read", "Check the folder's permissions."
        else:
            problem = f"cannot be used ({error.strerror or type(error).__name__})"
            hint = "Check that the folder is there and mounted."
        raise ExchangeUnavailable(f"The exchange {self._root} {problem}.", hint=hint) from error


class RemoteStore:
    """Any other fsspec filesystem."""

    def __init__(self, url: str, *, protocol: str, options: Mapping[str, Any]) -> None:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - not needed for a local folder

        self._place = url.partition("?")[0] if "@" not in url else f"{protocol}://…"
        try:
            self._fs, root = url_to_fs(url, **options)
        except (ImportError, TypeError, ValueError) as error:
            raise ConfigError(
                f"The exchange {self._place} cannot be opened: {error}.",
                hint=f"Install the fsspec package for {protocol!r}, or check the URL and options.",
            ) from error
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)
        self._root = str(root).rstrip("/")
        self._atomic = protocol in _PUT_IS_ATOMIC

    @property
    def place(self) -> str:
        """The URL, without credentials."""
        return self._place

    def names(self, *folder: str) -> list[str]:
        """See `Exchange.names`."""
        path = self._at(folder)
        try:
            self._fs.invalidate_cache(path)
            found = self._fs.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)
        names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found}
        names.discard(path.rsplit("/", 1)[-1])  # object stores may list the folder itself
        return sorted(name for name in names if name and not name.startswith(_HIDDEN))

    def read(self, *path: str, limit: int) -> bytes | None:
        """See `Exchange.read`."""
        at = self._at(path)
        name = ascii(path[-1])
        try:
            # Else some filesystems look into the listing that they made before.
            self._fs.invalidate_cache(self._at(path[:-1]))
            about = self._fs.info(at)
            size = about.get("size") or 0
            # A range of an empty object is an error to some stores.
            data: bytes = self._fs.cat_file(at, start=0, end=limit + 1) if size else b""
        except IsADirectoryError:
            raise BadMessage(f"{name} is not a plain file.") from None
        except FileNotFoundError:
            return None
        except PermissionError:
            raise BadMessage(f"{name} may not be read.") from None
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)
        if about["type"] != "file":
            raise BadMessage(f"{name} is not a plain file.")
        if len(data) > limit:
            raise BadMessage(f"{name} has more than {limit} bytes.")
        return data

    def size(self, *path: str) -> int:
        """See `Exchange.size`."""
        try:
            self._fs.invalidate_cache(self._at(path[:-1]))
            return int(self._fs.info(self._at(path)).get("size") or 0)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return 0
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)

    def write(self, data: bytes, *path: str, durable: bool = True) -> None:  # noqa: ARG002 - no store asks
        """See `Exchange.write`."""
        at = self._at(path)
        try:
            if self._atomic:
                self._fs.pipe_file(at, data)
                return
            folder = self._at(path[:-1])
            self._fs.makedirs(folder, exist_ok=True)
            part = f"{folder}/{_HIDDEN}{uuid.uuid4().hex}"
            self._fs.pipe_file(part, data)
            self._fs.mv(part, at)
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)

    def remove(self, *path: str) -> None:
        """See `Exchange.remove`."""
        try:
            self._fs.rm(self._at(path), recursive=True)
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001 - each filesystem has its own errors
            self._unavailable(error)

    def _at(self, parts: tuple[str, ...] | list[str]) -> str:
        return "/".join((self._root, *parts))

    def _unavailable(self, error: Exception) -> NoReturn:
        raise ExchangeUnavailable(
            f"The exchange {self._place} cannot be used ({type(error).__name__}).",
            hint="Check the network, the URL, the credentials and the free space.",
        ) from error


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    fd = os.open(name, flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _read_plain(fd: int, name: str, limit: int) -> bytes:
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        raise BadMessage(f"{name!a} is not a plain file.")
    if about.st_size > limit:
        raise BadMessage(f"{name!a} has {about.st_size} bytes; at most {limit} are read.")
    chunks = []
    left = limit + 1
    # All of it at once, and one more to see its end: eight megabytes by the piece cost 10 ms.
    most = max(about.st_size + 1, _PIECE)
    while left and (chunk := os.read(fd, min(left, most))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise BadMessage(f"{name!a} has more than {limit} bytes.")
    return b"".join(chunks)


def _write_whole(data: bytes, name: str, folder: int, *, durable: bool) -> None:
    part = f"{_HIDDEN}{uuid.uuid4().hex}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # 0o666 less the umask: who shares the folder decides who reads there.
    fd = os.open(part, flags, 0o666, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    if durable:
        # Not every mounted filesystem can do this; the file itself is written by now.
        with contextlib.suppress(OSError):
            os.fsync(folder)
