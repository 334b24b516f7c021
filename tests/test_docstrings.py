import doctest
import importlib
import pkgutil

import pytest

import asqcli

MODULES = [m.name for m in pkgutil.walk_packages(asqcli.__path__, "asqcli.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_module_says_what_it_is_for():
    assert all(importlib.import_module(name).__doc__ for name in MODULES)
