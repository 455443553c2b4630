from __future__ import annotations

import subprocess
import threading
from dataclasses import replace

import numpy as np
import pytest

from streamsample.clock import ManualClock, SystemClock
from streamsample.errors import (
    InvariantError,
    RecordTooLargeError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
)
from streamsample.kafka import wire_encode as wire
from streamsample.kafka.broker import KAFKA_VERSION, java_classpath, java_executable
from streamsample.kafka.transaction import CommitResult, Positions
from streamsample.kafka.wire_encode import CODECS, Codec
from streamsample.records import Spans, TopicPartition
from tests.conftest import Broker, MakeTopic
from tests.kafka.producing import (
    NOW_MS,
    QUICK,
    Make,
    assert_dead,
    committed_position,
    read_all,
    rows,
    visible,
)

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


def test_batches_that_do_not_get_small_enough_are_cut_to_what_the_topic_takes(
    make: Make, make_topic: MakeTopic, broker: Broker
) -> None:
    topic = make_topic(1, config={"max.message.bytes": "20000"})
    producer = make(replace(QUICK, batch_bytes=100_000, codec="lz4"))
    small: list[bytes | None] = [b"again and again " * 60] * 200
    dense: list[bytes | None] = [np.random.default_rng(row).bytes(900) for row in range(200)]
    producer.begin()
    producer.send(topic, 0, *rows(small))
    assert [batch.records for batch in producer.flush().delivered] == [103, 97]  # five times what the topic takes
    producer.send(topic, 0, *rows(dense))
    done = producer.flush()
    assert max(batch.records for batch in done.delivered[2:]) == 21
    producer.send(topic, 0, *rows(small))
    assert max(batch.records for batch in producer.commit().delivered[len(done.delivered) :]) == 20
    assert visible(broker.bootstrap_servers, topic) == small + dense + small


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


def test_the_next_transaction_is_written_while_a_commit_is_on_its_way(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    source, group = TopicPartition(topic, 3), f"group.{topic}"
    asked, go_on = threading.Event(), threading.Event()

    def positions(result: CommitResult) -> Positions:
        asked.set()
        assert go_on.wait(10)
        return {source: (result.base_offsets(TopicPartition(topic, 0))[0], "first")}

    producer.begin()
    producer.send(topic, 0, *rows([b"first"]))
    producer.commit_beside(positions, group)
    assert asked.wait(10)
    producer.begin()
    producer.send(topic, 0, *rows([b"second"]))
    assert producer.committed(wait=False) is None
    with pytest.raises(InvariantError, match="a commit is on its way"):
        producer.commit()
    with pytest.raises(InvariantError, match="a commit is on its way"):
        producer.abort()
    go_on.set()
    first = producer.committed(wait=True)
    assert first is not None
    assert [batch.records for batch in first.delivered] == [1]
    assert producer.committed(wait=True) is None  # once
    assert committed_position(broker.bootstrap_servers, group, source) == (0, "first")
    producer.abort()
    producer.begin()
    producer.send(topic, 0, *rows([b"third"]))
    producer.commit()
    assert visible(broker.bootstrap_servers, topic) == [b"first", b"third"]


def test_a_commit_that_fails_takes_the_next_transaction_with_it(make: Make, topic: str, broker: Broker) -> None:
    def positions(result: CommitResult) -> Positions:
        raise TransactionFailedError("no")

    for ask in ("committed", "send", "flush"):
        producer = make()
        producer.begin()
        producer.send(topic, 0, *rows([b"first"]))
        producer.commit_beside(positions)
        producer.begin()
        with pytest.raises(TransactionFailedError, match="no"):
            if ask == "committed":
                producer.committed(wait=True)
            while ask == "send":
                producer.send(topic, 0, *rows([b"second"]))
            producer.flush()
        assert_dead(producer, topic)
    assert visible(broker.bootstrap_servers, topic) == []


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


# -- values that are built on the writing thread ----------------------------------------------------------


def test_built_values_are_written_where_they_were_asked_for(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    producer.begin()
    producer.send(topic, 2, *rows([b"before"]))
    producer.send_built(topic, 2, NOW_MS, lambda: [Spans.of([b"one"]), Spans.of([b"two"])], 6)
    producer.send(topic, 2, *rows([b"after"]))
    done = producer.commit()
    assert [batch.records for batch in done.delivered] == [1, 1, 1, 1]
    assert done.base_offsets(TopicPartition(topic, 2)) == [0, 1, 2, 3]
    assert visible(broker.bootstrap_servers, topic) == [b"before", b"one", b"two", b"after"]


def test_what_building_raises_fails_the_transaction(make: Make, topic: str, broker: Broker) -> None:
    def build() -> list[Spans]:
        raise InvariantError("cannot be built")

    producer = make()
    producer.begin()
    producer.send(topic, 0, *rows([b"never"]))
    producer.send_built(topic, 0, NOW_MS, build, 1)
    with pytest.raises(InvariantError, match="cannot be built"):
        producer.commit()
    assert_dead(producer, topic)
    assert visible(broker.bootstrap_servers, topic) == []


def test_a_built_value_too_large_fails_the_transaction(make: Make, make_topic: MakeTopic) -> None:
    topic = make_topic(1, config={"max.message.bytes": "1000"})
    producer = make()
    producer.begin()
    producer.send_built(topic, 0, NOW_MS, lambda: [Spans.of([bytes(2_000)])], 2_000)
    with pytest.raises(RecordTooLargeError, match=rf"topic {topic}: row 0 needs 20\d\d bytes, 1000 are allowed"):
        producer.flush()
    assert_dead(producer, topic)
