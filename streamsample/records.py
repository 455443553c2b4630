"""The data that every room passes on: bytes as spans over a buffer, records as columns.

No Python object per record exists on the way of the data. A column of byte strings is a `Spans`: one
uint8 buffer, and per element where it starts and how long it is. A `RecordBatch` is what one fetch brought of one
partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Int64s: TypeAlias = NDArray[np.int64]
Int32s: TypeAlias = NDArray[np.int32]
Float64s: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

NULL = -1
"""The size of a null span. An empty byte string has size 0."""


_Element = TypeVar("_Element", bound=np.generic)


def pick(column: NDArray[_Element], rows: Int64s) -> NDArray[_Element]:
    """The elements of a column, [n], at `rows`, ascending and without repetition: the column itself if it is all of
    them.
    """
    return column if len(rows) == len(column) else column[rows]


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True, slots=True)
class Spans:
    """A column of byte strings (or nulls) over one buffer.

    buffer: uint8[b], C-contiguous, never written to; start: int64[n]; size: int32[n], -1 for null.
    Spans may overlap, repeat and come in any order.
    """

    buffer: Bytes
    start: Int64s
    size: Int32s

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Int64s | Bools) -> Spans:
        """The elements at `rows` (indices or a mask), over the same buffer."""
        return Spans(self.buffer, self.start[rows], self.size[rows])

    def pick(self, rows: Int64s) -> Spans:
        """The elements at `rows`, ascending and without repetition: these spans themselves if it is all of them."""
        return self if len(rows) == len(self) else self.take(rows)

    def __getitem__(self, row: int) -> bytes | None:
        size = int(self.size[row])
        if size < 0:
            return None
        start = int(self.start[row])
        return self.buffer[start : start + size].tobytes()

    def to_list(self) -> list[bytes | None]:
        """Every element as a Python object: for errors, tests and the slow paths only."""
        return [self[row] for row in range(len(self))]

    @staticmethod
    def of(items: Iterable[bytes | None]) -> Spans:
        """Pack Python byte strings into one buffer."""
        held = list(items)
        size = np.array([NULL if item is None else len(item) for item in held], dtype=np.int32)
        room = np.maximum(size, 0).astype(np.int64)
        start = np.cumsum(room) - room
        joined = b"".join(item for item in held if item is not None)
        return Spans(np.frombuffer(joined, dtype=np.uint8), start, size)

    @staticmethod
    def nulls(count: int) -> Spans:
        """`count` nulls."""
        return Spans(np.empty(0, np.uint8), np.zeros(count, np.int64), np.full(count, NULL, np.int32))

    @staticmethod
    def concat(parts: Sequence[Spans]) -> Spans:
        """All elements of `parts` in order; the buffers are copied into one."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Spans.nulls(0)
        sizes = np.array([len(part.buffer) for part in parts], dtype=np.int64)
        base = np.cumsum(sizes) - sizes
        return Spans(
            np.concatenate([part.buffer for part in parts]),
            np.concatenate([part.start + b for part, b in zip(parts, base, strict=True)]),
            np.concatenate([part.size for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Records of one partition, in offset order, as columns of n elements. May be empty.

    offsets, timestamps: int64[n] (timestamps in ms since the epoch, -1 if unknown).
    keys, values: n spans. headers: n spans, each the record's raw headers as the v2 format writes them, without their
    count (null when there are none). `next_offset` is the position after everything this batch stands for,
    including control records, aborted records and compacted gaps that it does not contain.
    """

    topic: str
    partition: int
    offsets: Int64s
    timestamps: Int64s
    keys: Spans
    values: Spans
    headers: Spans
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def source(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def take(self, rows: Int64s | Bools) -> RecordBatch:
        """The records at `rows` (ascending), with the same `next_offset`."""
        return RecordBatch(
            self.topic,
            self.partition,
            self.offsets[rows],
            self.timestamps[rows],
            self.keys.take(rows),
            self.values.take(rows),
            self.headers.take(rows),
            self.next_offset,
        )
