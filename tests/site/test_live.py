"""Tables of live databases, foremost of a PostgreSQL server of our own, where one is installed."""

import contextlib
import datetime as dt
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from pathlib import Path

import pytest

from privnb.errors import ConfigError
from privnb.site.config import load_config
from privnb.site.data.live import first_line, shown
from privnb.site.data.tables import Tables

PASSWORD = "correct horse/battery@staple"  # noqa: S105 - of a server that lives for a test
ESCAPED = "correct%20horse%2Fbattery%40staple"

SITE = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[tables.visits]
source = "{url}"
source_table = "{table}"
privacy_unit = "person"
max_rows_per_unit = 3
{more}
delta = 1e-6
total_epsilon = 10
purposes = ["research"]

[tables.visits.columns.person]
type = "integer"
"""

SETUP = """
CREATE ROLE reader LOGIN PASSWORD 'correct horse/battery@staple';
CREATE ROLE stranger LOGIN PASSWORD 'correct horse/battery@staple';
CREATE TYPE mood AS ENUM ('low', 'high');
CREATE TABLE log (
    person int, year smallint, cost double precision, price numeric, fee numeric(10, 2),
    whole numeric(10, 0), code int, town text, pad char(5), ok boolean, day date,
    at timestamptz, plain timestamp, id uuid, mood mood, secret text
);
INSERT INTO log VALUES
    (1, 1, 5.5, 1.25, 2.50, 7, 3, 'Ulm', 'ab', true, '2020-02-03', '2020-02-03 04:05:06+02',
     '2020-02-03 04:05:06.123456', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'high', 'cell 4711'),
    (1, 2, 'NaN', 'NaN', NULL, NULL, 1, '', 'x', false, NULL, NULL, NULL, NULL, NULL, NULL),
    (1, 2, 'Infinity', 'Infinity', -3, 0, NULL, 'é''"', NULL, NULL, '0001-01-01',
     '1969-12-31 23:59:59Z', '1900-01-01', NULL, 'low', NULL),
    (NULL, 1, 1, 1, 1, 1, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE VIEW seen AS SELECT * FROM log;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM log;
CREATE TABLE unending AS SELECT 1 AS person, date 'infinity' AS day;
CREATE VIEW dying AS SELECT i AS person,
    CASE WHEN i > 600000 THEN pg_terminate_backend(pg_backend_pid()) END AS ok
    FROM generate_series(1, 700000) AS i;
GRANT SELECT ON log, seen, kept, unending, dying TO reader;
CREATE SCHEMA ward;
CREATE TABLE ward.beds AS SELECT 7 AS person;
GRANT USAGE ON SCHEMA ward TO reader;
GRANT SELECT ON ward.beds TO reader;
"""


def binaries():
    """Find the folder of PostgreSQL's server, which Debian keeps off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "postgres").exists()), None)


def unprivileged():
    """Name the user the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextlib.contextmanager
def running(folder):
    """Run a server that listens on a socket in ``folder`` and on no network."""
    programs, user = binaries(), unprivileged()
    own = {"user": user, "extra_groups": []} if user else {}
    if user:
        shutil.chown(folder, user)
    word = folder / "word"
    word.write_text(PASSWORD)
    word.chmod(0o644)
    data = folder / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "owner", "-A", "scram-sha-256", "-E", "UTF8"]
    options = ["--locale=C", "--no-sync", f"--pwfile={word}"]
    subprocess.run([*initdb, *options], check=True, capture_output=True, cwd=folder, **own)
    settings = ("listen_addresses=", "fsync=off", "log_statement=all", "shared_buffers=16MB")
    command = [programs / "postgres", "-D", data, "-k", folder, *(f"--{one}" for one in settings)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stderr=log, **own)
    try:
        yield server
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def server():
    if binaries() is None:
        pytest.skip("there is no PostgreSQL server on this machine")
    psycopg = pytest.importorskip("psycopg")
    # pytest's own folders are closed to other users, and their names too long for a socket.
    with tempfile.TemporaryDirectory(prefix="pg-") as name, running(Path(name)):
        login = {"host": name, "user": "owner", "password": PASSWORD, "dbname": "postgres"}
        end = time.monotonic() + 30
        while True:
            try:
                connection = psycopg.connect(**login, autocommit=True)
                break
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        with contextlib.closing(connection):
            connection.execute(SETUP)
        yield Path(name)


def url(server, *, user="reader", password=ESCAPED, database="postgres"):
    return f"postgres://{user}:{password}@/{database}?host={server}"


def opened(folder, url, *, table="log", columns=None, more=""):
    text = SITE.format(url=url, table=table, more=more)
    for name, rules in (columns or {}).items():
        text += f"[tables.visits.columns.{name}]\n{textwrap.dedent(rules)}\n"
    (folder / "site.toml").write_text(text)
    return Tables.open(load_config(folder), state=folder / "state")


MONEY = "type = 'float'\nbounds = [0, 100]"
BINS = """\
    type = "string"
    from = "{}"
    cuts = [1, 6]
    labels = ["low", "middle", "high"]
    missing = "unknown"
"""
WHEN = dt.datetime(2020, 2, 3, 2, 5, 6)  # noqa: DTZ001 - columns have no time zone
OLD = dt.datetime(1969, 12, 31, 23, 59, 59)  # noqa: DTZ001 - columns have no time zone
FIRST = dt.datetime(1900, 1, 1)  # noqa: DTZ001 - columns have no time zone
COLUMNS = {
    "cost": (MONEY, [5.5, None, None]),
    "price": (MONEY, [1.25, None, None]),
    "fee": (MONEY, [2.5, None, -3.0]),
    "whole": ("type = 'integer'\nbounds = [0, 9]", [7, None, 0]),
    "town": ("type = 'string'", ["Ulm", "", "é'\""]),
    "pad": ("type = 'string'", ["ab", "x", None]),
    "ok": ("type = 'boolean'", [True, False, None]),
    "day": ("type = 'date'", [WHEN.date(), None, dt.date(1, 1, 1)]),
    "at": ("type = 'timestamp'", [WHEN, None, OLD]),
    "plain": ("type = 'timestamp'", [WHEN.replace(hour=4, microsecond=123456), None, FIRST]),
    "id": ("type = 'string'", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None, None]),
    "mood": ("type = 'string'", ["high", None, "low"]),
    "cost_bin": (BINS.format("cost"), ["middle", "unknown", "high"]),
    "price_bin": (BINS.format("price"), ["middle", "unknown", "high"]),
    "kind": (
        """\
        type = "string"
        cases = [
            { when = { mood = "high", pad = "ab" }, value = "ab" },
            { when = { ok = false, code = 1 }, value = "no" },
        ]
        otherwise = "other"
        """,
        ["ab", "no", "other"],
    ),
}


def test_every_type_of_postgresql_is_read_as_declared(server, tmp_path):
    columns = {name: rules for name, (rules, _) in COLUMNS.items()}
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    with opened(tmp_path, url(server), columns=columns) as tables:
        rows = tables.rows(f"SELECT {names} FROM visits")  # noqa: S608 - our names
    expected = zip(*(cells for _, cells in COLUMNS.values()), strict=True)
    assert sorted(rows, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("table", ["seen", "kept"])
def test_views_are_tables(server, tmp_path, table):
    with opened(tmp_path, url(server), table=table) as tables:
        assert tables.rows("SELECT count(*) FROM visits") == [(3,)]


def test_the_url_may_name_a_schema(server, tmp_path):
    where = url(server, database="postgres/ward")
    with opened(tmp_path, where, table="beds") as tables:
        assert tables.rows("SELECT * FROM visits") == [(7,)]


def test_rows_stream_from_a_cursor_of_the_server_without_hidden_columns(server, tmp_path):
    log = server / "log"
    before = log.stat().st_size
    opened(tmp_path, url(server), columns={"town": "type = 'string'"}).close()
    asked = log.read_bytes()[before:].decode()
    assert "DECLARE" in asked
    assert "FETCH FORWARD 250000 " in asked
    assert "town" in asked
    assert "secret" not in asked


def test_claims_are_checked_on_the_rows_of_the_server(server, tmp_path):
    year = {"year": "type = 'integer'\nvalues = [1, 2]"}
    key = 'unique_keys = [["person", "year"]]'
    with pytest.raises(ConfigError, match=r"line 10: The key \(person, year\) is not unique: 1 v"):
        opened(tmp_path, url(server), columns=year, more=key)
    strict = {"mood": "type = 'string'\nnullable = false"}
    with pytest.raises(ConfigError, match=r"line 19: .* not nullable, but 1 values are missing"):
        opened(tmp_path, url(server), columns=strict)


@pytest.mark.parametrize(
    "case",
    [
        ({"password": "swordfish"}, "log", 6, "password authentication failed", "the database"),
        ({"database": "clinc"}, "log", 6, '"clinc" does not exist', "the database runs"),
        ({"user": "stranger"}, "log", 6, "permission denied", "Mend the source"),
        ({}, "lgo", 7, "no table 'lgo'", "Did you mean 'log'?"),
        ({"database": "postgres/war"}, "log", 7, "no table 'log'", "Correct the schema"),
        ({}, "dying", 6, "cannot be read: terminating connection", "Mend the source"),
        ({}, "unending", 6, "cannot be read: date too large (after year 10K)", "Mend the source"),
    ],
)
def test_what_the_server_refuses_is_one_clear_error(server, tmp_path, caplog, case):
    where, table, line, problem, hint = case
    caplog.set_level(logging.DEBUG)
    columns = {"unending": {"day": "type = 'date'"}, "dying": {"ok": "type = 'boolean'"}}
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, url(server, **where), table=table, columns=columns.get(table))
    assert caught.value.message.startswith(f"{tmp_path / 'site.toml'}, line {line}: ")
    assert problem in caught.value.message
    assert hint in caught.value.hint
    assert [path.name for path in (tmp_path / "state" / "tables").iterdir()] == [".lock"]
    told = "".join(traceback.format_exception(caught.value)) + caught.value.hint + caplog.text
    assert not any(word in told for word in ("swordfish", ESCAPED, PASSWORD))


def test_a_server_that_is_gone_is_one_clear_error(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match=r"line 6: .*:…@.* cannot be opened: ") as caught:
        opened(tmp_path, url(tmp_path, password="swordfish"))  # noqa: S106 - an example
    assert "See that the database runs" in caught.value.hint
    assert "swordfish" not in caught.value.message


def test_a_missing_driver_is_named_with_what_installs_it(tmp_path):
    with pytest.raises(ConfigError):
        opened(tmp_path, "sqlite://missing.db")
    text = (tmp_path / "site.toml").read_text()
    (tmp_path / "site.toml").write_text(text.replace("sqlite://missing.db", "postgres://host/db"))
    code = (
        "import pathlib, sys\n"
        "sys.modules['psycopg'] = None\n"
        "from privnb.errors import ConfigError\n"
        "from privnb.site.config import load_config\n"
        "from privnb.site.data.tables import Tables\n"
        "site = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    Tables.open(load_config(site), state=site / 'state')\n"
        "except ConfigError as error:\n"
        "    sys.exit(f'{error.message} {error.hint}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert "line 6: Reading postgres needs a package that is not installed." in done.stderr
    assert "pip install 'privnb[postgres]'" in done.stderr


@pytest.mark.parametrize("source", ["sqlite://missing.db", "duckdb://missing.db?read_only=True"])
def test_a_missing_database_file_is_not_created(tmp_path, source):
    with pytest.raises(ConfigError, match=r"line 6: There is no file .*missing\.db\."):
        opened(tmp_path, source)
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("postgres://u:pw@h/d", "postgres://u:…@h/d"),
        ("postgres://u:p@w/x?y@h/d", "postgres://u:…@h/d"),
        ("postgres://:pw@h/d", "postgres://:…@h/d"),
        (
            "postgres://h/d?user=u&Password=pw&sslmode=x",
            "postgres://h/d?user=u&Password=…&sslmode=x",
        ),
        ("snowflake://u@h/d?access_token=pw", "snowflake://u@h/d?access_token=…"),
        ("postgres://u@h/d", "postgres://u@h/d"),
        ("C:/data/a@b.parquet", "C:/data/a@b.parquet"),
    ],
)
def test_a_password_is_not_shown(source, expected):
    assert shown(source) == expected


@pytest.mark.parametrize("said", ["login with p%40ss: no", "login with p@ss: no"])
def test_a_password_that_a_driver_repeats_is_not_shown(said):
    assert first_line(OSError(said), "postgres://u:p%40ss@h/d") == "login with …: no"
