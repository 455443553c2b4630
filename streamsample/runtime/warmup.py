"""Compile (or load) the kernels that a job needs, and say so if it takes a while: the first time on a machine it does.

`python -m streamsample.runtime.warmup` does it for every format; the container image is built with it. With names of
modules as arguments, only theirs: so a second process shares the work.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence

from streamsample.kernels import load_imported

FIRST = "streamsample.hashing"
ALWAYS = (
    "streamsample.sampling.split",
    "streamsample.sampling.stratified",
    "streamsample.runtime.rows",
)
BROKER = ("streamsample.kafka.consumer", "streamsample.kafka.producer")
FORMATS: Mapping[str, Sequence[str]] = {
    "json": ("streamsample.formats.json_values", "streamsample.formats.training_json"),
    "avro": ("streamsample.formats.avro", "streamsample.formats.training_avro"),
}
WINDOWS = "streamsample.sampling.windows"
COMPUTED = (
    "streamsample.expressions.compiled",
    "streamsample.formats.avro_lists",
    "streamsample.formats.avro_slates",
    "streamsample.formats.json_lists",
    "streamsample.formats.json_slates",
    "streamsample.runtime.composite",
    "streamsample.runtime.iso8601",
)
JOIN = "streamsample.labels"
"""As much work as the rest together."""


def load_kernels(
    say: Callable[[str], None],
    formats: Collection[str] = tuple(FORMATS),
    *,
    windows: bool = True,
    computed: bool = True,
    broker: bool = True,
    at_call: bool = False,
) -> None:
    """Import everything with kernels that a job with these formats, perhaps a windowed sample and brokers, needs, and
    load them.

    computed: also what single settings need, which jobs load as they find them. at_call: do nothing if they were
    compiled before; each is loaded when it is called. `say` is called if they must be compiled.
    """
    hashing = importlib.import_module(FIRST)
    compiled = hashing.compiled_before()
    if compiled and at_call:
        return
    mine = [
        *ALWAYS,
        *BROKER * broker,
        *(name for format_ in sorted(formats) for name in FORMATS[format_]),
        *[WINDOWS] * windows,
    ]
    mine[:0] = COMPUTED if computed else ()
    # With both formats the join's process takes one of them.
    others = [JOIN] + [mine.pop() for _ in range(2) if len(formats) > 1]
    helper = None
    if not compiled:
        say("compiling the numba kernels, once on this machine (up to 30 s) ...")
        helper = subprocess.Popen([sys.executable, "-m", "streamsample.runtime.warmup", *others])
    try:
        _load(mine)
    finally:
        if helper is not None:
            helper.wait()  # What it could not do, the next line does again, and says why.
    _load(others)


def _load(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)
    load_imported()


if __name__ == "__main__":
    if sys.argv[1:]:
        _load(sys.argv[1:])
    else:
        load_kernels(lambda words: print(words, file=sys.stderr))
