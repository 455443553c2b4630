"""UTF-8 inside kernels, by address: RFC 3629, section 4: no surrogates, no overlong forms, nothing above U+10FFFF."""

from __future__ import annotations

from typing import Final

import numpy as np

from streamsample.formats.pointers import load_u8, load_u64
from streamsample.kernels import inline

_HIGH_BITS: Final = np.uint64(0x8080808080808080)


@inline
def utf8_size(pos, end):  # type: ignore[no-untyped-def]
    """How many bytes the character at `pos` takes, 0 if it is not one."""
    lead = load_u8(pos)
    if lead < 0x80:
        return 1
    if lead < 0xC2 or lead > 0xF4:
        return 0
    size = 2 if lead < 0xE0 else (3 if lead < 0xF0 else 4)
    if end - pos < size:
        return 0
    low = 0xA0 if lead == 0xE0 else (0x90 if lead == 0xF0 else 0x80)
    high = 0x9F if lead == 0xED else (0x8F if lead == 0xF4 else 0xBF)
    if load_u8(pos + 1) < low or load_u8(pos + 1) > high:
        return 0
    for i in range(pos + 2, pos + size):
        if load_u8(i) & 0xC0 != 0x80:
            return 0
    return size


@inline
def is_utf8(pos, end):  # type: ignore[no-untyped-def]
    """Whether [pos, end) is UTF-8. Takes eight bytes at a time as long as they are ASCII."""
    while pos < end:
        if end - pos >= 8 and load_u64(pos) & _HIGH_BITS == np.uint64(0):
            pos += 8
            continue
        size = utf8_size(pos, end)
        if size == 0:
            return False
        pos += size
    return True
