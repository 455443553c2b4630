"""A job whose windows are months long: what its open rows cost in memory, speed and rest, and how soon it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import JobProcess
from benchmarks.join import JOB
from benchmarks.processes import call, wait_until
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, round_of

OPEN_PER_RECORD = 20 / 3
"""Open rows per record of the other benchmarks: 20 million beside their 3 million."""
WINDOW_MS = 90 * 86_400_000
FEW = 100
"""The other job has one open row for so many of this one's."""
VALUE_BYTES = 200
LIMIT_BYTES_PER_ROW = 50
"""state.memory_limit: 1 GB for 20 million rows."""
CLICKED = 0.05
REPLAY = "dict loop that reads its open window again"
SHORT = "the same job with a hundredth of the open rows"
DICT = "dict of Python objects"
_NAME = "bench-long"
_SESSION_SECONDS = 15
_REST_SECONDS = 20
_MORE = """
max_ahead: 10d
commit_interval: 200ms
"""


@dataclass(frozen=True, slots=True)
class _Filled:
    """A job with all its rows open. rate: of the records that came after those were open, a second; sizes in bytes."""

    job: JobProcess
    rate: float
    fill_rate: float
    resident: int
    peak: int
    open_rows: float
    state: float
    in_files: float
    changelog: float


def measure(settings: Settings) -> list[Figure]:
    """Fill two jobs, one with few rows open and one with many, and stop, kill and start the latter."""
    rows = int(settings.records * OPEN_PER_RECORD)
    more = rows // 10
    call("data:write_schemas", folder=str(settings.folder))
    write_schema(settings.folder)
    short = _filled(settings, "short", rows // FEW, more, WINDOW_MS // FEW)
    short.job.stop()
    long = _filled(settings, "long", rows, more, WINDOW_MS)
    cpu = long.job.cpu_seconds()
    wait_until(_after(_REST_SECONDS), "a rest", _REST_SECONDS + 5)
    idle = (long.job.cpu_seconds() - cpu) / _REST_SECONDS
    settings.say(f"long windows: at rest {idle:.2%} of a core")
    held = long.job.metric("open_rows")  # at rest, time goes on to where the inputs end
    begun = time.perf_counter()
    long.job.stop()
    settings.say(f"long windows: stopped in {time.perf_counter() - begun:.1f} s")
    job_file = settings.folder / f"{_NAME}-long.yaml"
    local, job = _restart(settings, job_file, held)
    job.kill()
    wait_until(_after(_SESSION_SECONDS), "the session's end", _SESSION_SECONDS + 5)
    changelog, job = _restart(settings, job_file, held)
    job.kill()
    return _figures(settings, rows, short, long, idle, local, changelog)


def _figures(
    settings: Settings, rows: int, short: _Filled, long: _Filled, idle: float, local: _Back, changelog: _Back
) -> list[Figure]:
    memory, _ = call("memory:open_rows", rows=200_000)
    reference, used = call(
        "join_loop:replay", servers=settings.servers, topic=f"{_NAME}-long.impressions", records=settings.slow_records
    )
    replay = round_of(reference, used).rate
    name = f"{rows:,} open rows"
    whole = rows == 20_000_000
    dicts = rows * (memory["dict"] + VALUE_BYTES) / 1e9
    return [
        Figure(f"{name}: throughput", long.rate, "records/s", SHORT, short.rate, Target("ratio", ">=", 0.7)),
        Figure(f"{name}: while they come", long.fill_rate, "records/s"),
        Figure(f"{name}: resident memory", long.resident / 1e9, "GB", DICT, dicts, _if(whole, "<=", 2.5)),
        Figure(f"{name}: peak memory", long.peak / 1e9, "GB", DICT, dicts),
        Figure(f"{name}: of a core at rest", idle, "cores", None, None, Target("value", "<", 0.01)),
        Figure(f"{name}: back from local state", local.wall, "s", REPLAY, rows / replay, _if(whole, "<", 20)),
        Figure(f"{name}: memory then", local.resident / 1e9, "GB", DICT, dicts),
        Figure(
            f"{name}: back from changelog", long.open_rows / changelog.restore, "rows/s", REPLAY, replay,
            Target("value", ">=", 500_000),
        ),
        Figure(f"{name}: peak memory then", changelog.peak / 1e9, "GB", DICT, dicts),
        Figure(
            f"{name}: changelog", long.changelog / 1e9, "GB", "open state", (long.state + long.in_files) / 1e9,
            Target("ratio", "<=", 2),
        ),
    ]  # fmt: skip


def _if(whole: bool, bound: Any, number: float) -> Target | None:
    return Target("value", bound, number) if whole else None


def _filled(settings: Settings, name: str, rows: int, more: int, window_ms: int) -> _Filled:
    """Run a job until it has read all, when `rows` are open and `more` have come and gone."""
    job_name = f"{_NAME}-{name}"
    settings.say(f"long windows: writing {rows + more:,} predictions and their clicks")
    told, _ = call(
        "long_windows:write", servers=settings.servers, prefix=job_name, rows=rows, more=more, window_ms=window_ms
    )
    call("data:make_outputs", servers=settings.servers, topics=[f"{job_name}.out"])
    text = JOB.format(name=job_name, servers=settings.servers, prefix=job_name)
    text = text.replace("impression.avsc", "long.avsc").replace("window: 10m", f"window: {window_ms // 1000}s")
    limit = max(rows * LIMIT_BYTES_PER_ROW, 10_000_000)
    text = text.replace("state: {", f"state: {{memory_limit: {limit}B, ") + _MORE
    job_file = settings.folder / f"{job_name}.yaml"
    job_file.write_text(text)
    job = JobProcess(job_file)
    job.wait_until_ready()
    begin = time.perf_counter()
    total = told["predictions"] + told["clicks"]
    first = total * rows // (rows + more)
    wait_until(lambda: job.metric("records_in_total") >= first, f"{rows:,} rows", 600, pause=0.1)
    filled, seen = time.perf_counter(), job.metric("records_in_total")
    wait_until(lambda: job.metric("records_in_total") >= total, f"{more:,} more", 600, pause=0.05)
    ended = time.perf_counter()
    wait_until(_after(3), "the last commits", 10)
    resident, peak = job.memory()
    found = _Filled(
        job, (total - seen) / (ended - filled), seen / (filled - begin), resident, peak, job.metric("open_rows"),
        job.metric("state_bytes"), job.metric("state_file_bytes"), job.metric("changelog_bytes"),
    )  # fmt: skip
    settings.say(
        f"long windows: {found.open_rows:,.0f} open, {found.rate:,.0f} records/s (filled at {found.fill_rate:,.0f}), "
        f"{resident / 1e9:.2f} GB resident (peak {peak / 1e9:.2f}), {found.state / 1e9:.2f} GB held in memory, "
        f"{found.in_files / 1e9:.2f} GB in files, changelog {found.changelog / 1e9:.2f} GB"
    )
    return found


@dataclass(frozen=True, slots=True)
class _Back:
    """A job that is back. wall: seconds from its start to /readyz; restore: by its own metric."""

    wall: float
    restore: float
    resident: int
    peak: int


def _restart(settings: Settings, job_file: Path, rows: float) -> tuple[_Back, JobProcess]:
    job = JobProcess(job_file)
    wall = job.wait_until_ready(600)
    wait_until(lambda: job.metric("open_rows") >= 0.99 * rows, f"{rows:,.0f} rows restored", 60, pause=0.05)
    found = _Back(wall, job.metric("restore_duration_seconds"), *job.memory())
    settings.say(
        f"long windows: ready after {wall:.2f} s, of which {found.restore:.2f} s restore; "
        f"{found.resident / 1e9:.2f} GB resident (peak {found.peak / 1e9:.2f})"
    )
    return found, job


def _after(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


# -- the input -------------------------------------------------------------------------------------------------


def write_schema(folder: Path) -> None:
    """long.avsc: an impression with what makes it 200 bytes."""
    import json

    from benchmarks.data import IMPRESSION

    context = {"name": "context", "type": "string"}
    folder.joinpath("long.avsc").write_text(json.dumps({**IMPRESSION, "fields": [*IMPRESSION["fields"], context]}))


def write(servers: str, prefix: str, rows: int, more: int, window_ms: int) -> dict[str, int]:
    """Predictions of which `rows` are open at a time, `more` beyond that, evenly over time; and clicks on some, up to a
    window later, that were there before the last prediction.
    """
    import numpy as np

    from benchmarks import data

    writer = data.Writer(servers, "lz4")
    shown, clicked = f"{prefix}.impressions", f"{prefix}.clicks"
    writer.make(shown)
    writer.make(clicked)
    span = window_ms * (rows + more) // rows
    for numbers in data.chunks(rows + more):
        times = data.serving_times(numbers, rows + more, span)
        values = np.hstack([data.impressions(numbers, times), _context(numbers)])
        assert values.shape[1] == VALUE_BYTES
        writer.write(shown, times, data.impression_ids(numbers), values)
    numbers, times = data.click_plan(rows + more, span, CLICKED, window_ms // 3)
    last = data.serving_times(np.array([rows + more - 1]), rows + more, span)[0]
    numbers, times = numbers[times <= last], times[times <= last]
    for part in data.chunks(len(numbers)):
        writer.write(clicked, times[part], data.impression_ids(numbers[part]), data.clicks(numbers[part], times[part]))
    writer.close()
    return {"predictions": rows + more, "clicks": len(numbers)}


def _context(numbers: Any) -> Any:
    """The Avro strings of 98 characters behind the other fields, half of them random: uint8[n, 100]."""
    import numpy as np

    from benchmarks import data

    rest = np.tile(np.frombuffer(b"surface=feed;experiment=none;region=eu;v1;;;;;;;;;", np.uint8), (len(numbers), 1))
    random = np.hstack([data.hexadecimal(numbers, salt) for salt in (5, 6, 7)])
    length = np.tile(np.array([196, 1], np.uint8), (len(numbers), 1))
    return np.hstack([length, random, rest[:, :50]])
