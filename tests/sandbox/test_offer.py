"""What a worker's interpreter is given of the packages that are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from privnb.errors import ConfigError
from privnb.site.sandbox.offer import find_offer


def test_a_package_comes_under_the_name_by_which_it_is_imported():
    offer = find_offer(["scikit-learn"])
    assert {"sklearn", "scipy", "joblib", "threadpoolctl", "numpy", "pandas"} <= set(offer.names)


def test_what_a_package_does_not_need_is_not_offered():
    offer = find_offer(["numpy"])
    assert not {"sklearn", "pydantic", "sqlalchemy", "privnb", "pip"} & set(offer.names)
    assert not any(Path(path).name in {"pydantic", "privnb", "pip"} for path in offer.read)


def test_folders_of_packages_may_be_listed_but_not_read_as_a_whole():
    offer = find_offer(["numpy"])
    assert not set(offer.listed) & set(offer.read) - {p for p in offer.read if "lib-dynload" in p}
    assert not any(Path(path).name in {"site-packages", "dist-packages"} for path in offer.read)


def test_the_standard_library_is_read():
    offer = find_offer([])
    assert any(Path(path).name == "json" for path in offer.read)


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match="'no-such-package' is not installed"):
        find_offer(["numpy", "no-such-package"])


def test_spelling_of_a_name_does_not_matter():
    assert find_offer(["Scikit_Learn"]) == find_offer(["scikit-learn"])
