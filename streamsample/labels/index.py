"""Open addressing over records with `hash`, `id_place`, `id_size`: an id finds the newest record that carries it.

Linear probing; a slot is an int32 handle; deletion shifts back, so there are no tombstones. The home slot is the hash's
upper half scaled to the table's length (Lemire, "Fast Random Integer Generation in an Interval", 2019), so that a table may have any
length. The id's bytes are compared on a hit: equal hashes never mix ids (A15).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import I32, I32_OUT, U64, inline, kernel, load_u64
from streamsample.labels.tables import NONE
from streamsample.records import Int32s

SLOTS_MIN: Final = 1024
_LOAD_MAX: Final = 0.62
_GROWTH: Final = 1.6
_LOAD_MIN: Final = 0.1


@inline
def home_of(hash_, count):  # type: ignore[no-untyped-def]
    return np.int64(((hash_ >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32))


@inline
def same_bytes(left, left_at, right, right_at, size):  # type: ignore[no-untyped-def]
    done = np.int64(0)
    while done + 8 <= size:
        if load_u64(left, np.int64(left_at + done)) != load_u64(right, np.int64(right_at + done)):
            return False
        done += 8
    while done < size:
        if left[left_at + done] != right[right_at + done]:
            return False
        done += 1
    return True


@inline
def find_slot(slots, items, arena, hash_, ids, start, size):  # type: ignore[no-untyped-def]
    """The slot of the id `ids[start : start + size]`; where it is missing, -1 - the empty slot where it belongs."""
    count = len(slots)
    slot = home_of(hash_, count)
    while True:
        handle = slots[slot]
        if handle < 0:
            return -1 - slot
        if (
            items[handle].hash == hash_
            and np.int64(items[handle].id_size) == size
            and same_bytes(arena, items[handle].id_place, ids, start, size)
        ):
            return slot
        slot += 1
        if slot == count:
            slot = 0


@inline
def slot_of_handle(slots, items, handle):  # type: ignore[no-untyped-def]
    """The slot that holds `handle` itself, which must be the head of its chain."""
    count = len(slots)
    slot = home_of(items[handle].hash, count)
    while slots[slot] != handle:
        slot += 1
        if slot == count:
            slot = 0
    return slot


@inline
def clear_slot(slots, items, slot):  # type: ignore[no-untyped-def]
    """Empty a slot and shift back what its presence had pushed on (Knuth, TAOCP 3, 6.4, algorithm R)."""
    count = len(slots)
    hole = slot
    while True:
        slot += 1
        if slot == count:
            slot = 0
        handle = slots[slot]
        if handle < 0:
            break
        from_home = slot - home_of(items[handle].hash, count)
        from_hole = slot - hole
        if from_home < 0:
            from_home += count
        if from_hole < 0:
            from_hole += count
        if from_home >= from_hole:
            slots[hole] = handle
            hole = slot
    slots[hole] = NONE


@kernel(types.void(I32_OUT, I32, U64))
def _fill(slots, handles, hashes):  # type: ignore[no-untyped-def]
    """Put distinct ids into an empty table."""
    count = len(slots)
    for i in range(len(handles)):
        slot = home_of(hashes[i], count)
        while slots[slot] >= 0:
            slot += 1
            if slot == count:
                slot = 0
        slots[slot] = handles[i]


def empty_slots(count: int = SLOTS_MIN) -> Int32s:
    """A table of `count` empty slots."""
    return np.full(count, NONE, np.int32)


def with_room(slots: Int32s, items: NDArray[Any], used: int, more: int) -> Int32s:
    """The table, larger (or much smaller) when `used + more` entries ask for it, else the same one."""
    wanted = used + more
    if wanted <= _LOAD_MAX * len(slots) and (len(slots) <= SLOTS_MIN or wanted >= _LOAD_MIN * len(slots)):
        return slots
    count = len(slots)
    while wanted > _LOAD_MAX * count:
        count = int(count * _GROWTH)
    while count > SLOTS_MIN and wanted < _LOAD_MIN * count:
        count = max(SLOTS_MIN, int(count / (_GROWTH * _GROWTH)))
    handles = slots[slots >= 0]
    fresh = empty_slots(count)
    _fill(fresh, handles, np.ascontiguousarray(items["hash"][handles]))
    return fresh
