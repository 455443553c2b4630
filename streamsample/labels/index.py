"""Open addressing over records with `id_place` and `id_size`: an id finds the newest record that carries it.

A slot is a uint64: the upper half of the id's hash, and the record's handle. Linear probing; deletion shifts back, so
there are no tombstones; neither it nor growth looks at a record. The home slot is the upper half scaled to the table's
length (Lemire, "Fast Random Integer Generation in an Interval", 2019), so a table may have any length. The id's bytes
are compared on a hit: equal hashes never mix ids (A15).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from streamsample.kernels import U64, U64_OUT, inline, inline_always, kernel, load_u64
from streamsample.labels.tables import reserved

EMPTY: Final = np.uint64(2**64 - 1)
SLOTS_MIN: Final = 1024
_LOAD_MAX: Final = 0.72
_GROWTH: Final = 1.2
_LOAD_MIN: Final = 0.1
_LOW: Final = np.uint64(2**32 - 1)
_HALF: Final = np.uint64(32)
Slots = NDArray[np.uint64]


@inline_always
def home_of(high, count):  # type: ignore[no-untyped-def]
    """The slot where an id with this upper half of its hash belongs."""
    return np.int64((high * np.uint64(count)) >> _HALF)


@inline_always
def handle_in(value):  # type: ignore[no-untyped-def]
    """The handle in a slot that is not empty."""
    return np.int64(value & _LOW)


@inline_always
def slot_value(high, handle):  # type: ignore[no-untyped-def]
    """What a slot holds for a handle and the upper half of its id's hash."""
    return (np.uint64(high) << _HALF) | np.uint64(handle)


@inline_always
def same_bytes(left, left_at, right, right_at, size):  # type: ignore[no-untyped-def]
    """Whether two ranges of `size` bytes are equal."""
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


@inline_always
def find_slot(slots, items, arena, high, ids, start, size):  # type: ignore[no-untyped-def]
    """The slot of the id `ids[start : start + size]`; where it is missing, -1 - the empty slot where it belongs."""
    count = len(slots)
    slot = home_of(high, count)
    while slots[slot] != EMPTY:
        if slots[slot] >> _HALF == high:
            item = handle_in(slots[slot])
            if np.int64(items[item].id_size) == size and same_bytes(arena, items[item].id_place, ids, start, size):
                return slot
        slot += 1
        if slot == count:
            slot = 0
    return -1 - slot


@inline_always
def likely_handle(slots, high):  # type: ignore[no-untyped-def]
    """The first handle whose hash agrees, its record not looked at; -1 when there is none."""
    count = len(slots)
    slot = home_of(high, count)
    while slots[slot] != EMPTY:
        if slots[slot] >> _HALF == high:
            return handle_in(slots[slot])
        slot += 1
        if slot == count:
            slot = 0
    return np.int64(-1)


@inline
def slot_of_handle(slots, high, handle):  # type: ignore[no-untyped-def]
    """The slot that holds `handle` itself, which must be the head of its chain."""
    count = len(slots)
    slot = home_of(high, count)
    while slots[slot] & _LOW != np.uint64(handle):
        slot += 1
        if slot == count:
            slot = 0
    return slot


@inline
def clear_slot(slots, slot):  # type: ignore[no-untyped-def]
    """Empty a slot and shift back what its presence had pushed on (Knuth, TAOCP 3, 6.4, algorithm R)."""
    count = len(slots)
    hole = slot
    while True:
        slot += 1
        if slot == count:
            slot = 0
        value = slots[slot]
        if value == EMPTY:
            break
        from_home = slot - home_of(value >> _HALF, count)
        from_hole = slot - hole
        if from_home < 0:
            from_home += count
        if from_hole < 0:
            from_hole += count
        if from_home >= from_hole:
            slots[hole] = value
            hole = slot
    slots[hole] = EMPTY


@kernel(types.void(U64, U64_OUT))
def _move(old, new):  # type: ignore[no-untyped-def]
    """Put everything of one table into an empty one."""
    count = len(new)
    for i in range(len(old)):
        if old[i] != EMPTY:
            slot = home_of(old[i] >> _HALF, count)
            while new[slot] != EMPTY:
                slot += 1
                if slot == count:
                    slot = 0
            new[slot] = old[i]


def empty_slots(count: int = SLOTS_MIN) -> Slots:
    """A table of `count` empty slots."""
    slots = reserved(count, np.dtype(np.uint64))
    slots.fill(EMPTY)
    return slots


def with_room(slots: Slots, used: int, more: int) -> Slots:
    """The table, larger (or much smaller) when `used + more` entries ask for it, else the same one."""
    wanted, count = used + more, len(slots)
    while wanted > _LOAD_MAX * count:
        count = int(count * _GROWTH)
    if wanted < _LOAD_MIN * count:
        count = max(SLOTS_MIN, int(wanted / _LOAD_MAX * _GROWTH))
    if count == len(slots):
        return slots
    fresh = empty_slots(count)
    _move(slots, fresh)
    return fresh
