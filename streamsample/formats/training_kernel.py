"""The kernel that writes training records in Avro: an interpreter of small programs.

A program is int64 words, three to an instruction: an operation and two operands. It writes one record: what is the same
for many records (names, topics, frames) comes as *pieces*, encoded once; what differs as rows of one int64 table of
*columns*. `training_avro` compiles the program; another field is another instruction, not another kernel.

Avro's binary encoding: Apache Avro 1.12 specification, "Binary Encoding".
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.formats.pointers import address, copy, load_i64, load_u8, store_i64, store_u8
from streamsample.formats.utf8 import is_utf8
from streamsample.kernels import I32_OUT, I64, I64_OUT, U8, U8_OUT, inline, kernel

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

PADDING: Final = 16
"""Bytes that must follow the last piece and the last record: short pieces are copied with what follows."""
NOT_UTF8: Final = -1
REFERENCE: Final = 5
"""Rows of the table of feedback: number of the target's piece, of the topic's piece, partition, offset, index."""

_HEX: Final = np.frombuffer(bytes(range(256)).hex().encode(), dtype="<u2")
"""The two digits of each byte."""
_INFINITY: Final = 0x7FF0000000000000
_MAGNITUDE: Final = 0x7FFFFFFFFFFFFFFF


@inline
def _long(at, value):  # type: ignore[no-untyped-def]
    """A zigzag varint."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left >= np.uint64(0x80):
        store_u8(at, np.uint8(left | np.uint64(0x80)))
        at += 1
        left >>= np.uint64(7)
    store_u8(at, np.uint8(left))
    return at + 1


@inline
def _branch_long(at, value, present):  # type: ignore[no-untyped-def]
    """["null", long]"""
    store_u8(at, np.uint8(2 if present else 0))
    return _long(at + 1, value) if present else at + 1


@inline
def _branch_double(at, bits, present):  # type: ignore[no-untyped-def]
    """["null", double]"""
    store_u8(at, np.uint8(2 if present else 0))
    if not present:
        return at + 1
    store_i64(at + 1, bits)
    return at + 9


@inline
def _piece(at, pieces, bounds, number):  # type: ignore[no-untyped-def]
    start = load_i64(bounds + 8 * number)
    size = load_i64(bounds + 8 * number + 8) - start
    store_i64(at, load_i64(pieces + start))  # most are short: two words cost less than a call of memcpy
    store_i64(at + 8, load_i64(pieces + start + 8))
    if size > PADDING:
        copy(at, pieces + start, size)
    return at + size


@inline
def _record_id(at, place):  # type: ignore[no-untyped-def]
    """A string of 32 hex digits."""
    store_u8(at, np.uint8(4 * ID_SIZE))
    at += 1
    for k in range(0, ID_SIZE, 4):
        word = np.uint64(0)
        for j in range(4):
            word |= np.uint64(_HEX[load_u8(place + k + j)]) << np.uint64(16 * j)
        store_i64(at + 2 * k, np.int64(word))
    return at + 2 * ID_SIZE


@inline
def _settled(at, pieces, bounds, column, step, first, targets):  # type: ignore[no-untyped-def]
    """The array of the names of the settled targets. column: the address of the first one's, each `step` further on."""
    closed = np.int64(0)
    for target in range(targets):
        closed += load_i64(column + target * step)
    if closed > 0:
        at = _long(at, closed)
        for target in range(targets):
            if load_i64(column + target * step) != 0:
                at = _piece(at, pieces, bounds, first + target)
    store_u8(at, np.uint8(0))
    return at + 1


@inline
def _feedback(at, pieces, bounds, feedback, count, begin, end):  # type: ignore[no-untyped-def]
    """The array of the feedback at [begin, end) of `count`."""
    step = 8 * count
    if end > begin:
        at = _long(at, end - begin)
    for reference in range(begin, end):
        place = feedback + 8 * reference
        at = _piece(at, pieces, bounds, load_i64(place))
        at = _piece(at, pieces, bounds, load_i64(place + step))
        for word in range(2, REFERENCE):
            at = _long(at, load_i64(place + word * step))
    store_u8(at, np.uint8(0))
    return at + 1


@kernel(types.int64(U8_OUT, I64_OUT, I32_OUT, I64, I64, types.int64, U8, I64, U8, U8, U8, I64))
def encode(  # type: ignore[no-untyped-def]
    out, start, size, program, columns, targets, pieces, bounds, record_ids, features, strata, feedback
):
    """Write m records into `out`, one after the other: where the last one ends, or NOT_UTF8 if a stratum is not.

    start int64[m], size int32[m]: receive the spans. program int64[3*i]. columns int64[c*m], column after column.
    targets: how many. pieces: uint8, piece i at [bounds[i], bounds[i+1]). record_ids uint8[16*m].
    features, strata: the buffers that columns point into. feedback int64[5*j], row after row (see REFERENCE).
    Nothing else is checked: every index must be within its table, and `out` must have room for all and PADDING.
    """
    rows, references = len(start), len(feedback) // REFERENCE
    code, table, step = address(program), address(columns), 8 * rows
    pieces_at, bounds_at, feedback_at = address(pieces), address(bounds), address(feedback)
    features_at, strata_at, ids_at, out_at = address(features), address(strata), address(record_ids), address(out)
    code_end = code + 8 * len(program)
    at = out_at
    for row in range(rows):
        begin = at
        pc = code
        while pc < code_end:
            operation, operand, second = load_i64(pc), load_i64(pc + 8), load_i64(pc + 16)
            pc += 8 * WIDTH
            if operation == PIECE:
                at = _piece(at, pieces_at, bounds_at, operand)
                continue
            place = table + operand * step + 8 * row
            value = load_i64(place)
            if operation == LONG:
                at = _long(at, value)
            elif operation == CHOICE:
                at = _piece(at, pieces_at, bounds_at, second + value)
            elif operation == COUNT:
                at = _branch_long(at, value, value >= 0)
            elif operation == GIVEN_LONG:
                at = _branch_long(at, value, load_i64(table + second * step + 8 * row) != 0)
            elif operation == WEIGHT:
                at = _branch_double(at, value, (value & _MAGNITUDE) <= _INFINITY)
            elif operation == GIVEN_DOUBLE:
                at = _branch_double(at, value, load_i64(table + second * step + 8 * row) != 0)
            elif operation == RECORD_ID:
                at = _record_id(at, ids_at + ID_SIZE * row)
            elif operation == SETTLED:
                at = _settled(at, pieces_at, bounds_at, place, step, second, targets)
            else:
                after = load_i64(place + step)
                if operation == FEEDBACK:
                    at = _feedback(at, pieces_at, bounds_at, feedback_at, references, value, after)
                elif after > 0:
                    source = (features_at if operation == FEATURES else strata_at) + value
                    if operation == STRATUM and not is_utf8(source, source + after):
                        return NOT_UTF8
                    copy(at, source, after)
                    at += after
        start[row] = begin - out_at
        size[row] = at - begin
    return at - out_at
