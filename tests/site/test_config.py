"""site.toml: what is accepted, and where each mistake is reported."""

from decimal import Decimal

import pytest

from privnb.dp.schema import Bounds
from privnb.errors import ConfigError
from privnb.site.config import load_config
from privnb.site.data.bins import CaseBins, CutBins

GOOD = """\
name = "northside"
owner = "owner@northside.example"
exchange = "memory://exchange"

[storage_options]
endpoint = { url = "https://s3.example", retries = 1.5 }

[tables.visits]
source = "visits.parquet"
privacy_unit = "zper"
max_rows_per_unit = 5
unique_keys = [
    ["zper", "year"],
]
delta = 1e-6
total_epsilon = 12.30
purposes = ["utilisation-research"]
hidden = ["site"]
public_rows = 20_000

[tables.visits.columns.zper]
type = "integer"

[tables.visits.columns.year]
type = "integer"
values = [1, 2, 3]

[tables.visits.columns.mdvis]
type = "integer"
nullable = false
bounds = [0, 40]
unit_bounds = [0, 60.5]

[tables.visits.columns.plan_type]
type = "string"
cases = [
    { when = { idp = 1 }, value = "individual" },
    { when = { coins = [0, 25], idp = 0 }, value = "free" },
]
otherwise = "shared"
constant = true

[tables.visits.columns.age_group]
type = "string"
from = "xage"
cuts = [18, 65]
labels = ["child", "adult", "old"]
missing = "unknown"

[tables.visits.columns.born]
type = "date"
values = [2000-01-01]

[tables.visits.columns.town]
type = "string"
from = "Town of Residence"
"""


def write(directory, text):
    (directory / "site.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


def test_a_complete_file_is_read_as_written(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert (config.name, config.owner) == ("northside", "owner@northside.example")
    assert config.exchange == "memory://exchange"
    assert config.storage_options == {"endpoint": {"url": "https://s3.example", "retries": 1.5}}
    (visits,) = config.tables
    assert visits.total_epsilon == Decimal("12.30")
    assert visits.schema.unique_keys == (("zper", "year"),)
    assert visits.schema.delta == 1e-6
    assert visits.schema.accounting == "zcdp"
    assert visits.schema.public_rows == 20_000
    assert visits.hidden == ("site",)
    assert visits.schema.column("mdvis").bounds == Bounds(lower=0.0, upper=40.0)
    assert visits.schema.column("mdvis").unit_bounds.upper == 60.5
    assert not visits.schema.column("mdvis").nullable
    assert visits.schema.column("year").nullable
    assert not visits.schema.column("zper").nullable
    assert visits.schema.column("plan_type").values == ("individual", "free", "shared")
    assert not visits.schema.column("plan_type").nullable
    constant = [column.name for column in visits.schema.columns if column.constant]
    assert constant == ["plan_type"]
    assert visits.schema.column("age_group").values == ("child", "adult", "old", "unknown")
    assert visits.schema.column("born").values == ("2000-01-01",)
    assert visits.origins["town"] == "Town of Residence"
    assert isinstance(visits.bins["plan_type"], CaseBins)
    assert visits.bins["age_group"] == CutBins(
        source="xage", cuts=(18.0, 65.0), labels=("child", "adult", "old"), missing="unknown"
    )


def test_the_owner_chooses_how_losses_add_up(tmp_path):
    for accounting in ("pure", "zcdp"):
        text = GOOD.replace("delta = 1e-6", f'delta = 1e-6\naccounting = "{accounting}"')
        assert load_config(write(tmp_path, text)).tables[0].schema.accounting == accounting


def test_a_folder_is_relative_to_the_file(tmp_path):
    text = GOOD.replace("memory://exchange", "shared/exchange")
    assert load_config(write(tmp_path, text)).exchange == str(tmp_path / "shared/exchange")


def test_labels_follow_from_cuts_when_none_are_given(tmp_path):
    text = GOOD.replace('labels = ["child", "adult", "old"]\n', "")
    values = load_config(write(tmp_path, text)).tables[0].schema.column("age_group").values
    assert values == ("below 18", "18 to below 65", "65 and above", "unknown")


# What is replaced by what; then a part of the line that must be named, of the problem, of the hint.
MISTAKES = [
    ('name = "northside"', 'name = "North Side"', 'name = "North', "site's name", "lower-case"),
    ('name = "northside"', "name = 7", "name = 7", "must be a text, not a whole", "northside"),
    ('name = "northside"\n', "", None, "lacks 'name'", "name ="),
    ("owner@northside.example", "owner.example", "owner =", "not an email", "owner@"),
    ("owner@northside.example", "../x@a.b", "owner =", "not an email", "owner@"),
    ('"memory://exchange"', '" "', "exchange =", "empty", "fsspec"),
    ("[storage_options]", "colour = 1\n[storage_options]", "colour", "no key", "Known here: exch"),
    ("source =", "sorce =", "sorce", "no key 'sorce'", "'source'"),
    ("delta = 1e-6", "delta = 1e-6\nmax_row_per_unit = 5", "max_row_", "no key", "'max_rows_per_"),
    ("purposes =", "purpose =", "purpose =", "no key 'purpose'", "'purposes'"),
    ("delta = 1e-6", "delta = 0.01", "delta =", "at most 0.001", "1e-6"),
    ("delta = 1e-6", "delta = 0", "delta =", "above 0", "1e-6"),
    ("delta = 1e-6", "delta = 1e-999", "delta =", "above 0", "1e-6"),
    ("delta = 1e-6", "delta = 1e-15", "[tables.visits]", "at least 1e-12", "1e-6"),
    (
        "[tables.visits.columns.town]",
        "[tables.visits.columns._unit]",
        "[tables.visits]",
        "collid",
        "rename",
    ),
    ("bounds = [0, 40]", "bounds = [0, 1e17]", "[tables.visits]", "64-bit", "Narrow"),
    ("delta = 1e-6", "delta = nan", "delta =", "finite", "1e-6"),
    ("delta = 1e-6", 'delta = "1e-6"', "delta =", "decimal number, not a text", "1e-6"),
    ("delta = 1e-6\n", "", "[tables.visits]", "lacks 'delta'", "1e-6"),
    ("delta = 1e-6", 'delta = 1e-6\naccounting = "Pure"', "accounting =", "no accounting", "few"),
    ("delta = 1e-6", "delta = 1e-6\naccounting = true", "accounting =", "must be a text", "many"),
    ("= 12.30", "= 0.0", "total_epsilon", "above 0", "budget"),
    ("= 12.30", "= inf", "total_epsilon", "finite", "budget"),
    ("= 12.30", "= true", "total_epsilon", "not true or false", "budget"),
    ("max_rows_per_unit = 5", "max_rows_per_unit = 0", "max_rows", "at least 1", "rows of one"),
    ("max_rows_per_unit = 5", "max_rows_per_unit = 5.0", "max_rows", "whole number", "rows of"),
    ('["utilisation-research"]', "[]", "purposes", "No purpose", "purposes ="),
    ('["utilisation-research"]', '["a", "B c"]', "purposes", "cannot be a purpose", "lower"),
    ('["utilisation-research"]', '["a",\n"a"]', '"a"]', "twice", "purposes ="),
    ('["utilisation-research"]', '["a",\n5]', "5]", "must hold texts", "purposes ="),
    ('    ["zper", "year"],', '    ["zper",\n"yaer"],', '"yaer"', "no declared column", "year"),
    ('    ["zper", "year"],', '    ["year"],', '["year"]', "privacy unit", "unique_keys"),
    ('    ["zper", "year"],', '    "zper",', '    "zper"', "arrays of texts", "unique_keys"),
    ('privacy_unit = "zper"', 'privacy_unit = "person"', "privacy_unit", "not declared", "Add ["),
    ('hidden = ["site"]', 'hidden = ["site",\n"year"]', '"year"]', "both hidden", "Remove"),
    ("20_000", "0", "public_rows", "at least 1", "public"),
    ('type = "integer"\nvalues', 'type = "int"\nvalues', 'type = "int"', "no column type", "integ"),
    ('type = "integer"\nvalues', "values", "columns.year]", "lacks 'type'", "Known types"),
    ("values = [1, 2, 3]\n", "", "columns.year]", "lacks 'bounds'", "lowest, highest"),
    ("values = [1, 2, 3]", "values = [1,\n2.5]", "2.5]", "not of type integer", "values ="),
    ("values = [1, 2, 3]", "values = [1, 2,\n 1]", " 1]", "twice", "values ="),
    ("values = [1, 2, 3]", "values = []", "values = []", "empty", "values ="),
    ("values = [1, 2, 3]", "valeus = [1]", "valeus", "no key 'valeus'", "'values'"),
    ("nullable = false", "nulable = false", "nulable", "no key 'nulable'", "'nullable'"),
    ("nullable = false", 'nullable = "no"', "nullable", "true or false", "true or false"),
    ("bounds = [0, 40]", "bounds = [0]", "bounds = [0]", "both bounds", "lowest, highest"),
    ("bounds = [0, 40]", "bounds = [40, 0]", "bounds = [40", "not below", "lowest, highest"),
    ("bounds = [0, 40]", "bounds = [7, 7]", "bounds = [7", "not below", "lowest, highest"),
    ("bounds = [0, 40]", "bounds = [0,\ninf]", "inf]", "finite", "lowest, highest"),
    ("bounds = [0, 40]", 'bounds = [0,\n"a"]', '"a"]', "numbers, not a text", "lowest"),
    ("bounds = [0, 40]", "bounds = 40", "bounds = 40", "must be an array", "lowest"),
    ("bounds = [0, 40]", "values = [3]", "unit_bounds", "needs 'bounds' too", "lowest"),
    ("unit_bounds = [0, 60.5]", "unit_bounds = [9, 1]", "unit_bounds", "not below", "sum over"),
    ("values = [2000-01-01]", "bounds = [0, 1]", "bounds = [0, 1]", "no bounds", "Remove"),
    ("values = [2000-01-01]", 'values = ["1.1.2000"]', "values = [", "not of type date", "values"),
    ("[tables.visits.columns.born]", '[tables.visits.columns."a b"]', '"a b"', "name", "from ="),
    ("[tables.visits.columns.born]", "[tables.visits.columns.YEAR]", "YEAR]", "twice", "rename"),
    ("[tables.visits.columns.born]", "[tables.visits.columns.year]", "s.year]", "TOML", "toml.io"),
    (
        "[tables.visits.columns.zper]\n",
        "[tables.visits.columns.zper]\nbounds = [0, 1]\n",
        "bounds = [0, 1]",
        "never read",
        "Remove",
    ),
    (
        "[tables.visits.columns.zper]\n",
        "[tables.visits.columns.zper]\nconstant = true\n",
        "constant = true",
        "never read",
        "Remove",
    ),
    ("constant = true", "constant = 1", "constant = 1", "true or false", "Say"),
    (
        'type = "integer"\n\n[tables.visits.columns.year]',
        'type = "date"\n\n[tables.visits.columns.year]',
        'type = "date"',
        "of this kind",
        "whole number",
    ),
    ('otherwise = "shared"', "", "columns.plan_type]", "lacks 'otherwise'", "otherwise ="),
    ('otherwise = "shared"', "otherwise = 3", "cases = [", "not of type string", "values"),
    ('otherwise = "shared"', 'otherwise = "s"\nvalues = ["s"]', "values = [", "follow", "Remove"),
    (
        '{ when = { idp = 1 }, value = "individual" }',
        '{ wen = { idp = 1 }, value = "i" }',
        "wen",
        "no key 'wen'",
        "'when'",
    ),
    (
        '{ when = { idp = 1 }, value = "individual" }',
        '{ when = {}, value = "i" }',
        "when = {}",
        "no column",
        "cases",
    ),
    ("cuts = [18, 65]", "cuts = [65,\n18]", "18]", "must rise", "cuts"),
    ("cuts = [18, 65]", "cuts = [18]", "labels =", "1 cuts make 2 bins", "labels"),
    ('from = "xage"\n', "", "columns.age_group]", "lacks 'from'", "cuts"),
    ('missing = "unknown"', 'missing = "old"', "missing", "label too", "own"),
    ("[tables.visits]\n", "[tables.visits\n", "[tables.visits", "TOML", "toml.io"),
    (
        "[tables.visits.columns.town]",
        "[tables.Visits]\n[tables.visits.columns.town]",
        "[tables.Visits]",
        "twice",
        "rename",
    ),
    (
        "[tables.visits.columns.town]",
        '[tables."x y"]\n[tables.visits.columns.town]',
        '[tables."x y"]',
        "table's name",
        "letters",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[1][:40])
def test_a_mistake_names_its_line_and_remedy(tmp_path, mistake):
    old, new, line, problem, hint = mistake
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    message = caught.value.message
    assert problem in message
    assert hint in caught.value.hint
    assert str(tmp_path / "site.toml") in message
    if line is None:
        assert ", line" not in message
    else:
        number = int(message.split(", line ")[1].split(":")[0])
        assert line in text.splitlines()[number - 1]


def test_bytes_that_are_no_text_are_located(tmp_path):
    with pytest.raises(ConfigError, match="line 2: This is not UTF-8"):
        load_config(write(tmp_path, b'name = "a"\nowner = "\xff"\n'))


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="does not exist") as caught:
        load_config(tmp_path)
    assert "privnb site init" in caught.value.hint


def test_a_directory_or_a_huge_file_is_one_clear_error(tmp_path):
    (tmp_path / "site.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "site.toml").rmdir()
    with pytest.raises(ConfigError, match="bytes"):
        load_config(write(tmp_path, "#" * 2_000_000))
