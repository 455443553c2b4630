"""The transactional sink: columns in, one Kafka transaction out, or nothing.

The caller's thread checks and cuts; another one encodes, compresses, sends and commits, in the order of the calls.
After any failure the producer is discarded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn

import kafka.errors as kafka_errors
import numpy as np

from streamsample.clock import Clock
from streamsample.errors import (
    InvariantError,
    RecordTooLargeError,
    StreamsampleError,
    TimestampRefusedError,
    TopicError,
    TransactionFailedError,
)
from streamsample.kafka.crash import crash_point
from streamsample.kafka.partitioner import partitions_of
from streamsample.kafka.producer_seam import Deadline, check_producer_seam
from streamsample.kafka.topics import TopicLimits
from streamsample.kafka.transaction import (
    REQUEST_BYTES_MAX,
    ROLL_BACK,
    CommitResult,
    Positions,
    ProducerSettings,
    Rows,
    Transactions,
)
from streamsample.kafka.wire_encode import BatchEncoder, Columns, Plan, RowTooLargeError, oversized, plan
from streamsample.kafka.writer_thread import WriterThread
from streamsample.records import Int64s, Spans, TopicPartition

log = logging.getLogger(__name__)


class TransactionalProducer:
    """One transaction after another, from one thread; another one does the work, in the order of the calls.

    begin, any number of sends, then commit or abort. What is refused before anything was handed over
    (RecordRefusedError, TopicError, ValueError) leaves the producer as it was. Every other failure, raised by the call
    or by a later one, discards it: it is aborted as far as that is still possible and closed, and each further call
    raises TransactionFailedError. No call waits longer than its limits in `ProducerSettings` together.
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
        self._dense: set[str] = set()
        """Topics whose batches did not get small enough by compression."""
        self._turns: dict[str, int] = {}
        self._open = False
        self._committing = False
        self._gone: BaseException | None = None
        self._result: CommitResult | None = None
        """Of the last commit, until it is asked for. Set by the writing thread."""
        self._transactions = Transactions(client, transactional_id, self.settings)
        self._writer = WriterThread(f"writer-{transactional_id}", self.settings.waiting_bytes_max)

    # -- what is known of topics ------------------------------------------------------------------

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises TopicError if that cannot be learnt."""
        self._require_alive()
        self._limits(topic)  # Says at once if there is no such topic; the library would ask again and again.
        try:
            found = self._transactions.library.partitions_for(topic)
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
        """Open a transaction. Sends nothing. A commit of the one before may still be on its way."""
        self._require_alive()
        if self._open:
            raise InvariantError("a transaction is already open", remedy="commit or abort it first")
        with self._discarded_on_failure("begin"):
            self._have_done(0, self._transactions.begin)
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
        self, topic: str, partition: int, timestamp: int, build: Callable[[], Iterable[Spans]], build_bytes: int
    ) -> None:
        """Write the values that `build` gives, without keys, to one partition; they are compressed already.

        `build` is called beside the caller, on the writing thread, and holds `build_bytes` of memory until then.
        What it raises, and a value too large, is raised by a later call.
        """
        self._require_open()
        self._check_partition(topic, partition)
        self._check_times(topic, np.array([timestamp], np.int64), None)
        with self._discarded_on_failure("send"):
            work = partial(
                self._pack_built, TopicPartition(topic, partition), timestamp, build, self._record_bytes(topic)
            )
            self._have_done(build_bytes, work)

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
            self._wait_for_writer()
            return self._transactions.delivered()

    def commit(self, offsets: Positions | None = None, group_metadata: Any = None) -> CommitResult:
        """`commit_beside`, and wait for it."""
        self.commit_beside(lambda _: offsets or {}, group_metadata)
        result = self.committed(wait=True)
        assert result is not None
        return result

    def commit_beside(self, offsets: Callable[[CommitResult], Positions], group_metadata: Any = None) -> None:
        """Begin to commit all that was sent, with the group's offsets, fenced by `group_metadata`, beside the caller.

        offsets: called on the writing thread with what was written, once the broker has all of it; returns the next
        position and the metadata of each partition. The next transaction can be opened at once; what it sends waits
        until this one has ended. `committed` tells how it ended, and must have been asked before the next commit.
        """
        self._require_open()
        if self._committing:
            raise InvariantError("a commit is on its way", remedy="call committed first")
        with self._discarded_on_failure("commit"):
            self._have_done(0, partial(self._commit, offsets, group_metadata))
        self._open, self._committing = False, True

    def committed(self, *, wait: bool) -> CommitResult | None:
        """What the commit on its way has written, once it has ended; None before that, and if none is on its way.

        Raises FencedError if another owns the id or the group's generation has passed, and TransactionFailedError.
        After an error nothing of the transaction is visible, except when the answer to the commit itself did not come
        in time: then it may be; so positions must be read again from the group (which waits for the transaction's end),
        never assumed.
        """
        self._require_alive()
        if not self._committing:
            return None
        with self._discarded_on_failure("commit"):
            if wait:
                self._wait_for_writer()
            elif self._writer.failure is not None:
                raise self._writer.failure
        result, self._result = self._result, None
        self._committing = result is None
        return result

    def abort(self) -> None:
        """Give up the open transaction: nothing of it becomes visible. If a batch had failed, discard the producer."""
        self._require_open()
        if self._committing:
            raise InvariantError("a commit is on its way", remedy="call committed first")
        with self._discarded_on_failure("abort"):
            well = self._roll_back(self.settings.commit_timeout_ms)
            self._open = False
            if not well:
                self._discard(TransactionFailedError("a batch of the aborted transaction had failed", remedy=ROLL_BACK))

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
        record_bytes, batch_bytes = self._record_bytes(topic), self.settings.batch_bytes
        if self.settings.codec == "none" or topic in self._dense:
            batch_bytes = min(batch_bytes, record_bytes)
        return self._cut(topic, columns, rows, batch_bytes, record_bytes)

    def _cut(self, topic: str, columns: Columns, rows: Int64s | None, batch_bytes: int, record_bytes: int) -> Plan:
        try:
            return plan(columns, batch_bytes, record_bytes)
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
                limit = self._record_bytes(source.topic)
                for rows in _batches(columns, batches):
                    self._have_done(rows[-1], partial(self._write, source, rows, limit))
            crash_point("after_produce")

    def _have_done(self, size: int, work: Callable[[], None]) -> None:
        limit = Deadline(self.settings.work_ms)
        if not self._writer.put(size, work, limit):
            self._raise_writer_failure(limit)

    def _wait_for_writer(self) -> None:
        limit = Deadline(self.settings.work_ms)
        if not self._writer.wait(limit):
            self._raise_writer_failure(limit)

    def _commit(self, offsets: Callable[[CommitResult], Positions], group_metadata: Any) -> None:
        """On the writing thread."""
        self._result = self._transactions.commit(offsets, group_metadata)

    def _write(self, source: TopicPartition, rows: Rows, limit: int) -> None:
        """Write a batch, or more if it does not get small enough for its topic. On the writing thread."""
        if self._transactions.write(self._encoder, source, rows, limit):
            return
        self._dense.add(source.topic)
        columns, begin, end, _ = rows
        part = columns.take(np.arange(begin, end))
        for smaller in _batches(part, self._cut(source.topic, part, None, limit, limit)):
            self._transactions.write(self._encoder, source, smaller, limit)

    def _pack_built(
        self, source: TopicPartition, timestamp: int, build: Callable[[], Iterable[Spans]], record_bytes: int
    ) -> None:
        """Build values and write them, one part after another. On the writing thread."""
        for values in build():
            columns = Columns.of(np.full(len(values), timestamp, np.int64), Spans.nulls(len(values)), values)
            batch_bytes = min(self.settings.batch_bytes, record_bytes)
            for rows in _batches(columns, self._cut(source.topic, columns, None, batch_bytes, record_bytes)):
                self._transactions.write(self._plain_encoder, source, rows, record_bytes)

    def _raise_writer_failure(self, limit: Deadline) -> NoReturn:
        if self._writer.failure is not None:
            raise self._writer.failure
        raise TransactionFailedError(
            f"batches were not written and committed within {limit.limit_ms} ms", remedy=ROLL_BACK
        )

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

    @contextmanager
    def _discarded_on_failure(self, doing: str) -> Iterator[None]:
        try:
            yield
        except StreamsampleError as error:
            self._discard(error)
            raise
        except kafka_errors.KafkaError as error:
            translated = self._transactions.translated(error, f"{doing} of {self.transactional_id}")
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
        with suppress(Exception):
            self._roll_back(self.settings.abort_timeout_ms)
        self._open = self._committing = False
        self._writer.close(Deadline(self.settings.abort_timeout_ms))
        self._transactions.stop(self.settings.abort_timeout_ms)
        log.info("producer %s discarded: %s", self.transactional_id, why)

    def _roll_back(self, limit_ms: int) -> bool:
        """Drop what waits and abort what is open. Whether the library can go on."""
        if not self._writer.clear(Deadline(limit_ms)):
            # What it still hands over would be in the next transaction.
            raise TransactionFailedError(f"the work in hand did not end within {limit_ms} ms", remedy=ROLL_BACK)
        return self._transactions.roll_back(limit_ms)


def _batches(columns: Columns, cut: Plan) -> Iterator[Rows]:
    """The batches of a plan."""
    begin = 0
    for end, size in zip(cut.ends.tolist(), cut.sizes.tolist(), strict=True):
        yield columns, begin, end, size
        begin = end
