"""Where the columnar path enters kafka-python's consumer: subclasses of its fetcher, coordinator and consumer.

All knowledge of the library's internals on the reading side is in this file; `seam.check_consumer_seam` checks that
they are what it expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import kafka.errors as kafka_errors
import numpy as np
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.future import Future
from kafka.protocol.consumer import FetchRequest, IsolationLevel
from kafka.util import Timer, WeakMethod

from streamsample.errors import CorruptRecordError
from streamsample.kafka.wire_decode import AbortedTransaction, FetchedBatches
from streamsample.records import RecordBatch, Spans, TopicPartition

_LOG_OVERHEAD = 12
_ONE_FETCH_BYTES = 1 << 20


class Fetched(Protocol):
    """What one fetch brought of one partition, not yet decoded."""

    topic: str
    partition: int
    next_offset: int

    @property
    def size(self) -> int:
        """Bytes held."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether everything has been given out and nothing was damaged."""
        ...

    def take(self, budget: int) -> RecordBatch:
        """The next records, as many as unfold to about `budget` bytes. Raises CorruptRecordError."""
        ...


class FetchedRecords:
    """A fetch with batches of the old formats v0 or v1, decoded by the library."""

    def __init__(
        self, source: TopicPartition, records: list[Any], next_offset: int, size: int, damage: CorruptRecordError | None
    ) -> None:
        self.topic, self.partition = source
        self.next_offset = next_offset
        self.size = size
        self._records = records
        self._damage = damage
        self._given = False

    @property
    def exhausted(self) -> bool:
        return self._given and self._damage is None

    def take(self, budget: int) -> RecordBatch:
        if self._damage is not None and (self._given or not self._records):
            raise self._damage
        self._given = True
        return batch_of(TopicPartition(self.topic, self.partition), self._records, self.next_offset)


def batch_of(source: TopicPartition, records: list[Any], next_offset: int) -> RecordBatch:
    """The columns of kafka-python's ConsumerRecords."""
    return RecordBatch(
        source.topic,
        source.partition,
        np.array([record.offset for record in records], np.int64),
        np.array([-1 if record.timestamp is None else record.timestamp for record in records], np.int64),
        Spans.of([record.key for record in records]),
        Spans.of([record.value for record in records]),
        Spans.of([_raw_headers(record.headers) for record in records]),
        next_offset,
    )


def _raw_headers(headers: list[tuple[str, bytes | None]]) -> bytes | None:
    if not headers:
        return None
    out = bytearray()
    for key, value in headers:
        name = key.encode()
        out += _varint(len(name)) + name
        out += _varint(-1) if value is None else _varint(len(value)) + value
    return bytes(out)


def _varint(value: int) -> bytes:
    bits = (value << 1) ^ (value >> 63)
    out = bytearray()
    while bits > 0x7F:
        out.append(bits & 0x7F | 0x80)
        bits >>= 7
    out.append(bits)
    return bytes(out)


class _PartitionRecords(Fetcher.PartitionRecords):
    """One partition of a fetch response. `take` gives it out whole and undecoded, as one element.

    The position thus moves, and the next fetch leaves, before the decoding begins.
    """

    def __init__(self, fetch_offset: int, tp: Any, records: Any, **options: Any) -> None:
        super().__init__(fetch_offset, tp, records, **options)
        aborted = _aborted(self.aborted_transactions)
        self._fetched = FetchedBatches(tp.topic, tp.partition, fetch_offset, records._buffer, aborted)

    def take(self, n: int | None = None) -> list[Fetched]:
        if self._fetched.has_old_format:
            return self._take_old()
        size = self.bytes_read = self._fetched.size
        self.next_fetch_offset = self._fetched.end_offset
        self.leader_epoch = self._fetched.leader_epoch
        self.drain()
        return [self._fetched] if size else []

    def _take_old(self) -> list[Fetched]:
        source = TopicPartition(*self.topic_partition)
        records: list[Any] = []
        damage = None
        try:
            records.extend(self.record_iterator)
        except Exception as error:  # the library's decoders raise whatever damage makes of them
            damage = CorruptRecordError(*source, self.next_fetch_offset, str(error))
        self.drain()
        return [FetchedRecords(source, records, self.next_fetch_offset, self._fetched.size, damage)]


class ColumnarFetcher(Fetcher):
    """A fetcher that brings `Fetched` in place of records, and remembers how far each answer reached."""

    PartitionRecords = _PartitionRecords

    def __init__(self, client: Any, subscriptions: Any, **configs: Any) -> None:
        super().__init__(client, subscriptions, **configs)
        self.high_watermarks: dict[Any, int] = {}
        self.confirmed: dict[Any, int] = {}
        """The offset of each partition's last fetch if it was answered with nothing; else the partition is not here."""

    def forget(self, partition: Any) -> None:
        """What was confirmed no longer holds: the position was moved, or the partition went."""
        self.confirmed.pop(partition, None)

    def _handle_fetch_response(
        self, node_id: Any, fetch_offsets: dict[Any, int], send_time: float, response: Any
    ) -> None:
        super()._handle_fetch_response(node_id, fetch_offsets, send_time, response)
        if response.error_code:
            return
        left_out = set(fetch_offsets)
        for topic in response.responses:
            for answer in topic.partitions:
                partition = KafkaTopicPartition(topic.topic, answer.partition_index)
                left_out.discard(partition)
                self.confirmed.pop(partition, None)
                if answer.error_code:
                    continue
                if answer.high_watermark >= 0:
                    self.high_watermarks[partition] = answer.high_watermark
                if not answer.records and partition in fetch_offsets:
                    self.confirmed[partition] = fetch_offsets[partition]
        handler = self._session_handlers.get(node_id)
        if response.session_id > 0 and handler is not None and not handler.next_metadata.is_full:
            # In an incremental session (KIP-227) a partition without news is left out of the answer.
            for partition in left_out:
                self.confirmed[partition] = fetch_offsets[partition]

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        answer = completed_fetch.partition_data
        if answer.records is None:
            answer.records = b""
        partition = completed_fetch.topic_partition
        offset = completed_fetch.fetched_offset
        if (
            answer.error_code == 0
            and _is_cut_off(answer.records)
            and self._subscriptions.is_fetchable(partition)
            and self._subscriptions.position(partition).offset == offset
        ):
            # The library would raise its own error here, and fetch the same again.
            raise CorruptRecordError(
                partition.topic, partition.partition, offset, "no complete batch came: its length must be damaged"
            )
        return super()._parse_fetched_data(completed_fetch)


def _aborted(transactions: Iterable[Any]) -> list[AbortedTransaction]:
    return [AbortedTransaction(each.producer_id, each.first_offset) for each in transactions]


def _is_cut_off(data: bytes) -> bool:
    if len(data) < _LOG_OVERHEAD:
        return len(data) > 0
    return _LOG_OVERHEAD + int.from_bytes(data[8:12], "big", signed=True) > len(data)


class HeldCoordinator(ConsumerCoordinator):
    """A coordinator that does not join the group again while it is held, and that ends each join it has begun.

    By the cooperative protocol (KIP-429) a member that has revoked partitions joins again, and only then they go to
    their new owner. The library does so in the same `poll` that revoked them, before anybody could commit.

    A join that was begun because the topics' metadata had changed is no longer needed, for the library, once the leader
    has computed the assignment. If `poll` had to give up before the answer came, the next one would not take it: the
    member would stay without partitions for ever.
    """

    held = False
    _join_task: Any

    def need_rejoin(self) -> bool:
        # `rejoining` too: after a join that failed in the middle, only that tells that another is owed.
        return not self.held and (bool(self.rejoining) or self.joining)

    @property
    def joining(self) -> bool:
        """Whether a join is under way, or will begin with the next poll."""
        return self._join_task is not None or bool(super().need_rejoin())

    @property
    def lost(self) -> bool:
        """Whether the group has put this member out since it last joined."""
        return bool(self._generation.is_lost())

    async def join_group_async(self, timeout_ms: float | None = None) -> Any:
        """Join as the library does, but do not throw away a join that ended between two polls.

        The library would begin another, and if this member leads the group, force all others to join once more.
        """
        ended: Any = self._join_task
        if ended is not None and ended.is_done:
            self._join_task = relay = Future()

            def pass_on() -> None:
                if ended.succeeded():
                    relay.success(ended.value)
                else:
                    relay.failure(ended.exception)

            self._manager.call_soon(pass_on)
        return await super().join_group_async(timeout_ms)


class LibraryConsumer(KafkaConsumer):
    """kafka-python's consumer with our fetcher and coordinator, whose `poll` is split into its two halves."""

    _fetcher: ColumnarFetcher
    _coordinator: HeldCoordinator

    def __init__(self, configs: Mapping[str, Any]) -> None:
        try:
            super().__init__(**configs)
        except BaseException:
            client = getattr(self, "_client", None)
            if client is not None:
                client.close()
            raise
        self._cluster.remove_listener(WeakMethod(self._coordinator._handle_metadata_update))
        self._fetcher = ColumnarFetcher(self._client, self._subscription, **self.config)
        self._coordinator = HeldCoordinator(
            self._client,
            self._subscription,
            assignors=self.config["partition_assignment_strategy"],
            **self.config,
        )
        # Answers of "the end" and "the first after a time" must not depend on open transactions.
        self._uncommitted = Fetcher(
            self._client, self._subscription, **{**self.config, "isolation_level": "read_uncommitted"}
        )

    @property
    def fetcher(self) -> ColumnarFetcher:
        return self._fetcher

    @property
    def coordinator(self) -> HeldCoordinator:
        return self._coordinator

    def coordinate(self, timeout_ms: float) -> bool:
        """Keep the membership of the group: join if need be. False if that takes longer than `timeout_ms`."""
        return bool(self._coordinator.poll(timeout_ms=timeout_ms))

    def fetch(self, timeout_ms: float) -> tuple[dict[Any, list[Fetched]], bool]:
        """What has come, once something has or `timeout_ms` has passed, and whether there was nothing to wait for."""
        self._fetcher.maybe_validate_positions()
        self._fetcher.validate_offsets_if_needed()
        fetched, idle = self._fetcher.fetch_records(timeout_ms=timeout_ms)
        if fetched:
            # The library asks for more with the next call only; here it comes while this is decoded and processed.
            self._fetcher.send_fetches()
        return fetched, idle

    def committed_offsets(self, partitions: list[Any], timeout_ms: float) -> dict[Any, Any]:
        """{partition: OffsetAndMetadata} of those that have one; stable ones, as the isolation is read_committed."""
        return dict(self._coordinator.fetch_committed_offsets(partitions, timeout_ms=timeout_ms))

    def list_offsets(self, times: dict[Any, int], timeout_ms: float, *, committed: bool = False) -> dict[Any, Any]:
        """{partition: OffsetAndTimestamp or None} for {partition: time or OffsetSpec}."""
        fetcher = self._fetcher if committed else self._uncommitted
        return dict(fetcher.offsets_by_times(times, timeout_ms))

    def fetch_once(self, partition: Any, offset: int, timeout_ms: float) -> FetchedBatches:
        """About a MiB of one partition from `offset` on, beside the assignment and its positions; may be empty."""
        fetched: FetchedBatches = self._net.run(self._fetch_once, partition, offset, timeout_ms)
        return fetched

    async def _fetch_once(self, partition: Any, offset: int, timeout_ms: float) -> FetchedBatches:
        timer = Timer(timeout_ms)
        while True:
            try:
                return await self._try_fetch_once(partition, offset, timer.timeout_ms)
            except kafka_errors.RetriableError:
                timer.maybe_raise()
                self._cluster.add_topic(partition.topic)
                await self._manager.wait_for(self._cluster.request_update(), timer.timeout_ms)
                await self._net.sleep(self.config["retry_backoff_ms"] / 1000)

    async def _try_fetch_once(self, partition: Any, offset: int, timeout_ms: float) -> FetchedBatches:
        node_id = self._cluster.leader_for_partition(partition)
        if node_id is None or node_id == -1:
            raise kafka_errors.LeaderNotAvailableError(f"{partition.topic}/{partition.partition}")
        topic = FetchRequest.FetchTopic
        wanted = topic.FetchPartition(
            partition=partition.partition,
            current_leader_epoch=-1,
            fetch_offset=offset,
            last_fetched_epoch=-1,
            partition_max_bytes=_ONE_FETCH_BYTES,
        )
        request = FetchRequest(
            max_wait_ms=0,
            min_bytes=0,
            max_bytes=_ONE_FETCH_BYTES,
            isolation_level=IsolationLevel.READ_COMMITTED,
            session_id=0,
            session_epoch=-1,
            topics=[topic(topic=partition.topic, partitions=[wanted])],
            forgotten_topics_data=[],
            rack_id="",
            min_version=4,
            max_version=12,
        )
        response = await self._manager.wait_for(self._manager.send(request, node_id=node_id), timeout_ms)
        (answer,) = response.responses[0].partitions if response.responses else (response,)
        if answer.error_code:
            raise kafka_errors.for_code(answer.error_code)()
        aborted = [
            AbortedTransaction(each.producer_id, each.first_offset) for each in answer.aborted_transactions or ()
        ]
        return FetchedBatches(partition.topic, partition.partition, offset, answer.records or b"", aborted)
