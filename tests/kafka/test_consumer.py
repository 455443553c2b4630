"""The columnar consumer on a real broker: the same records as kafka-python's, positions, limits, errors."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.errors import (
    CorruptRecordError,
    RetentionError,
    TopicError,
)
from streamsample.kafka.broker import LocalBroker
from streamsample.kafka.consumer import ColumnarConsumer, FetchLimits
from streamsample.kafka.fetcher import ColumnarFetcher
from streamsample.kafka.java import java_classpath, java_executable
from streamsample.records import TopicPartition
from tests.conftest import Broker, MakeTopic, create_topic
from tests.kafka.batches import Record, make_batch, make_old
from tests.kafka.consuming import (
    producer,
    read,
    read_by_library,
    reading,
    records,
    send,
    some,
    until,
    write,
)


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_reads_what_was_written(broker: Broker, make_topic: MakeTopic, codec: str | None) -> None:
    part = TopicPartition(make_topic(1), 0)
    written = some(2000)
    write(broker.bootstrap_servers, part.topic, written, compression_type=codec)
    with reading(broker.bootstrap_servers, part) as consumer:
        assert records(read(consumer, part), part) == written
        assert consumer.position(part) == consumer.high_watermark(part) == 2000
    assert read_by_library(broker.bootstrap_servers, part, 2000) == written


@pytest.mark.parametrize("start", [1, 777, 1999, 2000])
def test_starts_inside_a_batch(broker: Broker, make_topic: MakeTopic, start: int) -> None:
    part = TopicPartition(make_topic(1), 0)
    write(broker.bootstrap_servers, part.topic, some(2000), compression_type="lz4", linger_ms=200)
    with reading(broker.bootstrap_servers, part, start=start) as consumer:
        assert records(read(consumer, part), part) == some(2000)[start:]


def test_transactions_committed_and_aborted(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1), 0)
    servers = broker.bootstrap_servers
    with producer(servers, transactional_id=f"{part.topic}.a") as made:
        made.init_transactions()
        for turn in range(6):
            made.begin_transaction()
            send(made, part.topic, some(50, f"turn {turn}"))
            made.flush()
            if turn % 2:
                made.abort_transaction()
            else:
                made.commit_transaction()
        write(servers, part.topic, some(10, "outside"))
        made.begin_transaction()
        send(made, part.topic, some(5, "last"))
        made.flush()
        made.abort_transaction()
    with reading(servers, part) as consumer:
        end = consumer.end_offsets([part])[part]
        found = read(consumer, part)
        assert consumer.position(part) == end == 50 * 6 + 6 + 10 + 5 + 1 == 322
    assert records(found, part) == read_by_library(servers, part, end)
    assert len(records(found, part)) == 160
    assert found[-1].next_offset == end


def test_a5_caught_up_is_the_high_watermark_not_the_last_stable_offset(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1), 0)
    write(broker.bootstrap_servers, part.topic, some(3))
    with reading(broker.bootstrap_servers, part) as consumer:
        assert not consumer.caught_up(part)
        read(consumer, part)
        consumer.pause([part])
        assert not consumer.caught_up(part)
        consumer.resume([part])
        with producer(broker.bootstrap_servers, transactional_id=part.topic) as made:
            made.init_transactions()
            made.begin_transaction()
            send(made, part.topic, some(2))
            made.flush()
            until(lambda: (consumer.poll(50), consumer.high_watermark(part) == 5)[1], "the open transaction is seen")
            assert consumer.position(part) == 3
            assert not consumer.caught_up(part)
            assert consumer.end_offsets([part]) == {part: 5}
            made.commit_transaction()
        assert len(records(read(consumer, part), part)) == 2
        assert consumer.position(part) == 6
        consumer.seek(part, 0)
        assert not consumer.caught_up(part)
        assert len(records(read(consumer, part), part)) == 5


def test_a5_silence_is_confirmed_by_an_answer(broker: Broker, make_topic: MakeTopic) -> None:
    """In a fetch session a silent partition is left out of the answers; each of them confirms it all the same."""
    topic = make_topic(3)
    parts = [TopicPartition(topic, number) for number in range(3)]
    write(broker.bootstrap_servers, topic, some(3), partition=1)
    with reading(broker.bootstrap_servers, *parts) as consumer:
        assert not any(consumer.caught_up(each) for each in parts)
        read(consumer, *parts)
        for turn in range(5):
            write(broker.bootstrap_servers, topic, some(3), partition=2)
            while consumer.position(parts[2]) != 3 * turn + 3:
                consumer.poll(50)
            assert consumer.caught_up(parts[0])
            assert consumer.caught_up(parts[1])
            read(consumer, *parts)


def test_batches_of_the_java_producer(broker: Broker, make_topic: MakeTopic, tmp_path: Path) -> None:
    part = TopicPartition(make_topic(1), 0)
    lines = [f"line {number} ".encode() * (number % 7 + 1) for number in range(500)]
    (tmp_path / "payloads").write_bytes(b"\n".join(lines))
    java = [str(java_executable()), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    java += ["-cp", java_classpath("org.apache.kafka:kafka-tools:4.3.1"), "org.apache.kafka.tools.ProducerPerformance"]
    java += ["--topic", part.topic, "--num-records", "3000", "--throughput", "-1"]
    java += ["--payload-file", str(tmp_path / "payloads"), "--producer-props"]
    codecs = ["snappy", "zstd"]
    running = [
        subprocess.Popen(
            [*java, f"bootstrap.servers={broker.bootstrap_servers}", f"compression.type={codec}", "linger.ms=5"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for codec in codecs
    ]
    assert [each.wait(120) for each in running] == [0] * len(codecs)
    with reading(broker.bootstrap_servers, part) as consumer:
        found = records(read(consumer, part), part)
    assert len(found) == 3000 * len(codecs)
    assert {record.value for record in found} == set(lines)
    assert found == read_by_library(broker.bootstrap_servers, part, len(found))


def test_decodes_no_more_at_a_time_than_the_limit(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1), 0)
    written = [Record(i, i + 1, None, b"x" * 5000) for i in range(2000)]
    write(broker.bootstrap_servers, part.topic, written, compression_type="gzip", batch_size=100_000, linger_ms=50)
    with reading(broker.bootstrap_servers, part, limits=FetchLimits(decoded=1 << 20)) as consumer:
        found = read(consumer, part)
        assert records(found, part) == written
        assert len(found) > 5
        assert max(len(batch.values.buffer) for batch in found) < 3 << 20
        consumer.seek(part, 1500)
        consumer.poll(5000)
        at = consumer.position(part)
        assert at is not None
        assert 1500 < at < 2000
        consumer.pause([part])
        assert consumer.poll(300) == []
        consumer.seek(part, 3)  # what waits is forgotten
        consumer.resume([part])
        assert records(read(consumer, part), part) == written[3:]


def test_a_paused_partition_waits_and_others_go_on(broker: Broker, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for part in (first, second):
        write(broker.bootstrap_servers, topic, some(10), partition=part.partition)
    with reading(broker.bootstrap_servers, first, second) as consumer:
        consumer.pause([first])
        assert consumer.paused() == {first}
        assert records(read(consumer, second), first) == []
        assert consumer.position(first) == 0
        consumer.resume([first])
        assert records(read(consumer, first), first) == some(10)


def test_a_batch_larger_than_the_fetch_comes_all_the_same(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1, config={"max.message.bytes": str(20 << 20)}), 0)
    written = [Record(0, 1, None, b"y" * (10 << 20)), Record(1, 2, None, b"z")]
    write(broker.bootstrap_servers, part.topic, written, max_request_size=20 << 20)
    limits = FetchLimits(partition=1000, request=2000)
    with reading(broker.bootstrap_servers, part, limits=limits) as consumer:
        assert records(read(consumer, part), part) == written


def test_assign_starts_nothing_before_a_seek(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1), 0)
    write(broker.bootstrap_servers, part.topic, some(1))
    with ColumnarConsumer({"bootstrap_servers": broker.bootstrap_servers}) as consumer:
        consumer.assign([part])
        assert consumer.assignment() == {part}
        assert (consumer.poll(300), consumer.position(part), consumer.caught_up(part)) == ([], None, False)
        consumer.seek(part, 0)
        assert len(records(read(consumer, part), part)) == 1
        consumer.assign([])
        assert (consumer.assignment(), consumer.position(part)) == (set(), None)


def test_offsets_of_a_log(broker: Broker, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    part, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
    now = int(time.time() * 1000)
    stamps = [now - 50, now - 10, now - 30]
    for stamp in stamps:  # one batch each
        write(broker.bootstrap_servers, topic, [Record(0, stamp, None, b"v")])
    with ColumnarConsumer({"bootstrap_servers": broker.bootstrap_servers}) as consumer:
        assert consumer.beginning_offsets([part, empty]) == {part: 0, empty: 0}
        assert consumer.end_offsets([part, empty]) == {part: 3, empty: 0}
        assert consumer.offsets_for_times({part: now - 40, empty: 0}) == {part: 1, empty: None}
        assert consumer.offsets_for_times({part: now}) == {part: None}
        assert consumer.max_timestamps([part, empty]) == {part: (1, now - 10), empty: None}
        with producer(broker.bootstrap_servers, transactional_id=topic) as made:
            made.init_transactions()
            made.begin_transaction()
            send(made, topic, [Record(0, now, None, b"open")])
            made.flush()
            assert consumer.end_offsets([part]) == {part: 4}
            assert consumer.offsets_for_times({part: now}) == {part: 3}
            assert consumer.max_timestamps([part]) == {part: (1, now - 10)}
            made.commit_transaction()
        until(lambda: consumer.max_timestamps([part]) == {part: (3, now)}, "the transaction is committed")


def test_a5_the_largest_timestamp_is_never_that_of_a_marker(broker: Broker, make_topic: MakeTopic) -> None:
    """The broker answers with the wall clock of the transaction's marker, which would settle rows far too early."""
    topic = make_topic(1)
    part = TopicPartition(topic, 0)
    with producer(broker.bootstrap_servers, transactional_id=topic) as made:
        made.init_transactions()
        for stamps, commit in (([5000, 9000, 7000], True), ([99_000], False)):
            made.begin_transaction()
            send(made, topic, [Record(0, stamp, None, b"v") for stamp in stamps])
            made.flush()
            if commit:
                made.commit_transaction()
            else:
                made.abort_transaction()
    with ColumnarConsumer({"bootstrap_servers": broker.bootstrap_servers}) as consumer:
        until(lambda: consumer.end_offsets([part]) == {part: 6}, "both have ended")
        until(lambda: consumer.max_timestamps([part]) == {part: (1, 9000)}, "the largest of what is committed")


def delete_until(servers: str, part: TopicPartition, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=servers)
    try:
        admin.delete_records({KafkaTopicPartition(*part): offset})
    finally:
        admin.close()


def test_a_deleted_position_is_an_error_and_stays_one(broker: Broker, make_topic: MakeTopic) -> None:
    topic = make_topic(2)
    part, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    write(broker.bootstrap_servers, topic, some(10))
    write(broker.bootstrap_servers, topic, some(4), partition=1)
    delete_until(broker.bootstrap_servers, part, 7)
    with reading(broker.bootstrap_servers, part, other, start=2) as consumer:
        found = []
        with pytest.raises(RetentionError) as caught:
            for _ in range(100):
                found += consumer.poll(100)
        assert f"{topic}/0@2" in str(caught.value)
        assert "up to offset 7" in str(caught.value)
        assert len(records(found, other)) in (0, 2)  # what came before the error was given out
        with pytest.raises(RetentionError) as again:
            consumer.poll(100)
        assert again.value is caught.value
        assert (consumer.position(part), consumer.caught_up(part)) == (2, False)
        consumer.seek(part, 7)
        assert len(records(read(consumer, part), part)) == 3


def test_a_position_beyond_the_log_is_an_error(broker: Broker, make_topic: MakeTopic) -> None:
    part = TopicPartition(make_topic(1), 0)
    write(broker.bootstrap_servers, part.topic, some(2))
    with (
        reading(broker.bootstrap_servers, part, start=5) as consumer,
        pytest.raises(TopicError, match=r"/0@5: not a position of the log, which now goes from 0 to 2"),
    ):
        for _ in range(100):
            consumer.poll(100)


# A broker whose files the test may touch


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="module")
def disk_broker(disk: Path) -> Iterator[LocalBroker]:
    fast = {"log.cleaner.backoff.ms": "100", "log.cleaner.min.cleanable.ratio": "0.001"}
    with LocalBroker(disk, properties=fast) as local:
        yield local


@pytest.mark.parametrize("codec", [None, "lz4"])
def test_stored_damage(disk_broker: LocalBroker, disk: Path, codec: str | None) -> None:
    """kafka-python would raise once and then spin: here what comes before is read, then always the same error."""
    servers = disk_broker.bootstrap_servers
    topic = create_topic(servers, f"damaged-{codec}", 2)
    part, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    for turn in range(3):
        write(servers, topic, some(10, f"{turn}"), compression_type=codec, linger_ms=100)
    write(servers, topic, some(10), partition=1)
    segment = disk / "data" / f"{topic}-0" / f"{0:020d}.log"
    stored = bytearray(segment.read_bytes())
    size = int.from_bytes(stored[8:12], "big") + 12
    stored[size + 70] ^= 0x40  # inside the second batch
    segment.write_bytes(stored)
    with reading(servers, part, other) as consumer:
        found = []
        with pytest.raises(CorruptRecordError) as caught:
            for _ in range(100):
                found += consumer.poll(100)
        assert (caught.value.topic, caught.value.partition, caught.value.offset) == (topic, 0, 10)
        assert records(found, part) == some(10, "0")
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(CorruptRecordError) as again:
                consumer.poll(5000)
            assert again.value is caught.value
        assert time.monotonic() - began < 1
        assert (consumer.position(part), consumer.caught_up(part)) == (10, False)
        consumer.seek(part, 20)
        assert [each[1:] for each in records(read(consumer, part, other), part)] == [each[1:] for each in some(10, "2")]


def test_an_answer_without_a_whole_batch(
    broker: Broker, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage of a length on the way. The library would raise an error that names no partition."""
    part = TopicPartition(make_topic(1), 0)
    write(broker.bootstrap_servers, part.topic, some(10), linger_ms=100)
    handle = ColumnarFetcher._handle_fetch_response

    def damaging(self: ColumnarFetcher, node: int, offsets: dict[object, int], sent: float, response: Any) -> None:
        for topic in response.responses:
            for answer in topic.partitions:
                if answer.records:
                    answer.records = answer.records[:10] + b"\xff" + answer.records[11:]
        handle(self, node, offsets, sent, response)

    monkeypatch.setattr(ColumnarFetcher, "_handle_fetch_response", damaging)
    with reading(broker.bootstrap_servers, part) as consumer:
        for _ in range(3):
            with pytest.raises(CorruptRecordError, match="/0@0: no complete batch"):
                for _ in range(50):
                    consumer.poll(100)


def test_old_formats_take_the_librarys_way(
    broker: Broker, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers of today do not write them; a disk may hold them still."""
    part = TopicPartition(make_topic(1), 0)
    kept = [Record(i, 5000 + i, b"k%d" % i, b"v%d" % i) for i in range(8)]
    stored = make_old(1, kept[:2]) + make_old(1, kept[2:5], codec=1) + make_batch(kept[5:], epoch=0)
    write(broker.bootstrap_servers, part.topic, some(8), linger_ms=100)
    handle = ColumnarFetcher._handle_fetch_response
    damage = [False]

    def ageing(self: ColumnarFetcher, node: int, offsets: dict[object, int], sent: float, response: Any) -> None:
        for topic in response.responses:
            for answer in topic.partitions:
                if answer.records:
                    answer.records = stored[:-1] + b"?" if damage[0] else stored
        handle(self, node, offsets, sent, response)

    monkeypatch.setattr(ColumnarFetcher, "_handle_fetch_response", ageing)
    with reading(broker.bootstrap_servers, part) as consumer:
        assert records(read(consumer, part), part) == kept
        damage[0] = True
        consumer.seek(part, 1)
        found = []
        with pytest.raises(CorruptRecordError, match="/0@5"):
            for _ in range(50):
                found += consumer.poll(100)
        assert records(found, part) == kept[1:5]


def test_a_compacted_topic(disk_broker: LocalBroker) -> None:
    servers = disk_broker.bootstrap_servers
    config = {"cleanup.policy": "compact", "segment.ms": "1", "min.cleanable.dirty.ratio": "0.001"}
    part = TopicPartition(create_topic(servers, "compacted", 1, config), 0)
    for turn in range(6):
        written = [Record(0, 1000 * turn + i, b"k%d" % (i % 7), b"%d.%d" % (turn, i)) for i in range(20)]
        write(servers, part.topic, written, compression_type="lz4" if turn % 2 else None, linger_ms=50)

    def compacted() -> bool:
        with reading(servers, part) as consumer:
            return len(records(read(consumer, part), part)) <= 30

    until(compacted, "the broker compacts")
    with reading(servers, part) as consumer:
        found = records(read(consumer, part), part)
        assert consumer.position(part) == 120
    expected = read_by_library(servers, part, 120)
    assert found[-7:] == expected[-7:]
    assert {record.key for record in found} == {b"k%d" % i for i in range(7)}
    assert [record.offset for record in found] != list(range(120))
