"""The kernel that reads lists of texts out of JSON values that `json_kernel` has checked."""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.formats.json_scan import ARRAY, ESCAPED, FALSE, FLOAT, NULL, TRUE, scalar, skip, unescape
from streamsample.formats.pointers import address, copy, load_u8
from streamsample.formats.projection import Problem
from streamsample.kernels import I16_OUT, I32_OUT, I64, I64_OUT, U8, U8_OUT, kernel

_WRONG_TYPE: Final = int(Problem.WRONG_TYPE)
_OPENS: Final = (0x5B, 0x7B)
_COMMA, _CLOSES = 0x2C, 0x5D


@kernel(types.int64(U8, I64, types.int64, types.int64, I64_OUT, I64_OUT, I32_OUT, U8_OUT, I16_OUT))
def items(buffer, found, leaves, leaf, first, start, size, out, problems):  # type: ignore[no-untyped-def]
    """The items at `leaf` of n values, in canonical form, nulls among them left out: how many bytes of `out` are used.

    found int64[n, leaves, 3], as `tokenize` leaves it. first int64[n + 1]: where each value's items begin in start and
    size, which have room for all. problems int16[n]: gets WRONG_TYPE where an item is a list, an
    object or a floating point number.
    """
    base, into = address(buffer), address(out)
    end = base + len(buffer)
    count, used = 0, np.int64(0)
    for row in range(len(problems)):
        first[row] = count
        place = 3 * (leaves * row + leaf)
        if problems[row] != 0 or found[place] != ARRAY:
            continue
        at = skip(base + found[place + 1] + 1, end)
        while load_u8(at) != _CLOSES:
            if load_u8(at) in _OPENS:
                problems[row] = _WRONG_TYPE
                break
            at, token, begin, length = scalar(at, end)
            if token == FLOAT:
                problems[row] = _WRONG_TYPE
                break
            if token != NULL:
                if token == ESCAPED:
                    length = unescape(begin, begin + length, into + used) - into - used
                else:
                    if token in (TRUE, FALSE):
                        length = np.int64(4 if token == TRUE else 5)
                    copy(into + used, begin, length)
                start[count], size[count] = used, length
                used += length
                count += 1
            at = skip(at, end)
            if load_u8(at) == _COMMA:
                at = skip(at + 1, end)
    first[len(problems)] = count
    return used
