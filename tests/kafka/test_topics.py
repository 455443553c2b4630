from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from kafka import KafkaProducer

from streamsample.errors import KafkaSideError, TopicError
from streamsample.kafka.topics import INTERNAL_CONFIGS, TopicAdmin, TopicLimits, TopicSpec
from streamsample.records import TopicPartition
from tests.conftest import Broker, MakeTopic, unique_name


@pytest.fixture
def admin(broker: Broker) -> Iterator[TopicAdmin]:
    held = TopicAdmin({"bootstrap_servers": broker.bootstrap_servers})
    yield held
    held.close()


def send(broker: Broker, topic: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for _ in range(count):
        producer.send(topic, b"x", partition=0)
    producer.close(10)


def test_a_topic_is_described(admin: TopicAdmin, make_topic: MakeTopic) -> None:
    plain = make_topic(3, config={"retention.ms": str(7 * 86_400_000)})
    special = make_topic(
        1,
        config={
            "retention.ms": "86400000",
            "max.message.bytes": "5000",
            "message.timestamp.after.max.ms": "7000",
            "message.timestamp.before.max.ms": "9000",
        },
    )
    compacted = make_topic(1, config={"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"})
    found = admin.describe([plain, special, compacted, plain])
    assert {name: topic.partitions for name, topic in found.items()} == {plain: 3, special: 1, compacted: 1}
    assert found[plain].limits == TopicLimits()
    assert found[plain].retention_ms == 7 * 86_400_000
    assert found[plain].replication_factor == 1
    assert found[special].retention_ms == 86_400_000
    assert found[special].limits == TopicLimits(5_000, 7_000, 9_000)
    assert found[special].limits.timestamps_at(100_000) == (91_000, 107_000)
    assert found[compacted].retention_ms is None
    assert found[compacted].cleanup_policy == {"compact"}
    assert found[compacted].stamped_by_broker
    assert found[compacted].limits.timestamps_at(0) == (-1, 2**63 - 1)
    assert admin.describe([]) == {}


def test_a_missing_topic_is_named_with_the_command_that_makes_it(admin: TopicAdmin, broker: Broker) -> None:
    assert admin.find("no.such.topic") is None
    with pytest.raises(TopicError, match=r"topic no\.such\.topic does not exist") as caught:
        admin.describe(["no.such.topic"])
    assert caught.value.remedy == (
        f"kafka-topics.sh --bootstrap-server {broker.bootstrap_servers} --create --topic no.such.topic --partitions 4"
    )
    with pytest.raises(TopicError):
        admin.limits("no.such.topic")
    with pytest.raises(TopicError):
        admin.latest([TopicPartition("no.such.topic", 0)])


def test_limits_are_remembered(admin: TopicAdmin, make_topic: MakeTopic) -> None:
    topic = make_topic(1)
    first = admin.limits(topic)
    assert admin.limits(topic) is first
    admin.forget()
    assert admin.limits(topic) == first


def test_internal_topics_are_made_once_by_whoever_comes_first(
    admin: TopicAdmin, broker: Broker, request: pytest.FixtureRequest
) -> None:
    spec = TopicSpec.internal(unique_name(request, "changelog"), 3)
    failures: list[BaseException] = []

    def worker() -> None:
        try:
            own = TopicAdmin({"bootstrap_servers": broker.bootstrap_servers})
            assert own.ensure(spec).partitions == 3
            own.close()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=worker) for _ in range(4)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(30)
    assert failures == []
    made = admin.ensure(spec)
    assert made.retention_ms is None
    assert INTERNAL_CONFIGS.items() <= made.configs.items()


def test_another_shape_is_refused(admin: TopicAdmin, make_topic: MakeTopic) -> None:
    topic = make_topic(2, config={"retention.ms": "1000"})
    with pytest.raises(TopicError, match="has 2 partitions, 3 are needed"):
        admin.ensure(TopicSpec(topic, 3))
    with pytest.raises(TopicError, match=r"has retention\.ms=1000 - .*--add-config retention\.ms=-1$"):
        admin.ensure(TopicSpec.internal(topic, 2))
    assert admin.ensure(TopicSpec(topic, 2, {"retention.ms": "1000"})).partitions == 2


def test_a_topic_that_the_broker_refuses_to_make(admin: TopicAdmin) -> None:
    with pytest.raises(TopicError, match=r"was not created: .* - kafka-topics\.sh .*--config retention\.ms=soon"):
        admin.ensure(TopicSpec(f"refused.{uuid.uuid4().hex}", 1, {"retention.ms": "soon"}))
    with pytest.raises(TopicError, match="was not created"):
        admin.ensure(TopicSpec("not a name", 1))


def test_offsets_and_deleted_records(admin: TopicAdmin, broker: Broker, topic: str) -> None:
    source, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert admin.latest([]) == {}
    send(broker, topic, 10)
    assert admin.earliest([source, empty]) == {source: 0, empty: 0}
    assert admin.latest([source, empty]) == {source: 10, empty: 0}
    assert admin.delete_records(source, 4) == 4
    assert admin.delete_records(source, 4) == 4
    assert admin.earliest([source]) == {source: 4}
    with pytest.raises(TopicError, match=r"/0: records before 11 were not deleted"):
        admin.delete_records(source, 11)
    with pytest.raises(TopicError):
        admin.latest([TopicPartition(topic, 17)])


def test_an_open_transaction_holds_the_last_stable_offset_back(admin: TopicAdmin, broker: Broker, topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"open.{topic}")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"x", partition=0).get(10)
    source = TopicPartition(topic, 0)
    assert admin.latest([source]) == {source: 1}
    assert admin.latest([source], committed=True) == {source: 0}
    producer.abort_transaction()
    producer.close(10)


def test_topics_are_deleted(admin: TopicAdmin, make_topic: MakeTopic) -> None:
    topics = [make_topic(1, word="a"), make_topic(1, word="b")]
    admin.limits(topics[0])
    admin.delete([*topics, "no.such.topic"])
    assert [admin.find(topic) for topic in topics] == [None, None]
    with pytest.raises(TopicError):
        admin.limits(topics[0])


def test_a_cluster_that_does_not_answer(broker: Broker) -> None:
    begun = time.monotonic()
    away = TopicAdmin({"bootstrap_servers": "127.0.0.1:9"}, timeout_ms=500)
    with pytest.raises(KafkaSideError, match=r"topic t: .* - check that 127\.0\.0\.1:9 can be reached"):
        away.find("t")
    assert time.monotonic() - begun < 5
    away.close()
