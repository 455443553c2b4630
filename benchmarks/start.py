"""How long a job takes until it is ready: with its kernels compiled, and the first time ever on a machine."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.jobs import JobProcess
from benchmarks.join import CLICKED, JOB, MEAN_DELAY_MS, WINDOW_MS
from benchmarks.processes import Failed, call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings

LOOP = "kafka-python consumer, to its first record"
_NAME = "bench-start"
_PREFIX = "bench.start"


def measure(settings: Settings) -> list[Figure]:
    """A new job on a small topic, several times; then once with an empty cache of kernels."""
    settings.say("start: with kernels cached, then without")
    call(
        "data:write_join_input", servers=settings.servers, prefix=_PREFIX, records=1_000, span_ms=WINDOW_MS,
        window_ms=WINDOW_MS, share=CLICKED, mean_delay_ms=MEAN_DELAY_MS,
    )  # fmt: skip
    call("data:make_outputs", servers=settings.servers, topics=[f"{_NAME}.out"])
    call("data:write_schemas", folder=str(settings.folder))
    job_file = Path(settings.folder, f"{_NAME}.yaml")
    job_file.write_text(JOB.format(name=_NAME, servers=settings.servers, prefix=_PREFIX))
    _start(job_file)  # compiles what is not yet
    cached = statistics.median(_start(job_file)[0] for _ in range(settings.rounds))
    loop = statistics.median(_loop(settings) for _ in range(settings.rounds))
    with tempfile.TemporaryDirectory(dir=settings.folder) as empty:
        first, said = _start(job_file, NUMBA_CACHE_DIR=empty)
    if "compiling" not in said:
        raise Failed(f"the first start does not say that it compiles:\n{said}")
    return [
        Figure("start to ready, kernels cached", cached, "s", LOOP, loop, Target("value", "<", 5)),
        Figure("start to ready, the first time ever", first, "s", LOOP, loop, Target("value", "<", 30)),
    ]


def _start(job_file: Path, **environment: str) -> tuple[float, str]:
    job = JobProcess(job_file, environment=environment)
    try:
        return job.wait_until_ready(), job.said
    finally:
        job.stop()


def _loop(settings: Settings) -> float:
    topic = f"{_PREFIX}.impressions"
    _, finished = call("consume:read_records", servers=settings.servers, topic=topic, records=1)
    return finished.seconds
