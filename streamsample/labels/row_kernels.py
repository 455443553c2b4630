"""The kernels on the row table: insert, find, copy out, forget."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.kernels import I32, I32_OUT, I64, I64_OUT, U8, U64, borrow, copy_bytes, inline, kernel
from streamsample.labels import ledger as books
from streamsample.labels.index import clear_slot, find_slot, handle_in, home_of, likely_handle, slot_value
from streamsample.labels.tables import (
    BLOCK,
    BLOCKS_FREE,
    BLOCKS_USED,
    HELD,
    INDEXED,
    NONE,
    OPEN_ROWS,
    PAGE,
    PAGES_FREE,
    PAGES_USED,
    PREDICTION_BATCH,
    ROW_OUT,
    ROW_TABLE,
    TIMES,
)

DUPLICATE_ROW: Final = -1
LATE_ROW: Final = -2
REFUSED_ROW: Final = -3
_AHEAD: Final = 128
_HALF: Final = np.uint64(32)
_ONE: Final = np.uint64(1)
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
def count_row(buckets, home, ts):  # type: ignore[no-untyped-def]
    """Note a new row in its bucket's figures."""
    buckets[home].fill += np.int32(1)
    buckets[home].rows += 1
    buckets[home].max_ts = max(buckets[home].max_ts, ts)
    buckets[home].min_fresh = min(buckets[home].min_fresh, ts)


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
    table, times, offset, within, event_time, hashes, ids, id_start, id_size, schema, split, bucket, handles
):
    """Open a row for each prediction that is neither refused nor held already; `handles`: the row, or why not."""
    near = np.empty(_AHEAD, np.int32)
    rows, slots, arena, counts = borrow(table.rows), borrow(table.slots), borrow(table.ids), borrow(table.counts)
    buckets, block_next, page_next = borrow(table.buckets), borrow(table.block_next), borrow(table.page_next)
    blocks_free, pages_free, hashes, ids = (
        borrow(table.blocks_free),
        borrow(table.pages_free),
        borrow(hashes),
        borrow(ids),
    )
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
        count_row(buckets, home, ts)
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
    """Per feedback the row that it belongs to: the held one of its id whose window holds its time.

    Windows of one id never overlap, so there is at most one. Without one: -LATE, -PRE_CAUSAL or -ORPHAN, what it is if
    no other row comes.
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


@kernel(types.void(ROW_TABLE, types.int64, types.int64, I64_OUT))
def list_rows(table, bucket, first, handles):  # type: ignore[no-untyped-def]
    """The rows of a bucket in the order in which they were added, from the `first` on, as many as `handles` takes."""
    block_next = borrow(table.block_next)
    block = np.int64(table.buckets[bucket].first_block)
    for _ in range(first // BLOCK):
        block = np.int64(block_next[block])
    within = first % BLOCK
    for i in range(len(handles)):
        if within == BLOCK:
            block, within = np.int64(block_next[block]), 0
        handles[i] = block * BLOCK + within
        within += 1


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
        out.schema[i] = rows[row].schema
        out.within[i] = rows[row].index
        out.split[i] = rows[row].split
        out.hash[i] = rows[row].hash
