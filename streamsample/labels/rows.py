"""The open predictions of one task: where they lie, by which bucket of event time they are settled and forgotten.

Rows of one bucket lie in blocks of their own, its ids in pages of their own, its payload in a segment: so closing and
forgetting look only at buckets whose time has come, and memory comes back in whole pieces (A17).
"""

from __future__ import annotations

from bisect import insort
from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I32, I32_OUT, I64, I64_OUT, U8, U64, borrow, copy_bytes, inline, kernel
from streamsample.labels import ledger as books
from streamsample.labels.index import (
    clear_slot,
    empty_slots,
    find_slot,
    handle_in,
    home_of,
    likely_handle,
    slot_value,
    with_room,
)
from streamsample.labels.runs import SortedRuns
from streamsample.labels.segments import Segment
from streamsample.labels.settings import ID_BYTES_MAX
from streamsample.labels.tables import (
    BLOCK,
    BLOCKS_FREE,
    BLOCKS_USED,
    BUCKET,
    HELD,
    INDEXED,
    NONE,
    OPEN_ROWS,
    PAGE,
    PAGES_FREE,
    PAGES_USED,
    PREDICTION_BATCH,
    ROW,
    ROW_OUT,
    ROW_TABLE,
    TIMES,
    RowOut,
    RowTable,
    grown,
    reserved,
)
from streamsample.records import Bools, Int32s, Int64s, Spans

DUPLICATE_ROW: Final = -1
LATE_ROW: Final = -2
REFUSED_ROW: Final = -3
_AHEAD = 128
_MAX = 2**62
_FEW = 8
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_OUT_TYPES: Final = (*[np.int64] * 4, *[np.int32] * 3, np.int16, np.int16, np.int8)
_LATE, _ORPHAN, _PRE_CAUSAL = books.LATE, books.ORPHAN, books.PRE_CAUSAL


@inline
def look_ahead(slots, rows, arena, hashes, first, last, near):  # type: ignore[no-untyped-def]
    """Touch what a run of look-ups will need, one kind of memory after the other, so that cache misses overlap."""
    count = len(slots)
    for i in range(first, last):
        near[i - first] = np.int32(slots[home_of(hashes[i] >> _HALF, count)] & _ONE)
    for i in range(first, last):
        near[i - first] = np.int32(likely_handle(slots, hashes[i] >> _HALF))
    total = np.int64(0)
    for i in range(last - first):
        if near[i] >= 0:
            total += rows[near[i]].id_place
    for i in range(last - first):
        if near[i] >= 0:
            total += arena[rows[near[i]].id_place]
    near[0] = np.int32(total)


@inline
def overlaps(rows, head, ts, dead_before, overlap):  # type: ignore[no-untyped-def]
    """Whether a row of the chain is the same prediction: closer than the windows' reach."""
    row = head
    while row >= 0:
        if rows[row].ts >= dead_before and abs(ts - rows[row].ts) <= overlap:
            return True
        row = rows[row].next
    return False


@inline
def take_number(free, counts, free_at, used_at):  # type: ignore[no-untyped-def]
    """A freed block or page, else the next one never used."""
    if counts[free_at] > 0:
        counts[free_at] -= 1
        return np.int64(free[counts[free_at]])
    counts[used_at] += 1
    return counts[used_at] - 1


@kernel(types.void(ROW_TABLE, TIMES, *PREDICTION_BATCH, I32_OUT))
def insert_rows(  # type: ignore[no-untyped-def]
    table, times, offset, within, event_time, hashes, ids, id_start, id_size, schema, stratum, split, bucket, handles
):
    """Open a row for each prediction that is neither refused nor held already; `handles`: the row, or why not."""
    near = np.empty(_AHEAD, np.int32)
    rows, slots, arena, counts = borrow(table.rows), borrow(table.slots), borrow(table.ids), borrow(table.counts)
    buckets, block_next, page_next = borrow(table.buckets), borrow(table.block_next), borrow(table.page_next)
    blocks_free, pages_free, hashes, ids = borrow(table.blocks_free), borrow(table.pages_free), borrow(hashes), borrow(ids)
    for i in range(len(event_time)):
        if i % _AHEAD == 0:
            look_ahead(slots, rows, arena, hashes, i, min(i + _AHEAD, len(event_time)), near)
        home = bucket[i]
        if home < 0:
            handles[i] = home
            continue
        ts, high, start, size = event_time[i], hashes[i] >> _HALF, id_start[i], np.int64(id_size[i])
        slot = find_slot(slots, rows, arena, high, ids, start, size)
        older = np.int32(handle_in(slots[slot])) if slot >= 0 else np.int32(NONE)
        if overlaps(rows, older, ts, times.dead_before, times.overlap):
            handles[i] = DUPLICATE_ROW
            continue
        if counts[OPEN_ROWS] >= times.open_rows_max:
            handles[i] = REFUSED_ROW
            continue
        if slot < 0:
            slot = -1 - slot
            counts[INDEXED] += 1
        counts[HELD] += 1
        counts[OPEN_ROWS] += np.int64(ts >= times.settled_before)
        block = np.int64(buckets[home].block)
        if block < 0 or buckets[home].fill == BLOCK:
            fresh = take_number(blocks_free, counts, BLOCKS_FREE, BLOCKS_USED)
            block_next[fresh] = NONE
            if block < 0:
                buckets[home].first_block = np.int32(fresh)
            else:
                block_next[block] = np.int32(fresh)
            block = fresh
            buckets[home].block = np.int32(fresh)
            buckets[home].fill = 0
        row = block * BLOCK + buckets[home].fill
        buckets[home].fill += np.int32(1)
        buckets[home].rows += 1
        buckets[home].max_ts = max(buckets[home].max_ts, ts)
        buckets[home].min_fresh = min(buckets[home].min_fresh, ts)
        if buckets[home].page < 0 or buckets[home].page_at + size > PAGE:
            page = take_number(pages_free, counts, PAGES_FREE, PAGES_USED)
            page_next[page] = buckets[home].page
            buckets[home].page = np.int32(page)
            buckets[home].page_at = 0
        place = np.int64(buckets[home].page) * PAGE + buckets[home].page_at
        buckets[home].page_at += np.int32(size)
        copy_bytes(arena, place, ids, start, size)
        rows[row].hash = np.uint32(high)
        rows[row].ts = ts
        rows[row].offset = offset[i]
        rows[row].index = within[i]
        rows[row].schema = schema[i]
        rows[row].stratum = stratum[i]
        rows[row].split = split[i]
        rows[row].head = NONE
        rows[row].next = older
        rows[row].payload_size = NONE
        rows[row].id_size = np.uint16(size)
        rows[row].id_place = place
        rows[row].revision = 0
        slots[slot] = slot_value(high, row)
        handles[i] = np.int32(row)


@kernel(types.void(ROW_TABLE, types.int64, I64))
def remove_rows(table, bucket, handles):  # type: ignore[no-untyped-def]
    """Forget all rows of a bucket, and free its blocks and pages."""
    rows, slots, counts = borrow(table.rows), borrow(table.slots), borrow(table.counts)
    near = np.empty(_AHEAD, np.int32)
    for i in range(len(handles)):
        if i % _AHEAD == 0:
            for j in range(i, min(i + _AHEAD, len(handles))):
                near[j - i] = np.int32(slots[home_of(np.uint64(rows[handles[j]].hash), len(slots))] & _ONE)
        target = np.int32(handles[i])
        high = np.uint64(rows[target].hash)
        slot = home_of(high, len(slots))
        before, row = np.int32(NONE), np.int32(NONE)
        while row != target:
            before, row = np.int32(NONE), np.int32(handle_in(slots[slot]))
            if slots[slot] >> _HALF == high:
                while row >= 0 and row != target:
                    before, row = row, rows[row].next
            if row != target:
                slot += 1
                if slot == len(slots):
                    slot = 0
        if before >= 0:
            rows[before].next = rows[target].next
        elif rows[target].next >= 0:
            slots[slot] = slot_value(high, rows[target].next)
        else:
            clear_slot(slots, slot)
            counts[INDEXED] -= 1
        counts[HELD] -= 1
    block = table.buckets[bucket].first_block
    while block >= 0:
        table.blocks_free[counts[BLOCKS_FREE]] = block
        counts[BLOCKS_FREE] += 1
        block = table.block_next[block]
    page = table.buckets[bucket].page
    while page >= 0:
        table.pages_free[counts[PAGES_FREE]] = page
        counts[PAGES_FREE] += 1
        page = table.page_next[page]


@kernel(types.void(ROW_TABLE, TIMES, U64, U8, I64, I32, I64, I64_OUT))
def find_rows(table, times, hashes, ids, start, size, ts, found):  # type: ignore[no-untyped-def]
    """Per feedback the row that it belongs to: the held one of its id whose window holds its time. Windows of one id never
    overlap, so there is at most one. Without one: -LATE, -PRE_CAUSAL or -ORPHAN, what it is if no other row comes.
    """
    near = np.empty(_AHEAD, np.int32)
    rows, slots, arena = borrow(table.rows), borrow(table.slots), borrow(table.ids)
    hashes, ids = borrow(hashes), borrow(ids)
    for i in range(len(ts)):
        if i % _AHEAD == 0:
            look_ahead(slots, rows, arena, hashes, i, min(i + _AHEAD, len(ts)), near)
        what = np.int64(-_ORPHAN)
        slot = find_slot(slots, rows, arena, hashes[i] >> _HALF, ids, start[i], np.int64(size[i]))
        row = np.int32(handle_in(slots[slot])) if slot >= 0 else np.int32(NONE)
        while row >= 0:
            length = ts[i] - rows[row].ts
            if rows[row].ts >= times.dead_before:
                if -times.skew <= length <= times.window:
                    what = np.int64(row)
                    break
                if times.window < length <= times.late:
                    what = np.int64(-_LATE)
                elif length < -times.skew and what == -_ORPHAN:
                    what = np.int64(-_PRE_CAUSAL)
            row = rows[row].next
        found[i] = what


@kernel(types.void(ROW_TABLE, I64, ROW_OUT))
def copy_rows(table, handles, out):  # type: ignore[no-untyped-def]
    """Copy these rows' fields into columns."""
    rows = borrow(table.rows)
    for i in range(len(handles)):
        row = handles[i]
        out.ts[i] = rows[row].ts
        out.offset[i] = rows[row].offset
        out.payload[i] = rows[row].payload
        out.id_place[i] = rows[row].id_place
        out.payload_size[i] = rows[row].payload_size
        out.id_size[i] = np.int32(rows[row].id_size)
        out.stratum[i] = rows[row].stratum
        out.schema[i] = rows[row].schema
        out.within[i] = rows[row].index
        out.split[i] = rows[row].split


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

    def __init__(self, width_ms: int) -> None:
        self.width_ms = width_ms
        self.table = self._empty()
        self.buckets: dict[int, Bucket] = {}
        self.open: list[int] = []
        """Numbers of the buckets that may have unsettled rows, ascending."""
        self.closed: list[int] = []
        """Numbers of the buckets whose rows are all settled, ascending."""
        self.touched = 0
        """Rows looked at to settle and forget, since the beginning: what closing has cost."""
        self._free_slots: list[int] = []
        self._added: set[int] = set()

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
            grown_rows[: used * BLOCK] = table.rows[: used * BLOCK]
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
        block = int(self.table.buckets["first_block"][bucket.slot])
        for _ in range(first // BLOCK):
            block = int(self.table.block_next[block])
        parts = []
        for at in range(first // BLOCK * BLOCK, total, BLOCK):
            parts.append(np.arange(block * BLOCK, block * BLOCK + min(BLOCK, total - at), dtype=np.int64))
            block = int(self.table.block_next[block])
        return np.concatenate(parts)[first % BLOCK :]

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
        """Free the payload of the buckets whose rows are all settled."""
        while self.open and self._max_ts(self.open[0]) < settled_before:
            bucket = self.buckets[self.open.pop(0)]
            bucket.segment.free()
            bucket.closed = True
            insort(self.closed, bucket.number)

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
        counts = self.table.counts
        payload = sum(bucket.segment.bytes_used for bucket in self.buckets.values())
        runs = sum(16 * len(bucket.runs) for bucket in self.buckets.values())
        fixed = counts[BLOCKS_USED] * (BLOCK * ROW.itemsize + 8) + counts[PAGES_USED] * (PAGE + 8)
        return int(fixed) + self.table.slots.nbytes + self.table.buckets.nbytes + payload + runs

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
            bucket = self.buckets[number] = Bucket(number, slot, Segment())
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
