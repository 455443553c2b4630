"""Many records of one origin partition in one message: how rekeyed records travel to the task that owns their ids.

A message: the size of its head (uint32, little-endian: see `state.framed`), the head as MessagePack, and of n records
the offsets and timestamps (int64[n] each), the sizes of keys, headers and values (int32[n] each, -1 for null; those of
keys and of headers only if one is not null), and then all keys, all headers, all values. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsample.errors import StateError
from streamsample.gather import gather
from streamsample.records import Bytes, Int64s, RecordBatch, Spans
from streamsample.runtime.state import RESET, framed, unframed

_FIXED: Final = 2 * 8
_SIZE: Final = 4


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Of a message about one origin, a partition of a rekeyed topic.

    shape: `Job.state_shape` of the sender. partition: the origin's. With records: source, which of the topic's sources
    they are for, and next_offset, the offset after the last of them. Without: `progress`.
    """

    shape: str
    partition: int
    next_offset: int
    count: int = 0
    source: int = 0
    keys: bool = False
    headers: bool = False
    progress: Progress | None = None


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How far a sender has come with an origin, all of it sent before. level: event time, None before the first event;
    silent_ms: for how long it has been caught up and nothing came, 0 if that does not matter; covered_from: from which
    event time on it was readable.
    """

    level: int | None
    silent_ms: int
    covered_from: int


@dataclass(frozen=True, slots=True)
class Block:
    """What the message at an offset says. records: as they were read of the origin, if it has any."""

    offset: int
    head: Head
    records: RecordBatch | None


def record_bytes(batch: RecordBatch, rows: Int64s) -> Int64s:
    """How many bytes each of the records needs in a block, int64[m]."""
    size = np.full(len(rows), _FIXED + 3 * _SIZE, np.int64)
    for spans in (batch.keys, batch.headers, batch.values):
        size += np.maximum(spans.size[rows], 0)
    return size


def encode_records(shape: str, source: int, batch: RecordBatch, rows: Int64s) -> Bytes:
    """The message with a batch's records at `rows` (ascending, one at least)."""
    keys, headers, values = (spans.take(rows) for spans in (batch.keys, batch.headers, batch.values))
    has = [bool((spans.size >= 0).any()) for spans in (keys, headers)]
    head = framed(
        Head(shape, batch.partition, int(batch.offsets[rows[-1]]) + 1, len(rows), source, keys=has[0], headers=has[1])
    )
    columns = [spans for spans, there in ((keys, has[0]), (headers, has[1]), (values, True)) if there]
    totals = [int(np.maximum(spans.size, 0).sum(dtype=np.int64)) for spans in columns]
    out = np.empty(len(head) + len(rows) * (_FIXED + _SIZE * len(columns)) + sum(totals), np.uint8)
    at = _put(out, 0, np.frombuffer(head, np.uint8))
    at = _put(out, at, batch.offsets[rows].astype("<i8"))
    at = _put(out, at, batch.timestamps[rows].astype("<i8"))
    for spans in columns:
        at = _put(out, at, spans.size.astype("<i4"))
    for spans, total in zip(columns, totals, strict=True):
        room = np.maximum(spans.size, 0).astype(np.int64)
        gather(spans.buffer, spans.start, spans.size, np.cumsum(room) - room + at, out)
        at += total
    return out


def encode_progress(shape: str, partition: int, next_offset: int, progress: Progress) -> Bytes:
    """The message that says how far an origin has come."""
    return np.frombuffer(framed(Head(shape, partition, next_offset, progress=progress)), np.uint8)


def blocks_of(batch: RecordBatch, topic: str, shape: str) -> Iterator[Block]:
    """What the messages of a batch say; `topic`: the rekeyed topic. Raises StateError if one is damaged, or of another
    job.
    """
    for row in range(len(batch)):
        where = f"{batch.topic}/{batch.partition}@{int(batch.offsets[row])}"
        begin = int(batch.values.start[row])
        data = batch.values.buffer[begin : begin + max(int(batch.values.size[row]), 0)]
        try:
            head, at = _head_of(data)
            if head.shape != shape:
                raise StateError(
                    f"{where}: these records were sent by a job of another shape (its ids, times or feedback have "
                    "changed)",
                    remedy=f"run all workers with the same job file, or {RESET}",
                )
            yield Block(int(batch.offsets[row]), head, _records_of(data, at, head, topic) if head.count else None)
        except (msgspec.MsgspecError, struct.error, ValueError) as error:
            raise StateError(
                f"{where}: these records of another task cannot be read: {error}",
                remedy=f"nothing but streamsample may write to this topic; {RESET}",
            ) from error


def _head_of(data: Bytes) -> tuple[Head, int]:
    first = struct.unpack_from(">I", data[:4].tobytes())[0]
    head, _ = unframed(data[: 4 + first].tobytes(), Head)
    return head, 4 + first


def _records_of(data: Bytes, at: int, head: Head, topic: str) -> RecordBatch:
    count = head.count
    offsets, at = _take(data, at, "<i8", count), at + 8 * count
    timestamps, at = _take(data, at, "<i8", count), at + 8 * count
    sizes = []
    for there in (head.keys, head.headers, True):
        sizes.append(_take(data, at, "<i4", count) if there else np.full(count, -1, np.int32))
        at += _SIZE * count if there else 0
    spans = []
    for size in sizes:
        room = np.maximum(size, 0).astype(np.int64)
        end = np.cumsum(room) + at
        spans.append(Spans(data, end - room, size))
        at = int(end[-1])
    if at != len(data):
        raise ValueError(f"it has {len(data)} bytes, {at} are needed")
    keys, headers, values = spans
    return RecordBatch(topic, head.partition, offsets, timestamps, keys, values, headers, head.next_offset)


def _put(out: Bytes, at: int, column: NDArray[np.generic]) -> int:
    data = column.view(np.uint8)
    out[at : at + len(data)] = data
    return at + len(data)


def _take(data: Bytes, at: int, dtype: str, count: int) -> Any:
    end = at + count * np.dtype(dtype).itemsize
    if end > len(data):
        raise ValueError("it is cut short")
    return np.frombuffer(data[at:end].tobytes(), dtype)  # a copy: kernels need it aligned
