"""The kernel that writes training records in Avro: an interpreter of small programs.

A program is int64 words, three to an instruction: an operation and two operands. It writes one record: what is the same
for many records (names, topics, frames) comes as *pieces*, encoded once; what differs as rows of one int64 table of
*columns*. `training_avro` compiles the program; another field is another instruction, not another kernel.

Avro's binary encoding: Apache Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from streamsample.formats.pointers import address
from streamsample.formats.utf8 import is_utf8
from streamsample.kernels import I32_OUT, I64, I64_OUT, U8, U8_OUT, copy_bytes, inline, kernel

WIDTH: Final = 3
"""Words per instruction."""
VARINT_MAX: Final = 10
"""The most bytes that a zigzag varint of 64 bits takes."""
ID_SIZE: Final = 16
"""Bytes of a record id; it is written as twice as many hex digits."""

# long (column). ["null", long]: null where negative (column); where another column is 0 (column, other).
LONG, COUNT, GIVEN_LONG = range(3)
# ["null", double], the column has the bits: null where NaN (column); where another column is 0 (column, other).
WEIGHT, GIVEN_DOUBLE = range(3, 5)
# The piece (number); the piece (first number, plus column). The record id.
PIECE, CHOICE, RECORD_ID = range(5, 8)
# Bytes as they are (column of starts, the next one has the sizes; -1 is nothing), of the features or of the strata.
FEATURES, STRATUM = range(8, 10)
# The array of pieces (first number) whose columns (first column) are not 0: as many as there are targets.
SETTLED = 10
# The array of feedback (column of starts, the next one has the ends).
FEEDBACK = 11

NOT_UTF8: Final = -1
REFERENCE: Final = 5
"""Rows of the table of feedback: number of the target's piece, of the topic's piece, partition, offset, index."""

_HEX: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_INFINITY: Final = 0x7FF0000000000000
_MAGNITUDE: Final = 0x7FFFFFFFFFFFFFFF


@inline
def _long(out: Any, at: Any, value: Any) -> Any:
    """A zigzag varint."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left >= np.uint64(0x80):
        out[at] = np.uint8(left | np.uint64(0x80))
        at += np.uint64(1)
        left >>= np.uint64(7)
    out[at] = np.uint8(left)
    return at + np.uint64(1)


@inline
def _branch_long(out: Any, at: Any, value: Any, present: bool) -> Any:
    """["null", long]"""
    out[at] = np.uint8(2) if present else np.uint8(0)
    at += np.uint64(1)
    return _long(out, at, value) if present else at


@inline
def _branch_double(out: Any, at: Any, bits: Any, present: bool) -> Any:
    """["null", double]"""
    if not present:
        out[at] = np.uint8(0)
        return at + np.uint64(1)
    out[at] = np.uint8(2)
    at += np.uint64(1)
    left = np.uint64(bits)
    for _ in range(8):
        out[at] = np.uint8(left)
        at += np.uint64(1)
        left >>= np.uint64(8)
    return at


@inline
def _piece(out: Any, at: Any, pieces: Any, bounds: Any, number: Any) -> Any:
    place = np.uint64(number)
    start = bounds[place]
    size = bounds[place + np.uint64(1)] - start
    copy_bytes(out, np.int64(at), pieces, start, size)
    return at + np.uint64(size)


@inline
def _record_id(out: Any, at: Any, record_ids: Any, row: Any) -> Any:
    """A string of 32 hex digits."""
    out[at] = np.uint8(4 * ID_SIZE)
    at += np.uint64(1)
    place = np.uint64(row) * np.uint64(ID_SIZE)
    for _ in range(ID_SIZE):
        byte = record_ids[place]
        out[at] = _HEX[np.uint64(byte >> 4)]
        out[at + np.uint64(1)] = _HEX[np.uint64(byte & 15)]
        at += np.uint64(2)
        place += np.uint64(1)
    return at


@inline
def _settled(
    out: Any, at: Any, pieces: Any, bounds: Any, columns: Any, place: Any, rows: Any, first: Any, targets: Any
) -> Any:
    closed = 0
    for target in range(targets):
        closed += columns[np.uint64(place + target * rows)]
    if closed > 0:
        at = _long(out, at, np.int64(closed))
        for target in range(targets):
            if columns[np.uint64(place + target * rows)] != 0:
                at = _piece(out, at, pieces, bounds, first + target)
    out[at] = np.uint8(0)
    return at + np.uint64(1)


@inline
def _feedback(out: Any, at: Any, pieces: Any, bounds: Any, feedback: Any, begin: Any, end: Any) -> Any:
    count = len(feedback) // REFERENCE
    if end > begin:
        at = _long(out, at, end - begin)
    for reference in range(begin, end):
        place = np.uint64(reference)
        at = _piece(out, at, pieces, bounds, feedback[place])
        at = _piece(out, at, pieces, bounds, feedback[place + np.uint64(count)])
        for word in range(2, REFERENCE):
            at = _long(out, at, feedback[place + np.uint64(word * count)])
    out[at] = np.uint8(0)
    return at + np.uint64(1)


@kernel(types.int64(U8_OUT, I64_OUT, I32_OUT, I64, I64, types.int64, U8, I64, U8, U8, U8, I64))
def encode(  # type: ignore[no-untyped-def]
    out, start, size, program, columns, targets, pieces, bounds, record_ids, features, strata, feedback
):
    """Write m records into `out`, one after the other: where the last one ends, or NOT_UTF8 if a stratum is not.

    start int64[m], size int32[m]: receive the spans. program int64[3*i]. columns int64[c*m], column after column.
    targets: how many. pieces: uint8, piece i at [bounds[i], bounds[i+1]). record_ids uint8[16*m].
    features, strata: the buffers that columns point into. feedback int64[5*j], row after row (see REFERENCE).
    Nothing else is checked: every index must be within its table, and `out` must have room for all.
    """
    rows = np.int64(len(start))
    at = np.uint64(0)
    for row in range(rows):
        begin = at
        for pc in range(0, len(program), WIDTH):
            word = np.uint64(pc)
            operation, second = program[word], program[word + np.uint64(2)]
            operand = program[word + np.uint64(1)]
            if operation == PIECE:
                at = _piece(out, at, pieces, bounds, operand)
                continue
            if operation == RECORD_ID:
                at = _record_id(out, at, record_ids, row)
                continue
            place = operand * rows + row
            value = columns[np.uint64(place)]
            if operation == LONG:
                at = _long(out, at, value)
            elif operation == CHOICE:
                at = _piece(out, at, pieces, bounds, second + value)
            elif operation == COUNT:
                at = _branch_long(out, at, value, value >= 0)
            elif operation == GIVEN_LONG:
                at = _branch_long(out, at, value, columns[np.uint64(second * rows + row)] != 0)
            elif operation == WEIGHT:
                at = _branch_double(out, at, value, (value & _MAGNITUDE) <= _INFINITY)
            elif operation == GIVEN_DOUBLE:
                at = _branch_double(out, at, value, columns[np.uint64(second * rows + row)] != 0)
            elif operation == SETTLED:
                at = _settled(out, at, pieces, bounds, columns, place, rows, second, targets)
            else:
                after = columns[np.uint64(place + rows)]
                if operation == FEEDBACK:
                    at = _feedback(out, at, pieces, bounds, feedback, value, after)
                elif after > 0:
                    if operation == STRATUM and not is_utf8(address(strata) + value, address(strata) + value + after):
                        return NOT_UTF8
                    copy_bytes(out, np.int64(at), features if operation == FEATURES else strata, value, after)
                    at += np.uint64(after)
        start[row] = np.int64(begin)
        size[row] = np.int32(at - begin)
    return np.int64(at)
