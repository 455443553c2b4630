"""What is freed is kept: a large array costs no page faults when one like it was let go before."""

from __future__ import annotations

import os
import subprocess
import sys

FAULTS = """
import resource, sys
import numpy as np
from streamsample.runtime.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() == (sys.platform == "linux")
for _ in range(2):
    np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    run = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_freed_memory_is_kept() -> None:
    assert sys.platform != "linux" or faults("kept") < faults("given back") // 100
