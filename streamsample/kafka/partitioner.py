"""Which partition a key belongs to: the default partitioner of the Java client and of kafka-python, over columns.

Source: org.apache.kafka.common.utils.Utils.murmur2 (MurmurHash2, 32 bits, seed 0x9747b28c).
"""

from __future__ import annotations

import numpy as np
from numba import types

from streamsample.kernels import I32, I32_OUT, I64, U8, borrow, inline, kernel
from streamsample.records import Int32s, Spans

_M = np.uint64(0x5BD1E995)
_SEED = np.uint64(0x9747B28C)
_LOW = np.uint64(0xFFFFFFFF)


@inline
def _mix(h, k):  # type: ignore[no-untyped-def]
    """One word of four bytes into the hash."""
    k = (k * _M) & _LOW
    k = ((k ^ (k >> np.uint64(24))) * _M) & _LOW
    return ((h * _M) & _LOW) ^ k


@inline
def _murmur2(buffer, start, size):  # type: ignore[no-untyped-def]
    h = _SEED ^ np.uint64(size)
    at = np.uint64(start)
    rest = np.uint64(size)
    while rest >= np.uint64(4):
        word = np.uint64(0)
        for i in range(4):
            word |= np.uint64(buffer[at + np.uint64(i)]) << np.uint64(8 * i)
        h = _mix(h, word)
        at += np.uint64(4)
        rest -= np.uint64(4)
    if rest > np.uint64(0):
        for i in range(rest):
            h ^= np.uint64(buffer[at + np.uint64(i)]) << np.uint64(8 * i)
        h = (h * _M) & _LOW
    h = ((h ^ (h >> np.uint64(13))) * _M) & _LOW
    return h ^ (h >> np.uint64(15))


@kernel(types.int64(U8, I64, I32, types.int64, types.int64, I32_OUT))
def _partitions(buffer, start, size, partitions, turn, out):  # type: ignore[no-untyped-def]
    """Fill `out`; null keys take turns from `turn` on. The next turn."""
    buffer = borrow(buffer)
    for row in range(len(start)):
        if size[row] < 0:
            out[row] = turn % partitions
            turn += 1
        else:
            out[row] = (_murmur2(buffer, start[row], size[row]) & np.uint64(0x7FFFFFFF)) % np.uint64(partitions)
    return turn


def partitions_of(keys: Spans, partitions: int, turn: int = 0) -> tuple[Int32s, int]:
    """The partition of each key, int32[n] in 0..partitions-1, and the next `turn`.

    Null keys go to the partitions in turn, beginning with number `turn` (mod `partitions`): pass the returned turn on.
    Raises ValueError unless partitions > 0.
    """
    if partitions <= 0:
        raise ValueError(f"{partitions} partitions")
    out = np.empty(len(keys), np.int32)
    next_turn = _partitions(keys.buffer, keys.start, keys.size, partitions, turn, out)
    return out, int(next_turn) % partitions
