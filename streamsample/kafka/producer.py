"""The transactional sink: columns in, one Kafka transaction out, or nothing.

kafka-python 3.0.12 lets a transaction commit without a batch that was lost on the way, resets itself quietly after the
coordinator's time-out, and waits without limit. So here each batch is followed to its end, a commit happens only when
all have arrived, every wait has a limit, and after any failure the producer is discarded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import kafka.errors as kafka_errors
import numpy as np
from kafka import KafkaProducer
from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from streamsample.clock import Clock
from streamsample.errors import (
    InvariantError,
    KafkaSideError,
    RecordTooLargeError,
    StreamsampleError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
    UnreachableError,
)
from streamsample.kafka import producer_seam as seam
from streamsample.kafka.crash import crash_point
from streamsample.kafka.foreign_errors import translate_producing
from streamsample.kafka.packing import PackingThread
from streamsample.kafka.partitioner import partitions_of
from streamsample.kafka.producer_seam import Deadline, Delivered, HandedOver, check_producer_seam
from streamsample.kafka.topics import TopicLimits
from streamsample.kafka.transport import FewCopiesClient
from streamsample.kafka.wire_encode import BatchEncoder, Codec, Columns, Plan, RowTooLargeError, oversized, plan
from streamsample.records import Int64s, Spans, TopicPartition

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 8 * 1024 * 1024
_MARGIN_MS = 1_000
_BATCHES_PER_WAKE = 4
_ROLL_BACK = "the worker rolls back to the last committed position and tries again"


@dataclass(frozen=True, slots=True)
class ProducerSettings:
    """Limits of one producer. Times in ms; request <= delivery < transaction timeout, else ValueError.

    transaction_timeout_ms bounds how long a killed worker blocks readers of read_committed. in_flight_bytes_max: handed
    over and not yet acknowledged, compressed. packing_bytes_max: taken, not yet compressed. batch_bytes: of one batch
    before compression (a larger record goes alone).
    """

    codec: Codec = "lz4"
    batch_bytes: int = 1_000_000
    in_flight_bytes_max: int = 64 * 1024 * 1024
    packing_bytes_max: int = 16 * 1024 * 1024
    transaction_timeout_ms: int = 12_000
    delivery_timeout_ms: int = 8_000
    request_timeout_ms: int = 4_000
    commit_timeout_ms: int = 5_000
    abort_timeout_ms: int = 2_000
    start_timeout_ms: int = 20_000

    def __post_init__(self) -> None:
        if not 0 < self.request_timeout_ms <= self.delivery_timeout_ms < self.transaction_timeout_ms:
            raise ValueError(
                f"request timeout {self.request_timeout_ms} ms <= delivery timeout {self.delivery_timeout_ms} ms "
                f"< transaction timeout {self.transaction_timeout_ms} ms does not hold"
            )


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a committed transaction wrote, in the order of handing over."""

    delivered: tuple[Delivered, ...]

    def base_offsets(self, source: TopicPartition) -> list[int]:
        """The offset of the first record of each batch written to `source`."""
        return [batch.base_offset for batch in self.delivered if batch.source == source]


class TransactionalProducer:
    """One transaction after another, from one thread; another one compresses.

    begin, any number of sends, then commit or abort. What is refused before anything was handed over
    (RecordRefusedError, TopicError, ValueError) leaves the producer as it was. Every other failure discards it: it is
    aborted as far as that is still possible and closed, and each further call raises TransactionFailedError. No call
    waits longer than its limit in `ProducerSettings`.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        transactional_id: str,
        *,
        limits: Callable[[str], TopicLimits],
        clock: Clock,
        settings: ProducerSettings | None = None,
    ) -> None:
        """Connect and take hold of `transactional_id`, which no other process may use.

        client: kafka-python's connection and security options. limits: what a topic takes (`TopicAdmin.limits`).
        Raises UnsupportedClientError, FencedError, KafkaSideError.
        """
        check_producer_seam()
        self.transactional_id = transactional_id
        self.settings = settings or ProducerSettings()
        self._limits = limits
        self._clock = clock
        self._encoder = BatchEncoder(self.settings.codec)
        self._plain_encoder = BatchEncoder("none")
        self._handed = HandedOver()
        self._turns: dict[str, int] = {}
        self._open = False
        self._gone: BaseException | None = None
        self._identity = (-1, -1)
        self._producer = self._start(client)
        self._packing = PackingThread(f"packing-{transactional_id}", self.settings.packing_bytes_max)

    def _start(self, client: Mapping[str, Any]) -> Any:
        settings = self.settings
        options = {
            "kafka_client": FewCopiesClient,
            "reconnect_backoff_max_ms": 1_000,
            "bootstrap_timeout_ms": settings.start_timeout_ms,
            **client,
        }
        # A user's request time-out is for reading: here all times must fit into the transaction's.
        options.pop("request_timeout_ms", None)
        try:
            producer = KafkaProducer(
                **options,
                transactional_id=self.transactional_id,
                acks="all",
                linger_ms=0,
                retry_backoff_ms=5,
                transaction_timeout_ms=settings.transaction_timeout_ms,
                delivery_timeout_ms=settings.delivery_timeout_ms,
                request_timeout_ms=settings.request_timeout_ms,
                max_block_ms=settings.start_timeout_ms,
                max_request_size=REQUEST_BYTES_MAX,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except kafka_errors.KafkaError as error:
            kind = UnreachableError if isinstance(error, kafka_errors.RetriableError) else KafkaSideError
            raise kind(
                f"no producer for {options.get('bootstrap_servers')}: {error!r}",
                remedy="check that the brokers can be reached and the kafka section of the job file",
            ) from error
        seam.forbid_recovery(producer)
        try:
            producer.init_transactions()
        except kafka_errors.KafkaError as error:
            seam.stop(producer, settings.abort_timeout_ms)
            raise translate_producing(error, f"transactional.id {self.transactional_id}: no producer id") from error
        return producer

    # -- what is known of topics ------------------------------------------------------------------

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises TopicError if that cannot be learnt."""
        self._require_alive()
        self._limits(topic)  # Says at once if there is no such topic; the library would ask again and again.
        try:
            found = self._producer.partitions_for(topic)
        except kafka_errors.KafkaError as error:
            raise TopicError(
                f"topic {topic}: no metadata ({error!r})",
                remedy="create the topic, or allow this user to describe and write it",
            ) from error
        return len(found)

    def oversized(self, topic: str, columns: Columns) -> Int64s:
        """The rows that `send` would refuse as too large: int64[], ascending."""
        return oversized(columns, self._record_bytes(topic))

    def mistimed(self, topic: str, columns: Columns) -> Int64s:
        """The rows that `send` would refuse for their timestamp: int64[], ascending."""
        return self._mistimed(topic, columns.timestamps)

    def _mistimed(self, topic: str, timestamps: Int64s) -> Int64s:
        low, high = self._limits(topic).timestamps_at(self._clock.now_ms())
        return np.flatnonzero((timestamps > high) | (timestamps < low))

    # -- a transaction ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Open a transaction. Sends nothing."""
        self._require_alive()
        if self._open:
            raise InvariantError("a transaction is already open", remedy="commit or abort it first")
        with self._discarded_on_failure("begin"):
            self._producer.begin_transaction()
            self._identity = seam.identity_of(self._producer)
            self._handed = HandedOver()
            self._open = True

    def send(
        self,
        topic: str,
        partition: int,
        timestamps: Int64s,
        keys: Spans,
        values: Spans,
        headers: Spans | None = None,
    ) -> None:
        """Write n records, in order, to one partition. timestamps: int64[n], ms; headers: raw v2 headers without count.

        Waits while too much is on its way. Raises RecordTooLargeError, TimestampRefusedError, TopicError before
        anything is encoded.
        """
        self._require_open()
        columns = Columns.of(timestamps, keys, values, headers)
        self._check_partition(topic, partition)
        self._send([(TopicPartition(topic, partition), columns, self._plan(topic, columns, None))])

    def send_built(
        self, topic: str, partition: int, timestamp: int, build: Callable[[], Spans], build_bytes: int
    ) -> None:
        """Write the values that `build` returns, without keys, to one partition; they are compressed already.

        `build` is called beside the caller, on the thread that packs, and holds `build_bytes` of memory until then.
        What it raises, and a value too large, is raised by a later call.
        """
        self._require_open()
        self._check_partition(topic, partition)
        self._check_times(topic, np.array([timestamp], np.int64), None)
        with self._discarded_on_failure("send"):
            work = partial(
                self._pack_built, TopicPartition(topic, partition), timestamp, build, self._record_bytes(topic)
            )
            self._have_packed(build_bytes, work)

    def send_partitioned(
        self, topic: str, timestamps: Int64s, keys: Spans, values: Spans, headers: Spans | None = None
    ) -> None:
        """Like `send`, each record to its key's partition (murmur2, as Java's default); null keys take turns."""
        self._require_open()
        columns = Columns.of(timestamps, keys, values, headers)
        count = self.partitions(topic)
        turn = self._turns.get(topic, 0)
        chosen, self._turns[topic] = partitions_of(keys, count, turn)
        if len(chosen) and bool((chosen == chosen[0]).all()):
            # The rule where the input is keyed alike and has as many partitions: nothing has to be gathered.
            self._send([(TopicPartition(topic, int(chosen[0])), columns, self._plan(topic, columns, None))])
            return
        order = np.argsort(chosen.astype(np.uint16) if count <= 65536 else chosen, kind="stable")
        bounds = np.searchsorted(chosen[order], np.arange(count + 1))
        parts = []
        for partition in np.flatnonzero(np.diff(bounds)):
            rows = order[bounds[partition] : bounds[partition + 1]]
            part = columns.take(rows)
            parts.append((TopicPartition(topic, int(partition)), part, self._plan(topic, part, rows)))
        self._send(parts)

    def flush(self) -> CommitResult:
        """Wait until the broker has all that was sent. The transaction stays open, nothing is visible yet."""
        self._require_open()
        with self._discarded_on_failure("flush"):
            return self._delivered()

    def commit(
        self, offsets: Mapping[TopicPartition, tuple[int, str]] | None = None, group_metadata: Any = None
    ) -> CommitResult:
        """Commit all that was sent, with the group's `offsets` (next position, metadata), fenced by `group_metadata`.

        Raises FencedError if another owns the id or the group's generation has passed, and TransactionFailedError.
        After an error nothing of the transaction is visible, except when the answer to the commit itself did not come
        in time: then it may be; so positions must be read again from the group (which waits for the transaction's end),
        never assumed.
        """
        self._require_open()
        with self._discarded_on_failure("commit"):
            result = self._delivered()
            crash_point("after_flush")
            if offsets:
                self._send_offsets(offsets, group_metadata)
            crash_point("after_offsets")
            if not seam.in_transaction(self._producer, self._identity):
                self._raise_library_error("the transaction was lost")
            crash_point("before_commit")
            ending = self._producer._transaction_manager.begin_commit()
            self._wait_for(ending, "the commit was not answered and may or may not have happened")
            crash_point("after_commit")
            self._open = False
        return result

    def abort(self) -> None:
        """Give up the open transaction: nothing of it becomes visible. If a batch had failed, discard the producer."""
        self._require_open()
        with self._discarded_on_failure("abort"):
            self._roll_back(self.settings.commit_timeout_ms)
            self._open = False
            if self._handed.any_failed():
                self._discard(
                    TransactionFailedError("a batch of the aborted transaction had failed", remedy=_ROLL_BACK)
                )

    def close(self) -> None:
        """Abort what is open and end. May be called at any time, also twice."""
        if self._gone is None:
            self._discard(TransactionFailedError(f"producer {self.transactional_id} is closed"))

    # -- sending ----------------------------------------------------------------------------------

    def _record_bytes(self, topic: str) -> int:
        return min(self._limits(topic).max_message_bytes, REQUEST_BYTES_MAX)

    def _check_partition(self, topic: str, partition: int) -> None:
        if not 0 <= partition < self.partitions(topic):
            raise TopicError(
                f"{topic}/{partition}: the topic has only {self.partitions(topic)} partitions",
                remedy=f"kafka-topics.sh --alter --topic {topic} --partitions {partition + 1}",
            )

    def _check_times(self, topic: str, timestamps: Int64s, rows: Int64s | None) -> None:
        late = self._mistimed(topic, timestamps)
        if len(late):
            row = int(late[0])
            raise TimestampRefusedError(
                f"topic {topic}: row {row if rows is None else rows[row]} is stamped {timestamps[row]} ms, "
                f"which is further from now ({self._clock.now_ms()} ms) than the topic takes",
                row=row if rows is None else int(rows[row]),
                remedy="check the time's unit in the job file, or raise message.timestamp.after.max.ms (before.max.ms)",
            )

    def _plan(self, topic: str, columns: Columns, rows: Int64s | None) -> Plan:
        """Check what the broker would refuse, and cut into batches. rows: the columns' rows in the caller's arrays."""
        self._check_times(topic, columns.timestamps, rows)
        return self._cut(topic, columns, rows, self._record_bytes(topic))

    def _cut(self, topic: str, columns: Columns, rows: Int64s | None, record_bytes: int) -> Plan:
        try:
            return plan(columns, self.settings.batch_bytes, record_bytes)
        except RowTooLargeError as error:
            row = error.row if rows is None else int(rows[error.row])
            raise RecordTooLargeError(
                f"topic {topic}: row {row} needs {error.size} bytes, {record_bytes} are allowed",
                row=row,
                remedy=f"raise the topic's max.message.bytes (up to {REQUEST_BYTES_MAX}), or write less",
            ) from error

    def _send(self, parts: list[tuple[TopicPartition, Columns, Plan]]) -> None:
        with self._discarded_on_failure("send"):
            crash_point("before_produce")
            for source, columns, batches in parts:
                begin = 0
                for end, size in zip(batches.ends.tolist(), batches.sizes.tolist(), strict=True):
                    self._have_packed(size, partial(self._pack, self._encoder, source, columns, begin, end, size))
                    begin = end
            crash_point("after_produce")

    def _have_packed(self, size: int, work: Callable[[], None]) -> None:
        limit = Deadline(2 * self.settings.delivery_timeout_ms)
        if not self._packing.put(size, work, limit):
            self._raise_packing_failure(limit)

    def _pack(
        self, encoder: BatchEncoder, source: TopicPartition, columns: Columns, begin: int, end: int, size: int
    ) -> None:
        """Encode one batch and hand it over. On the packing thread."""
        self._wait_for_room(size)
        encoded = encoder.encode(columns, begin, end, size)
        seam.hand_over(self._producer, source, encoded, end - begin, self._handed)
        if len(self._handed) % _BATCHES_PER_WAKE == 0:
            seam.wake_sender(self._producer)

    def _pack_built(
        self, source: TopicPartition, timestamp: int, build: Callable[[], Spans], record_bytes: int
    ) -> None:
        """Build values and hand them over. On the packing thread."""
        values = build()
        columns = Columns.of(np.full(len(values), timestamp, np.int64), Spans.nulls(len(values)), values)
        batches = self._cut(source.topic, columns, None, record_bytes)
        begin = 0
        for end, size in zip(batches.ends.tolist(), batches.sizes.tolist(), strict=True):
            self._pack(self._plain_encoder, source, columns, begin, end, size)
            begin = end

    def _raise_packing_failure(self, limit: Deadline) -> NoReturn:
        if self._packing.failure is not None:
            raise self._packing.failure
        raise TransactionFailedError(f"batches were not packed within {limit.limit_ms} ms", remedy=_ROLL_BACK)

    def _wait_for_room(self, size: int) -> None:
        if self._handed.waiting_bytes + size > self.settings.in_flight_bytes_max:
            seam.wake_sender(self._producer)
        limit = Deadline(self.settings.delivery_timeout_ms + _MARGIN_MS)
        if not self._handed.wait_for_room(size, self.settings.in_flight_bytes_max, limit):
            waiting = self._handed.waiting_bytes
            raise TransactionFailedError(
                f"{waiting} bytes were not acknowledged within {limit.limit_ms} ms", remedy=_ROLL_BACK
            )
        self._raise_if_batch_failed()

    def _delivered(self) -> CommitResult:
        limit = Deadline(2 * self.settings.delivery_timeout_ms)
        if not self._packing.wait(limit):
            self._raise_packing_failure(limit)
        seam.wake_sender(self._producer)
        limit = Deadline(self.settings.delivery_timeout_ms + _MARGIN_MS)
        if not self._handed.wait_for_all(limit):
            raise TransactionFailedError(f"batches were not acknowledged within {limit.limit_ms} ms", remedy=_ROLL_BACK)
        self._raise_if_batch_failed()
        delivered = self._handed.delivered()
        if delivered is None:
            raise TransactionFailedError("a batch has no known offset", remedy=_ROLL_BACK)
        return CommitResult(tuple(delivered))

    def _send_offsets(self, offsets: Mapping[TopicPartition, tuple[int, str]], group_metadata: Any) -> None:
        if group_metadata is None:
            raise ValueError("offsets need the group's metadata, or a zombie could commit them")
        positions = {KafkaTopicPartition(*source): OffsetAndMetadata(*at, -1) for source, at in offsets.items()}
        sending = self._producer._transaction_manager.send_offsets_to_transaction(positions, group_metadata)
        names = ", ".join(str(source) for source in offsets)
        self._wait_for(sending, f"the group's offsets of {names} were not taken into the transaction")

    # -- failing ----------------------------------------------------------------------------------

    def _require_alive(self) -> None:
        if self._gone is not None:
            raise TransactionFailedError(
                f"producer {self.transactional_id} was discarded: {self._gone}", remedy="make a new one"
            )

    def _require_open(self) -> None:
        self._require_alive()
        if not self._open:
            raise InvariantError("no transaction is open", remedy="call begin first")

    def _wait_for(self, result: Any, otherwise: str) -> None:
        """Wait for the library's result, within our limit."""
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=self.settings.commit_timeout_ms):
            raise TransactionFailedError(f"{otherwise} within {self.settings.commit_timeout_ms} ms", remedy=_ROLL_BACK)

    def _raise_if_batch_failed(self) -> None:
        failure = self._handed.failure()
        if failure is not None:
            what, cause = failure
            self._raise_library_error(f"{what} did not arrive", cause)

    def _raise_library_error(self, what: str, cause: BaseException | None = None) -> NoReturn:
        """Raise what the library remembers as the first error of the transaction, else `cause`."""
        first = self._producer._transaction_manager.last_error or cause
        raise translate_producing(first, what) from first

    @contextmanager
    def _discarded_on_failure(self, doing: str) -> Iterator[None]:
        try:
            yield
        except StreamsampleError as error:
            self._discard(error)
            raise
        except kafka_errors.KafkaError as error:
            first = self._producer._transaction_manager.last_error or error
            translated = translate_producing(first, f"{doing} of {self.transactional_id}")
            self._discard(translated)
            raise translated from error
        except BaseException as error:
            self._discard(error)
            raise

    def _discard(self, why: BaseException) -> None:
        """Never use this producer again. Abort if that still works, so that readers need not wait for the time-out."""
        if self._gone is not None:
            return
        self._gone = why
        if self._open:
            with suppress(Exception):
                self._roll_back(self.settings.abort_timeout_ms)
        self._open = False
        self._packing.close(Deadline(self.settings.abort_timeout_ms))
        seam.stop(self._producer, self.settings.abort_timeout_ms)
        log.info("producer %s discarded: %s", self.transactional_id, why)

    def _roll_back(self, limit_ms: int) -> None:
        if not self._packing.clear(Deadline(limit_ms)):
            # What it still hands over would be in the next transaction.
            raise TransactionFailedError(f"a batch was not packed within {limit_ms} ms", remedy=_ROLL_BACK)
        ending = self._producer._transaction_manager.begin_abort()
        self._producer._sender.wakeup()
        if not ending.wait(timeout_ms=limit_ms):
            raise TransactionFailedError(f"the abort was not answered within {limit_ms} ms", remedy=_ROLL_BACK)
