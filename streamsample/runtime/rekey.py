"""Sends the records of topics that are not partitioned by the prediction's id to the tasks that own the ids.

Sender and receiver work inside of their workers' transactions, with the positions that they have come to, so each
record arrives once. The partition is that of Kafka's default partitioner (murmur2) over the id's canonical bytes. What
cannot be used is refused by the sender, which knows it first; everything after that is done by the receiver, to which
the records look as if it had read the origin itself.

The receiver's time is held back by all origins. So at each commit a sender tells all tasks how far it has come with its
origins, behind the records that it has sent; whoever reads that has read those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamsample.gather import packed
from streamsample.hashing import hash64_of_integers
from streamsample.kafka.partitioner import partitions_of
from streamsample.labels import Watermark
from streamsample.labels.watermark import MIN
from streamsample.records import Int32s, Int64s, RecordBatch, Spans, TopicPartition
from streamsample.runtime.blocks import Progress, blocks_of, encode_progress, encode_records, record_bytes
from streamsample.runtime.exchange import Message
from streamsample.runtime.in_order import InOrder
from streamsample.runtime.layout import Layout
from streamsample.runtime.source import Events, Rejected
from streamsample.runtime.state import ReceivedState

_COLLECTED_BYTES = 8 << 20
"""So much is collected before it is sent, or what came until the next commit: few records for each of many tasks would
make small blocks, which cost more to read.
"""
_HEAD_BYTES = 1_024
_SILENCE_STEP_MS = 5_000
"""Silence that goes on is told this often."""


@dataclass(frozen=True, slots=True)
class _Collected:
    """Usable records of a source, and the task that owns each."""

    source: int
    batch: RecordBatch
    rows: Int64s
    to: Int32s


class Sender:
    """Of one task: what it sends of its partitions of rekeyed topics. watermark: how far each of these has come."""

    def __init__(self, layout: Layout, number: int, bytes_max: int, idle_timeout_ms: Mapping[str, int | None]) -> None:
        """bytes_max: the topics' max.message.bytes."""
        self._layout = layout
        self.sources = layout.sent_on(number)
        self.watermark = Watermark(self.sources, {})
        self._bytes_max = bytes_max // 2 - _HEAD_BYTES
        self._idle_timeout_ms = idle_timeout_ms
        self._collected: dict[str, list[_Collected]] = {}
        self._bytes = 0
        self._messages: list[Message] = []
        self._told: dict[TopicPartition, tuple[int, Progress]] = {}

    def take(self, number: int, events: Events) -> Rejected | None:
        """Send events of a topic's source of that number to their owners. What is too large comes back, refused."""
        rows, ids = events.rows, events.ids
        size = record_bytes(events.batch, rows)
        large = size > self._bytes_max
        refused = None
        if large.any():
            words = f"it needs more than {self._bytes_max:,} bytes, the most that can be sent to another task (rekey)"
            refused = Rejected(events.batch, rows[large], "identify", "too_large", words)
            rows, ids, size = rows[~large], ids.take(~large), size[~large]
        if len(rows):
            to, _ = partitions_of(ids, self._layout.tasks)
            self._collected.setdefault(events.batch.topic, []).append(_Collected(number, events.batch, rows, to))
            self._bytes += int(size.sum())
            if self._bytes >= _COLLECTED_BYTES:
                self._pack()
        return refused

    def take_messages(self) -> list[Message]:
        """What is to be sent now."""
        messages, self._messages = self._messages, []
        return messages

    def tell(self, positions: Mapping[str, int], covered_from: Mapping[str, int]) -> bool:
        """Before a commit: send all that was collected, and how far each origin has come, if it has come further.
        Whether anything was new.
        """
        self._pack()
        shape, news = self._layout.plan.job.state_shape, False
        for source in self.sources:
            if source.topic not in positions:
                continue
            progress = Progress(self.watermark.level_of(source), self._silence(source), covered_from[source.topic])
            said = (positions[source.topic], progress)
            if self._told.get(source) == said:
                continue
            news = True
            self._told[source] = said
            value = encode_progress(shape, source.partition, *said).tobytes()
            topic = self._layout.plan.job.rekeyed_topic(source.topic)
            self._messages += [Message(to, value, topic) for to in range(self._layout.tasks)]
        return news

    def _silence(self, source: TopicPartition) -> int:
        """How long nothing came, where that lets time go on (A5), in steps."""
        timeout = self._idle_timeout_ms.get(source.topic)
        silent = self.watermark.silent_ms(source)
        if timeout is None or silent <= timeout:
            return 0
        step = max(min(_SILENCE_STEP_MS, timeout), 1)
        return timeout + (silent - timeout) // step * step

    def _pack(self) -> None:
        """Make blocks of what was collected: for each task and source one, or more if they are large."""
        for topic, parts in self._collected.items():
            internal = self._layout.plan.job.rekeyed_topic(topic)
            for source in sorted({part.source for part in parts}):
                part = _as_one([each for each in parts if each.source == source])
                order = np.argsort(part.to.astype(np.uint16), kind="stable")
                rows = part.rows[order]
                bounds = np.searchsorted(part.to[order], np.arange(self._layout.tasks + 1))
                for to in np.flatnonzero(np.diff(bounds)).tolist():
                    self._pack_for(to, internal, part, rows[bounds[to] : bounds[to + 1]])
        self._collected, self._bytes = {}, 0

    def _pack_for(self, to: int, internal: str, part: _Collected, rows: Int64s) -> None:
        filled = np.cumsum(record_bytes(part.batch, rows)) // self._bytes_max
        for piece in np.split(rows, np.flatnonzero(np.diff(filled)) + 1):
            value = encode_records(self._layout.plan.job.state_shape, part.source, part.batch, piece)
            self._messages.append(Message(to, value.tobytes(), internal))


def _as_one(parts: list[_Collected]) -> _Collected:
    """All of these, which are of one source and one partition: many small ones would make many small blocks."""
    if len(parts) == 1:
        return parts[0]

    def together(column: str) -> Spans:
        taken = [getattr(part.batch, column).take(part.rows) for part in parts]
        return Spans.concat([packed(each.buffer, each.start, each.size) for each in taken])

    first, last = parts[0], parts[-1]
    offsets = np.concatenate([part.batch.offsets[part.rows] for part in parts])
    timestamps = np.concatenate([part.batch.timestamps[part.rows] for part in parts])
    keys, values, headers = together("keys"), together("values"), together("headers")
    topic, partition, end = first.batch.topic, first.batch.partition, last.batch.next_offset
    whole = RecordBatch(topic, partition, offsets, timestamps, keys, values, headers, end)
    return _Collected(first.source, whole, np.arange(len(offsets)), np.concatenate([part.to for part in parts]))


@dataclass(frozen=True, slots=True)
class Arrived:
    """Records of a rekeyed topic, for its source of that number. offset: of their message; again: that was read before,
    and is only looked through for what is held.
    """

    offset: int
    source: int
    records: RecordBatch
    again: bool


class Received:
    """What other tasks have sent to one, and how far they have come with each origin. predictions: what is held of a
    rekeyed input, None of any other.
    """

    def __init__(self, layout: Layout, number: int) -> None:
        self._layout = layout
        self._shape = layout.plan.job.state_shape
        self._origins = [source for source in layout.sources(number) if source.topic in layout.origins]
        self._heard: dict[TopicPartition, tuple[int, int]] = {}
        self._reads_on: dict[str, int] = {}
        self._input = layout.plan.input.topic
        holds = self._input in layout.origins and number < layout.tasks
        self.predictions = InOrder(layout.plan.job.grace_ms) if holds else None

    def read(
        self, batch: RecordBatch, topic: str, since: int, watermark: Watermark, elapsed_ms: int
    ) -> Iterator[Arrived]:
        """The records of a rekeyed topic in a batch of messages; and let the watermark know how far the origins have
        come. since: messages before this offset were read before. Raises StateError.
        """
        self._reads_on[batch.topic] = batch.next_offset
        for block in blocks_of(batch, topic, self._shape):
            head, again = block.head, block.offset < since
            if block.records is not None:
                yield Arrived(block.offset, head.source, block.records, again)
            if head.progress is not None and not again:
                origin, said = TopicPartition(topic, head.partition), head.progress
                self._heard[origin] = head.next_offset, said.covered_from
                watermark.hear(origin, said.level, head.next_offset, said.silent_ms, elapsed_ms)

    def due(self, watermark: Watermark) -> Iterator[Events]:
        """The predictions of a rekeyed input that come next."""
        if self.predictions is None:
            return iter(())
        levels = [watermark.level_of(origin) for origin in self._origins if origin.topic == self._input]
        known = [level for level in levels if level is not None]
        level = min(known) if len(known) == len(levels) else MIN
        return self.predictions.release(max(level, watermark.value()))  # that can be later in an idle topic

    def begins_at(self, positions: Mapping[str, int]) -> dict[str, int]:
        """By topic where a restart from these positions must begin to read, if earlier than there: what is held."""
        topic = self._layout.plan.job.rekeyed_topic(self._input)
        if self.predictions is None or topic not in positions:
            return {}
        begin = self.predictions.begins_at(min(positions[topic], self._reads_on.get(topic, positions[topic])))
        return {topic: begin} if begin < positions[topic] else {}

    def position(self, origin: TopicPartition) -> int:
        """How far an origin was read, as far as it is known here."""
        return self._heard.get(origin, (0, 0))[0]

    def covered_from(self, topic: str, own: Mapping[str, int]) -> int:
        """From which event time on a topic was readable: all origins of a rekeyed one, else what `own` says (A19)."""
        if topic not in self._layout.origins:
            return own[topic]
        return max(self._heard.get(origin, (0, MIN))[1] for origin in self._origins if origin.topic == topic)

    def snapshot(self, positions: Mapping[str, int]) -> ReceivedState:
        """All that a restart from these positions must know."""
        heard = {str(origin): heard for origin, heard in self._heard.items()}
        released = MIN if self.predictions is None else self.predictions.released
        return ReceivedState(heard, released, self.begins_at(positions))

    def restore(self, state: ReceivedState) -> None:
        """Go on with what `snapshot` gave."""
        self._heard = {origin: state.heard[str(origin)] for origin in self._origins if str(origin) in state.heard}
        self._reads_on = dict(state.begins_at)
        if self.predictions is not None:
            self.predictions.released = state.released


def place_ids(places: Int64s, source: int) -> NDArray[np.uint64]:
    """Of feedback without an id of its own: a hash of its topic (its number), partition and offset, uint64[n]."""
    return hash64_of_integers(places, source)
