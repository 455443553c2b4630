"""Kernels are loaded when they are needed: at their first call, or all at once before work that must not stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import types

from streamsample.kernels import I64, Kernel, kernel

REPOSITORY = Path(__file__).parents[1]


def test_a_kernel_is_compiled_at_its_first_call_and_for_its_types_alone() -> None:
    @kernel(types.int64(I64))
    def total(values):  # type: ignore[no-untyped-def]
        sum_ = 0
        for value in values:
            sum_ += value
        return sum_

    assert isinstance(total, Kernel)
    assert total._compiled is None
    assert total(np.arange(5)) == 10
    assert [str(signature) for signature in total.load().signatures] == [str((I64,))]
    with pytest.raises(TypeError, match="No matching definition"):
        total(np.arange(5.0))


SCRIPT = """
import json, sys
from streamsample.kernels import Kernel

def loaded():
    modules = [module for name, module in sys.modules.items() if name.startswith("streamsample.")]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Kernel)]
    return sum(each._compiled is not None for each in found), len(found)

{script}
print(json.dumps([loaded(), sorted({{name.split(".")[0] for name in sys.modules}})]))
"""


def after(script: str) -> tuple[int, int, set[str]]:
    """Of a process that ran this: how many kernels it loaded, of how many, and the packages that it imported."""
    command = [sys.executable, "-c", SCRIPT.format(script=script)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    (loaded, of), packages = json.loads(done.stdout.splitlines()[-1])
    return loaded, of, set(packages)


@pytest.mark.parametrize(
    ("arguments", "most"), [(["validate", "--offline", "configs/shop.yaml"], 3), (["test", "configs/flights.yaml"], 40)]
)
def test_a_command_without_a_broker_loads_what_it_calls(arguments: list[str], most: int) -> None:
    script = f"from streamsample.cli import app\napp({arguments!r}, standalone_mode=False)"
    loaded, of, packages = after(script)
    assert loaded <= min(most, of - 1)
    assert not {"kafka", "prometheus_client"} & packages


def test_what_is_imported_can_be_loaded_before_the_work() -> None:
    loaded, of, _ = after("import streamsample.labels, streamsample.kernels as k\nk.load_imported()")
    assert loaded == of > 20
