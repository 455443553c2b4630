"""Whole numbers as decimal digits inside kernels, by address."""

from __future__ import annotations

import numpy as np

from streamsample.formats.pointers import store_u8
from streamsample.kernels import inline_always


@inline_always
def write_digits(out, value):  # type: ignore[no-untyped-def]
    """Write an int64 as decimal digits; how many bytes that took."""
    rest = np.uint64(value)
    sign = np.int64(0)
    if value < 0:
        store_u8(out, np.uint8(45))
        sign = np.int64(1)
        rest = np.uint64(-(value + 1)) + np.uint64(1)
    size = sign + 1
    limit = np.uint64(10)
    while rest >= limit:  # at most 10**19, which 64 bits hold
        limit *= np.uint64(10)
        size += 1
    for i in range(size - 1, sign - 1, -1):
        store_u8(out + i, np.uint8(48) + np.uint8(rest % np.uint64(10)))
        rest //= np.uint64(10)
    return size
