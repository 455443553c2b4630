"""Records that cannot be used go to a topic of their own, with their original bytes and with what was wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsample.errors import DeadLetterLimitError
from streamsample.kafka.wire_encode import encode_headers, join_headers
from streamsample.records import Int64s, RecordBatch, Spans
from streamsample.runtime.source import Rejected

_RECORD_OVERHEAD_BYTES = 1024
_JUDGED_MIN = 100_000
PREFIX = "streamsample.errors."
"""Of the headers that say why a record is a dead letter."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Columns of n dead letters, ready for the sink. timestamps: int64[n], wall time."""

    timestamps: Int64s
    keys: Spans
    values: Spans
    headers: Spans


def letters_of(rejected: Rejected, now_ms: int, message_bytes_max: int) -> Letters:
    """The dead letters of `rejected`: key, value and headers as they were, and headers `streamsample.errors.*` behind
    them.

    Where it is elements of a list that cannot be used, `streamsample.errors.positions` says which; the others were.
    They are stamped with wall time, for their event time may be what is wrong with them. What would be larger than
    `message_bytes_max` is cut, value first, and the header `streamsample.errors.cut` says how many bytes the original
    had.
    """
    batch = rejected.batch.take(rejected.rows)
    own = [
        encode_headers(
            [
                (f"{PREFIX}topic", batch.topic.encode()),
                (f"{PREFIX}partition", b"%d" % batch.partition),
                (f"{PREFIX}offset", b"%d" % offset),
                (f"{PREFIX}stage", rejected.stage.encode()),
                (f"{PREFIX}class", rejected.reason.encode()),
                (f"{PREFIX}message", rejected.message.encode()),
                *_elements(rejected, row),
            ]
        )
        for row, offset in enumerate(batch.offsets.tolist())
    ]
    cut = _cut(batch, np.array([len(headers) for headers in own], np.int64), message_bytes_max)
    for row in np.flatnonzero(cut.was_cut).tolist():
        own[row] += encode_headers([(f"{PREFIX}cut", b"%d" % cut.original_bytes[row])])
    return Letters(
        timestamps=np.full(len(batch), now_ms, np.int64),
        keys=cut.keys,
        values=cut.values,
        headers=join_headers(cut.headers, Spans.of(own)),
    )


def _elements(rejected: Rejected, row: int) -> list[tuple[str, bytes]]:
    """The header that says which elements of a list cannot be used: "0, 4-7". None where it is the whole record."""
    positions = [] if rejected.elements is None else rejected.elements.of(row)
    if not positions:
        return []
    runs = list[list[int]]()
    for position in positions:
        if runs and runs[-1][1] == position - 1:
            runs[-1][1] = position
        else:
            runs.append([position, position])
    shown = ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in runs)
    return [(f"{PREFIX}positions", shown.encode())]


def positions_in(shown: str) -> list[int]:
    """The positions that such a header names."""
    ends = [[int(end) for end in run.split("-")] for run in shown.split(", ") if run]
    return [position for run in ends for position in range(run[0], run[-1] + 1)]


@dataclass(frozen=True, slots=True)
class _Cut:
    keys: Spans
    values: Spans
    headers: Spans
    was_cut: np.ndarray[tuple[int], np.dtype[np.bool_]]
    original_bytes: Int64s


def _cut(batch: RecordBatch, own_bytes: Int64s, message_bytes_max: int) -> _Cut:
    key_bytes, value_bytes, header_bytes = (
        np.maximum(spans.size, 0).astype(np.int64) for spans in (batch.keys, batch.values, batch.headers)
    )
    original = key_bytes + value_bytes + header_bytes
    room = np.maximum(message_bytes_max - own_bytes - _RECORD_OVERHEAD_BYTES, 0)
    was_cut = original > room
    if not was_cut.any():
        return _Cut(batch.keys, batch.values, batch.headers, was_cut, original)
    # Headers cannot be cut in the middle: they stay whole or go. The key comes before the value, for it says whose it
    # is.
    headers_fit = header_bytes <= room
    header_size = np.where(headers_fit, batch.headers.size, np.minimum(batch.headers.size, 0))
    room = room - np.maximum(header_size, 0)
    key_size = np.minimum(batch.keys.size, room)
    room = room - np.maximum(key_size, 0)
    value_size = np.minimum(batch.values.size, room)
    return _Cut(
        _resized(batch.keys, key_size),
        _resized(batch.values, value_size),
        _resized(batch.headers, header_size),
        was_cut,
        original,
    )


def _resized(spans: Spans, size: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Spans:
    return Spans(spans.buffer, spans.start, size.astype(np.int32))


class DeadLetterLimit:
    """Stops the job when too large a share of what it reads is unusable: then the job file is wrong, or a producer.

    The last 100,000 to 200,000 records are judged (or more, if records_min is more): after years of good ones a
    producer that breaks must still be noticed at once.
    """

    def __init__(self, ratio_max: float, records_min: int) -> None:
        self._ratio_max = ratio_max
        self._records_min = records_min
        self._turn = max(records_min, _JUDGED_MIN)
        self._before = (0, 0)
        self._read = 0
        self._dead = 0
        self._example = ""

    def count(self, read: int, rejected: list[Rejected]) -> None:
        """Note what became of `read` more records. Raises DeadLetterLimitError above the ratio."""
        if self._read >= self._turn:
            self._before = (self._read, self._dead)
            self._read = self._dead = 0
        self._read += read
        for group in rejected:
            self._dead += len(group.rows)
            where = f"{group.batch.topic}/{group.batch.partition}@{int(group.batch.offsets[group.rows[0]])}"
            self._example = f"{where}: {group.message}"
        all_, dead = self._read + self._before[0], self._dead + self._before[1]
        if rejected and all_ >= self._records_min and dead > self._ratio_max * all_:
            raise DeadLetterLimitError(
                f"{dead:,} of the last {all_:,} records could not be used, more than dead_letters.max_ratio "
                f"({self._ratio_max:g}) allows; the last one is {self._example}",
                remedy="mend the job file or the producer, or raise dead_letters.max_ratio",
            )
