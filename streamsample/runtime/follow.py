"""How far a topic's event time has come on the broker, for partitions that are silent while others are not (A5)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamsample.clock import Clock
from streamsample.kafka.consumer import ColumnarConsumer, FetchLimits
from streamsample.records import TopicPartition
from streamsample.runtime.source import Source

_READ_TIMEOUT_MS = 2_000
_RECORDS_BEFORE = 1_000
_LIMITS = FetchLimits(partition=1 << 20, request=4 << 20, decoded=16 << 20)


class TopicClock:
    """Asks the broker for the largest event time of a topic.

    Where the event time is the record's timestamp, the broker knows it. Where it is a field, or a record is dated too
    far ahead to count, the record with the largest timestamp of each partition is read, and some before it. Has a
    connection of its own, made when first needed.
    """

    def __init__(self, connection: Mapping[str, Any], clock: Clock, client_id: str) -> None:
        self._connection = connection
        self._clock = clock
        self._client_id = client_id
        self._reader: ColumnarConsumer | None = None

    def largest(self, source: Source, partitions: int) -> int | None:
        """The largest event time in ms over the topic's partitions; None if it is empty or could not be read in
        time.
        """
        reader = self._connected()
        newest = reader.max_timestamps([TopicPartition(source.topic, number) for number in range(partitions)])
        held = {partition: found for partition, found in newest.items() if found is not None}
        if not held:
            return None
        if source.time is None:
            largest = max(timestamp for _, timestamp in held.values())
            if largest <= self._clock.now_ms() + source.max_future_ms:
                return largest
        return self._read(reader, source, {partition: offset for partition, (offset, _) in held.items()})

    def still_at(self, positions: Mapping[TopicPartition, int]) -> set[TopicPartition]:
        """Those of `positions` where the log ends: asked after `largest`, nothing older can be waiting in them."""
        ends = self._connected().end_offsets(positions)
        return {partition for partition, position in positions.items() if ends[partition] == position}

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connected(self) -> ColumnarConsumer:
        if self._reader is None:
            self._reader = ColumnarConsumer(
                self._connection, group=None, client_id=f"{self._client_id}-clock", limits=_LIMITS
            )
        return self._reader

    def _read(self, reader: ColumnarConsumer, source: Source, offsets: dict[TopicPartition, int]) -> int | None:
        """The largest event time among the records up to these offsets, and those that come with them."""
        first = reader.beginning_offsets(offsets)
        reader.assign(offsets)
        for partition, offset in offsets.items():
            # The last record may be unusable, and the time in its field smaller than those of others.
            reader.seek(partition, max(first[partition], offset - _RECORDS_BEFORE))
        reader.resume(offsets)
        largest: int | None = None
        end_ms = self._clock.elapsed_ms() + _READ_TIMEOUT_MS
        left = dict(offsets)
        while left and self._clock.elapsed_ms() < end_ms:
            for batch in reader.poll(100):
                events = source.read(batch, self._clock.now_ms())
                if events.span is not None:
                    largest = events.span[1] if largest is None else max(largest, events.span[1])
            left = {each: offset for each, offset in left.items() if (reader.position(each) or 0) <= offset}
        reader.assign([])
        return largest


@dataclass(frozen=True, slots=True)
class Answer:
    """The largest event time of a topic, and of the positions asked about those at which its partitions end: all that
    was in them when `largest` was read lies before.
    """

    topic: str
    largest: int
    ended: Mapping[TopicPartition, int]


class Follower:
    """Asks a `TopicClock` on a thread of its own, for the broker may take its time. One question at a time."""

    def __init__(self, clock: TopicClock) -> None:
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._answers: list[Answer] = []
        self._failure: Exception | None = None

    @property
    def asking(self) -> bool:
        """Whether a question was put whose answer has not been taken."""
        return self._thread is not None

    def ask(self, positions: Mapping[Source, Mapping[TopicPartition, int]], partitions: Mapping[str, int]) -> None:
        """Ask about these positions; partitions: of each topic. Not while another question is open."""
        self._answers, self._failure = [], None
        self._thread = threading.Thread(target=self._run, args=(positions, partitions), name="follower", daemon=True)
        self._thread.start()

    def take(self, *, wait: bool = False) -> list[Answer]:
        """The answers, once they are there; with `wait` that is awaited. Raises what asking has raised."""
        if self._thread is None or (self._thread.is_alive() and not wait):
            return []
        self._thread.join()
        self._thread = None
        if self._failure is not None:
            self._clock.close()
            raise self._failure
        return self._answers

    def close(self) -> None:
        """End the connection. What is being asked is of no interest any more."""
        if self._thread is not None:
            self._thread.join(_READ_TIMEOUT_MS / 1000)
        self._clock.close()

    def _run(self, positions: Mapping[Source, Mapping[TopicPartition, int]], partitions: Mapping[str, int]) -> None:
        try:
            for source, asked in positions.items():
                largest = self._clock.largest(source, partitions[source.topic])
                if largest is not None:
                    still = self._clock.still_at(asked)
                    self._answers.append(Answer(source.topic, largest, {each: asked[each] for each in still}))
        except Exception as error:
            self._failure = error
