"""Consume into columns, beside the Java client's own benchmark and beside kafka-python's record by record."""

from __future__ import annotations

from typing import Any

from benchmarks.processes import Failed, Finished, Stopwatch, call, run
from benchmarks.results import Figure, Target
from benchmarks.settings import Round, Settings, costs, in_turn, round_of

JAVA = "Java client, ConsumerPerformance"
KAFKA_PYTHON = "kafka-python, record by record"
_TOOLS = "org.apache.kafka:kafka-tools:4.3.1+org.slf4j:slf4j-simple:1.7.36"
_HEAP = "512m"
"""What kafka-consumer-perf-test.sh gives."""


def measure(settings: Settings) -> list[Figure]:
    """lz4 and uncompressed."""
    figures: list[Figure] = []
    for codec, least in (("lz4", 1.5), ("none", 1.0)):
        topic = f"bench.consume.{codec}"
        settings.say(f"consume, {codec}: writing {settings.records:,} records")
        call("data:write_impressions", servers=settings.servers, topic=topic, records=settings.records, codec=codec)
        name = "consume into columns, " + ("lz4" if codec == "lz4" else "uncompressed")
        figures += _compared(settings, topic, name, least)
    return figures


def _compared(settings: Settings, topic: str, name: str, least: float) -> list[Figure]:
    columnar, java = in_turn(
        settings.rounds, lambda: _ours(settings, topic), lambda: consumer_performance(settings, topic)
    )
    [slow] = in_turn(max(1, settings.rounds // 2), lambda: _kafka_python(settings, topic))
    unit = "records/s"
    return [
        Figure(name, columnar.rate, unit, JAVA, java.rate, Target("ratio", ">=", least)),
        *costs(name, columnar, JAVA, java),
        Figure(name, columnar.rate, unit, KAFKA_PYTHON, slow.rate, Target("ratio", ">=", 10)),
        *costs(name, columnar, KAFKA_PYTHON, slow),
    ]


def _ours(settings: Settings, topic: str) -> Round:
    return round_of(*call("consume:read_columns", servers=settings.servers, topic=topic, records=settings.records))


def _kafka_python(settings: Settings, topic: str) -> Round:
    count = min(settings.records, settings.slow_records)
    return round_of(*call("consume:read_records", servers=settings.servers, topic=topic, records=count))


def read_columns(servers: str, topic: str, records: int) -> dict[str, float]:
    """Read a topic with `ColumnarConsumer`, with the memory held as in a job."""
    from benchmarks.data import PARTITIONS
    from streamsample.kafka.consumer import ColumnarConsumer
    from streamsample.records import TopicPartition
    from streamsample.runtime.memory import keep_freed_memory

    keep_freed_memory()
    with ColumnarConsumer({"bootstrap_servers": servers}) as consumer:
        sources = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        ends = consumer.end_offsets(sources)
        consumer.assign(sources)
        for source, offset in consumer.beginning_offsets(sources).items():
            consumer.seek(source, offset)
        watch, read = Stopwatch(), 0
        while any((consumer.position(source) or 0) < ends[source] for source in sources):
            read += sum(len(batch) for batch in consumer.poll(100))
        figures = watch.figures(read)
    assert read == records, f"read {read} records of {records}"
    return figures


def read_records(servers: str, topic: str, records: int) -> dict[str, float]:
    """Read that many records of a topic with kafka-python's own consumer."""
    from kafka import KafkaConsumer, TopicPartition

    from benchmarks.data import PARTITIONS

    consumer: Any = KafkaConsumer(
        bootstrap_servers=servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    watch, read = Stopwatch(), 0
    while read < records:
        read += sum(len(each) for each in consumer.poll(timeout_ms=1000, max_records=5000).values())
    figures = watch.figures(read)
    consumer.close()
    return figures


def consumer_performance(settings: Settings, topic: str) -> Round:
    """The Java client's rate while it fetches: neither its start nor its joining the group counts."""
    from streamsample.kafka.java import java_classpath, java_executable

    java = [
        str(java_executable()),
        f"-Xmx{_HEAP}",
        "--enable-native-access=ALL-UNNAMED",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    ]
    tool = ["-cp", java_classpath(_TOOLS), "org.apache.kafka.tools.ConsumerPerformance"]
    options = ["--bootstrap-server", settings.servers, "--topic", topic, "--num-records", str(settings.records)]
    return parse_consumer_performance(run([*java, *tool, *options]))


def parse_consumer_performance(finished: Finished) -> Round:
    """Its output: a line of names and a line of numbers. Raises Failed."""
    rows = [[cell.strip() for cell in line.split(",")] for line in finished.output.splitlines() if "," in line]
    if len(rows) < 2:
        raise Failed(f"ConsumerPerformance told:\n{finished.output}")
    told = dict(zip(rows[0], rows[-1], strict=False))
    records = int(told["data.consumed.in.nMsg"])
    seconds = float(told["fetch.time.ms"]) / 1000
    return Round(records / seconds, finished.cpu_seconds, finished.peak_bytes, records)
