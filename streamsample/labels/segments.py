"""Byte strings in append-only chunks that never move: a bucket's payload, freed as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I32, I64, U8, U8_OUT, copy_bytes, kernel
from streamsample.labels.tables import ROW_TABLE, RowTable
from streamsample.records import Bytes, Int64s, Spans

_CHUNK_MIN: Final = 1 << 16
_CHUNK_MAX: Final = 1 << 23
_LOW: Final = 0xFFFFFFFF
_PAIR: Final = types.UniTuple(types.int64, 2)


@kernel(_PAIR(ROW_TABLE, I64, types.int64, I32, U8, I64, I32, U8_OUT, types.int64, types.int64))
def append_payload(table, picks, first, handles, source, start, size, chunk, number, at):  # type: ignore[no-untyped-def]
    """Copy the payload of `picks[first:]` behind `at` while it fits; returns the first pick left over and the new end."""
    rows = table.rows
    while first < len(picks):
        pick = picks[first]
        length = max(np.int64(size[pick]), 0)
        if at + length > len(chunk):
            break
        copy_bytes(chunk, at, source, start[pick], length)
        rows[handles[pick]].payload = (number << 32) | at
        rows[handles[pick]].payload_size = size[pick]
        at += length
        first += 1
    return first, at


@kernel(types.void(U8, I64, I32, types.int64, I64, U8_OUT))
def gather(source, place, size, chunk, out_start, out):  # type: ignore[no-untyped-def]
    """Copy byte strings to their places in `out`. With chunk >= 0 only those whose place lies in that chunk."""
    for i in range(len(place)):
        if size[i] > 0 and (chunk < 0 or place[i] >> 32 == chunk):
            at = place[i] & _LOW if chunk >= 0 else place[i]
            copy_bytes(out, out_start[i], source, np.int64(at), np.int64(size[i]))


class Segment:
    """The payload of one bucket's rows. Chunk numbers come from `numbers`, which all segments of a join share."""

    __slots__ = ("_at", "_chunks", "_numbers", "bytes_used")

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._chunks: list[tuple[int, Bytes]] = []
        self._at = 0
        self.bytes_used = 0

    def append(self, table: RowTable, picks: Int64s, handles: NDArray[np.int32], payload: Spans) -> None:
        """Copy the payload of the rows at `picks`, whose handles are `handles[picks]`, and note its place in the rows."""
        first, before = 0, self._at
        while True:
            if self._chunks:
                number, chunk = self._chunks[-1]
                first, self._at = append_payload(
                    table, picks, first, handles, payload.buffer, payload.start, payload.size, chunk, number, self._at
                )
                self.bytes_used += self._at - before
            if first == len(picks):
                return
            room = min(_CHUNK_MAX, 2 * len(self._chunks[-1][1])) if self._chunks else _CHUNK_MIN
            room = max(room, int(payload.size[picks[first]]))
            self._chunks.append((next(self._numbers), np.empty(room, np.uint8)))
            self._at = before = 0

    def copy_out(self, place: Int64s, size: NDArray[np.int32], out_start: Int64s, out: Bytes) -> None:
        """Copy payloads of this segment to their places in `out`."""
        for number, chunk in self._chunks:
            gather(chunk, place, size, number, out_start, out)

    def free(self) -> None:
        """Forget all payload."""
        self._chunks = []
        self._at = self.bytes_used = 0


def chunk_numbers() -> Iterator[int]:
    """Numbers for chunks, never used twice."""
    return itertools.count()


def packed(spans: Spans) -> Spans:
    """The same byte strings in a buffer of their own, in order, without gaps."""
    room = np.maximum(spans.size, 0).astype(np.int64)
    end = np.cumsum(room)
    out = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    start: Any = end - room
    gather(spans.buffer, np.ascontiguousarray(spans.start), spans.size, -1, start, out)
    return Spans(out, start, spans.size)
