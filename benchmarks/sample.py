"""A whole job that samples 1 % by stratum, exactly once, beside a loop over kafka-python that does the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.jobs import Work, run_to_the_end, sampling_job
from benchmarks.loops import run_loop
from benchmarks.processes import Failed, call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, in_turn, round_of

LOOP = "loop over kafka-python and fastavro"
_TOPIC = "bench.sample"
_DESIGN = "sample: {design: stratified, by: country, rate: 0.01, rates: {IS: 0.05}, seed: 7}"


def measure(settings: Settings) -> list[Figure]:
    """The job reads `records`, the loop a part of them."""
    settings.say(f"sample: writing {settings.records:,} records")
    call("data:write_impressions", servers=settings.servers, topic=_TOPIC, records=settings.records, codec="lz4")
    outputs = ["bench-sample-loop.out", *(f"bench-sample-{number}.out" for number in range(settings.rounds))]
    call("data:make_outputs", servers=settings.servers, topics=outputs)
    call("data:write_schemas", folder=str(settings.folder))
    works = [_run(settings, number) for number in range(settings.rounds)]
    count = min(settings.records, settings.slow_records)
    [loop] = in_turn(
        max(1, settings.rounds // 2),
        lambda: round_of(*call("sample:loop", servers=settings.servers, topic=_TOPIC, records=count)),
    )
    million = settings.records / 1e6
    rate = statistics.median(settings.records / work.working_seconds for work in works)
    whole = statistics.median(settings.records / work.whole_seconds for work in works)
    cpu = statistics.median(work.working_cpu_seconds / million for work in works)
    whole_cpu = statistics.median(work.whole_cpu_seconds / million for work in works)
    peak = max(work.peak_bytes for work in works) / 2**20
    return [
        Figure("sample 1 %, from ready to end", rate, "records/s", LOOP, loop.rate, Target("value", ">=", 1_500_000)),
        Figure("sample 1 %, whole process", whole, "records/s", LOOP, loop.rate),
        Figure("sample 1 %: CPU from ready to end", cpu, "CPU s/M records", LOOP, loop.cpu_per_million),
        Figure("sample 1 %: CPU, whole process", whole_cpu, "CPU s/M records", LOOP, loop.cpu_per_million),
        Figure("sample 1 %: peak memory", peak, "MiB", LOOP, loop.peak_mib),
    ]


def _run(settings: Settings, number: int) -> Work:
    name = f"bench-sample-{number}"
    work = run_to_the_end(sampling_job(settings.folder, name, settings.servers, _TOPIC, _DESIGN))
    settings.say(
        f"sample: read {work.ended.read:,}, wrote {work.ended.wrote:,} in {work.working_seconds:.2f} s "
        f"({work.whole_seconds:.2f} s with its start)"
    )
    if work.ended.read != settings.records or not 0.008 < work.ended.wrote / work.ended.read < 0.013:
        raise Failed(f"the job is wrong, however fast: {work.ended}")
    return work


def loop(servers: str, topic: str, records: int) -> dict[str, float]:
    """The same work, record by record: decode, decide by a hash of the id, write 1 %, commit once a second."""
    import xxhash

    rates = {"IS": 0.05}

    def decide(event: dict[str, Any], key: bytes, value: bytes) -> Iterable[tuple[bytes, bytes]]:
        u = (xxhash.xxh64_intdigest(event["impression_id"].encode(), 7) + 0.5) / 2**64
        return [(key, value)] if u < rates.get(event["country"], 0.01) else ()

    return run_loop(servers, topic, "bench-sample-loop", records, decide)
