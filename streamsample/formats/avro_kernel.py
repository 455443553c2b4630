"""The kernels that decode, check and splice Avro: one interpreter for the programs that `avro_program` compiles.

A program is int32 words, four to an instruction: an operation and three operands. Reading operations leave what they
read in registers (a value, and the start and length of a byte string); storing operations write the registers into
columns; the rest direct the walk. Every length, count and index comes from data and is checked before it is used:
nothing outside the buffer is ever read, and nothing outside a value's span decides anything.

In the helpers, `pos`, `end`, `pc` and what is named after a column are addresses (see `pointers`), all numbers int64.

Reference: Apache Avro 1.12 specification, "Binary Encoding". Stricter than most readers: a value ends exactly at its
end, an int fits 32 bits, a long 64, a block's byte size is true, strings and map keys are UTF-8.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import types

from streamsample.formats.digits import write_digits
from streamsample.formats.pointers import (
    address,
    copy,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    load_u8,
    load_u64,
    store_f64,
    store_i32,
    store_i64,
    store_u8,
)
from streamsample.formats.projection import Problem
from streamsample.kernels import (
    B1,
    B1_OUT,
    F64_OUT,
    I16_OUT,
    I32,
    I32_OUT,
    I64,
    I64_OUT,
    U8,
    U8_OUT,
    inline_always,
    kernel,
)

FRAME_SIZE: Final = 5
"""Bytes of a Confluent frame: a zero byte and the schema's id, big-endian."""
WIDTH: Final = 4
"""Words per instruction."""
DEPTH_MAX: Final = 64
"""How deep arrays, maps and shared records may nest in a value."""
EMPTY_ITEMS_MAX: Final = 65_536
"""How many items that take no bytes (nulls) the arrays of one value may claim."""

# Reading operations: an int, a long, an enum (symbols), a string, bytes; a boolean (1), fixed (size: also floats,
# doubles, and what is only skipped).
INT, LONG, ENUM, STRING, BYTES, BOOLEAN, FIXED = range(7)
# Storing operations. Text (slot, constant): as it lies in the value, copied, as digits, one of the constants, its copy.
# Numbers (slot, validity slot): an integer; as float64 an integer, a float, a double. Decimal (slot, validity slot,
# scale), see `project` for those that float64 cannot hold.
TEXT_SPAN, TEXT_COPY, TEXT_DIGITS, TEXT_CONSTANT, TEXT_CONSTANT_COPY = range(7, 12)
PUT_INTEGER, PUT_REAL, PUT_FLOAT, PUT_DOUBLE, PUT_DECIMAL = range(12, 17)
# Directing operations: cut (number); jump (to); union (branches; their addresses follow); begin blocks; next item (its
# least size, exit); call (to); return; end of the value.
CUT, JUMP, UNION, BLOCKS, NEXT, CALL, RETURN, END = range(17, 25)

_NULL: Final = -1
_EXACT: Final = 1 << 53
_TOMBSTONE: Final = int(Problem.TOMBSTONE)
_TRUNCATED: Final = int(Problem.TRUNCATED)
_TRAILING: Final = int(Problem.TRAILING_BYTES)
_BAD_VARINT: Final = int(Problem.BAD_VARINT)
_BAD_LENGTH: Final = int(Problem.BAD_LENGTH)
_BAD_UNION: Final = int(Problem.BAD_UNION_INDEX)
_BAD_BOOLEAN: Final = int(Problem.BAD_BOOLEAN)
_BAD_UTF8: Final = int(Problem.BAD_UTF8)
_BAD_ENUM: Final = int(Problem.BAD_ENUM)
_TOO_MANY: Final = int(Problem.TOO_MANY)
_TOO_DEEP: Final = int(Problem.TOO_DEEP)
_NOT_FRAMED: Final = int(Problem.NOT_FRAMED)
_UNKNOWN: Final = int(Problem.UNKNOWN_SCHEMA)

_HIGH_BITS: Final = np.uint64(0x8080808080808080)
_POWERS: Final = np.array([10.0**power for power in range(23)])
"""The powers of ten that float64 holds exactly: a division by one of them is rounded once."""


@inline_always
def varint(pos, end):  # type: ignore[no-untyped-def]
    """(position after, value) of a zigzag number of up to 64 bits, or (-problem, 0)."""
    if pos >= end:
        return np.int64(-_TRUNCATED), np.int64(0)
    byte = np.uint64(load_u8(pos))
    pos += 1
    raw = byte & np.uint64(0x7F)
    shift = np.uint64(7)
    while byte >= np.uint64(0x80):
        if pos >= end:
            return np.int64(-_TRUNCATED), np.int64(0)
        byte = np.uint64(load_u8(pos))
        pos += 1
        if shift == np.uint64(63) and byte > np.uint64(1):
            return np.int64(-_BAD_VARINT), np.int64(0)
        raw |= (byte & np.uint64(0x7F)) << shift
        shift += np.uint64(7)
    return pos, np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1))


@inline_always
def _utf8_tail(pos, end):  # type: ignore[no-untyped-def]
    """Whether the bytes from pos to end are UTF-8 (RFC 3629: shortest form, no surrogates, at most U+10FFFF)."""
    while pos < end:
        lead = load_u8(pos)
        pos += 1
        if lead < 0x80:
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = np.int64(1) if lead < 0xE0 else (np.int64(2) if lead < 0xF0 else np.int64(3))
        if end - pos < more:
            return False
        low = 0xA0 if lead == 0xE0 else (0x90 if lead == 0xF0 else 0x80)
        high = 0x9F if lead == 0xED else (0x8F if lead == 0xF4 else 0xBF)
        if load_u8(pos) < low or load_u8(pos) > high:
            return False
        for i in range(1, more):
            if load_u8(pos + i) & 0xC0 != 0x80:
                return False
        pos += more
    return True


@inline_always
def _is_utf8(buffer, pos, end):  # type: ignore[no-untyped-def]
    """Whether the bytes from pos to end are UTF-8: eight at a time as long as they are ASCII."""
    while end - pos >= 8:
        if load_u64(pos) & _HIGH_BITS:
            return _utf8_tail(pos, end)
        pos += 8
    if pos == end:
        return True
    if end - buffer < 8:
        return _utf8_tail(pos, end)
    last = load_u64(end - 8) >> np.uint64(8 * (8 - (end - pos)))  # without the bytes before pos
    return last & _HIGH_BITS == np.uint64(0) or _utf8_tail(pos, end)


@inline_always
def _read(buffer, pos, end, op, operand):  # type: ignore[no-untyped-def]
    """Read one scalar: (position after or -problem, value, start, length). Bits of floats stay where they are."""
    if op <= ENUM:
        after, value = varint(pos, end)
        if op == INT and after > 0 and (after - pos > 5 or value < -(1 << 31) or value >= 1 << 31):
            after = np.int64(-_BAD_VARINT)
        elif op == ENUM and after > 0 and (value < 0 or value >= operand):
            after = np.int64(-_BAD_ENUM)
        return after, value, pos, np.int64(0)
    if op <= BYTES:
        start, length = varint(pos, end)
        if start < 0:
            return start, length, pos, np.int64(0)
        if length < 0 or length > end - start:
            return np.int64(-_BAD_LENGTH), length, pos, np.int64(0)
        if op == STRING and not _is_utf8(buffer, start, start + length):
            return np.int64(-_BAD_UTF8), length, pos, np.int64(0)
        return start + length, length, start, length
    if operand > end - pos:
        return np.int64(-_TRUNCATED), np.int64(0), pos, np.int64(0)
    value = np.int64(0)
    if op == BOOLEAN:
        value = np.int64(load_u8(pos))
        if value > 1:
            return np.int64(-_BAD_BOOLEAN), value, pos, operand
    return pos + operand, value, pos, operand


@inline_always
def _store_text(op, constant, buffer, value, start, length, constants, ends, text_start, text_size, out, used):  # type: ignore[no-untyped-def]
    """Store the registers as a text in the cells text_start and text_size; how much of `out` is used after it."""
    if op == TEXT_SPAN:
        store_i64(text_start, start - buffer)
        store_i32(text_size, np.int32(length))
        return used
    if op in (TEXT_CONSTANT, TEXT_CONSTANT_COPY):
        first = load_i64(ends + 8 * (constant + value))
        length = load_i64(ends + 8 * (constant + value + 1)) - first
        start = constants + first
        if op == TEXT_CONSTANT:
            store_i64(text_start, first)
            store_i32(text_size, np.int32(length))
            return used
    if op == TEXT_DIGITS:
        length = write_digits(out + used, value)
    else:
        copy(out + used, start, length)
    store_i64(text_start, used)
    store_i32(text_size, np.int32(length))
    return used + length


@inline_always
def _decimal(start, length, scale):  # type: ignore[no-untyped-def]
    """(whether one division gives the nearest float64, it) for a big-endian decimal."""
    if length > 8 or scale > 22:
        return False, 0.0
    unscaled = np.int64(0)
    for i in range(length):
        unscaled = (unscaled << 8) | np.int64(load_u8(start + i))
    if length > 0 and length < 8 and load_u8(start) >= 0x80:
        unscaled -= np.int64(1) << (8 * length)
    return -_EXACT <= unscaled <= _EXACT, np.float64(unscaled) / _POWERS[scale]


@inline_always
def _store_number(op, value, start, length, scale, integer, real):  # type: ignore[no-untyped-def]
    """Store the registers as a number in the cell `integer` or `real`; false for a decimal left to the caller."""
    good = True
    if op == PUT_INTEGER:
        store_i64(integer, value)
    elif op == PUT_REAL:
        store_f64(real, np.float64(value))
    elif op == PUT_DOUBLE:
        store_f64(real, load_f64(start))
    elif op == PUT_FLOAT:
        store_f64(real, np.float64(load_f32(start)))
    else:
        good, nearest = _decimal(start, length, scale)
        store_f64(real, nearest if good else np.float64(scale))
    return good


@inline_always
def _next_block(pos, end, least, budget):  # type: ignore[no-untyped-def]
    """Read block headers up to one with items: (position after or -problem, items, block's end or 0, budget)."""
    while True:
        pos, count = varint(pos, end)
        if pos < 0 or count == 0:
            return pos, np.int64(0), np.int64(0), budget
        block_end = np.int64(0)
        room = end - pos
        if count < 0:
            pos, size = varint(pos, end)
            if pos < 0:
                return pos, np.int64(0), block_end, budget
            if size < 0 or size > end - pos:
                return np.int64(-_BAD_LENGTH), np.int64(0), block_end, budget
            room = size
            block_end = pos + size
            count = -count
        if least > 0:
            if count < 0 or count > room or count * least > room:
                return np.int64(-_TOO_MANY), np.int64(0), block_end, budget
            return pos, count, block_end, budget
        # Items without bytes: nothing to walk, but readers would make an object of each.
        if count < 0 or count > budget:
            return np.int64(-_TOO_MANY), np.int64(0), block_end, budget
        if block_end > pos:
            return np.int64(-_BAD_LENGTH), np.int64(0), block_end, budget
        budget -= count


@inline_always
def _frame(pos, end, ids, count, last):  # type: ignore[no-untyped-def]
    """Which of the sorted `ids` the frame at `pos` names: its index, or -problem. `last` is the guess to try first."""
    if end - pos < 5 or load_u8(pos) != 0:
        return np.int64(-_NOT_FRAMED)
    wanted = np.int64(0)
    for i in range(1, 5):
        wanted = (wanted << 8) | np.int64(load_u8(pos + i))
    if load_i64(ids + 8 * last) == wanted:
        return last
    low = np.int64(0)
    high = count
    while low < high:
        middle = (low + high) >> 1
        if load_i64(ids + 8 * middle) < wanted:
            low = middle + 1
        else:
            high = middle
    if low < count and load_i64(ids + 8 * low) == wanted:
        return low
    return np.int64(-_UNKNOWN)


@inline_always
def walk(  # type: ignore[no-untyped-def]
    program, pc, buffer, pos, end, row, rows, stack, constants, ends, text_start, text_size, out, used,
    integers, reals, valid, cuts, large
):  # fmt: skip
    """Run the program at `pc` over one value, whose cuts are at `cuts`: (0 or a problem, how much of `out` is used)."""
    first, top, budget = pos, stack, np.int64(EMPTY_ITEMS_MAX)
    value, start, length = np.int64(0), pos, np.int64(0)
    while True:
        op = load_i32(pc)
        a = np.int64(load_i32(pc + 4))
        b = np.int64(load_i32(pc + 8))
        pc += 4 * WIDTH
        if op <= FIXED:
            pos, value, start, length = _read(buffer, pos, end, op, a)
            if pos < 0:
                return -pos, used
        elif op <= TEXT_CONSTANT_COPY:
            cell = a * rows + row
            places = (text_start + 8 * cell, text_size + 4 * cell)
            used = _store_text(op, b, buffer, value, start, length, constants, ends, places[0], places[1], out, used)
        elif op <= PUT_DECIMAL:
            cell = a * rows + row
            scale = np.int64(load_i32(pc - 4))
            good = _store_number(op, value, start, length, scale, integers + 8 * cell, reals + 8 * cell)
            if not good:
                store_i64(text_start + 8 * (cell + large), start - buffer)
                store_i32(text_size + 4 * (cell + large), np.int32(length))
            store_u8(valid + b * rows + row, np.uint8(good))
        elif op == UNION:
            pos, value = varint(pos, end)
            if pos < 0:
                return -pos, used
            if value < 0 or value >= a:
                return np.int64(_BAD_UNION), used
            pc = program + 4 * np.int64(load_i32(pc + 4 * value))
        elif op == CUT:
            store_i32(cuts + 4 * a, np.int32(pos - first))
        elif op == JUMP:
            pc = program + 4 * a
        elif op == NEXT:
            left = load_i64(top - 16)
            if left > 0:
                store_i64(top - 16, left - 1)
                continue
            block_end = load_i64(top - 8)
            if block_end > 0 and block_end != pos:
                return np.int64(_BAD_LENGTH), used
            pos, left, block_end, budget = _next_block(pos, end, a, budget)
            if pos < 0:
                return -pos, used
            if left == 0:
                top -= 16
                pc = program + 4 * b
            else:
                store_i64(top - 16, left - 1)
                store_i64(top - 8, block_end)
        elif op == RETURN:
            top -= 16
            pc = load_i64(top)
        elif op == END:
            return np.int64(0 if pos == end else _TRAILING), used
        else:
            if top == stack + 16 * DEPTH_MAX:
                return np.int64(_TOO_DEEP), used
            store_i64(top, np.int64(0) if op == BLOCKS else pc)
            store_i64(top + 8, np.int64(0))
            top += 16
            if op == CALL:
                pc = program + 4 * a


@kernel(
    types.int64(
        U8, I64, I32, I32, I32, I64, U8, I64, I64_OUT, I32_OUT, U8_OUT,
        I64_OUT, F64_OUT, B1_OUT, I32_OUT, I16_OUT, I16_OUT,
    )
)  # fmt: skip
def project(  # type: ignore[no-untyped-def]
    buffer, starts, sizes, program, entries, ids, constants, ends, text_start, text_size, out,
    integers, reals, valid, cuts, problem, schema
):  # fmt: skip
    """Decode and check n values; how many bytes of `out` were written.

    entries: int32[s], where each schema's program begins; ids: int64[s] ascending, or empty if values are bare.
    constants, ends: the texts of booleans and enum symbols; the i-th is constants[ends[i]:ends[i + 1]]. Columns lie one
    after the other, n cells each: text_start and text_size (filled with null), integers, reals, valid (filled with
    zeros). cuts: int32[n * c], filled with zeros, counted from the start of a value's body. schema: int16[n], where
    values are bare filled with the number of the schema of each.
    A decimal that needs more than one division of float64 is left to the caller: not valid, its scale in `reals`, its
    bytes in a text slot: as many slots from the end of the texts as the column from the end of the reals.
    """
    rows = np.int64(len(starts))
    used = np.int64(0)
    last = np.int64(0)
    if rows == 0:
        return used
    stack = np.empty(2 * DEPTH_MAX, np.int64)
    texts = np.int64(len(text_size)) // rows
    cut_count = np.int64(len(cuts)) // rows
    large = (texts - np.int64(len(reals)) // rows) * rows
    base = address(buffer)
    for row in range(rows):
        said = np.int64(schema[row])
        schema[row] = -1
        if sizes[row] < 0:
            problem[row] = _TOMBSTONE
            continue
        if starts[row] < 0 or starts[row] + sizes[row] > len(buffer):
            problem[row] = _TRUNCATED
            continue
        first = base + starts[row]
        end = first + np.int64(sizes[row])
        pos = first
        if len(ids) > 0:
            found = _frame(first, end, address(ids), np.int64(len(ids)), last)
            if found < 0:
                problem[row] = -found
                continue
            last = found
            pos = first + FRAME_SIZE
        else:
            last = said
        schema[row] = last
        code, written = walk(
            address(program), address(program) + 4 * np.int64(entries[last]), base, pos, end, row, rows, address(stack),
            address(constants), address(ends), address(text_start), address(text_size), address(out), used,
            address(integers), address(reals), address(valid), address(cuts) + 4 * row * cut_count, large
        )  # fmt: skip
        problem[row] = code
        if code == 0:
            used = written
            continue
        for cell in range(row, len(text_size), rows):
            text_start[cell] = 0
            text_size[cell] = _NULL
        for cell in range(row, len(integers), rows):
            integers[cell] = 0
        for cell in range(row, len(reals), rows):
            reals[cell] = 0.0
        for cell in range(row, len(valid), rows):
            valid[cell] = False
        for cut in range(row * cut_count, (row + 1) * cut_count):
            cuts[cut] = 0
    return used


@kernel(types.int64(U8, I64, I64, B1, I32, I64_OUT, I32_OUT, U8_OUT))
def splice(buffer, starts, rows, ok, cuts, out_start, out_size, out):  # type: ignore[no-untyped-def]
    """Copy the kept runs of the values at `rows` to `out`, one value after the other; how many bytes that took.

    starts: int64[n], where the values' bodies start, after any frame; ok: bool[n]; cuts: int32[n * c], begin and end of
    each run. out_start, out_size: of each of the rows, its size null where it is not ok. `out` has room for all of them
    whole.
    """
    used = np.int64(0)
    if len(starts) == 0:
        return used
    cut_count = np.int64(len(cuts)) // len(starts)
    for i in range(len(rows)):
        row = rows[i]
        out_start[i] = used
        if not ok[row]:
            out_size[i] = _NULL
            continue
        for cut in range(row * cut_count, (row + 1) * cut_count, 2):
            size = np.int64(cuts[cut + 1] - cuts[cut])
            copy(address(out) + used, address(buffer) + starts[row] + cuts[cut], size)
            used += size
        out_size[i] = used - out_start[i]
    return used
