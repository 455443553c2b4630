"""The examples in the sampling library's docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import streamsample.sampling

MODULES = [module.name for module in pkgutil.iter_modules(streamsample.sampling.__path__, "streamsample.sampling.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 6
