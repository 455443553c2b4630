"""Whole jobs that draw reservoirs per window and stratum, exactly once, beside a loop with heaps.

What is published of the engines are rates in the middle of a topic without an end. A job that reads a topic to its end
takes some 0.5 s more, however long the topic is, until it has asked how far the partitions are, has told the windows'
owners, has committed and has left its group. All of that is in the figures here, so three times the records are read,
to be fair to what is measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from benchmarks.jobs import Work, run_to_the_end, sampling_job
from benchmarks.loops import run_loop
from benchmarks.processes import Failed, call
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings, in_turn, round_of

LOOP = "loop over kafka-python and fastavro, heaps"
PUBLISHED = {
    # Records/s and CPU seconds per million records of stratified reservoirs and a weighted one in one pass: see
    # docs/performance.md.
    "Flink": (350_000, 10.0),
    "Kafka Streams": (165_000, None),
    "loop over librdkafka": (110_000, None),
}
K, WINDOW_MS, SPAN_MS = 1_000, 200_000, 600_000
_TOPIC = "bench.windows"
_WINDOWS = f"k: {K}, window: 200s, seed: 7"
_STRATA = "by: device, strata: [phone, tablet, desktop, tv]"
_DEAR = f"{{design: weighted, weight: price, {_WINDOWS}}}"
_BOTH = f"{{devices: {{design: reservoir, {_STRATA}, {_WINDOWS}}}, dear: {_DEAR}}}"
_SAMPLES = {
    "reservoirs": (f"sample: {{design: reservoir, {_STRATA}, {_WINDOWS}}}", 4),
    "weighted reservoirs": (f"sample: {{design: weighted, weight: price, {_STRATA}, {_WINDOWS}}}", 4),
    "reservoirs and a weighted one in one pass": (f"samples: {_BOTH}", 5),
}
"""What the job files say, and how many reservoirs a window has."""


def measure(settings: Settings) -> list[Figure]:
    """The jobs read three times `records`, the loop a part of them."""
    settings = replace(settings, records=3 * settings.records)
    settings.say(f"windows: writing {settings.records:,} records")
    call(
        "data:write_impressions",
        servers=settings.servers,
        topic=_TOPIC,
        records=settings.records,
        codec="lz4",
        span_ms=SPAN_MS,
    )
    names = [f"bench-windows-{number}" for number in range(len(_SAMPLES) * settings.rounds)]
    call("data:make_outputs", servers=settings.servers, topics=["bench-windows-loop.out", *(f"{n}.out" for n in names)])
    call("data:write_schemas", folder=str(settings.folder))
    works = {design: [_run(settings, names.pop(), design) for _ in range(settings.rounds)] for design in _SAMPLES}
    count = min(settings.records, settings.slow_records)
    [loop] = in_turn(
        max(1, settings.rounds // 2),
        lambda: round_of(*call("windows:loop", servers=settings.servers, topic=_TOPIC, records=count)),
    )
    figures, million = [], settings.records / 1e6
    for design, found in works.items():
        rate = statistics.median(settings.records / work.working_seconds for work in found)
        cpu = statistics.median(work.working_cpu_seconds / million for work in found)
        peak = max(work.peak_bytes for work in found) / 2**20
        bounds = Target("value", ">=", 1_500_000), Target("value", "<=", 1.2)
        figures += [
            Figure(f"{design}, from ready to end", rate, "records/s", LOOP, loop.rate, bounds[0]),
            Figure(f"{design}: CPU from ready to end", cpu, "CPU s/M records", LOOP, loop.cpu_per_million, bounds[1]),
            Figure(f"{design}: peak memory", peak, "MiB", LOOP, loop.peak_mib),
        ]
        for name, (published, cpu_published) in PUBLISHED.items():
            reference = f"{name}, published"
            figures.append(Figure(f"{design}, from ready to end", rate, "records/s", reference, published))
            if cpu_published is not None:
                what = f"{design}: CPU from ready to end"
                figures.append(Figure(what, cpu, "CPU s/M records", reference, cpu_published))
    return figures


def _run(settings: Settings, name: str, design: str) -> Work:
    sample, reservoirs = _SAMPLES[design]
    work = run_to_the_end(sampling_job(settings.folder, name, settings.servers, _TOPIC, sample))
    settings.say(
        f"windows: {design}: read {work.ended.read:,}, wrote {work.ended.wrote:,} in {work.working_seconds:.2f} s "
        f"({work.whole_seconds:.2f} s with its start)"
    )
    # Two of the three windows have closed, the last one's candidates are open.
    closed = 2 * reservoirs * K
    if settings.records >= 1_000_000 and (work.ended.read, work.ended.wrote) != (settings.records, closed):
        raise Failed(f"the job is wrong, however fast: {work.ended}, expected {closed} records")
    return work


def loop(servers: str, topic: str, records: int) -> dict[str, float]:
    """The same work, record by record: a heap of k for each window and stratum, written when the next one begins."""
    import heapq

    import xxhash

    heaps: dict[tuple[int, str], list[tuple[float, bytes, bytes]]] = {}

    def decide(event: dict[str, Any], key: bytes, value: bytes) -> Iterable[tuple[bytes, bytes]]:
        window = int(event["served_at"].timestamp() * 1000) // WINDOW_MS
        u = (xxhash.xxh64_intdigest(event["impression_id"].encode(), 7) + 0.5) / 2**64
        heap = heaps.setdefault((window, event["device"]), [])
        if len(heap) < K:
            heapq.heappush(heap, (-u, key, value))
        elif -u > heap[0][0]:
            heapq.heapreplace(heap, (-u, key, value))
        if len(heap) > 1:
            return ()
        closed = [place for place in heaps if place[0] < window - 1]
        return [(key, value) for place in closed for _, key, value in heaps.pop(place)]

    return run_loop(servers, topic, "bench-windows-loop", records, decide)
