"""Two kinds of feedback: how fast a job joins them, and how soon an early record of one can be read.

An early record comes when the watermark passes the feedback's time and the grace, not when the feedback arrives: so a
replay gives the records that live gave (A8). Its latency is measured on events as they happen, whose times move the
watermark: from the commit that brought the feedback to the record in the hands of a `read_committed` reader.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import join
from benchmarks.jobs import JobProcess, Work, run_to_the_end
from benchmarks.processes import Failed, call, wait_until
from benchmarks.results import Figure, Target
from benchmarks.settings import Settings

ONE_KIND = "the same job with one kind of feedback"
BARE = "feedback copied record by record, kafka-python"
RATE = 100_000
"""Records per second in, live: of both topics."""
SLOT_MS = 50
"""How often the live events are written: a transaction each."""
CLICKED = 0.09
COMMIT_MS = 200
GRACE_MS = 100
_PREFIX = "bench.labels"
_ORDERS = """\
  orders:
    topic: {prefix}.orders
    format: avro
    schema_file: click.avsc
    id: click_id
    refers_to: impression_id
    time: {{field: clicked_at, unit: ms}}
targets:
  revenue: {{type: double, window: 10m, rules: [{{from: orders, field: amount, take: sum}}], if_silent: 0}}
"""
_TWO = join.JOB.replace("targets:\n", _ORDERS)
_EARLY = join.JOB.replace("if_silent: 0", "if_silent: 0, early: true")
_EARLY += f"grace: {GRACE_MS}ms\ncommit_interval: {COMMIT_MS}ms\n"


def measure(settings: Settings) -> list[Figure]:
    """The joins read `records` predictions and their feedback; then events come live."""
    call("data:write_schemas", folder=str(settings.folder))
    return [*_rates(settings), *_latencies(settings)]


# -- two kinds at once --------------------------------------------------------------------------------


def _rates(settings: Settings) -> list[Figure]:
    settings.say(f"labels: writing {settings.records:,} predictions, their clicks and their orders")
    jobs = {"one": (join.JOB, ["clicks"]), "two": (_TWO, ["clicks", "orders"])}
    told = {}
    for name, (_, kinds) in jobs.items():
        told[name], _ = call(
            "data:write_join_input",
            servers=settings.servers,
            prefix=f"{_PREFIX}.{name}",
            records=settings.records,
            span_ms=join.SPAN_WINDOWS * join.WINDOW_MS,
            window_ms=join.WINDOW_MS,
            share=join.CLICKED,
            mean_delay_ms=join.MEAN_DELAY_MS,
            kinds=kinds,
        )
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    cpu: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(settings.rounds):
        for name, (text, _) in jobs.items():
            work = _join(settings, f"bench-labels-{name}-{number}", text, f"{_PREFIX}.{name}", told[name])
            count = told[name]["predictions"] + told[name]["clicks"]
            rates[name].append(count / work.working_seconds)
            cpu[name].append(work.working_cpu_seconds / count * 1e6)
    rate, alone = statistics.median(rates["two"]), statistics.median(rates["one"])
    used, used_alone = statistics.median(cpu["two"]), statistics.median(cpu["one"])
    return [
        Figure("join of two kinds of feedback", rate, "records/s", ONE_KIND, alone, Target("value", ">=", 600_000)),
        Figure("join of two kinds: CPU", used, "CPU s/M records", ONE_KIND, used_alone, Target("value", "<=", 2.0)),
    ]


def _join(settings: Settings, name: str, text: str, prefix: str, told: dict[str, Any]) -> Work:
    call("data:make_outputs", servers=settings.servers, topics=[f"{name}.out"])
    job_file = Path(settings.folder, f"{name}.yaml")
    job_file.write_text(text.format(name=name, servers=settings.servers, prefix=prefix))
    work = run_to_the_end(job_file)
    settings.say(
        f"labels: {name}: read {work.ended.read:,}, wrote {work.ended.wrote:,} in {work.working_seconds:.2f} s "
        f"({work.whole_seconds:.2f} s with its start)"
    )
    labels, _ = call("outputs:read_labels", servers=settings.servers, topic=f"{name}.out", job_file=str(job_file))
    expected = {"records": told["closing"], "ids": told["closing"], "explicit": told["explicit"]}
    if work.ended.read != told["predictions"] + told["clicks"] or labels != expected:
        raise Failed(f"the job is wrong, however fast: {work.ended}, {labels}, expected {expected}")
    return work


# -- how soon -----------------------------------------------------------------------------------------


def _latencies(settings: Settings) -> list[Figure]:
    seconds = max(6, settings.records // 150_000)
    settings.say(f"labels: {RATE:,} events a second for {seconds} s, live")
    ours = [_live(settings, f"{_PREFIX}.live.{number}", seconds) for number in range(settings.rounds)]
    bare = _live(settings, f"{_PREFIX}.bare", seconds, bare=True)
    p99, p50 = (statistics.median(each[name] for each in ours) for name in ("p99", "p50"))
    rate = min(each["rate"] for each in ours)
    return [
        Figure("early record: p99 after its feedback", p99, "ms", BARE, bare["p99"], Target("value", "<", 1000)),
        Figure("early record: median after its feedback", p50, "ms", BARE, bare["p50"]),
        Figure("early record: events written meanwhile", rate, "records/s", None, None, Target("value", ">=", 95_000)),
    ]


def _live(settings: Settings, prefix: str, seconds: int, *, bare: bool = False) -> dict[str, float]:
    """Events for some seconds, a job (or the bare copy) on them, and a reader of what it writes."""
    name = prefix.replace(".", "-")
    call("data:make_outputs", servers=settings.servers, topics=[f"{prefix}.{t}" for t in ("impressions", "clicks")])
    call("data:make_outputs", servers=settings.servers, topics=[f"{name}.out"])
    job_file, arrivals = Path(settings.folder, f"{name}.yaml"), Path(settings.folder, f"{name}.json")
    job_file.write_text(_EARLY.format(name=name, servers=settings.servers, prefix=prefix))
    job = None if bare else JobProcess(job_file)
    count = seconds * 1000 // SLOT_MS * _per_slot()[1]
    try:
        if job is not None:
            job.wait_until_ready()
        with ThreadPoolExecutor(3) as pool:
            common = {"servers": settings.servers, "prefix": prefix}
            reader = pool.submit(call, "labels:read", None, topic=f"{name}.out", count=count, **common)
            copier = (
                pool.submit(call, "labels:copy", None, topic=f"{name}.out", count=count, **common) if bare else None
            )
            told, _ = call("labels:write", seconds=seconds, arrivals=str(arrivals), **common)
            seen, _ = reader.result()
            if copier is not None:
                copier.result()
    finally:
        if job is not None:
            job.stop()
    return {"rate": told["rate"], **_percentiles(json.loads(arrivals.read_text()), seen["seen"])}


def _percentiles(arrived: dict[str, float], seen: list[tuple[int, float, int]]) -> dict[str, float]:
    """Of all records but those of the first quarter, in ms.

    arrived: by the feedback's time; seen: that time, when it was seen, how many of them.
    """
    first = sorted(map(int, arrived))[len(arrived) // 4]
    waits = [(at - arrived[str(stamp)], count) for stamp, at, count in seen if stamp >= first and str(stamp) in arrived]
    every = sorted(wait for wait, count in waits for _ in range(count))
    return {"p50": every[len(every) // 2], "p99": every[len(every) * 99 // 100]}


def _per_slot() -> tuple[int, int]:
    """How many predictions and clicks."""
    together = RATE * SLOT_MS // 1000
    clicked = round(together * CLICKED / (1 + CLICKED))
    return together - clicked, clicked


def write(servers: str, prefix: str, seconds: int, arrivals: str) -> dict[str, float]:
    """Write predictions, and clicks on those of half a second ago, at the times at which they are written; when the
    commit of each slot was done goes to the file `arrivals`, in ms since the epoch, by the events' time.
    """
    import numpy as np

    from benchmarks.data import PARTITIONS, LiveWriter

    shown, clicked = _per_slot()
    writer = LiveWriter(servers, prefix)
    done: dict[int, float] = {}
    nobody = 2**40 + np.arange(PARTITIONS * 8)
    pause, slots, ago = threading.Event(), seconds * 1000 // SLOT_MS, 500 // SLOT_MS
    begin = time.time() + 1
    for slot in range(-ago, slots + 40):
        pause.wait(max(0.0, begin + slot * SLOT_MS / 1000 - time.time()))
        now = time.time_ns() // 1_000_000
        of = np.arange(clicked) + (slot - ago) * shown if 0 <= slot < slots else nobody
        writer.write_moment(now, np.arange(shown) + slot * shown, of)
        if 0 <= slot < slots:
            done[now] = time.time() * 1000
    took = time.time() - begin
    writer.close()
    Path(arrivals).write_text(json.dumps(done))
    return {"rate": (slots + 40) * (shown + clicked) / took}


def read(servers: str, prefix: str, topic: str, count: int) -> dict[str, Any]:
    """Read `count` records as they come: when those of each timestamp were in hand, in ms since the epoch."""
    import numpy as np

    from benchmarks.data import PARTITIONS
    from streamsample.kafka.consumer import ColumnarConsumer
    from streamsample.records import TopicPartition

    seen: list[tuple[int, float, int]] = []
    with ColumnarConsumer({"bootstrap_servers": servers}) as consumer:
        sources = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(sources)
        for source in sources:
            consumer.seek(source, 0)

        def come() -> bool:
            for batch in consumer.poll(20):
                now = time.time() * 1000
                stamps, counts = np.unique(batch.timestamps, return_counts=True)
                seen.extend((stamp, now, many) for stamp, many in zip(stamps.tolist(), counts.tolist(), strict=True))
            return sum(many for _, _, many in seen) >= count

        wait_until(come, f"{count} records of {topic}", 180, pause=0)
    return {"seen": seen}


def copy(servers: str, prefix: str, topic: str, count: int) -> dict[str, int]:
    """The least that has the same path: clicks are read, and written in a transaction per commit interval."""
    from kafka import KafkaConsumer, KafkaProducer

    consumer = KafkaConsumer(
        f"{prefix}.clicks",
        bootstrap_servers=servers,
        group_id=None,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    producer = KafkaProducer(bootstrap_servers=servers, transactional_id=f"{prefix}.copy", linger_ms=5)
    producer.init_transactions()
    copied = 0
    while copied < count:
        producer.begin_transaction()
        until = time.monotonic() + COMMIT_MS / 1000
        while time.monotonic() < until:
            for records in consumer.poll(20).values():
                for record in records:
                    producer.send(topic, record.value, record.key, timestamp_ms=record.timestamp)
                copied += len(records)
        producer.commit_transaction()
    producer.close()
    consumer.close()
    return {"records": copied}
