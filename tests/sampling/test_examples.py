"""The examples in the sampling library's docstrings, and on its page."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamsample.sampling

MODULES = [module.name for module in pkgutil.iter_modules(streamsample.sampling.__path__, "streamsample.sampling.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_examples_on_the_page_give_what_they_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "sampling-library.md"
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.failed == 0
    assert found.attempted > 20


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) >= 12


def test_every_public_name_is_there() -> None:
    for name in streamsample.sampling.__all__:
        assert getattr(streamsample.sampling, name).__name__ == name
    assert sorted(streamsample.sampling._HOMES) == streamsample.sampling.__all__
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        _ = streamsample.sampling.Nonsense


def test_a_job_that_samples_by_rate_loads_no_kernels_of_fixed_size() -> None:
    code = "import sys, streamsample.runtime.task; print('streamsample.sampling.bottom_k' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
