"""What ``privnb site check`` and ``init`` tell an owner."""

import os
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from privnb.cli import site_setup
from privnb.errors import ConfigError
from privnb.site.config import load_config
from privnb.site.data.claims import check
from privnb.site.data.tables import Tables
from privnb.site.template import EXAMPLE, init_site, site_toml, write_whole

TABLE = """
[tables.visits]
source = "visits.parquet"
privacy_unit = "person"
max_rows_per_unit = 2
unique_keys = [["person", "year"]]
delta = 1e-3
total_epsilon = 10
purposes = ["research"]
[tables.visits.columns.person]
type = "integer"
[tables.visits.columns.year]
type = "integer"
values = [1, 2]
nullable = false
[tables.visits.columns.cost]
type = "float"
bounds = [0, 100]
unit_bounds = [0, 150]
"""


@pytest.fixture
def site(tmp_path):
    text = site_toml(name="a", owner="owner@a.example", exchange="memory://x", tables=TABLE)
    (tmp_path / "site.toml").write_text(text)
    return tmp_path


def write(site, **columns):
    types = {"person": pa.int64(), "year": pa.int64(), "cost": pa.float64()}
    made = {name: pa.array(values, types[name]) for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(made), site / "visits.parquet")


def said(report):
    return [
        f"{finding.level} {finding.message.partition(', line ')[2]}" for finding in report.findings
    ]


def lines(site, *starts):
    text = (site / "site.toml").read_text().splitlines()
    return [next(n for n, line in enumerate(text, 1) if line.startswith(start)) for start in starts]


def test_data_as_declared_leave_nothing_to_say(site):
    write(site, person=[1, 1, 2], year=[1, 2, 1], cost=[0.0, 100.0, None])
    report = check(site)
    assert report.ok
    assert report.findings == ()
    assert (report.tables[0].rows, report.tables[0].units) == (3, 2)


def test_everything_the_schema_does_not_foresee_is_counted(site):
    write(
        site,
        person=[1, 1, 1, 2, 2, None],
        year=[1, 2, 7, 1, None, 1],
        cost=[90.0, 101.0, -1.0, float("nan"), 500.0, 3.0],
    )
    unit, rows, year, bounds, totals = lines(
        site, "privacy_unit", "max_rows", "nullable", "bounds", "unit_bounds"
    )
    (values,) = lines(site, "values")
    report = check(site)
    assert not report.ok
    assert sorted(said(report)) == sorted(
        [
            f"warning {unit}: 1 of 6 rows have no 'person' and are left out.",
            f"note {rows}: 1 of 2 units have more than 2 rows; 1 rows are left out.",
            f"error {year}: Column 'year' is declared not nullable, but 1 values are missing.",
            (
                f"warning {values}: 1 rows have a value of 'year' that is not listed; groups over"
                " the listed values leave them out."
            ),
            (
                f"warning {bounds}: 1 values of 'cost' (16.7%) are below the bounds and will be"
                " clamped."
            ),
            (
                f"warning {bounds}: 2 values of 'cost' (33.3%) are above the bounds and will be"
                " clamped."
            ),
            (
                f"note {totals}: The total of 'cost' over all rows of a unit is clamped for 1"
                " units, unless groups split it."
            ),
        ]
    )
    assert all(finding.hint for finding in report.findings)


def test_a_false_claim_of_uniqueness_is_an_error(site):
    write(site, person=[1, 1, 2], year=[1, 1, 1], cost=[1.0, 2.0, 3.0])
    (line,) = lines(site, "unique_keys")
    report = check(site)
    assert not report.ok
    wanted = f"error {line}: The key (person, year) is not unique: 1 values occur twice."
    assert said(report) == [wanted]


@pytest.mark.parametrize(
    ("cost", "units"),
    [
        ([1.0, 1.0, 7.0, None], 0),
        ([None, float("nan"), 7.0, 8.0], 0),
        ([1.0, 2.0, 7.0, 7.0], 1),
        ([1.0, None, 7.0, 7.0], 1),
        ([float("nan"), 1.0, 7.0, 7.0], 1),
    ],
)
def test_a_false_claim_of_a_constant_is_an_error_and_keeps_the_table_from_being_served(
    site, cost, units
):
    with (site / "site.toml").open("a") as file:
        file.write("constant = true\n")
    write(site, person=[1, 1, 2, None], year=[1, 2, 1, 1], cost=cost)
    config = load_config(site)
    (line,) = lines(site, "constant")
    wanted = f"{line}: Column 'cost' is declared constant, but 1 units have several values in it."
    errors = [finding for finding in check(site).findings if finding.level == "error"]
    if not units:
        assert errors == []
        Tables.open(config, state=site / "state").close()
        return
    assert [error.message.partition(", line ")[2] for error in errors] == [wanted]
    with pytest.raises(ConfigError, match="declared constant") as refused:
        Tables.open(config, state=site / "state")
    assert refused.value.message == errors[0].message
    assert "Remove the claim" in refused.value.hint


def test_constants_of_every_type_are_verified(tmp_path):
    kinds = {
        "integer": ("bounds = [0, 9]", pa.array([1, 2])),
        "boolean": ("", pa.array([True, False])),
        "string": ("", pa.array(["a", "b"])),
        "date": ("", pa.array([1, 2], pa.date32())),
        "timestamp": ("", pa.array([1, 2], pa.timestamp("us"))),
    }
    head = TABLE.partition("[tables.visits.columns.year]")[0]
    head = head.replace('unique_keys = [["person", "year"]]', "")
    for kind, (more, cells) in kinds.items():
        column = f'[tables.visits.columns.c]\ntype = "{kind}"\n{more}\nconstant = true\n'
        text = site_toml(name="a", owner="o@a.example", exchange="memory://x", tables=head + column)
        (tmp_path / "site.toml").write_text(text)
        for persons, sound in (([1, 1], False), ([1, 2], True)):
            rows = pa.table({"person": persons, "c": cells})
            pyarrow.parquet.write_table(rows, tmp_path / "visits.parquet")
            assert check(tmp_path).ok == sound, kind


def test_a_table_of_nobody_is_an_error(site):
    write(site, person=[None, None], year=[1, 2], cost=[1.0, 2.0])
    assert [finding.level for finding in check(site).findings] == ["error"]


def test_too_large_a_delta_is_pointed_out(site):
    write(site, person=list(range(2000)), year=[1] * 2000, cost=[1.0] * 2000)
    (line,) = lines(site, "delta")
    wanted = f"warning {line}: delta 0.001 is more than one in the number of units."
    assert said(check(site)) == [wanted]


def test_every_table_is_checked_even_if_the_first_is_broken(site):
    second = TABLE.replace("tables.visits", "tables.more").replace("visits.parquet", "m.parquet")
    with (site / "site.toml").open("a") as file:
        file.write(second)
    report = check(site)
    assert ["There is no file" in finding.message for finding in report.findings] == [True, True]


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_fails_exactly_when_the_site_cannot_be_served(site):
    write(site, person=[1, 2], year=[1, 9], cost=[1.0, 200.0])
    served = run(site_setup.check, site)
    assert served.exit_code == 0
    assert "2 rows, 2 units" in served.output
    assert "will be clamped" in served.output
    write(site, person=[1, 1], year=[1, 1], cost=[1.0, 2.0])
    refused = run(site_setup.check, site)
    assert refused.exit_code == 1
    assert "cannot be served" in refused.output


def test_the_example_in_a_new_file_is_correct_once_uncommented(tmp_path):
    shown = EXAMPLE.strip().splitlines()[1:]  # the first line says to uncomment the rest
    uncommented = "\n".join(line.removeprefix("#").removeprefix(" ") for line in shown)
    text = site_toml(name="a", owner="o@a.example", exchange="memory://x", tables=uncommented)
    (tmp_path / "site.toml").write_text(text)
    (table,) = load_config(tmp_path).tables
    assert table.schema.column("age_group").values[0] == "under 18"
    assert table.schema.column("plan").values == ("deductible", "free care", "cost sharing")


def test_a_new_site_has_private_state_and_keys_and_can_be_read(tmp_path):
    made = run(
        *(site_setup.init, tmp_path / "a", "--name", "a", "--owner", "owner@a.example"),
        *("--exchange", tmp_path / 'shared "folder"'),
    )
    assert made.exit_code == 0, made.output
    assert "fingerprint" in made.output
    config = load_config(tmp_path / "a")
    assert (config.name, config.tables) == ("a", ())
    assert config.exchange == str(tmp_path / 'shared "folder"')
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700


def test_nothing_is_overwritten(tmp_path):
    arguments = {"name": "a", "owner": "owner@a.example", "exchange": str(tmp_path / "x")}
    init_site(tmp_path / "a", **arguments)
    before = (tmp_path / "a" / "site.toml").read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        init_site(tmp_path / "a", **arguments | {"name": "b"})
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a" / "site.toml", "other")
    assert (tmp_path / "a" / "site.toml").read_bytes() == before
    assert not list((tmp_path / "a").glob(".site*"))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"name": "No Name"}, "cannot be a site's name"),
        ({"owner": "nobody"}, "not an email"),
        ({"exchange": "nosuch://x"}, "nosuch"),
    ],
)
def test_a_site_that_cannot_be_made_leaves_nothing_behind(tmp_path, wrong, problem):
    arguments = {"name": "a", "owner": "owner@a.example", "exchange": str(tmp_path / "x")}
    with pytest.raises(ConfigError, match=problem):
        init_site(tmp_path / "a", **arguments | wrong)
    assert not (tmp_path / "a").exists()


def test_an_interrupted_init_can_be_repeated(tmp_path):
    script = textwrap.dedent(
        """
        import os, pathlib, signal, sys
        from privnb.site import template
        def die(path, text):
            os.kill(os.getpid(), signal.SIGKILL)
        template.write_whole = die
        template.init_site(
            pathlib.Path(sys.argv[1]), name="a", owner="owner@a.example", exchange=sys.argv[2]
        )
        """
    )
    arguments = [str(tmp_path / "a"), str(tmp_path / "x")]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "a" / "site.toml").exists()
    made = init_site(tmp_path / "a", name="a", owner="owner@a.example", exchange=arguments[1])
    assert made.config.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be written"):
        init_site(tmp_path / "a", name="a", owner="o@a.example", exchange="memory://x")
