"""Byte strings that lie scattered over a buffer, brought together."""

from __future__ import annotations

import numpy as np
from numba import types

from streamsample.kernels import I32, I64, I64_OUT, U8, U8_OUT, copy_bytes, kernel
from streamsample.records import Bytes, Int32s, Int64s, Spans


@kernel(types.int64(I32, I64_OUT))
def starts_when_packed(size, start):  # type: ignore[no-untyped-def]
    """Where byte strings of these sizes start when they lie one behind the other, and where the last one ends."""
    at = np.int64(0)
    for i in range(len(size)):
        start[i] = at
        at += np.int64(max(size[i], 0))
    return at


@kernel(types.void(U8, I64, I32, I64, U8_OUT))
def gather(source, place, size, out_start, out):  # type: ignore[no-untyped-def]
    """Copy byte strings from their places in `source` to their places in `out`."""
    for i in range(len(place)):
        if size[i] > 0:
            copy_bytes(out, out_start[i], source, place[i], np.int64(size[i]))


def room_for(size: Int32s) -> tuple[Int64s, Bytes]:
    """Where byte strings of these sizes start when packed, and the buffer for them."""
    start = np.empty(len(size), np.int64)
    return start, np.empty(starts_when_packed(size, start), np.uint8)


def packed(source: Bytes, place: Int64s, size: Int32s) -> Spans:
    """Byte strings (null where the size is negative) in a buffer of their own, in order, without gaps."""
    start, out = room_for(size)
    gather(source, place, size, start, out)
    return Spans(out, start, size)
