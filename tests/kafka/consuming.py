"""What the consumer's tests share: writing by kafka-python, reading to an end, waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaTopicPartition

from streamsample.kafka.consumer import ColumnarConsumer
from streamsample.records import RecordBatch, TopicPartition
from tests.kafka.batches import Record, records_of

SECONDS = 30


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
    raise AssertionError(f"not within {seconds} s: {what}")


@contextmanager
def producer(servers: str, **options: Any) -> Iterator[KafkaProducer]:
    made = KafkaProducer(bootstrap_servers=servers, retry_backoff_ms=5, **options)
    try:
        yield made
    finally:
        made.close(timeout=5)


def write(servers: str, topic: str, records: Iterable[Record], partition: int = 0, **options: Any) -> None:
    """Write in one go; offsets are as the broker gives them."""
    with producer(servers, **options) as made:
        send(made, topic, records, partition)
        made.flush(timeout=SECONDS)


def send(made: KafkaProducer, topic: str, records: Iterable[Record], partition: int = 0) -> None:
    for record in records:
        made.send(
            topic,
            record.value,
            record.key,
            headers=record.headers,
            partition=partition,
            timestamp_ms=record.timestamp,
        )


def some(count: int, word: str = "v") -> list[Record]:
    """Records of all kinds: null and empty keys and values, headers."""
    return [
        Record(
            i,
            1_700_000_000_000 + i,
            [b"k%d" % i, None, b""][i % 3],
            [b"%s-%d" % (word.encode(), i), b"", b"long " * 100, None][i % 4] if i % 3 == 0 else b"%d" % i,
            [("h", b"%d" % i), ("é", b"")] if i % 5 == 0 else [],
        )
        for i in range(count)
    ]


def read(consumer: ColumnarConsumer, *partitions: TopicPartition, seconds: float = SECONDS) -> list[RecordBatch]:
    """Poll until all are caught up."""
    batches: list[RecordBatch] = []
    deadline = time.monotonic() + seconds
    while not all(consumer.caught_up(each) for each in partitions):
        assert time.monotonic() < deadline, [(each, consumer.position(each)) for each in partitions]
        batches += consumer.poll(100)
    return batches


def records(batches: Iterable[RecordBatch], partition: TopicPartition) -> list[Record]:
    return [record for batch in batches if batch.source == partition for record in records_of(batch)]


def read_by_library(servers: str, partition: TopicPartition, end: int, start: int = 0) -> list[Record]:
    """What kafka-python's own consumer reads up to the position `end`."""
    tp = KafkaTopicPartition(*partition)
    consumer = KafkaConsumer(
        bootstrap_servers=servers, isolation_level="read_committed", enable_auto_commit=False, group_id=None
    )
    found: list[Record] = []
    try:
        consumer.assign([tp])
        consumer.seek(tp, start)
        deadline = time.monotonic() + SECONDS
        while consumer.position(tp) < end:
            assert time.monotonic() < deadline
            for record in consumer.poll(100).get(tp, ()):
                found.append(Record(record.offset, record.timestamp, record.key, record.value, record.headers))
    finally:
        consumer.close()
    return found


@contextmanager
def reading(servers: str, *partitions: TopicPartition, start: int = 0, **options: Any) -> Iterator[ColumnarConsumer]:
    """A consumer without a group, at `start` of each partition."""
    with ColumnarConsumer({"bootstrap_servers": servers}, **options) as consumer:
        consumer.assign(partitions)
        for each in partitions:
            consumer.seek(each, start)
        yield consumer
