"""The bytes of waiting feedback as it was read, for joins that must hand them back when nothing can use it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamsample.gather import gather, packed
from streamsample.labels.tables import grown
from streamsample.records import Bytes, Int32s, Int64s, Spans


class Originals:
    """Byte strings by handle, in one append-only buffer that is packed anew when half of it is dead.

    Each byte is moved O(1) times.
    """

    _MIN = 4096

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all of them."""
        self._place: Int64s = np.empty(0, np.int64)
        self._size: Int32s = np.empty(0, np.int32)
        self._buffer: Bytes = np.empty(0, np.uint8)
        self._used = 0

    def put(self, handles: Int64s, originals: Spans, live: Callable[[], Int64s]) -> None:
        """Keep one for each handle. live: the handles whose bytes are wanted, these included."""
        size = np.maximum(originals.size, 0)
        more = int(size.sum(dtype=np.int64))
        if self._used + more > len(self._buffer):
            self._pack(np.setdiff1d(live(), handles), more)
        top = int(handles.max()) + 1
        known = len(self._place)
        if top > known:
            self._place, self._size = grown(self._place, known, top), grown(self._size, known, top)
        end = np.cumsum(size, dtype=np.int64) + self._used
        self._place[handles], self._size[handles] = end - size, size
        gather(originals.buffer, originals.start, size, end - size, self._buffer)
        self._used += more

    def of(self, handles: Int64s) -> Spans:
        """Those of the handles, over the buffer."""
        return Spans(self._buffer, self._place[handles], self._size[handles])

    def bytes_used(self) -> int:
        """Bytes of memory in use."""
        return self._used + 12 * len(self._place)

    def _pack(self, live: Int64s, more: int) -> None:
        kept = packed(self._buffer, self._place[live], self._size[live])
        used = len(kept.buffer)
        self._buffer = np.empty(max(2 * (used + more), self._MIN), np.uint8)
        self._buffer[:used] = kept.buffer
        self._place[live] = kept.start
        self._used = used
