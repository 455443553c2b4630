"""Byte strings in append-only chunks that never move: a bucket's payload, freed as a whole (see `space`)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.gather import room_for
from streamsample.kernels import I32, I64, U8, U8_OUT, borrow, copy_bytes, copy_from_address, kernel
from streamsample.labels.space import Chunk, PayloadSpace
from streamsample.labels.tables import ROW_TABLE, RowTable
from streamsample.records import Int32s, Int64s, Spans

_CHUNK_MIN: Final = 1 << 15
_CHUNK_MAX: Final = 1 << 23
_CHUNK_AT_ONCE: Final = 1 << 20
"""A new chunk takes what is to be appended, up to this."""
_CHUNK_SHARE: Final = 64
"""It is at least this part of what is held already: the last one's empty end stays small beside the whole."""
_REST: Final = 1 << 12
"""Less room than this is not worth another look: the chunk may go to a file."""
_PAIR: Final = types.UniTuple(types.int64, 2)


@kernel(_PAIR(ROW_TABLE, I64, types.int64, I32, U8, I64, I32, U8_OUT, types.int64, types.int64))
def append_payload(table, picks, first, handles, source, start, size, chunk, address, at):  # type: ignore[no-untyped-def]
    """Copy the payload of `picks[first:]` behind `at` while it fits; the first pick left over, and the new end."""
    rows = borrow(table.rows)
    while first < len(picks):
        pick = picks[first]
        length = max(np.int64(size[pick]), 0)
        if at + length > len(chunk):
            break
        copy_bytes(chunk, at, source, start[pick], length)
        rows[handles[pick]].payload = address + at
        rows[handles[pick]].payload_size = size[pick]
        at += length
        first += 1
    return first, at


@kernel(types.void(I64, I32, I64, U8_OUT))
def gather_addresses(address, size, out_start, out):  # type: ignore[no-untyped-def]
    """Copy byte strings from memory addresses to their places in `out`; those of size <= 0 are not looked at."""
    for i in range(len(address)):
        if size[i] > 0:
            copy_from_address(out, out_start[i], address[i], np.int64(size[i]))


class Segment:
    """The payload of one bucket's rows; the rows hold its memory addresses."""

    __slots__ = ("_chunks", "_space", "bytes_used")

    def __init__(self, space: PayloadSpace) -> None:
        self._space = space
        self._chunks: list[Chunk] = []
        self.bytes_used = 0

    def append(self, table: RowTable, picks: Int64s, handles: NDArray[np.int32], payload: Spans) -> None:
        """Copy the payload of the rows at `picks`, whose handles are `handles[picks]`; the rows note where it is."""
        first = 0
        while True:
            chunk = self._chunks[-1] if self._chunks else None
            if chunk is not None and chunk.file is None and not chunk.full:
                before = chunk.used
                first, chunk.used = append_payload(
                    table,
                    picks,
                    first,
                    handles,
                    payload.buffer,
                    payload.start,
                    payload.size,
                    chunk.view,
                    chunk.address,
                    before,
                )
                self.bytes_used += chunk.used - before
                if first < len(picks) or len(chunk.view) - chunk.used < _REST:
                    self._space.filled(chunk)
            if first == len(picks):
                return
            wanted = min(_CHUNK_AT_ONCE, int(np.maximum(payload.size[picks[first:]], 0).sum(dtype=np.int64)))
            room = min(_CHUNK_MAX, max(_CHUNK_MIN, self.bytes_used // _CHUNK_SHARE, wanted))
            self._chunks.append(self._space.chunk(max(room, int(payload.size[picks[first]]))))

    @property
    def chunks(self) -> list[Chunk]:
        """Where the payload lies, oldest first."""
        return list(self._chunks)

    def take_over(self, chunks: list[Chunk]) -> None:
        """Have these chunks, of an earlier process, in an empty segment."""
        self._chunks = chunks
        self.bytes_used = sum(chunk.used for chunk in chunks)

    def check(self) -> None:
        """Before payload is read: that what lies in files is what was written. Each chunk in a file is looked at once.

        Raises LocalStateError if it is not.
        """
        for chunk in self._chunks:
            chunk.check()

    def let_go(self) -> None:
        """Free the memory that reading from files has taken."""
        for chunk in self._chunks:
            chunk.let_go()

    def free(self) -> None:
        """Forget all payload."""
        for chunk in self._chunks:
            self._space.free(chunk)
        self._chunks = []
        self.bytes_used = 0


def packed_addresses(address: Int64s, size: Int32s) -> Spans:
    """Byte strings from memory addresses in a buffer of their own, in order, without gaps."""
    start, out = room_for(size)
    gather_addresses(address, size, start, out)
    return Spans(out, start, size)
