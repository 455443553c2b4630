"""Producers for tests, and what a reader sees of them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import SystemClock
from streamsample.errors import (
    TransactionFailedError,
)
from streamsample.kafka.producer import TransactionalProducer
from streamsample.kafka.topics import TopicAdmin, TopicLimits
from streamsample.kafka.transaction import ProducerSettings
from streamsample.records import Spans, TopicPartition
from tests.conftest import Broker

REPOSITORY = Path(__file__).parents[2]
NOW_MS = 1_700_000_000_000
QUICK = ProducerSettings(
    transaction_timeout_ms=6_000,
    delivery_timeout_ms=1_500,
    request_timeout_ms=1_000,
    commit_timeout_ms=2_000,
    abort_timeout_ms=1_000,
    start_timeout_ms=15_000,
)
Make = Callable[..., TransactionalProducer]


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def new_producer(
    address: str, settings: ProducerSettings = QUICK, transactional_id: str = "", limits: TopicLimits | None = None
) -> TransactionalProducer:
    admin = TopicAdmin({"bootstrap_servers": address})
    return TransactionalProducer(
        {"bootstrap_servers": address},
        transactional_id or f"test.{uuid.uuid4().hex}",
        limits=admin.limits if limits is None else lambda topic: limits,
        clock=SystemClock(),
        settings=settings,
    )


@pytest.fixture
def make(broker: Broker) -> Iterator[Make]:
    """Producers on the session's broker, closed at the end."""
    made: list[TransactionalProducer] = []

    def build(settings: ProducerSettings = QUICK, **others: Any) -> TransactionalProducer:
        made.append(new_producer(broker.bootstrap_servers, settings, **others))
        return made[-1]

    yield build
    for producer in made:
        producer.close()


def rows(values: list[bytes | None], keys: list[bytes | None] | None = None, time_ms: int = NOW_MS) -> tuple[Any, ...]:
    """timestamps, keys, values."""
    times = np.full(len(values), time_ms, np.int64)
    return times, Spans.of(keys or [None] * len(values)), Spans.of(values)


def read_all(address: str, topic: str, isolation: str = "read_committed") -> list[Any]:
    """All records of the topic up to its present end, by partition and offset. An open transaction is waited for."""
    consumer = KafkaConsumer(bootstrap_servers=address, isolation_level=isolation, enable_auto_commit=False)
    try:
        sources = [KafkaTopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(sources)
        consumer.seek_to_beginning()
        admin = TopicAdmin({"bootstrap_servers": address})
        ends = admin.latest([TopicPartition(*source) for source in sources])
        admin.close()
        found: list[Any] = []

        def complete() -> bool:
            for records in consumer.poll(100).values():
                found.extend(records)
            return all(consumer.position(source) >= ends[TopicPartition(*source)] for source in sources)

        until(complete)
        return sorted(found, key=lambda record: (record.partition, record.offset))
    finally:
        consumer.close()


def visible(address: str, topic: str) -> list[bytes]:
    return [record.value for record in read_all(address, topic)]


def committed_position(address: str, group: str, source: TopicPartition) -> tuple[int, str] | None:
    consumer = KafkaConsumer(
        bootstrap_servers=address, group_id=group, enable_auto_commit=False, isolation_level="read_committed"
    )
    try:
        found = consumer.committed(KafkaTopicPartition(*source), metadata=True)
        return None if found is None else (found.offset, found.metadata)
    finally:
        consumer.close()


def assert_dead(producer: TransactionalProducer, topic: str) -> None:
    for call in (
        producer.begin,
        producer.commit,
        producer.abort,
        producer.flush,
        lambda: producer.partitions(topic),
        lambda: producer.send(topic, 0, *rows([b"x"])),
        lambda: producer.send_partitioned(topic, *rows([b"x"])),
    ):
        with pytest.raises(TransactionFailedError, match="was discarded"):
            call()
    producer.close()
