"""Reading a live database by its Ibis URL.

The visible columns are computed there and stream here as Arrow record batches, so that hidden
columns never leave the owner's database and the table never has to fit into memory. A password
in a URL is in no message.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_plus

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.common.exceptions import IbisError

from privnb.errors import ConfigError
from privnb.site.config import SiteConfig, TableConfig

__all__ = ["connected", "copy", "first_line", "shown"]

_CELLS_AT_ONCE = 500_000
_MOST_CHARACTERS = 300
_IN_FILES = ("duckdb", "sqlite")
_OURS = {"postgres": "privnb[postgres]", "postgresql": "privnb[postgres]"}
_OPTION = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)([^&]*)", re.IGNORECASE)

_STREAM = re.compile(r"^.*arrow_scan: get_next failed\(\): \w+: (Unknown error: )?")
"""What DuckDB and Arrow put before the words of a driver that fails while rows stream."""


@contextlib.contextmanager
def connected(config: SiteConfig, table: TableConfig) -> Iterator[Any]:
    """Connect to the table's database; whatever its driver raises becomes an `OSError`.

    Raises
    ------
    ConfigError
        When the driver is not installed, the file does not exist, or nobody lets us in.
    """
    with warnings.catch_warnings():
        # Ibis 12 calls DuckDB 1.5 by names that are deprecated there.
        warnings.simplefilter("ignore", DeprecationWarning)
        backend = _connect(config, table)
        try:
            yield backend
        except (ConfigError, IbisError, duckdb.Error):
            raise
        except Exception as error:  # noqa: BLE001 - every driver has exceptions of its own
            raise OSError(str(error)) from None
        finally:
            with contextlib.suppress(Exception):  # the server may be gone
                backend.disconnect()


def copy(visible: ir.Table, *, into: Any, name: str) -> None:
    """Stream a table of a live database into ``into``, an Ibis DuckDB connection."""
    rows = max(1, _CELLS_AT_ONCE // len(visible.columns))
    with visible.to_pyarrow_batches(chunk_size=rows) as reader:
        into.con.register("incoming", reader)
        try:
            into.raw_sql(f"CREATE OR REPLACE TABLE {name} AS FROM incoming")
        finally:
            into.con.unregister("incoming")


def shown(source: str) -> str:
    """Leave passwords out of a URL, even of one that is not written as it should be.

    Examples
    --------
    >>> shown("postgres://reader:p@ss/word@localhost/clinic?sslmode=require&password=x")
    'postgres://reader:…@localhost/clinic?sslmode=require&password=…'
    >>> shown("visits.parquet")
    'visits.parquet'
    """
    source = re.sub(r"(://[^:/@?]*):.*@", r"\1:…@", source, flags=re.DOTALL)
    return _OPTION.sub(r"\1…", source)


def first_line(error: BaseException, source: str) -> str:
    """Return the beginning of what an engine says about a source, without its passwords."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = _STREAM.sub("", lines[0]).partition(" Detail: Python exception")[0]
    said = said.replace(source, shown(source))
    for secret in _secrets(source):
        said = said.replace(secret, "…")
    return said[:_MOST_CHARACTERS]


def _secrets(source: str) -> list[str]:
    """Find every form in which a driver might repeat a password, the longest first."""
    if "://" not in source:
        return []
    found = re.findall(r"://[^:/@?]*:(.*)@", source, flags=re.DOTALL)
    # What stands before a slash or mark in a password written as it is, is taken for a port.
    found += [part for whole in found for part in re.split(r"[@/?#]", whole)]
    found += [value for _, value in _OPTION.findall(source)]
    return sorted({*found, *map(unquote_plus, found)} - {""}, key=len, reverse=True)


def _connect(config: SiteConfig, table: TableConfig) -> Any:
    key = ("tables", table.name, "source")
    scheme = table.source.partition("://")[0]
    url = _from_site(config, table)
    try:
        return ibis.connect(url)
    except ImportError:
        package = _OURS.get(scheme, f"ibis-framework[{scheme}]")
        raise config.error(
            f"Reading {scheme} needs a package that is not installed.",
            *key,
            hint=f"Run: pip install '{package}'",
        ) from None
    except Exception as error:  # noqa: BLE001 - every driver has exceptions of its own
        raise config.error(
            f"Source {shown(table.source)!r} cannot be opened: {first_line(error, table.source)}",
            *key,
            hint="See that the database runs, and that its URL, user and password are right.",
        ) from None


def _from_site(config: SiteConfig, table: TableConfig) -> str:
    """Make the path of a database's file relative to site.toml, not to where the agent started."""
    scheme, rest = table.source.split("://", 1)
    name, mark, options = rest.partition("?")
    if scheme not in _IN_FILES or name in ("", ":memory:"):
        return table.source
    path = config.directory / name
    if not path.is_file():  # connecting would make an empty one
        raise config.error(
            f"There is no file {path}.",
            *("tables", table.name, "source"),
            hint="A path is relative to site.toml.",
        )
    return f"{scheme}://{path}{mark}{options}"
