"""Compile (or load) every kernel, and say so if it takes a while: the first time on a machine it does.

`python -m streamsample.runtime.warmup` does only that; the container image is built with it. With names of modules as
arguments, only theirs: so a second process shares the work.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Sequence

FIRST = "streamsample.hashing"
MINE = (
    "streamsample.sampling",
    "streamsample.formats.json_values",
    "streamsample.formats.training_avro",
    "streamsample.formats.training_json",
    "streamsample.kafka.consumer",
    "streamsample.kafka.producer",
    "streamsample.runtime.rows",
)
OTHERS = ("streamsample.labels", "streamsample.formats.avro")
"""About half of the work, compiled beside the rest where there is a second core."""


def load_kernels(say: Callable[[str], None]) -> None:
    """Import everything that has kernels. `say` is called if they have to be compiled."""
    hashing = importlib.import_module(FIRST)
    helper = None
    if hashing.COMPILED_NOW and not all(name in sys.modules for name in (*MINE, *OTHERS)):
        say("compiling the numba kernels, once on this machine (up to 30 s) ...")
        helper = subprocess.Popen([sys.executable, "-m", "streamsample.runtime.warmup", *OTHERS])
    try:
        _load(MINE)
    finally:
        if helper is not None:
            helper.wait()  # What it could not do, the next line does again, and says why.
    _load(OTHERS)


def _load(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)


if __name__ == "__main__":
    if sys.argv[1:]:
        _load(sys.argv[1:])
    else:
        load_kernels(lambda words: print(words, file=sys.stderr))
