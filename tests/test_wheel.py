"""What a built wheel contains, and what it must not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # one is built for all

ROOT = Path(__file__).parent.parent

FOLDERS = {"privnb": "privnb", "magics": "privnb/magics", "widgets": "privnb/widgets"}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Names of the files in a wheel built from a copy of the source."""
    out = tmp_path_factory.mktemp("wheel")
    source = source_copy(out / "src")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    subprocess.run([*build, str(out), str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def source_copy(target):
    """Copy what is built, so that building leaves no trace in the source folder."""
    target.mkdir()
    for name in ("privnb", "magics", "widgets"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


def test_every_module_and_static_file_is_in_the_wheel(names):
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected - names == set()


def test_nothing_else_is_at_the_top_of_the_wheel(names):
    assert {name.split("/")[0] for name in names} == {"privnb", "privnb-0.1.0.dist-info"}
