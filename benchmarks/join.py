"""A whole job that labels every prediction, exactly once, with its changelog, beside a dict loop over kafka-python."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.jobs import Work, run_to_the_end
from benchmarks.processes import Failed, call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, Summary, round_of, summary_of

LOOP = "dict loop over kafka-python and fastavro"
PUBLISHED = {
    # Records/s and CPU seconds per million records, measured once on the same kind of machine: see docs/performance.md.
    "Flink (heap state, exactly once)": (115_000, 20.0),
    "Kafka Streams (RocksDB)": (44_000, 42.0),
    "dict loop over librdkafka": (49_000, 21.0),
}
WINDOW_MS = 600_000
MEAN_DELAY_MS = 120_000
CLICKED = 0.1
SPAN_WINDOWS = 3
"""How many windows the predictions are spread over: so a third of them is open at a time."""
_PREFIX = "bench.join"
JOB = """\
job: {name}
kafka: {{bootstrap_servers: "{servers}"}}
start: earliest
input:
  topic: {prefix}.impressions
  format: avro
  schema_file: impression.avsc
  id: impression_id
  time: {{field: served_at, unit: ms}}
feedback:
  clicks:
    topic: {prefix}.clicks
    format: avro
    schema_file: click.avsc
    id: click_id
    refers_to: impression_id
    time: {{field: clicked_at, unit: ms}}
targets:
  clicked: {{type: int, window: 10m, rules: [{{from: clicks, label: 1}}], if_silent: 0}}
output: {{topic: {name}.out}}
metrics: {{port: 0}}
state: {{directory: {name}}}
"""


def measure(settings: Settings) -> list[Figure]:
    """The job reads `records` predictions and their clicks, the loop a smaller set of the same shape."""
    settings.say(f"join: writing {settings.records:,} predictions and their clicks")
    told = _write(settings, _PREFIX, settings.records)
    outputs = ["bench-join-loop.out", *(f"bench-join-{number}.out" for number in range(settings.rounds))]
    call("data:make_outputs", servers=settings.servers, topics=outputs)
    call("data:write_schemas", folder=str(settings.folder))
    works = [_run(settings, number, told) for number in range(settings.rounds)]
    loop = _loop(settings)
    settings.say("join: the memory of an open row")
    memory, _ = call("memory:open_rows", rows=min(settings.records, 1_000_000))
    return _figures(told["predictions"] + told["clicks"], works, loop, memory)


def _figures(count: int, works: list[Work], loop: Summary, memory: dict[str, Any]) -> list[Figure]:
    million = count / 1e6
    rate = statistics.median(count / work.working_seconds for work in works)
    whole = statistics.median(count / work.whole_seconds for work in works)
    cpu = statistics.median(work.working_cpu_seconds / million for work in works)
    whole_cpu = statistics.median(work.whole_cpu_seconds / million for work in works)
    peak = max(work.peak_bytes for work in works) / 2**20
    seconds, per_million = "records/s", "CPU s/M records"
    figures = [
        Figure("join, from ready to end", rate, seconds, LOOP, loop.rate, Target("value", ">=", 700_000)),
        Figure("join, whole process", whole, seconds, LOOP, loop.rate),
        Figure("join: CPU from ready to end", cpu, per_million, LOOP, loop.cpu_per_million, Target("value", "<=", 2.0)),
        Figure("join: CPU, whole process", whole_cpu, per_million, LOOP, loop.cpu_per_million),
        Figure("join: peak memory", peak, "MiB", LOOP, loop.peak_mib),
    ]
    for name, (published, cpu_published) in PUBLISHED.items():
        reference = f"{name}, published"
        figures.append(Figure("join, from ready to end", rate, seconds, reference, published))
        figures.append(Figure("join: CPU from ready to end", cpu, per_million, reference, cpu_published))
    for name in ("by_tables", "by_process"):
        what = f"join: open row beside payload, {name.replace('_', ' ')}"
        bound = Target("value", "<=", 96)
        figures.append(Figure(what, memory[name], "bytes", "dict of Python objects", memory["dict"], bound))
    return figures


def _write(settings: Settings, prefix: str, records: int) -> dict[str, Any]:
    told, _ = call(
        "data:write_join_input",
        servers=settings.servers,
        prefix=prefix,
        records=records,
        span_ms=SPAN_WINDOWS * WINDOW_MS,
        window_ms=WINDOW_MS,
        share=CLICKED,
        mean_delay_ms=MEAN_DELAY_MS,
    )
    return told


def _run(settings: Settings, number: int, told: dict[str, Any]) -> Work:
    name = f"bench-join-{number}"
    job_file = Path(settings.folder, f"{name}.yaml")
    job_file.write_text(JOB.format(name=name, servers=settings.servers, prefix=_PREFIX))
    work = run_to_the_end(job_file)
    settings.say(
        f"join: read {work.ended.read:,}, wrote {work.ended.wrote:,}, open {work.ended.still_open} "
        f"in {work.working_seconds:.2f} s ({work.whole_seconds:.2f} s with its start)"
    )
    labels, _ = call("outputs:read_labels", servers=settings.servers, topic=f"{name}.out", job_file=str(job_file))
    expected = {"records": told["closing"], "ids": told["closing"], "explicit": told["explicit"]}
    if work.ended.read != told["predictions"] + told["clicks"] or labels != expected:
        raise Failed(f"the job is wrong, however fast: {work.ended}, {labels}, expected {expected}")
    return work


def _loop(settings: Settings) -> Summary:
    prefix = f"{_PREFIX}-loop"
    told = _write(settings, prefix, settings.slow_records)
    rounds = [
        round_of(
            *call(
                "join_loop:run",
                servers=settings.servers,
                prefix=prefix,
                output="bench-join-loop.out",
                group=f"bench-join-loop-{number}",
                records=told["predictions"] + told["clicks"],
                expected=told["closing"],
            )
        )
        for number in range(max(1, settings.rounds // 2))
    ]
    return summary_of(rounds)
