"""Decoding what was fetched, a piece ahead: while the caller works on some records, a thread decodes the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from streamsample.errors import CorruptRecordError, StreamsampleError
from streamsample.kafka.fetcher import Fetched
from streamsample.records import RecordBatch, TopicPartition


@dataclass(frozen=True, slots=True)
class _Piece:
    """Records, or the damage that was found in their place."""

    source: TopicPartition
    records: RecordBatch | CorruptRecordError

    @property
    def size(self) -> int:
        return 0 if isinstance(self.records, CorruptRecordError) else max(len(self.records.values.buffer), 1)


class Decoder:
    """What was fetched and has not been given out, in the order of each partition. To be used by one thread.

    limit: about how many bytes are decompressed for one `take`, and about how many lie decompressed for the next.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._fetched: deque[Fetched] = deque()
        self._decoded: list[_Piece] = []
        self._at_work: list[Fetched] = []
        self._ahead: Future[list[_Piece]] | None = None
        self._thread = ThreadPoolExecutor(1, "decode")
        self.broken: dict[TopicPartition, StreamsampleError] = {}
        """Why nothing more comes of a partition, once everything before the damage has been given out."""

    @property
    def empty(self) -> bool:
        """Whether nothing waits to be decoded; what is being decoded does not."""
        return not self._fetched

    def add(self, fetched: Iterable[Fetched]) -> None:
        """What has come."""
        self._fetched.extend(fetched)

    def take(self, paused: Container[TopicPartition]) -> list[RecordBatch]:
        """The next records of all partitions but those; the decoding of what follows has begun then."""
        while True:
            self._wait()
            if all(piece.source in paused for piece in self._decoded):
                self._begin_with(paused, self._limit)
                self._end_with(_decode(self._at_work, self._limit))
            batches = self._given_out(paused)
            room = self._limit - sum(piece.size for piece in self._decoded)
            self._begin_with(paused, room)
            if self._at_work:
                self._ahead = self._thread.submit(_decode, self._at_work, room)
            if batches or not self._at_work:  # else there was damage only
                return batches

    def _given_out(self, paused: Container[TopicPartition]) -> list[RecordBatch]:
        batches, kept = list[RecordBatch](), list[_Piece]()
        for piece in self._decoded:
            if piece.source in paused:
                kept.append(piece)
            elif isinstance(piece.records, CorruptRecordError):
                self.broken[piece.source] = piece.records
            else:
                batches.append(piece.records)
        self._decoded = kept
        return batches

    def forget(self, source: TopicPartition) -> None:
        """Let go what was fetched of a partition, and its damage."""
        self._wait()
        self._fetched = deque(each for each in self._fetched if _source(each) != source)
        self._decoded = [piece for piece in self._decoded if piece.source != source]
        self.broken.pop(source, None)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _begin_with(self, paused: Container[TopicPartition], limit: int) -> None:
        """Let as much as may be decoded now be at work, of each partition what comes first."""
        waiting, self._fetched = self._fetched, deque()
        for each in waiting:
            if _source(each) in self.broken:
                continue
            if limit > 0 and _source(each) not in paused:
                self._at_work.append(each)
                limit -= each.size  # compressed: it is more than that when decoded
            else:
                self._fetched.append(each)

    def _end_with(self, pieces: list[_Piece]) -> None:
        """Put back what is left of what was at work."""
        self._decoded += pieces
        damaged = {piece.source for piece in pieces if isinstance(piece.records, CorruptRecordError)}
        left = [each for each in self._at_work if not each.exhausted and _source(each) not in damaged]
        self._fetched.extendleft(reversed(left))
        self._at_work = []

    def _wait(self) -> None:
        """Until nothing is being decoded."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self._end_with(ahead.result())


def _source(fetched: Fetched) -> TopicPartition:
    return TopicPartition(fetched.topic, fetched.partition)


def _decode(fetched: list[Fetched], limit: int) -> list[_Piece]:
    """About so many bytes' worth of records, at least one piece of them if there is any, one partition after the other;
    none behind what is damaged.
    """
    pieces, broken = list[_Piece](), set[TopicPartition]()
    for each in fetched:
        while limit > 0 and not each.exhausted and _source(each) not in broken:
            try:
                piece = _Piece(_source(each), each.take(limit))
            except CorruptRecordError as error:
                piece = _Piece(_source(each), error)
                broken.add(piece.source)
            pieces.append(piece)
            limit -= piece.size
    return pieces
