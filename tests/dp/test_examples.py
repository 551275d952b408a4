import doctest
import importlib
import pkgutil

import pytest

import privnb.dp

MODULES = [module.name for module in pkgutil.iter_modules(privnb.dp.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_are_true(name):
    result = doctest.testmod(importlib.import_module(f"privnb.dp.{name}"))
    assert result.failed == 0
