"""How far topics are, asked on a thread beside the worker's loop."""

from __future__ import annotations

import pytest
from kafka import KafkaProducer

from streamsample.clock import SystemClock
from streamsample.errors import KafkaSideError
from streamsample.formats.json_values import JsonProjector
from streamsample.formats.projection import Field
from streamsample.records import TopicPartition
from streamsample.runtime.follow import Answer, Follower, TopicClock
from streamsample.runtime.source import Source
from tests.conftest import Broker, MakeTopic

NEWEST_MS = 1_700_000_009_000


def source_of(topic: str) -> Source:
    return Source(topic, "input", JsonProjector([Field("id", "text")]), "id", None, max_future_ms=60_000)


def test_the_largest_time_and_the_positions_at_an_end(make_topic: MakeTopic, broker: Broker) -> None:
    topic, empty = make_topic(2), make_topic(2, "empty")
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for partition, time_ms in ((0, NEWEST_MS - 5_000), (1, NEWEST_MS), (1, NEWEST_MS - 9_000)):
        producer.send(topic, b'{"id": "x"}', partition=partition, timestamp_ms=time_ms).get(30)
    producer.close()
    follower = Follower(TopicClock({"bootstrap_servers": broker.bootstrap_servers}, SystemClock(), "test"))
    try:
        assert follower.take(wait=True) == []
        at_the_end, before_it = TopicPartition(topic, 0), TopicPartition(topic, 1)
        positions = {source_of(topic): {at_the_end: 1, before_it: 1}, source_of(empty): {TopicPartition(empty, 0): 0}}
        follower.ask(positions, {topic: 2, empty: 2})
        assert follower.asking
        assert follower.take(wait=True) == [Answer(topic, NEWEST_MS, {at_the_end: 1})]
        assert not follower.asking
        assert follower.take() == []
    finally:
        follower.close()


def test_what_asking_raised_is_raised_once() -> None:
    nobody = {"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 300}
    follower = Follower(TopicClock(nobody, SystemClock(), "test"))
    follower.ask({source_of("any"): {TopicPartition("any", 0): 0}}, {"any": 1})
    with pytest.raises(KafkaSideError):
        follower.take(wait=True)
    assert not follower.asking
    assert follower.take(wait=True) == []
    follower.close()
