"""The open predictions of one task: where they lie, by which bucket of event time they are settled and forgotten.

Rows of one bucket lie in blocks of their own, its ids in pages of their own, its payload in a segment: so closing and
forgetting look only at buckets whose time has come, and memory comes back in whole pieces (A17).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsample.labels.index import empty_slots, with_room
from streamsample.labels.row_kernels import copy_rows, list_rows, remove_rows
from streamsample.labels.runs import SortedRuns
from streamsample.labels.segments import Segment
from streamsample.labels.settings import ID_BYTES_MAX
from streamsample.labels.space import PayloadSpace
from streamsample.labels.tables import (
    BLOCK,
    BLOCKS_FREE,
    BLOCKS_USED,
    BUCKET,
    INDEXED,
    NONE,
    PAGE,
    PAGES_FREE,
    PAGES_USED,
    ROW,
    RowOut,
    RowTable,
    grown,
    move,
    reserved,
)
from streamsample.records import Bools, Int32s, Int64s, Spans

_MAX: Final = 2**62
_FEW: Final = 8
_OUT_TYPES: Final = (*[np.int64] * 4, *[np.int32] * 2, np.int16, np.int16, np.int8, np.uint32)


class Bucket:
    """A stretch of event time. Kernel-side figures are in the table's `buckets[slot]`."""

    __slots__ = ("closed", "number", "runs", "saved", "segment", "slot", "sorted")

    def __init__(self, number: int, slot: int, segment: Segment) -> None:
        self.number = number
        self.slot = slot
        self.segment = segment
        self.runs = SortedRuns()
        self.closed = False
        self.sorted = 0
        """Rows (the first ones added) that have been moved to `runs`."""
        self.saved = 0
        """Rows (the first ones added) that a delta already has."""


class Rows:
    """Owns the row table; grows it before kernels fill it, and keeps the buckets."""

    _SLOTS_MIN = 64

    def __init__(self, width_ms: int, space: PayloadSpace) -> None:
        self.width_ms = width_ms
        self._space = space
        self._counted = 0
        self.table = self._empty()
        self.buckets: dict[int, Bucket] = {}
        self.open: list[int] = []
        """Numbers of the buckets that may have unsettled rows, ascending."""
        self.closed: list[int] = []
        """Numbers of the buckets whose rows are all settled, ascending."""
        self.kept: list[int] = []
        """Those of the closed that still have their payload and matched feedback, ascending."""
        self.touched = 0
        """Rows looked at to settle and forget, since the beginning: what closing has cost."""
        self._free_slots: list[int] = []
        self._added: set[int] = set()
        self._read: set[int] = set()
        """Numbers of the buckets whose payload was read, and is still needed, while some lay in files."""

    def _empty(self) -> RowTable:
        return RowTable(
            rows=_aligned_rows(BLOCK),
            slots=empty_slots(),
            ids=np.empty(PAGE, np.uint8),
            buckets=np.empty(self._SLOTS_MIN, BUCKET),
            block_next=np.empty(1, np.int32),
            blocks_free=np.empty(1, np.int32),
            page_next=np.empty(1, np.int32),
            pages_free=np.empty(1, np.int32),
            counts=np.zeros(PAGES_USED + 1, np.int64),
        )

    def place(self, ts: Int64s, refused: NDArray[np.int32] | None) -> tuple[Int32s, list[Bucket]]:
        """Each prediction's bucket slot (or its negative `refused` reason), and the buckets met, made where missing."""
        kept = ts if refused is None else ts[refused == 0]
        slot = np.empty(len(ts), np.int32) if refused is None else refused.copy()
        if not len(kept):
            return slot, []
        low, high = int(kept.min()) // self.width_ms, int(kept.max()) // self.width_ms
        if low == high:
            bucket = self._bucket(low)
            slot[slice(None) if refused is None else refused == 0] = bucket.slot
            return slot, [bucket]
        taken = kept // self.width_ms
        if high - low < 4 * len(ts) + 65536:
            met = np.flatnonzero(np.bincount(taken - low)) + low
            buckets = [self._bucket(int(value)) for value in met]
            table = np.zeros(high - low + 1, np.int32)
            table[met - low] = [bucket.slot for bucket in buckets]
            found = table[taken - low]
        else:
            met, inverse = np.unique(taken, return_inverse=True)
            buckets = [self._bucket(int(value)) for value in met]
            found = np.array([bucket.slot for bucket in buckets], np.int32)[inverse]
        slot[slice(None) if refused is None else refused == 0] = found
        return slot, buckets

    def reserve(self, rows: int, id_bytes: int, buckets: int) -> None:
        """Make room for `rows` more with `id_bytes` in all, in `buckets` buckets."""
        table, counts = self.table, self.table.counts
        blocks = int(counts[BLOCKS_USED]) + max(0, rows // BLOCK + buckets + 1 - int(counts[BLOCKS_FREE]))
        if blocks > len(table.block_next):
            used = int(counts[BLOCKS_USED])
            link = grown(table.block_next, used, blocks)
            grown_rows = _aligned_rows(len(link) * BLOCK)
            move(table.rows, grown_rows, used * BLOCK)
            free = grown(table.blocks_free, int(counts[BLOCKS_FREE]), len(link))
            table = table._replace(rows=grown_rows, block_next=link, blocks_free=free)
        wanted = id_bytes // (PAGE - ID_BYTES_MAX) + buckets + 1
        pages = int(counts[PAGES_USED]) + max(0, wanted - int(counts[PAGES_FREE]))
        if pages > len(table.page_next):
            used = int(counts[PAGES_USED])
            link = grown(table.page_next, used, pages)
            ids = grown(table.ids, used * PAGE, len(link) * PAGE)
            free = grown(table.pages_free, int(counts[PAGES_FREE]), len(link))
            table = table._replace(ids=ids, page_next=link, pages_free=free)
        self.table = table._replace(slots=with_room(table.slots, int(counts[INDEXED]), rows))
        self._count_tables()

    def store_payload(
        self, buckets: list[Bucket], slots: Int32s, picks: Int64s, handles: Int32s, payload: Spans
    ) -> None:
        """Copy the payload of the new rows at `picks` to their buckets' segments."""
        if len(buckets) == 1:
            buckets[0].segment.append(self.table, picks, handles, payload)
            return
        of_pick = slots[picks]
        if len(buckets) <= _FEW:
            for bucket in buckets:
                mine = picks[of_pick == bucket.slot]
                if len(mine):
                    bucket.segment.append(self.table, mine, handles, payload)
            return
        order = picks[np.argsort(of_pick, kind="stable")]
        sorted_slots = slots[order]
        met = np.array([bucket.slot for bucket in buckets], sorted_slots.dtype)
        firsts, ends = np.searchsorted(sorted_slots, met), np.searchsorted(sorted_slots, met, side="right")
        for bucket, first, end in zip(buckets, firsts.tolist(), ends.tolist(), strict=True):
            if first < end:
                bucket.segment.append(self.table, order[first:end], handles, payload)

    def keep_open(self, buckets: list[Bucket], settled_before: int) -> None:
        """After rows were added: drop buckets that stayed empty, and reopen those that were closed."""
        for bucket in buckets:
            self._added.add(bucket.number)
            figures = self.table.buckets[bucket.slot]
            if figures["rows"] == 0:
                self._forget(bucket)
                self.open.remove(bucket.number)
            elif bucket.closed and figures["max_ts"] >= settled_before:
                bucket.closed = False
                self.closed.remove(bucket.number)
                if bucket.number in self.kept:
                    self.kept.remove(bucket.number)
                insort(self.open, bucket.number)

    def take_added(self) -> list[int]:
        """The buckets that were added to since the last call; some may be gone."""
        added, self._added = self._added, set()
        return sorted(added)

    def handles(self, bucket: Bucket, first: int = 0) -> Int64s:
        """The rows of a bucket from the `first` on, in the order in which they were added."""
        total = int(self.table.buckets["rows"][bucket.slot])
        if first >= total:
            return np.empty(0, np.int64)
        handles = np.empty(total - first, np.int64)
        list_rows(self.table, bucket.slot, first, handles)
        return handles

    def columns(self, handles: Int64s) -> RowOut:
        """These rows' fields as columns."""
        out = RowOut(*(np.empty(len(handles), dtype) for dtype in _OUT_TYPES))
        copy_rows(self.table, handles, out)
        return out

    def take_closing(self, settled_before: int, before: int) -> Int64s:
        """The rows with `settled_before <= ts < before`, ordered by (ts, order of addition)."""
        closing = [np.empty(0, np.int64)]
        table = self.table.buckets
        for number in self.open:
            if number * self.width_ms >= before:
                break
            bucket = self.buckets[number]
            if table["min_fresh"][bucket.slot] < before:
                self._sort_fresh(bucket, settled_before)
            handles = bucket.runs.take_before(before)[1]
            self.touched += len(handles)
            closing.append(handles)
        return np.concatenate(closing)

    def close(self, settled_before: int) -> None:
        """Note the buckets whose rows are all settled."""
        while self.open and self._max_ts(self.open[0]) < settled_before:
            bucket = self.buckets[self.open.pop(0)]
            bucket.closed = True
            insort(self.closed, bucket.number)
            insort(self.kept, bucket.number)

    def release(self, released_before: int, free_matches: Callable[[Int64s], None] | None = None) -> None:
        """Free the payload, and the matched feedback, of the buckets whose rows can give no record any more."""
        while self.kept and self._max_ts(self.kept[0]) < released_before:
            bucket = self.buckets[self.kept.pop(0)]
            bucket.segment.free()
            if free_matches is not None:
                handles = self.handles(bucket)
                self.touched += len(handles)
                free_matches(handles)

    def forget(self, dead_before: int) -> None:
        """Remove the buckets whose rows are all dead."""
        while self.closed and self._max_ts(self.closed[0]) < dead_before:
            bucket = self.buckets[self.closed.pop(0)]
            handles = self.handles(bucket)
            self.touched += len(handles)
            remove_rows(self.table, bucket.slot, handles)
            self._forget(bucket)
        if not self.buckets:
            self._free_slots = []
            if len(self.table.rows) > BLOCK:
                self.table = self._empty()
                self._count_tables()

    def free(self) -> None:
        """Give all payload back. Nothing can be asked of the rows any more."""
        for bucket in self.buckets.values():
            bucket.segment.free()
        self.buckets = {}
        self._space.table_bytes -= self._counted
        self._counted = 0

    def check_payload(self, ts: Int64s, *, stays: bool) -> None:
        """Before the payload of rows with these times is read: that files hold what was written. Raises LocalStateError
        if they do not. stays: it is needed afterwards, but not soon.
        """
        if not self._space.file_bytes or not len(ts):
            return
        for number in np.unique(ts // self.width_ms).tolist():
            self.buckets[number].segment.check()
            if stays:
                self._read.add(number)

    def keep_limit(self) -> None:
        """Bring payload that is beyond the limit into files, and free the memory that reading from there has taken."""
        for number in self._read & self.buckets.keys():
            self.buckets[number].segment.let_go()
        self._read.clear()
        self._count_tables()
        self._space.keep_limit()

    def _count_tables(self) -> None:
        now = self._table_bytes()
        self._space.table_bytes += now - self._counted
        self._counted = now

    def first_open(self) -> int | None:
        """A lower bound of the event times of unsettled rows."""
        if not self.open:
            return None
        bucket = self.buckets[self.open[0]]
        fresh = int(self.table.buckets["min_fresh"][bucket.slot])
        sorted_ = bucket.runs.first()
        return fresh if sorted_ is None else min(fresh, sorted_)

    def bytes_used(self) -> int:
        """Bytes of memory in use, payload included, slack never touched left out."""
        payload = sum(bucket.segment.bytes_used for bucket in self.buckets.values())
        runs = sum(16 * len(bucket.runs) for bucket in self.buckets.values())
        return self._table_bytes() + payload + runs

    def _table_bytes(self) -> int:
        counts = self.table.counts
        fixed = counts[BLOCKS_USED] * (BLOCK * ROW.itemsize + 8) + counts[PAGES_USED] * (PAGE + 8)
        return int(fixed) + self.table.slots.nbytes + self.table.buckets.nbytes

    def _sort_fresh(self, bucket: Bucket, settled_before: int) -> None:
        handles = self.handles(bucket, bucket.sorted)
        bucket.sorted += len(handles)
        ts = self.table.rows["ts"][handles]
        unsettled: Bools = ts >= settled_before
        if not unsettled.all():
            ts, handles = ts[unsettled], handles[unsettled]
        before = bucket.runs.touched
        bucket.runs.add(ts, handles)
        self.touched += bucket.runs.touched - before
        self.table.buckets["min_fresh"][bucket.slot] = _MAX

    def _max_ts(self, number: int) -> int:
        return int(self.table.buckets["max_ts"][self.buckets[number].slot])

    def _bucket(self, number: int) -> Bucket:
        bucket = self.buckets.get(number)
        if bucket is None:
            slot = self._free_slots.pop() if self._free_slots else len(self.buckets)
            if slot >= len(self.table.buckets):
                self.table = self.table._replace(buckets=grown(self.table.buckets, slot, slot + 1))
            self.table.buckets[slot] = (0, _MAX, -_MAX, NONE, NONE, 0, NONE, 0, 0)
            bucket = self.buckets[number] = Bucket(number, slot, Segment(self._space))
            insort(self.open, number)
        return bucket

    def _forget(self, bucket: Bucket) -> None:
        del self.buckets[bucket.number]
        self._free_slots.append(bucket.slot)


def _aligned_rows(count: int) -> NDArray[np.void]:
    """Uninitialised rows, each in one cache line."""
    raw = reserved(count * ROW.itemsize + 64, np.dtype(np.uint8))
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + count * ROW.itemsize].view(ROW)
