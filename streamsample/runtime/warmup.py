"""Compile (or load) every kernel, and say so if it takes a while: the first time on a machine it does.

`python -m streamsample.runtime.warmup` does only that; the container image is built with it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable

MODULES = (
    "streamsample.hashing",
    "streamsample.sampling",
    "streamsample.labels",
    "streamsample.formats.avro",
    "streamsample.formats.json_values",
    "streamsample.formats.training_avro",
    "streamsample.formats.training_json",
    "streamsample.kafka.consumer",
    "streamsample.kafka.producer",
    "streamsample.runtime.worker",
)
_SILENT_SECONDS = 1.5


def load_kernels(say: Callable[[str], None]) -> None:
    """Import everything that has kernels. `say` is called if they have to be compiled."""
    compiling = threading.Timer(
        _SILENT_SECONDS, say, args=("compiling the numba kernels, once on this machine (up to 30 s) ...",)
    )
    compiling.daemon = True
    compiling.start()
    try:
        for name in MODULES:
            importlib.import_module(name)
    finally:
        compiling.cancel()


if __name__ == "__main__":
    load_kernels(lambda words: print(words, file=sys.stderr))
