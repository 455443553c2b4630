from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kafka.errors as kafka_errors
import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.producer.sender import Sender
from kafka.structs import ConsumerGroupMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import ManualClock, SystemClock
from streamsample.errors import (
    FencedError,
    InvariantError,
    KafkaSideError,
    RecordTooLargeError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
    UnsupportedClientError,
)
from streamsample.kafka import producer_seam as seam
from streamsample.kafka import wire_encode as wire
from streamsample.kafka.broker import KAFKA_VERSION, LocalBroker, java_classpath, java_executable
from streamsample.kafka.crash import _Fuse
from streamsample.kafka.producer import CommitResult, ProducerSettings, TransactionalProducer, _translated
from streamsample.kafka.topics import TopicAdmin, TopicLimits
from streamsample.kafka.wire_encode import CODECS, Codec
from streamsample.records import Spans, TopicPartition
from tests.conftest import Broker, MakeTopic

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


# -- what is written -------------------------------------------------------------------------------------


def test_records_of_every_codec_are_read_by_the_java_client(make: Make, topic: str, broker: Broker) -> None:
    wanted = []
    for codec in CODECS:
        producer = make(replace(QUICK, codec=codec))
        values: list[bytes | None] = [f"{codec} {row} ".encode() * 30 for row in range(200)]
        producer.begin()
        producer.send(topic, 0, *rows(values))
        producer.commit()
        wanted += [value.decode() for value in values if value]
    classpath = java_classpath(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}")
    done = subprocess.run(
        [
            *(str(java_executable()), "-cp", classpath, "org.apache.kafka.tools.consumer.ConsoleConsumer"),
            *(
                "--bootstrap-server",
                broker.bootstrap_servers,
                "--topic",
                topic,
                "--partition",
                "0",
                "--offset",
                "earliest",
            ),
            *("--isolation-level", "read_committed", "--max-messages", str(len(wanted)), "--timeout-ms", "20000"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == wanted, done.stderr[-2000:]


@pytest.mark.parametrize("codec", ["none", "gzip", "lz4", "zstd"])
def test_records_are_read_by_kafka_python(make: Make, topic: str, broker: Broker, codec: Codec) -> None:
    producer = make(replace(QUICK, codec=codec))
    headers: list[list[tuple[str, bytes | None]]] = [[("name", b"value"), ("nothing", None)], [], [("ü", b"")]]
    times = np.array([NOW_MS + 5, NOW_MS, NOW_MS + 9])
    values = Spans.of([b"long " * 100, None, b""])
    producer.begin()
    producer.send(
        topic, 1, times, Spans.of([b"k", b"", None]), values, Spans.of(wire.encode_headers(row) for row in headers)
    )
    result = producer.commit()
    assert [
        (r.partition, r.timestamp, r.key, r.value, r.headers) for r in read_all(broker.bootstrap_servers, topic)
    ] == [
        (1, NOW_MS + 5, b"k", b"long " * 100, headers[0]),
        (1, NOW_MS, b"", None, headers[1]),
        (1, NOW_MS + 9, None, b"", headers[2]),
    ]
    assert result.base_offsets(TopicPartition(topic, 1)) == [0]
    assert result.base_offsets(TopicPartition(topic, 0)) == []


def test_keys_go_where_kafka_pythons_own_producer_sends_them(make: Make, topic: str, broker: Broker) -> None:
    from kafka.partitioner.default import murmur2

    producer = make()
    keys: list[bytes | None] = [f"key {row}".encode() for row in range(500)]
    producer.begin()
    producer.send_partitioned(topic, *rows([f"{row}".encode() for row in range(500)], keys))
    producer.send_partitioned(topic, *rows([b"turn"] * 7))
    producer.commit()
    found = read_all(broker.bootstrap_servers, topic)
    keyed = [record for record in found if record.key is not None]
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 4 for record in keyed)
    for partition in range(4):  # In order within a partition.
        numbers = [int(record.value) for record in keyed if record.partition == partition]
        assert numbers == sorted(numbers)
    assert sorted(int(record.value) for record in keyed) == list(range(500))
    turns = [sum(r.partition == number for r in found if r.key is None) for number in range(4)]
    assert turns == [2, 2, 2, 1]


def test_many_batches_keep_their_order_and_tell_their_offsets(make: Make, topic: str, broker: Broker) -> None:
    producer = make(replace(QUICK, batch_bytes=5_000, in_flight_bytes_max=20_000, codec="none"))
    values: list[bytes | None] = [f"{row:06}".encode() * 20 for row in range(3_000)]
    producer.begin()
    producer.send(topic, 2, *rows(values[:2_000]))
    before = producer.flush()
    producer.send(topic, 2, *rows(values[2_000:]))
    result = producer.commit()
    assert [record.value for record in read_all(broker.bootstrap_servers, topic)] == values
    counts = [batch.records for batch in result.delivered]
    assert len(counts) > 50
    assert result.base_offsets(TopicPartition(topic, 2)) == (np.cumsum(counts) - counts).tolist()
    assert result.delivered[: len(before.delivered)] == before.delivered


# -- transactions ----------------------------------------------------------------------------------------


def test_committed_is_visible_and_aborted_is_not(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    source = TopicPartition(topic, 3)
    group = f"group.{topic}"
    for number, ending in enumerate(["commit", "abort", "commit"]):
        producer.begin()
        producer.send(topic, 0, *rows([f"{ending} {number}".encode()]))
        producer.send(topic, 1, *rows([f"{ending} {number}".encode()]))
        if ending == "commit":
            producer.commit({source: (10 + number, f"chunk {number}")}, group)
        else:
            producer.abort()
    assert visible(broker.bootstrap_servers, topic) == [b"commit 0", b"commit 2"] * 2
    assert committed_position(broker.bootstrap_servers, group, source) == (12, "chunk 2")


def test_abort_with_batches_still_on_their_way_leaves_the_producer_usable(
    make: Make, topic: str, broker: Broker
) -> None:
    producer = make(replace(QUICK, batch_bytes=5_000, codec="none"))
    for _ in range(3):
        producer.begin()
        producer.send(topic, 0, *rows([b"gone " * 100] * 2_000))
        producer.abort()
    producer.begin()
    producer.send(topic, 0, *rows([b"stays"]))
    producer.commit()
    assert visible(broker.bootstrap_servers, topic) == [b"stays"]


def test_offsets_alone_and_nothing_at_all(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    source = TopicPartition(topic, 3)
    producer.begin()
    assert producer.commit({source: (7, "")}, f"group.{topic}") == CommitResult(())
    producer.begin()
    assert producer.commit() == CommitResult(())
    producer.begin()
    producer.send(topic, 0, *rows([]))
    producer.send_partitioned(topic, *rows([]))
    assert producer.commit({}) == CommitResult(())
    producer.begin()
    producer.abort()
    assert committed_position(broker.bootstrap_servers, f"group.{topic}", source) == (7, "")


def test_calls_out_of_order_are_refused(make: Make, topic: str) -> None:
    producer = make()
    with pytest.raises(InvariantError, match="no transaction is open"):
        producer.commit()
    with pytest.raises(InvariantError, match="no transaction is open"):
        producer.send(topic, 0, *rows([b"x"]))
    producer.begin()
    with pytest.raises(InvariantError, match="already open"):
        producer.begin()
    producer.commit()


def test_close_aborts_what_is_open(make: Make, topic: str, broker: Broker) -> None:
    producer = make(replace(QUICK, transaction_timeout_ms=60_000))
    producer.begin()
    producer.send(topic, 0, *rows([b"x"]))
    producer.flush()
    producer.close()
    producer.close()
    assert visible(broker.bootstrap_servers, topic) == []  # Would wait for a minute otherwise.
    assert_dead(producer, topic)


# -- refused before anything is written ------------------------------------------------------------------


def test_a_record_too_large_is_named_and_costs_nothing(make: Make, make_topic: MakeTopic, broker: Broker) -> None:
    topic = make_topic(2, config={"max.message.bytes": "2000"})
    producer = make()
    values: list[bytes | None] = [b"a" * 500, b"b" * 1_900, b"c" * 2_000, b"d", b"e" * 9_000]
    producer.begin()
    producer.send(topic, 0, *rows(values[:2]))
    with pytest.raises(RecordTooLargeError, match=r"row 2 needs 20\d\d bytes, 2000 are allowed") as caught:
        producer.send(topic, 0, *rows(values))
    assert caught.value.row == 2
    keys: list[bytes | None] = [b"k0", b"k1", b"k2", b"k3", b"k4"]
    with pytest.raises(RecordTooLargeError) as caught:
        producer.send_partitioned(topic, *rows(values, keys))
    assert caught.value.row in (2, 4)
    columns = wire.Columns.of(*rows(values))
    assert producer.oversized(topic, columns).tolist() == [2, 4]
    producer.send(topic, 0, *rows(values[3:4]))
    producer.commit()
    assert visible(broker.bootstrap_servers, topic) == [values[0], values[1], values[3]]


def test_a_batch_just_within_the_topics_limit_is_taken(make: Make, make_topic: MakeTopic, broker: Broker) -> None:
    topic = make_topic(1, config={"max.message.bytes": "2000"})
    for codec in ("none", "lz4"):
        producer = make(replace(QUICK, codec=codec))
        noise = np.random.default_rng(3).integers(0, 256, 4_000, np.uint8).tobytes()
        size = next(
            size for size in range(1_999, 0, -1)
            if wire.single_record_bytes(wire.Columns.of(*rows([noise[:size]])), 0) == 2_000
        )  # fmt: skip
        producer.begin()
        producer.send(topic, 0, *rows([noise[:size], b"x"]))
        producer.commit()
    assert len(visible(broker.bootstrap_servers, topic)) == 4


def test_a_timestamp_too_far_ahead_is_refused(make: Make, make_topic: MakeTopic, broker: Broker) -> None:
    now = SystemClock().now_ms()
    hour = 3_600_000
    plain, wide = make_topic(1), make_topic(1, config={"message.timestamp.after.max.ms": str(5 * hour)})
    stamped = make_topic(1, config={"message.timestamp.type": "LogAppendTime"})
    producer = make()
    producer.begin()
    with pytest.raises(TimestampRefusedError, match="further from now") as caught:
        producer.send(plain, 0, np.array([now, now + 2 * hour]), Spans.nulls(2), Spans.of([b"a", b"b"]))
    assert caught.value.row == 1
    with pytest.raises(TimestampRefusedError) as caught:
        producer.send_partitioned(plain, np.array([now, now + 2 * hour]), Spans.nulls(2), Spans.of([b"a", b"b"]))
    assert caught.value.row == 1
    producer.send(plain, 0, *rows([b"ok"], time_ms=now + hour - 60_000))
    producer.send(plain, 0, *rows([b"old"], time_ms=0))
    producer.send(wide, 0, *rows([b"ok"], time_ms=now + 2 * hour))
    producer.send(stamped, 0, *rows([b"ok"], time_ms=now + 99 * hour))
    producer.commit()
    assert [visible(broker.bootstrap_servers, topic) for topic in (plain, wide, stamped)] == [
        [b"ok", b"old"],
        [b"ok"],
        [b"ok"],
    ]


def test_the_injected_clock_decides_what_is_ahead(make: Make, topic: str) -> None:
    producer = make()
    producer._clock = ManualClock(NOW_MS)
    producer.begin()
    with pytest.raises(TimestampRefusedError):
        producer.send(topic, 0, *rows([b"x"], time_ms=NOW_MS + 3_600_001))
    producer.send(topic, 0, *rows([b"x"], time_ms=NOW_MS + 3_600_000))
    producer.abort()


def test_a_missing_topic_and_a_missing_partition(make: Make, topic: str) -> None:
    producer = make()
    producer.begin()
    with pytest.raises(TopicError, match=r"topic no\.such\.topic does not exist - kafka-topics\.sh .*--create"):
        producer.send("no.such.topic", 0, *rows([b"x"]))
    with pytest.raises(TopicError, match="only 4 partitions"):
        producer.send(topic, 4, *rows([b"x"]))
    producer.commit()


# -- failures: nothing becomes visible, and the producer is never used again --------------------------------


def test_a_batch_that_expires_is_not_committed_without(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    producer.begin()
    producer.send(topic, 0, *rows([b"arrives"]))
    producer.flush()
    producer._producer._accumulator.muted.add(KafkaTopicPartition(topic, 1))  # Stands for a slow leader.
    producer.send(topic, 1, *rows([b"is lost"]))
    begun = time.monotonic()
    with pytest.raises(TransactionFailedError, match=rf"1 records for {re.escape(topic)}/1 did not arrive"):
        producer.commit({TopicPartition(topic, 3): (1, "")}, f"group.{topic}")
    assert time.monotonic() - begun < 6
    assert visible(broker.bootstrap_servers, topic) == []
    assert committed_position(broker.bootstrap_servers, f"group.{topic}", TopicPartition(topic, 3)) is None
    assert_dead(producer, topic)


def test_send_waits_for_room_but_not_for_ever(make: Make, topic: str, broker: Broker) -> None:
    producer = make(replace(QUICK, in_flight_bytes_max=10_000, batch_bytes=5_000, codec="none"))
    producer.begin()
    producer.partitions(topic)
    producer._producer._accumulator.muted.add(KafkaTopicPartition(topic, 0))
    begun = time.monotonic()
    with pytest.raises(TransactionFailedError):
        producer.send(topic, 0, *rows([b"x" * 900] * 100))
    assert 1 < time.monotonic() - begun < 6
    assert producer._handed.waiting_bytes <= 10_000
    assert visible(broker.bootstrap_servers, topic) == []
    assert_dead(producer, topic)


def test_after_the_coordinators_time_out_nothing_is_committed(make: Make, topic: str, broker: Broker) -> None:
    short = replace(QUICK, transaction_timeout_ms=1_000, delivery_timeout_ms=900, request_timeout_ms=800)
    producer = make(short)
    producer.begin()
    producer.send(topic, 0, *rows([b"too slow"]))
    producer.flush()
    assert visible(broker.bootstrap_servers, topic) == []  # Returns once the coordinator has aborted.
    with pytest.raises(FencedError):
        producer.commit()
    assert_dead(producer, topic)

    producer = make(short)
    producer.begin()
    producer.send(topic, 1, *rows([b"too slow"]))
    producer.flush()
    assert visible(broker.bootstrap_servers, topic) == []
    with pytest.raises(FencedError):  # The library would begin anew and commit only this.
        producer.send(topic, 1, *rows([b"after"]))
        producer.commit()
    assert visible(broker.bootstrap_servers, topic) == []
    assert_dead(producer, topic)


def test_a_zombie_with_the_same_id_is_fenced_and_harms_nobody(make: Make, topic: str, broker: Broker) -> None:
    shared = f"shared.{topic}"
    zombie = make(transactional_id=shared)
    zombie.begin()
    zombie.send(topic, 0, *rows([b"zombie 1"]))
    zombie.flush()
    owner = make(transactional_id=shared)
    owner.begin()
    owner.send(topic, 0, *rows([b"owner"]))
    owner.flush()
    with pytest.raises(FencedError):
        zombie.send(topic, 0, *rows([b"zombie 2"]))
        zombie.commit()
    owner.commit()
    assert visible(broker.bootstrap_servers, topic) == [b"owner"]
    assert_dead(zombie, topic)


def test_a_group_that_has_moved_on_fences(make: Make, topic: str, broker: Broker) -> None:
    group = f"group.{topic}"
    source = TopicPartition(topic, 0)
    consumer = KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    try:
        until(lambda: bool(consumer.poll(50)) or bool(consumer.assignment()))
        member = consumer.group_metadata()
        assert isinstance(member, ConsumerGroupMetadata)
        for stale in (member._replace(generation_id=member.generation_id + 7), member._replace(member_id="nobody")):
            producer = make()
            producer.begin()
            producer.send(topic, 0, *rows([b"stale"]))
            with pytest.raises(FencedError, match="another worker owns"):
                producer.commit({source: (5, "")}, stale)
            assert_dead(producer, topic)
        producer = make()
        producer.begin()
        producer.send(topic, 0, *rows([b"current"]))
        producer.commit({source: (6, "")}, member)
    finally:
        consumer.close()
    assert visible(broker.bootstrap_servers, topic) == [b"current"]
    assert committed_position(broker.bootstrap_servers, group, source) == (6, "")


def test_what_the_broker_refuses_after_all_does_not_hang(make: Make, make_topic: MakeTopic, broker: Broker) -> None:
    topic = make_topic(1, config={"max.message.bytes": "2000"})
    far_too_wide = TopicLimits(1_000_000, 2**62, 2**62)
    noise = np.random.default_rng(3).integers(0, 256, (20, 1_000), np.uint8)
    producer = make(limits=far_too_wide)
    producer.begin()
    producer.send(topic, 0, *rows([row.tobytes() for row in noise]))
    with pytest.raises(RecordTooLargeError, match="did not arrive"):  # The library would split the batch.
        producer.commit()
    assert_dead(producer, topic)
    producer = make(limits=far_too_wide)
    producer.begin()
    producer.send(topic, 0, *rows([b"x"], time_ms=SystemClock().now_ms() + 7_200_000))
    with pytest.raises(TimestampRefusedError, match="did not arrive"):
        producer.commit()
    assert_dead(producer, topic)
    assert visible(broker.bootstrap_servers, topic) == []


def test_a_broker_killed_and_restarted_amid_a_transaction(module_broker: LocalBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(2, on=module_broker)
    address = module_broker.bootstrap_servers
    producer = new_producer(address, ProducerSettings(codec="none"))
    producer.begin()
    producer.send(topic, 0, *rows([b"before"]))
    producer.flush()
    module_broker.kill()
    producer.send(topic, 1, *rows([b"while it is away"]))
    module_broker.start()
    try:
        producer.send(topic, 0, *rows([b"after"]))
        producer.commit()
        wanted = [b"before", b"after", b"while it is away"]
    except TransactionFailedError:
        wanted = []
        assert_dead(producer, topic)
    producer.close()
    assert visible(address, topic) == wanted
    again = new_producer(address)
    again.begin()
    again.send(topic, 1, *rows([b"again"]))
    again.commit()
    again.close()
    assert visible(address, topic) == [*wanted, b"again"]


def test_a_paused_broker_fails_the_transaction_in_time(module_broker: LocalBroker, make_topic: MakeTopic) -> None:
    topic = make_topic(2, on=module_broker)
    address = module_broker.bootstrap_servers
    short = replace(QUICK, delivery_timeout_ms=700, request_timeout_ms=500, commit_timeout_ms=700, abort_timeout_ms=300)
    longest = (short.delivery_timeout_ms + short.commit_timeout_ms + 2 * short.abort_timeout_ms) / 1000 + 3
    for send_while_paused in (True, False):
        producer = new_producer(address, short)
        producer.begin()
        producer.send(topic, 0, *rows([b"before"]))
        producer.flush()
        module_broker.pause()
        begun = time.monotonic()
        try:
            with pytest.raises(TransactionFailedError):
                if send_while_paused:
                    producer.send(topic, 1, *rows([b"never"]))
                producer.commit({TopicPartition(topic, 0): (1, "")}, f"group.{topic}")
            assert time.monotonic() - begun < longest
        finally:
            module_broker.resume()
        assert_dead(producer, topic)
        assert visible(address, topic) == []


def test_brokers_that_cannot_be_reached() -> None:
    begun = time.monotonic()
    with pytest.raises(KafkaSideError, match=r"127\.0\.0\.1:9"):
        new_producer("127.0.0.1:9", replace(QUICK, start_timeout_ms=1_000))
    assert time.monotonic() - begun < 5


CHILD = """
import sys
from dataclasses import replace
from tests.kafka.test_producer import QUICK, new_producer, rows
address, topic = sys.argv[1:]
settings = replace(QUICK, delivery_timeout_ms=1_100, request_timeout_ms=1_000, transaction_timeout_ms=1_200)
producer = new_producer(address, settings)
for number in range(3):
    producer.begin()
    producer.send(topic, 0, *rows([b"%d" % number]))
    producer.commit()
producer.close()
"""


@pytest.mark.parametrize(
    ("place", "survivors"),
    [("before_produce:2", 1), ("after_flush", 0), ("before_commit:3", 2), ("after_commit:2", 2), ("nowhere", 3)],
)
def test_a_process_killed_at_a_crash_point(topic: str, broker: Broker, place: str, survivors: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, broker.bootstrap_servers, topic],
        env={**os.environ, "STREAMSAMPLE_CRASH_AT": place},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert child.returncode == (0 if place == "nowhere" else -9), child.stderr
    assert visible(broker.bootstrap_servers, topic) == [b"0", b"1", b"2"][:survivors]


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (kafka_errors.ProducerFencedError(), FencedError),
        (kafka_errors.KafkaError(kafka_errors.InvalidProducerEpochError()), FencedError),
        (kafka_errors.KafkaError("Cannot perform send", kafka_errors.ProducerFencedError()), FencedError),
        (kafka_errors.CommitFailedError("generation"), FencedError),
        (kafka_errors.FencedInstanceIdError(), FencedError),
        (kafka_errors.RecordListTooLargeError(), RecordTooLargeError),
        (kafka_errors.InvalidTimestampError(), TimestampRefusedError),
        (kafka_errors.TopicAuthorizationFailedError("t"), TopicError),
        (kafka_errors.TransactionalIdAuthorizationFailedError(), TopicError),
        (kafka_errors.KafkaTimeoutError("late"), TransactionFailedError),
        (kafka_errors.InvalidTxnStateError(), TransactionFailedError),
        (None, TransactionFailedError),
    ],
)
def test_each_foreign_error_is_one_of_ours(foreign: BaseException | None, ours: type[KafkaSideError]) -> None:
    found = _translated(foreign, "commit of job")
    assert type(found) is ours
    assert found.what.startswith("commit of job: ")
    assert found.remedy


@pytest.mark.parametrize("setting", ["name:0", "name:x", "name:-1"])
def test_a_crash_point_is_set_clearly_or_not_at_all(setting: str) -> None:
    with pytest.raises(ValueError, match=r"STREAMSAMPLE_CRASH_AT=name:.*: expected name or name:n"):
        _Fuse(setting)


# -- the seam ----------------------------------------------------------------------------------------------


def test_the_installed_client_is_supported() -> None:
    seam.check_producer_seam()


def test_another_version_of_the_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("3.0.11", "3.1.0", "2.2.15", "4.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        with pytest.raises(
            UnsupportedClientError, match=rf"kafka-python {re.escape(version)} is not .*>=3\.0\.12,<3\.1"
        ):
            seam.check_producer_seam()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.0.13")
    seam.check_producer_seam()


def test_other_internals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(seam._EXPECTED, Sender.force_close, {"_no_such_thing"})
    with pytest.raises(UnsupportedClientError, match=r"Sender\.force_close: _no_such_thing"):
        seam.check_producer_seam()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="transaction timeout 5000 ms does not hold"):
        ProducerSettings(delivery_timeout_ms=5_000, transaction_timeout_ms=5_000)
