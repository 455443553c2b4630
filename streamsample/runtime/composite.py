"""Several texts as one: ids, units and splits of several columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numba import types

from streamsample.kernels import I32, I32_OUT, I64, U8, U8_OUT, copy_bytes, kernel
from streamsample.records import Spans

_PREFIX_MAX: Final = 11
"""Bytes of a length of 32 bits and its colon."""


def joined(parts: Sequence[Spans]) -> Spans:
    """N texts of several columns (each n spans): each with its length in bytes and a colon before it.

    So no two combinations are the same bytes (A15): "2:s12:42" is s1 and 42. Null where one of them is.
    """
    whole = Spans(parts[0].buffer, parts[0].start, np.zeros(len(parts[0]), np.int32))
    for part in parts:
        whole = _appended(whole, part)
    return whole


def _appended(left: Spans, right: Spans) -> Spans:
    room = np.maximum(left.size, 0).astype(np.int64) + np.maximum(right.size, 0) + _PREFIX_MAX
    start = np.cumsum(room) - room
    size = np.empty(len(left), np.int32)
    out = np.empty(int(room.sum()), np.uint8)
    arrays = (left.buffer, left.start, left.size, right.buffer, right.start, right.size)
    _append(*map(np.ascontiguousarray, arrays), start, size, out)
    return Spans(out, start, size)


@kernel(types.void(U8, I64, I32, U8, I64, I32, I64, I32_OUT, U8_OUT))
def _append(l_buffer, l_start, l_size, r_buffer, r_start, r_size, start, size, out):  # type: ignore[no-untyped-def]
    for row in range(len(start)):
        if l_size[row] < 0 or r_size[row] < 0:
            size[row] = -1
            continue
        at = start[row]
        copy_bytes(out, at, l_buffer, l_start[row], np.int64(l_size[row]))
        at += l_size[row]
        power = 1
        while r_size[row] // power >= 10:
            power *= 10
        while power > 0:
            out[at] = 48 + (r_size[row] // power) % 10
            at += 1
            power //= 10
        out[at] = 58
        at += 1
        copy_bytes(out, at, r_buffer, r_start[row], np.int64(r_size[row]))
        size[row] = at + r_size[row] - start[row]
