"""Where finished batches enter kafka-python's producer: the only place that knows its internals.

`KafkaProducer.send` takes one record at a time. Its accumulator, though, only needs objects that behave like its own
`MemoryRecordsBuilder`; so whole batches, already encoded, are put into its queues, and its sender does the rest
(leaders, retries, sequence numbers, transactions).
"""

from __future__ import annotations

import importlib.metadata
import inspect
import threading
from dataclasses import dataclass
from typing import Any

import kafka.errors as kafka_errors
from kafka import KafkaProducer
from kafka.producer.producer_batch import FinalState, ProducerBatch
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.producer.sender import Sender
from kafka.producer.transaction_manager import TransactionManager, TransactionState
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import SystemClock
from streamsample.errors import UnsupportedClientError
from streamsample.kafka.wire_encode import seal
from streamsample.records import TopicPartition

SUPPORTED_CLIENT = ">=3.0.12,<3.1"


class Deadline:
    """A moment after which nothing is waited for any more."""

    def __init__(self, limit_ms: int) -> None:
        self.limit_ms = limit_ms
        self._clock = SystemClock()
        self._at_ms = self._clock.elapsed_ms() + limit_ms

    def left_ms(self) -> int:
        """Milliseconds left, 0 when passed."""
        return max(self._at_ms - self._clock.elapsed_ms(), 0)


class FinishedRecords:
    """An encoded batch that behaves like kafka-python's MemoryRecordsBuilder after its last append."""

    def __init__(self, batch: bytearray, count: int) -> None:
        self._buffer = batch
        self._count = count
        self._bytes = len(batch)
        self._sealed = False
        self.producer_id = -1
        self.producer_epoch = -1
        self.base_sequence = -1
        self._transactional = False

    def append(self, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Any = None) -> None:
        """Nothing can be added: the accumulator opens another batch."""

    def set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int, is_transactional: bool
    ) -> None:
        """Called once, when first drained: with another state, a retry could write the records a second time."""
        if self._sealed:
            raise RuntimeError("the producer's state of a batch that was already sent cannot be changed")
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.base_sequence = base_sequence
        self._transactional = is_transactional

    def close(self) -> None:
        """Write state and checksum into the batch. Called before each attempt and when the batch is given up."""
        if not self._sealed:
            seal(self._buffer, self.producer_id, self.producer_epoch, self.base_sequence, self._transactional)
            self._sealed = True

    def release(self) -> None:
        """Let the bytes go once the broker has them; the rest is still asked for."""
        self._buffer = bytearray()
        self._sealed = True

    def size_in_bytes(self) -> int:
        return self._bytes

    def compression_rate(self) -> float:
        return 1.0

    def is_full(self) -> bool:
        return True

    def next_offset(self) -> int:
        return self._count

    def buffer(self) -> bytearray:
        return self._buffer


@dataclass(frozen=True, slots=True)
class Delivered:
    """A batch that the broker has acknowledged. base_offset: of its first record."""

    source: TopicPartition
    base_offset: int
    records: int


class HandedOver:
    """What was given to the library in this transaction, and what became of it. Written to by the library's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: list[Any] = []
        self._waiting_bytes = 0
        self._waiting = 0
        self._failed: Any = None

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def waiting_bytes(self) -> int:
        """Bytes given to the library and not yet acknowledged."""
        return self._waiting_bytes

    def add(self, batch: Any) -> None:
        """Register a batch before the library can see it."""
        size = batch.records.size_in_bytes()
        with self._changed:
            self._batches.append(batch)
            self._waiting_bytes += size
            self._waiting += 1
        batch.produce_future.add_both(lambda _: self._settled(batch, size))

    def _settled(self, batch: Any, size: int) -> None:
        with self._changed:
            self._waiting_bytes -= size
            self._waiting -= 1
            if batch.final_state is not FinalState.SUCCEEDED and self._failed is None:
                self._failed = batch
            self._changed.notify_all()
        batch.records.release()

    def wait_for_room(self, size: int, limit_bytes: int, deadline: Deadline) -> bool:
        """Until `size` more bytes fit, nothing waits, or a batch has failed. False when the deadline passed first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._failed or not self._waiting or self._waiting_bytes + size <= limit_bytes,
                deadline.left_ms() / 1000,
            )

    def wait_for_all(self, deadline: Deadline) -> bool:
        """Until every batch has its final state or one has failed. False when the deadline passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._failed or not self._waiting, deadline.left_ms() / 1000)

    def failure(self) -> tuple[str, BaseException] | None:
        """The first batch that did not succeed, and why."""
        batch = self._failed
        if batch is None:
            return None
        return f"{batch.record_count} records for {_name(batch)}", _exception(batch)

    def any_failed(self) -> bool:
        """Whether a batch failed; those that an abort took back unsent did not."""
        return any(batch.final_state is FinalState.FAILED for batch in self._batches)

    def delivered(self) -> list[Delivered] | None:
        """Every batch, in the order of handing over; None unless all have succeeded at a known offset."""
        out = []
        for batch in self._batches:
            if batch.final_state is not FinalState.SUCCEEDED or batch.produce_future.value[0] < 0:
                return None
            source = TopicPartition(*batch.topic_partition)
            out.append(Delivered(source, batch.produce_future.value[0], batch.record_count))
        return out


def _name(batch: Any) -> str:
    return f"{batch.topic_partition.topic}/{batch.topic_partition.partition}"


def _exception(batch: Any) -> BaseException:
    """Why a batch failed: the library hides it in a function of the record's number."""
    try:
        cause = batch.produce_future.exception or batch.produce_future.value[2](0)
    except Exception as error:
        cause = error
    return cause if isinstance(cause, BaseException) else RuntimeError(f"unknown cause: {cause!r}")


def hand_over(producer: Any, source: TopicPartition, batch: bytearray, count: int, handed: HandedOver) -> None:
    """Queue a batch of `count` records, as `RecordAccumulator.append` queues its own; the topic's metadata is known.

    Raises kafka.errors.KafkaError if the transaction cannot take it.
    """
    partition = KafkaTopicPartition(*source)
    accumulator = producer._accumulator
    producer._transaction_manager.maybe_add_partition_to_transaction(partition)
    accumulator._appends_in_progress.increment()
    try:
        with accumulator._tp_lock(partition):
            if accumulator._closed:
                raise RuntimeError("the producer is closed")
            entry = ProducerBatch(partition, FinishedRecords(batch, count))
            handed.add(entry)
            accumulator._batches[partition].append(entry)
            accumulator._incomplete.add(entry)
    finally:
        accumulator._appends_in_progress.decrement()


def wake_sender(producer: Any) -> None:
    """Let the sending thread look at what was handed over. Each call costs a switch of threads."""
    producer._sender.wakeup()


def forbid_recovery(producer: Any) -> None:
    """Make the library fail where it would mend things behind our back.

    It would split a batch that the broker finds too large (flush then waits for a batch that no longer exists), and
    after a lost transaction raise the producer's epoch and go on as if nothing had been lost, fencing whoever owns the
    id now. And it would send a batch again after a connection broke. A broker that had written it before it crashed
    knows its number no more if its records are dated more than a day ago (producer.id.expiration.ms is compared with
    the records' timestamps when a log is recovered): it would be there twice.
    """
    sender = producer._sender
    may_retry = sender._can_retry
    sender._can_split = lambda batch, error: False
    sender._can_retry = lambda batch, error: _was_not_written(error) and may_retry(batch, error)
    producer._transaction_manager._supports_epoch_bump = lambda: False


def _was_not_written(error: type[BaseException]) -> bool:
    """Whether the broker itself has answered, and in a way that says that the batch is not in its log."""
    unsure = (kafka_errors.RequestTimedOutError, kafka_errors.NotEnoughReplicasAfterAppendError)
    return issubclass(error, kafka_errors.BrokerResponseError) and not issubclass(error, unsure)


def in_transaction(producer: Any, identity: tuple[int, int]) -> bool:
    """Whether the transaction begun with this identity is still the one that a commit would end."""
    manager = producer._transaction_manager
    with manager._lock:
        return manager._current_state is TransactionState.IN_TRANSACTION and identity == identity_of(producer)


def identity_of(producer: Any) -> tuple[int, int]:
    """Producer id and epoch."""
    held = producer._transaction_manager.producer_id_and_epoch
    return held.producer_id, held.epoch


def stop(producer: Any, limit_ms: int) -> None:
    """End the library's thread without sending what is left. `KafkaProducer.close` waits once per batch instead."""
    producer._unregister_cleanup()
    producer._sender.force_close()
    producer._sender.join(limit_ms / 1000)
    producer._closed = True


_EXPECTED: dict[Any, set[str]] = {
    KafkaProducer.__init__: {"_accumulator", "_sender", "_transaction_manager", "_cleanup", "_closed"},
    RecordAccumulator.append: {"_appends_in_progress", "_tp_lock", "_batches", "_incomplete", "_closed"},
    RecordAccumulator.drain_batches_for_one_node: {
        "set_producer_state",
        "close",
        "size_in_bytes",
        "next_offset",
        "in_retry",
    },
    RecordAccumulator.ready: {"is_full"},
    Sender._dispatch_error: {"_can_split", "_can_retry", "classify_batch_error"},
    Sender._produce_request: {"records", "buffer"},
    Sender.force_close: {"_force_close"},
    TransactionManager.classify_batch_error: {"_supports_epoch_bump"},
    TransactionManager.begin_commit: {"_begin_completing_transaction", "COMMITTING_TRANSACTION"},
    ProducerBatch.__init__: {"records", "produce_future", "_final_state"},
}
_SIGNATURES: dict[Any, list[str]] = {
    ProducerBatch.__init__: ["self", "tp", "records", "now"],
    RecordAccumulator._tp_lock: ["self", "tp"],
    Sender._can_split: ["self", "batch", "error"],
    Sender._can_retry: ["self", "batch", "error_cls"],
    TransactionManager.maybe_add_partition_to_transaction: ["self", "topic_partition"],
    TransactionManager.send_offsets_to_transaction: ["self", "offsets", "group_metadata"],
}


def check_producer_seam() -> None:
    """Raise UnsupportedClientError unless kafka-python's version and internals are those this module was made for."""
    version = importlib.metadata.version("kafka-python")
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    missing = [] if (3, 0, 12) <= numbers < (3, 1) else ["the version itself"]
    for function, names in _EXPECTED.items():
        found = set(function.__code__.co_names)
        missing += [f"{function.__qualname__}: {name}" for name in sorted(names - found)]
    for function, parameters in _SIGNATURES.items():
        if list(inspect.signature(function).parameters) != parameters:
            missing.append(f"{function.__qualname__}{inspect.signature(function)}")
    if missing:
        raise UnsupportedClientError(
            f"kafka-python {version} is not what the producer was made for ({'; '.join(missing)})",
            remedy=f'pip install "kafka-python{SUPPORTED_CLIENT}"',
        )
