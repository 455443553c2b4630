"""Comparisons and searches of strings and bytes, as kernels over spans.

Every function takes two columns of spans, of which one may have length 1 and then stands for all; a null span is
compared as an empty one, for what it gives is not looked at. UTF-8 sorts as its code points do.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.kernels import B1_OUT, I8_OUT, I32, I32_OUT, I64, I64_OUT, U8, U8_OUT, inline, kernel
from streamsample.records import Bools, Bytes, Int32s, Int64s, Spans


def equal(left: Spans, right: Spans) -> Bools:
    """Whether both are the same bytes, bool[n]."""
    out = np.empty(_length(left, right), np.bool_)
    _equal(*_arrays(left), *_arrays(right), out)
    return out


def order(left: Spans, right: Spans) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
    """-1, 0 or 1 as the left one sorts before, with or after the right one, int8[n]."""
    out = np.empty(_length(left, right), np.int8)
    _order(*_arrays(left), *_arrays(right), out)
    return out


def starts_with(text: Spans, prefix: Spans) -> Bools:
    """Whether `text` begins with `prefix`, bool[n]."""
    out = np.empty(_length(text, prefix), np.bool_)
    _found(*_arrays(text), *_arrays(prefix), _AT_START, out)
    return out


def ends_with(text: Spans, suffix: Spans) -> Bools:
    """Whether `text` ends with `suffix`, bool[n]."""
    out = np.empty(_length(text, suffix), np.bool_)
    _found(*_arrays(text), *_arrays(suffix), _AT_END, out)
    return out


def contains(text: Spans, part: Spans) -> Bools:
    """Whether `part` is anywhere in `text`, bool[n]."""
    out = np.empty(_length(text, part), np.bool_)
    _found(*_arrays(text), *_arrays(part), _ANYWHERE, out)
    return out


def characters(text: Spans) -> Int64s:
    """How many code points each has, int64[n]."""
    out = np.empty(len(text), np.int64)
    _characters(*_arrays(text), out)
    return out


def together(left: Spans, right: Spans) -> Spans:
    """`left + right`, n spans over a fresh buffer."""
    count = _length(left, right)
    room = np.maximum(left.size, 0).astype(np.int64) + np.maximum(right.size, 0)
    start = np.cumsum(np.broadcast_to(room, count)) - room
    out = np.empty(int(np.broadcast_to(room, count).sum()), np.uint8)
    _together(*_arrays(left), *_arrays(right), start, out)
    return Spans(out, start, np.broadcast_to(room, count).astype(np.int32))


def decimal(values: Int64s) -> Spans:
    """Whole numbers as decimal digits, n spans over a fresh buffer."""
    start, size = np.empty(len(values), np.int64), np.empty(len(values), np.int32)
    out = np.empty(len(values) * _DIGITS_MAX, np.uint8)
    used = _decimal(np.ascontiguousarray(values), start, size, out)
    return Spans(out[:used], start, size)


def nothing(count: int) -> Spans:
    """`count` null spans."""
    return Spans.nulls(count)


_AT_START, _AT_END, _ANYWHERE = range(3)
_DIGITS_MAX: Final = 20
_ZERO, _MINUS = 48, 45


def _length(left: Spans, right: Spans) -> int:
    return len(right) if len(left) == 1 else len(left)


def _arrays(spans: Spans) -> tuple[Bytes, Int64s, Int32s]:
    return (
        np.ascontiguousarray(spans.buffer),
        np.ascontiguousarray(spans.start),
        np.ascontiguousarray(spans.size),
    )


@inline
def _same(left, l_at, right, r_at, size):  # type: ignore[no-untyped-def]
    for i in range(size):  # noqa: SIM110 - kernels have no all()
        if left[l_at + i] != right[r_at + i]:
            return False
    return True


@kernel(types.void(U8, I64, I32, U8, I64, I32, B1_OUT))
def _equal(left, l_start, l_size, right, r_start, r_size, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        i, k = (row if len(l_start) > 1 else 0), (row if len(r_start) > 1 else 0)
        size = max(l_size[i], 0)
        out[row] = size == max(r_size[k], 0) and _same(left, l_start[i], right, r_start[k], size)


@kernel(types.void(U8, I64, I32, U8, I64, I32, I8_OUT))
def _order(left, l_start, l_size, right, r_start, r_size, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        i, k = (row if len(l_start) > 1 else 0), (row if len(r_start) > 1 else 0)
        one, other = max(l_size[i], 0), max(r_size[k], 0)
        result = -1 if one < other else (1 if one > other else 0)
        for at in range(min(one, other)):
            a, b = left[l_start[i] + at], right[r_start[k] + at]
            if a != b:
                result = -1 if a < b else 1
                break
        out[row] = result


@kernel(types.void(U8, I64, I32, U8, I64, I32, types.int64, B1_OUT))
def _found(text, t_start, t_size, part, p_start, p_size, where, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        i, k = (row if len(t_start) > 1 else 0), (row if len(p_start) > 1 else 0)
        size = np.int64(max(p_size[k], 0))
        first, last = np.int64(0), np.int64(max(t_size[i], 0)) - size
        found = False
        if last >= 0:
            if where == _AT_START:
                last = np.int64(0)
            elif where == _AT_END:
                first = last
            for at in range(first, last + 1):
                if _same(text, t_start[i] + at, part, p_start[k], size):
                    found = True
                    break
        out[row] = found


@kernel(types.void(U8, I64, I32, I64_OUT))
def _characters(text, start, size, out):  # type: ignore[no-untyped-def]
    for row in range(len(out)):
        count = 0
        for at in range(start[row], start[row] + max(size[row], 0)):
            count += (text[at] & 0xC0) != 0x80
        out[row] = count


@kernel(types.void(U8, I64, I32, U8, I64, I32, I64, U8_OUT))
def _together(left, l_start, l_size, right, r_start, r_size, start, out):  # type: ignore[no-untyped-def]
    for row in range(len(start)):
        i, k = (row if len(l_start) > 1 else 0), (row if len(r_start) > 1 else 0)
        at = start[row]
        for byte in range(max(l_size[i], 0)):
            out[at + byte] = left[l_start[i] + byte]
        at += max(l_size[i], 0)
        for byte in range(max(r_size[k], 0)):
            out[at + byte] = right[r_start[k] + byte]


@kernel(types.int64(I64, I64_OUT, I32_OUT, U8_OUT))
def _decimal(values, start, size, out):  # type: ignore[no-untyped-def]
    at = np.int64(0)
    for row in range(len(values)):
        start[row] = at
        value = values[row]
        rest = np.uint64(value)
        if value < 0:
            out[at] = _MINUS
            at += 1
            rest = np.uint64(-(value + 1)) + np.uint64(1)
        digits, limit = 1, np.uint64(10)
        while rest >= limit and digits < _DIGITS_MAX:  # at most 10**19, which 64 bits hold
            limit *= np.uint64(10)
            digits += 1
        for place in range(digits - 1, -1, -1):
            out[at + place] = _ZERO + np.uint8(rest % np.uint64(10))
            rest //= np.uint64(10)
        at += digits
        size[row] = at - start[row]
    return at
