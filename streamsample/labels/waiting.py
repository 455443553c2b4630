"""Feedback that came before its prediction: it waits until the watermark says that no prediction can come (A2)."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.gather import gather
from streamsample.kernels import I32, I64, I64_OUT, borrow, copy_bytes, inline, kernel
from streamsample.labels.index import (
    clear_slot,
    empty_slots,
    find_slot,
    handle_in,
    home_of,
    slot_of_handle,
    slot_value,
    with_room,
)
from streamsample.labels.originals import Originals
from streamsample.labels.runs import SortedRuns
from streamsample.labels.tables import (
    FEEDBACK_BATCH,
    IDS_LIVE,
    IDS_USED,
    ITEMS_FREE,
    ITEMS_USED,
    LIVE,
    NONE,
    ROW_TABLE,
    SEQUENCE,
    WAIT,
    WAIT_INDEXED,
    WAIT_TABLE,
    FeedbackBatch,
    RowTable,
    WaitTable,
    grown,
)
from streamsample.records import Bools, Int32s, Int64s, Spans

_LOW = 0xFFFFFFFF
_AHEAD = 128


@inline
def unlink(items, slots, free, counts, item):  # type: ignore[no-untyped-def]
    """Take an item out of its id's chain and the index, and free it; its fields stay readable until it is reused."""
    newer, older = items[item].previous, items[item].next
    if older >= 0:
        items[older].previous = newer
    if newer >= 0:
        items[newer].next = older
    else:
        high = np.uint64(items[item].hash)
        slot = slot_of_handle(slots, high, item)
        if older >= 0:
            slots[slot] = slot_value(high, older)
        else:
            clear_slot(slots, slot)
            counts[WAIT_INDEXED] -= 1
    items[item].sequence = NONE
    free[counts[ITEMS_FREE]] = item
    counts[ITEMS_FREE] += 1
    counts[LIVE] -= 1
    counts[IDS_LIVE] -= np.int64(items[item].id_size)


@kernel(types.int64(ROW_TABLE, WAIT_TABLE, types.int64, types.int64, I32, I64_OUT, I64_OUT))
def take_fitting(table, wait, skew, window, handles, found_rows, found):  # type: ignore[no-untyped-def]
    """Take out what waits for the new rows `handles` (negative: none); per row the oldest arrival first, which is a
    source's offset order. Returns how many.
    """
    rows, items, slots, free, counts = (
        borrow(table.rows), borrow(wait.items), borrow(wait.slots), borrow(wait.free), borrow(wait.counts)
    )  # fmt: skip
    row_ids, ids = borrow(table.ids), borrow(wait.ids)
    near = np.empty(_AHEAD, np.uint64)
    count = 0
    for i in range(len(handles)):
        if i % _AHEAD == 0:  # What the next look-ups need is fetched at once: their cache misses overlap.
            for j in range(i, min(i + _AHEAD, len(handles))):
                if handles[j] >= 0:
                    near[j - i] = slots[home_of(np.uint64(rows[handles[j]].hash), len(slots))]
        row = handles[i]
        if row < 0:
            continue
        size = np.int64(rows[row].id_size)
        slot = find_slot(slots, items, ids, np.uint64(rows[row].hash), row_ids, rows[row].id_place, size)
        if slot < 0:
            continue
        item = np.int32(handle_in(slots[slot]))
        while items[item].next >= 0:
            item = items[item].next
        while item >= 0:
            newer = items[item].previous
            if -skew <= items[item].ts - rows[row].ts <= window:
                unlink(items, slots, free, counts, item)
                found_rows[count] = row
                found[count] = item
                count += 1
            item = newer
    return count


@kernel(types.void(WAIT_TABLE, *FEEDBACK_BATCH, I64, types.int64, I64_OUT))
def add_waiting(  # type: ignore[no-untyped-def]
    wait,
    source,
    offset,
    within,
    event_time,
    feedback_id,
    hashes,
    ids,
    id_start,
    id_size,
    mask,
    bits,
    picks,
    width,
    handles,
):
    """Let the feedback at `picks` wait; room was made before. `handles`: where each went."""
    items, counts = wait.items, wait.counts
    for i in range(len(picks)):
        at = picks[i]
        if counts[ITEMS_FREE] > 0:
            counts[ITEMS_FREE] -= 1
            item = np.int64(wait.free[counts[ITEMS_FREE]])
        else:
            item = counts[ITEMS_USED]
            counts[ITEMS_USED] += 1
        size = np.int64(id_size[at])
        high = hashes[at] >> np.uint64(32)
        slot = find_slot(wait.slots, items, wait.ids, high, ids, id_start[at], size)
        items[item].previous = NONE
        if slot >= 0:
            older = handle_in(wait.slots[slot])
            items[item].next = np.int32(older)
            items[older].previous = np.int32(item)
        else:
            items[item].next = NONE
            slot = -1 - slot
            counts[WAIT_INDEXED] += 1
        wait.slots[slot] = slot_value(high, item)
        items[item].hash = np.uint32(high)
        items[item].ts = event_time[at]
        items[item].offset = offset[at]
        items[item].feedback_id = feedback_id[at]
        items[item].index = within[at]
        items[item].source = source[at]
        items[item].mask = mask[at]
        items[item].id_size = np.uint16(size)
        items[item].id_place = counts[IDS_USED]
        items[item].sequence = counts[SEQUENCE]
        copy_bytes(wait.ids, counts[IDS_USED], ids, id_start[at], size)
        for k in range(width):
            wait.bits[item * width + k] = bits[at * width + k]
        counts[IDS_USED] += size
        counts[IDS_LIVE] += size
        counts[SEQUENCE] += 1
        counts[LIVE] += 1
        handles[i] = item


@kernel(types.void(WAIT_TABLE, I64))
def drop_waiting(wait, handles):  # type: ignore[no-untyped-def]
    """Forget these items."""
    items, slots, free, counts = borrow(wait.items), borrow(wait.slots), borrow(wait.free), borrow(wait.counts)
    for i in range(len(handles)):
        unlink(items, slots, free, counts, np.int32(handles[i]))


class Waiting:
    """Owns the table of waiting feedback, and knows what expires when and what is new since the last delta."""

    _MIN = 256

    def __init__(self, width: int, *, keeps_originals: bool = False) -> None:
        self._width = width
        self._originals = Originals() if keeps_originals else None
        self._runs = SortedRuns()
        self._fresh: list[Int64s] = []
        self.table = self._empty()

    def _empty(self) -> WaitTable:
        return WaitTable(
            items=np.empty(self._MIN, WAIT),
            slots=empty_slots(),
            ids=np.empty(self._MIN * 16, np.uint8),
            bits=np.empty(self._MIN * self._width, np.int64),
            free=np.empty(self._MIN, np.int32),
            counts=np.zeros(IDS_LIVE + 1, np.int64),
        )

    def __len__(self) -> int:
        return int(self.table.counts[LIVE])

    def add(self, batch: FeedbackBatch, picks: Int64s, originals: Spans | None = None) -> None:
        """Let the feedback at `picks` (ascending) wait. originals: of each its bytes, where they are kept."""
        self._reserve(len(picks), int(batch.id_size[picks].sum()))
        handles = np.empty(len(picks), np.int64)
        add_waiting(self.table, *batch, picks, self._width, handles)
        tickets = (handles << 32) | (self.table.items["sequence"][handles] & _LOW)
        self._fresh.append(tickets)
        if self._originals is not None and originals is not None:
            self._originals.put(handles, originals, self._live)
        self._runs.add(batch.ts[picks], tickets)

    def take_expired(self, before: int) -> Int64s:
        """The handles of waiting feedback with an event time < `before`, by time; they are still held."""
        return self._valid(self._runs.take_before(before)[1])

    def drop(self, handles: Int64s) -> None:
        """Forget these."""
        drop_waiting(self.table, handles)
        self._tidy()

    def take_for(self, rows: RowTable, handles: Int32s, skew: int, window: int) -> tuple[FeedbackBatch, Int64s, Spans]:
        """Take out what waits for new rows: the feedback, the row of each, and its bytes."""
        found_rows, found = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        count = take_fitting(rows, self.table, skew, window, handles, found_rows, found)
        batch, originals = self.batch_of(found[:count]), self.originals_of(found[:count])
        self._tidy()
        return batch, found_rows[:count], originals

    def batch_of(self, handles: Int64s) -> FeedbackBatch:
        """These waiting feedback as a batch; their ids are spans over the table's own bytes."""
        items = self.table.items[handles]
        bits = self.table.bits[(handles[:, None] * self._width + np.arange(self._width)).reshape(-1)]
        names = ("source", "offset", "ts", "feedback_id")
        columns = {name: np.ascontiguousarray(items[name]) for name in names}
        return FeedbackBatch(
            **columns,
            hash=items["hash"].astype(np.uint64) << np.uint64(32),
            within=np.ascontiguousarray(items["index"]),
            ids=self.table.ids,
            id_start=np.ascontiguousarray(items["id_place"]),
            id_size=items["id_size"].astype(np.int32),
            mask=np.ascontiguousarray(items["mask"]),
            bits=bits,
        )

    def originals_of(self, handles: Int64s) -> Spans:
        """Their bytes as they were read; nulls where they are not kept."""
        return Spans.nulls(len(handles)) if self._originals is None else self._originals.of(handles)

    def take_fresh(self) -> Int64s:
        """The handles of what began to wait since the last call and still waits."""
        fresh = np.concatenate([np.empty(0, np.int64), *self._fresh])
        self._fresh = []
        return self._valid(fresh)

    def all(self) -> Int64s:
        """All handles, in the order of arrival."""
        handles = self._live()
        order = np.argsort(self.table.items["sequence"][handles], kind="stable")
        return np.asarray(handles[order], np.int64)

    def first(self) -> int | None:
        """A lower bound of the event times that wait."""
        return self._runs.first() if len(self) else None

    def counts_by_use(self, uses: NDArray[np.int8], total: int) -> Int64s:
        """How many wait per use, counted from the items themselves."""
        handles = self._live()
        source, mask = self.table.items["source"][handles], self.table.items["mask"][handles]
        found = np.zeros(total, np.int64)
        for k in range(self._width):
            used = (mask >> np.uint32(k)) & np.uint32(1) == 1
            found += np.bincount(uses[source[used] * self._width + k], minlength=total)
        return found

    def bytes_used(self) -> int:
        """Bytes of memory in use."""
        counts, table = self.table.counts, self.table
        per_item = WAIT.itemsize + 8 * self._width + 4
        used = int(counts[ITEMS_USED] * per_item + counts[IDS_USED] + table.slots.nbytes + 16 * len(self._runs))
        return used + (0 if self._originals is None else self._originals.bytes_used())

    def _live(self) -> Int64s:
        sequence = self.table.items["sequence"][: self.table.counts[ITEMS_USED]]
        return np.flatnonzero(sequence >= 0)

    def _valid(self, tickets: Int64s) -> Int64s:
        handles: Int64s = tickets >> 32
        sequence = self.table.items["sequence"][handles]
        still: Bools = (sequence >= 0) & ((sequence & _LOW) == (tickets & _LOW))
        return handles[still]

    def _reserve(self, more: int, id_bytes: int) -> None:
        table, counts = self.table, self.table.counts
        used = int(counts[ITEMS_USED])
        items = grown(table.items, used, used + max(0, more - int(counts[ITEMS_FREE])))
        if len(items) > len(table.items):
            free = grown(table.free, int(counts[ITEMS_FREE]), len(items))
            bits = grown(table.bits, used * self._width, len(items) * self._width)
            table = table._replace(items=items, free=free, bits=bits)
        if int(counts[IDS_USED]) + id_bytes > len(table.ids):
            table = self._with_packed_ids(table, id_bytes)
        self.table = table._replace(slots=with_room(table.slots, int(counts[WAIT_INDEXED]), more))

    def _with_packed_ids(self, table: WaitTable, more: int) -> WaitTable:
        """Copy the ids still in use to a new arena, half of it free: so each byte is moved O(1) times."""
        handles = np.flatnonzero(table.items["sequence"][: table.counts[ITEMS_USED]] >= 0)
        size = table.items["id_size"][handles].astype(np.int32)
        end = np.cumsum(size, dtype=np.int64)
        live = int(end[-1]) if len(end) else 0
        ids = np.empty(max(2 * (live + more), self._MIN * 16), np.uint8)
        gather(table.ids, table.items["id_place"][handles], size, end - size, ids)
        table.items["id_place"][handles] = end - size
        table.counts[IDS_USED] = live
        return table._replace(ids=ids)

    def _tidy(self) -> None:
        """Give memory back: all of it when nothing waits, else the tickets of what has long gone."""
        if len(self) == 0:
            if len(self.table.items) > self._MIN:
                sequence = self.table.counts[SEQUENCE]
                self.table = self._empty()
                self.table.counts[SEQUENCE] = sequence
                self._fresh = []
            self._runs = SortedRuns()
            if self._originals is not None:
                self._originals.clear()
        elif len(self._runs) > 4 * len(self) + self._MIN:
            handles = self.all()
            self._runs = SortedRuns()
            tickets = (handles << 32) | (self.table.items["sequence"][handles] & _LOW)
            self._runs.add(self.table.items["ts"][handles], tickets)
