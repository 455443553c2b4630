"""How long a killed job with many open rows needs until it works again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import JobProcess
from benchmarks.join import CLICKED, JOB, MEAN_DELAY_MS, WINDOW_MS
from benchmarks.processes import call, wait_until
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, round_of

REPLAY = "dict loop that reads its open window again"
OPEN_ROWS = 1_000_000
_NAME = "bench-restore"
_PREFIX = "bench.restore"
_SESSION_SECONDS = 15
"""After this the group has put out a member that was killed."""


@dataclass(frozen=True, slots=True)
class _Restart:
    """wall_seconds: from the start of the process to /readyz. restore_seconds: the job's own metric."""

    wall_seconds: float
    restore_seconds: float


def measure(settings: Settings) -> list[Figure]:
    """Fill a job with open rows, kill it, and start it again: at once, then when the group has forgotten the dead."""
    rows = min(OPEN_ROWS, settings.records)
    settings.say(f"restore: writing {rows:,} predictions, all of which stay open")
    call(
        "data:write_join_input", servers=settings.servers, prefix=_PREFIX, records=rows, span_ms=WINDOW_MS // 2,
        window_ms=WINDOW_MS, share=CLICKED, mean_delay_ms=MEAN_DELAY_MS, close=False,
    )  # fmt: skip
    call("data:make_outputs", servers=settings.servers, topics=[f"{_NAME}.out"])
    call("data:write_schemas", folder=str(settings.folder))
    job_file = Path(settings.folder, f"{_NAME}.yaml")
    job_file.write_text(JOB.format(name=_NAME, servers=settings.servers, prefix=_PREFIX))
    job = JobProcess(job_file)
    job.wait_until_ready()
    wait_until(lambda: job.metric("open_rows") >= rows, f"{rows} open rows", 300, pause=0.1)
    job.kill()
    at_once, job = _restart(settings, job_file, rows)
    later: list[_Restart] = []
    for _ in range(settings.rounds):
        job.kill()
        wait_until(_after(_SESSION_SECONDS), "the session's end", _SESSION_SECONDS + 5)
        found, job = _restart(settings, job_file, rows)
        later.append(found)
    job.stop()
    reference, used = call(
        "join_loop:replay", servers=settings.servers, topic=f"{_PREFIX}.impressions",
        records=min(rows, settings.slow_records),
    )  # fmt: skip
    replay = rows / round_of(reference, used).rate
    restore = statistics.median(each.restore_seconds for each in [at_once, *later])
    wall = statistics.median(each.wall_seconds for each in later)
    name = f"restore of {rows:,} open rows"
    target = Target("value", "<", 10) if rows == OPEN_ROWS else None
    return [
        Figure(name, restore, "s", REPLAY, replay, target),
        Figure(f"{name}, from start to ready", wall, "s", REPLAY, replay, target),
        Figure(f"{name}, started at once", at_once.wall_seconds, "s", REPLAY, replay),
    ]


def _restart(settings: Settings, job_file: Path, rows: int) -> tuple[_Restart, JobProcess]:
    job = JobProcess(job_file)
    wall = job.wait_until_ready()
    wait_until(lambda: job.metric("open_rows") >= rows, f"{rows} rows restored", 60, pause=0.05)
    found = _Restart(wall, job.metric("restore_duration_seconds"))
    settings.say(f"restore: ready after {wall:.2f} s, of which {found.restore_seconds:.2f} s restore")
    return found, job


def _after(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end
