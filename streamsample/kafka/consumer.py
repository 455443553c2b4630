"""A Kafka consumer that brings columns: `RecordBatch`es, not records.

Always read_committed; never commits (positions are committed by the transaction that holds their results); never moves
a position on its own. To be used by one thread. Heartbeats go on in the background, but joining a group happens inside
`poll` only.

    consumer = ColumnarConsumer({"bootstrap_servers": "localhost:9092"}, group="shop", client_id="shop-1")
    consumer.subscribe(["impressions", "clicks"])
    while running:
        batches = consumer.poll(100)
        if rebalance := consumer.take_rebalance():
            ...                                   # commit what is processed of rebalance.revoked, drop rebalance.lost
            consumer.acknowledge_rebalance()      # only now do the revoked partitions go to their new owner
            ...                                   # rebalance.assigned: seek, then resume
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import kafka.errors as kafka_errors
from kafka import TopicPartition as KafkaTopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.protocol.consumer import OffsetSpec

from streamsample.errors import (
    ConfigurationError,
    CorruptRecordError,
    FencedError,
    RetentionError,
    StreamsampleError,
    TopicError,
)
from streamsample.kafka.assignor import TaskAssignor
from streamsample.kafka.decoder import Decoder
from streamsample.kafka.fetcher import LibraryConsumer
from streamsample.kafka.foreign_errors import translate, translated
from streamsample.kafka.seam import check_consumer_seam
from streamsample.kafka.transport import FewCopiesClient
from streamsample.records import RecordBatch, TopicPartition

_ALL = 2**31
_IDLE_MS = 100
_JOIN_MS = 50
_CLOSE_MS = 5000
_TAILS = (1_000, 30_000)


@dataclass(frozen=True, slots=True)
class Rebalance:
    """What changed in the assignment since the last call. Apply `lost` and `revoked` first, then `assigned`.

    revoked: given up, but still ours until `acknowledge_rebalance`: what is processed can be committed. lost: the group
    has put us out; nothing can be committed, another worker may be at it already. assigned: new, paused, without a
    position. A partition that was lost and came back is in both.
    """

    assigned: frozenset[TopicPartition] = frozenset()
    revoked: frozenset[TopicPartition] = frozenset()
    lost: frozenset[TopicPartition] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.assigned or self.revoked or self.lost)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How much is fetched and decoded at a time, in bytes.

    partition, request: at most of one partition, and in one answer of a broker (a larger single batch still comes).
    decoded: about how much one `poll` decompresses, and as much again ahead of the next. wait_ms: how long a broker
    holds back an answer when nothing new is there, and so how long a resumed partition may have to wait.
    """

    partition: int = 8 << 20
    request: int = 48 << 20
    decoded: int = 32 << 20
    wait_ms: int = 100


class ColumnarConsumer:
    """See the module. All partitions are `streamsample.records.TopicPartition`s, all times are in ms.

    connection: kafka-python's options of address and security; those of time-outs and fetch sizes in it go before the
    arguments here. group: None for use without a group (`assign`).
    Raises ConfigurationError for an option that is unknown or not for the caller to set, KafkaSideError when no broker
    answers.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        *,
        group: str | None = None,
        client_id: str = "streamsample",
        limits: FetchLimits | None = None,
        session_timeout_ms: int = 10_000,
        max_poll_interval_ms: int = 300_000,
        request_timeout_ms: int = 30_000,
    ) -> None:
        check_consumer_seam()
        session_timeout_ms = connection.get("session_timeout_ms", session_timeout_ms)
        request_timeout_ms = connection.get("request_timeout_ms", request_timeout_ms)
        self._limits = limits or FetchLimits()
        self._group = group
        self._timeout_ms = request_timeout_ms
        self._assignor = TaskAssignor()
        self._notes = _Notes(self._on_assigned, self._hold, self._assignor.forget)
        self._decoder = Decoder(self._limits.decoded)
        self._positions: dict[TopicPartition, int] = {}
        defaults = {
            "client_id": client_id,
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": min(session_timeout_ms // 4, 3000),
            "max_poll_interval_ms": max_poll_interval_ms,
            "request_timeout_ms": request_timeout_ms,
            "fetch_max_wait_ms": self._limits.wait_ms,
            "fetch_max_bytes": self._limits.request,
            "max_partition_fetch_bytes": self._limits.partition,
        }
        own = {
            "kafka_client": FewCopiesClient,
            "group_id": group,
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "allow_auto_create_topics": False,
            "partition_assignment_strategy": [self._assignor],
            "max_poll_records": _ALL,
            "check_crcs": True,
            "metrics_enabled": False,
        }
        clash = sorted(own.keys() & connection.keys())
        if clash:
            raise ConfigurationError(f"{', '.join(clash)}: set by streamsample", remedy="remove it from `kafka:`")
        with translated("connecting to Kafka"):
            self._library = LibraryConsumer({**defaults, **connection, **own})

    # Assignment

    def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group for `topics`, whose partitions of the same number go to the same worker. Once only."""
        if self._group is None:
            raise ConfigurationError("subscribe without a group", remedy="name the group, or use assign")
        with translated("subscribing"):
            self._library.subscribe(sorted(topics), listener=self._notes)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, without a group's protocol. Each is fetched once `seek` gave it a position."""
        wanted = set(partitions)
        with translated("assigning"):
            self._library.assign([KafkaTopicPartition(*each) for each in sorted(wanted)])
        for gone in self._positions.keys() - wanted:
            self._drop(gone)

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are ours now."""
        return {TopicPartition(*each) for each in self._library.assignment()}

    def take_rebalance(self) -> Rebalance:
        """What changed since the last call; falsy if nothing. To be called after every `poll`, before any commit.

        If partitions were revoked, the group waits for `acknowledge_rebalance`.
        """
        rebalance = self._notes.take()
        for gone in rebalance.revoked | rebalance.lost:
            self._drop(gone)
        return rebalance

    def acknowledge_rebalance(self) -> None:
        """What was revoked is committed: the next `poll` joins the group again, and its new owners may begin."""
        if not self._notes.pending:
            self._library.coordinator.held = False

    @property
    def settled(self) -> bool:
        """Whether no rebalance is under way: a commit begun now will not fail for the group's having moved on."""
        return self._group is None or not (self._notes.pending or self._library.coordinator.joining)

    def group_metadata(self) -> Any:
        """What fences a commit of our positions (KIP-447), as kafka-python's producer takes it.

        Raises FencedError when the group has put us out. (The library would return an identity that fences nothing.)
        """
        if self._group is None:
            raise ConfigurationError("group metadata without a group", remedy="name the group")
        metadata = self._library.group_metadata()
        if metadata.generation_id < 0 or not metadata.member_id or self._library.coordinator.lost or self._notes.lost:
            raise FencedError(
                f"group {self._group}: this worker is not a member", remedy="it joins again at the next poll"
            )
        return metadata

    # Reading

    def poll(self, timeout_ms: float) -> list[RecordBatch]:
        """What has come since, decoded; waits up to `timeout_ms` for something, or until a rebalance is noted.

        A batch may be empty: it then only moves the position. Raises CorruptRecordError and RetentionError again at
        each call, after all that came before them has been returned.
        """
        self._raise_broken()
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            left_ms = max((deadline - time.monotonic()) * 1000, 0.0)
            try:
                batches = self._poll_once(left_ms)
            except kafka_errors.OffsetOutOfRangeError as error:
                raise self._out_of_range(error) from error
            except kafka_errors.KafkaError as error:
                raise translate(error, "reading") from error
            except CorruptRecordError as error:
                self._decoder.broken[TopicPartition(error.topic, error.partition)] = error
                raise
            if batches or self._notes.pending or time.monotonic() >= deadline:
                return batches
            self._raise_broken()

    def _poll_once(self, timeout_ms: float) -> list[RecordBatch]:
        began = time.monotonic()
        self._library.coordinate(min(timeout_ms, _JOIN_MS))  # a join that takes longer goes on while we read
        if self._notes.pending:
            return []
        if self._decoder.empty:  # so that more is there to be decoded while the rest is worked on
            with suppress(kafka_errors.KafkaError, CorruptRecordError):  # comes again once the rest is given out
                self._fetch(0)
        batches = self._decode()
        if batches:
            return batches
        left_ms = max(timeout_ms - (time.monotonic() - began) * 1000, 0.0)
        idle = self._fetch(left_ms)
        left_ms = timeout_ms - (time.monotonic() - began) * 1000
        if idle and self._decoder.empty and left_ms > 0:
            time.sleep(min(left_ms, _IDLE_MS) / 1000)  # nothing is assigned, or all is paused
        return self._decode()

    def _fetch(self, timeout_ms: float) -> bool:
        """Hand what has come to the decoder. Whether there was nothing to wait for."""
        fetched, idle = self._library.fetch(timeout_ms)
        for several in fetched.values():
            self._decoder.add(several)
        return idle

    def _decode(self) -> list[RecordBatch]:
        """What was fetched, up to the limit; what belongs to paused partitions waits."""
        batches = self._decoder.take({TopicPartition(*each) for each in self._library.paused()})
        for batch in batches:
            self._positions[batch.source] = batch.next_offset
        return batches

    def _raise_broken(self) -> None:
        for source in sorted(self._decoder.broken):
            raise self._decoder.broken[source]

    def _out_of_range(self, error: kafka_errors.OffsetOutOfRangeError) -> StreamsampleError:
        (partition, offset), *_ = error.args[0].items()
        source = TopicPartition(*partition)
        start, end = self.beginning_offsets([source])[source], self.end_offsets([source])[source]
        found: StreamsampleError
        if offset < start:
            found = RetentionError(
                f"{source}@{offset}: retention has deleted the log up to offset {start}",
                remedy="raise the topic's retention.ms; to go on without the lost records, reset the job",
            )
        else:
            found = TopicError(
                f"{source}@{offset}: not a position of the log, which now goes from {start} to {end}",
                remedy="if the topic was deleted and made anew, reset the job",
            )
        self._decoder.broken[source] = found
        return found

    # Positions

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch no more of these. What was fetched of them already waits."""
        self._library.pause(*(KafkaTopicPartition(*each) for each in self._assigned(partitions)))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Fetch these again."""
        self._library.resume(*(KafkaTopicPartition(*each) for each in self._assigned(partitions)))

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return {TopicPartition(*each) for each in self._library.paused()}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Read on from `offset`. What was fetched of the partition is forgotten, and so is its damage."""
        self._drop(partition)
        self._library.seek(KafkaTopicPartition(*partition), offset)
        self._positions[partition] = offset

    def position(self, partition: TopicPartition) -> int | None:
        """The offset of the next record that `poll` will bring; None before `seek`."""
        return self._positions.get(partition)

    def high_watermark(self, partition: TopicPartition) -> int | None:
        """The end of the log as of the last answer, open transactions included; None before the first."""
        return self._library.fetcher.high_watermarks.get(KafkaTopicPartition(*partition))

    def caught_up(self, partition: TopicPartition) -> bool:
        """Whether the position is the high watermark, confirmed by a fetch that was sent from there and answered since.

        False while the partition is paused, not ours, or in error; and while an open transaction hides what follows.
        """
        foreign = KafkaTopicPartition(*partition)
        position = self._positions.get(partition)
        fetcher = self._library.fetcher
        return (
            position is not None
            and fetcher.high_watermarks.get(foreign) == position == fetcher.confirmed.get(foreign)
            and partition not in self._decoder.broken
            and foreign in self._library.assignment()
            and foreign not in self._library.paused()
        )

    def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, str]]:
        """(offset, metadata) of those that have a committed position. Waits until no transaction over them is open."""
        with translated("asking for committed offsets"):
            found = self._library.committed_offsets(
                [KafkaTopicPartition(*each) for each in partitions], self._timeout_ms
            )
        return {TopicPartition(*each): (value.offset, value.metadata) for each, value in found.items()}

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each log."""
        return self._ends(partitions, OffsetSpec.EARLIEST)

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermark of each log, behind open transactions too."""
        return self._ends(partitions, OffsetSpec.LATEST)

    def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, int | None]:
        """The first offset whose timestamp is that time or later; None if there is none."""
        found = self._list_offsets(dict(times), committed=False)
        return {each: None if value is None else value.offset for each, value in found.items()}

    def max_timestamps(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int] | None]:
        """(offset, timestamp) of the record with the largest timestamp in each log; None if there is none to be seen.

        The broker counts the markers of transactions too, which carry the wall clock. Where one of them is its answer,
        or a record of a transaction that is still open, this is the largest of the last committed records only: never
        more than the true one.
        """
        wanted = list(partitions)
        found = self._list_offsets(dict.fromkeys(wanted, int(OffsetSpec.MAX_TIMESTAMP)), committed=True)
        largest: dict[TopicPartition, tuple[int, int] | None] = {}
        for each in wanted:
            answer = found[each]
            with translated("asking for the largest timestamp"):
                try:
                    verified = None if answer is None else self._verified(each, answer.offset)
                    largest[each] = verified or self._largest_of_tail(each)
                except kafka_errors.OffsetOutOfRangeError:  # retention was faster
                    largest[each] = None
        return largest

    def _verified(self, partition: TopicPartition, offset: int) -> tuple[int, int] | None:
        """The offset and its timestamp, if a committed record is there."""
        batch = self._read_once(partition, offset)
        if len(batch) and batch.offsets[0] == offset:
            return offset, int(batch.timestamps[0])
        return None

    def _largest_of_tail(self, partition: TopicPartition) -> tuple[int, int] | None:
        begin, end = self.beginning_offsets([partition])[partition], self.end_offsets([partition])[partition]
        for reach in _TAILS:
            best: tuple[int, int] | None = None
            at = max(begin, end - reach)
            while at < end:
                batch = self._read_once(partition, at)
                if batch.next_offset <= at:
                    break
                if len(batch):
                    row = int(batch.timestamps.argmax())
                    here = int(batch.offsets[row]), int(batch.timestamps[row])
                    best = here if best is None or here[1] > best[1] else best
                at = batch.next_offset
            if best is not None or end - reach <= begin:
                return best
        return None

    def _read_once(self, partition: TopicPartition, offset: int) -> RecordBatch:
        fetched = self._library.fetch_once(KafkaTopicPartition(*partition), offset, self._timeout_ms)
        return fetched.take(self._limits.decoded)

    def close(self) -> None:
        """Leave the group and close the connections."""
        self._decoder.close()
        with translated("closing the consumer"):
            self._library.close(autocommit=False, timeout_ms=_CLOSE_MS)

    def __enter__(self) -> ColumnarConsumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ends(self, partitions: Iterable[TopicPartition], which: int) -> dict[TopicPartition, int]:
        found = self._list_offsets(dict.fromkeys(partitions, int(which)), committed=False)
        return {each: value.offset for each, value in found.items()}

    def _list_offsets(self, times: dict[TopicPartition, int], *, committed: bool) -> dict[TopicPartition, Any]:
        with translated("asking for offsets"):
            asked = {KafkaTopicPartition(*each): when for each, when in times.items()}
            found = self._library.list_offsets(asked, self._timeout_ms, committed=committed)
        return {each: found[KafkaTopicPartition(*each)] for each in times}

    def _assigned(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Those of `partitions` that are ours; the others may have just been revoked, on the other thread."""
        ours = self._library.assignment()
        return [each for each in partitions if KafkaTopicPartition(*each) in ours]

    def _drop(self, partition: TopicPartition) -> None:
        self._positions.pop(partition, None)
        self._library.fetcher.forget(KafkaTopicPartition(*partition))
        self._decoder.forget(partition)

    def _on_assigned(self, partitions: Iterable[Any]) -> None:
        self._library.pause(*partitions)

    def _hold(self) -> None:
        self._library.coordinator.held = True


class _Notes(ConsumerRebalanceListener):
    """What the group decided: noted on the I/O thread, which must not be kept waiting, and taken by ours."""

    def __init__(self, on_assigned: Callable[[Any], None], on_revoked: Callable[[], None], on_lost: Callable[[], None]):
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._noted = Rebalance()

    @property
    def pending(self) -> bool:
        """Whether something is noted that has not been taken."""
        return bool(self._noted)

    @property
    def lost(self) -> bool:
        """Whether a loss is noted that has not been taken."""
        return bool(self._noted.lost)

    def take(self) -> Rebalance:
        with self._lock:
            noted, self._noted = self._noted, Rebalance()
        return noted

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._on_assigned(assigned)
        with self._lock:
            self._noted = replace(self._noted, assigned=self._noted.assigned | _ours(assigned))

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        gone = _ours(revoked)
        self._on_revoked()
        with self._lock:
            known = gone - self._noted.assigned  # what nobody has heard of need not be given up
            self._noted = replace(
                self._noted, assigned=self._noted.assigned - gone, revoked=self._noted.revoked | known
            )

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        gone = _ours(lost)
        self._on_lost()
        with self._lock:
            known = gone - self._noted.assigned
            self._noted = Rebalance(
                assigned=self._noted.assigned - gone, lost=self._noted.lost | self._noted.revoked | known
            )


def _ours(partitions: Iterable[Any]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(*each) for each in partitions)
