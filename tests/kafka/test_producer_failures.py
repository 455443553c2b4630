from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import kafka.errors as kafka_errors
import numpy as np
import pytest
from kafka import KafkaConsumer
from kafka.producer.sender import Sender
from kafka.structs import ConsumerGroupMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import SystemClock
from streamsample.errors import (
    FencedError,
    KafkaSideError,
    RecordTooLargeError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
    UnsupportedClientError,
)
from streamsample.kafka import producer_seam as seam
from streamsample.kafka.broker import LocalBroker
from streamsample.kafka.crash import _Fuse
from streamsample.kafka.foreign_errors import translate_producing
from streamsample.kafka.topics import TopicLimits
from streamsample.kafka.transaction import ProducerSettings
from streamsample.records import TopicPartition
from tests.conftest import Broker, MakeTopic
from tests.kafka.producing import (
    QUICK,
    REPOSITORY,
    Make,
    assert_dead,
    committed_position,
    new_producer,
    rows,
    until,
    visible,
)

# -- failures: nothing becomes visible, and the producer is never used again --------------------------------


def test_a_batch_that_expires_is_not_committed_without(make: Make, topic: str, broker: Broker) -> None:
    producer = make()
    producer.begin()
    producer.send(topic, 0, *rows([b"arrives"]))
    producer.flush()
    producer._transactions.library._accumulator.muted.add(KafkaTopicPartition(topic, 1))  # Stands for a slow leader.
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
    producer._transactions.library._accumulator.muted.add(KafkaTopicPartition(topic, 0))
    begun = time.monotonic()
    with pytest.raises(TransactionFailedError):
        producer.send(topic, 0, *rows([b"x" * 900] * 100))
        producer.flush()
    assert 1 < time.monotonic() - begun < 6
    assert producer._transactions._handed.waiting_bytes <= 10_000
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
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group, enable_auto_commit=False)
    try:
        # The library's assignor gives out nothing, and does not ask again, if it leads before it knows the topic.
        until(lambda: bool(consumer.partitions_for_topic(topic)))
        consumer.subscribe([topic])
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

        def commit_as_member() -> bool:
            consumer.poll(0)  # the library may have begun to join again, which makes another generation
            producer = make()
            producer.begin()
            producer.send(topic, 0, *rows([b"current"]))
            try:
                producer.commit({source: (6, "")}, consumer.group_metadata())
            except FencedError:
                return False
            return True

        until(commit_as_member)
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


def test_only_what_is_surely_not_in_the_log_is_sent_again(make: Make, topic: str) -> None:
    """A broker that crashed may have written a batch and forgotten its number."""
    producer = make()
    producer.begin()
    producer.send(topic, 0, *rows([b"x"]))
    producer.flush()
    batch = producer._transactions._handed._batches[0]
    batch._final_state = None  # as before the answer came
    again = producer._transactions.library._sender._can_retry
    assert again(batch, kafka_errors.NotLeaderForPartitionError)
    assert not again(batch, kafka_errors.KafkaConnectionError)
    assert not again(batch, kafka_errors.RequestTimedOutError)
    assert not again(batch, kafka_errors.NotEnoughReplicasAfterAppendError)


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
from tests.kafka.producing import QUICK, new_producer, rows
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
    found = translate_producing(foreign, "commit of job")
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
