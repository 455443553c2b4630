"""Produce from columns, in transactions, beside kafka-python's producer. For information: it has no target."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from benchmarks.processes import Stopwatch, call
from benchmarks.results import Figure
from benchmarks.settings import Round, Settings, costs, in_turn, round_of

KAFKA_PYTHON = "kafka-python, record by record"
_TRANSACTION_RECORDS = 500_000
_NUMBERS = itertools.count()


def measure(settings: Settings) -> list[Figure]:
    """lz4 and uncompressed."""
    figures: list[Figure] = []
    for codec in ("lz4", "none"):
        name = "produce from columns, " + ("lz4" if codec == "lz4" else "uncompressed")
        settings.say(name)
        columnar, slow = in_turn(settings.rounds, partial(_ours, settings, codec), partial(_theirs, settings, codec))
        figures.append(Figure(name, columnar.rate, "records/s", KAFKA_PYTHON, slow.rate))
        figures += costs(name, columnar, KAFKA_PYTHON, slow)
    return figures


def _new_topic() -> str:
    """Each run has its own: a topic made anew under the name of a deleted one confuses kafka-python's producer."""
    return f"bench-produce-{next(_NUMBERS)}"


def _ours(settings: Settings, codec: str) -> Round:
    count = min(settings.records, 2_000_000)
    return round_of(
        *call("produce:write_columns", servers=settings.servers, topic=_new_topic(), records=count, codec=codec)
    )


def _theirs(settings: Settings, codec: str) -> Round:
    count = min(settings.records, settings.slow_records)
    return round_of(
        *call("produce:write_records", servers=settings.servers, topic=_new_topic(), records=count, codec=codec)
    )


def _prepared(servers: str, topic: str, records: int) -> tuple[Any, Any, Any, Any]:
    """A new topic, and times, ids and values to write to it."""
    import numpy as np

    from benchmarks import data
    from streamsample.kafka.topics import TopicAdmin, TopicSpec

    admin = TopicAdmin({"bootstrap_servers": servers})
    admin.ensure(TopicSpec(topic, data.PARTITIONS, data.FOR_EVER))
    numbers = np.arange(records)
    times = data.serving_times(numbers, records, 600_000)
    parts = [numbers[at : at + 200_000] for at in range(0, records, 200_000)]
    ids = np.concatenate([data.impression_ids(part) for part in parts])
    return admin, times, ids, np.concatenate([data.impressions(part, times[part]) for part in parts])


def write_columns(servers: str, topic: str, records: int, codec: Any) -> dict[str, float]:
    """Write with `TransactionalProducer`; the commits count."""
    from benchmarks import data
    from streamsample.clock import SystemClock
    from streamsample.kafka.producer import TransactionalProducer
    from streamsample.kafka.transaction import ProducerSettings

    admin, times, ids, values = _prepared(servers, topic, records)
    producer = TransactionalProducer(
        {"bootstrap_servers": servers},
        topic,
        limits=admin.limits,
        clock=SystemClock(),
        settings=ProducerSettings(codec=codec),
    )
    keys, bodies = data.spans(ids), data.spans(values)
    watch = Stopwatch()
    for begin in range(0, records, _TRANSACTION_RECORDS):
        rows = slice(begin, begin + _TRANSACTION_RECORDS)
        producer.begin()
        producer.send_partitioned(topic, times[rows], _part(keys, rows), _part(bodies, rows))
        producer.commit()
    figures = watch.figures(records)
    producer.close()
    return figures


def _part(spans: Any, rows: slice) -> Any:
    from streamsample.records import Spans

    return Spans(spans.buffer, spans.start[rows], spans.size[rows])


def write_records(servers: str, topic: str, records: int, codec: str) -> dict[str, float]:
    """Write with kafka-python's producer, in one transaction."""
    from kafka import KafkaProducer

    from benchmarks import data

    _, times, ids, values = _prepared(servers, topic, records)
    keys = [key.tobytes() for key in ids]
    bodies = [value.tobytes() for value in values]
    stamps = times.tolist()
    producer: Any = KafkaProducer(
        bootstrap_servers=servers,
        transactional_id=topic,
        compression_type=None if codec == "none" else codec,
        batch_size=data.BATCH_BYTES,
        linger_ms=20,
    )
    producer.init_transactions()
    watch = Stopwatch()
    producer.begin_transaction()
    for key, body, stamp in zip(keys, bodies, stamps, strict=True):
        producer.send(topic, key=key, value=body, timestamp_ms=stamp)
    producer.commit_transaction()
    figures = watch.figures(records)
    producer.close()
    return figures
