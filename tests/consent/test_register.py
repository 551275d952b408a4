"""Whose rows enter a computation: those whose newest word for its purpose is yes, and no others."""

from __future__ import annotations

import datetime as dt
import os
import re
import sqlite3
import subprocess
import sys
import threading

import duckdb
import pytest
from consent_site import (
    NOON,
    PEOPLE,
    RESEARCH,
    SITE,
    TEACHING,
    given,
    in_frame,
    in_sql,
    opened,
    withdrawn,
    write_register,
    write_site,
)
from hypothesis import HealthCheck, example, settings
from hypothesis import given as whenever
from hypothesis import strategies as st

from privnb.dp.planner import plan
from privnb.errors import ConfigError, SiteFailure
from privnb.site.config import load_config
from privnb.site.consent import ConsentRegister
from privnb.site.data.claims import check

LATER = NOON + dt.timedelta(microseconds=1)


@pytest.fixture
def site(tmp_path):
    return write_site(tmp_path / "site")


@pytest.fixture(scope="module")
def open_site(tmp_path_factory):
    directory = write_site(tmp_path_factory.mktemp("site"))
    with opened(directory) as tables:
        yield directory, tables


def expected(entries, purpose):
    """Follow the rule word by word, slowly."""
    names = {purpose}
    if purpose == RESEARCH:
        term = "AcademicResearch"
        names |= {term, f"dpv:{term}", f"https://w3id.org/dpv#{term}"}
    people = set()
    for person in PEOPLE:
        said = [
            (at, status) for who, name, status, at in entries if who == person and name in names
        ]
        newest = [status for at, status in said if at == max(at for at, _ in said)]
        if newest and "withdrawn" not in newest:
            people.add(person)
    return people


purposes = st.sampled_from(
    [
        *(RESEARCH, TEACHING, "AcademicResearch", "dpv:AcademicResearch", "Research"),
        *("https://w3id.org/dpv#AcademicResearch", "dpv:ScientificResearch", "RESEARCH"),
    ]
)
entries = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(1, 8)),
        purposes,
        st.sampled_from(["given", "withdrawn"]),
        st.integers(0, 3).map(lambda number: NOON + dt.timedelta(microseconds=number)),
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@whenever(entries=entries)
@example(entries=[])
@example(entries=[*given(1, 2), *withdrawn(1), *withdrawn(2, at=LATER)])
@example(entries=[*withdrawn(1, purpose="AcademicResearch"), *given(1, at=LATER)])
def test_sql_and_frames_see_exactly_those_whose_newest_entry_says_given(open_site, entries):
    directory, tables = open_site
    write_register(directory, entries)
    for purpose in (RESEARCH, TEACHING):
        people = expected(entries, purpose)
        assert in_sql(tables, purpose) == people
        # One row each in SQL, as the table is bounded; all rows in frames.
        assert in_frame(tables, purpose) == dict.fromkeys(people, 2)
        assert tables.frames.units("visits", purpose=purpose) == len(people)


def test_who_has_no_entry_has_not_consented(site):
    with opened(site) as tables:
        assert in_sql(tables) == set()
        assert in_frame(tables) == {}
        assert tables.frames.frame("visits", purpose=RESEARCH).num_columns == 6


def test_a_purpose_that_the_table_does_not_have_reaches_nobody(site):
    write_register(site, [*given(1), *given(2, purpose="marketing")])
    with opened(site) as tables:
        assert in_sql(tables, "marketing") == set()
        assert in_frame(tables, "marketing") == {}


def test_a_withdrawal_counts_from_the_next_computation_on(site):
    write_register(site, given(1, 2))
    with opened(site) as tables:
        assert in_sql(tables) == {1, 2}
        assert in_frame(tables) == {1: 2, 2: 2}
        write_register(site, [*given(1, 2), *withdrawn(1, at=LATER)])
        assert in_sql(tables) == {2}
        assert in_frame(tables) == {2: 2}


def test_a_change_that_leaves_size_and_time_as_they_were_is_seen(site):
    with opened(site) as tables:
        for people in ((1, 2), (3, 4), (5, 6)):
            write_register(site, given(*people))
            os.utime(site / "consents.parquet", ns=(0, 0))
            assert in_sql(tables) == set(people)


def test_a_register_that_did_not_change_is_not_read_again(site, monkeypatch):
    write_register(site, given(1))
    monkeypatch.setattr("privnb.site.consent._COARSEST_CLOCK", -60.0)
    with opened(site) as tables:
        assert in_sql(tables) == {1}
        monkeypatch.setattr("privnb.site.consent.open_source", None)  # cannot be called
        assert in_sql(tables) == {1}
        assert in_frame(tables) == {1: 2}


def test_two_purposes_are_computed_at_once_each_with_its_own_people(site):
    write_register(site, [*given(1, 2), *given(3, purpose=TEACHING)])
    with opened(site) as tables:
        one = tables.stream("SELECT _unit FROM visits ORDER BY 1", purpose=RESEARCH)
        two = tables.stream("SELECT _unit FROM visits ORDER BY 1", purpose=TEACHING)
        assert [next(one), next(two), next(one)] == [(1,), (3,), (2,)]
        assert [*one, *two] == []


def test_a_second_thread_gets_frames_while_sql_runs(site):
    write_register(site, [*given(1, 2), *given(3, purpose=TEACHING)])
    seen = []
    with opened(site) as tables:
        threads = [
            threading.Thread(target=lambda: seen.extend(in_frame(tables) for _ in range(5)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for _ in range(10):
            assert in_sql(tables, TEACHING) == {3}
        for thread in threads:
            thread.join()
    assert seen == [{1: 2, 2: 2}] * 10


def test_without_a_purpose_sql_does_not_find_the_table_and_mock_twins_need_none(site):
    write_register(site, given(*PEOPLE))
    with opened(site) as tables:
        with pytest.raises(SiteFailure):
            tables.rows("SELECT count(*) FROM visits")
        assert tables.rows("SELECT count(*) > 0 FROM visits", mock=True) == [(True,)]


def test_plans_of_the_real_planner_are_restricted_too(site):
    write_register(site, given(2))
    with opened(site) as tables:
        planned = plan(
            "SELECT COUNT(*) AS n, SUM(mark) AS s FROM Visits WHERE mark > 0",
            tables=tables.schemas,
            parameters={},
            epsilon=20,
        )
        ((people, *_),) = tables.rows(planned.sql, purpose=RESEARCH)
        assert people == 1


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT count(*) FROM "consenting units of visits"',
        "SELECT 1; DROP VIEW visits",
        "CREATE OR REPLACE TEMP VIEW visits AS SELECT 1 AS _unit",
        "SET lock_configuration = false",
        "ATTACH '{0}/visits.parquet'",
    ],
)
def test_the_walls_stand_while_consent_restricts(site, sql):
    write_register(site, given(1))
    with opened(site) as tables:
        with pytest.raises(SiteFailure):
            tables.rows(sql.format(site), purpose=RESEARCH)
        assert in_sql(tables) == {1}


def test_sql_cannot_name_whole_rows(site):
    write_register(site, given(*PEOPLE))
    with opened(site) as tables:
        known = tables.rows("SELECT DISTINCT database_name FROM duckdb_tables()")
        assert known == [("bounded visits",)]
        with pytest.raises(SiteFailure):
            tables.rows('SELECT count(*) FROM "whole visits".main.visits', purpose=RESEARCH)


# What cannot be read, or understood


def damage_missing(path):
    path.unlink()


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:40])


def damage_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [damage_missing, damage_truncated, damage_folder])
def test_an_unreadable_register_lets_nothing_be_computed(site, damage, caplog):
    write_register(site, given(1))
    with opened(site) as tables:
        assert in_sql(tables) == {1}
        damage(site / "consents.parquet")
        messages = []
        for attempt in (lambda: in_sql(tables), lambda: in_frame(tables)):
            with pytest.raises(SiteFailure) as caught:
                attempt()
            messages.append(caught.value.message)
            assert caught.value.__cause__ is None
    assert set(messages) == {"The site could not compute the answer."}
    assert "consents.parquet" in caplog.text


MALFORMED = {
    "status": (1, RESEARCH, "yes", NOON),
    "no status": (1, RESEARCH, None, NOON),
    "no purpose": (1, None, "withdrawn", NOON),
    "no time": (1, RESEARCH, "given", None),
    "malformed entry of another purpose": (1, "marketing", "yes", NOON),
    "malformed entry of nobody": (None, RESEARCH, "Given", NOON),
}


@pytest.mark.parametrize("entry", MALFORMED.values(), ids=MALFORMED)
def test_one_entry_that_cannot_be_understood_lets_nothing_be_computed(site, entry, caplog):
    write_register(site, [*given(2), entry])
    with opened(site) as tables:
        for attempt in (lambda: in_sql(tables), lambda: in_frame(tables)):
            with pytest.raises(SiteFailure):
                attempt()
        assert "1 entry has no valid" in caplog.text
        write_register(site, given(2))
        assert in_sql(tables) == {2}


def test_a_register_of_another_kind_of_unit_is_refused(site):
    text = SITE.replace("consents.parquet", "consents.csv")
    (site / "site.toml").write_text(text)
    (site / "consents.csv").write_text("who,purpose,status,at\nanna,research,given,2026-01-01\n")
    with opened(site) as tables, pytest.raises(SiteFailure):
        in_sql(tables)
    (error,) = [finding for finding in check(site).findings if finding.level == "error"]
    line = text.splitlines().index('unit = "who"') + 1
    assert f"site.toml, line {line}: Column 'unit' is declared integer" in error.message


# Other kinds of registers


def test_a_csv_register_is_read_with_dates_or_times_and_may_be_empty(site):
    (site / "site.toml").write_text(SITE.replace("consents.parquet", "consents.csv"))
    register = site / "consents.csv"
    register.write_text("who,purpose,status,at\n")
    with opened(site) as tables:
        assert in_sql(tables) == set()
        register.write_text(
            "who,purpose,status,at\n1,research,given,2026-01-01\n2,research,given,2026-01-01\n"
        )
        assert in_sql(tables) == {1, 2}
        with register.open("a") as file:
            file.write("2,research,withdrawn,2026-01-01\n")
        assert in_sql(tables) == {1}


def test_a_live_register_is_asked_before_each_computation(site):
    text = SITE.replace('"consents.parquet"', '"sqlite://consents.db"\nsource_table = "said"')
    (site / "site.toml").write_text(text)
    connection = sqlite3.connect(site / "consents.db")
    connection.execute("CREATE TABLE said (who INT, purpose TEXT, status TEXT, at TIMESTAMP)")
    with opened(site) as tables:
        for number, (status, people) in enumerate((("given", {1}), ("withdrawn", set()))):
            connection.execute(
                "INSERT INTO said VALUES (1, 'research', ?, ?)",
                (status, f"2026-01-0{number + 1} 00:00:00"),
            )
            connection.commit()
            assert in_sql(tables) == people
            assert set(in_frame(tables)) == people
    connection.close()


def test_changes_that_wait_in_a_databases_log_are_not_missed(site):
    """A process that ends without closing DuckDB leaves its newest changes beside the file."""
    text = SITE.replace('"consents.parquet"', '"consents.duckdb"\nsource_table = "said"')
    (site / "site.toml").write_text(text)
    file = site / "consents.duckdb"
    with duckdb.connect(file) as connection:
        connection.execute(
            "CREATE TABLE said AS SELECT 1 AS who, 'research' AS purpose, 'given' AS status,"
            " TIMESTAMP '2026-01-01' AS at"
        )
    before = file.stat()
    with opened(site) as tables:
        assert in_sql(tables) == {1}
        code = (
            "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
            "c.execute(\"INSERT INTO said VALUES (1, 'research', 'withdrawn', '2026-01-02')\");"
            "os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
        assert (site / "consents.duckdb.wal").exists()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert in_sql(tables) == set()


def test_a_register_that_changes_while_it_is_read_is_read_again(site, monkeypatch):
    register = ConsentRegister(load_config(site), load_config(site).tables[0])
    write_register(site, given(1))
    from privnb.site import consent

    real, pending = consent.open_source, [lambda: write_register(site, given(2))]

    def slow(*arguments):
        source = real(*arguments)
        if pending:
            pending.pop()()
        return source

    monkeypatch.setattr(consent, "open_source", slow)
    assert register.look(RESEARCH).units["unit"].to_pylist() == [2]
    pending += [lambda n=n: write_register(site, given(n)) for n in (3, 4, 5)]
    with pytest.raises(ConfigError, match="changes faster than it can be read"):
        register.look(RESEARCH)


# What is said of it


def test_the_label_says_how_consent_restricted_and_when_never_how_many(site):
    write_register(site, given(1, 2, 3, 4))
    with opened(site) as tables:
        in_sql(tables)
        words = tables.population("visits", RESEARCH)
        assert re.fullmatch(
            r"In visits, only rows of a person whose consent covers research "
            r"\(dpv:AcademicResearch\), by the consent register as it stood on "
            r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\.",
            words,
        )
        write_register(site, given(1))
        in_sql(tables)
        timeless = r"on 20\S+Z"
        again = tables.population("visits", RESEARCH)
        assert re.sub(timeless, "", again) == re.sub(timeless, "", words)
        assert "(dpv" not in tables.population("visits", TEACHING)


def test_the_label_of_a_cell_that_waited_for_review_names_no_time(site):
    """It is made when the output is let out, which may be days after the rows were read."""
    with opened(site) as tables:
        assert tables.frames.population("visits", RESEARCH) == (
            "In visits, only rows of a person whose consent covers research "
            "(dpv:AcademicResearch), by the consent register as it stood when this was computed."
        )


def test_the_label_of_a_table_without_a_register_says_nothing(site):
    section = '[tables.visits.consent]\nsource = "consents.parquet"\nunit = "who"\n'
    (site / "site.toml").write_text(SITE.replace(section, ""))
    with opened(site) as tables:
        assert tables.population("visits", RESEARCH) == ""
        assert tables.frames.population("visits", RESEARCH) == ""
        assert in_frame(tables) == dict.fromkeys(PEOPLE, 2)
        assert tables.rows("SELECT count(*) FROM visits") == [(6,)]


def test_counts_are_of_their_own_threads_computation(site):
    write_register(site, given(1))
    with opened(site) as tables:
        in_frame(tables)
        before = tables.frames.units("visits", purpose=RESEARCH)
        write_register(site, given(1, 2, 3))
        other = threading.Thread(target=lambda: in_frame(tables))
        other.start()
        other.join()
        assert tables.frames.units("visits", purpose=RESEARCH) == before == 1
        in_frame(tables)
        assert tables.frames.units("visits", purpose=RESEARCH) == 3


def test_check_tells_the_owner_what_the_register_means(site):
    future = dt.datetime(2999, 1, 1)  # noqa: DTZ001 - columns have no time zone
    write_register(
        site,
        [
            *given(1, 2, 8),
            *given(None),
            *given(3, purpose="reserch"),
            *withdrawn(2, purpose=TEACHING, at=future),
        ],
    )
    told = {(finding.level, finding.message.partition(": ")[2]) for finding in check(site).findings}
    assert ("note", "2 units consent to 'research'; the rows of all others never count.") in told
    assert ("warning", "0 units consent to 'teaching'; the rows of all others never count.") in told
    assert ("warning", "1 entries of the consent register say nobody's consent.") in told
    assert any("times to come" in message for _, message in told)
    assert any("'reserch'" in message for _, message in told)


def test_check_says_beforehand_what_would_let_nothing_be_computed(site):
    write_register(site, [(1, RESEARCH, "yes", NOON)])
    (error,) = [finding for finding in check(site).findings if finding.level == "error"]
    assert "The consent register: 1 entry has no valid 'status'." in error.message
    (site / "consents.parquet").unlink()
    (error,) = [finding for finding in check(site).findings if finding.level == "error"]
    line = SITE.splitlines().index('source = "consents.parquet"') + 1
    assert error.message.startswith(f"{site / 'site.toml'}, line {line}: There is no file")
